"""What is measured on a real model: its gradient against finite differences in float64, the residual of FullGrad, zeros, NaN, the methods.

The gradient g is compared with d = (f(x + h v) - f(x - h v)) / 2h along random directions v, where f is the score that was explained,
read from the *original* model: the error is rms(g.v - d) / rms(d). f runs in float64: every float32 of the file becomes a float64, in
ONNX Runtime where it has the kernels, else in the reference evaluator that the tests use as their oracle. Its score has to be that of
the float32 file. A model in half precision or with rounded activations is a staircase, which has no finite differences: its gradient is
compared with that of its float32 twin, |g - g'| / |g'|, and the twin's gradient with finite differences.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

import onnxsal
from onnxsal.errors import OnnxsalError
from onnxsal.runtime.session import open_session
from tests.oracle import Evaluator

METHODS = ("gradient", "integrated_gradients", "fullgrad", "lrp_epsilon", "attnlrp", "deeplift", "gradcam", "feature_ablation")
FEW_STEPS = {"integrated_gradients": {"n_steps": 8}}
"""So that no model takes minutes; enough to see whether a method works."""
DIRECTIONS = 3
KINKS = 1e-5
"""Error above which the gradient is taken in float64 too: one ReLU of millions that float32 puts beyond its kink is 1e-3."""
STEADY = 1e-6
"""Relative difference of two finite differences below which no third is taken."""

Feed = dict[str, np.ndarray]
Run = Callable[[Feed], np.ndarray]


@dataclass(frozen=True)
class Made:
    """A model to measure: its file, what it is fed, options of ``convert`` (which tensor, which output, ...), and its float32 twin, if
    it is not in float32 itself. ``note`` is put beside what is explained.
    ``heavy``: an evaluation in float64 takes too long, so the float32 file is stepped.
    """

    proto: onnx.ModelProto
    feed: Feed
    options: Mapping[str, Any]
    twin: onnx.ModelProto | None = None
    note: str = ""
    heavy: bool = False


def measured(made: Made, methods: tuple[str, ...] = METHODS) -> Iterator[dict[str, Any]]:
    """What is known so far, after each step: so that a step that does not end loses nothing of those before it."""
    record: dict[str, Any] = facts(made.proto) | {"note": made.note, "methods": {}}
    gradient: Held | None = None
    for method in methods:
        record["step"] = method
        yield record
        record["methods"][method], held = verdict(made, method)
        if held is not None and method == "gradient":
            gradient = held
            record |= ends(held)
        if held is not None and method == "fullgrad":
            assert held.told.residual is not None
            record["residual"] = float(np.abs(held.told.residual).max())
    if gradient is not None:
        record["step"] = "finite differences"
        yield record
        record |= compared(made, gradient)
    del record["step"]
    yield record


@dataclass(frozen=True)
class Held:
    """A model that was explained, and what was said."""

    explainer: onnxsal.Explainer
    told: onnxsal.Explanation


def facts(proto: onnx.ModelProto) -> dict[str, Any]:
    """Opset and number of nodes, those of bodies included."""
    opset = max((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), default=0)
    return {"opset": opset, "nodes": sum(1 for _ in nodes_of(proto.graph))}


def ends(held: Held) -> dict[str, Any]:
    """What was explained at what, and how much of the attribution is zero."""
    question, map_ = held.explainer.conversion.question, held.told.attribution
    return {"x": question.x.name, "y": question.start.name, "shape": list(map_.shape), "zeros": float((map_ == 0).mean())}


def verdict(made: Made, method: str) -> tuple[str, Held | None]:
    """ "works", or what is wrong with it, and what was explained, if anything was."""
    try:
        held = explained(made.proto, made, method)
    except OnnxsalError as error:
        return f"refused: {reason(str(error))}", None
    except Exception as error:  # whatever it is, it is a fault to be listed, and the other methods are tried
        return f"fault: {type(error).__name__}: {(str(error).strip() or '-').splitlines()[0]}", None
    told, flaws = held.told, []
    parts = [told.attribution, told.score, *(p for p in (told.residual, told.saliency_map) if p is not None)]
    if not all(np.isfinite(p).all() for p in parts):
        flaws.append("not finite")
    if empty := sum(not np.any(one.attribution) and (one.saliency_map is None or not np.any(one.saliency_map)) for one in told):
        flaws.append(f"zero everywhere in {empty} of {len(told)} samples")
    return f"wrong: {', '.join(flaws)}" if flaws else "works", held


def reason(text: str) -> str:
    """The first line of a refusal, and the operators that the others name."""
    first, *rest = text.strip().splitlines()
    operators = {found[1] for line in rest if (found := re.search(r"node '[^']*' \((\w+), opset", line))}
    return f"{first} {', '.join(sorted(operators))}" if operators else first


def explained(proto: onnx.ModelProto, made: Made, method: str, **more: Any) -> Held:
    options = {**made.options, **FEW_STEPS.get(method, {}), **more}
    explainer = onnxsal.Explainer(proto, method, providers="cpu", example=made.feed, **options)
    return Held(explainer, explainer.explain(made.feed))


def compared(made: Made, held: Held) -> dict[str, Any]:
    """The gradient's relative error and what it was compared with."""
    if made.twin is None:
        return finite(made.proto, made, held)
    single = Made(made.twin, {k: v.astype(np.float32) if v.dtype == np.float16 else v for k, v in made.feed.items()}, made.options)
    other = explained(single.proto, single, "gradient", target=held.told.target)
    gap = np.linalg.norm(held.told.attribution.astype(np.float64) - other.told.attribution) / np.linalg.norm(other.told.attribution)
    beside = finite(single.proto, single, other)
    return {"error": float(gap), "against": "float32 twin", "twin_error": beside["error"], "twin_against": beside["against"]}


def finite(proto: onnx.ModelProto, made: Made, held: Held) -> dict[str, Any]:
    """The gradient against finite differences of the original model."""
    question, told = held.explainer.conversion.question, held.told
    inner, start = question.x.name, question.start.name
    if start not in names_of(proto.graph):  # a rewritten file: the same numbers have another name in the one that came
        start = squashed(proto.graph, question.output)
        if start == question.output and question.link:  # the scores were rearranged behind their softmax, and no tensor of the file is them
            return {"error": None, "against": "not compared: no tensor of the file holds the scores in their order"}
    part = cut(proto, inner, start)
    feed = {k: v for k, v in made.feed.items() if k in {i.name for i in part.graph.input}}
    if inner not in feed:
        probe = cut(proto, None, inner)
        feed[inner] = open_session(probe, "cpu", optimise=False).run({i.name: made.feed[i.name] for i in probe.graph.input})[inner]
    session = open_session(part, "cpu", optimise=False)

    def score(rows: np.ndarray) -> float:
        flat = np.asarray(rows, np.float64).reshape(len(told.target), -1)
        picked = np.where(question.binary & (told.target == 0), -flat[:, 0], flat[np.arange(len(flat)), told.target % flat.shape[1]])
        return float(picked.sum())

    single = score(session.run(feed)[start])
    if abs(single - float(told.score.astype(np.float64).sum())) > 1e-3 * max(abs(single), 1e-3):
        return {"error": None, "against": f"the explained score {told.score.sum():.6g} is not the model's, {single:.6g}"}
    most = float(np.abs(session.run(feed)[start]).max())
    run, against = (None, "heavy") if made.heavy else doubled(part, feed, start, lambda rows: abs(score(rows) - single) < 1e-3 * most)
    if run is None:
        d, unsteady = differences(lambda x: score(session.run({**feed, inner: x})[start]), feed[inner], 0.2, 0.5, 12)
        return {"error": relative(d, told.attribution), "against": f"float32 steps +- {unsteady:.0e}", "why32": against}
    wide = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in feed.items()}
    d, _ = differences(lambda x: score(run({**wide, inner: x})), wide[inner], 1e-6, 0.1, 4)
    error = relative(d, told.attribution)
    return {"error": error, "against": against} | ({"exact": relative(d, in_double(held, made))} if error > KINKS else {})


def in_double(held: Held, made: Made) -> np.ndarray:
    """The attribution by the converted file in float64 throughout."""
    twin = cast(held.explainer.conversion.proto, TensorProto.FLOAT, TensorProto.DOUBLE)
    feed = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in made.feed.items()}
    return np.asarray(Evaluator(twin).run(["attribution"], feed | {"target": held.told.target})[0])


def differences(f: Callable[[np.ndarray], float], x: np.ndarray, first: float, ratio: float, count: int) -> tuple[list[float], float]:
    """Finite differences along each direction, and how unsteady they are, relative to their rms.

    The steps are first, first * ratio, ... times the rms of x; of their central differences that one is taken which differs least from
    the one before it (the first that hardly differs ends the search): large steps leave the linear piece, small ones drown in rounding.
    """
    size = float(np.sqrt(np.mean(x.astype(np.float64) ** 2))) or 1.0
    found, unsteady = [], []
    for v in directions(x.shape):
        slopes: list[float] = []
        for k in range(count):
            h = first * size * ratio**k
            high, low = (x + np.asarray(s * h * v, x.dtype) for s in (1, -1))
            slopes.append((f(high) - f(low)) / (2 * h))
            if k and abs(slopes[k] - slopes[k - 1]) < STEADY * abs(slopes[k]):
                break
        changes = np.abs(np.diff(slopes))
        best = int(np.argmin(changes))
        found.append(slopes[best + 1])
        unsteady.append(float(changes[best]))
    return found, float(np.linalg.norm(unsteady) / (np.linalg.norm(found) or 1.0))


def relative(d: list[float], gradient: np.ndarray) -> float:
    """rms(g.v - d) / rms(d)."""
    g = [float((gradient.astype(np.float64) * v).sum()) for v in directions(gradient.shape)]
    return float(np.linalg.norm(np.subtract(g, d)) / (np.linalg.norm(d) or 1.0))


def directions(shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for _ in range(DIRECTIONS):
        yield rng.standard_normal(shape)


# ----- the original model, cut and in another precision -----


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from nodes_of(body)


def bodies(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    return [a.g for a in node.attribute if a.type == AttributeProto.GRAPH]


def names_of(graph: onnx.GraphProto) -> set[str]:
    return {i.name for i in graph.input} | {name for node in graph.node for name in node.output if name}


def squashed(graph: onnx.GraphProto, output: str) -> str:
    """What the last softmax or sigmoid before an output is taken of; the output itself where there is none."""
    producers, name = {o: node for node in graph.node for o in node.output}, output
    while name in producers and producers[name].op_type in ("Reshape", "Flatten", "Squeeze", "Identity", "Cast"):
        name = producers[name].input[0]
    last = producers.get(name)
    return last.input[0] if last is not None and last.op_type in ("Softmax", "LogSoftmax", "Sigmoid") else output


def cut(proto: onnx.ModelProto, start: str | None, end: str) -> onnx.ModelProto:
    """The part of a model from the tensor ``start`` (None: from its inputs) and all other inputs to the tensor ``end``."""
    made = onnx.ModelProto.FromString(proto.SerializeToString())
    graph = made.graph
    wanted, kept = {end}, []
    for node in reversed(graph.node):
        if wanted.isdisjoint(node.output) or (start is not None and start in node.output):
            continue
        kept.append(node)
        wanted |= {*node.input} | {name for body in bodies(node) for inner in nodes_of(body) for name in inner.input}
    weights = {t.name for t in graph.initializer}
    inputs = [i for i in graph.input if i.name in wanted and i.name not in weights]
    if start is not None and start not in {i.name for i in inputs}:
        inputs.append(onnx.ValueInfoProto(name=start, type=helper.make_tensor_type_proto(TensorProto.FLOAT, None)))
    replace(graph.node, reversed(kept))
    replace(graph.initializer, [t for t in graph.initializer if t.name in wanted])
    replace(graph.input, inputs)
    replace(graph.output, [onnx.ValueInfoProto(name=end)])
    del graph.value_info[:]
    return made


def replace(field: Any, entries: Any) -> None:
    copies = [type(e).FromString(e.SerializeToString()) for e in entries]
    del field[:]
    field.extend(copies)


def cast(proto: onnx.ModelProto, old: int, new: int) -> onnx.ModelProto:
    """The model with every float type ``old`` (a ``TensorProto`` type) made ``new``: weights, constants, casts, inputs and outputs."""
    made = onnx.ModelProto.FromString(proto.SerializeToString())
    kept = {name for node in nodes_of(made.graph) if node.op_type in ("Resize", "Upsample") for name in node.input[1:]}  # always float32
    cast_graph(made.graph, old, new, kept)
    if facts(made)["opset"] < 13:  # the default axis was another one then, which onnx's own evaluator does not know
        for node in nodes_of(made.graph):
            if node.op_type in ("Softmax", "LogSoftmax") and not node.attribute:
                node.attribute.append(helper.make_attribute("axis", 1))
    return made


def cast_graph(graph: onnx.GraphProto, old: int, new: int, kept: set[str]) -> None:
    for tensor in graph.initializer:
        if tensor.name not in kept:
            cast_tensor(tensor, old, new)
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == old:
            value.type.tensor_type.elem_type = new
    del graph.value_info[:]
    for node in graph.node:
        for item in node.attribute:
            if item.type == AttributeProto.TENSOR and not kept.intersection(node.output):
                cast_tensor(item.t, old, new)
            elif item.type == AttributeProto.INT and item.name in ("to", "dtype") and item.i == old:
                item.i = new
            elif item.type == AttributeProto.GRAPH:
                cast_graph(item.g, old, new, kept)
        if node.op_type == "ConstantOfShape" and old == TensorProto.FLOAT and not node.attribute:  # a float32 0, though nothing says it
            node.attribute.append(helper.make_attribute("value", helper.make_tensor("", new, [1], [0.0])))
        if node.op_type == "Constant" and old == TensorProto.FLOAT and node.attribute[0].name in ("value_float", "value_floats"):
            array = np.asarray(helper.get_attribute_value(node.attribute[0]), helper.tensor_dtype_to_np_dtype(new))
            replace(node.attribute, [helper.make_attribute("value", numpy_helper.from_array(array))])


def cast_tensor(tensor: onnx.TensorProto, old: int, new: int) -> None:
    if tensor.data_type == old:
        array = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(new))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def doubled(part: onnx.ModelProto, feed: Feed, end: str, same: Callable[[np.ndarray], bool]) -> tuple[Run | None, str]:
    """The part in float64 and what runs it; None and why, where nothing does, or not to the same score."""
    twin = cast(part, TensorProto.FLOAT, TensorProto.DOUBLE)
    wide = {k: v.astype(np.float64) if v.dtype == np.float32 else v for k, v in feed.items()}
    ways: list[tuple[str, Callable[[], Run]]] = [
        ("float64 ONNX Runtime", lambda: (lambda s: lambda f: s.run(f)[end])(open_session(twin, "cpu", optimise=False))),
        ("float64 reference", lambda: (lambda e: lambda f: np.asarray(e.run([end], f)[0]))(Evaluator(twin))),
    ]
    why = ""
    for name, opened in ways:
        try:
            run = opened()
            rows = run(wide)
        except Exception as error:  # what cannot be run in float64 is run in float32, and the page says so
            why = f"{name}: {type(error).__name__} {str(error).splitlines()[0][:80]}"
            continue
        if rows.dtype == np.float64 and same(rows):
            return run, name
        why = f"{name}: another score"
    return None, why
