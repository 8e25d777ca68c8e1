"""The contract of a converted model, line by line, for every method."""

from __future__ import annotations

import inspect
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsal
from onnxsal.engine.method import get_method
from onnxsal.errors import ModelError, OnnxsalError
from onnxsal.graph.load import load_model, save_model
from onnxsal.methods.build import wrapper_of
from onnxsal.passes.raise_opset import HIGHEST
from tests.nets import light
from tests.oracle import run, session_of, told
from tests.runtimes import OPENVINO, REFERENCE, ran
from tests.small_models import cnn, cnn_nhwc, draw, make, node, segmenter, tokens, two_inputs

FITTED = ("pattern_attribution", "patternnet")
"""Methods that need something fitted to data beforehand; their own tests hold them to the contract."""

OF_ATTENTION = ("attention_rollout", "chefer")
"""Methods that explain transformers only: tests/test_rollout.py has their numbers."""

METHODS = [m for m in onnxsal.methods() if m not in (*FITTED, *OF_ATTENTION)]
QUICK = {"n_steps": 6, "n_samples": 4, "n_masks": 12, "window": 3, "stride": 2}
"""Fewer points than the defaults: the contract does not depend on their number."""

X = draw(3, 3, 8, 8, seed=11)


def convert(model: onnx.ModelProto | str | Path | bytes, method: str, **options: Any) -> onnx.ModelProto:
    """With few points, and with the values of black and white pixels for methods that ask for them."""
    known = get_method(method).parameters
    quick = {k: v for k, v in QUICK.items() if k in known}
    edges = {k: np.float32(v) for k, v in (("black", -4.0), ("white", 4.0)) if k in inspect.signature(onnxsal.convert).parameters}
    return onnxsal.convert(model, method, **edges | quick | options)


@cache
def converted(method: str, batch: int | str = "N") -> onnx.ModelProto:
    return convert(cnn(batch), method)


def declared(value: onnx.ValueInfoProto) -> tuple[int, list[int | str]]:
    kind = value.type.tensor_type
    return kind.elem_type, [d.dim_value if d.HasField("dim_value") else d.dim_param for d in kind.shape.dim]


def close(got: np.ndarray, expected: np.ndarray, name: str, rtol: float = 1e-4) -> None:
    """Equal up to rounding; a residual is itself a rounding error, so only its size counts."""
    atol = 2e-4 if name == "residual" else rtol / 10 * (float(np.abs(expected).max()) + 1e-6)
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=atol, err_msg=name)


def added_nodes(model: onnx.ModelProto, original: onnx.ModelProto) -> list[onnx.NodeProto]:
    return list(model.graph.node[len(original.graph.node) :])


def every_node(nodes: Any) -> list[onnx.NodeProto]:
    """Nodes with those of their subgraphs."""
    inner = [every_node(a.g.node) for n in nodes for a in n.attribute if a.type == onnx.AttributeProto.GRAPH]
    return [*nodes, *(n for part in inner for n in part)]


# ----- inputs -----


@pytest.mark.parametrize("method", METHODS)
def test_the_original_inputs_come_first_and_the_class_is_fed(method: str):
    """With ``target_input="optional"`` it need not be, and a baseline is an input, too; ``tests/test_target_input.py`` has the rest."""
    model, result = cnn(), converted(method)
    assert list(result.graph.input)[: len(model.graph.input)] == list(model.graph.input)
    assert [i.name for i in result.graph.input][1:] == ["target"]
    session = session_of(result)
    assert [i.name for i in session.get_inputs()] == ["x", "target"]
    assert session.get_overridable_initializers() == []
    kind, shape = declared(result.graph.input[1])
    assert (kind, len(shape)) == (TensorProto.INT64, 1)
    assert isinstance(shape[0], str)


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_listed_as_inputs_stay_weights(method: str):
    """As older exporters write them: a caller may replace one, and the explanation is that of the replaced model."""
    model = cnn()
    model.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in model.graph.initializer)
    result = convert(model, method)
    same = run(result, {"x": X})
    for name, value in run(converted(method), {"x": X}).items():
        close(same[name], value, name)
    other = cnn()
    new = draw(4, 3, 3, 3, seed=9)
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(new, "w1"))
    expected = run(convert(other, method), {"x": X})
    for name, value in run(result, {"x": X, "w1": new}).items():
        close(value, expected[name], name)


# ----- outputs -----


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_the_outputs_have_their_names_types_and_shapes(method: str, batch: int | str):
    model, result = cnn(batch), converted(method, batch)
    assert list(result.graph.output)[:1] == list(model.graph.output)
    wanted = {
        "attribution": (TensorProto.FLOAT, [batch, 3, 8, 8]),
        "saliency_map": (TensorProto.FLOAT, [batch, 8, 8]),
        "explained_class": (TensorProto.INT64, [batch]),
        "explained_score": (TensorProto.FLOAT, [batch]),
    }
    if get_method(method).law:
        wanted["residual"] = (TensorProto.FLOAT, [batch])
    if wrapper_of(get_method(method)).books:
        wanted["reached"] = (TensorProto.FLOAT, [batch])
    if wrapper_of(get_method(method)).estimates:
        wanted["standard_error"] = wanted["attribution"]
    assert {o.name: declared(o) for o in list(result.graph.output)[1:]} == wanted
    x = X[: batch if isinstance(batch, int) else 2]
    got = run(result, {"x": x})
    for name, (kind, shape) in wanted.items():
        assert got[name].dtype == helper.tensor_dtype_to_np_dtype(kind)
        assert list(got[name].shape) == [len(x) if d == batch else d for d in shape]
        assert np.isfinite(got[name]).all()
    assert np.abs(got["attribution"]).max() > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_fixed_batch_is_explained_like_a_symbolic_one(method: str):
    """With a batch fixed at 1 or 3 the walks of a path or of noise run one by one; the numbers are the same."""
    open_ = run(converted(method), {"x": X})
    three = run(converted(method, 3), {"x": X})
    one = [run(converted(method, 1), {"x": X[i : i + 1]}) for i in range(3)]
    for name, value in open_.items():
        close(three[name], value, name)
        close(np.concatenate([o[name] for o in one]), value, name)


@pytest.mark.parametrize("method", METHODS)
def test_the_original_outputs_are_bit_identical(method: str):
    before, after = run(cnn(), {"x": X}), run(converted(method), {"x": X})
    np.testing.assert_array_equal(after["y"], before["y"])
    optimised = run(converted(method), {"x": X}, optimise=True)
    np.testing.assert_allclose(optimised["y"], before["y"], rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_forward_part_stays_as_it_was(method: str):
    model, result = cnn(), converted(method)
    assert list(result.graph.node)[: len(model.graph.node)] == list(model.graph.node)
    assert list(result.graph.initializer)[: len(model.graph.initializer)] == list(model.graph.initializer)


@pytest.mark.parametrize("method", METHODS)
def test_optimisation_changes_rounding_only(method: str):
    plain, optimised = (run(converted(method), {"x": X}, optimise=o) for o in (False, True))
    for name, value in plain.items():
        close(optimised[name], value, name, rtol=1e-3)


# ----- target -----


@pytest.mark.parametrize("method", METHODS)
def test_the_target_may_differ_per_sample(method: str):
    result = converted(method)
    free = run(result, {"x": X, "target": np.asarray([-1], np.int64)})
    best = run(cnn(final=""), {"x": X})["y"].argmax(1)
    assert free["explained_class"].tolist() == best.tolist()
    given = run(result, {"x": X, "target": best})
    for name, value in free.items():
        np.testing.assert_array_equal(given[name], value, err_msg=name)
    mixed = run(result, {"x": X, "target": np.asarray([4, -1, 0], np.int64)})
    assert mixed["explained_class"].tolist() == [4, best[1], 0]
    for i, target in enumerate([4, best[1], 0]):
        alone = run(result, {"x": X, "target": np.asarray([target], np.int64)})
        assert alone["explained_class"].tolist() == [target] * 3
        np.testing.assert_array_equal(alone["attribution"][i], mixed["attribution"][i])
        np.testing.assert_array_equal(alone["explained_score"][i], mixed["explained_score"][i])


@pytest.mark.parametrize("target", [3, [0, 4, 2]])
@pytest.mark.parametrize("method", ["gradient", "integrated_gradients"])
def test_a_default_target_is_built_in(method: str, target: int | list[int]):
    expected = run(converted(method), {"x": X, "target": np.atleast_1d(np.asarray(target, np.int64))})
    fixed, result = convert(cnn(), method, target=target), convert(cnn(), method, target=target, target_input="optional")
    for model in (fixed, result):
        np.testing.assert_array_equal(run(model, {"x": X})["attribution"], expected["attribution"])
    predicted = run(result, {"x": X, "target": np.asarray([-1], np.int64)})["explained_class"]
    assert predicted.tolist() == run(converted(method), {"x": X})["explained_class"].tolist()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("target", [[0, 1], [0, 1, 2, 3], []], ids=str)
def test_targets_of_another_number_than_the_samples_fail_when_run(method: str, target: list[int]):
    """Never an explanation of something else; a class that does not exist is ``tests/test_target_range.py``."""
    with pytest.raises(Exception, match="Non-zero status"):
        session_of(converted(method)).run(None, {"x": X, "target": np.asarray(target, np.int64)})


# ----- baseline -----


def test_a_baseline_is_fed_or_built_in():
    free = convert(cnn(), "integrated_gradients", target_input="optional")
    built = convert(cnn(), "integrated_gradients", baseline=0.25)
    for shape in [(1, 1, 1, 1), (1, 3, 1, 1), (1, 3, 8, 8), (3, 3, 8, 8)]:
        fed = run(free, {"x": X, "baseline": np.full(shape, 0.25, np.float32)})
        np.testing.assert_allclose(fed["attribution"], run(built, {"x": X})["attribution"], rtol=1e-5, atol=1e-7)
    each = draw(3, 3, 8, 8, seed=5)
    together = run(free, {"x": X, "baseline": each})
    for i in range(3):
        alone = run(free, {"x": X[i : i + 1], "baseline": each[i : i + 1]})
        np.testing.assert_allclose(together["attribution"][i], alone["attribution"][0], rtol=1e-4, atol=1e-6)
    assert np.abs(run(free, {"x": X, "baseline": X})["attribution"]).max() == 0


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_baseline_of_another_size_fails_when_run(batch: int | str):
    session = session_of(convert(cnn(batch), "integrated_gradients", target_input="optional"))
    for shape in [(2, 3, 8, 8), (1, 3, 4, 8), (1, 3, 8, 9), (1, 2, 1, 1)]:
        with pytest.raises(Exception, match=r"Non-zero status|Got invalid dimensions"):
            session.run(None, {"x": X[:1], "baseline": np.zeros(shape, np.float32)})


# ----- batch and dynamic sizes -----


@pytest.mark.parametrize("method", METHODS)
def test_a_sample_does_not_depend_on_its_batch_mates(method: str):
    """Among them one that is a thousand times larger, and one of zeros."""
    mates = np.concatenate([X[:1], 1000 * X[1:2], 0 * X[2:]])
    target = np.asarray([2], np.int64)
    alone, among = (run(converted(method), {"x": x, "target": target}) for x in (X[:1], mates))
    for name in alone:
        close(among[name][:1], alone[name], name)


@pytest.mark.parametrize("method", METHODS)
def test_open_heights_and_widths_stay_open(method: str):
    model = cnn("N", "S")
    for value in (model.graph.input[0],):
        value.type.tensor_type.shape.dim[3].dim_param = "W"
    result = convert(model, method)
    assert declared(result.graph.output[1])[1] == ["N", 3, "S", "W"]
    assert declared(result.graph.output[2])[1] == ["N", "S", "W"]
    for height, width in [(8, 8), (10, 7)]:
        x = draw(2, 3, height, width)
        fixed = cnn("N", height)
        fixed.graph.input[0].type.tensor_type.shape.dim[3].dim_value = width
        expected = run(convert(fixed, method), {"x": x})
        for name, value in run(result, {"x": x}).items():
            close(value, expected[name], name)


# ----- operators, opset, size -----


OPSETS = [(m, v) for m in METHODS for v in (13, 20, HIGHEST)] + [("gradient", v) for v in (18, 19, *range(21, HIGHEST))]


@pytest.mark.parametrize(("method", "opset"), OPSETS)
def test_only_standard_operators_of_the_models_opset(method: str, opset: int):
    model = cnn(opset=opset)
    model.ir_version = max(10, helper.find_min_ir_version_for(list(model.opset_import)))
    result = convert(model, method)
    assert [(o.domain, o.version) for o in result.opset_import] == [("", max(opset, 18))]
    assert {n.domain for n in every_node(result.graph.node)} == {""}
    onnx.checker.check_model(result, full_check=True)
    expected = run(converted(method), {"x": X})
    for name, value in run(result, {"x": X}).items():
        close(value, expected[name], name)


@cache
def squeezenet() -> onnx.ModelProto:
    return light("squeezenet")


@pytest.mark.parametrize("method", METHODS)
def test_the_file_grows_by_a_twentieth_at_most(method: str):
    model = squeezenet()
    result = convert(model, method)
    assert result.ByteSize() <= 1.05 * model.ByteSize()
    own = {t.name for t in model.graph.initializer}
    added = [t for t in result.graph.initializer if t.name not in own]
    added += [t for n in every_node(result.graph.node) for a in n.attribute if a.type == onnx.AttributeProto.GRAPH for t in a.g.initializer]
    assert max(np.prod(t.dims) for t in added) <= 1024


# ----- provenance and names -----


def rules_sha256(method: str) -> str:
    """The hash of a method's table, followed by that of the table that it extends."""
    import hashlib
    import importlib.resources
    import tomllib

    table = importlib.resources.files("onnxsal.rules").joinpath(f"{method}.toml").read_text(encoding="utf-8")
    base = tomllib.loads(table).get("extends")
    return hashlib.sha256((table + (rules_sha256(base) if base else "")).encode()).hexdigest()


@pytest.mark.parametrize("method", METHODS)
def test_the_file_says_what_was_done(method: str, tmp_path: Path):
    model = cnn()
    model.metadata_props.add(key="labels", value="cat,dog")
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    result = convert(path, method, target=2)
    found = {p.key: p.value for p in result.metadata_props}
    assert found["labels"] == "cat,dog"
    assert found["onnxsal.method"] == method
    assert found["onnxsal.version"]
    import hashlib

    assert found["onnxsal.rules_sha256"] == rules_sha256(method)
    assert found["onnxsal.model_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    settings = json.loads(found["onnxsal.parameters"])
    assert (settings["input"], settings["output"], settings["target"], settings["score"]) == ("x", "y", 2, "logit")
    assert set(get_method(method).parameters) <= set(settings)
    assert next(p.key for p in result.metadata_props) == "labels"
    assert dict(session_of(result).get_modelmeta().custom_metadata_map) == found


@pytest.mark.parametrize("method", METHODS)
def test_added_nodes_are_named_after_what_they_explain(method: str):
    model, result = cnn(), converted(method)
    nodes = every_node(added_nodes(result, model))
    assert all(n.name.startswith("onnxsal/") for n in nodes)
    names = [n.name for n in every_node(result.graph.node)]
    assert len(set(names)) == len(names)
    explained = {n.name for n in model.graph.node} - {"y"}
    parts = {p for n in nodes for p in n.name.split("/")[1:-1]}
    assert parts & explained
    if {r.use for r in get_method(method).rules} <= {"gradient", "guided", "deconvnet"} and not get_method(method).wrap:
        assert explained <= parts, "a node of the path has no nodes named after it"


def test_a_node_made_for_c1_says_so():
    names = [n.name for n in added_nodes(converted("gradient"), cnn())]
    assert any(n.startswith("onnxsal/c1/") for n in names)


def clashing() -> dict[str, onnx.ModelProto]:
    """Models that already use a name that onnxsal would add: an input, an inner tensor, an output, a node."""
    a, b, c, d = cnn(), cnn(), cnn(), cnn()
    for model, old, new in ((a, "x", "target"), (b, "r1", "attribution"), (c, "y", "saliency_map")):
        for n in model.graph.node:
            for names in (n.input, n.output):
                for i, name in enumerate(names):
                    names[i] = new if name == old else name
        for value in (*model.graph.input, *model.graph.output):
            value.name = new if value.name == old else value.name
    d.graph.node[3].name = "onnxsal/head/ArgMax0"
    return {"target": a, "attribution": b, "saliency_map": c, "onnxsal/head/ArgMax0": d}


@pytest.mark.parametrize("name", list(clashing()))
def test_a_name_that_is_taken_is_an_error_and_a_prefix_solves_it(name: str):
    model = clashing()[name]
    with pytest.raises(ModelError) as caught:
        onnxsal.convert(model, "gradient")
    for part in (f"'{name}'", "already uses", "--prefix", "prefix="):
        assert part in str(caught.value)
    result = onnxsal.convert(model, "gradient", prefix="why/")
    onnx.checker.check_model(result)
    added = [o.name for o in result.graph.output][1:]
    assert added == ["why/attribution", "why/saliency_map", "why/explained_class", "why/explained_score"]
    assert [i.name for i in result.graph.input][1:] == ["why/target"]
    assert all(n.name.startswith("why/onnxsal/") for n in added_nodes(result, model))
    (own,) = [i.name for i in model.graph.input]
    got = run(result, {own: X, "why/target": np.asarray([1], np.int64)})
    expected = run(converted("gradient"), {"x": X, "target": np.asarray([1], np.int64)})
    np.testing.assert_array_equal(got["why/attribution"], expected["attribution"])


@pytest.mark.parametrize("method", METHODS)
def test_a_converted_model_is_refused(method: str):
    for call in (onnxsal.convert, onnxsal.plan):
        with pytest.raises(
            ModelError, match=rf"already converted \(method '{method}', onnxsal .*Convert the original model, or run this one"
        ):
            call(converted(method), "gradient")


# ----- files over the limit of a protobuf message -----


@pytest.mark.parametrize("method", ["gradient", "integrated_gradients"])
def test_a_model_over_the_limit_keeps_its_weights_beside_it(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """2 GiB, simulated: in from a file with external data, out to one, and the model in memory stays whole."""
    weights = {"w": draw(192, 40, seed=1, scale=0.1), "w2": draw(40, 5, seed=2)}
    model = make(
        [node("Flatten", "x", "f"), node("MatMul", "f w", "h"), node("Relu", "h", "r"), node("MatMul", "r w2", "y")],
        {"x": ["N", 3, 8, 8]},
        {"y": ["N", 5]},
        weights,
    )
    source, target = tmp_path / "in" / "model.onnx", tmp_path / "out.onnx"
    source.parent.mkdir()
    onnx.save(load_model(model), str(source), save_as_external_data=True, location="weights.bin", size_threshold=100)
    assert source.stat().st_size < 5000 < (source.parent / "weights.bin").stat().st_size
    result = convert(source, method)
    expected = run(convert(model, method), {"x": X})
    monkeypatch.setattr("onnxsal.large.LARGEST", 20_000)
    save_model(result, target)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out.onnx", "out.onnx.data"]
    assert target.stat().st_size < 20_000
    session = ort.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    got = dict(zip([o.name for o in session.get_outputs()], session.run(None, told(result, {"x": X})), strict=True))
    for name, value in run(result, {"x": X}).items():
        close(value, expected[name], name)
        close(got[name], expected[name], name, rtol=1e-3)
    again = load_model(target)
    assert {t.name: numpy_helper.to_array(t).tobytes() for t in again.graph.initializer if t.name in weights} == {
        k: v.tobytes() for k, v in weights.items()
    }


def test_a_model_is_saved_whole(tmp_path: Path):
    path = tmp_path / "out.onnx"
    save_model(converted("gradient"), path)
    assert path.read_bytes() == converted("gradient").SerializeToString()
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]


# ----- other runtimes -----


@pytest.mark.parametrize("method", METHODS)
def test_the_reference_evaluator_gives_the_same_map(method: str, tmp_path: Path):
    same_map(REFERENCE, converted(method), {"x": X, "target": np.asarray([1, 2**32, 3], np.int64)}, tmp_path, lost=1)


def same_map(runtime: str, model: onnx.ModelProto, feed: dict[str, np.ndarray], folder: Path, lost: int | None = None) -> None:
    """What ONNX Runtime gives, in another runtime; sample ``lost`` has no class there, either."""
    (one,) = ran(runtime, [model], [[feed]], folder)
    (got,) = one.answers
    assert not isinstance(got, str), got
    expected = run(model, feed)
    assert set(got) == set(expected)
    for name, value in expected.items():
        if lost is not None and value.dtype.kind == "f" and name != "y":
            assert np.isnan(got[name][lost]).all()
            assert np.isnan(value[lost]).all()
            value[lost] = got[name][lost] = 0
        close(got[name], value, name, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_openvino_gives_the_same_map(method: str, tmp_path: Path):
    if "seed" in get_method(method).parameters:
        pytest.skip("OpenVINO's CPU plugin computes int64 in 32 bits, so its pseudo-random numbers are others")
    same_map(OPENVINO, converted(method), {"x": X, "target": np.asarray([1, 2**32, 3], np.int64)}, tmp_path, lost=1)


LITE0 = Path(__file__).resolve().parent.parent / "models" / "efficientnet_lite0.onnx"


@pytest.mark.skipif(not LITE0.is_file(), reason="models/efficientnet_lite0.onnx is not there; tools/make_models.py makes it")
@pytest.mark.parametrize("method", ["gradient", "guided_backprop"])
def test_the_real_network_gives_the_same_map_in_openvino(method: str, tmp_path: Path):
    result = convert(LITE0, method)
    assert result.ByteSize() <= 1.05 * LITE0.stat().st_size
    same_map(OPENVINO, result, {"image": draw(1, 3, 224, 224, seed=1), "target": np.asarray([-1], np.int64)}, tmp_path)


# ----- other kinds of models: whatever the method, the contract's names, types and shapes -----

KINDS: dict[str, tuple[onnx.ModelProto, dict[str, np.ndarray], dict[str, Any], tuple[int, ...], tuple[int, ...] | None]] = {
    "nhwc": (cnn_nhwc(), {"image": X.transpose(0, 2, 3, 1).copy()}, {}, (3, 8, 8, 3), (3, 8, 8)),
    "tokens": (tokens(), {"ids": np.arange(10).reshape(2, 5)}, {"input": "embedded"}, (2, 5, 6), None),
    "two-inputs": (two_inputs(), {"a": draw(3, 4), "b": draw(3, 3)}, {"input": "b", "output": "y"}, (3, 3), None),
    "second-output": (two_inputs(), {"a": draw(3, 4), "b": draw(3, 3)}, {"input": "a", "output": "side"}, (3, 4), None),
    "segmentation": (segmenter(), {"x": draw(2, 3, 6, 6)}, {"target": (1, 2, 3)}, (2, 3, 6, 6), (2, 6, 6)),
    "float64": (cnn(dtype=np.float64), {"x": X.astype(np.float64)}, {}, (3, 3, 8, 8), (3, 8, 8)),
    "no-softmax": (cnn(final=""), {"x": X}, {}, (3, 3, 8, 8), (3, 8, 8)),
    "probability": (cnn(), {"x": X}, {"score": "probability"}, (3, 3, 8, 8), (3, 8, 8)),
}
"""Model, feed, options, shape of the attribution, shape of the map (None where the input is no picture)."""

ANYWHERE = ("gradient", "input_x_gradient", "integrated_gradients", "smoothgrad", "fullgrad")
"""Methods that explain whatever has a gradient; the others may refuse, with a reason."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_every_kind_of_model_keeps_the_contract_or_is_refused(method: str, kind: str):
    model, feed, options, shape, picture = KINDS[kind]
    try:
        result = convert(model, method, **options)
    except OnnxsalError:
        if method in ANYWHERE:
            raise
        return
    before, after = run(model, feed), run(result, feed)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    assert list(after)[: len(before)] == list(before)
    of_tokens, chosen = kind == "tokens", get_method(method)
    wanted = ["attribution", *(["token_attribution"] if of_tokens else []), *(["saliency_map"] if picture else [])]
    wanted += ["explained_class", "explained_score"]
    wanted += (["residual"] if chosen.law else []) + (["standard_error"] if wrapper_of(chosen).estimates else [])
    wanted += ["reached"] if wrapper_of(chosen).books else []
    wanted += ["parts"] if of_tokens and wrapper_of(chosen).shares else []
    assert list(after)[len(before) :] == wanted
    for name in list(after)[len(before) :]:
        shapes = {"attribution": shape, "standard_error": shape, "token_attribution": shape[:-1], "saliency_map": picture}
        assert after[name].shape[: 1 if name == "parts" else None] == shapes.get(name, shape[:1])
        assert np.isfinite(after[name]).all()
    if "parts" in after:
        np.testing.assert_allclose(after["parts"].sum(1), after["explained_score"], rtol=1e-3, atol=1e-5)
    assert not picture or after["saliency_map"].dtype == np.float32
