"""What a file for CUDA leaves to compute of sizes: nothing where the batch is fixed, little where it is open."""

from __future__ import annotations

import math
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

import onnxsal
from onnxsal.errors import PlanError
from tests.small_models import cnn
from tools.card.nets import networks

FROM_HOST = {
    "Reshape": {1}, "Expand": {1}, "ConstantOfShape": {0}, "Tile": {1}, "Slice": {1, 2, 3, 4}, "Resize": {1, 2, 3}, "Unsqueeze": {1},
    "Squeeze": {1}, "Pad": {1, 3}, "TopK": {1}, "Range": {0, 1, 2}, "Split": {1}, "CumSum": {1}, "OneHot": {1, 2}, "Trilu": {1},
    "ReduceSum": {1}, "ReduceMean": {1}, "ReduceMax": {1}, "ReduceMin": {1}, "ReduceProd": {1},
}  # fmt: skip
"""Operators of the CUDA provider -> inputs that they read in the host's memory: these take sizes as they are."""

TINY = networks(tiny=True) | {"cnn": cnn()}
METHODS = ("gradient", "guided_backprop", "fullgrad", "lrp_epsilon", "lrp_epsilon_plus", "lrp_resnet", "deeplift", "gradcam", "attnlrp")


def optimised(model: onnx.ModelProto, sizes: dict[str, int], folder: Path) -> onnx.ModelProto:
    """The graph that ONNX Runtime makes of it before it chooses layouts, with these sizes fixed."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(options.optimized_model_filepath)


def on_the_host(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """The nodes that ONNX Runtime's CUDA provider leaves to the CPU: all that they read are sizes, small constants and inputs, and not
    only in places where the provider takes sizes from the host."""
    small = {t.name for t in model.graph.initializer if math.prod(t.dims) <= 100} | {v.name for v in model.graph.input} | {""}
    sizes: set[str] = set()
    found = []
    for one in model.graph.node:
        read = [(i, name) for i, name in enumerate(one.input) if name not in small]
        taken = FROM_HOST.get(one.op_type, set())
        if one.op_type in ("Shape", "Size"):
            sizes.update(one.output)
        elif read and all(name in sizes and i not in taken for i, name in read):
            sizes.update(one.output)
            found.append(one)
    return found


def converted(name: str, method: str) -> onnx.ModelProto:
    try:
        return onnxsal.convert(TINY[name], method, runs_on="cuda")
    except PlanError:
        pytest.skip("not by this method")
    except onnxsal.errors.MethodError:
        pytest.skip("not by this method")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TINY)
def test_nothing_is_computed_of_a_batch_that_is_fixed(name: str, method: str, tmp_path: Path):
    made = converted(name, method)
    left = on_the_host(optimised(made, {"N": 4, "targets": 4}, tmp_path))
    assert not [n.name for n in left]


MOST = {"fullgrad": 5, "lrp_epsilon": 1, "lrp_epsilon_plus": 1, "lrp_resnet": 1, "deeplift": 1, "gradcam": 1, "attnlrp": 1}
"""Sizes that are put together: for a Resize (FullGrad has one for each resolution), a sum of what leaks, one reference of all samples."""


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", TINY)
def test_little_is_computed_of_a_batch_that_is_open(name: str, method: str, tmp_path: Path):
    own = len(on_the_host(optimised(TINY[name], {}, tmp_path)))  # the model's own arithmetic
    left = on_the_host(optimised(converted(name, method), {}, tmp_path))
    assert len(left) - own <= MOST.get(method, 0), [n.name for n in left]


def test_what_is_left_to_the_cpu_is_seen(tmp_path: Path):
    """A Concat of sizes before a Resize, and not the Resize."""
    made = onnxsal.convert(cnn(), "gradcam", runs_on="cuda")
    assert [n.op_type for n in on_the_host(optimised(made, {}, tmp_path))] == ["Concat"]
