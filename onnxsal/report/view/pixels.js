// Pictures as a model sees them, and maps as people see them: what onnxsal/runtime/preprocess.py and heatmap.py do, for a browser.
// A picture is {width, height, data}: RGBA bytes as a canvas gives them, or with {depth}: 1 or 3 bytes for each pixel.
const Pixels = (() => {
  "use strict";
  const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
  const cubic = (x) => (x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0);
  const FILTERS = {
    box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
    bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
    hamming: [1, (x) => (Math.abs(x) >= 1 ? 0 : sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)))],
    bicubic: [2, (x) => cubic(Math.abs(x))],
    lanczos: [3, (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
  };
  const BITS = 22; // Pillow multiplies bytes with whole numbers: weights in steps of 2^-22

  // Half a pixel goes to the even side, as Python rounds.
  function rounded(x) {
    const low = Math.floor(x), rest = x - low;
    return rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low;
  }

  // For each place of the result, where it begins to look, and with which weights: wider windows where the picture shrinks.
  function windows(before, after, filter) {
    const [reach, weigh] = FILTERS[filter], scale = before / after, wide = Math.max(scale, 1), support = reach * wide;
    return Array.from({ length: after }, (_, place) => {
      const centre = (place + 0.5) * scale;
      const first = Math.max(0, Math.trunc(centre - support + 0.5)), last = Math.min(before, Math.trunc(centre + support + 0.5));
      const weights = [];
      for (let x = first; x < last; x++) weights.push(weigh((x - centre + 0.5) * (1 / wide)));
      const sum = weights.reduce((a, b) => a + b, 0);
      return [first, weights.map((w) => { const part = (sum === 0 ? w : w / sum) * 2 ** BITS; return Math.trunc(part + (part < 0 ? -0.5 : 0.5)); })];
    });
  }

  // Resample one axis: `outer` lines of `before` cells of `inner` bytes each.
  function along(data, outer, before, after, inner, filter) {
    const found = new Uint8ClampedArray(outer * after * inner), looks = windows(before, after, filter);
    for (let o = 0; o < outer; o++)
      for (let place = 0; place < after; place++) {
        const [first, weights] = looks[place];
        for (let i = 0; i < inner; i++) {
          let sum = 2 ** (BITS - 1);
          for (let k = 0; k < weights.length; k++) sum += data[(o * before + first + k) * inner + i] * weights[k];
          found[(o * after + place) * inner + i] = sum >> BITS;
        }
      }
    return found;
  }

  function nearest(image, height, width) {
    const { depth } = image, data = new Uint8ClampedArray(height * width * depth);
    const places = (before, after) => { const step = before / after, found = []; let x = step * 0.5; for (let i = 0; i < after; i++, x += step) found.push(Math.min(before - 1, Math.trunc(x))); return found; };
    const rows = places(image.height, height), columns = places(image.width, width);
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++)
        for (let c = 0; c < depth; c++) data[(y * width + x) * depth + c] = image.data[(rows[y] * image.width + columns[x]) * depth + c];
    return { width, height, depth, data };
  }

  function resize(image, height, width, filter) {
    if (filter === "nearest") return nearest(image, height, width);
    let { data } = image;
    const { depth } = image;
    // The width goes first, unless the height loses more than twice as many rows: so Pillow 13, and bytes are rounded between.
    const lost = image.height - height, tall = lost > 0 && lost > 2 * (image.width - width);
    const across = (rows) => { if (width !== image.width) data = along(data, rows, image.width, width, depth, filter); };
    if (!tall) across(image.height);
    if (height !== image.height) data = along(data, 1, image.height, height, (tall ? image.width : width) * depth, filter);
    if (tall) across(height);
    return { width, height, depth, data };
  }

  function centre(image, height, width) {
    if (height > image.height || width > image.width) throw new Error(`a crop of ${height}x${width} does not fit into ${image.height}x${image.width}`);
    const { depth } = image, top = rounded((image.height - height) / 2), left = rounded((image.width - width) / 2);
    const data = new Uint8ClampedArray(height * width * depth);
    for (let y = 0; y < height; y++) {
      const begin = ((top + y) * image.width + left) * depth;
      data.set(image.data.subarray(begin, begin + width * depth), y * width * depth);
    }
    return { width, height, depth, data };
  }

  // RGBA as RGB, or as the grey that Pillow's "L" is.
  function plain(picture, grey) {
    const count = picture.width * picture.height, depth = grey ? 1 : 3, data = new Uint8ClampedArray(count * depth), from = picture.data;
    for (let i = 0; i < count; i++) {
      const [r, g, b] = [from[4 * i], from[4 * i + 1], from[4 * i + 2]];
      if (grey) data[i] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
      else data.set([r, g, b], 3 * i);
    }
    return { width: picture.width, height: picture.height, depth, data };
  }

  // The cut and resized picture that the model sees.
  function seen(picture, how) {
    let image = plain(picture, how.channels === "GRAY");
    const target = how.crop || (Array.isArray(how.resize) ? how.resize : null);
    if (how.crop_pct !== null) {
      const [rows, columns] = target || [image.height, image.width], unit = Math.min(image.height / rows, image.width / columns) * how.crop_pct;
      image = centre(image, Math.max(1, rounded(rows * unit)), Math.max(1, rounded(columns * unit)));
    }
    if (how.resize !== null) {
      const { width, height } = image, side = how.resize;
      const size = Array.isArray(side) ? side : height <= width ? [side, Math.trunc((side * width) / height)] : [Math.trunc((side * height) / width), side];
      image = resize(image, size[0], size[1], how.interpolation);
    }
    return how.crop === null ? image : centre(image, how.crop[0], how.crop[1]);
  }

  const ARRAYS = { float32: Float32Array, float64: Float64Array, uint8: Uint8Array };

  // What is fed: (pixel * scale - mean) / std in the layout of the model, as {data, dims}.
  function fed(image, how) {
    const { width, height, depth, data } = image, places = width * height, found = new ARRAYS[how.dtype](places * depth);
    const each = (values) => (values.length === 1 ? Array(depth).fill(values[0]) : values), mean = each(how.mean), std = each(how.std);
    for (let c = 0; c < depth; c++) {
      const from = how.channels === "BGR" ? depth - 1 - c : c;
      for (let i = 0; i < places; i++) {
        const value = data[i * depth + from], at = how.layout === "NHWC" ? i * depth + c : c * places + i;
        found[at] = how.dtype === "uint8" ? value : (value * how.scale - mean[c]) / std[c];
      }
    }
    return { data: found, dims: how.layout === "NHWC" ? [1, height, width, depth] : [1, depth, height, width] };
  }

  function percentile(sorted, share) {
    const at = (sorted.length - 1) * (share / 100), low = Math.floor(at), rest = at - low;
    const a = sorted[low], b = sorted[Math.min(low + 1, sorted.length - 1)];
    return rest < 0.5 ? a + (b - a) * rest : b - (b - a) * (1 - rest);
  }

  // A map scaled by its own values to -1..1 (signed) or 0..1; `flat` where it says nothing.
  function scaled(values, signed, share, noise) {
    const data = Float64Array.from(values);
    let lowest = Infinity, highest = -Infinity;
    for (const v of data) { if (!Number.isFinite(v)) throw new Error("the map has values that are no numbers"); lowest = Math.min(lowest, v); highest = Math.max(highest, v); }
    if (highest - lowest <= noise * Math.max(Math.abs(lowest), Math.abs(highest))) return { values: data.fill(0), signed, flat: true };
    const sorted = (signed ? data.map(Math.abs) : data.slice()).sort();
    let high = percentile(sorted, share);
    if (signed) { high = high || sorted[sorted.length - 1]; return { values: data.map((v) => Math.max(-1, Math.min(1, v / high))), signed, flat: false }; }
    high = high > lowest ? high : highest;
    return { values: data.map((v) => Math.max(0, Math.min(1, (v - lowest) / (high - lowest)))), signed, flat: false };
  }

  // RGBA bytes of a picture under a map. A table has, for evenly spaced values, the colour that is added and how far it covers.
  function overlaid(image, map, table, opacity) {
    const count = image.width * image.height, found = new Uint8ClampedArray(4 * count), last = table.cover.length - 1;
    for (let i = 0; i < count; i++) {
      const at = map === null ? 0 : Math.round((map.signed ? (map.values[i] + 1) / 2 : map.values[i]) * last), share = map === null || map.flat ? 0 : opacity;
      for (let c = 0; c < 3; c++) found[4 * i + c] = share * table.ink[at][c] + (1 - share * table.cover[at]) * image.data[i * image.depth + (image.depth === 1 ? 0 : c)];
      found[4 * i + 3] = 255;
    }
    return found;
  }

  // The signed sum over the channels of an attribution.
  function summed(values, dims, layout) {
    const last = layout === "NHWC", depth = last ? dims[3] : dims[1], places = values.length / depth, found = new Float64Array(places);
    for (let c = 0; c < depth; c++) for (let i = 0; i < places; i++) found[i] += values[last ? i * depth + c : c * places + i];
    return found;
  }

  return { resize, seen, fed, scaled, overlaid, summed, rounded };
})();
