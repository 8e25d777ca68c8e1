"""Loops over runs of the model: what each place gets, what a turn takes, and that no map depends on either."""

from __future__ import annotations

import collections
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxsal
from onnxsal.errors import MethodError
from onnxsal.facts.footprint import bytes_of_row
from onnxsal.graph import Model
from onnxsal.graph.chunk import BUDGET, MOST, OPEN, Chunk, rows_within
from onnxsal.graph.emit import ON_CPU, ON_CUDA, RUNS_ON
from onnxsal.graph.load import load_model
from onnxsal.graph.model import captured
from onnxsal.runtime.session import open_session, optimised
from tests.crossings import crossing, loop_of
from tests.small_models import cnn, draw, make, node
from tests.torch_nets import exported, images

LITE0 = Path(__file__).resolve().parent.parent / "models" / "efficientnet_lite0.onnx"

LOOPED: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 6},
    "smoothgrad": {"n_samples": 6, "variant": "vargrad"},
    "smooth_fullgrad": {"n_samples": 6},
    "rise": {"n_masks": 6},
    "occlusion": {"window": 16, "stride": 8},
    "feature_ablation": {"grid": 3},
    "shapley_sampling": {"grid": 2, "exact": False, "n_samples": 4},
    "scorecam": {},
}
"""Every method with a loop, with few runs."""


@cache
def converted(name: str, method: str, place: str, chunk: Any = "auto", batch: int | None = None) -> onnx.ModelProto:
    return onnxsal.convert(exported(name, batch=batch), method, runs_on=place, chunk=chunk, **LOOPED[method])


def run(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    session = open_session(model)
    return session.run({session.inputs[0].name: x, "target": np.asarray([-1])})


def kinds(graph: onnx.GraphProto) -> collections.Counter[str]:
    return collections.Counter(f"{n.domain}.{n.op_type}".removeprefix(".") for n in graph.node)


def settled(model: onnx.ModelProto) -> Any:
    return json.loads({p.key: p.value for p in model.metadata_props}["onnxsal.parameters"])["chunk"]


# ----- a table of methods, so that none is forgotten -----


def test_every_method_with_a_chunk_is_tried():
    assert {name for name, method in onnxsal.methods().items() if "chunk" in method.parameters} == set(LOOPED)
    assert all(method.parameters["chunk"].default == "auto" for name, method in onnxsal.methods().items() if name in LOOPED)


@pytest.mark.parametrize("method", LOOPED)
@pytest.mark.parametrize("name", ["vgg_bn", "mobilenet"])
def test_no_map_depends_on_the_place_or_on_the_turns(method: str, name: str):
    x = images(2).numpy()
    wanted = run(converted(name, method, "any", 1), x)
    others = [*((place, "auto") for place in RUNS_ON), (ON_CPU, 4), (ON_CPU, "5 rows"), (ON_CUDA, "4 rows"), (ON_CUDA, 4)]
    for place, chunk in others:
        found = run(converted(name, method, place, chunk), x)
        for output in ("attribution", "saliency_map", "explained_score"):
            scale = np.abs(wanted[output]).max()
            assert scale > 0
            np.testing.assert_allclose(found[output], wanted[output], rtol=0, atol=1e-5 * scale, err_msg=f"{output} {place} {chunk}")


# ----- the body, as ONNX Runtime opens it -----


def test_convolutions_of_the_body_take_the_blocked_layout():
    """All but those that it cannot hold, which are plain in the model itself too; with weights of the graph around, those of the replica
    stay plain. What makes them the body's own is folded."""
    if not kinds(optimised(exported("resnet18")).graph)["com.microsoft.nchwc.Conv"]:
        pytest.skip("this ONNX Runtime has no blocked layout on this machine")
    convolutions = len([n for n in exported("resnet18").graph.node if n.op_type == "Conv"])
    for method in ("integrated_gradients", "rise"):
        own, around = (kinds(loop_of(optimised(converted("resnet18", method, place, 1)))) for place in (ON_CPU, "any"))
        assert own["com.microsoft.nchwc.Conv"] >= convolutions, own
        assert own["Conv"] + own["com.microsoft.FusedConv"] == 0, own
        assert own["BatchNormalization"] == 0, own
        assert own["com.microsoft.nchwc.Conv"] - around["com.microsoft.nchwc.Conv"] >= convolutions, around
    for method in ("integrated_gradients", "smoothgrad"):
        own = kinds(loop_of(optimised(converted("resnet18", method, ON_CPU, 1))))
        assert own["Max"] == 0, own


def test_batch_normalisations_of_the_body_are_fused():
    model = exported("vgg_bn", fold=False)
    assert any(n.op_type == "BatchNormalization" for n in model.graph.node)
    body = loop_of(optimised(onnxsal.convert(model, "rise", runs_on=ON_CPU)))
    assert kinds(body)["BatchNormalization"] == 0, kinds(body)


@pytest.mark.parametrize("place", RUNS_ON)
def test_no_weight_is_stored_twice(place: str):
    for method, given in LOOPED.items():
        size = len(onnxsal.convert(LITE0, method, runs_on=place, **given).SerializeToString())
        assert size <= 1.05 * LITE0.stat().st_size, method


@pytest.mark.parametrize("method", ["integrated_gradients", "smooth_fullgrad", "rise"])
@pytest.mark.parametrize("chunk", [1, 2, "3 rows"])
@pytest.mark.parametrize("name", ["mobilenet", "vit", "densenet"])
def test_a_body_says_shapes_that_its_tensors_have(method: str, chunk: Any, name: str):
    """Run by itself on what it reads around it: sizes as told, and one number for each symbol."""
    model = converted(name, method, ON_CPU, chunk)
    body, shapes = loop_of(model), {"N": 2}  # the batch, as around it
    (loop,) = [n for n in model.graph.node if n.op_type == "Loop"]
    weights = {t.name for t in model.graph.initializer}
    around = [n for n in dict.fromkeys(captured(loop)) if n not in weights]
    given = values(model, [*around, *loop.input[2:]], images(2).numpy())
    alone = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    alone.graph.CopyFrom(body)
    alone.graph.initializer.extend(t for t in model.graph.initializer if t.name not in {*given, *(t.name for t in body.initializer)})
    alone.graph.input.extend(
        onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(given[n].dtype), None) for n in around
    )
    told = {
        v.name: [d.dim_param or (d.dim_value if d.HasField("dim_value") else None) for d in v.type.tensor_type.shape.dim]
        for v in body.value_info
    }
    assert len(told) >= len(exported(name).graph.node) // 2
    del alone.graph.output[:]
    alone.graph.output.extend(onnx.ValueInfoProto(name=name) for name in told)
    feed = {body.input[0].name: np.asarray(0), body.input[1].name: np.asarray(True)} | {n: given[n] for n in around}
    feed |= {i.name: given[n] for i, n in zip(body.input[2:], loop.input[2:], strict=True)}
    for (name_, wanted), found in zip(told.items(), unoptimised(alone).run(None, feed), strict=True):
        assert len(wanted) == found.ndim, name_
        for size, is_ in zip(wanted, found.shape, strict=True):
            assert size is None or is_ == (size if isinstance(size, int) else shapes.setdefault(size, is_)), (name_, wanted, found.shape)


def unoptimised(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def values(model: onnx.ModelProto, names: list[str], x: np.ndarray) -> dict[str, np.ndarray]:
    """Tensors of a converted model in a run on ``x``."""
    seen = onnx.ModelProto()
    seen.CopyFrom(model)
    known = {o.name for o in seen.graph.output} | {i.name for i in seen.graph.input}
    seen.graph.output.extend(onnx.ValueInfoProto(name=n) for n in dict.fromkeys(names) if n not in known)
    fed = {seen.graph.input[0].name: x, "target": np.asarray([-1])}
    session = unoptimised(seen)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, fed), strict=True)) | fed


# ----- what a turn takes -----


def test_a_chunk_is_a_number_or_a_number_of_rows():
    assert Chunk.read(3) == Chunk(3)
    assert Chunk.read(np.int64(3)) == Chunk(3)
    assert Chunk.read("64 rows") == Chunk(rows=64)
    assert Chunk.read("1 row") == Chunk(rows=1)
    assert not Chunk.read(1).several
    for wrong in (0, -1, True, 2.5, "3", "0 rows", "rows", "all", "", None, [2], "1000000000 rows"):
        assert Chunk.read(wrong) is None, wrong


@pytest.mark.parametrize("wrong", [0, 2.5, True, "all", "0 rows", [1, 2]])
def test_another_chunk_is_refused(wrong: Any):
    with pytest.raises(MethodError, match="chunk="):
        onnxsal.convert(cnn(), "rise", chunk=wrong)


def test_a_turn_is_as_large_as_the_place_bears():
    mebi = 1 << 20
    for place in RUNS_ON:
        assert rows_within(place, None) == OPEN[place]
        assert rows_within(place, 1) == MOST[place]
        assert rows_within(place, BUDGET[place] + 1) == 1
        assert rows_within(place, BUDGET[place] // 3) == 3
    assert [rows_within(place, 100 * mebi) for place in ("cpu", "any", "cuda")] == [1, 10, 81]


def test_bytes_of_a_row_are_those_of_its_tensors():
    """Of a model whose sizes only its batch leaves open, also where inference forgets the batch on the way."""
    model = Model(load_model(cnn()))
    every = range(len(model.nodes))
    tensors = [model.value(n) for i in every for n in model.nodes[i].proto.output]
    assert bytes_of_row(model, model.value("x"), every) == sum(4 * int(np.prod((v.shape or ())[1:])) for v in tensors)
    vit = Model(load_model(exported("vit")))
    whole = bytes_of_row(vit, vit.value("input"), range(len(vit.nodes)))
    fixed = Model(load_model(exported("vit", batch=1)))
    assert whole is not None
    assert abs(whole - (bytes_of_row(fixed, fixed.value("input"), range(len(fixed.nodes))) or 0)) <= 0.02 * whole
    nodes = [node("Conv", "x w", "c"), node("ReduceMean", "c a", "y", keepdims=0)]
    wide = Model(load_model(make(nodes, {"x": ["N", 2, "H", "W"]}, {"y": ["N", 2]}, {"w": draw(2, 2, 3, 3), "a": np.array([2, 3])})))
    assert bytes_of_row(wide, wide.value("x"), range(2)) is None


def test_what_auto_chose_is_recorded():
    for place in RUNS_ON:
        assert settled(onnxsal.convert(cnn(), "rise", runs_on=place)) == f"{MOST[place]} rows"
        assert settled(onnxsal.convert(cnn(batch=1), "rise", runs_on=place)) == 1
        assert settled(onnxsal.convert(cnn(), "rise", runs_on=place, chunk=7)) == 7
    assert settled(onnxsal.convert(LITE0, "ig", n_steps=2, runs_on=ON_CPU)) in (1, "2 rows")
    assert onnxsal.Explainer(cnn(), "rise").explain(draw(1, 3, 8, 8)).parameters["chunk"] == f"{MOST[ON_CPU]} rows"


def turns(model: onnx.ModelProto, batch: int) -> tuple[int, list[int]]:
    """How many turns the loop of a converted model takes, and the numbers of samples of each, seen in the state that counts them."""
    (loop,) = [n for n in model.graph.node if n.op_type == "Loop"]
    counted = onnx.ModelProto()
    counted.CopyFrom(model)
    (loop,) = [n for n in counted.graph.node if n.op_type == "Loop"]
    body = next(a.g for a in loop.attribute if a.name == "body")
    numbers = next(
        n.output[0] for n in body.node if n.op_type == "Range" or (n.op_type == "Unsqueeze" and n.input[0] == body.input[0].name)
    )
    body.node.append(onnx.helper.make_node("Size", [numbers], ["of_turn"]))
    body.output.append(onnx.helper.make_tensor_value_info("of_turn", onnx.TensorProto.INT64, []))
    loop.output.append("of_turns")
    counted.graph.output.append(onnx.ValueInfoProto(name="of_turns"))
    session = unoptimised(counted)
    x = draw(batch, 3, 8, 8)
    sizes = session.run(["of_turns"], {"x": x, "target": np.asarray([-1])})[0].tolist()
    return len(sizes), sizes


@pytest.mark.parametrize(
    ("place", "chunk", "count", "batch", "wanted"),
    [
        ("cpu", 4, 10, 1, [4, 4, 2]),
        ("cpu", 4, 10, 3, [4, 4, 2]),
        ("cpu", 1, 3, 2, [1, 1, 1]),
        ("cpu", 64, 10, 1, [10]),
        ("cpu", "4 rows", 10, 1, [4, 4, 2]),
        ("cpu", "4 rows", 5, 2, [2, 2, 1]),
        ("cpu", "4 rows", 3, 9, [1, 1, 1]),
        ("cpu", "400 rows", 10, 1, [10]),
        ("any", "4 rows", 10, 2, [2, 2, 2, 2, 2]),
        ("cuda", "4 rows", 10, 1, [2, 2, 2, 2, 2]),
        ("cuda", "5 rows", 10, 1, [5, 5]),
        ("cuda", "12 rows", 10, 2, [5, 5]),
        ("cuda", "5 rows", 7, 1, [1] * 7),
        ("cuda", "400 rows", 7, 3, [7]),
        ("cuda", 4, 10, 1, [4, 4, 2]),
    ],
)
def test_turns_take_what_was_said(place: str, chunk: Any, count: int, batch: int, wanted: list[int]):
    """On a card all turns are alike: one of another size would be planned anew."""
    model = onnxsal.convert(cnn(), "rise", n_masks=count, chunk=chunk, runs_on=place)
    assert turns(model, batch)[1] == wanted


# ----- between a card and its host -----


@pytest.mark.parametrize("chunk", ["auto", 1, 4])
@pytest.mark.parametrize("place", ["any", "cuda"])
@pytest.mark.parametrize("method", LOOPED)
def test_nothing_crosses_at_a_turn(method: str, place: str, chunk: Any):
    """Neither the number of the turn, nor its bounds, nor whether the loop goes on; where the batch is fixed too."""
    for batch in (None, 1):
        assert crossing(converted("vgg_bn", method, place, chunk, batch)) == []


def test_what_would_cross_is_seen():
    """The plain body: a number that the card computes, bounds of a Range of it, and a condition that passes through the card."""
    body = [
        node("Mul", "i four", "begin"),
        node("Add", "begin four", "end"),
        node("Range", "begin end one", "numbers"),
        node("Cast", "numbers", "points", to=1),
        node("ReduceSum", "points", "sum", keepdims=0),
        node("Add", "before sum", "after"),
        node("Identity", "on", "still"),
    ]
    ends = [("i", 7, []), ("on", 9, []), ("before", 1, [])], [("still", 9, []), ("after", 1, [])]
    inputs, outputs = ([onnx.helper.make_tensor_value_info(*v) for v in side] for side in ends)
    graph = onnx.helper.make_graph(body, "body", inputs, outputs)
    loop = onnx.helper.make_node("Loop", ["trips", "", "x"], ["y"], body=graph)
    model = make([loop], {"x": []}, {"y": []}, {"trips": np.asarray(3), "four": np.asarray(4), "one": np.asarray(1)})
    assert crossing(model) == [("begin", True), ("end", True), ("i", False), ("on", False), ("still", True)]
