"""The adjoint of a max pool in the blocked layout: dy at the first largest element of each window, without indices.

ONNX Runtime finds indices outside of the layout only, many times slower than the maxima. Here each axis is a step of its own, since the
first in row-major order is the first column of the first row: with R the largest of each row of a window, dy goes to the first row whose R
is y, and from there to the first column whose x is R. Along an axis, tap t of cell q meets element s q + t - b:

    left[0] = d,   left[t + 1] = left[t] [top > source at t],   tap t takes left[t] - left[t + 1],   the last tap takes left[k - 1]

All of these are copies of d or 0, so no difference rounds. A tap before the beginning is below everything, as infinity is added there; one
beyond the end is asked when nothing is left. The elements i = s q + r of one remainder r are one tensor, laid together with the others in
the end. (Elements that differ by less than the smallest normal number count as equal.)

A comparison is one kernel of ONNX Runtime: the convolution that picks the source, with the addition of top and the HardSigmoid in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsal.forms.choice import places_of, products
from onnxsal.forms.enlarge import interleaved, one_of_each_sample
from onnxsal.forms.masks import positive
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.window_attributes import window_attributes

LONGEST_STRIDE = 2
"""From 3 on, laying the remainders together costs more than indices do (0.83 to 0.89 x with a batch of 8)."""

FEWEST_CELLS = 4096
"""Elements of one sample's y below which the many nodes cost more than they save."""


@dataclass(frozen=True)
class Sliding:
    """Windows along one axis of places: ``large`` elements of x, ``small`` cells of y."""

    large: int
    small: int
    kernel: int
    stride: int
    begin: int

    @property
    def each(self) -> int:
        """How many elements a remainder of the stride has, at most."""
        return -(-self.large // self.stride)

    def met(self, tap: int) -> Picking:
        """What each cell meets with a tap."""
        return Picking(self.small, tap - self.begin, self.stride)

    def outside(self, tap: int) -> int:
        """How many cells have this tap before the beginning."""
        return max(-((tap - self.begin) // self.stride), 0)


@dataclass(frozen=True)
class Picking:
    """Along one axis, out[q] = source[stride q + first], 0 outside of the source, for ``size`` numbers q."""

    size: int
    first: int = 0
    stride: int = 1

    def weights(self, count: int) -> tuple[np.ndarray, int, int]:
        """The kernel of a convolution that picks so among ``count`` elements, and the padding before and after these."""
        before, at = max(-self.first, 0), max(self.first, 0)
        after = max(self.stride * (self.size - 1) + at + 1 - count - before, 0)
        taps = max(at + 1, count + before + after - self.stride * self.size + 1)
        return np.eye(1, taps, at)[0], before, after


def first_largest(op: Emit, node: NodeView, dy: Value, axes: Callable[[], Sequence[Sliding] | None]) -> Value | None:
    """dx = dy added at the first largest element of each window; ``None`` where the layout cannot hold it, or where it would not pay.

    ``axes`` tells of rows and columns, or ``None`` where a size is not known or taps do not lie side by side.
    """
    x, y = node.x, node.y
    if not products(op, node, x, y) or math.prod([*places_of(y), y.dim(1) or 0]) < FEWEST_CELLS:
        return None
    found = axes()
    if found is None or any(axis.stride > LONGEST_STRIDE for axis in found):
        return None
    if [axis.large for axis in found] != places_of(x) or [axis.small for axis in found] != places_of(y):
        return None
    return _Adjoint(op, x, y, dy, *found).result()


@dataclass(frozen=True)
class _Adjoint:
    """One such adjoint while it is emitted."""

    op: Emit
    x: Value
    y: Value
    dy: Value
    rows: Sliding
    columns: Sliding

    def result(self) -> Value:
        rows, columns, lines = self.rows, self.columns, self._largest_of_rows()
        shared = self._shared(0, self._like(self.dy, rows.small, columns.small), self.y, lines, Picking(columns.small))
        parts = []
        for remainder, d in enumerate(shared):
            these = Picking(rows.each, remainder, rows.stride)
            parts.append(self._shared(1, d, self._picked(lines, (these, Picking(columns.small))), self.x, these))
        if rows.stride == columns.stride == 1:
            return parts[0][0]
        last = [[self.op.Transpose(part, perm=[0, 2, 3, 1]) for part in line] for line in parts]
        whole = Value("", 0, self._shape(rows.each * rows.stride, columns.each * columns.stride))
        mixed = Value(interleaved(self.op, last, whole).name, 0, whole.shape)
        return self._convolved(mixed, (Picking(rows.large), Picking(columns.large)))

    def _largest_of_rows(self) -> Value:
        """The largest of each row of each window, [N, C, rows of x, columns of y]."""
        axis = self.columns
        after = max((axis.small - 1) * axis.stride + axis.kernel - axis.large - axis.begin, 0)
        largest = self.op.MaxPool(self.x, kernel_shape=[1, axis.kernel], strides=[1, axis.stride], pads=[0, axis.begin, 0, after])
        return self._like(largest, self.rows.large, axis.small)

    def _shared(self, along: int, d: Value, top: Value, source: Value, other: Picking) -> list[Value]:
        """``d`` at the first tap along an axis whose source is ``top``: what the elements of each remainder get.

        ``other`` tells what is picked of the source along the other axis.
        """
        op, axis, whole = self.op, (self.rows, self.columns)[along], [Picking(size) for size in places_of(d)]
        taken, left = [], d
        for tap in range(axis.kernel - 1):
            bound = self._raised(top, axis.outside(tap), along) if axis.outside(tap) else top
            lower = positive(op, self._picked(source, _ordered(along, axis.met(tap), other), -1.0, bound))
            rest = self._like(op.Mul(left, lower), *places_of(d))
            taken.append(self._picked(rest, whole, -1.0, left))
            left = rest
        taken.append(left)
        return [self._placed(along, taken, remainder) for remainder in range(axis.stride)]

    def _placed(self, along: int, taken: Sequence[Value], remainder: int) -> Value:
        """The sum of what an element gets of each tap that meets its remainder."""
        axis, other = (self.rows, self.columns)[along], Picking(places_of(taken[0])[1 - along])
        shifts = [(value, *divmod(tap - axis.begin, axis.stride)) for tap, value in enumerate(taken)]
        met = [(abs(shift), Picking(axis.each, -shift), value) for value, shift, of in shifts if of == remainder]
        if not met:  # fewer taps than the stride has remainders
            return self._convolved(taken[0], _ordered(along, Picking(axis.each), other), 0.0)
        total: Value | None = None
        for _, own, value in sorted(met, key=lambda one: one[0]):  # what is not shifted needs no convolution, and comes first
            total = self._picked(value, _ordered(along, own, other), 1.0, total)
        assert total is not None
        return total

    # ----- nodes -----

    def _shape(self, height: int, width: int) -> tuple[int | str | None, ...]:
        return *(self.x.shape or ())[:2], height, width

    def _like(self, value: Value, height: int, width: int) -> Value:
        """``value``, of which the shape is known."""
        like = Value("", 0, self._shape(height, width))
        return Value(self.op.declared(value, self.op.dtype, like).name, 0, like.shape)

    def _picked(self, source: Value, picks: Sequence[Picking], factor: float = 1.0, more: Value | None = None) -> Value:
        """``factor`` times what is picked of ``source``, plus ``more``, which ONNX Runtime makes part of the convolution."""
        if more is None and factor == 1.0 and list(picks) == [Picking(size) for size in places_of(source)]:
            return source
        found = self._convolved(source, picks, factor)
        return found if more is None else self._like(self.op.Add(found, more), *places_of(found))

    def _convolved(self, source: Value, picks: Sequence[Picking], factor: float = 1.0) -> Value:
        (tall, above, below), (wide, left, right) = (pick.weights(n) for pick, n in zip(picks, places_of(source), strict=True))
        channels = source.dim(1) or 0
        weight = np.tile((factor * np.outer(tall, wide)).astype(self.op.np_dtype), (channels, 1, 1, 1))
        strides, pads = [pick.stride for pick in picks], [above, left, below, right]
        window = window_attributes(2, weight.shape[2:], strides, pads=pads, group=channels)
        found = self.op.Conv(source, weight, **window)
        return self._like(found, *(pick.size for pick in picks))

    def _raised(self, top: Value, count: int, along: int) -> Value:
        """``top``, but infinity at the first ``count`` cells along an axis, where a tap meets nothing: that is not the largest."""
        op, places = self.op, places_of(top)
        flat = np.where(np.indices(places)[along] < count, np.inf, 0.0).astype(op.np_dtype)[None, None]
        plane = op.Mul(one_of_each_sample(op, self.dy, self.y), flat)
        plane = op.declared(plane, op.dtype, Value("", 0, ((self.x.shape or (None,))[0], 1, *places)))
        ones = np.ones((self.x.dim(1) or 0, 1, 1, 1), op.np_dtype)
        everywhere = op.Conv(plane, ones, **window_attributes(2, [1, 1]))
        return self._like(op.Add(self._like(everywhere, *places), top), *places)


def _ordered(along: int, own: Picking, other: Picking) -> tuple[Picking, Picking]:
    """What is picked of rows and of columns, where ``own`` is of the axis ``along``."""
    return (own, other) if along == 0 else (other, own)
