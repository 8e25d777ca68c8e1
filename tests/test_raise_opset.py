"""Old opsets: every model means the same after it was raised to 18, around the known faults of ONNX's version converter."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

import onnxsal
from onnxsal.ask.guard import compare_on_random_input
from onnxsal.errors import ModelError
from onnxsal.graph.load import load_model
from onnxsal.passes import prepare
from onnxsal.passes.raise_opset import HIGHEST, LOWEST, RAISE_OPSET, SET_IR, opset
from tests.nets import light
from tests.oracle import run
from tests.small_models import cnn, draw, make, node

IR = {7: 3, 8: 3, 9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8}
"""The IR version that came with each opset."""


def raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model after all passes; its outputs were compared before and after."""
    prepared = prepare(load_model(model), lambda domain, op_type: domain == "", compare_on_random_input)
    assert any("raise opset" in line for line in prepared.log)
    assert opset(prepared.model.proto) == LOWEST
    onnx.checker.check_model(prepared.model.proto)
    return prepared.model.proto


def check_same(model: onnx.ModelProto, *feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    result = raised(model)
    for feed in feeds:
        before, after = run(model, feed), run(result, feed)
        for name, value in before.items():
            np.testing.assert_allclose(after[name], value, rtol=1e-6, atol=1e-7)
    return result


@pytest.mark.parametrize("version", IR)
def test_a_network_of_every_opset(version: int):
    model = cnn(opset=version)
    model.ir_version = IR[version]
    if IR[version] < 4:
        model.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer)
    x = {"x": draw(2, 3, 8, 8)}
    result = check_same(model, x)
    assert [i.name for i in result.graph.input] == ["x"]
    assert [n.name for n in result.graph.node if n.op_type == "Conv"] == ["c1", "c2"]
    assert result.ir_version == 10
    attribution = run(onnxsal.convert(model, "gradient"), x)["attribution"]
    np.testing.assert_allclose(attribution, run(onnxsal.convert(cnn(), "gradient"), x)["attribution"], rtol=1e-5, atol=1e-7)


SCALES = [(2, 2), (1.7, 1.3), (3, 2.5), (0.6, 0.5), (0.35, 0.75)]


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", SCALES, ids=str)
def test_resize_10(mode: str, scales: tuple[float, float]):
    """Its coordinates were asymmetric; the converter says nothing, which means half_pixel from opset 11 on."""
    four = np.asarray([1, 1, *scales], np.float32)
    model = make([node("Resize", "x s", "y", mode=mode)], {"x": ["N", 2, 7, 9]}, {"y": [None] * 4}, {"s": four}, opset=10, ir=5)
    x = draw(2, 2, 7, 9)
    result = check_same(model, {"x": x})
    if mode == "linear":
        np.testing.assert_allclose(run(result, {"x": x})["y"], bilinear(x, scales), rtol=1e-5, atol=1e-5)


def bilinear(x: np.ndarray, scales: tuple[float, float]) -> np.ndarray:
    """Asymmetric coordinates, written out: y[i] = x at i / scale, interpolated between neighbours."""
    for axis, scale in zip((2, 3), scales, strict=True):
        size = x.shape[axis]
        at = np.minimum(np.arange(int(np.floor(size * np.float32(scale)))) / np.float32(scale), size - 1)
        low = np.floor(at).astype(int)
        high = np.minimum(low + 1, size - 1)
        share = (at - low).reshape([-1 if a == axis else 1 for a in range(4)])
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return x


def test_resize_10_that_no_newer_resize_can_express_is_refused():
    """Nearest, one axis shrinking and one growing by fractions: ONNX Runtime rounds up on one and down on the other."""
    scales = np.asarray([1, 1, 0.6, 1.5], np.float32)
    model = make([node("Resize", "x s", "y", mode="nearest")], {"x": ["N", 2, 7, 9]}, {"y": None}, {"s": scales}, opset=10, ir=5)
    with pytest.raises(ModelError, match=r"rewriting the model \(raise opset\) changed its outputs.*Export the model with opset 18"):
        raised(model)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("scales", [s for s in SCALES if min(s) >= 1], ids=str)
@pytest.mark.parametrize("version", [7, 9])
def test_upsample(mode: str, scales: tuple[float, float], version: int):
    """Scales were an attribute in opset 7 and are an input in opset 9; it is a Resize from opset 10 on."""
    four = [1.0, 1.0, *map(float, scales)]
    if version == 7:
        model = make([node("Upsample", "x", "y", mode=mode, scales=four)], {"x": ["N", 2, 7, 9]}, {"y": [None] * 4}, opset=7, ir=3)
    else:
        weights = {"s": np.asarray(four, np.float32)}
        model = make([node("Upsample", "x s", "y", mode=mode)], {"x": ["N", 2, 7, 9]}, {"y": [None] * 4}, weights, opset=9, ir=4)
    x = draw(2, 2, 7, 9)
    result = check_same(model, {"x": x})
    if mode == "linear":
        np.testing.assert_allclose(run(result, {"x": x})["y"], bilinear(x, scales), rtol=1e-5, atol=1e-5)


def test_resize_in_a_branch():
    def branch(name: str, mode: str) -> onnx.GraphProto:
        return helper.make_graph([node("Resize", "x s", name, mode=mode)], name, [], [helper.make_tensor_value_info(name, 1, [None] * 4)])

    nodes = [
        node("ReduceMax", "x", "peak", keepdims=0),
        node("Greater", "peak limit", "condition"),
        node("If", "condition", "y", then_branch=branch("t", "linear"), else_branch=branch("e", "nearest")),
    ]
    weights = {"s": np.asarray([1, 1, 1.7, 2], np.float32), "limit": np.float32(0)}
    model = make(nodes, {"x": ["N", 2, 5, 6]}, {"y": [None] * 4}, weights, opset=10, ir=5)
    check_same(model, {"x": np.abs(draw(2, 2, 5, 6))}, {"x": -np.abs(draw(2, 2, 5, 6))})


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_softmax_over_several_axes(op_type: str, axis: int):
    """Up to opset 12 it ran over all axes from ``axis`` on; the logits behind it are still found."""
    model = make(
        [node("MatMul", "x w", "h"), node(op_type, "h", "y", axis=axis)],
        {"x": [2, 3, 4]},
        {"y": [2, 3, 4]},
        {"w": draw(4, 4)},
        opset=11,
        ir=6,
    )
    x = {"x": draw(2, 3, 4)}
    check_same(model, x)
    if axis == 0:
        return  # every score depends on every sample: there is no batch
    got = run(onnxsal.convert(model), x)["explained_score"]
    np.testing.assert_allclose(got, (x["x"] @ draw(4, 4)).reshape(2, -1).max(1), rtol=1e-5)


@pytest.mark.parametrize("version", [7, 9, 11, 12])
@pytest.mark.parametrize("declared", [False, True])
def test_dropout(version: int, declared: bool):
    """Its mask was floating point up to opset 9: what the model says of its type must not survive."""
    nodes = [node("Dropout", "x", "d mask", ratio=0.4) if version < 12 else node("Dropout", "x ratio", "d mask"), node("Relu", "d", "y")]
    weights = {} if version < 12 else {"ratio": np.float32(0.4)}
    model = make(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, weights, opset=version, ir=IR[version])
    if version == 12:
        model.ir_version = 7
    if declared:
        kind = TensorProto.FLOAT if version < 10 else TensorProto.BOOL
        model.graph.value_info.append(helper.make_tensor_value_info("mask", kind, ["N", 3]))
    check_same(model, {"x": draw(2, 3)})


@pytest.mark.parametrize("version", [7, 9, 14, 15])
def test_batch_normalization(version: int):
    weights = {"s": draw(3, seed=1), "b": draw(3, seed=2), "m": draw(3, seed=3), "v": np.abs(draw(3, seed=4)) + 0.5}
    nodes = [node("BatchNormalization", "x s b m v", "y", epsilon=1e-3)]
    model = make(nodes, {"x": ["N", 3, 4, 4]}, {"y": ["N", 3, 4, 4]}, weights, opset=version, ir=max(IR[version], 4))
    check_same(model, {"x": draw(2, 3, 4, 4)})


def test_prelu_6_slopes_run_along_the_channels():
    """Per-channel slopes [C] broadcast from the right since opset 7, so they become [C, 1, 1]."""
    slopes = draw(3, seed=1)
    model = make([node("PRelu", "x s", "y")], {"x": ["N", 3, 4, 5]}, {"y": ["N", 3, 4, 5]}, {"s": slopes}, opset=6, ir=3)
    x = draw(2, 3, 4, 5)
    result = raised(model)
    np.testing.assert_allclose(run(result, {"x": x})["y"], np.where(x > 0, x, x * slopes[:, None, None]), rtol=1e-6)


def test_axes_and_pads_that_became_inputs():
    nodes = [
        node("Squeeze", "x", "q", axes=[1]),
        node("Pad", "q", "p", pads=[0, 1, 0, 2], mode="constant", value=0.5),
        node("Unsqueeze", "p", "u", axes=[0]),
        node("ReduceSum", "u", "r", axes=[2], keepdims=0),
        node("Clip", "r", "k", min=-1.0, max=2.0),
        node("Slice", "k", "y", starts=[0], ends=[1], axes=[0]),
    ]
    model = make(nodes, {"x": [4, 1, 5]}, {"y": [None] * 2}, opset=9, ir=4)
    check_same(model, {"x": draw(4, 1, 5)})


@pytest.mark.parametrize("version", [11, 13, 17])
def test_half_precision(version: int):
    """The guard's tolerance of 1e-5 holds for float16 too: raising the opset leaves the numbers alone."""
    model = cnn(opset=version)
    model.ir_version = IR[version]
    half = convert_float_to_float16(model, keep_io_types=False)
    check_same(half, {"x": draw(2, 3, 8, 8).astype(np.float16)})


def test_notes_and_names_survive():
    model = cnn(opset=11)
    model.graph.node[1].doc_string = "a relu"
    model.graph.node[0].metadata_props.add(key="scope", value="stem")
    model.graph.initializer[1].doc_string = "a bias"
    result = raised(model)
    nodes = {n.output[0]: n for n in result.graph.node}
    assert nodes["r1"].doc_string == "a relu"
    assert [(p.key, p.value) for p in nodes["c1"].metadata_props] == [("scope", "stem")]
    assert {t.name: t.doc_string for t in result.graph.initializer}["b1"] == "a bias"
    assert [t.name for t in result.graph.initializer][:6] == [t.name for t in model.graph.initializer]


# ----- the bounds -----


def test_recent_opsets_are_left_alone():
    for version in (18, 20, HIGHEST):
        model = make([node("Relu", "x", "y")], {"x": ["N", 3]}, {"y": ["N", 3]}, opset=version, ir=13 if version == HIGHEST else 10)
        assert "or higher" in RAISE_OPSET.requires(model)
        assert opset(onnxsal.convert(model)) == version


@pytest.mark.parametrize("kind", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize(("axis", "plain"), [(2, True), (-1, True), (1, False)])
def test_a_softmax_over_the_last_axis_stays_one(kind: str, axis: int, plain: bool):
    """Behind a Reshape to computed sizes the converter knows no rank, and flattens; the logits would have another shape."""
    nodes = [
        node("Shape", "x", "sizes"),
        node("Slice", "sizes zero two", "kept"),
        node("Concat", "kept rest", "wanted", axis=0),
        node("Reshape", "x wanted", "s"),
        node("Tanh", "s", "t"),
        node(kind, "t", "y", axis=axis),
    ]
    weights = {k: np.asarray([v], np.int64) for k, v in {"zero": 0, "two": 2, "rest": -1}.items()}
    model = make(nodes, {"x": ["N", 2, 1, "W"]}, {"y": ["N", 2, "W"]}, weights, opset=11)
    model.ir_version = 6
    result = check_same(model, {"x": draw(2, 2, 1, 5)})
    kinds = [n.op_type for n in result.graph.node]
    assert ("Flatten" in kinds) is not plain
    if plain:
        told = onnxsal.Explainer(model, "gradient").explain(draw(2, 2, 1, 5), np.asarray([4, 7]))
        assert told.attribution.shape == (2, 2, 1, 5)


def test_an_opset_that_onnx_runtime_does_not_load_is_refused():
    model = make([node("Relu", "x", "y")], {"x": ["N", 3]}, {"y": ["N", 3]}, opset=HIGHEST + 1, ir=13)
    with pytest.raises(ModelError, match=f"uses opset {HIGHEST + 1}; ONNX Runtime loads opset {HIGHEST} at most. Export it with"):
        onnxsal.convert(model)


@pytest.mark.parametrize(("before", "after"), [(8, 10), (10, 10), (12, 12), (13, 13), (14, 13)])
def test_ir_versions_are_brought_into_range(before: int, after: int):
    """onnx 1.23 writes IR 14 unless told otherwise; ONNX Runtime 1.31 loads up to 13."""
    model = make([node("Relu", "x", "y")], {"x": ["N", 3]}, {"y": ["N", 3]}, opset=18, ir=before)
    converted = onnxsal.convert(model)
    assert converted.ir_version == after
    assert bool(SET_IR.requires(model)) == (before == after)
    x = draw(2, 3)
    np.testing.assert_array_equal(run(converted, {"x": x})["y"], np.maximum(x, 0))


def test_weights_that_are_inputs_too_stay_optional_since_ir_4():
    """Up to IR 3 that was the rule for all weights; since IR 4 it says that a caller may replace one."""
    model = cnn(opset=11)
    model.graph.input.append(helper.make_tensor_value_info("b3", TensorProto.FLOAT, [5]))
    model.ir_version = 6
    assert [i.name for i in raised(model).graph.input] == ["x", "b3"]
    model.ir_version, model.opset_import[0].version = 3, 8
    assert [i.name for i in raised(model).graph.input] == ["x"]


def test_what_the_converter_cannot_raise_is_one_message():
    nodes = [
        node(
            "Scan",
            "lengths x",
            "y",
            num_scan_inputs=1,
            body=helper.make_graph(
                [node("Relu", "a", "b")], "body", [helper.make_tensor_value_info("a", 1, [3])], [helper.make_tensor_value_info("b", 1, [3])]
            ),
        )
    ]
    model = make(nodes, {"lengths": ["N"], "x": ["N", "T", 3]}, {"y": None}, opset=8, ir=3, types={"lengths": TensorProto.INT64})
    with pytest.raises(ModelError, match=r"^node 'y' \(Scan, opset 8\) has a form .*Export the model with opset"):
        onnxsal.convert(model)


# ----- the onnx package's own models -----

DATA = Path(onnx.__file__).parent / "backend" / "test" / "data"


def tensor(path: Path) -> np.ndarray:
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def stored_cases() -> Iterator[Path]:
    yield from sorted(DATA.glob("pytorch-converted/*"))
    yield from sorted(DATA.glob("pytorch-operator/*"))


def test_every_stored_pytorch_model_of_opset_6_still_gives_its_stored_outputs():
    """117 models; as shipped, a third of them does not run in ONNX Runtime any more."""
    folders = list(stored_cases())
    assert len(folders) > 110
    for folder in folders:
        model = load_model(folder / "model.onnx")
        proto = prepare(model, lambda domain, op_type: domain == "").model.proto
        data = folder / "test_data_set_0"
        weights = {t.name for t in proto.graph.initializer}
        names = [i.name for i in proto.graph.input if i.name not in weights]
        got = run(proto, {n: tensor(data / f"input_{i}.pb") for i, n in enumerate(names)})
        for i, value in enumerate(got.values()):
            expected = tensor(data / f"output_{i}.pb")
            np.testing.assert_allclose(value, expected, rtol=1e-3, atol=1e-5, err_msg=folder.name)


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1", "densenet121"])
def test_a_light_model_is_raised_and_compared(name: str):
    """Random weights instead of the constant ones, so that the comparison means something."""
    result = raised(light(name))
    assert not {"ConstantOfShape"} & {n.op_type for n in result.graph.node}
