"""Rounding to a grid and back. The rounding itself is crossed straight through, as if it were not there.

A signal at a quantised tensor q is d score / d q in units of the grid, and floating point. ``QuantizeLinear`` divides by the
scale and ``DequantizeLinear`` multiplies by it, so that a pair of them is the identity where nothing saturates and 0 where
something does. What the rounding, the zero point and the saturation change is left in the implicit bias.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import calc, crop_or_pad, sizes
from onnxsal.graph.helpers import as_compute, dim_of, mask, reshape_like, shape_of, unbroadcast
from onnxsal.ops import squashing
from onnxsal.ops.axes import first_aligned
from onnxsal.ops.ranges import at, grid, product
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.statements import ANY, MIXED, UNSATURATED, Moved, Range, RangeOf

LIMITS: dict[str, tuple[float, float]] = {
    "INT2": (-2.5, 1.5),
    "UINT2": (-0.5, 3.5),
    "INT4": (-8.5, 7.5),
    "UINT4": (-0.5, 15.5),
    "INT8": (-128.5, 127.5),
    "UINT8": (-0.5, 255.5),
    "INT16": (-32768.5, 32767.5),
    "UINT16": (-0.5, 65535.5),
    "FLOAT4E2M1": (-7.0, 7.0),
    "FLOAT8E4M3FN": (-464.0, 464.0),
    "FLOAT8E4M3FNUZ": (-248.0, 248.0),
    "FLOAT8E5M2": (-61440.0, 61440.0),
    "FLOAT8E5M2FNUZ": (-61440.0, 61440.0),
}
"""The values that round to one of the type's own: half a step more than its smallest and largest, as in PyTorch's fake quantisation."""


def inside_range(op: Emit, x: Value, dtype: int, scale: Value | None = None, zero: Value | None = None) -> Value:
    """Where ``x / scale + zero`` rounds to a value of ``dtype`` without saturating."""
    name = TensorProto.DataType.Name(dtype)
    if name not in LIMITS:
        raise UnsupportedError(f"quantisation to {name} is not known; known types: {', '.join(LIMITS)}.")
    low, high = (op.const(limit) for limit in LIMITS[name])
    if zero is not None:
        low, high = op.Sub(low, zero), op.Sub(high, zero)
    if scale is not None:
        low, high = op.Mul(low, scale), op.Mul(high, scale)
    return op.And(op.GreaterOrEqual(x, low), op.LessOrEqual(x, high))


def _blocked(node: NodeView) -> int:
    """Elements that share a scale along the axis; 0 where there is one scale, or one per index of the axis."""
    return int(node.attr("block_size") or 0) if node.input(1).rank > 1 else 0


def _axis(node: NodeView) -> int:
    return int(node.attr("axis", 1)) % max(node.x.rank, 1)


def _laid_out(op: Emit, node: NodeView, value: Value) -> Value:
    """The scale or the zero point so that it broadcasts against x: one number, one per index of the axis, or one per block."""
    g, block, axis = as_compute(op, value), _blocked(node), _axis(node)
    if block:
        size = node.x.dim(axis)
        spread = np.arange(size) // block if size is not None else op.Div(op.Range(0, op.Squeeze(dim_of(op, node.x, axis), [0]), 1), block)
        return Value(op.Gather(g, spread, axis=axis).name, 0, node.x.shape)
    if value.rank == 0 or value.static == (1,):
        return Value(g.name, g.dtype, value.shape)
    after = node.x.rank - 1 - axis
    shape = (*(1,) * axis, value.shape[0] if value.shape else None, *(1,) * after)
    return Value(op.Reshape(g, [*[1] * axis, -1, *[1] * after]).name, 0, shape)


def _scale(op: Emit, node: NodeView) -> Value:
    return _laid_out(op, node, node.input(1))


def _zero(op: Emit, node: NodeView) -> Value | None:
    """The zero point, or ``None`` where it is left out or known to be 0."""
    value, known = node.optional(2), node.const(2)
    if value is None or (known is not None and not known.astype(np.float32).any()):
        return None
    return _laid_out(op, node, value)


def _to_scale(op: Emit, node: NodeView, g: Value) -> Value:
    """Adjoint of laying out the scale: sums ``g`` (in the shape of x) over the elements that share one."""
    scale, axis, block = node.input(1), _axis(node), _blocked(node)
    if not block:
        total = unbroadcast(op, g, node.x, _laid_out(op, node, scale))
        return total if scale.rank in (0, node.x.rank) else reshape_like(op, total, scale)
    missing = calc(op).Sub(calc(op).Mul(sizes(op, scale, [axis]), block), sizes(op, node.x, [axis]))
    g = crop_or_pad(op, g, np.zeros(1, np.int64), missing, [axis], node.x.rank)
    if scale.static is not None:
        target = op.const([*scale.static[: axis + 1], block, *scale.static[axis + 1 :]])
    else:
        shape = shape_of(op, scale)
        target = op.Concat(op.Slice(shape, [0], [axis + 1]), [block], op.Slice(shape, [axis + 1], [scale.rank]), axis=0)
    return op.ReduceSum(op.Reshape(g, target), [axis + 1], keepdims=0)


def straight_through(op: Emit, node: NodeView, dy: Value) -> Value:
    """dy per step of the grid as a signal at x, as if the node only divided by its scale and nothing saturated."""
    return op.Div(dy, _scale(op, node))


def _passed(op: Emit, node: NodeView, scale: Value, value: Value) -> Value:
    """``value`` where x does not saturate, else 0; nothing is compared where that is known for all that can arrive."""
    if UNSATURATED in node.tags:
        return value
    return mask(op, inside_range(op, node.x, node.y.dtype, scale, _zero(op, node)), value)


def _quantize_bias(op: Emit, node: NodeView) -> Value | None:
    """q less x / scale inside the range for x, plus it for the scale: rounding, zero point and saturation."""
    q = as_compute(op, node.y)
    if node.want(0) and node.want(1):
        return q
    scale = _scale(op, node)
    linear = _passed(op, node, scale, op.Div(node.x, scale))
    return op.Sub(q, linear) if node.want(0) else op.Add(q, linear)


INT8, UINT8 = np.int8, np.uint8


def _ends(node: NodeView) -> tuple[Range, Range] | None:
    """The ranges of the scale and of the zero point, if both are known and the scale is positive."""
    scale, zero = node.const(1), node.const(2) if node.optional(2) is not None else np.zeros(1)
    if scale is None or zero is None or not scale.size or not (scale.astype(np.float64) > 0).all():
        return None
    wide = zero.astype(np.float64)
    return (float(scale.min()), float(scale.max())), (float(wide.min()), float(wide.max()))


def _quantized_range(node: NodeView, of: RangeOf) -> Range:
    """round(x / scale) + zero, cut off where the type ends."""
    least, most = grid(node.y.dtype)
    known = _ends(node)
    if known is None or least == -math.inf:
        return least, most
    (small, large), (below, above) = known
    low, high = product(of(0), (1 / large, 1 / small))
    return min(max(at(np.rint, low) + below, least), most), min(max(at(np.rint, high) + above, least), most)


def _dequantized_range(node: NodeView, of: RangeOf) -> Range:
    """(q - zero) scale, for the codes q that can arrive."""
    known = _ends(node)
    if known is None:
        return ANY
    scale, (below, above) = known
    codes = of(0)
    return product((codes[0] - above, codes[1] - below), scale)


def _unsaturated(node: NodeView, of: RangeOf) -> bool:
    """Whether every value that can arrive rounds to one of the type's own: what was on the same grid before, a softmax, a ReLU6.

    Nothing is then compared, and ONNX Runtime may fuse what comes before the quantiser with it, as nobody else reads that.
    """
    name, known = TensorProto.DataType.Name(node.y.dtype), _ends(node)
    if name not in LIMITS or known is None:
        return False
    (small, large), (below, above) = known
    (least, most), (low, high) = LIMITS[name], of(0)
    slack = 1e-5 * (most - least)  # the scale, and what arrives, are rounded to the precision of float32
    lowest, highest = product((low, low), (1 / large, 1 / small)), product((high, high), (1 / large, 1 / small))
    return lowest[0] + below >= least + slack and highest[1] + above <= most - slack


def _swallowed_relu(node: NodeView, of: RangeOf) -> bool:
    """Whether the grid begins at zero and something below it can arrive: what it cuts off is then a ReLU that the quantiser left out.

    Where nothing negative can arrive, as after a pool, no ReLU was left out; nor at the model's input.
    """
    zero, made = node.const(2), node.x.name in node.model.producer
    unsigned = node.attr("output_dtype") in (0, None) if len(node.inputs) < 3 else False
    lowest = unsigned if zero is None else zero.dtype.kind in "iu" and bool(np.all(zero == np.iinfo(zero.dtype).min))
    return made and lowest and of(0)[0] < 0


@gradient_of(
    "QuantizeLinear",
    family="quantize",
    head=squashing.on_a_grid,
    axes=first_aligned,
    rectifies=_swallowed_relu,
    unsaturated=_unsaturated,
    range=_quantized_range,
    bias=_quantize_bias,
    carries=[0],
    cases=[
        replace(rounded, straight_through=True)
        for rounded in (
            case((2, 3, 4), 0.01),
            case((2, 3, 4), 0.01, INT8(3)),
            case((2, 3, 4), np.array([0.011]), np.array([120], UINT8)),
            case((2, 3, 4), np.array([0.01, 0.02, 0.005]), np.array([100, 0, 255], UINT8)),
            case((2, 3, 4), np.array([0.01, 0.02, 0.005, 0.01]), np.array([-100, 0, 127, 5], INT8), axis=-1),
            case((2, 3, 4), 3e-5, np.int16(-100), opset=21),
            case((2, 3, 4), 3e-5, np.uint16(30000), opset=21),
            case((2, 5), np.full((2, 3), 0.01), np.full((2, 3), 7, INT8), axis=1, block_size=2, opset=21),
            case((6, 2), np.full((2, 2), 0.01), axis=0, block_size=3, output_dtype=TensorProto.INT8, opset=21),
            case((2, 3), 0.2, output_dtype=TensorProto.INT4, opset=21),
            case((2, 3), 0.1, output_dtype=TensorProto.UINT4, opset=21),
            *(
                case((2, 3, 4), scale, output_dtype=code, opset=21)
                for code, scale in (
                    (TensorProto.FLOAT8E4M3FN, 0.003),
                    (TensorProto.FLOAT8E4M3FNUZ, 0.006),
                    (TensorProto.FLOAT8E5M2, 2.5e-5),
                    (TensorProto.FLOAT8E5M2FNUZ, 2.5e-5),
                )
            ),
        )
    ],
)
def quantize(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dq / scale where x lies inside the clipping range, else 0; dscale = -x dx / scale, summed over the elements that share it."""
    scale = _scale(op, node)
    dx = _passed(op, node, scale, op.Div(dy, scale))
    dscale = _to_scale(op, node, op.Neg(op.Div(op.Mul(dx, node.x), scale))) if node.want(1) else None
    return node.grads(dx, dscale)


def _dequantize_bias(op: Emit, node: NodeView) -> Value | None:
    """-zero scale for q, nothing for the scale, -q scale for both."""
    if not node.want(0):
        return None
    offset = as_compute(op, node.x) if node.want(1) else _zero(op, node)
    return None if offset is None else op.Neg(op.Mul(offset, _scale(op, node)))


CODES = np.array([[[3, -100, 7, 0], [1, 2, 3, 127], [-128, 0, 5, -7]]], INT8)


@gradient_of(
    "DequantizeLinear",
    family="quantize",
    head=squashing.on_a_grid,
    axes=first_aligned,
    range=_dequantized_range,
    bias=_dequantize_bias,
    cases=[
        case(CODES, (), opset=19),
        case(CODES, (), INT8(-5), opset=19),
        case(CODES, (1,), np.array([9], INT8), opset=19),
        case(CODES, (3,), np.array([1, 0, -3], INT8), opset=19),
        case(CODES, (4,), np.array([1, 0, -3, 7], INT8), axis=2, opset=19),
        case(CODES.astype(np.int32), (), opset=19),
        case(CODES.astype(np.uint16), (), np.uint16(12), opset=21),
        case(CODES, (1, 3, 2), np.full((1, 3, 2), 4, INT8), axis=-1, block_size=2, opset=21),
        case(CODES, (1, 2, 4), axis=1, block_size=2, opset=21),
    ],
)
def dequantize(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dq = dy scale; dscale = dy (q - zero), summed over the elements that share it."""
    dq = op.Mul(dy, _scale(op, node)) if node.want(0) else None
    if not node.want(1):
        return node.grads(dq)
    q, zero = as_compute(op, node.x), _zero(op, node)
    return node.grads(dq, _to_scale(op, node, op.Mul(dy, q if zero is None else op.Sub(q, zero))))


def _whole_tensor_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """The grid follows all of the data."""
    return None if j else (axis, MIXED)


@gradient_of(
    "DynamicQuantizeLinear",
    family="quantize",
    axes=_whole_tensor_axes,
    range=(0.0, 255.0),
    bias=lambda op, node: op.Sub(as_compute(op, node.y), op.Div(node.x, node.output(1))),
    carries=[0],
    cases=[replace(rounded, straight_through=True) for rounded in (case((2, 3, 4), outputs=3), case((5,), low=0.5, outputs=3))],
)
def dynamic_quantize(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dq / scale: the range spans the data, so nothing saturates; the grid follows the data, and counts as a constant."""
    return [op.Div(dy, node.output(1))]


STEP, MIDDLE = 0.05, 128
"""A grid from -6.4 to 6.35, in place of one that follows the data."""


def fix_grids(graph: onnx.GraphProto) -> bool:
    """Give every node that takes its grid from the data the same grid, whatever the data are (in place); whether there was one."""
    nodes = [_fixed(node) if node.op_type == "DynamicQuantizeLinear" else [node] for node in graph.node]
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for written in nodes for n in written]
    changed = len(copies) > len(graph.node)
    del graph.node[:]
    graph.node.extend(copies)
    return changed


def _fixed(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    y, scale, zero = node.output
    constants = {scale: np.float32(STEP), zero: np.uint8(MIDDLE)}
    stored = [helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(v), name)) for name, v in constants.items()]
    return [*stored, helper.make_node("QuantizeLinear", [node.input[0], scale, zero], [y])]
