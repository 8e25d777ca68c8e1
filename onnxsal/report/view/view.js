// The page: a picture in, prediction and maps out. Text that comes from files is only ever set as text.
const { given, whole } = (() => {
  "use strict";
  const arrived = new Map(), waiting = new Map();

  // Called by the scripts that hold the files: a name, and the bytes, compressed and in base64.
  function given(name, text) {
    arrived.set(name, text);
    waiting.get(name)?.();
  }

  function bytes(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const binary = atob(text), found = new Uint8Array(binary.length);
    for (let i = 0; i < binary.length; i++) found[i] = binary.charCodeAt(i);
    return found;
  }

  async function whole(name) {
    if (!arrived.has(name)) await new Promise((done) => waiting.set(name, done));
    const packed = new Blob([bytes(arrived.get(name))]);
    arrived.set(name, "");
    return new Uint8Array(await new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
  }

  return { given, whole };
})();

(() => {
  "use strict";
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const at = (id) => document.getElementById(id);
  const made = (tag, text, attributes = {}) => {
    const found = document.createElement(tag);
    if (text) found.textContent = text;
    for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
    return found;
  };
  const models = facts.models.map((model, i) => ({ ...model, number: i, shown: true, session: null, answer: null, image: null, opened: 0 }));
  const state = { picture: null, target: -1, ort: null, backend: facts.runtime.webgpu && navigator.gpu ? "webgpu" : "wasm", run: 0, best: [] };
  const say = (text, bad = false) => { at("status").textContent = text; at("status").className = bad ? "bad" : ""; };
  const label = (i) => (facts.labels[i] === undefined ? `class ${i}` : facts.labels[i]);
  const number = (x) => (Math.abs(x) >= 1e-3 && Math.abs(x) < 1e5 ? Number(x.toPrecision(4)).toString() : x.toExponential(2));
  const seconds = (ms) => (ms < 995 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);

  // ----- the runtime -----

  async function runtime() {
    if (state.ort) return state.ort;
    say("Opening ONNX Runtime …");
    const begin = performance.now(), [script, binary] = [await whole("runtime.script"), await whole("runtime.binary")];
    const address = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
    state.ort = await import(address);
    state.ort.env.logLevel = "error";
    state.ort.env.wasm.wasmBinary = binary;
    state.ort.env.wasm.numThreads = window.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
    facts.measured = { runtime: performance.now() - begin };
    return state.ort;
  }

  async function opened(model) {
    if (model.session) return model.session;
    const ort = await runtime();
    model.bytes = model.bytes || (await whole(`model.${model.number}`));
    say(`Opening ${model.file} …`);
    const begin = performance.now();
    try {
      model.session = await ort.InferenceSession.create(model.bytes, { executionProviders: [state.backend] });
    } catch (error) {
      if (state.backend !== "webgpu") throw error;
      toProcessor(model, error);
      model.session = await ort.InferenceSession.create(model.bytes, { executionProviders: ["wasm"] });
    }
    model.opened = performance.now() - begin;
    return model.session;
  }

  // What WebGPU cannot run is run on the CPU, and said to be.
  function toProcessor(model, error) {
    state.backend = "wasm";
    at("backend").value = "wasm";
    models.forEach((m) => { m.session?.release(); m.session = null; });
    model.note = `WebGPU cannot run this file (${error.message || error})`;
  }

  // ----- a run -----

  async function answer(model) {
    try {
      await answered(model);
    } catch (error) {
      if (state.backend !== "webgpu") throw error;
      toProcessor(model, error);
      await answered(model);
    }
  }

  async function answered(model) {
    const session = await opened(model), { Tensor } = state.ort, how = model.preprocess;
    model.image = Pixels.seen(state.picture, how);
    const { data, dims } = Pixels.fed(model.image, how), feeds = { [model.input]: new Tensor(model.type, data, dims) };
    if (model.target) feeds[model.target] = new Tensor("int64", BigInt64Array.from([BigInt(state.target)]), [1]);
    const wanted = Object.values(model.outputs).filter((name) => session.outputNames.includes(name)), begin = performance.now();
    const found = await session.run(feeds, wanted), values = {};
    for (const [what, name] of Object.entries(model.outputs)) if (found[name]) values[what] = { data: await found[name].getData(), dims: found[name].dims };
    model.answer = { values, ms: performance.now() - begin };
    model.maps = {};
  }

  async function explain() {
    if (!state.picture) return;
    const run = ++state.run, shown = models.filter((m) => m.shown);
    document.body.setAttribute("aria-busy", "true");
    try {
      for (const model of shown) {
        say(`Running ${model.file} …`);
        await new Promise((done) => setTimeout(done));
        if (run !== state.run) return;
        await state.last;
        state.last = answer(model);
        await state.last;
        if (run !== state.run) return;
        if (model === shown[0]) listClasses(model);
        draw(model);
      }
      const first = shown[0], moved = Number(first.answer.values.explained_class.data[0]);
      say(moved === -2 ? "There is no such class." : `Explained: ${label(moved)}. ${shown.length > 1 ? `${shown.length} methods, ` : ""}${seconds(shown.reduce((sum, m) => sum + m.answer.ms, 0))}.`, moved === -2);
      facts.done = run;
    } catch (error) {
      state.last = null;
      say(`It cannot be run here: ${error.message || error}`, true);
    } finally {
      if (run === state.run) document.body.removeAttribute("aria-busy");
    }
  }

  // ----- classes -----

  function shares(model) {
    const own = Array.from(model.answer.values.scores.data, Number), scores = model.binary && own.length === 1 ? [1 - own[0], own[0]] : own;
    const sum = scores.reduce((a, b) => a + b, 0), probable = scores.every((s) => s >= 0 && s <= 1) && Math.abs(sum - 1) < 0.01;
    if (probable || model.binary) return { scores, shares: scores, told: "probability" };
    const most = Math.max(...scores), powers = scores.map((s) => Math.exp(s - most)), whole = powers.reduce((a, b) => a + b, 0);
    return { scores, shares: powers.map((p) => p / whole), told: "softmax of the scores" };
  }

  function listClasses(model) {
    const { scores, shares: parts, told } = shares(model), explained = Number(model.answer.values.explained_class.data[0]);
    state.best = scores.map((_, i) => i).sort((a, b) => scores[b] - scores[a]).slice(0, 5);
    const listed = state.best.includes(explained) || explained < 0 ? state.best : [...state.best, explained];
    const focused = document.activeElement?.name === "target", top = at("top");
    top.replaceChildren(made("small", `Best classes, ${told}`));
    for (const i of listed) {
      const row = made("label", "", { class: "class" }), choice = made("input", "", { type: "radio", name: "target", value: String(i) });
      choice.checked = i === explained;
      choice.disabled = !models.some((m) => m.target);
      choice.addEventListener("change", () => aim(i));
      const bar = made("div", "", { class: "bar", "aria-hidden": "true" });
      bar.style.width = `${Math.max(0, Math.min(1, parts[i])) * 100}%`;
      row.append(choice, made("span", label(i)), made("span", `${(100 * parts[i]).toFixed(1)} %`), bar);
      row.title = `score ${number(scores[i])}`;
      top.append(row);
      if (focused && choice.checked) choice.focus();
    }
    at("other-row").hidden = !models.some((m) => m.target);
    at("built-in").hidden = models.every((m) => m.target);
  }

  function aim(target) {
    state.target = target;
    explain();
  }

  function named(text) {
    const word = text.trim().toLowerCase(), exact = facts.labels.findIndex((name) => name.toLowerCase() === word);
    if (exact >= 0) return exact;
    const part = facts.labels.findIndex((name) => name.toLowerCase().split(",").some((p) => p.trim() === word));
    return part >= 0 ? part : /^\d+$/.test(word) ? Number(word) : -1;
  }

  // ----- maps -----

  const signedShown = () => at("kind").value === "signed";

  function mapOf(model) {
    const kind = signedShown() && model.answer.values.attribution ? "signed" : "map";
    if (!model.maps[kind]) {
      const { attribution, saliency_map: map } = model.answer.values, signed = kind === "signed" || map.data.some((v) => v < 0);
      const values = kind === "signed" ? Pixels.summed(attribution.data, attribution.dims, model.preprocess.layout) : map.data;
      model.maps[kind] = Pixels.scaled(values, signed, facts.percentile, facts.noise);
    }
    return model.maps[kind];
  }

  function draw(model) {
    if (!model.answer) return;
    const { canvas, text } = model.figure, { image } = model, { values } = model.answer;
    const explained = Number(values.explained_class.data[0]), lost = explained === -2;
    const map = lost ? null : mapOf(model), table = facts.tables[map?.signed ? "diverging" : "heat"];
    canvas.width = image.width;
    canvas.height = image.height;
    const pixels = Pixels.overlaid(image, at("on").checked ? map : null, table, Number(at("opacity").value));
    canvas.getContext("2d").putImageData(new ImageData(pixels, image.width, image.height), 0, 0);
    const told = [`score ${number(values.explained_score.data[0])}`];
    if (values.compared_class) told.push(`rather than ${label(Number(values.compared_class.data[0]))}`);
    if (values.residual) told.push(`left unexplained ${number(values.residual.data[0])}`);
    if (values.reached) told.push(`reaches the picture ${(100 * values.reached.data[0]).toFixed(0)} %`);
    told.push(`${seconds(model.answer.ms)} on ${state.backend === "webgpu" ? "WebGPU" : "the CPU (wasm)"}`);
    if (map?.flat) told.push("the map is the same everywhere: it says nothing");
    if (model.note) told.push(model.note);
    text.textContent = `${lost ? "no such class" : label(explained)}: ${told.join("; ")}.`;
    canvas.setAttribute("aria-label", `${model.title}: the map for ${label(explained)} over the picture. ${where(map)}`);
    legend(table, map?.signed);
    about();
  }

  // The strongest place in words, for who cannot see it.
  function where(map) {
    if (!map || map.flat) return "";
    const image = models.find((m) => m.image).image;
    let x = 0, y = 0, sum = 0;
    map.values.forEach((v, i) => { const weight = Math.max(0, v) ** 2; sum += weight; x += weight * (i % image.width); y += weight * Math.floor(i / image.width); });
    if (!sum) return "";
    const across = ["left", "middle", "right"][Math.min(2, Math.floor((3 * x) / sum / image.width))], down = ["top", "middle", "bottom"][Math.min(2, Math.floor((3 * y) / sum / image.height))];
    return `It is centred at the ${down === across ? "middle" : `${down} ${across}`} of the picture.`;
  }

  function legend(table, signed) {
    const bar = at("bar"), { ink, cover } = table, pixels = new ImageData(256, 1);
    for (let x = 0; x < 256; x++) {
      const i = Math.round((x / 255) * (cover.length - 1));
      for (let c = 0; c < 3; c++) pixels.data[4 * x + c] = ink[i][c] + (1 - cover[i]) * 160;
      pixels.data[4 * x + 3] = 255;
    }
    bar.getContext("2d").putImageData(pixels, 0, 0);
    at("low").textContent = signed ? "against" : "weak";
    at("high").textContent = signed ? "for" : "strong";
  }

  function about() {
    const threads = state.ort?.env.wasm.numThreads || 1, opening = models.filter((m) => m.opened).map((m) => seconds(m.opened)).join(", ");
    at("about").textContent = `${threads} thread${threads > 1 ? "s" : ""} on the CPU; opened in ${opening}.`;
  }

  // ----- pictures -----

  async function take(blob, name) {
    try {
      const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
      const canvas = made("canvas"), pen = (canvas.width = bitmap.width, canvas.height = bitmap.height, canvas.getContext("2d", { willReadFrequently: true }));
      pen.fillStyle = "white";
      pen.fillRect(0, 0, bitmap.width, bitmap.height);
      pen.drawImage(bitmap, 0, 0);
      state.picture = pen.getImageData(0, 0, bitmap.width, bitmap.height);
      bitmap.close();
    } catch (error) {
      return say(`${name} is no picture that this browser reads.`, true);
    }
    state.target = -1;
    return explain();
  }

  function cameraOff() {
    at("video").srcObject?.getTracks().forEach((track) => track.stop());
    at("video").srcObject = null;
    at("video").hidden = at("take").hidden = true;
  }

  async function cameraOn() {
    try {
      const video = at("video");
      video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
      video.hidden = at("take").hidden = false;
      await video.play();
      at("take").focus();
    } catch (error) {
      say(`There is no camera to be had: ${error.message}`, true);
    }
  }

  async function snap() {
    const video = at("video"), canvas = made("canvas");
    canvas.width = video.videoWidth;
    canvas.height = video.videoHeight;
    canvas.getContext("2d").drawImage(video, 0, 0);
    cameraOff();
    canvas.toBlob((blob) => take(blob, "What the camera saw"));
  }

  function pictures() {
    const give = at("give"), drop = (event) => { event.preventDefault(); give.classList.toggle("over", event.type === "dragover"); };
    at("file").addEventListener("change", (event) => event.target.files[0] && take(event.target.files[0], event.target.files[0].name));
    for (const type of ["dragover", "dragleave", "drop"]) document.addEventListener(type, drop);
    document.addEventListener("drop", (event) => event.dataTransfer.files[0] && take(event.dataTransfer.files[0], event.dataTransfer.files[0].name));
    document.addEventListener("paste", (event) => { const file = [...event.clipboardData.files][0]; if (file) take(file, "What was pasted"); });
    at("camera").hidden = !navigator.mediaDevices?.getUserMedia;
    at("camera").addEventListener("click", cameraOn);
    at("take").addEventListener("click", snap);
  }

  // ----- controls -----

  function keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key], movable = models.some((m) => m.target) && state.best.length;
    if (step && movable) {
      const now = Math.max(0, state.best.indexOf(state.target));
      aim(state.best[(now + step + state.best.length) % state.best.length]);
      event.preventDefault();
    } else if (event.key === "0" && movable) aim(-1);
    else if (event.key.toLowerCase() === "m") { at("on").checked = !at("on").checked; models.forEach(draw); }
  }

  function figure(model) {
    const box = made("figure"), canvas = made("canvas", "", { role: "img", "aria-label": `${model.title}: no picture yet`, width: "224", height: "224" });
    const text = made("span", "no picture yet"), caption = made("figcaption");
    caption.append(made("strong", model.title), made("br"), text);
    box.append(canvas, caption);
    model.figure = { box, canvas, text };
    at("figures").append(box);
  }

  function methods() {
    at("methods-box").hidden = models.length < 2;
    for (const model of models) {
      const row = made("div", "", { class: "row" }), box = made("input", "", { type: "checkbox", id: `method-${model.number}` });
      box.checked = true;
      box.addEventListener("change", () => {
        model.shown = box.checked;
        model.figure.box.hidden = !box.checked;
        if (models.some((m) => m.shown)) explain();
      });
      row.append(box, made("label", `${model.title} (${model.file})`, { for: box.id }));
      at("methods").append(row);
    }
  }

  function controls() {
    for (const id of ["on", "kind"]) at(id).addEventListener("change", () => models.forEach(draw));
    at("opacity").addEventListener("input", () => { at("opacity-told").textContent = `${Math.round(at("opacity").value * 100)} %`; models.forEach(draw); });
    at("labels").append(...facts.labels.map((name) => made("option", "", { value: name })));
    const go = () => { const i = named(at("other").value); if (i < 0) say(`No class is called ${at("other").value}.`, true); else aim(i); };
    at("go").addEventListener("click", go);
    at("other").addEventListener("keydown", (event) => event.key === "Enter" && go());
    const backends = { wasm: "CPU (wasm)", ...(facts.runtime.webgpu && navigator.gpu ? { webgpu: "WebGPU" } : {}) };
    at("backend").append(...Object.entries(backends).map(([value, text]) => made("option", text, { value })));
    at("backend").value = state.backend;
    at("backend").addEventListener("change", () => { state.backend = at("backend").value; models.forEach((m) => { m.session?.release(); m.session = null; m.note = ""; }); explain(); });
    document.addEventListener("keydown", keys);
  }

  models.forEach(figure);
  methods();
  controls();
  pictures();
  legend(facts.tables.heat, false);
  if (facts.picture) whole("picture").then((data) => take(new Blob([data]), "The picture of this page"));
})();
