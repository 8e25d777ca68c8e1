"""The steps of recurrent layers: one direction of a node with its tensors, and what its cell computes at every step, all steps at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from onnx import TensorProto, helper

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import cast, dim_of, mask, ones_like
from onnxsal.ops.cell_activation import Activation, Through

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
"""How many blocks of rows the weights of a cell have."""

END = 2**62
"""Beyond every axis: a Slice end that means 'to the end'."""

# ----- steps -----

CellStep = Callable[[Emit, list[Value], dict[str, Value | None]], tuple[list[Value], list[Value]]]
"""(body, states, this step's slices) -> (new states, outputs)."""


def _flip(op: Emit, t: Value) -> Value:
    return op.Slice(t, [-1], [-END], [0], [-1])


def scan(op: Emit, scope: str, states: Sequence[Value], sequences: dict[str, Value | None], step: CellStep, flip: bool) -> list[Value]:
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
    results = op.subgraph("Scan", [*states, *fed], {"body": graph}, outputs=len(outputs), num_scan_inputs=len(fed))
    return [*results[: len(states)], *(_flip(op, v) if flip else v for v in results[len(states) :])]


@dataclass(frozen=True)
class Direction:
    """One direction of the node: its tensors without the direction axis, in the order of time."""

    op: Emit
    node: NodeView
    which: tuple[int, int]
    """Its number, and how many there are."""
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
    moving: tuple[Value, Value] | None = None
    """The biases as a tangent moves them, where it does not move all of them."""

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
        return scan(self.op, f"{self.scope}/back", states, {"dy": dy, **sequences}, step, flip=not self.reverse)

    def total(self, da: Value) -> Value:
        return self.op.ReduceSum(da, [0, 1], keepdims=0)

    def weights(self, da: Value, t: Value) -> Value:
        """sum over steps and samples of da^T t."""
        return self.op.MatMul(self.op.Transpose(self.op.Flatten(da, axis=2), perm=[1, 0]), self.op.Flatten(t, axis=2))

    def signals(self, da: Value, dr: Value, drb: Value, dh0: Value) -> dict[int, Value]:
        """What goes to X, W, R, B and initial_h, from the signals at ``x W^T + Wb``."""
        bias = self.op.Concat(self.total(da), drb, axis=0)
        return {0: self.op.MatMul(da, self.w), 1: self.weights(da, self.node.x), 2: dr, 3: bias, 5: dh0}


def plus(op: Emit, a: Value, *more: Value | None) -> Value:
    """The sum of the values that there are."""
    for b in more:
        a = a if b is None else op.Add(a, b)
    return a


def product(op: Emit, a: Value, b: Value | None) -> Value | None:
    """a b, where there is a b."""
    return None if b is None else op.Mul(a, b)


# ----- what the cells compute -----


@dataclass(frozen=True)
class GruParts:
    """What a GRU computes at every step: both gates with their slopes, the input ``a`` of n, s = h' R^T + Rb where it is reset afterwards,
    and the weights of the states for both gates and for n.
    """

    z: tuple[Value, Through]
    r: tuple[Value, Through]
    a: Value
    s: Value | None
    gates: Value
    last: Value


def gru_parts(layer: Direction) -> GruParts:
    """linear_before_reset: a = x W^T + r s with s = h' R^T + Rb, else a = x W^T + (r h') R^T + Rb."""
    op, node, h, hidden = layer.op, layer.node, layer.before, layer.hidden
    gates, last = op.Split(layer.r, [2 * hidden, hidden], axis=0, outputs=2)
    rb = (None, None) if layer.biases is None else op.Split(layer.biases[1], [2 * hidden, hidden], axis=0, outputs=2)
    xz, xr, xn = layer.gates(layer.inputs(), 3)
    hz, hr = layer.gates(layer.states(h, gates, rb[0]), 2)
    z, r = layer.acts[0](op, node, op.Add(xz, hz)), layer.acts[0](op, node, op.Add(xr, hr))
    s = layer.states(h, last, rb[1]) if node.attr("linear_before_reset") else None
    inner = layer.states(op.Mul(r[0], h), last, rb[1]) if s is None else op.Mul(r[0], s)
    return GruParts(z, r, op.Add(xn, inner), s, gates, last)


def _peephole(op: Emit, a: Value, p: Value | None, c: Value | None) -> Value:
    """a + P c, where the node has peepholes and the state is given."""
    return a if p is None or c is None else op.Add(a, op.Mul(c, p))


@dataclass(frozen=True)
class _InputForget:
    """The input and the forget gate of an LSTM: i = sigma(ai + P c'), f = sigma(af + P c'), or f = 1 - i where they are coupled."""

    layer: Direction
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
        return scan(layer.op, f"{layer.scope}/cell", [first], sequences, step, flip=layer.reverse)[1]


@dataclass(frozen=True)
class LstmParts:
    """What an LSTM computes at every step: its gates and g with their slopes, the input ``a`` of g, the states before and after; its
    peepholes of i, o and f, and whether f is 1 - i.
    """

    i: tuple[Value, Through]
    f: tuple[Value, Through]
    o: tuple[Value, Through]
    g: tuple[Value, Through]
    a: Value
    before: Value
    c: Value
    peepholes: tuple[Value | None, ...]
    coupled: bool


def lstm_parts(layer: Direction) -> LstmParts:
    """c = f c' + i g(a). Peepholes add P c' to the inputs of i and f and P c to that of o; input_forget makes f = 1 - i."""
    op, node = layer.op, layer.node
    assert layer.c0 is not None
    sigma, squash, _ = layer.acts
    ai, ao, af, ag = layer.gates(op.Add(layer.inputs(), layer.states(layer.before, layer.r, layer.rb())), 4)
    pi, po, pf = (None, None, None) if layer.p is None else layer.gates(layer.p, 3)
    gates = _InputForget(layer, bool(node.attr("input_forget")), pi, pf)
    g = squash(op, node, ag)
    c = gates.states(layer.c0, ai, af, g[0])
    before = shifted(op, c, layer.c0, layer.reverse)
    i, f = gates(op, ai, af, before)
    return LstmParts(i, f, sigma(op, node, _peephole(op, ao, po, c)), g, ag, before, c, (pi, po, pf), gates.coupled)


# ----- slopes -----


def rnn_slope(layer: Direction) -> Value:
    """f'(a) of h = f(a) at every step, 0 beyond the end of a sequence."""
    op = layer.op
    a = op.Add(layer.inputs(), layer.states(layer.before, layer.r, layer.rb()))
    _, slope = layer.acts[0](op, layer.node, a)
    return layer.within(slope(ones_like(op, a)))


def gru_slopes(layer: Direction, parts: GruParts) -> dict[str, Value | None]:
    """dh / d the inputs of z, n and r (of r what it adds to that of n), and z and r: beyond the end of a sequence h stays as it is."""
    op, (z, slope_z), (r, slope_r) = layer.op, parts.z, parts.r
    n, slope_n = layer.acts[1](op, layer.node, parts.a)
    return {
        "kz": layer.within(slope_z(op.Sub(layer.before, n))),
        "kn": layer.within(slope_n(op.Sub(1.0, z))),
        "kr": slope_r(layer.before if parts.s is None else parts.s),
        "z": z if layer.valid is None else op.Where(layer.valid, z, 1.0),
        "r": r,
    }


def lstm_slopes(layer: Direction, parts: LstmParts) -> dict[str, Value | None]:
    """dh / d the input of o and dh / dc, dc / d the inputs of i, f and g, and f: beyond the end of a sequence both states stay."""
    op, (i, slope_i), (f, slope_f), (o, slope_o), (g, slope_g) = layer.op, parts.i, parts.f, parts.o, parts.g
    out, slope_out = layer.acts[2](op, layer.node, parts.c, clipped=False)
    return {
        "ko": layer.within(slope_o(out)),
        "kc": layer.within(slope_out(o)),
        "ki": layer.within(slope_i(op.Sub(g, parts.before) if parts.coupled else g)),
        "kf": layer.within(slope_f(parts.before)),
        "kg": layer.within(slope_g(i)),
        "f": f if layer.valid is None else op.Where(layer.valid, f, 1.0),
        "kept": layer.kept(),
    }


# ----- one direction -----


def shifted(op: Emit, states: Value, first: Value, reverse: bool) -> Value:
    """The state before each step, from the states after each step and the initial one."""
    initial = op.Unsqueeze(first, [0])
    if reverse:
        return op.Concat(op.Slice(states, [1], [END], [0]), initial, axis=0)
    return op.Concat(initial, op.Slice(states, [0], [-1], [0]), axis=0)


def picked(op: Emit, t: Value | None, which: tuple[int, int], axis: int = 0) -> Value | None:
    """One direction (its number, and how many there are) of a tensor that has them along ``axis``."""
    if t is None:
        return None
    return op.Squeeze(t, [axis]) if which[1] == 1 else op.Gather(t, op.const(which[0]), axis=axis)


def direction_of(
    op: Emit, node: NodeView, d: int, directions: int, y: Value, dys: Sequence[Value | None], acts: list[Activation]
) -> Direction:
    """Direction ``d`` of the node."""

    def pick(t: Value | None, axis: int = 0) -> Value | None:
        return picked(op, t, (d, directions), axis)

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
    half = GATES[node.op_type] * hidden
    cell = node.op_type == "LSTM"
    return Direction(
        op=op,
        node=node,
        which=(d, directions),
        scope=f"{op.prefix}/{node.name}/{'reverse' if reverse else 'forward'}",
        reverse=reverse,
        hidden=hidden,
        w=w,
        r=r,
        biases=None if bias is None else op.Split(bias, [half, half], axis=0, outputs=2),
        h0=h0,
        c0=(pick(node.optional(6)) or none) if cell else None,
        p=pick(node.optional(7)) if cell else None,
        before=shifted(op, h, h0, reverse),
        valid=valid,
        acts=acts,
        dy=pick(dys[0], 1),
        dh=pick(dys[1] if len(dys) > 1 else None) or none,
        dc=(pick(dys[2] if len(dys) > 2 else None) or none) if cell else None,
    )
