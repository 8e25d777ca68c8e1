"""Where slopes are infinite or activations are no numbers: a branch that is not taken sends nothing, and what remains is named."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch

import onnxsal
from onnxsal.errors import InputError, UnsupportedError
from onnxsal.facts.wild import at_the_edge
from onnxsal.graph import Model
from onnxsal.ops.registry import REGISTRY, OpSpec
from tests.conformance import in_double
from tests.oracle import one_node_model, random_like, run, scaled_derivative
from tests.small_models import draw, make, node

NASTY = (0.0, 1.0, -1.0, 2.0, -2.0, 200.0, -200.0, math.inf, -math.inf, math.nan)
"""Zeros and poles, ends of domains, beyond them, and where exponentials overflow float32; and what other nodes make of such points."""

ONES = np.ones(4, np.float32)


def floats(**arrays: object) -> dict[str, np.ndarray]:
    return {k: np.asarray(v, np.float32) for k, v in arrays.items()}


def explain(model: onnx.ModelProto, x: np.ndarray, method: str = "gradient", target: int | None = 0, **options: object):
    return onnxsal.Explainer(model, method, score="raw", **options).explain(x.astype(np.float32), target)


# ----- every operator -----


NUMBERS_THAT_COUNT = ("Range", "Unique", "RoiAlign")
"""Operators that make fewer elements, or refuse to run, where all numbers that they read are alike or infinite."""


def by_operator() -> list:
    smooth = [s for s in REGISTRY.values() if not any(c.straight_through for c in s.cases) and s.op_type not in NUMBERS_THAT_COUNT]
    return [pytest.param(spec, id=spec.op_type) for spec in smooth]


def at_nasty_points(spec: OpSpec, signal: float) -> list[dict[str, np.ndarray]]:
    """The signals at the inputs of the operator's first case where these are all the same nasty number; finite numbers only for 1."""
    model, feed, wrt = one_node_model(spec, spec.cases[0], dtype=np.float32)
    wrt = [w for w in wrt if int(w[1:]) not in spec.stops]
    outputs = {n: a for n, a in run(model, feed).items() if a.dtype.kind == "f"} if spec.many else {"y0": run(model, feed)["y0"]}
    derived = onnxsal.vjp(model, wrt=wrt, outputs=list(outputs))
    cotangents = {f"cotangent/{n}": np.full(a.shape, signal, a.dtype) for n, a in outputs.items()}
    points = [p for p in NASTY if signal == 0 or math.isfinite(p)]
    return [run(derived, {n: np.full(a.shape, p, a.dtype) if n in wrt else a for n, a in feed.items()} | cotangents) for p in points]


def is_finite(result: dict[str, np.ndarray]) -> bool:
    return all(np.isfinite(a).all() for a in result.values() if a.dtype.kind == "f")


@pytest.mark.parametrize("spec", by_operator())
def test_a_signal_of_zero_is_never_multiplied_by_infinity(spec: OpSpec) -> None:
    """Not at finite points, whatever the operator; at others where the graph tells that they may come, which the random graphs try."""
    for point, found in zip(NASTY, at_nasty_points(spec, 0.0), strict=True):
        if math.isfinite(point):
            assert all(not a.any() for n, a in found.items() if n.startswith("vjp/")), point


@pytest.mark.parametrize("spec", [pytest.param(s, id=s.op_type) for s in REGISTRY.values() if s.facts.edge and s.family != "normalization"])
def test_what_states_an_edge_has_one(spec: OpSpec) -> None:
    assert not all(is_finite(found) for found in at_nasty_points(spec, 1.0))


# ----- random graphs with a branch that is not taken -----

Maker = tuple[str, dict[str, object]]

SINGULAR: dict[str, list[Maker]] = {
    "1/x": [("Reciprocal $", {})],
    "x/x": [("Div $ $", {})],
    "log": [("Log $", {})],
    "sqrt": [("Sqrt $", {})],
    "pow": [("Pow $ half", {})],
    "pow -1": [("Pow $ minus", {})],
    "exp": [("Mul $ steep", {}), ("Exp $", {})],
    "sinh": [("Mul $ steep", {}), ("Sinh $", {})],
    "cosh": [("Mul $ steep", {}), ("Cosh $", {})],
    "acos": [("Acos $", {})],
    "atanh": [("Atanh $", {})],
    "log of a sum": [("ReduceLogSum $ last", {}), ("Expand $ shape", {})],
    "remainder": [("Mod one $", {"fmod": 1})],
}

AROUND: dict[str, list[Maker]] = {
    "": [],
    "times x": [("Mul $ x", {})],
    "square": [("Mul $ $", {})],
    "plus x": [("Add $ x", {})],
    "relu": [("Relu $", {})],
    "sigmoid": [("Sigmoid $", {})],
    "tanh": [("Tanh $", {})],
    "gelu": [("Erf $", {}), ("Mul $ x", {})],
    "hardswish": [("HardSwish $", {})],
    "mish": [("Mish $", {})],
    "softsign": [("Softsign $", {})],
    "sin": [("Sin $", {})],
    "weights": [("MatMul $ w", {})],
    "norm": [("ReduceL2 $ last", {}), ("Expand $ shape", {})],
    "squares": [("ReduceSumSquare $ last", {}), ("Expand $ shape", {})],
    "product": [("ReduceProd $ last", {}), ("Expand $ shape", {})],
    "softmax": [("Softmax $", {"axis": -1})],
    "log softmax": [("LogSoftmax $", {"axis": -1})],
    "log sum exp": [("ReduceLogSumExp $ last", {}), ("Expand $ shape", {})],
    "running sum": [("CumSum $ one64", {})],
    "layer norm": [("LayerNormalization $ ones", {})],
    "p-normalised": [("LpNormalization $", {})],
    "cube": [("Pow $ three", {})],
    "inverse": [("Div one $", {})],
    "prelu": [("PRelu $ half", {})],
    "largest": [("Max $ x", {})],
    "correlated": [("Unsqueeze $ last", {}), ("MatMul $ row", {}), ("ReduceSum $ last", {"keepdims": 0})],
}

CONSTANTS = floats(half=0.5, minus=-1, steep=-60, one=1, three=3, ones=ONES, w=draw(4, 4, seed=3), kept=[[1], [-1]], zero=0, row=draw(1, 3))
CONSTANTS |= {"last": np.array([-1]), "shape": np.array([2, 4]), "one64": np.array(1)}


def masked(singular: str, *around: str) -> onnx.ModelProto:
    """w Where(row 0, f(x), x), where f is singular in row 1."""
    made, last = [], "x"
    for text, attributes in [*SINGULAR[singular], *(maker for name in around for maker in AROUND[name])]:
        op_type, *names = text.split()
        made.append(node(op_type, " ".join(last if n == "$" else n for n in names), f"t{len(made)}", **attributes))
        last = f"t{len(made) - 1}"
    made += [node("Greater", "kept zero", "k"), node("Where", f"k {last} x", "chosen"), node("MatMul", "chosen w", "y")]
    return make(made, {"x": [2, 4]}, {"y": [2, 4]}, CONSTANTS)


POINTS = [
    np.array([[0.55, 0.3, 0.8, 0.6], bad], np.float32) for bad in ([0.0, -2.0, 0.0, -1.0], [0.0, 0.0, 0.0, 0.0], [-2.0, 9.0, 1.0, -1.0])
]


def chains() -> list[tuple[str, str, str]]:
    rng = np.random.default_rng(0)
    names = list(AROUND)
    return [(s, str(rng.choice(names)), str(rng.choice(names))) for s in SINGULAR for _ in range(4)]


@pytest.mark.parametrize("chain", chains(), ids=lambda c: ", ".join(filter(None, c)))
def test_a_branch_that_is_not_taken_sends_nothing(chain: tuple[str, ...]) -> None:
    """The gradient is that of finite differences in float64, and FullGrad adds up."""
    model = masked(*chain)
    exact, finite = in_double(model), [x for x in POINTS if np.isfinite(run(model, {"x": x})["y"]).all()]
    made = onnxsal.convert(model, "gradient", score="raw", target=1)
    for x in finite:
        got = run(made, {"x": x})["attribution"]
        wide = {"x": x.astype(np.float64)}
        directions = random_like(wide, ["x"], seed=1)
        wanted = scaled_derivative(exact, wide, directions)["y"][:, 1].sum()
        assert np.isfinite(got).all()
        assert float((got * directions["x"]).sum()) == pytest.approx(wanted, rel=2e-3, abs=2e-3 * float(1 + np.abs(got).max()))
    complete = onnxsal.convert(model, "fullgrad", score="raw", target=1)
    for x in finite:
        found = run(complete, {"x": x})
        assert (found["residual"] * np.abs(found["explained_score"]) <= 1e-3 * (1 + np.abs(found["attribution"]).max())).all()


@pytest.mark.parametrize(
    ("nodes", "slope"),
    [
        (
            [node("Exp", "x", "e"), node("Add", "e one", "s"), node("Div", "one s", "y")],
            lambda x: -np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))) ** 2,
        ),
        (
            [
                node("Exp", "x", "e"),
                node("Add", "e one", "s"),
                node("Log", "s", "l"),
                node("Greater", "x big", "c"),
                node("Where", "c x l", "y"),
            ],
            lambda x: 1 / (1 + np.exp(-x)),
        ),
        (
            [node("Mul", "x x", "q"), node("Clip", "q floor", "c"), node("Log", "c", "y")],
            lambda x: np.where(x * x > 1e-6, 2 / np.where(x == 0, 1, x), 0),
        ),
        (
            [node("Mul", "x x", "q"), node("Sqrt", "q", "r"), node("Max", "r floor", "c"), node("Log", "c", "y")],
            lambda x: np.where(x * x > 1e-12, 1 / np.where(x == 0, 1, x), 0),
        ),
        (
            [node("Sqrt", "x", "r"), node("IsNaN", "r", "n"), node("Where", "n zero r", "y")],
            lambda x: np.where(x > 0, 0.5 / np.sqrt(np.where(x > 0, x, 1)), 0),
        ),
    ],
    ids=["sigmoid", "softplus", "log power", "log magnitude", "nan to 0"],
)
def test_functions_that_models_write_out(nodes: list[onnx.NodeProto], slope: Callable[[np.ndarray], np.ndarray]) -> None:
    model = make(nodes, {"x": ["N", 1]}, {"y": ["N", 1]}, floats(one=1, big=20, floor=1e-6, zero=0))
    x = np.array([[-100.0], [100.0], [0.5], [-1.0], [3.0]] if nodes[0].op_type != "Mul" else [[0.0], [0.5], [-2.0]], np.float32)
    np.testing.assert_allclose(explain(model, x).attribution, slope(x.astype(np.float64)), rtol=1e-4, atol=1e-7)


def test_every_method_on_a_branch_that_is_not_taken() -> None:
    """A quotient by 0 that a choice leaves out: R / z times x, multipliers, biases and displacements are all guarded."""
    nodes = [
        node("MatMul", "x w", "h"),
        node("Div", "h c", "d"),
        node("Where", "k d h", "chosen"),
        node("Relu", "chosen", "r"),
        node("MatMul", "r w", "y"),
    ]
    weights = floats(w=draw(3, 3), c=[1, 0, 2]) | {"k": np.array([True, False, True])}
    model = make(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, weights)
    x = np.array([[1, 2, 3], [0, 0, 0], [1, 0, -1]])
    tried = 0
    for method in onnxsal.methods():
        try:
            found = explain(model, x, method, 1)
        except InputError:
            raise
        except onnxsal.OnnxsalError:  # it explains pictures, or has no rule for a choice
            continue
        tried += 1
        assert np.isfinite(found.attribution).all(), method
        assert found.residual is None or found.residual.max() < 1e-4, method
    assert tried > 10


# ----- norms, and what stays infinite -----

NORMS: dict[str, list[onnx.NodeProto]] = {
    "sum of squares": [node("ReduceSumSquare", "x last", "s"), node("Sqrt", "s", "n")],
    "products": [node("Mul", "x x", "q"), node("ReduceSum", "q last", "s"), node("Sqrt", "s", "n")],
    "powers": [node("Pow", "x two", "q"), node("ReduceMean", "q last", "s"), node("Pow", "s half", "n")],
    "p = 3": [node("Abs", "x", "a"), node("Pow", "a three", "q"), node("ReduceSum", "q last", "s"), node("Pow", "s third", "n")],
    "deviation": [
        node("ReduceMean", "x last", "m"),
        node("Sub", "x m", "d"),
        node("Mul", "d d", "q"),
        node("ReduceMean", "q last", "s"),
        node("Sqrt", "s", "n"),
    ],
    "bands": [
        node("MatMul", "x w", "h"),
        node("Mul", "h h", "q"),
        node("MatMul", "q bands", "b"),
        node("Sqrt", "b", "r"),
        node("ReduceSum", "r last", "n"),
    ],
    "complex": [
        node("MatMul", "x w", "re"),
        node("MatMul", "x v", "im"),
        node("Mul", "re re", "a"),
        node("Mul", "im im", "b"),
        node("Add", "a b", "s"),
        node("Sqrt", "s", "r"),
        node("ReduceSum", "r last", "n"),
    ],
}
WEIGHTS = floats(two=2, half=0.5, three=3, third=1 / 3, w=draw(3, 3), v=draw(3, 3, seed=1), bands=np.eye(3), zero=0) | {
    "last": np.array([-1])
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_have_slope_zero_at_zero(name: str) -> None:
    """As ReduceL2 has; elsewhere it is that of finite differences. So integrated gradients may begin there."""
    model = make([*NORMS[name], node("Mul", "x n", "y")], {"x": ["N", 3]}, {"y": ["N", 3]}, WEIGHTS)
    x = np.array([[0, 0, 0], [1, -2, 0.5]])
    found = explain(model, x, target=1).attribution
    assert not found[0].any()
    wide, along = {"x": x[1:]}, {"x": draw(1, 3, dtype=np.float64)}
    wanted = scaled_derivative(in_double(model), wide, along)["y"][0, 1]
    assert float((found[1] * along["x"]).sum()) == pytest.approx(wanted, rel=1e-3)
    direct = make(NORMS[name], {"x": ["N", 3]}, {"n": ["N", 1]}, WEIGHTS)
    assert not explain(direct, np.zeros((1, 3))).attribution.any()
    path = explain(model, x[1:], "integrated_gradients", 1)
    assert path.residual.max() < 1e-3


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Sqrt", "x", "y")],
        [node("Abs", "x", "a"), node("Sqrt", "a", "y")],
        [node("Mul", "x x", "q"), node("Pow", "q quarter", "y")],
        [node("Mul", "x x", "q"), node("Relu", "x", "r"), node("Add", "q r", "s"), node("Sqrt", "s", "y")],
    ],
    ids=["root", "root of a size", "fourth root of a square", "a sum that is not all squares"],
)
def test_a_slope_that_is_infinite_is_refused_and_named(nodes: list[onnx.NodeProto]) -> None:
    model = make(nodes, {"x": ["N", 1]}, {"y": ["N", 1]}, floats(quarter=0.25))
    x = np.array([[4.0], [0.0]])
    with pytest.raises(InputError, match=rf"first in sample 1.*signal sent back through node 'y' \({nodes[-1].op_type}, opset 18\)"):
        explain(model, x)


# ----- masks -----


def attention(kind: str, fill: float, dead: bool, guard: bool) -> tuple[onnx.ModelProto, Callable[[torch.Tensor], torch.Tensor]]:
    """Causal attention of x with itself; ``dead`` masks all of row 1, and ``guard`` replaces the NaN that a softmax makes of it."""
    keep = np.tril(np.ones((4, 4), bool))
    keep[1] &= not dead
    weights = floats(w=draw(8, 8, scale=0.5), scale=8**-0.5, zero=0, fill=fill) | {"keep": keep, "axis": np.array([1])}
    weights["mask"] = np.where(keep, 0, fill).astype(np.float32)
    nodes = [
        node("MatMul", "x w", "k"),
        node("Transpose", "k", "kt", perm=[0, 2, 1]),
        node("MatMul", "x kt", "s0"),
        node("Mul", "s0 scale", "s"),
        node("Add", "s mask", "m") if kind == "add" else node("Where", "keep s fill", "m"),
        node("Softmax", "m", "p", axis=-1),
        *([node("IsNaN", "p", "n"), node("Where", "n zero p", "q")] if guard else [node("Identity", "p", "q")]),
        node("MatMul", "q x", "a"),
        node("ReduceMean", "a axis", "y", keepdims=0),
    ]
    model = make(nodes, {"x": ["N", 4, 8]}, {"y": ["N", 8]}, weights)

    def reference(x: torch.Tensor) -> torch.Tensor:
        scores = (x @ (x @ torch.tensor(weights["w"], dtype=x.dtype)).transpose(1, 2)) * 8**-0.5
        alive = torch.tensor(keep.any(1))[:, None]
        p = torch.softmax(scores.masked_fill(~torch.tensor(keep) & alive, -torch.inf), -1)
        return (torch.where(alive, p, 0.0) @ x).mean(1)

    return model, reference


LOWEST = float(np.finfo(np.float32).min)


@pytest.mark.parametrize("kind", ["add", "where"])
@pytest.mark.parametrize("fill", [-math.inf, LOWEST, -1e9, -1e4])
def test_masked_attention(kind: str, fill: float) -> None:
    """Gradient and FullGrad are those of torch in float64, which leaves the masked scores out."""
    model, reference = attention(kind, fill, dead=False, guard=False)
    _compare(model, reference)


@pytest.mark.parametrize("kind", ["add", "where"])
def test_rows_that_are_masked_as_a_whole(kind: str) -> None:
    """Their NaN is replaced behind the softmax. With finite masks their scores are swallowed, and FullGrad books that."""
    _compare(*attention(kind, -math.inf, dead=True, guard=True))
    for fill in (LOWEST, -1e9):
        found = explain(attention(kind, fill, dead=True, guard=False)[0], draw(2, 4, 8), "fullgrad", 2)
        assert (found.residual * np.abs(found.score)).max() < 1e-5


def _compare(model: onnx.ModelProto, reference: Callable[[torch.Tensor], torch.Tensor]) -> None:
    x = draw(2, 4, 8)
    wide = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    (wanted,) = torch.autograd.grad(reference(wide)[:, 2].sum(), wide)
    np.testing.assert_allclose(explain(model, x, target=2).attribution, wanted, rtol=1e-4, atol=1e-6)
    found = explain(model, x, "fullgrad", 2)
    np.testing.assert_allclose(found.attribution, wanted * x, rtol=1e-4, atol=1e-6)
    assert (found.residual * np.abs(found.score)).max() < 1e-5


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("offset", [1e4, 1e6])
def test_a_softmax_row_far_from_zero(op_type: str, offset: float) -> None:
    """An offset that all scores have in common changes no softmax, and adds nothing to the sum of biases."""
    nodes = [node("MatMul", "x w", "h"), node("Add", "h far", "a"), node(op_type, "a", "p"), node("MatMul", "p v", "y")]
    model = make(nodes, {"x": ["N", 6]}, {"y": ["N", 4]}, floats(w=draw(6, 6), v=draw(6, 4, seed=1), far=offset))
    assert explain(model, draw(4, 6, seed=2), "fullgrad", None).residual.max() < 1e-5


def test_biases_and_slopes_of_a_log_sum_exp_far_from_zero() -> None:
    nodes = [node("ReduceLogSumExp", "x last", "y")]
    model = make(nodes, {"x": ["N", 5]}, {"y": ["N", 1]}, {"last": np.array([1])})
    x = draw(3, 5) + 1e6
    p = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    np.testing.assert_allclose(explain(model, x).attribution, p / p.sum(1, keepdims=True), rtol=1e-5)
    assert explain(model, x, "fullgrad").residual.max() < 1e-6


# ----- who pays -----


@functools.cache
def plain_nets() -> dict[str, onnx.ModelProto]:
    eps = floats(eps=1e-5, two=2, w=draw(4, 4), scale=0.5)
    last = {"last": np.array([-1])}
    centred = [node("ReduceMean", "x last", "m"), node("Sub", "x m", "d"), node("Pow", "d two", "q"), node("ReduceMean", "q last", "v")]
    norm = [*centred, node("Add", "v eps", "e"), node("Sqrt", "e", "s"), node("Div", "d s", "y")]
    softmax = [
        node("ReduceMax", "x last", "m"),
        node("Sub", "x m", "d"),
        node("Exp", "d", "e"),
        node("ReduceSum", "e last", "s"),
        node("Div", "e s", "y"),
    ]
    swish = [node("Sigmoid", "x", "g"), node("Mul", "x g", "y")]
    unit = [node("ReduceL2", "x last", "n"), node("Clip", "n eps", "c"), node("Div", "x c", "y")]
    decibel = [node("Mul", "x x", "q"), node("MatMul", "q band", "b"), node("Add", "b eps", "c"), node("Log", "c", "y")]
    tables = {"layer norm": norm, "softmax": softmax, "swish": swish, "unit length": unit, "log of bands": decibel}
    weights = eps | last | {"band": np.abs(draw(4, 4))}
    return {k: make(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, weights) for k, nodes in tables.items()}


@pytest.mark.parametrize("name", list(plain_nets()))
def test_what_is_proved_to_be_finite_pays_nothing(name: str) -> None:
    """An epsilon, a clip, a maximum that was taken off: the ranges say that nothing is divided by 0, rooted at 0 or too large."""
    wild, norms = at_the_edge(Model(plain_nets()[name]))
    assert not wild
    assert not norms


# ----- what is said -----


def test_what_is_not_finite_in_the_model_is_named() -> None:
    model = make(
        [node("Mul", "x x", "q"), node("Log", "q", "l"), node("Relu", "l", "r"), node("Add", "l r", "y")], {"x": ["N", 2]}, {"y": ["N", 2]}
    )
    with pytest.raises(
        InputError, match=r"score.*first in sample 1.*node 'l' \(Log, opset 18\) reads numbers from 0 to 9 and gives infinity"
    ):
        explain(model, np.array([[1.0, 2.0], [0.0, 3.0]]))


def test_what_is_not_finite_on_the_baseline_is_named() -> None:
    model = make([node("Log", "x", "y")], {"x": ["N", 2]}, {"y": ["N", 2]})
    with pytest.raises(InputError, match=r"on the baseline node 'y' \(Log, opset 18\) reads numbers from 0 to 0.*another baseline"):
        explain(model, np.ones((1, 2)), "integrated_gradients")


def test_what_is_not_finite_at_one_of_many_points_says_so() -> None:
    model = make([node("Sqrt", "x", "y")], {"x": ["N", 2]}, {"y": ["N", 2]})
    with pytest.raises(InputError, match="at one of the points at which the method evaluates the model"):
        explain(model, np.ones((1, 2)), "integrated_gradients", rule="trapezoid")


def test_an_infinite_mask_is_not_blamed() -> None:
    """The first tensor that is not finite is the mask; the fault lies with the root behind it."""
    nodes = [node("Add", "x mask", "m"), node("Softmax", "m", "p"), node("Sqrt", "p", "y")]
    model = make(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, floats(mask=[0, 0, -math.inf]))
    with pytest.raises(InputError, match=r"node 'y' \(Sqrt, opset 18\)"):
        explain(model, np.ones((1, 3)), target=2)


def test_refusals_of_a_plan_are_not_touched() -> None:
    with pytest.raises(UnsupportedError):
        explain(masked("x/x"), POINTS[0], "deeplift")
