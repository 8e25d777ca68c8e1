"use strict";
const root = document.documentElement.style, body = document.body, dialog = document.querySelector("dialog"), large = document.getElementById("large");
for (const input of document.querySelectorAll("[name=view]")) input.addEventListener("change", () => { body.dataset.view = input.value; });
document.getElementById("opacity").addEventListener("input", e => root.setProperty("--opacity", e.target.value / 100));
document.getElementById("size").addEventListener("input", e => root.setProperty("--size", `${e.target.value}px`));
for (const box of document.querySelectorAll(".column")) box.addEventListener("change", () => {
  for (const tile of document.querySelectorAll(`.c${box.value}`)) tile.hidden = !box.checked;
});
let width = 0;
const zoom = factor => { width = Math.min(6000, Math.max(100, width * factor)); large.firstElementChild.style.width = `${width}px`; };
for (const tile of document.querySelectorAll("figure .tile")) tile.addEventListener("click", () => {
  const copy = document.createElement("div");
  copy.className = tile.className;
  copy.append(...[...tile.children].map(child => child.cloneNode(true)));
  large.replaceChildren(copy);
  document.getElementById("what").textContent = tile.getAttribute("aria-label").replace(/, enlarge$/, "");
  dialog.showModal();
  const [across, down] = getComputedStyle(tile).aspectRatio.split("/").map(Number);
  width = Math.min(large.clientWidth, large.clientHeight * across / down);
  zoom(1);
});
for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoom(Number(button.dataset.zoom)));
large.addEventListener("wheel", e => { if (e.ctrlKey || !large.matches(":has(> :hover)")) return; e.preventDefault(); zoom(e.deltaY < 0 ? 1.15 : 1 / 1.15); }, { passive: false });
