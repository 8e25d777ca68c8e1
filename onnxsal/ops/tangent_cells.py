"""RNN, GRU and LSTM by the product of their Jacobian with their own inputs: forwards in time, beside the states.

A tangent is what the inputs that carry a signal make of a tensor to first order, if each moves by its own size: ``J x``. Its steps are
linear, with the coefficients that the gradient has (``cells.py``), so a ``Scan`` per direction carries the tangents of the states only;
what inputs, weights and biases add to the gates is computed for all steps at once. ``r = y - J x`` is then the implicit bias of a layer:
of every gate, of the products among gates, and of biases and states that carry no signal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from onnxsal.graph import Emit, Value
from onnxsal.ops.cells import Direction, gru_parts, gru_slopes, lstm_parts, lstm_slopes, plus, product, rnn_slope, scan

Tangents = tuple[Value, Value, Value]
"""Of the states of every step (0 beyond the end of a sequence), of the last one, and of the last cell state (again the last one, where a
cell has none)."""


def _start(layer: Direction, state: Value, i: int) -> Value:
    """The tangent of an initial state."""
    return state if layer.node.want(i) else layer.op.Mul(state, 0.0)


def _added(layer: Direction, *parts: Value | None) -> Value | None:
    """The sum of what there is."""
    found = [p for p in parts if p is not None]
    return plus(layer.op, *found) if found else None


def _inputs(layer: Direction) -> Value | None:
    """Of x W^T: once for each of both that carries a signal."""
    op, count = layer.op, layer.node.want(0) + layer.node.want(1)
    a = op.MatMul(layer.node.x, op.Transpose(layer.w, perm=[1, 0])) if count else None
    return a if a is None or count == 1 else op.Mul(a, 2.0)


def _weights(layer: Direction, h: Value, r: Value) -> Value | None:
    """Of h R^T by R alone."""
    return layer.states(h, r) if layer.node.want(2) else None


def _biases(layer: Direction) -> tuple[Value | None, Value | None]:
    """Of both halves of B."""
    return layer.moving or layer.biases or (None, None) if layer.node.want(3) else (None, None)


def _rnn(layer: Direction) -> Tangents:
    """h = f(a): dh = f'(a) da."""
    fixed = _added(layer, *_biases(layer))
    u = _added(layer, _inputs(layer), _weights(layer, layer.before, layer.r))
    turned = layer.op.Transpose(layer.r, perm=[1, 0])

    def step(body: Emit, states: list[Value], s: dict[str, Any]) -> tuple[list[Value], list[Value]]:
        (h,) = states
        new = plus(body, body.Mul(plus(body, body.MatMul(h, turned), s["u"], fixed), s["k"]), product(body, h, s["kept"]))
        return [new], [new]

    last, every = _scan(layer, [_start(layer, layer.h0, 5)], {"u": u, "k": rnn_slope(layer), "kept": layer.kept()}, step)
    return layer.within(every), last, last


def _gru(layer: Direction) -> Tangents:
    """h = (1 - z) n + z h': dh = dz (h' - n) + (1 - z) dn + z dh'."""
    op, parts, (wb, rb) = layer.op, gru_parts(layer), _biases(layer)
    late, reset = parts.s is not None, parts.r[0]
    wx, bx, bh = _thirds(layer, _inputs(layer)), _thirds(layer, wb), _thirds(layer, rb)
    both = _weights(layer, layer.before, parts.gates)
    hz, hr = (None, None) if both is None else layer.gates(both, 2)
    hn = _weights(layer, layer.before if late else op.Mul(reset, layer.before), parts.last)
    sequences = {
        "uz": _added(layer, wx[0], hz),
        "ur": _added(layer, wx[1], hr),
        "un": wx[2] if late else _added(layer, wx[2], hn),
        "us": hn if late else None,
        **gru_slopes(layer, parts),
    }
    bz, br, bn = (_added(layer, *both) for both in zip(bx, bh, strict=True))
    bn, bs = (bx[2], bh[2]) if late else (bn, None)
    gates, turned = (op.Transpose(w, perm=[1, 0]) for w in (parts.gates, parts.last))

    def step(body: Emit, states: list[Value], s: dict[str, Any]) -> tuple[list[Value], list[Value]]:
        (h,) = states
        z, r = body.Split(body.MatMul(h, gates), [layer.hidden] * 2, axis=-1, outputs=2)
        dr = body.Mul(plus(body, r, s["ur"], br), s["kr"])
        if late:
            n = body.Add(dr, body.Mul(plus(body, body.MatMul(h, turned), s["us"], bs), s["r"]))
        else:
            n = body.MatMul(body.Add(dr, body.Mul(h, s["r"])), turned)
        z, n = plus(body, z, s["uz"], bz), plus(body, n, s["un"], bn)
        new = plus(body, body.Mul(z, s["kz"]), body.Mul(n, s["kn"]), body.Mul(h, s["z"]))
        return [new], [new]

    last, every = _scan(layer, [_start(layer, layer.h0, 5)], sequences, step)
    return layer.within(every), last, last


def _thirds(layer: Direction, t: Value | None) -> Sequence[Value | None]:
    """The parts of z, r and n, where there are some."""
    return (None, None, None) if t is None else layer.gates(t, 3)


def _lstm(layer: Direction) -> Tangents:
    """c = f c' + i g, h = o H(c): dc = df c' + f dc' + di g + i dg, dh = do H(c) + o H'(c) dc."""
    op, parts, fixed = layer.op, lstm_parts(layer), _added(layer, *_biases(layer))
    pi, po, pf = parts.peepholes
    seen = (parts.before, parts.c, parts.before, None)
    own = (pi, po, pf, None) if layer.node.want(7) else (None,) * 4
    u = _added(layer, _inputs(layer), _weights(layer, layer.before, layer.r))
    if any(p is not None for p in own):
        looked = [op.Mul(parts.c, 0.0) if p is None or c is None else op.Mul(c, p) for p, c in zip(own, seen, strict=True)]
        u = _added(layer, u, op.Concat(*looked, axis=-1))
    turned = op.Transpose(layer.r, perm=[1, 0])

    def step(body: Emit, states: list[Value], s: dict[str, Any]) -> tuple[list[Value], list[Value]]:
        h, c = states
        ai, ao, af, ag = body.Split(plus(body, body.MatMul(h, turned), s["u"], fixed), [layer.hidden] * 4, axis=-1, outputs=4)
        i, f = (body.Mul(plus(body, a, product(body, c, p)), s[k]) for a, p, k in ((ai, pi, "ki"), (af, pf, "kf")))
        c = plus(body, i, f, body.Mul(ag, s["kg"]), body.Mul(c, s["f"]))
        o = body.Mul(plus(body, ao, product(body, c, po)), s["ko"])
        new = plus(body, o, body.Mul(c, s["kc"]), product(body, h, s["kept"]))
        return [new, c], [new]

    assert layer.c0 is not None
    starts = [_start(layer, layer.h0, 5), _start(layer, layer.c0, 6)]
    last, memory, every = _scan(layer, starts, {"u": u, **lstm_slopes(layer, parts)}, step)
    return layer.within(every), last, memory


def _scan(layer: Direction, starts: list[Value], sequences: dict[str, Value | None], step: Any) -> list[Value]:
    """From the first step to the last."""
    return scan(layer.op, f"{layer.scope}/tangent", starts, sequences, step, flip=layer.reverse)


_CELLS = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}


def tangents(layer: Direction) -> Tangents:
    """``J x`` of one direction, over the inputs that carry a signal."""
    return _CELLS[layer.node.op_type](layer)
