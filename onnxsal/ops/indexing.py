"""Indexing: elements picked or replaced at positions that another tensor names."""

from __future__ import annotations

import numpy as np

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import ShapePart, calc, pad_zeros, reshape_parts, scatter_axis, scatter_back, sizes
from onnxsal.graph.helpers import cast, mask, ones_like, reshape_like, result_seen, shape_of, zeros_like
from onnxsal.ops.picks import moved
from onnxsal.ops.places import lost, moved_without_sums
from onnxsal.ops.ranges import NOT_NEGATIVE, by_sign, hull, sum_of
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.statements import ANY, APART, MIXED, Moved, Range, RangeOf

# ----- picking -----


def _gather_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """The axes of the indices stand in place of the one that they pick from."""
    along = int(node.attr("axis")) % node.x.rank
    if i:
        return along + axis, APART
    return None if axis == along else (axis if axis < along else axis + node.input(1).rank - 1, APART)


def _same_size(node: NodeView, axis: int) -> bool:
    """Whether the axis is as long in x as in y."""
    before, after = (node.x.shape or ())[axis], (node.y.shape or ())[axis]
    return before is not None and before == after


def _picked_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """Indices count along one axis; along the others element k of the data meets element k of the indices."""
    if axis == int(node.attr("axis")) % node.x.rank:
        return (axis, APART) if i else None
    return axis, APART if i or _same_size(node, axis) else MIXED


def _gather_nd_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """Batch axes stay, and those along which there are several indices."""
    batch = int(node.attr("batch_dims"))
    if axis < batch or (i == 1 and axis < node.input(1).rank - 1):
        return axis, APART
    depth = node.input(1).dim(node.input(1).rank - 1)
    kept = i == 0 and depth is not None and axis >= batch + depth
    return (axis - node.x.rank + node.y.rank, APART) if kept else None


def _one_hot_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """A new axis stands for the classes."""
    return None if i else (axis + (axis >= int(node.attr("axis")) % node.y.rank), APART)


def _scatter_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """Written along one axis (ScatterElements), or along the first ones, as many as an index has numbers (ScatterND)."""
    if node.op_type == "ScatterElements":
        if axis == int(node.attr("axis")) % node.x.rank:
            return None if i else (axis, MIXED)
        same = node.input(i).dim(axis) is not None and node.input(i).dim(axis) == node.y.dim(axis)
        return axis, APART if i == 0 or same else MIXED
    depth = node.input(1).dim(node.input(1).rank - 1)
    if depth is None or i == 1:
        return None
    if i == 0:
        return axis, MIXED if axis < depth else APART
    behind = axis - (node.input(1).rank - 1)
    return (behind + depth, APART) if behind >= 0 else None


def _tensor_scatter_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """An update per sample, written along one axis."""
    if i == 2:
        return 0, APART
    return axis, MIXED if axis == int(node.attr("axis")) % node.x.rank else APART


@gradient_of(
    "Gather",
    family="movement",
    axes=_gather_axes,
    picks=moved,
    trained=(0,),
    bias="zero",
    cases=[
        case((4, 3), np.array([0, 2, 2])),
        case((4, 3), np.array([[1, -1], [0, 1]]), axis=1),
        case((4, 3, 2), np.array([[1, 3], [0, 1]])),
        case((3, 4, 2), np.array(2), axis=1),
        case((3, 4), np.array(-1), axis=-1),
        case((3, 4), np.array(-2), axis=0),
        case((2, 3, 2), np.array([2, 1, 0]), axis=1),
        case((2, 5, 2), np.array([3, 0]), axis=1),
        case((2, 5), np.array([1, 2, 3]), axis=1),
        case((5, 2), np.array([-3, -2]), axis=0),
        case((5, 2), np.array([-1, 0]), axis=0),
        case((2, 6, 2), np.array([[5, 0], [1, 2]]), axis=1),
        case((5,), np.array([1, 1, 4], np.int32)),
        case((3, 2), np.zeros((0,), np.int64)),
    ],
)
def gather(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy added back at the indices."""
    x, index = node.x, node.input(1)
    axis, known = node.attr("axis") % x.rank, node.const(1)
    if index.rank == 0:
        dy = op.Unsqueeze(dy, [axis])
    elif index.rank > 1:
        dy = reshape_parts(op, dy, [*((x, a) for a in range(axis)), _count(op, index), *((x, a) for a in range(axis + 1, x.rank))])
    placed = None if known is None else _place(op, dy, known.reshape(-1).astype(np.int64), x, axis)
    return node.grads(placed or scatter_axis(op, dy, op.Reshape(index, [-1]), x, axis))


def _count(op: Emit, index: Value) -> ShapePart:
    """The number of elements of an index tensor."""
    return int(np.prod(index.static)) if index.static is not None else op.Reshape(op.Size(index), [1])


def _place(op: Emit, dy: Value, index: np.ndarray, x: Value, axis: int) -> Value | None:
    """The adjoint where the indices are known and none repeats: a frame of zeros, or dy itself in the opposite order."""
    if index.size and (np.diff(index) == 1).all() and (index[0] >= 0 or index[-1] < 0):
        whole = sizes(op, x, [axis])
        first = index[:1] if index[0] >= 0 else calc(op).Add(whole, index[:1])
        return pad_zeros(op, dy, first, calc(op).Sub(calc(op).Sub(whole, first), index.size), [axis], x.rank)
    length = x.dim(axis)
    if length is None or len(set((index % length).tolist())) < index.size or not index.size:
        return None
    origin = np.full(length, index.size)
    origin[index % length] = np.arange(index.size)
    if index.size < length:
        dy = pad_zeros(op, dy, np.array([0]), np.array([1]), [axis], x.rank)
    return op.Gather(dy, origin, axis=axis)


@gradient_of(
    "GatherElements",
    family="movement",
    axes=_picked_axes,
    picks=moved,
    bias="zero",
    cases=[
        case((3, 4), np.array([[0, 2, 2], [1, 0, -1]]), axis=1),
        case((3, 4), np.array([[0, 2, 2, 1], [1, 2, -1, 0]])),
        case((2, 3, 2), np.array([[[1], [0], [1]]]), axis=-1),
    ],
)
def gather_elements(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy added back at the indices."""
    return node.grads(op.ScatterElements(zeros_like(op, node.x), node.input(1), dy, axis=node.attr("axis"), reduction="add"))


@gradient_of(
    "GatherND",
    family="movement",
    axes=_gather_nd_axes,
    picks=moved,
    bias="zero",
    cases=[
        case((3, 4), np.array([[0, 1], [2, -1], [0, 1]])),
        case((3, 4, 2), np.array([[[2]], [[0]]])),
        case((2, 3, 4), np.array([[1], [-1]]), batch_dims=1),
        case((2, 2, 3), np.array([[[1, 2], [1, 2]], [[0, 0], [1, 0]]]), batch_dims=1),
        case((2, 2, 3), np.array([[[1], [2]], [[0], [0]]]), batch_dims=2),
    ],
)
def gather_nd(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy added back at the indices."""
    return node.grads(scatter_back(op, dy, node.x, lambda numbers: op.clone(node, [numbers, node.input(1)])))


@gradient_of(
    "Unique",
    family="movement",
    places=lost,
    bias="zero",
    cases=[
        case((2, 3)),
        case(np.array([1.5, -0.5, 2.5, 0.25]), sorted=0),
        case((4, 2), axis=0),
        case((2, 3, 2), axis=-2, outputs=2),
    ],
)
def unique(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx = dy at the first element of each value, 0 at its repetitions."""
    x, axis = node.x, node.attr("axis")
    given = node.outputs[1] if len(node.outputs) > 1 else None
    first = given or op.clone(node, [x], outputs=2)[1]
    if axis is not None:
        return [scatter_axis(op, dy, first, x, axis % x.rank)]
    return [reshape_like(op, op.ScatterElements(op.Reshape(zeros_like(op, x), [-1]), first, dy, axis=0), x)]


@gradient_of(
    "OneHot",
    family="movement",
    axes=_one_hot_axes,
    range=lambda node, of: of(2),
    places=lost,
    bias="zero",
    cases=[
        case(np.array([0, 2, -1, 5]), np.array(4), (2,)),
        case(np.array([[0, 2], [1, 1]]), np.array(3), (2,), axis=0),
        case(np.array([[0, 2], [1, -3]]), np.array(3), (2,), axis=1),
    ],
)
def one_hot(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """d(off, on) = (sum of dy where the class is off, sum of dy where it is on); indices and depth are positions."""
    hot = op.clone(node, [node.input(0), node.input(1), [0.0, 1.0]])
    on = op.ReduceSum(op.Reshape(op.Mul(dy, hot), [-1]), keepdims=1)
    off = op.Sub(op.ReduceSum(op.Reshape(dy, [-1]), keepdims=1), on)
    return [None, None, op.Concat(off, on, axis=0)]


# ----- replacing -----


class Spots:
    """The positions that a ScatterElements or ScatterND writes to: ``take`` reads a tensor there, ``put`` writes to a copy of one."""

    def __init__(self, op: Emit, node: NodeView) -> None:
        self.op = op
        self.node = node
        self.data, self.index, self.updates = node.input(0), node.input(1), node.input(2)
        self.by_element = node.op_type == "ScatterElements"

    def take(self, g: Value) -> Value:
        """``g`` at the positions, in the shape of the updates."""
        if self.by_element:
            return self.op.GatherElements(g, self.index, axis=self.node.attr("axis"))
        return self.op.GatherND(g, self.index)

    def put(self, g: Value, values: Value, reduction: str = "none") -> Value:
        """``g`` with ``values`` written, added, ... at the positions.

        Reductions of ScatterND go through ScatterElements over flat positions: ONNX Runtime's own reduces from several
        threads without a lock where positions repeat.
        """
        op = self.op
        if self.by_element or reduction == "none":
            return op.clone(self.node, [g, self.index, values], reduction=reduction)
        numbers = reshape_like(op, op.Range(0, op.Size(op.raw(self.data)), 1), self.data)
        flat = [op.Reshape(t, [-1]) for t in (g, op.GatherND(numbers, self.index), values)]
        return reshape_like(op, op.ScatterElements(*flat, axis=0, reduction=reduction), self.data)


def _shares(op: Emit, spots: Spots) -> tuple[Value, Value]:
    """Of max and min: 1/n where an element of the data, and of the updates, is the extremum that n of them share, else 0."""
    y = result_seen(op, spots.node, lambda: spots.put(spots.data, spots.updates, spots.node.attr("reduction")))
    own = cast(op, op.Equal(spots.data, y))
    hits = cast(op, op.Equal(spots.updates, spots.take(y)))
    share = op.Reciprocal(spots.put(own, hits, "add"))
    return op.Mul(own, share), op.Mul(hits, spots.take(share))


def _others(op: Emit, spots: Spots) -> Value:
    """Of mul: the product of the data and the other updates at each update's position, exact also where updates are zero."""
    zero = cast(op, op.Equal(spots.updates, 0.0))
    safe = op.Add(spots.updates, zero)
    without = op.Div(spots.take(spots.put(spots.data, safe, "mul")), safe)
    zeros = spots.take(spots.put(zeros_like(op, spots.data), zero, "add"))
    return mask(op, op.Equal(zeros, zero), without)


def _scatter_bias(op: Emit, node: NodeView) -> Value | None:
    """none, add: the inputs that are not active. mul: multilinear. max, min: what the inactive inputs won."""
    reduction, spots = node.attr("reduction"), Spots(op, node)
    data, updates = node.want(0), node.want(2)
    if reduction == "mul":
        degree = op.Add(ones_like(op, node.x) if data else zeros_like(op, node.x), -1.0)
        if updates:
            degree = spots.put(degree, ones_like(op, spots.updates), "add")
        return op.Neg(op.Mul(node.y, degree))
    if data and updates:
        return None
    if reduction in ("max", "min"):
        own, _ = _shares(op, spots)
        return op.Mul(node.y, op.Sub(1.0, own) if data else own)
    zero = zeros_like(op, spots.data if data else spots.updates)
    return spots.put(zero, spots.updates, reduction) if data else spots.put(spots.data, zero, reduction)


def _scatter_range(node: NodeView, of: RangeOf) -> Range:
    """Elements of either, or sums of any number of updates (add); products keep a sign only where neither is negative."""
    data, updates, reduction = of(0), of(2), node.attr("reduction")
    if reduction == "add":
        return sum_of([data, by_sign(node, lambda i: updates)])
    if reduction == "mul":
        return NOT_NEGATIVE if data[0] >= 0 and updates[0] >= 0 else ANY
    return hull(data, updates)


@gradient_of(
    "ScatterElements",
    "ScatterND",
    family="movement",
    axes=_scatter_axes,
    range=_scatter_range,
    places=moved_without_sums,
    bias=_scatter_bias,
    cases={
        "ScatterElements": [
            case((3, 4), np.array([[1, 3], [0, -1]]), (2, 2), axis=1),
            case((3, 3), np.array([[1, 0, 2], [0, 2, 1]]), (2, 3)),
            case((3, 4), np.array([[1, 1, 3], [0, -1, 0]]), (2, 3), axis=1, reduction="add"),
            case((3, 4), np.array([[1, 1, 3], [0, -1, 0]]), (2, 3), axis=-1, reduction="mul"),
            case((2, 4), np.array([[1, 1, 3], [0, 0, 2]]), np.array([[0.0, 1.5, 2.0], [0.0, 0.0, 0.0]]), axis=1, reduction="mul"),
            case((3, 4), np.array([[1, 1, 3], [0, -1, 0]]), (2, 3), axis=1, reduction="max"),
            case((3, 4), np.array([[1, 1, 3], [0, -1, 0]]), (2, 3), axis=1, reduction="min"),
            case((3, 4), np.array([[1, 1, 3], [0, -1, 0]]), (2, 3), fixed=(2,), axis=1, reduction="add"),
        ],
        "ScatterND": [
            case((4, 3), np.array([[2], [0]]), (2, 3)),
            case((4, 3), np.array([[2, 1], [0, -1], [3, 2]]), (3,)),
            case((4, 3), np.array([[2], [0], [2]]), (3, 3), reduction="add"),
            case((4, 3), np.array([[[2, 1]], [[2, 1]], [[0, 0]]]), (3, 1), reduction="mul"),
            case((3,), np.array([[1], [1], [2]]), np.array([0.0, 2.0, 0.0]), reduction="mul"),
            case((4, 3), np.array([[2], [0], [2]]), (3, 3), reduction="max"),
            case((4, 3), np.array([[2], [0], [-2]]), (3, 3), reduction="min"),
        ],
    },
)
def scatter(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """ddata = dy, or 0 where it was replaced; dupdates = dy at the indices; mul: times the other factors; max, min: to the winners.

    Winners of equal value share the signal evenly, as in torch.
    """
    reduction, spots = node.attr("reduction"), Spots(op, node)
    ddata = dupdates = None
    if reduction in ("max", "min"):
        own, hits = _shares(op, spots)
        return [op.Mul(dy, own), None, op.Mul(spots.take(dy), hits)]
    if reduction not in ("none", "add", "mul"):
        raise UnsupportedError(f"{node.label}: no gradient is known for reduction '{reduction}'; known: none, add, mul, max, min.")
    if node.want(0):
        if reduction == "mul":
            ddata = op.Mul(dy, spots.put(ones_like(op, node.x), spots.updates, "mul"))
        else:
            ddata = dy if reduction == "add" else spots.put(dy, zeros_like(op, spots.updates))
    if node.want(2):
        dupdates = spots.take(dy)
        if reduction == "mul":
            dupdates = op.Mul(dupdates, _others(op, spots))
    return [ddata, None, dupdates]


@gradient_of(
    "TensorScatter",
    family="movement",
    axes=_tensor_scatter_axes,
    range=lambda node, of: hull(of(0), of(1)),
    bias="linear",
    cases=[
        case((2, 3, 5, 2), (2, 3, 2, 2), np.array([1, 3]), opset=24),
        case((2, 5, 2), (2, 3, 2), np.array([1, 3]), mode="circular", opset=24),
        case((2, 4, 2), (2, 2, 2), opset=24),
        case((2, 2, 5), (2, 2, 2), np.array([0, 3]), axis=-1, opset=24),
    ],
)
def tensor_scatter(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dpast = dy but 0 where the update was written; dupdate = dy there."""
    update, start = node.input(1), node.optional(2)
    axis = node.attr("axis") % update.rank
    dpast = dupdate = None
    if node.want(0):
        dpast = op.clone(node, [dy, zeros_like(op, update), start])
    if node.want(1):
        steps = op.Range(0, op.Reshape(sizes(op, update, [axis]), np.zeros(0, np.int64)), 1)
        place = op.Add(op.Unsqueeze(start, [1]), steps) if start is not None else op.Unsqueeze(steps, [0])
        if node.attr("mode") == "circular":
            place = op.Mod(place, sizes(op, node.x, [axis]))
        place = op.Unsqueeze(place, [a for a in range(1, update.rank) if a != axis])
        dupdate = op.GatherElements(dy, op.Expand(place, shape_of(op, update)), axis=axis)
    return node.grads(dpast, dupdate)
