// node explain.mjs explained.onnx [input.bin [class]]: what a converted model answers, as JSON. input.bin: float32, as the model is fed.
import { readFileSync, writeFileSync } from "node:fs";
import { InferenceSession, Tensor } from "onnxruntime-node";

const [model, input, chosen = "-1"] = process.argv.slice(2);
const session = await InferenceSession.create(model);
const [picture] = session.inputMetadata;
const dims = picture.shape.map((size) => (typeof size === "number" && size > 0 ? size : 1)); // one sample, where the batch is open
const values = new Float32Array(dims.reduce((a, b) => a * b, 1));
if (input) values.set(new Float32Array(new Uint8Array(readFileSync(input)).buffer));

const feeds = { [picture.name]: new Tensor("float32", values, dims) };
if (session.inputNames.includes("target")) feeds.target = new Tensor("int64", BigInt64Array.of(BigInt(chosen)), [1]); // -1: the predicted one
const { explained_class, explained_score, saliency_map, residual } = await session.run(feeds);

writeFileSync("saliency_map.bin", new Uint8Array(saliency_map.data.buffer, saliency_map.data.byteOffset, saliency_map.data.byteLength));
console.log(JSON.stringify({
  class: Number(explained_class.data[0]),
  score: explained_score.data[0],
  residual: residual ? residual.data[0] : null,
  map: saliency_map.dims,
  sum: saliency_map.data.reduce((a, b) => a + b, 0),
}));
