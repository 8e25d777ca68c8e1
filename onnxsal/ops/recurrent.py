"""Recurrent layers: RNN, GRU and LSTM, by backpropagation through time.

What a step sends back is linear in what it receives. Its coefficients (gates, slopes of activations) are computed for all
steps at once from the states that the forward node returns, so a ``Scan`` per direction only carries the signal, and the
products with the inputs and for the weights stay outside of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import cast, dim_of, mask, ones_like
from onnxsal.ops.cell_activation import Activation, Through, activations
from onnxsal.ops.registry import Case, case, gradient_of
from onnxsal.ops.statements import APART, MIXED, SUMMED, Moved

END = 2**62
"""Beyond every axis: a Slice end that means 'to the end'."""

# ----- steps -----

CellStep = Callable[[Emit, list[Value], dict[str, Value | None]], tuple[list[Value], list[Value]]]
"""(body, states, this step's slices) -> (new states, outputs)."""


def _flip(op: Emit, t: Value) -> Value:
    return op.Slice(t, [-1], [-END], [0], [-1])


def _scan(op: Emit, scope: str, states: Sequence[Value], sequences: dict[str, Value | None], step: CellStep, flip: bool) -> list[Value]:
    """Emit a Scan over the first axis of the sequences (``flip``: from its end); returns final states, then stacked outputs."""
    given = {k: v for k, v in sequences.items() if v is not None}
    body = Emit(op.model, scope)
    body.dtype = op.dtype
    inner = [Value(f"{scope}/state{i}") for i in range(len(states))]
    slices: dict[str, Value | None] = {k: Value(f"{scope}/{k}") if k in given else None for k in sequences}
    carried, stacked = step(body, inner, slices)
    outputs = [body.Identity(v) for v in (*carried, *stacked)]
    nodes, initializers = body.finish(outputs)
    inputs = [*inner, *(v for v in slices.values() if v is not None)]
    declared = [[helper.make_tensor_value_info(v.name, op.dtype, None) for v in values] for values in (inputs, outputs)]
    graph = helper.make_graph(nodes, f"{scope}/body", *declared, initializers)
    fed = [_flip(op, v) if flip else v for v in given.values()]
    results = op.subgraph("Scan", [*states, *fed], graph, outputs=len(outputs), num_scan_inputs=len(fed))
    return [*results[: len(states)], *(_flip(op, v) if flip else v for v in results[len(states) :])]


@dataclass(frozen=True)
class _Layer:
    """One direction of the node: its tensors without the direction axis, in the order of time."""

    op: Emit
    node: NodeView
    scope: str
    reverse: bool
    hidden: int
    w: Value
    r: Value
    biases: tuple[Value, Value] | None
    h0: Value
    c0: Value | None
    p: Value | None
    before: Value
    """The state before each step."""
    valid: Value | None
    """Bool [T, N, 1]: the steps within each sequence; ``None``: all."""
    acts: list[Activation]
    dy: Value | None
    dh: Value
    dc: Value | None

    def gates(self, t: Value, count: int) -> list[Value]:
        """The parts of a tensor whose last axis holds ``count`` gates."""
        return list(self.op.Split(t, [self.hidden] * count, axis=-1, outputs=count))

    def inputs(self) -> Value:
        """x W^T + Wb."""
        a = self.op.MatMul(self.node.x, self.op.Transpose(self.w, perm=[1, 0]))
        return a if self.biases is None else self.op.Add(a, self.biases[0])

    def states(self, h: Value, r: Value, rb: Value | None = None) -> Value:
        """h R^T + Rb."""
        a = self.op.MatMul(h, self.op.Transpose(r, perm=[1, 0]))
        return a if rb is None else self.op.Add(a, rb)

    def rb(self) -> Value | None:
        return None if self.biases is None else self.biases[1]

    def within(self, t: Value) -> Value:
        """``t``, 0 beyond the end of a sequence."""
        return t if self.valid is None else mask(self.op, self.valid, t)

    def kept(self) -> Value | None:
        """1 beyond the end of a sequence, where the state stays as it is; ``None`` where that never is."""
        return None if self.valid is None else self.op.Sub(1.0, cast(self.op, self.valid))

    def back(self, states: list[Value], sequences: dict[str, Value | None], step: CellStep) -> list[Value]:
        """Walk from the last step processed to the first."""
        dy = None if self.dy is None else self.within(self.dy)
        return _scan(self.op, f"{self.scope}/back", states, {"dy": dy, **sequences}, step, flip=not self.reverse)

    def total(self, da: Value) -> Value:
        return self.op.ReduceSum(da, [0, 1], keepdims=0)

    def weights(self, da: Value, t: Value) -> Value:
        """sum over steps and samples of da^T t."""
        return self.op.MatMul(self.op.Transpose(self.op.Flatten(da, axis=2), perm=[1, 0]), self.op.Flatten(t, axis=2))

    def signals(self, da: Value, dr: Value, drb: Value, dh0: Value) -> dict[int, Value]:
        """What goes to X, W, R, B and initial_h, from the signals at ``x W^T + Wb``."""
        bias = self.op.Concat(self.total(da), drb, axis=0)
        return {0: self.op.MatMul(da, self.w), 1: self.weights(da, self.node.x), 2: dr, 3: bias, 5: dh0}


def _plus(op: Emit, a: Value, *more: Value | None) -> Value:
    """The sum of the values that there are."""
    for b in more:
        a = a if b is None else op.Add(a, b)
    return a


def _times(op: Emit, a: Value, b: Value | None) -> Value | None:
    return None if b is None else op.Mul(a, b)


# ----- the three cells -----


def _rnn(layer: _Layer) -> dict[int, Value]:
    """h = f(a), a = x W^T + h' R^T + b: da = dh f'(a), dh' = da R."""
    op = layer.op
    a = op.Add(layer.inputs(), layer.states(layer.before, layer.r, layer.rb()))
    _, slope = layer.acts[0](op, layer.node, a)
    k = layer.within(slope(ones_like(op, a)))

    def step(body: Emit, states: list[Value], s: dict[str, Any]) -> tuple[list[Value], list[Value]]:
        dh = _plus(body, states[0], s["dy"])
        da = body.Mul(dh, s["k"])
        return [_plus(body, body.MatMul(da, layer.r), _times(body, dh, s["kept"]))], [da]

    dh0, da = layer.back([layer.dh], {"k": k, "kept": layer.kept()}, step)
    return layer.signals(da, layer.weights(da, layer.before), layer.total(da), dh0)


def _gru(layer: _Layer) -> dict[int, Value]:
    """h = (1 - z) n + z h', n = g(a): dz = dh (h' - n), dn = dh (1 - z), and through the reset gate r to h'.

    linear_before_reset: a = x W^T + r s with s = h' R^T + Rb, else a = x W^T + (r h') R^T + Rb.
    """
    op, node, h, hidden = layer.op, layer.node, layer.before, layer.hidden
    late = bool(node.attr("linear_before_reset"))
    gates, last = op.Split(layer.r, [2 * hidden, hidden], axis=0, outputs=2)
    rb = (None, None) if layer.biases is None else op.Split(layer.biases[1], [2 * hidden, hidden], axis=0, outputs=2)
    xz, xr, xn = layer.gates(layer.inputs(), 3)
    hz, hr = layer.gates(layer.states(h, gates, rb[0]), 2)
    z, slope_z = layer.acts[0](op, node, op.Add(xz, hz))
    r, slope_r = layer.acts[0](op, node, op.Add(xr, hr))
    s = layer.states(h, last, rb[1]) if late else None
    inner = layer.states(op.Mul(r, h), last, rb[1]) if s is None else op.Mul(r, s)
    n, slope_n = layer.acts[1](op, node, op.Add(xn, inner))
    coefficients = {
        "kz": layer.within(slope_z(op.Sub(h, n))),
        "kn": layer.within(slope_n(op.Sub(1.0, z))),
        "kr": slope_r(h if s is None else s),
        "z": z if layer.valid is None else op.Where(layer.valid, z, 1.0),
        "r": r,
    }

    def step(body: Emit, states: list[Value], s: dict[str, Any]) -> tuple[list[Value], list[Value]]:
        dh = _plus(body, states[0], s["dy"])
        dz, dn = body.Mul(dh, s["kz"]), body.Mul(dh, s["kn"])
        if late:
            inside = body.Mul(dn, s["r"])
            dr, direct = body.Mul(dn, s["kr"]), body.MatMul(inside, last)
        else:
            inside = body.MatMul(dn, last)
            dr, direct = body.Mul(inside, s["kr"]), body.Mul(inside, s["r"])
        both = body.Concat(dz, dr, axis=-1)
        return [_plus(body, body.Mul(dh, s["z"]), body.MatMul(both, gates), direct)], [both, dn]

    dh0, both, dn = layer.back([layer.dh], coefficients, step)
    inside = op.Mul(dn, r) if late else dn
    recurrent = op.Concat(layer.weights(both, h), layer.weights(inside, h if late else op.Mul(r, h)), axis=0)
    return layer.signals(op.Concat(both, dn, axis=-1), recurrent, op.Concat(layer.total(both), layer.total(inside), axis=0), dh0)


def _peephole(op: Emit, a: Value, p: Value | None, c: Value | None) -> Value:
    """a + P c, where the node has peepholes and the state is given."""
    return a if p is None or c is None else op.Add(a, op.Mul(c, p))


@dataclass(frozen=True)
class _InputForget:
    """The input and the forget gate of an LSTM: i = sigma(ai + P c'), f = sigma(af + P c'), or f = 1 - i where they are coupled."""

    layer: _Layer
    coupled: bool
    pi: Value | None
    pf: Value | None

    def __call__(self, op: Emit, ai: Value, af: Value, c: Value | None) -> tuple[tuple[Value, Through], tuple[Value, Through]]:
        """Both gates, each with its slope."""
        node, sigma = self.layer.node, self.layer.acts[0]
        i = sigma(op, node, _peephole(op, ai, self.pi, c))
        if self.coupled:
            return i, (op.Sub(1.0, i[0]), lambda signal: op.Mul(signal, 0.0))
        return i, sigma(op, node, _peephole(op, af, self.pf, c))

    def states(self, first: Value, ai: Value, af: Value, g: Value) -> Value:
        """c after each step. Gates that look at the state through peepholes are computed inside of the Scan, others before it."""

        def step(body: Emit, states: list[Value], s: dict[str, Any]) -> tuple[list[Value], list[Value]]:
            i, f = s["i"], s["f"]
            if self.pi is not None:
                (i, _), (f, _) = self(body, i, f, states[0])
            c = body.Add(body.Mul(f, states[0]), body.Mul(i, s["g"]))
            if s["kept"] is not None:
                c = body.Add(c, body.Mul(body.Sub(states[0], c), s["kept"]))
            return [c], [c]

        layer = self.layer
        (i, _), (f, _) = self(layer.op, ai, af, None)
        sequences = {"i": i if self.pi is None else ai, "f": f if self.pi is None else af, "g": g, "kept": layer.kept()}
        return _scan(layer.op, f"{layer.scope}/cell", [first], sequences, step, flip=layer.reverse)[1]


def _lstm(layer: _Layer) -> dict[int, Value]:
    """c = f c' + i g, h = o H(c): do = dh H(c), dc = dc + dh o H'(c), di = dc g, df = dc c', dg = dc i, dc' = dc f.

    Peepholes add P c' to the inputs of i and f and P c to that of o; input_forget makes f = 1 - i.
    """
    op, node = layer.op, layer.node
    assert layer.c0 is not None
    assert layer.dc is not None
    sigma, squash, last = layer.acts
    ai, ao, af, ag = layer.gates(op.Add(layer.inputs(), layer.states(layer.before, layer.r, layer.rb())), 4)
    pi, po, pf = (None, None, None) if layer.p is None else layer.gates(layer.p, 3)
    gates = _InputForget(layer, bool(node.attr("input_forget")), pi, pf)
    g, slope_g = squash(op, node, ag)
    c = gates.states(layer.c0, ai, af, g)
    before = _shifted(op, c, layer.c0, layer.reverse)
    (i, slope_i), (f, slope_f) = gates(op, ai, af, before)
    o, slope_o = sigma(op, node, _peephole(op, ao, po, c))
    out, slope_out = last(op, node, c, clipped=False)
    coefficients = {
        "ko": layer.within(slope_o(out)),
        "kc": layer.within(slope_out(o)),
        "ki": layer.within(slope_i(op.Sub(g, before) if gates.coupled else g)),
        "kf": layer.within(slope_f(before)),
        "kg": layer.within(slope_g(i)),
        "f": f if layer.valid is None else op.Where(layer.valid, f, 1.0),
        "kept": layer.kept(),
    }

    def step(body: Emit, states: list[Value], s: dict[str, Any]) -> tuple[list[Value], list[Value]]:
        dh = _plus(body, states[0], s["dy"])
        do = body.Mul(dh, s["ko"])
        dc = _plus(body, body.Add(states[1], body.Mul(dh, s["kc"])), _times(body, do, po))
        di, df, dg = body.Mul(dc, s["ki"]), body.Mul(dc, s["kf"]), body.Mul(dc, s["kg"])
        da = body.Concat(di, do, df, dg, axis=-1)
        dh = _plus(body, body.MatMul(da, layer.r), _times(body, dh, s["kept"]))
        return [dh, _plus(body, body.Mul(dc, s["f"]), _times(body, di, pi), _times(body, df, pf))], [da]

    dh0, dc0, da = layer.back([layer.dh, layer.dc], coefficients, step)
    answer = layer.signals(da, layer.weights(da, layer.before), layer.total(da), dh0) | {6: dc0}
    if layer.p is not None:
        di, do, df, _ = layer.gates(da, 4)
        answer[7] = op.Concat(*[layer.total(op.Mul(d, t)) for d, t in ((di, before), (do, c), (df, before))], axis=0)
    return answer


# ----- the node -----


def _shifted(op: Emit, states: Value, first: Value, reverse: bool) -> Value:
    """The state before each step, from the states after each step and the initial one."""
    initial = op.Unsqueeze(first, [0])
    if reverse:
        return op.Concat(op.Slice(states, [1], [END], [0]), initial, axis=0)
    return op.Concat(initial, op.Slice(states, [0], [-1], [0]), axis=0)


def _all_states(op: Emit, node: NodeView) -> Value:
    """The states of every step, where the forward node leaves them out: the same layer once more, with the lengths spelt otherwise.

    ONNX Runtime would merge two nodes of the same inputs into the one that lacks the output, and then not open the model.
    """
    lengths = node.optional(4)
    if lengths is None:
        spelt = op.Expand(op.Cast(dim_of(op, node.x, 0), to=TensorProto.INT32), dim_of(op, node.x, 1))
    else:
        spelt = op.Max(lengths, op.Cast(op.const([0]), to=TensorProto.INT32))
    inputs = [*node.inputs, *[None] * (5 - len(node.inputs))]
    return op.clone(node, [*inputs[:4], spelt, *inputs[5:]])


def _layer(op: Emit, node: NodeView, d: int, directions: int, y: Value, dys: Sequence[Value | None], acts: list[Activation]) -> _Layer:
    """Direction ``d`` of the node."""

    def pick(t: Value | None, axis: int = 0) -> Value | None:
        if t is None:
            return None
        return op.Squeeze(t, [axis]) if directions == 1 else op.Gather(t, op.const(d), axis=axis)

    hidden = node.attr("hidden_size") or node.input(2).dim(2)
    if hidden is None:
        raise UnsupportedError(f"{node.label}: its hidden size is neither an attribute nor known from R; write hidden_size into the node.")
    reverse = node.attr("direction") == "reverse" or d == 1
    none = op.ConstantOfShape(op.Concat(dim_of(op, node.x, 1), [hidden], axis=0), value=helper.make_tensor("zero", op.dtype, [1], [0.0]))
    valid = None
    if node.optional(4) is not None:
        steps = op.Unsqueeze(op.Range(0, op.Squeeze(dim_of(op, node.x, 0), [0]), 1), [1])
        valid = op.Unsqueeze(op.Less(steps, op.Cast(node.input(4), to=TensorProto.INT64)), [2])
    h0 = pick(node.optional(5)) or none
    h, w, r = pick(y, 1), pick(node.input(1)), pick(node.input(2))
    assert h is not None and w is not None and r is not None  # noqa: PT018
    if valid is not None:
        h = op.Where(valid, h, h0)
    bias = pick(node.optional(3))
    half = _GATES[node.op_type] * hidden
    cell = node.op_type == "LSTM"
    return _Layer(
        op=op,
        node=node,
        scope=f"{op.prefix}/{node.name}/{'reverse' if reverse else 'forward'}",
        reverse=reverse,
        hidden=hidden,
        w=w,
        r=r,
        biases=None if bias is None else op.Split(bias, [half, half], axis=0, outputs=2),
        h0=h0,
        c0=(pick(node.optional(6)) or none) if cell else None,
        p=pick(node.optional(7)) if cell else None,
        before=_shifted(op, h, h0, reverse),
        valid=valid,
        acts=acts,
        dy=pick(dys[0], 1),
        dh=pick(dys[1] if len(dys) > 1 else None) or none,
        dc=(pick(dys[2] if len(dys) > 2 else None) or none) if cell else None,
    )


_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_CELLS = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}


def _cases(op_type: str) -> list[Case]:
    gates = _GATES[op_type]

    def one(t: int = 3, n: int = 2, i: int = 2, h: int = 3, d: int = 1, lens: Any = None, states: bool = True, **more: Any) -> Case:
        sizes: list[Any] = [(t, n, i), (d, gates * h, i), (d, gates * h, h), (d, 2 * gates * h), lens, (d, n, h)]
        sizes += [(d, n, h), (d, 3 * h)] if op_type == "LSTM" else []
        kept = sizes if states else sizes[:3] if lens is None else [*sizes[:3], None, lens]
        return case(*kept, hidden_size=h, outputs=3 if op_type == "LSTM" else 2, low=-1.5, high=1.5, **more)

    lens = np.asarray([2, 4, 1], np.int32)
    cases = [
        one(),
        one(states=False),
        one(direction="reverse"),
        one(d=2, direction="bidirectional", t=2, h=2),
        one(t=4, n=3, lens=lens, i=1, h=2),
        one(t=4, n=3, lens=lens, d=2, h=2, direction="bidirectional"),
        one(clip=0.6),
        one(t=1, n=1),
    ]
    if op_type == "RNN":
        both: dict[str, Any] = {"d": 2, "direction": "bidirectional"}
        cases += [one(activations=["Affine", "LeakyRelu"], activation_alpha=[0.6, 0.2], activation_beta=[0.3], **both)]
        cases += [one(activations=["Softplus", "ThresholdedRelu"], activation_alpha=[0.2], **both)]
    if op_type == "GRU":
        cases += [one(activations=["HardSigmoid", "Elu"], activation_alpha=[0.3, 0.7], activation_beta=[0.45])]
        cases += [one(linear_before_reset=1), one(linear_before_reset=1, lens=lens, t=4, n=3, direction="reverse")]
    if op_type == "LSTM":
        cases += [one(activations=["HardSigmoid", "Softsign", "ScaledTanh"], activation_alpha=[0.3, 0.9], activation_beta=[0.45, 0.8])]
        cases += [one(input_forget=1), one(states=False, lens=lens, t=4, n=3)]
    return cases


def _recurrent_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """X is [T, N, I] (N first where layout is 1), initial states are [directions, N, H]; Y is [T, directions, N, H], last states too."""
    turned = bool(node.attr("layout"))
    samples = 0 if turned else 1 if j else 2
    if i == 4 or (i in (5, 6) and axis == int(not turned)):
        return samples, APART
    if i:
        return None
    if axis == int(not turned):
        return samples, APART
    steps = axis == int(turned)
    return (None if j else (axis, MIXED)) if steps else (node.output(j).rank - 1, SUMMED)


@gradient_of(
    "RNN",
    "GRU",
    "LSTM",
    family="recurrent",
    axes=_recurrent_axes,
    trained=(1, 2, 3),
    bias="unknown",
    cases={k: _cases(k) for k in _GATES},
    many=True,
)
def recurrent(op: Emit, node: NodeView, dys: list[Value | None]) -> list[Value | None]:
    """dh' = dh dh/dh' + dy, from the last step to the first; dx = da W, dW = sum da^T x, dR = sum da^T h', db = sum da."""
    if node.attr("layout"):
        raise UnsupportedError(f"{node.label}: layout=1 has no gradient, nor a kernel in ONNX Runtime. Export it with layout=0.")
    directions = 2 if node.attr("direction") == "bidirectional" else 1
    y = node.outputs[0] or _all_states(op, node)
    acts = activations(node, directions)
    parts = [_CELLS[node.op_type](_layer(op, node, d, directions, y, dys, acts[d])) for d in range(directions)]
    answer: list[Value | None] = []
    for i, value in enumerate(node.inputs):
        signals = [p[i] for p in parts if i in p and value is not None]
        if not signals or i == 0:
            answer.append(_plus(op, *signals) if signals else None)
        else:
            answer.append(op.Unsqueeze(signals[0], [0]) if directions == 1 else op.Concat(*[op.Unsqueeze(s, [0]) for s in signals], axis=0))
    return answer
