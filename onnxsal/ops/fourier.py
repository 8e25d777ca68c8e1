"""Fourier transforms: linear maps whose adjoints are Fourier transforms again."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import Ints, calc, crop_or_pad, int_operand, scatter_axis, sizes
from onnxsal.graph.helpers import dim_of, shape_of
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.statements import APART, MIXED, Moved

AXIS_AS_INPUT = 20
"""From this opset on DFT reads its axis from an input."""


Axis = int | Value
"""Where it is computed, int64 [1]."""


def _listed(axis: Axis) -> Ints:
    return axis if isinstance(axis, Value) else np.asarray([axis])


def _scalar(op: Emit, number: Ints) -> Value:
    """A list of one integer as int64 without axes."""
    if isinstance(number, Value):
        return op.Reshape(op.Cast(number, to=TensorProto.INT64), np.zeros(0, np.int64))
    return op.const(np.asarray(number, np.int64).reshape(()))


def _transform(op: Emit, node: NodeView, g: Value, length: Ints, axis: Axis, inverse: bool, onesided: bool = False) -> Value:
    """The transform of ``g`` padded with zeros to ``length``, in float64: the angles of ONNX Runtime's float32 kernel are rounded."""
    wide, places = op.Cast(g, to=TensorProto.DOUBLE), _scalar(op, length)
    told = {"inverse": int(inverse), "onesided": int(onesided)}
    if node.opset < AXIS_AS_INPUT:
        return op.Cast(op.DFT(wide, places, axis=axis, **told), to=op.dtype)
    return op.Cast(op.DFT(wide, places, _scalar(op, _listed(axis)), **told), to=op.dtype)


def _scaled(op: Emit, g: Value, length: Ints, inverse: bool = False) -> Value:
    """``g`` times a length, or by it."""
    number = op.Cast(_scalar(op, length), to=op.dtype) if isinstance(length, Value) else float(np.asarray(length).reshape(-1)[0])
    return op.Div(g, number) if inverse else op.Mul(g, number)


def _of_parts(op: Emit, node: NodeView, g: Value) -> Value:
    """Of a complex signal what x has of it: both parts, or the real one."""
    parts = node.x.dim(node.x.rank - 1)
    if parts == 2:
        return g
    return op.Slice(g, [0], [1] if parts == 1 else dim_of(op, node.x, node.x.rank - 1), [-1])


def _axis(node: NodeView) -> int | None:
    """The axis that is transformed; ``None`` where it is computed."""
    if node.opset < AXIS_AS_INPUT:
        return int(node.attr("axis")) % node.x.rank
    given = node.ints(2)
    return None if given is None and node.optional(2) is not None else (-2 if given is None else given[0]) % node.x.rank


def _moved(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """The axis that is transformed is mixed, the last one too: it is the real and the imaginary part."""
    own = _axis(node)
    return None if i or own is None else (axis, MIXED if axis in (own, node.x.rank - 1) else APART)


def _along(op: Emit, numbers: Value, axis: Axis, rank: int) -> Value:
    """A list of numbers laid along one axis."""
    if not isinstance(axis, Value):
        return op.Reshape(numbers, [-1, *[1] * (rank - 1 - axis)])
    return op.Reshape(numbers, op.ScatterElements(np.ones(rank, np.int64), axis, op.Shape(numbers), axis=0))


def _fitted(op: Emit, g: Value, made: Ints, own: Ints, axis: Axis, rank: int) -> Value:
    """``g``, ``made`` long, cut to the length of x or continued by zeros."""
    if not isinstance(axis, Value):
        return crop_or_pad(op, g, np.zeros(1, np.int64), calc(op).Sub(own, made), [axis], rank)
    missing = op.Max(op.Sub(own, made), np.zeros(1, np.int64))
    return op.Pad(op.Slice(g, [0], own, axis), op.Concat([0], missing, axis=0), None, axis)


def _length(value: int) -> np.ndarray:
    return np.asarray(value, np.int64)


@gradient_of(
    "DFT",
    family="reduction",
    axes=_moved,
    bias="zero",
    cases=[
        case((2, 6, 1), axis=1),
        case((2, 6, 2), axis=1),
        case((2, 5, 1), axis=1, onesided=1),
        case((2, 6, 1), _length(8), axis=1, onesided=1),
        case((2, 6, 1), _length(5), axis=1, onesided=1),
        case((2, 6, 2), _length(4), axis=1),
        case((2, 3, 4, 2), axis=1, inverse=1),
        case((2, 6, 1), axis=1, inverse=1),
        case((2, 3, 4, 2), None, np.asarray(-2), inverse=1, opset=20),
        case((2, 5, 3, 1), None, np.asarray(1), onesided=1, opset=20),
        case((3, 4, 1), None, opset=20),
        case((2, 4, 2), None, np.asarray(1), inverse=1, onesided=1, opset=20),
        case((2, 4, 2), _length(7), axis=1, inverse=1, onesided=1),
        case((2, 5, 2), _length(8), axis=1, inverse=1, onesided=1),
    ],
)
def dft(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = L times the inverse transform of dy, cut to the length of x; of the inverse, 1 / L times the transform.

    Of a real signal made of half a spectrum: the half of the transform of dy over L, twice where an entry stands for two.
    """
    x, known = node.x, _axis(node)
    if x.rank < 3:
        raise UnsupportedError(f"{node.label}: its input has {x.rank} axes; samples, a signal and its real and imaginary part are 3.")
    axis = op.Reshape(op.Cast(node.input(2), to=TensorProto.INT64), [1]) if known is None else known
    own = op.Gather(shape_of(op, x), axis) if isinstance(axis, Value) else sizes(op, x, [axis])
    inverse, half = bool(node.attr("inverse")), bool(node.attr("inverse") and node.attr("onesided"))
    if node.optional(1) is not None:
        length = int_operand(op, node, 1)
        length = op.Reshape(length, [1]) if isinstance(length, Value) else length
    else:
        length = calc(op).Mul(calc(op).Sub(own, [1]), [2]) if half else own
    made = calc(op).Add(calc(op).Div(length, [2]), [1]) if half else length
    if half and isinstance(own, np.ndarray) and isinstance(length, np.ndarray) and isinstance(made, np.ndarray) and own != made:
        raise UnsupportedError(
            f"{node.label}: half a spectrum of a signal of {length[0]} has {made[0]} entries, and its input has {own[0]}, of which "
            "runtimes make different signals."
        )
    g = _scaled(op, _transform(op, node, dy, length, axis, not inverse, half), length, inverse)
    if half:
        place = op.Range(0, _scalar(op, made), 1)
        alone = op.Or(op.Equal(place, 0), op.Equal(op.Mul(place, 2), _scalar(op, length)))
        g = op.Mul(g, _along(op, op.Where(alone, 1.0, 2.0), axis, x.rank))
    return node.grads(_of_parts(op, node, _fitted(op, g, made, own, axis, x.rank)))


# ----- windows that are transformed one by one -----


def _frames(op: Emit, node: NodeView) -> tuple[Value, Ints]:
    """Where every frame reads the signal [F * L], and the length L of a frame."""
    if node.optional(3) is not None:
        length = int_operand(op, node, 3)
        length = op.Reshape(op.Cast(length, to=TensorProto.INT64), [1]) if isinstance(length, Value) else np.asarray(length).reshape(1)
    else:
        length = sizes(op, node.input(2), [0]) if node.optional(2) is not None else sizes(op, node.x, [1])
    step, count = int_operand(op, node, 1), sizes(op, node.y, [1])
    step = op.Reshape(op.Cast(step, to=TensorProto.INT64), [1, 1]) if isinstance(step, Value) else np.asarray(step, np.int64).reshape(1, 1)
    begin = op.Mul(op.Unsqueeze(op.Range(0, _scalar(op, count), 1), [1]), step)
    return op.Reshape(op.Add(begin, op.Range(0, _scalar(op, length), 1)), [-1]), length


def _in_frames(op: Emit, g: Value, length: Ints) -> Value:
    """[N, F * L, parts] as [N, F, L, parts]."""
    one = length if isinstance(length, Value) else np.asarray(length, np.int64)
    return op.Reshape(g, op.Concat([0, -1], one, op.Shape(g, start=2), axis=0))


_WINDOW = np.array([0.3, 0.9, 1.0, 0.7])


@gradient_of(
    "STFT",
    family="reduction",
    axes=lambda node, i, axis, j: (0, APART) if i == axis == 0 else None,
    bias="product",
    cases=[
        case((2, 9, 1), np.asarray(2), (4,), np.asarray(4)),
        case((2, 9, 1), np.asarray(3), (4,), onesided=0),
        case((2, 9, 1), np.asarray(2), None, np.asarray(5)),
        case((1, 10, 2), np.asarray(3), (4,), np.asarray(4), onesided=0),
        case((2, 9, 1), np.asarray(2), _WINDOW, np.asarray(4), fixed=[2]),
    ],
)
def stft(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = the window times L times the inverse transform of each frame of dy, added up where frames overlap.

    dwindow = the sum over samples, frames and parts of the frame times that.
    """
    places, length = _frames(op, node)
    g = _of_parts(op, node, _scaled(op, _transform(op, node, dy, length, 2, inverse=True), length))
    answer = node.grads()
    window = node.optional(2)
    if node.want(0):
        each = g if window is None else op.Mul(g, op.Unsqueeze(window, [1]))
        flat = op.Reshape(each, op.Concat([0, -1], op.Shape(each, start=3), axis=0))
        answer[0] = scatter_axis(op, flat, places, node.x, 1)
    if node.want(2):
        frames = _in_frames(op, op.Gather(node.x, places, axis=1), length)
        answer[2] = op.ReduceSum(op.Mul(frames, g), [0, 1, 3], keepdims=0)
    return answer
