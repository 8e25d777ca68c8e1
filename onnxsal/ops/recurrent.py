"""Recurrent layers: RNN, GRU and LSTM, by backpropagation through time.

What a step sends back is linear in what it receives. Its coefficients (gates, slopes of activations) are computed for all
steps at once from the states that the forward node returns, so a ``Scan`` per direction only carries the signal, and the
products with the inputs and for the weights stay outside of it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import TensorProto

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import dim_of
from onnxsal.ops.cell_activation import activations
from onnxsal.ops.cells import GATES, Direction, direction_of, gru_parts, gru_slopes, lstm_parts, lstm_slopes, plus, product, rnn_slope
from onnxsal.ops.held_cells import LinearCell, held_cell, joined
from onnxsal.ops.registry import Case, Held, case, gradient_of
from onnxsal.ops.statements import APART, MIXED, SUMMED, Gates, Moved
from onnxsal.ops.tangent_cells import tangents

# ----- the three cells -----


def _rnn(layer: Direction) -> dict[int, Value]:
    """h = f(a), a = x W^T + h' R^T + b: da = dh f'(a), dh' = da R."""
    k = rnn_slope(layer)

    def step(body: Emit, states: list[Value], s: dict[str, Any]) -> tuple[list[Value], list[Value]]:
        dh = plus(body, states[0], s["dy"])
        da = body.Mul(dh, s["k"])
        return [plus(body, body.MatMul(da, layer.r), product(body, dh, s["kept"]))], [da]

    dh0, da = layer.back([layer.dh], {"k": k, "kept": layer.kept()}, step)
    return layer.signals(da, layer.weights(da, layer.before), layer.total(da), dh0)


def _gru(layer: Direction) -> dict[int, Value]:
    """h = (1 - z) n + z h', n = g(a): dz = dh (h' - n), dn = dh (1 - z), and through the reset gate r to h'."""
    op, h = layer.op, layer.before
    parts = gru_parts(layer)
    r, gates, last, late = parts.r[0], parts.gates, parts.last, parts.s is not None
    coefficients = gru_slopes(layer, parts)

    def step(body: Emit, states: list[Value], s: dict[str, Any]) -> tuple[list[Value], list[Value]]:
        dh = plus(body, states[0], s["dy"])
        dz, dn = body.Mul(dh, s["kz"]), body.Mul(dh, s["kn"])
        if late:
            inside = body.Mul(dn, s["r"])
            dr, direct = body.Mul(dn, s["kr"]), body.MatMul(inside, last)
        else:
            inside = body.MatMul(dn, last)
            dr, direct = body.Mul(inside, s["kr"]), body.Mul(inside, s["r"])
        both = body.Concat(dz, dr, axis=-1)
        return [plus(body, body.Mul(dh, s["z"]), body.MatMul(both, gates), direct)], [both, dn]

    dh0, both, dn = layer.back([layer.dh], coefficients, step)
    inside = op.Mul(dn, r) if late else dn
    recurrent = op.Concat(layer.weights(both, h), layer.weights(inside, h if late else op.Mul(r, h)), axis=0)
    return layer.signals(op.Concat(both, dn, axis=-1), recurrent, op.Concat(layer.total(both), layer.total(inside), axis=0), dh0)


def _lstm(layer: Direction) -> dict[int, Value]:
    """c = f c' + i g, h = o H(c): do = dh H(c), dc = dc + dh o H'(c), di = dc g, df = dc c', dg = dc i, dc' = dc f."""
    op = layer.op
    assert layer.dc is not None
    parts = lstm_parts(layer)
    before, c, (pi, po, pf) = parts.before, parts.c, parts.peepholes
    coefficients = lstm_slopes(layer, parts)

    def step(body: Emit, states: list[Value], s: dict[str, Any]) -> tuple[list[Value], list[Value]]:
        dh = plus(body, states[0], s["dy"])
        do = body.Mul(dh, s["ko"])
        dc = plus(body, body.Add(states[1], body.Mul(dh, s["kc"])), product(body, do, po))
        di, df, dg = body.Mul(dc, s["ki"]), body.Mul(dc, s["kf"]), body.Mul(dc, s["kg"])
        da = body.Concat(di, do, df, dg, axis=-1)
        dh = plus(body, body.MatMul(da, layer.r), product(body, dh, s["kept"]))
        return [dh, plus(body, body.Mul(dc, s["f"]), product(body, di, pi), product(body, df, pf))], [da]

    dh0, dc0, da = layer.back([layer.dh, layer.dc], coefficients, step)
    answer = layer.signals(da, layer.weights(da, layer.before), layer.total(da), dh0) | {6: dc0}
    if layer.p is not None:
        di, do, df, _ = layer.gates(da, 4)
        answer[7] = op.Concat(*[layer.total(op.Mul(d, t)) for d, t in ((di, before), (do, c), (df, before))], axis=0)
    return answer


_CELLS = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}


def _cases(op_type: str) -> list[Case]:
    gates = GATES[op_type]

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


def _directions(op: Emit, node: NodeView, dys: Sequence[Value | None]) -> Iterator[Direction]:
    """The directions of a node, with the signals at its outputs."""
    if node.attr("layout"):
        raise UnsupportedError(f"{node.label}: layout=1 has no gradient, nor a kernel in ONNX Runtime. Export it with layout=0.")
    directions = 2 if node.attr("direction") == "bidirectional" else 1
    y = node.outputs[0] or _all_states(op, node)
    acts = activations(node, directions)
    yield from (direction_of(op, node, d, directions, y, dys, acts[d]) for d in range(directions))


def _together(op: Emit, node: NodeView, parts: Sequence[dict[int, Value]]) -> list[Value | None]:
    """Signals at the inputs of a node, of what each direction sends to them."""
    answer: list[Value | None] = []
    for i, value in enumerate(node.inputs):
        signals = [p[i] for p in parts if i in p and value is not None]
        if not signals or i == 0:
            answer.append(plus(op, *signals) if signals else None)
        else:
            answer.append(op.Unsqueeze(signals[0], [0]) if len(parts) == 1 else op.Concat(*[op.Unsqueeze(s, [0]) for s in signals], axis=0))
    return answer


def _cells(op: Emit, node: NodeView, dys: Sequence[Value | None]) -> list[LinearCell]:
    """The directions of a node with constant gates, whose coefficients are computed once."""
    key = ("held", *node.proto.input, *node.proto.output)
    cells = op.cached(key, lambda: [held_cell(direction) for direction in _directions(op, node, [None] * 3)])
    return [cell.of(node, dys) for cell in cells]


def _held(op: Emit, node: NodeView, dys: list[Value | None]) -> list[Value | None]:
    """With all gates constant, and y / a in place of the slopes of the other activations."""
    return _together(op, node, [cell.back() for cell in _cells(op, node, dys)])


def _left_over(op: Emit, node: NodeView) -> list[Value | None] | None:
    """What biases, and states and inputs that carry no signal, make of every output in that form."""
    cells = _cells(op, node, [None] * 3)
    return joined(op, [cell.kept() for cell in cells], node) if any(cell.keeps for cell in cells) else None


def _bias(op: Emit, node: NodeView) -> list[Value | None]:
    """What is left of every output beyond the product of the Jacobian with what carries a signal."""
    moved = joined(op, [tangents(direction) for direction in _directions(op, node, [None] * 3)], node)
    return [None if y is None or t is None else op.Sub(y, t) for y, t in zip(node.outputs, moved, strict=True)]


GATE_NAMES = {"RNN": ("hidden",), "GRU": ("update", "reset", "hidden"), "LSTM": ("input", "output", "forget", "cell")}
"""In the order in which weights and biases hold them."""


def _stored(op: Emit, node: NodeView, gate: str | None) -> list[Value | None] | None:
    """J_B B, of all of B or of the rows of one gate: the tangent of every output where these alone move."""
    if node.optional(3) is None or node.want(3):
        return None
    view, names = copy.copy(node), GATE_NAMES[node.op_type]
    view.wants = tuple(i == 3 for i in range(len(node.inputs)))
    layers = list(_directions(op, view, [None] * 3))
    if gate is not None:
        own = [np.repeat(np.eye(len(names), dtype=op.np_dtype)[names.index(gate)], layer.hidden) for layer in layers]
        layers = [replace(n, moving=tuple(op.Mul(b, rows) for b in n.biases or ())) for n, rows in zip(layers, own, strict=True)]
    return joined(op, [tangents(layer) for layer in layers], node)


@gradient_of(
    "RNN",
    "GRU",
    "LSTM",
    family="recurrent",
    axes=_recurrent_axes,
    trained=(1, 2, 3),
    bias=_bias,
    held=Held(_held, _left_over),
    gates=Gates(lambda node: GATE_NAMES[node.op_type], _stored),
    cases={k: _cases(k) for k in GATES},
    many=True,
)
def recurrent(op: Emit, node: NodeView, dys: list[Value | None]) -> list[Value | None]:
    """dh' = dh dh/dh' + dy, from the last step to the first; dx = da W, dW = sum da^T x, dR = sum da^T h', db = sum da."""
    return _together(op, node, [_CELLS[node.op_type](direction) for direction in _directions(op, node, dys)])
