"""If, Loop and Scan: known ones written out, others walked by nodes of the same kind; against finite differences in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import onnxsal
from onnxsal.errors import OnnxsalError
from onnxsal.facts.axes import row_axes
from onnxsal.facts.bodies import bodies_of
from onnxsal.facts.ranges import bounds_of
from onnxsal.graph import Model
from onnxsal.ops.registry import known
from onnxsal.passes import prepare
from tests.oracle import random_like, run, scaled_derivative

F, INT, B = TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL
Feed = dict[str, np.ndarray]


def model(body: str, head: str = "(double[N,3] x) => (double[N,3] y)", opset: int = 18, **weights: Any) -> onnx.ModelProto:
    """A model in onnx's text form, with initialisers."""
    proto = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]> g {head} {{ {body} }}')
    proto.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items())
    return proto


def info(name: str, kind: int = F, shape: Sequence[int | str | None] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape) if kind else helper.make_tensor_sequence_value_info(name, F, None)


def body_of(nodes: str, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto], **weights: Any) -> onnx.GraphProto:
    """A graph for a Loop or Scan: its nodes in onnx's text form."""
    parsed = parser.parse_graph(f"b () => () {{ {nodes} }}")
    stored = [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()]
    return helper.make_graph(list(parsed.node), "b", list(inputs), list(outputs), stored)


def loop(
    nodes: str, states: Sequence[str], stacked: Sequence[str] = (), declared: bool = False, kind: Sequence[int] = (F, F, F)
) -> onnx.GraphProto:
    """A Loop's body with the inputs ``i``, ``c`` and states, the outputs ``c2``, ``<state>2`` and what is stacked."""
    shape = ["N", 3] if declared else None
    inputs = [info("i", INT, []), info("c", B, []), *(info(s, k, shape) for s, k in zip(states, kind, strict=False))]
    outputs = [info("c2", B, []), *(info(f"{s}2", k, shape) for s, k in zip(states, kind, strict=False)), *(info(s) for s in stacked)]
    return body_of(nodes, inputs, outputs)


def around(
    before: str, node: onnx.NodeProto, after: str, inputs: Sequence[onnx.ValueInfoProto], shape: Any = ("N", 3), **weights: Any
) -> onnx.ModelProto:
    """A model of the nodes before, a node with graphs, and the nodes after."""
    first, last = (list(parser.parse_graph(f"b () => () {{ {text} }}").node) if text else [] for text in (before, after))
    stored = [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()]
    graph = helper.make_graph([*first, node, *last], "g", list(inputs), [info("y", F, shape)], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


X, M, FLAG = info("x", F, ["N", 3]), info("M", INT, []), info("flag", B, [])
W = np.random.default_rng(0).normal(size=(3, 3))

IF = """ a = Sin(x)
 b = If (flag) <then_branch = th () => (double[N,3] t) { u = Mul(a, x) t = Exp(u) },
                else_branch = el () => (double[N,3] e) { u = Exp(a) e = Mul(u, u) }>
 y = Add(b, a)"""

NESTED = """ z = ReduceSum<keepdims=0>(x) zero = Constant<value = double {0.0}>() c = Greater(z, zero)
 b = If (c) <then_branch = th () => (double[N,3] t) {
     h = Mul(x, x)
     t = If (flag) <then_branch = th2 () => (double[N,3] t2) { u = Mul(h, x) t2 = Tanh(u) },
                    else_branch = el2 () => (double[N,3] e2) { e2 = Sigmoid(h) }> },
   else_branch = el () => (double[N,3] e) { e = Neg(x) }>
 y = Mul(b, x)"""

UNUSED = """ a = Sin(x) q = Cos(x)
 b, d = If (flag) <then_branch = th () => (double[N,3] t, double[1,3] t1) { t = Mul(a, a) t1 = ReduceSum<keepdims=1>(q, ax) },
                   else_branch = el () => (double[N,3] e, double[N,3] e1) { e = Identity(q) e1 = Identity(zeros) }>
 s = Add(b, d) y = Mul(s, x)"""

STEP = "p = Mul(s, w) q = Add(p, x) s2 = Tanh(q) c2 = Identity(c) o = Mul(s2, s)"
UNTIL = "p = Mul(s, w) q = Add(p, x) s2 = Tanh(q) t = ReduceSum<keepdims=0>(s2) c2 = Less(t, most) o = Identity(s2)"
GROW = """f = Cast<to=11>(i) g = Add(s, f) h = Sin(g) s2 = Concat<axis=0>(s, h) c2 = Identity(c)
 m = ReduceMean<keepdims=0>(s2, ax) o = Mul(m, m)"""
TWO = "s2 = Mul(r, x) r2 = Add(s, w) c2 = Identity(c)"
WITHIN = """ c2 = Identity(c) odd = Mod(i, two) o1 = Cast<to=9>(odd)
 s2 = If (o1) <then_branch = th () => (double[N,3] t) { u = Mul(s, x) t = Sin(u) },
               else_branch = el () => (double[N,3] e) { u = Add(s, x) e = Sigmoid(u) }>"""


def looped(nodes: str, given: Sequence[str], results: Sequence[str], states: Sequence[str], stacked: Sequence[str] = ()) -> onnx.NodeProto:
    return helper.make_node("Loop", given, results, name="l", body=loop(nodes, states, stacked))


def scanned(axis: int = 1, backwards: int = 0, out: int = 1, out_backwards: int = 0) -> onnx.NodeProto:
    nodes = "hr = MatMul(h, R) z = Add(hr, xt) h2 = Sigmoid(z) hh = Mul(h2, h) o = Mul(hh, k)"
    body = body_of(nodes, [info("h"), info("xt")], [info("h2"), info("o")])
    axes = {"scan_input_axes": [axis], "scan_output_axes": [out]}
    directions = {"scan_input_directions": [backwards], "scan_output_directions": [out_backwards]}
    return helper.make_node("Scan", ["h0", "x"], ["hf", "os"], name="s", body=body, num_scan_inputs=1, **axes, **directions)


def in_loop() -> onnx.NodeProto:
    """A Loop in a Loop, and a captured tensor read in the inner one."""
    inner = helper.make_node("Loop", ["M", "", "s"], ["sf", "os"], name="inner", body=rename_all(loop(STEP, "s", "o"), "in_"))
    rest = parser.parse_graph("b () => () { t = ReduceSum<keepdims=0>(os, ax0) s2 = Add(sf, t) c2 = Identity(c) }").node
    body = loop("c2 = Identity(c)", "s")
    del body.node[:]
    body.node.extend([inner, *rest])
    return helper.make_node("Loop", ["M", "", "s0"], ["y"], name="l", body=body)


def rename_all(graph: onnx.GraphProto, prefix: str) -> onnx.GraphProto:
    """The same graph with other names of its own."""
    own = {v.name for v in graph.input} | {o for n in graph.node for o in n.output}
    for node in graph.node:
        for names in (node.input, node.output):
            for k, name in enumerate(names):
                names[k] = f"{prefix}{name}" if name in own else name
    for value in (*graph.input, *graph.output):
        value.name = f"{prefix}{value.name}"
    return graph


SUM = "t = ReduceSum<keepdims=0>(os, ax0) y = Add(sf, t)"
SIN = "s0 = Sin(x)"
TEST = {"w": [0.5, -1.5, 2.0], "ax0": [0], "most": 0.6, "ax": [0], "two": 2}
OVER = "t = ReduceSum<keepdims=0>(os, ax1) y = Mul(t, hf)"
SERIES = info("x", F, ["N", "T", 3])
STEPS = {"R": W, "ax1": [1], "k": [0.7, -1.0, 1.5]}

L1 = looped(STEP, ["M", "C", "s0"], ["sf", "os"], "s", "o")
FORMS: dict[str, tuple[onnx.ModelProto, list[Feed]]] = {
    "if": (model(IF, "(double[N,3] x, bool flag) => (double[N,3] y)"), [{"flag": np.array(f)} for f in (True, False)]),
    "if in if": (model(NESTED, "(double[N,3] x, bool flag) => (double[N,3] y)"), [{"flag": np.array(f)} for f in (True, False)]),
    "branches of other shapes": (
        model(UNUSED, "(double[N,3] x, bool flag) => (double[N,3] y)", ax=[0], zeros=np.zeros((2, 3))),
        [{"flag": np.array(f)} for f in (True, False)],
    ),
    "loop": (around(SIN, L1, SUM, [X, M], C=True, **TEST), [{"M": np.array(m)} for m in (3, 1)]),
    "no condition": (around(SIN, looped(STEP, ["M", "", "s0"], ["sf", "os"], "s", "o"), SUM, [X, M], **TEST), [{"M": np.array(2)}]),
    "no step": (around(SIN, looped(STEP, ["M", "", "s0"], ["sf", "os"], "s", "o"), "y = Mul(sf, x)", [X, M], **TEST), [{"M": np.array(0)}]),
    "until": (around(SIN, looped(UNTIL, ["", "C", "s0"], ["sf", "os"], "s", "o"), SUM, [X], C=True, **TEST), [{}]),
    "stopped": (around(SIN, looped(UNTIL, ["M", "C", "s0"], ["sf", "os"], "s", "o"), SUM, [X, M], C=True, **TEST), [{"M": np.array(9)}]),
    "growing": (
        around(
            SIN,
            looped(GROW, ["M", "", "s0"], ["sf", "os"], "s", "o"),
            "t = ReduceSum<keepdims=0>(sf) u = ReduceSum<keepdims=0>(os) y = Add(t, u)",
            [X, M],
            (),
            **TEST,
        ),
        [{"M": np.array(3)}],
    ),
    "states change places": (
        around(f"{SIN} r0 = Cos(x)", looped(TWO, ["M", "", "s0", "r0"], ["sf", "rf"], "sr"), "y = Mul(sf, rf)", [X, M], **TEST),
        [{"M": np.array(m)} for m in (3, 0)],
    ),
    "a last state is not read": (
        around(SIN, looped(TWO, ["M", "", "s0", "x"], ["sf", "rf"], "sr"), "y = Mul(rf, x)", [X, M], **TEST),
        [{"M": np.array(2)}],
    ),
    "if in loop": (around(SIN, looped(WITHIN, ["M", "", "s0"], ["y"], "s"), "", [X, M], **TEST), [{"M": np.array(3)}]),
    "loop in loop": (around(SIN, in_loop(), "", [X, M], **TEST), [{"M": np.array(3)}]),
} | {
    f"scan {axis}{back}{out}{turned}": (
        around(
            "h0 = ReduceMean<keepdims=0>(x, ax1)" if axis == 1 else "h0 = ReduceMean<keepdims=0>(x, ax0)",
            scanned(axis, back, out, turned),
            OVER.replace("ax1", "ax0") if out == 0 else OVER,
            [SERIES],
            None,
            ax0=[0],
            **STEPS,
        ),
        [{}],
    )
    for axis, back, out, turned in ((1, 0, 1, 0), (1, 1, -2, 0), (0, 1, 0, 1), (1, 0, 0, 1))
}

FORMS |= {
    "split": (
        model(
            """s = SplitToSequence<axis=0, keepdims=0>(x) a = SequenceAt(s, last) b = SequenceAt(s, first) n = SequenceLength(s)
          f = Cast<to=11>(n) c = Mul(a, f) d = Sin(b) t = SequenceConstruct(c, d) u = SequenceInsert(t, a, first) v = SequenceErase(u)
          y = ConcatFromSequence<axis=0, new_axis=1>(v)""",
            "(double[2,3] x) => (double[2,3] y)",
            last=-1,
            first=0,
        ),
        [{}],
    ),
    "optional": (
        model("""a = Sin(x) o = Optional(a) h = OptionalHasElement(o) e = OptionalGetElement(o)
          y = If (h) <then_branch = th () => (double[N,3] t) { t = Mul(e, x) }, else_branch = el () => (double[N,3] f) { f = Neg(x) }>"""),
        [{}],
    ),
    "a list that is carried": (
        around(
            "s0 = SequenceEmpty<dtype=11>()",
            helper.make_node(
                "Loop",
                ["M", "C", "s0", "x"],
                ["sf", "xf"],
                name="l",
                body=loop("t = Mul(r, w) r2 = Sin(t) s2 = SequenceInsert(s, r2) c2 = Identity(c)", "sr", kind=[0, F]),
            ),
            "y = ConcatFromSequence<axis=0>(sf)",
            [X],
            M=3,
            C=True,
            **TEST,
        ),
        [{}],
    ),
    "counted": (
        around(
            SIN,
            helper.make_node(
                "Loop",
                ["", "C", "k0", "s0"],
                ["kf", "y"],
                name="l",
                body=loop("k2 = Add(k, two) c2 = Less(k2, six) t = Mul(s, w) s2 = Sin(t)", "ks", kind=[INT, F]),
            ),
            "",
            [X],
            C=True,
            k0=0,
            six=6,
            **TEST,
        ),
        [{}],
    ),
    "a list of any length": (
        around(
            "s0 = SequenceEmpty<dtype=11>()",
            helper.make_node(
                "Loop",
                ["M", "", "s0", "x"],
                ["sf", "xf"],
                name="l",
                body=loop("t = Mul(r, w) r2 = Sin(t) s2 = SequenceInsert(s, r2) c2 = Identity(c)", "sr", kind=[0, F]),
            ),
            "t = ConcatFromSequence<axis=1, new_axis=1>(sf) u = ReduceSum<keepdims=0>(t, one) y = Mul(u, u)",
            [X, M],
            one=[1],
            **TEST,
        ),
        [{"M": np.array(3)}],
    ),
    "of three steps": (around(SIN, L1, SUM, [X], C=True, M=3, **TEST), [{}]),
    "loop in loop of known steps": (around(SIN, in_loop(), "", [X], M=2, **TEST), [{}]),
}
WRITTEN_OUT = ("split", "optional", "a list that is carried", "counted", "of three steps", "loop in loop of known steps")


@pytest.mark.parametrize("form", WRITTEN_OUT)
def test_what_is_known_is_written_out(form: str) -> None:
    """No node that runs a graph, or works on lists, is left."""
    kinds = {n.op_type for n in onnxsal.vjp(FORMS[form][0], wrt="x", outputs="y").graph.node}
    assert not {k for k in kinds if k in ("If", "Loop", "Scan") or "Sequence" in k or "Optional" in k}


def differs(proto: onnx.ModelProto, derived: onnx.ModelProto, feed: Feed, seed: int = 3) -> float:
    """How far <u, dy/dx v> by central differences is from <v, vjp(u)>, relative to the sum of the terms' sizes."""
    y = run(proto, feed)
    u, v = random_like(y, ["y"], seed), random_like(feed, ["x"], seed + 1)
    got = run(derived, feed | {"cotangent/y": u["y"]})
    for name in y:
        np.testing.assert_array_equal(got[name], y[name])
    expected = float((scaled_derivative(proto, feed, v)["y"] * u["y"]).sum())
    terms = got["vjp/x"] * v["x"]
    assert got["vjp/x"].shape == feed["x"].shape
    return abs(float(terms.sum()) - expected) / (float(np.abs(terms).sum()) + 1e-3)


@pytest.mark.parametrize("form", FORMS)
def test_gradient_matches_finite_differences(form: str) -> None:
    proto, feeds = FORMS[form]
    derived = onnxsal.vjp(proto, wrt="x", outputs="y")
    for feed in feeds:
        shape = [{"N": 2, "T": 4}.get(d.dim_param, d.dim_value) for d in proto.graph.input[0].type.tensor_type.shape.dim]
        x = np.random.default_rng(1).normal(size=shape)
        assert differs(proto, derived, {"x": x, **feed}) < 1e-6, feed


BODY = """p = MatMul(s, R) q = Add(p, b) r = Relu(q) s2 = Add(r, x) c2 = Identity(c) t = MatMul(x, R) o = Mul(s2, t)"""
BRANCHES = """ a = MatMul(x, R)
 h = If (flag) <then_branch = th () => (double[N,3] t) { u = MatMul(a, R) v = Add(u, b) t = Relu(v) },
                else_branch = el () => (double[N,3] e) { w = Tanh(a) e = MatMul(w, R) }>
 y = MatMul(h, R)"""
LAYERS = {"R": W, "b": [0.1, -0.2, 0.3], "ax0": [0]}
AGAIN = looped(BODY, ["M", "", "s0"], ["sf", "os"], "s", "o")
PAIRS: dict[str, tuple[onnx.ModelProto, dict[str, Any]]] = {
    "loop": (around("s0 = MatMul(x, R)", AGAIN, SUM, [X, M], **LAYERS), {"M": np.array(3)}),
    "if": (model(BRANCHES, "(double[N,3] x, bool flag) => (double[N,3] y)", **LAYERS), {"flag": np.array(True)}),
    "else": (model(BRANCHES, "(double[N,3] x, bool flag) => (double[N,3] y)", **LAYERS), {"flag": np.array(False)}),
}
WALKS = [
    "gradient",
    "guided_backprop",
    "input_x_gradient",
    "integrated_gradients",
    "smoothgrad",
    "lrp_epsilon",
    "lrp_alpha2_beta1",
    "lrp_gamma",
]


def with_constants(proto: onnx.ModelProto, told: dict[str, Any]) -> onnx.ModelProto:
    """The model with some of its inputs stored in it."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(proto)
    kept = [v for v in proto.graph.input if v.name not in told]
    del fixed.graph.input[:]
    fixed.graph.input.extend(kept)
    fixed.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in told.items())
    return fixed


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("method", WALKS)
def test_every_walk_is_that_of_what_is_written_out(method: str, pair: str) -> None:
    """Whether the condition, or the number of steps, is known before or at run time: the same map, the same books."""
    proto, told = PAIRS[pair]
    if pair == "else" and method == "guided_backprop":
        pytest.skip("no rectifier in that branch")
    x = np.random.default_rng(5).normal(size=(2, 3))
    one = onnxsal.Explainer(proto, method, input="x", batched=True).explain({"x": x, **told}, 1)
    other = onnxsal.Explainer(with_constants(proto, told), method, input="x", batched=True).explain(x, 1)
    np.testing.assert_allclose(one.attribution, other.attribution, rtol=1e-6, atol=1e-9)
    if one.residual is not None:
        np.testing.assert_allclose(one.residual, other.residual, atol=1e-9)
        assert method == "integrated_gradients" or one.residual.max() < 1e-9


# ----- what is known behind -----


def copied(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A model to change."""
    return onnx.ModelProto.FromString(proto.SerializeToString())


def test_what_data_decides_tells_no_samples() -> None:
    """One decision for all rows: no axis counts samples behind it. A condition that is fed beside them leaves the rows apart."""
    (fed, _), (decided, _) = FORMS["if"], FORMS["if in if"]
    assert row_axes(Model(fed), ["x"])["y"] == 0
    assert row_axes(Model(decided), ["x"])["y"] is None
    looped_over, ended = FORMS["loop"][0], FORMS["until"][0]
    assert row_axes(prepare(copied(looped_over), known).model, ["x"])["y"] == 0
    assert row_axes(prepare(copied(ended), known).model, ["x"])["y"] is None


def test_ranges_are_those_of_all_that_may_run() -> None:
    made = Model(model(IF, "(double[N,3] x, bool flag) => (double[N,3] y)"))
    assert bounds_of(made, "b") == (0.0, math.inf)
    assert bounds_of(made, "y")[0] == -1.0
    (body, _) = bodies_of(made.nodes[1])
    assert bounds_of(body.model, body.outputs[0]) == (0.0, math.inf)
    assert bounds_of(prepare(copied(FORMS["loop"][0]), known).model, "os") == (-math.inf, math.inf)


def test_what_is_infinite_inside_is_guarded() -> None:
    """A logarithm of 0 in a branch, multiplied behind it and chosen away: it meets a signal of 0, and that stays 0."""
    text = """zero = Constant<value = double {0.0}>() c = Greater(x, zero)
      b = If (flag) <then_branch = th () => (double[N,3] t) { u = Mul(x, x) t = Log(u) },
                      else_branch = el () => (double[N,3] e) { e = Sqrt(x) }>
      p = Mul(b, x) y = Where(c, p, x)"""
    derived = onnxsal.vjp(model(text, "(double[N,3] x, bool flag) => (double[N,3] y)"), wrt="x", outputs="y")
    x, u = np.array([[0.0, 1.0, 4.0]]), np.ones((1, 3))
    for flag, slope in ((True, [1.0, 2.0, 2.0 + math.log(16.0)]), (False, [1.0, 1.5, 3.0])):
        got = run(derived, {"x": x, "flag": np.array(flag), "cotangent/y": u})["vjp/x"]
        np.testing.assert_allclose(got, [slope])


def test_a_squeeze_that_torchscript_makes_a_branch() -> None:
    """Whether the axis has one entry is not known; the nodes behind read two axes only."""
    text = """s = Shape(x) i = Constant<value = int64 {2}>() d = Gather(s, i) one = Constant<value = int64 {1}>() c = Equal(d, one)
      b = If (c) <then_branch = th () => (double[N,3] t) { ax = Constant<value = int64[1] {2}>() t = Squeeze(x, ax) },
                  else_branch = el () => (double[N,3,T] e) { e = Identity(x) }>
      y = Gemm(b, R)"""
    proto = model(text, "(double[N,3,T] x) => (double[N,3] y)", R=W)
    derived = onnxsal.vjp(proto, wrt="x", outputs="y")
    assert "If" not in {n.op_type for n in derived.graph.node}
    assert differs(proto, derived, {"x": np.random.default_rng(2).normal(size=(2, 3, 1))}) < 1e-6


@pytest.mark.parametrize("method", ["fullgrad", "deeplift", "attnlrp"])
def test_methods_that_cannot_look_inside_refuse_by_name(method: str) -> None:
    proto, told = PAIRS["loop"]
    with pytest.raises(OnnxsalError, match="node 'l' \\(Loop"):
        onnxsal.Explainer(proto, method, input="x", batched=True).explain({"x": np.ones((2, 3)), **told}, 1)


def test_lists_that_are_not_known_are_refused_with_what_to_do() -> None:
    text = "s = SplitToSequence<axis=0>(x) a = SequenceAt(s, at) y = Mul(a, a)"
    with pytest.raises(OnnxsalError, match="export the model with a fixed number of elements"):
        onnxsal.vjp(model(text, "(double[N,3] x, int64 at) => (double[N,3] y)"), wrt="x", outputs="y")
