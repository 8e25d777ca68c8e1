(function () {
  "use strict";
  const $ = (id) => document.getElementById(id);
  const gallery = $("gallery");
  const cards = Array.from(gallery.children);
  const choices = Array.from(document.querySelectorAll("select.choice"));

  function show() {
    const words = $("q").value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const card of cards) {
      const fits = words.every((w) => card.dataset.text.includes(w)) && choices.every((c) => !c.value || card.dataset[c.id] === c.value);
      card.hidden = !fits;
      shown += fits;
    }
    const many = $("count").dataset.many;
    $("count").textContent = shown === cards.length ? shown + " " + many : shown + " of " + cards.length + " " + many + " shown";
  }

  function order() {
    const [key, way] = $("order").value.split(":");
    const text = key === "name";
    const value = (card) => (text ? card.dataset.name : parseFloat(card.dataset[key]));
    const sorted = cards.slice().sort((a, b) => compare(value(a), value(b), Number(way)) || a.dataset.at - b.dataset.at);
    gallery.append(...sorted);
  }

  // What has no value comes last, whichever the direction.
  function compare(a, b, way) {
    const none = (v) => v === "" || (typeof v === "number" && isNaN(v));
    if (none(a) || none(b)) return none(a) - none(b);
    return way * (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  }

  $("q").addEventListener("input", show);
  for (const c of choices) c.addEventListener("change", show);
  $("order").addEventListener("change", order);
  $("reset").addEventListener("click", () => {
    for (const c of [$("q"), ...choices]) c.value = "";
    $("order").selectedIndex = 0;
    show();
    order();
  });

  // "Show" beside a cluster sets the filter to it, and nothing else.
  for (const button of document.querySelectorAll("button.choose")) {
    button.addEventListener("click", () => {
      for (const c of [$("q"), ...choices]) c.value = "";
      const choice = $(button.dataset.choice);
      choice.value = button.value;
      show();
      choice.scrollIntoView({ block: "start" });
      choice.focus();
    });
  }

  if ($("mix")) $("mix").addEventListener("input", (e) => {
    for (const slider of gallery.querySelectorAll(".one")) slider.value = e.target.value;
    for (const card of cards) card.style.removeProperty("--mix");
    gallery.style.setProperty("--mix", e.target.value / 100);
  });
  gallery.addEventListener("input", (e) => {
    if (e.target.classList.contains("one")) e.target.closest(".card").style.setProperty("--mix", e.target.value / 100);
  });

  // A link to a card that a filter hides shows it.
  function reveal() {
    const card = location.hash.startsWith("#p") && document.getElementById(location.hash.slice(1));
    if (card && card.hidden) {
      $("reset").click();
      card.scrollIntoView();
    }
  }
  addEventListener("hashchange", reveal);

  const cell = (row, i, kind) => {
    const td = row.cells[i];
    const text = td.dataset.value === undefined ? td.textContent.trim() : td.dataset.value;
    return kind === "number" ? parseFloat(text.replace(/\u202f/g, "")) : text;
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = Array.from(table.tHead.rows[0].cells);
    heads.forEach((head, i) => {
      head.querySelector("button").addEventListener("click", () => {
        const way = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach((h) => h.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
        const rows = Array.from(table.tBodies[0].rows);
        rows.sort((a, b) => compare(cell(a, i, head.dataset.kind), cell(b, i, head.dataset.kind), way));
        table.tBodies[0].append(...rows);
      });
    });
  }
})();
