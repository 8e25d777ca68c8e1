"""How scores end: a probability is never called a logit, however its softmax or sigmoid is spelled, and what stands behind it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from onnxsal import Explainer
from onnxsal.ask import scores as asking
from onnxsal.ask.question import Question, ask
from onnxsal.ask.request import Ask
from onnxsal.engine.method import shipped_methods
from onnxsal.errors import InputError, TargetError
from onnxsal.facade.convert import conversion
from onnxsal.facts.grounds import Ground
from onnxsal.facts.heads import head_of
from onnxsal.graph import Model
from onnxsal.metrics.scorer import Scorer, scorer_of
from onnxsal.metrics.two_models import refuse_unlike
from onnxsal.ops.registry import known
from onnxsal.passes import prepare
from onnxsal.report.artefacts import record
from tests.oracle import run
from tests.small_models import cnn, draw, make, node

ONE, TWO, HALF, MINUS = (np.asarray(v, np.float32) for v in (1, 2, 0.5, -1))
NUMBERS = {"one": ONE, "two": TWO, "half": HALF, "minus": MINUS, "three": np.asarray([3], np.float32), "zero": np.float32(0)}
GRIDS = {"fine": np.float32(1 / 255), "coarse": np.float32(0.1), "lowest": np.uint8(0), "highest": np.uint8(255)}


# ----- a small body, and every way to end -----


@dataclass(frozen=True)
class Body:
    """Scores z of x by one linear node; ``place`` says where in x the score at index i of a sample lies, and by which weights."""

    nodes: tuple[onnx.NodeProto, ...]
    shape: tuple[int, ...]
    weights: np.ndarray

    def scores(self, x: np.ndarray) -> np.ndarray:
        wide = x.astype(np.float64)
        if len(self.shape) == 4:
            return np.einsum("nchw,kc->nkhw", wide, self.weights[:, :, 0, 0].astype(np.float64))
        return wide @ self.weights.astype(np.float64)

    def slope(self, x: np.ndarray, index: tuple[int, ...]) -> np.ndarray:
        """d z[index] / d x of one sample."""
        found = np.zeros(self.shape[1:])
        if len(self.shape) == 4:
            found[:, index[1], index[2]] = self.weights[index[0], :, 0, 0]
        else:
            found[index[:-1]] = self.weights[:, index[-1]]
        return found


def body(rank: int, classes: int) -> Body:
    if rank == 4:
        return Body((node("Conv", "x w", "z"),), (2, 3, 2, 3), draw(classes, 3, 1, 1, seed=5, scale=0.8))
    return Body((node("MatMul", "x w", "z"),), (2, 4) if rank == 2 else (2, 3, 4), draw(4, classes, seed=6, scale=0.8))


def negative_exp(out: str) -> list[onnx.NodeProto]:
    return [node("Neg", "z", "n"), node("Exp", "n", out)]


def shifted_exp(*, kept: bool) -> list[onnx.NodeProto]:
    """exp(z - max z) and its sum."""
    if kept:
        return [
            node("ReduceMax", "z axis", "m"),
            node("Sub", "z m", "d"),
            node("Exp", "d", "e"),
            node("ReduceSum", "e axis", "s"),
        ]
    return [
        node("ReduceMax", "z axis", "m0", keepdims=0),
        node("Unsqueeze", "m0 axis", "m"),
        node("Sub", "z m", "d"),
        node("Exp", "d", "e"),
        node("ReduceSum", "e axis", "s0", keepdims=0),
        node("Unsqueeze", "s0 axis", "s"),
    ]


Nodes = list[onnx.NodeProto]

SOFTMAXES: dict[str, Callable[[int], Nodes]] = {
    "Softmax": lambda a: [node("Softmax", "z", "p", axis=a)],
    "Softmax of z - max": lambda a: [node("ReduceMax", "z axis", "m"), node("Sub", "z m", "d"), node("Softmax", "d", "p", axis=a)],
    "Exp of LogSoftmax": lambda a: [node("LogSoftmax", "z", "l", axis=a), node("Exp", "l", "p")],
    "exp(z - lse)": lambda a: [node("ReduceLogSumExp", "z axis", "s"), node("Sub", "z s", "l"), node("Exp", "l", "p")],
    "exp(z - (m + log sum))": lambda a: [
        *shifted_exp(kept=True),
        node("Log", "s", "ls"),
        node("Add", "ls m", "lse"),
        node("Sub", "z lse", "l"),
        node("Exp", "l", "p"),
    ],
    "exp(z - m - log sum)": lambda a: [*shifted_exp(kept=False), node("Log", "s", "ls"), node("Sub", "d ls", "l"), node("Exp", "l", "p")],
    "e / sum": lambda a: [*shifted_exp(kept=True), node("Div", "e s", "p")],
    "e / sum, axes put back": lambda a: [*shifted_exp(kept=False), node("Div", "e s", "p")],
    "e times 1 / sum": lambda a: [*shifted_exp(kept=True), node("Reciprocal", "s", "i"), node("Mul", "i e", "p")],
    "e / exp(log sum)": lambda a: [
        *shifted_exp(kept=True),
        node("Log", "s", "ls"),
        node("Exp", "ls", "again"),
        node("Div", "e again", "p"),
    ],
}
LOG_SOFTMAXES: dict[str, Callable[[int], Nodes]] = {
    "LogSoftmax": lambda a: [node("LogSoftmax", "z", "p", axis=a)],
    "Log of Softmax": lambda a: [node("Softmax", "z", "q", axis=a), node("Log", "q", "p")],
    "z - lse": lambda a: [node("ReduceLogSumExp", "z axis", "s"), node("Sub", "z s", "p")],
    "z - m - log sum": lambda a: [*shifted_exp(kept=True), node("ReduceLogSum", "e axis", "ls"), node("Sub", "d ls", "p")],
}
SIGMOIDS: dict[str, Callable[[int], Nodes]] = {
    "Sigmoid": lambda a: [node("Sigmoid", "z", "p")],
    "1 / (1 + exp(-z))": lambda a: [*negative_exp("e"), node("Add", "one e", "b"), node("Div", "one b", "p")],
    "1 / (exp(-1 z) + 1)": lambda a: [
        node("Mul", "z minus", "n"),
        node("Exp", "n", "e"),
        node("Add", "e one", "b"),
        node("Div", "one b", "p"),
    ],
    "Reciprocal": lambda a: [*negative_exp("e"), node("Add", "e one", "b"), node("Reciprocal", "b", "p")],
    "e / (1 + e)": lambda a: [node("Exp", "z", "e"), node("Add", "e one", "b"), node("Div", "e b", "p")],
    "1/2 + tanh(z/2)/2": lambda a: [
        node("Mul", "z half", "u"),
        node("Tanh", "u", "t"),
        node("Mul", "half t", "v"),
        node("Add", "half v", "p"),
    ],
    "(1 + tanh(z/2)) / 2": lambda a: [
        node("Div", "z two", "u"),
        node("Tanh", "u", "t"),
        node("Add", "t one", "v"),
        node("Div", "v two", "p"),
    ],
    "(1 - tanh(-z/2)) / 2": lambda a: [
        node("Neg", "z", "n"),
        node("Mul", "n half", "u"),
        node("Tanh", "u", "t"),
        node("Sub", "one t", "v"),
        node("Mul", "v half", "p"),
    ],
    "1 - sigmoid(-z)": lambda a: [node("Neg", "z", "n"), node("Sigmoid", "n", "q"), node("Sub", "one q", "p")],
    "exp(-softplus(-z))": lambda a: [node("Neg", "z", "n"), node("Softplus", "n", "s"), node("Neg", "s", "l"), node("Exp", "l", "p")],
    "Exp of Log": lambda a: [node("Sigmoid", "z", "q"), node("Log", "q", "l"), node("Exp", "l", "p")],
}
LOG_SIGMOIDS: dict[str, Callable[[int], Nodes]] = {
    "Log of Sigmoid": lambda a: [node("Sigmoid", "z", "q"), node("Log", "q", "p")],
    "-softplus(-z)": lambda a: [node("Neg", "z", "n"), node("Softplus", "n", "s"), node("Neg", "s", "p")],
    "-log(1 + exp(-z))": lambda a: [*negative_exp("e"), node("Add", "one e", "b"), node("Log", "b", "l"), node("Neg", "l", "p")],
}
TWICE: dict[str, Callable[[int], Nodes]] = {
    "1/2 + tanh(z)/2": lambda a: [node("Tanh", "z", "t"), node("Mul", "t half", "v"), node("Add", "v half", "p")],
    "1 / (1 + exp(-2z))": lambda a: [
        node("Mul", "z two", "u"),
        node("Neg", "u", "n"),
        node("Exp", "n", "e"),
        node("Add", "one e", "b"),
        node("Div", "one b", "p"),
    ],
}
"""Sigmoids of 2 z."""
FLIPPED: dict[str, Callable[[int], Nodes]] = {
    "1 - sigmoid(z)": lambda a: [node("Sigmoid", "z", "q"), node("Sub", "one q", "p")],
    "1 / (1 + exp(z))": lambda a: [node("Exp", "z", "e"), node("Add", "one e", "b"), node("Div", "one b", "p")],
}
"""Sigmoids of -z."""
NOT_FOUND: dict[str, Callable[[int], Nodes]] = {
    "a Softmax in parts, nothing subtracted": lambda a: [node("Exp", "z", "e"), node("ReduceSum", "e axis", "s"), node("Div", "e s", "p")],
    "the mean of two": lambda a: [
        node("Softmax", "z", "p1", axis=a),
        node("Mul", "z two", "u"),
        node("Softmax", "u", "p2", axis=a),
        node("Mean", "p1 p2", "p"),
    ],
    "a clip": lambda a: [node("Clip", "z zero one", "p")],
    "1 / (2 + exp(-z))": lambda a: [*negative_exp("e"), node("Add", "two e", "b"), node("Div", "one b", "p")],
    "a hard sigmoid": lambda a: [node("HardSigmoid", "z", "p")],
    "two Softmaxes": lambda a: [node("Softmax", "z", "q", axis=a), node("Softmax", "q", "p", axis=a)],
    "a Softmax of a Sigmoid": lambda a: [node("Sigmoid", "z", "q"), node("Softmax", "q", "p", axis=a)],
    "shares of rectified scores": lambda a: [
        node("Softplus", "z", "r"),
        node("ReduceSum", "r axis", "s"),
        node("Div", "r s", "p"),
    ],
    "1/2 + arctan / pi": lambda a: [node("Atan", "z", "t"), node("Div", "t pi", "v"), node("Add", "v half", "p")],
    "Phi": lambda a: [node("Erf", "z", "t"), node("Add", "t one", "v"), node("Mul", "v half", "p")],
    "a Softmax less the wrong largest": lambda a: [
        node("ReduceMax", "z axis", "m"),
        node("Sub", "z m", "d"),
        node("Exp", "d", "e"),
        node("Add", "e one", "f"),
        node("ReduceSum", "f axis", "s"),
        node("Div", "f s", "p"),
    ],
}
"""Probabilities (or at least numbers between 0 and 1) whose logits nobody knows."""

LOGIT = {"softmax": SOFTMAXES, "log_softmax": LOG_SOFTMAXES, "sigmoid": SIGMOIDS, "log_sigmoid": LOG_SIGMOIDS}
FACTORS = {**dict.fromkeys(TWICE, 2.0), **dict.fromkeys(FLIPPED, -1.0)}


def model_of(made: Body, nodes: Sequence[onnx.NodeProto], axis: int, extra: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    last = nodes[-1].output[0]
    weights = {"w": made.weights, "axis": np.asarray([axis]), "pi": np.float32(np.pi), **NUMBERS, **GRIDS, **(extra or {})}
    used = {i for n in (*made.nodes, *nodes) for i in n.input}
    stored = {k: np.asarray(v) for k, v in weights.items() if k in used}
    kind = TensorProto.DOUBLE if any(n.op_type == "Cast" for n in nodes) else TensorProto.FLOAT
    return make([*made.nodes, *nodes], {"x": ["N", *made.shape[1:]]}, {last: None}, stored, types={last: kind})


def asked(model: onnx.ModelProto, **options: Any) -> Question:
    return ask(prepare(onnx.ModelProto.FromString(model.SerializeToString()), known).model, **options)


def flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


# ----- the table of endings -----

ENDINGS = [(kind, name, nodes) for kind, table in LOGIT.items() for name, nodes in table.items()]


@pytest.mark.parametrize(("kind", "nodes"), [(k, n) for k, _, n in ENDINGS], ids=[n for _, n, _ in ENDINGS])
def test_the_logits_are_found_however_a_head_is_spelled(kind: str, nodes: Callable[[int], Nodes]):
    made = body(2, 3)
    model = model_of(made, nodes(1), 1)
    head = head_of(Model(model), "p")
    assert head is not None
    assert (head.kind, head.logits, head.factor) == (kind, "z", 1.0)
    assert head.axis == (1 if "softmax" in kind else None)
    question = asked(model)
    assert (question.start.name, question.score, question.link, question.binary) == ("z", "logit", kind.removeprefix("log_"), False)
    (found,) = [f for f in question.found if f.what == "head"]
    assert found.ground == Ground.PROVED
    assert "logits 'z' before a" in found.value


@pytest.mark.parametrize("name", FACTORS)
def test_logits_without_a_name_get_one(name: str):
    made, x = body(2, 3), draw(2, 4, seed=8)
    found = Explainer(model_of(made, {**TWICE, **FLIPPED}[name](1), 1), "gradient").explain(x, 1)
    assert found.parameters["score"] == "logit"
    np.testing.assert_allclose(found.score, FACTORS[name] * made.scores(x)[:, 1], rtol=1e-5)
    np.testing.assert_allclose(found.attribution, [FACTORS[name] * made.slope(x, (1,))] * 2, rtol=1e-5)


@pytest.mark.parametrize("name", NOT_FOUND)
def test_a_probability_of_unknown_logits_is_raw(name: str):
    made, x = body(2, 3), draw(2, 4, seed=8)
    model = model_of(made, NOT_FOUND[name](1), 1)
    found = Explainer(model, "gradient").explain(x, 1)
    assert found.parameters["score"] == "raw"
    assert "is a probability whose logits were not found" in found.doubt
    np.testing.assert_allclose(found.score, run(model, {"x": x})["p"][:, 1], rtol=1e-5)
    asked_for = Explainer(model, "gradient", score="probability").explain(x, 1)
    np.testing.assert_allclose(asked_for.score, found.score, rtol=1e-6)
    assert asked_for.doubt == ""
    scorer = Scorer(model)
    np.testing.assert_allclose(scorer.probabilities(x), run(model, {"x": x})["p"], rtol=1e-5)


def test_what_is_summed_along_another_axis_is_no_softmax():
    """e[n, i, j] / sum_i e[n, i, j] put along the wrong axis: as many rows as columns, so that the shapes fit."""
    nodes = [
        *shifted_exp(kept=False)[:4],
        node("ReduceSum", "e axis", "s0", keepdims=0),
        node("Unsqueeze", "s0 two_", "s"),
        node("Div", "e s", "p"),
    ]
    made = Body((node("MatMul", "x w", "z"),), (2, 3, 4), draw(4, 3, seed=6))
    assert head_of(Model(model_of(made, nodes, 1, {"two_": np.asarray([2])})), "p") is None
    assert head_of(Model(model_of(made, nodes, 1, {"two_": np.asarray([1])})), "p") is not None


SCORES: dict[str, Nodes] = {
    "none": [node("Identity", "z", "p")],
    "a tanh": [node("Tanh", "z", "p")],
    "three tanhs": [node("Tanh", "z", "t"), node("Mul", "t three", "p")],
    "a rectified score": [node("Relu", "z", "p")],
    "an exponential": [node("Exp", "z", "p")],
    "a softplus": [node("Softplus", "z", "p")],
    "1 + tanh": [node("Tanh", "z", "t"), node("Add", "t three", "p")],
    "a log of shares": [node("Softmax", "z", "q"), node("Mul", "q z", "p")],
    "a quotient": [node("Exp", "z", "e"), node("Div", "z e", "p")],
}


@pytest.mark.parametrize("name", SCORES)
def test_what_is_no_probability_stays_a_logit(name: str):
    question = asked(model_of(body(2, 3), SCORES[name], 1))
    assert (question.start.name, question.score, question.doubt) == ("p", "logit", "")
    assert "nothing squashes" in str(question.found[-1])


# ----- random heads -----


@dataclass(frozen=True)
class Tail:
    """Nodes behind a head that keep its order: from ``p`` to ``q``, with the same on an array."""

    nodes: Callable[[str, str, bool], Nodes]
    apply: Callable[[np.ndarray], np.ndarray]


def grid(source: str, to: str, log: bool) -> Nodes:
    scale = "coarse highest" if log else "fine lowest"
    return [node("QuantizeLinear", f"{source} {scale}", f"{to}_q"), node("DequantizeLinear", f"{to}_q {scale}", to)]


def kept(*op: Any, **attributes: Any) -> Tail:
    return Tail(lambda a, b, log: [node(op[0], " ".join([a, *op[1:]]), b, **attributes)], lambda v: v)


TAILS: dict[str, Tail] = {
    "Identity": kept("Identity"),
    "Cast": kept("Cast", to=TensorProto.DOUBLE),
    "Dropout": kept("Dropout"),
    "Clip": Tail(lambda a, b, log: [node("Clip", f"{a} . one", b)], lambda v: v),
    "times": kept("Mul", "three"),
    "over": kept("Div", "two"),
    "grid": Tail(grid, lambda v: v),
    "Flatten": Tail(lambda a, b, log: [node("Flatten", a, b)], flat),
    "Reshape": Tail(lambda a, b, log: [node("Reshape", f"{a} rows", b)], flat),
    "Unsqueeze": Tail(lambda a, b, log: [node("Unsqueeze", f"{a} first", b)], lambda v: v[:, None]),
    "Transpose": Tail(
        lambda a, b, log: [],  # written by ``tails``, which knows the rank
        lambda v: np.moveaxis(v, 1, -1),
    ),
}
ONE_TYPE = ("times", "over", "grid", "Clip")
"""Tails with constants in float32: not behind a Cast."""


def tails(names: Sequence[str], z: np.ndarray, log: bool) -> tuple[Nodes, np.ndarray, bool]:
    """The nodes from ``p`` on, what they make of an array like z, and whether its order is still known: not where regrouped elements
    are transposed.
    """
    nodes: Nodes = []
    values, source, regrouped, ordered = z, "p", False, True
    for number, name in enumerate(names):
        to, tail = f"t{number}", TAILS[name]
        if name == "Transpose":
            perm = [0, *range(2, values.ndim), 1] if values.ndim > 1 else [0]
            moved = [d for p in perm if (d := p) and values.shape[p] != 1]
            ordered &= not (regrouped and moved != sorted(moved))
            nodes.append(node("Transpose", source, to, perm=perm))
        else:
            if name in ("Flatten", "Reshape", "Unsqueeze"):
                turned = not regrouped and any(n == "Transpose" for n in names[:number]) and not _untouched(z, names[:number])
                ordered &= not turned
                regrouped = True
            nodes += tail.nodes(source, to, log)
        values, source = tail.apply(values), to
    return nodes, values, ordered


def _untouched(z: np.ndarray, names: Sequence[str]) -> bool:
    """Whether tails leave the elements of a sample where they are."""
    index = np.arange(z.size).reshape(z.shape)
    after = index
    for name in names:
        after = TAILS[name].apply(after)
    return bool((after.ravel() == index.ravel()).all())


@st.composite
def heads(draw_from: st.DrawFn) -> tuple[str, str, int, int, int, list[str]]:
    rank, classes = draw_from(st.sampled_from([2, 3, 4])), draw_from(st.sampled_from([2, 3]))
    kind = draw_from(st.sampled_from([*LOGIT, "twice", "flipped", "not found"]))
    table = {**LOGIT, "twice": TWICE, "flipped": FLIPPED, "not found": NOT_FOUND}[kind]
    axis = draw_from(st.sampled_from(range(1, rank)))
    names = draw_from(st.lists(st.sampled_from(sorted(TAILS)), max_size=4))
    at = names.index("Cast") if "Cast" in names else len(names)
    names = [n for i, n in enumerate(names) if i <= at or n not in (*ONE_TYPE, "Cast")]
    return kind, draw_from(st.sampled_from(sorted(table))), rank, classes, axis, names


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(heads())
def test_random_heads(drawn: tuple[str, str, int, int, int, list[str]]):
    """The score is the logit in closed form, and its gradient; or it is called raw, with a doubt, and is what the model returns."""
    kind, name, rank, classes, axis, names = drawn
    made, table = body(rank, classes), {**LOGIT, "twice": TWICE, "flipped": FLIPPED, "not found": NOT_FOUND}[kind]
    x = draw(*made.shape, seed=rank + classes)
    z = made.scores(x)
    behind, values, ordered = tails(names, z, kind.startswith("log"))
    extra = {"rows": np.asarray([0, -1]), "first": np.asarray([1])}
    model = model_of(made, [*table[name](axis), *behind], axis, extra)
    output = model.graph.output[0].name
    if kind in ("not found",) and any(n in ("times", "over") for n in names):
        return  # a third of a probability, or three: other numbers
    target = int(np.random.default_rng(len(names) + axis).integers(flat(values).shape[1]))
    explainer = Explainer(model, "gradient", input="x")
    found = explainer.explain(x, np.asarray([target, target]))
    label = found.parameters["score"]
    if kind == "not found":
        assert label == "raw"
    elif ordered:
        assert label == "logit"
    if label == "raw":
        assert found.doubt
        np.testing.assert_allclose(found.score, flat(run(model, {"x": x})[output])[:, target], rtol=1e-4, atol=1e-6)
        return
    index = np.arange(z[0].size).reshape(1, *z.shape[1:])
    for n in names:
        index = TAILS[n].apply(index)
    place = np.unravel_index(int(flat(index)[0, target]), z.shape[1:])
    factor = {**FACTORS}.get(name, 1.0)
    np.testing.assert_allclose(found.score, factor * z[(slice(None), *place)], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.attribution, [factor * made.slope(x, tuple(int(p) for p in place))] * 2, rtol=1e-4, atol=1e-6)


# ----- one sigmoid, two classes -----


def single(spelling: str, shape: str = "[N, 1]", final: Nodes | None = None) -> onnx.ModelProto:
    """A convolutional network with one score z, and a sigmoid of it."""
    weights = {"K": draw(4, 3, 3, 3, seed=1, scale=0.5), "B": draw(4, seed=2, scale=0.3), "V": draw(4, 1, seed=3, scale=3)}
    stem = [
        node("Conv", "x K B", "C", pads=[1, 1, 1, 1]),
        node("Relu", "C", "R"),
        node("GlobalAveragePool", "R", "G"),
        node("Flatten", "G", "F"),
        node("MatMul", "F V", "Z"),
        node("Reshape", "Z shape", "z"),
    ]
    sizes: dict[str, list[int]] = {"[N, 1]": [0, 1], "[N]": [-1], "[N, 1, 1]": [0, 1, 1]}
    nodes = [*stem, *(final if final is not None else {**SIGMOIDS, **LOG_SIGMOIDS}[spelling](0))]
    used = {i for n in nodes for i in n.input}
    stored = {k: np.asarray(v) for k, v in {**weights, **NUMBERS, **GRIDS, "shape": np.asarray(sizes[shape])}.items() if k in used}
    last = nodes[-1].output[0]
    return make(nodes, {"x": ["N", 3, 6, 6]}, {last: ["N", *sizes[shape][1:]]}, stored)


X = draw(3, 3, 6, 6, seed=4)


def log_odds() -> np.ndarray:
    return run(single("", final=[]), {"x": X})["z"].astype(np.float64).ravel()


@pytest.mark.parametrize("name", [*SIGMOIDS, *LOG_SIGMOIDS])
@pytest.mark.parametrize("shape", ["[N, 1]", "[N]"])
def test_a_single_sigmoid_has_two_classes(name: str, shape: str):
    model, z = single(name, shape), log_odds()
    positive = Explainer(single("", shape, []), "gradient").explain(X, 0)
    explainer = Explainer(model, "gradient")
    for target, sign in ((1, 1), (0, -1)):
        found = explainer.explain(X, target)
        assert found.target.tolist() == [target] * 3
        np.testing.assert_allclose(found.score, sign * z, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found.attribution, sign * positive.attribution, rtol=1e-4, atol=1e-7)
        p = 1 / (1 + np.exp(-sign * z))
        as_probability = Explainer(model, "gradient", score="probability").explain(X, target)
        np.testing.assert_allclose(as_probability.score, p, rtol=1e-4)
        slope = (p * (1 - p)).reshape(-1, 1, 1, 1)
        np.testing.assert_allclose(as_probability.attribution, sign * slope * positive.attribution, rtol=1e-3, atol=1e-6)
    assert explainer.explain(X).target.tolist() == (z > 0).astype(int).tolist()
    assert (z > 0).any()
    assert (z < 0).any()
    adopted = Explainer(explainer.conversion.proto)
    np.testing.assert_array_equal(adopted.explain(X, 0).attribution, explainer.explain(X, 0).attribution)
    with pytest.raises(TargetError, match="2 classes, 0 to 1"):
        explainer.explain(X, 2)


SETTINGS: dict[str, dict[str, Any]] = {
    "occlusion": {"window": 3, "stride": 3},
    "rise": {"n_masks": 16},
    "smoothgrad": {"n_samples": 4},
    "smooth_fullgrad": {"n_samples": 4},
    "lrp_epsilon_gamma_box": {"black": np.float32(-4), "white": np.float32(4)},
}


NOT_LINEAR = (
    *("scorecam", "rise", "gradcam_plus_plus", "layercam", "guided_gradcam", "guided_backprop", "deconvnet", "focus"),
    "class_competition",
)
"""Methods whose map of the negative class is not that of the positive one with the other sign: they use probabilities, signs or sizes."""


OF_ATTENTION = ("chefer", "attention_rollout")
"""Methods that the network, which has no attention, is not for."""


@pytest.mark.parametrize("method", [m for m in shipped_methods() if not m.startswith("pattern") and m not in OF_ATTENTION])
@pytest.mark.parametrize("score", ["logit", "probability"])
def test_every_method_explains_both_classes(method: str, score: str):
    """The negative class's score is the positive one's with the other sign, and so are attributions that are linear in it."""
    given = SETTINGS.get(method, {})
    explainer = Explainer(single("Sigmoid"), method, score=score, **given)
    positive, negative = explainer.explain(X, 1), explainer.explain(X, 0)
    z = log_odds()
    wanted = (z, -z) if score == "logit" else (1 / (1 + np.exp(-z)), 1 / (1 + np.exp(z)))
    for found, own in zip((positive, negative), wanted, strict=True):
        np.testing.assert_allclose(found.score, own, rtol=1e-4)
        assert found.residual is None or found.residual.max() < 2e-2
    if method not in NOT_LINEAR and score == "logit":
        np.testing.assert_allclose(negative.attribution, -positive.attribution, rtol=1e-3, atol=1e-6)


def test_the_plain_model_of_a_single_sigmoid():
    model, z = single("1 / (1 + exp(-z))"), log_odds()
    scorer = Scorer(model)
    np.testing.assert_allclose(scorer.logits(X), np.stack([-z, z], 1), rtol=1e-4)
    p = 1 / (1 + np.exp(-z))
    np.testing.assert_allclose(scorer.probabilities(X), np.stack([1 - p, p], 1), rtol=1e-4)
    assert scorer.predict(X).tolist() == (z > 0).astype(int).tolist()
    assert scorer.targets(X, [0, 1, -1]).tolist() == [0, 1, int(z[2] > 0)]
    explainer = Explainer(model, "gradient", labels=["cat", "dog"])
    np.testing.assert_allclose(scorer_of(explainer).logits(X), scorer.logits(X), rtol=1e-6)
    assert explainer.explain(X, "cat").target.tolist() == [0, 0, 0]


def test_a_regression_has_one_class():
    explainer = Explainer(single("", final=[]), "gradient")
    assert not explainer.conversion.question.binary
    with pytest.raises(TargetError, match="1 classes"):
        explainer.explain(X, 1)


def test_raw_is_the_output_as_it_is():
    found = Explainer(single("Sigmoid"), "gradient", score="raw").explain(X, 0)
    np.testing.assert_allclose(found.score, 1 / (1 + np.exp(-log_odds())), rtol=1e-5)
    assert found.doubt == ""


# ----- an int8 version is asked the same -----


def in_eight_bits(final: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A float model, and the same with its scores and its probabilities on grids, as ONNX Runtime's quantiser leaves them."""
    weights = {"k": draw(4, 3, 3, 3, seed=1, scale=0.5), "v": draw(4, 3, seed=3, scale=3), "step": np.float32(0.1), "half": np.uint8(128)}
    stem = [
        node("Conv", "x k", "c", pads=[1, 1, 1, 1]),
        node("Relu", "c", "r"),
        node("GlobalAveragePool", "r", "g"),
        node("Flatten", "g", "f"),
    ]
    axis = {"axis": 1} if final == "Softmax" else {}
    plain = [*stem, node("MatMul", "f v", "z"), node(final, "z", "y", **axis)]
    rounded = [
        *stem,
        node("MatMul", "f v", "z0"),
        node("QuantizeLinear", "z0 step half", "zq"),
        node("DequantizeLinear", "zq step half", "z"),
        node(final, "z", "p", **axis),
        node("QuantizeLinear", "p fine lowest", "pq"),
        node("DequantizeLinear", "pq fine lowest", "y"),
    ]
    shapes: Any = ({"x": ["N", 3, 8, 8]}, {"y": ["N", 3]})
    few = {k: weights[k] for k in ("k", "v")}
    return make(plain, *shapes, few), make(rounded, *shapes, {**weights, "fine": GRIDS["fine"], "lowest": GRIDS["lowest"]})


@pytest.mark.parametrize("final", ["Softmax", "Sigmoid"])
@pytest.mark.parametrize("method", ["gradient", "fullgrad", "integrated_gradients", "lrp_epsilon", "lrp_epsilon_plus_flat", "gradcam"])
def test_a_quantised_head_is_asked_for_its_logit(final: str, method: str):
    plain, rounded = in_eight_bits(final)
    x = draw(3, 3, 8, 8, seed=9)
    own, other = (Explainer(m, method).explain(x, [0, 1, 2]) for m in (plain, rounded))
    assert own.parameters["score"] == other.parameters["score"] == "logit"
    np.testing.assert_allclose(other.score, own.score, atol=0.051)
    scale = np.abs(own.attribution).max()
    np.testing.assert_allclose(other.attribution, own.attribution, atol=0.1 * scale)
    np.testing.assert_allclose(Scorer(rounded).probabilities(x), Scorer(plain).probabilities(x), atol=0.02)


# ----- where a run is looked at -----


def no_run(*_: Any, **__: Any) -> None:
    raise AssertionError("a run was looked at")


def swish_network() -> onnx.ModelProto:
    """Gates, normalisations and attention on the way to a linear layer."""
    weights = {
        "k": draw(4, 3, 3, 3, seed=1),
        "v": draw(4, 5, seed=3),
        "gain": draw(4, seed=5),
        "shift": draw(4, seed=6),
        "six": np.float32(6),
        "zero": np.float32(0),
        "axes": np.asarray([2, 3]),
    }
    nodes = [
        node("Conv", "x k", "c", pads=[1, 1, 1, 1]),
        node("Sigmoid", "c", "s"),
        node("Mul", "c s", "m"),
        node("Clip", "m zero six", "r"),
        node("ReduceMean", "r axes", "g", keepdims=0),
        node("LayerNormalization", "m0 gain shift", "n"),
        node("Softmax", "n", "a"),
        node("Mul", "a n", "w"),
        node("MatMul", "w v", "y"),
    ]
    nodes.insert(5, node("Sub", "g shift", "m0"))
    return make(nodes, {"x": ["N", 3, 6, 6]}, {"y": ["N", 5]}, weights)


@pytest.mark.parametrize("model", [cnn(), cnn(final=""), swish_network()], ids=["softmax", "linear", "gates and norms"])
def test_no_run_is_paid_for_where_the_graph_tells(model: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asking, "watch_values", no_run)
    assert conversion(Ask.of(model, "gradient")).question.score == "logit"


def test_small_scores_are_not_taken_for_probabilities():
    """Bounded hidden values and small weights: on ordinary input the scores lie in 0..1, on large input they do not."""
    weights = {"w": draw(4, 6, seed=1, scale=0.02), "v": draw(6, 1, seed=2, scale=3), "mid": np.float32(0.5)}
    nodes = [node("MatMul", "x w", "h"), node("Tanh", "h", "t"), node("MatMul", "t v", "s"), node("Add", "s mid", "y")]
    question = asked(make(nodes, {"x": ["N", 4]}, {"y": ["N", 1]}, weights))
    assert (question.score, question.doubt) == ("logit", "")
    assert question.found[-1].ground == Ground.SEEN


def test_where_no_run_is_possible_the_score_is_not_called_a_logit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asking, "watch_values", lambda *_: None)
    question = asked(model_of(body(2, 3), SCORES["three tanhs"], 1))
    assert question.score == "raw"
    assert "is not known" in question.doubt


@pytest.mark.parametrize("given", [None, {"x": draw(2, 4, seed=3)}])
def test_a_run_that_shows_a_probability_says_so(given: dict[str, np.ndarray] | None):
    model = Model(model_of(body(2, 3), NOT_FOUND["shares of rectified scores"](1), 1))
    found = asking.scores_of(model, "p", "logit", given)
    assert (found.score, found.link) == ("raw", "")
    assert found.found.ground == Ground.SEEN
    assert "a sum of 1 along axis 1" in found.found.why


# ----- reports -----


def test_a_record_of_a_single_sigmoid_names_both_classes():
    z = log_odds()
    for name in ("Sigmoid", "Log of Sigmoid"):
        explainer = Explainer(single(name), "gradient")
        told = record(explainer.explain(X)[0], explainer.conversion.question, ["cat", "dog"])
        best = int(z[0] > 0)
        assert [c["label"] for c in told["top"]] == [["cat", "dog"][best], ["cat", "dog"][1 - best]]
        p = 1 / (1 + np.exp(-abs(z[0])))
        wanted = np.array([p, 1 - p]) if name == "Sigmoid" else np.log([p, 1 - p])
        np.testing.assert_allclose([c["output"] for c in told["top"]], wanted, rtol=1e-4)
        assert told["target"]["label"] == ["cat", "dog"][best]


def test_two_models_are_asked_the_same_or_not_compared():
    made = body(2, 3)
    plain = Scorer(model_of(made, SCORES["none"], 1))
    for name in SOFTMAXES:
        refuse_unlike(plain, Scorer(model_of(made, SOFTMAXES[name](1), 1)))
    refuse_unlike(*(Scorer(m) for m in in_eight_bits("Softmax")))
    with pytest.raises(InputError, match=r"a score of one is logits 'z' before a softmax.*of the other output 'p' lies between 0 and 1"):
        refuse_unlike(Scorer(model_of(made, SOFTMAXES["Softmax"](1), 1)), Scorer(model_of(made, NOT_FOUND["the mean of two"](1), 1)))
    with pytest.raises(InputError, match=r"softmax.*before a sigmoid"):
        refuse_unlike(Scorer(model_of(made, SOFTMAXES["Softmax"](1), 1)), Scorer(model_of(made, SIGMOIDS["Sigmoid"](1), 1)))
    with pytest.raises(InputError, match="one has 2 classes, the other 3"):
        refuse_unlike(Scorer(single("Sigmoid")), plain)
