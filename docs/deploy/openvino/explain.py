"""python explain.py explained.onnx [input.bin [class]]: what OpenVINO makes of a converted model. `pip install openvino numpy`."""

import json
import sys
from pathlib import Path

import numpy as np
import openvino

model, *rest = sys.argv[1:]
core = openvino.Core()
# OpenVINO computes in half precision where a device is faster so; maps want float32.
compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
picture = compiled.inputs[0]
shape = [size.get_length() if size.is_static else 1 for size in picture.get_partial_shape()]
values = np.frombuffer(Path(rest[0]).read_bytes(), np.float32).reshape(shape) if rest else np.zeros(shape, np.float32)

feeds = {picture.get_any_name(): values}
if any("target" in given.get_names() for given in compiled.inputs):
    feeds["target"] = np.array([int(rest[1]) if len(rest) > 1 else -1])  # -1: the predicted class
found = compiled(feeds)
outputs = {name: found[output] for output in compiled.outputs for name in output.get_names()}

outputs["saliency_map"].tofile("saliency_map.bin")
answer = {
    "class": int(outputs["explained_class"][0]),
    "score": float(outputs["explained_score"][0]),
    "residual": float(outputs["residual"][0]) if "residual" in outputs else None,
    "map": list(outputs["saliency_map"].shape),
    "sum": float(outputs["saliency_map"].sum()),
}
print(json.dumps(answer))
