// Runs ONNX models in onnxruntime-node or onnxruntime-web: node run.mjs FOLDER PACKAGE REQUEST ANSWER
// FOLDER holds node_modules. REQUEST and ANSWER are JSON files: [{model, feeds: [{name: tensor}]}] and [{inputs, answers: [{name: tensor} or text]}],
// where a tensor is {type, dims, data} and its data are bytes in base64 (JSON knows no NaN and no 64-bit integers).
import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

const [folder, name, request, answer] = process.argv.slice(2);
const ort = createRequire(join(folder, "package.json"))(name);
ort.env.wasm.numThreads = 1;
const ARRAYS = { float32: Float32Array, int64: BigInt64Array };

function read({ type, dims, data }) {
  const bytes = Uint8Array.from(Buffer.from(data, "base64"));
  return new ort.Tensor(type, new ARRAYS[type](bytes.buffer), dims);
}

function write({ type, dims, data }) {
  return { type, dims, data: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64") };
}

async function run(session, feed) {
  try {
    const given = Object.fromEntries(Object.entries(feed).map(([key, tensor]) => [key, read(tensor)]));
    const found = await session.run(given);
    return Object.fromEntries(Object.entries(found).map(([key, tensor]) => [key, write(tensor)]));
  } catch (error) {
    return String(error);
  }
}

const answers = [];
for (const { model, feeds } of JSON.parse(readFileSync(request, "utf8"))) {
  const session = await ort.InferenceSession.create(readFileSync(model));
  const found = [];
  for (const feed of feeds) found.push(await run(session, feed));
  answers.push({ inputs: session.inputNames, answers: found });
}
writeFileSync(answer, JSON.stringify(answers));
process.exit(0);
