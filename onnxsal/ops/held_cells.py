"""RNN, GRU and LSTM with their gates held constant, for relevance: the signal takes all.

What gates are made of then gets nothing, and with ``y / a`` in place of an activation's slope a cell is linear in what it reads. All three
are one recurrence, with coefficients of their own for every step:

    a = x W^T + after (before h') R^T + u
    m = keep m' + write a + rest
    h = read m + out

m is the cell state of an LSTM; in the others it is h itself. Arras et al. 2017, arXiv 1706.07206.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import cast
from onnxsal.ops.cells import Direction, gru_parts, lstm_parts, picked, plus, product, scan


@dataclass(frozen=True)
class LinearCell:
    """One direction with its coefficients (``None``: 1, of those that are added 0); ``w``, ``r`` are the rows of the weights of a.

    ``u`` [hidden], or one for each step, is what biases add to a.
    """

    layer: Direction
    w: Value
    r: Value
    u: Value | None
    write: Value
    keep: Value
    before: Value | None = None
    after: Value | None = None
    rest: Value | None = None
    read: Value | None = None
    out: Value | None = None

    def of(self, node: NodeView, dys: Sequence[Value | None]) -> LinearCell:
        """The same cell with the signals at the outputs of ``node``, which says which inputs carry one."""
        layer = self.layer
        dy, dh, dc = (picked(layer.op, t, layer.which, 0 if j else 1) for j, t in enumerate((*dys, None, None, None)[:3]))
        return replace(self, layer=replace(layer, node=node, dy=dy, dh=dh or layer.dh, dc=dc or layer.dc))

    def back(self) -> dict[int, Value]:
        """Signals at X and at the initial states."""
        layer = self.layer
        sequences = {k: getattr(self, k) for k in ("write", "keep", "before", "after", "read")} | {"kept": layer.kept()}

        def step(body: Emit, states: list[Value], s: dict[str, Any]) -> tuple[list[Value], list[Value]]:
            dh = plus(body, states[0], s["dy"])
            dm = plus(body, states[1], _scaled(body, dh, s["read"]))
            da = body.Mul(dm, s["write"])
            sent = _scaled(body, body.MatMul(_scaled(body, da, s["after"]), self.r), s["before"])
            return [plus(body, sent, product(body, dh, s["kept"])), body.Mul(dm, s["keep"])], [da]

        dh0, dm0, da = layer.back([layer.dh, layer.dc or layer.op.Mul(layer.dh, 0.0)], sequences, step)
        states = {5: dh0, 6: dm0} if layer.c0 is not None else {5: layer.op.Add(dh0, dm0)}
        return {0: layer.op.MatMul(da, self.w), **states}

    def _is_constant(self, i: int) -> bool:
        return self.layer.node.optional(i) is not None and not self.layer.node.want(i)

    @property
    def keeps(self) -> bool:
        """Whether anything is left of the outputs if everything that carries a signal is 0."""
        return any(v is not None for v in (self.u, self.rest, self.out)) or any(self._is_constant(i) for i in (0, 5, 6))

    def kept(self) -> tuple[Value, Value, Value]:
        """What is left of every step's h, of the last h and of the last m, if everything that carries a signal is 0."""
        layer, op = self.layer, self.layer.op
        u = self.u
        if self._is_constant(0):
            u = plus(op, op.MatMul(layer.node.x, op.Transpose(self.w, perm=[1, 0])), u)
        none = op.Mul(layer.h0, 0.0)
        h0 = layer.h0 if self._is_constant(5) else none
        m0 = h0 if layer.c0 is None else layer.c0 if self._is_constant(6) else none
        turned = op.Transpose(self.r, perm=[1, 0])
        u = None if u is None else op.Add(op.Mul(self.write, 0.0), u)  # as one for each step
        names = ("write", "keep", "before", "after", "read", "rest", "out")
        sequences = {k: getattr(self, k) for k in names} | {"u": u, "kept": layer.kept()}

        def step(body: Emit, states: list[Value], s: dict[str, Any]) -> tuple[list[Value], list[Value]]:
            h, m = states
            a = plus(body, _scaled(body, body.MatMul(_scaled(body, h, s["before"]), turned), s["after"]), s["u"])
            m = plus(body, body.Mul(m, s["keep"]), body.Mul(a, s["write"]), s["rest"])
            new = plus(body, _scaled(body, m, s["read"]), s["out"], product(body, h, s["kept"]))
            return [new, m], [new]

        last, memory, every = scan(op, f"{layer.scope}/kept", [h0, m0], sequences, step, flip=layer.reverse)
        return layer.within(every), last, memory


def _scaled(op: Emit, a: Value, b: Value | None) -> Value:
    return a if b is None else op.Mul(a, b)


def _within(layer: Direction, value: Value | None) -> Value | None:
    return None if value is None else layer.within(value)


def _inside(layer: Direction, read: Value | None) -> Value | None:
    """``read`` within the sequences and 0 beyond their ends, where h stays as it is."""
    if layer.valid is None:
        return read
    return cast(layer.op, layer.valid) if read is None else layer.within(read)


def _keep(layer: Direction, keep: Value) -> Value:
    """``keep`` within the sequences and 1 beyond their ends, where m stays as it is."""
    return keep if layer.valid is None else layer.op.Where(layer.valid, keep, 1.0)


def _biases(layer: Direction, block: int, blocks: int) -> tuple[Value | None, Value | None]:
    """Wb and Rb of one of the blocks of a cell."""
    if layer.biases is None:
        return None, None
    wb, rb = (layer.gates(b, blocks)[block] if blocks > 1 else b for b in layer.biases)
    return wb, rb


def _rows(layer: Direction, weight: Value, block: int, blocks: int) -> Value:
    hidden = layer.hidden
    return weight if blocks == 1 else layer.op.Slice(weight, [block * hidden], [(block + 1) * hidden], [0])


def _rnn(layer: Direction) -> LinearCell:
    """h = k a: nothing is kept."""
    op = layer.op
    a = op.Add(layer.inputs(), layer.states(layer.before, layer.r, layer.rb()))
    k, rest = layer.acts[0].ratio(op, layer.node, a, layer.acts[0](op, layer.node, a))
    keep = _keep(layer, op.Mul(k, 0.0))
    u = None if layer.biases is None else op.Add(*layer.biases)
    return LinearCell(layer, layer.w, layer.r, u, layer.within(k), keep, rest=_within(layer, rest), read=_inside(layer, None))


def _gru(layer: Direction) -> LinearCell:
    """h = (1 - z) n + z h': the reset gate stands before R, or behind it with its bias."""
    op, parts = layer.op, gru_parts(layer)
    z, r = parts.z[0], parts.r[0]
    k, rest = layer.acts[1].ratio(op, layer.node, parts.a, layer.acts[1](op, layer.node, parts.a))
    share = op.Sub(1.0, z)
    late = parts.s is not None
    wb, rb = _biases(layer, 2, 3)
    u = None if wb is None or rb is None else op.Add(op.Mul(r, rb) if late else rb, wb)
    return LinearCell(
        layer,
        _rows(layer, layer.w, 2, 3),
        parts.last,
        u,
        layer.within(op.Mul(share, k)),
        _keep(layer, z),
        before=None if late else r,
        after=r if late else None,
        rest=_within(layer, None if rest is None else op.Mul(share, rest)),
        read=_inside(layer, None),
    )


def _lstm(layer: Direction) -> LinearCell:
    """c = f c' + i k a, h = o H(c) / c c."""
    op, node, parts = layer.op, layer.node, lstm_parts(layer)
    (i, _), (f, _), (o, _) = parts.i, parts.f, parts.o
    k, rest = layer.acts[1].ratio(op, node, parts.a, parts.g)
    squeezed, left = layer.acts[2].ratio(op, node, parts.c, layer.acts[2](op, node, parts.c, clipped=False))
    wb, rb = _biases(layer, 3, 4)
    return LinearCell(
        layer,
        _rows(layer, layer.w, 3, 4),
        _rows(layer, layer.r, 3, 4),
        None if wb is None or rb is None else op.Add(wb, rb),
        layer.within(op.Mul(i, k)),
        _keep(layer, f),
        rest=_within(layer, None if rest is None else op.Mul(i, rest)),
        read=_inside(layer, op.Mul(o, squeezed)),
        out=_within(layer, None if left is None else op.Mul(o, left)),
    )


_CELLS = {"RNN": _rnn, "GRU": _gru, "LSTM": _lstm}


def held_cell(layer: Direction) -> LinearCell:
    """The cell of a direction with its gates held constant."""
    return _CELLS[layer.node.op_type](layer)


def joined(op: Emit, parts: Sequence[tuple[Value, Value, Value]], node: NodeView) -> list[Value | None]:
    """What is left at every output, of the parts of all directions."""
    stacked = [[op.Unsqueeze(v, [1 if j == 0 else 0]) for v in values] for j, values in enumerate(zip(*parts, strict=True))]
    whole = [values[0] if len(values) == 1 else op.Concat(*values, axis=1 if j == 0 else 0) for j, values in enumerate(stacked)]
    return [whole[j] if y is not None else None for j, y in enumerate(node.outputs)]
