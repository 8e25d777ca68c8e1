"""From few places to many: the adjoints of a mean over all places and of strided convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onnxsal.forms.choice import blocked, gate, places_of, small_of
from onnxsal.graph import Emit, Value
from onnxsal.graph.adjoints import END
from onnxsal.graph.helpers import like_shape
from onnxsal.graph.window_attributes import window_attributes

Ints = np.ndarray


def repeated(op: Emit, g: Value, like: Value, factor: float) -> Value:
    """``factor g`` [N, C, 1, 1], repeated over all places of ``like``."""
    if blocked(op, like):
        return nearest(op, gate(op, g, small_of(like), factor), places_of(like), like)
    return like_shape(op, op.Mul(g, factor), like)


def nearest(op: Emit, g: Value, factors: Sequence[int], like: Value) -> Value:
    """Every element of ``g`` copied into a box of ``factors`` places, which makes the shape of ``like``."""
    scales = np.asarray([1, 1, *factors], np.float32)
    wide = op.Resize(g, None, scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    return op.declared(wide, op.dtype, like)


def spaced(op: Emit, g: Value, strides: Sequence[int], like: Value) -> Value:
    """``g`` with zeros between its elements, ``strides - 1`` after each, in the shape of ``like``, all in the layout.

    Each element is copied into its box and all copies but the first are multiplied by 0. A constant would not be in the layout, and what
    is made of constants alone is folded to one; so the pattern is made, by a convolution, of a 1 that each sample brings.
    """
    wide = nearest(op, g, strides, like)
    return op.declared(op.Mul(wide, _pattern(op, g, strides, like)), op.dtype, like)


def _pattern(op: Emit, g: Value, strides: Sequence[int], like: Value) -> Value:
    """1 at the first place of every box of ``strides``, else 0, in the shape of ``like``."""
    batch, places = (like.shape or (None,))[0], places_of(like)

    def build() -> Value:
        one = one_of_each_sample(op, g, like)
        rows, columns = (np.tile(np.eye(1, s, dtype=op.np_dtype)[0], n // s) for s, n in zip(strides, places, strict=True))
        flat = op.declared(op.Mul(one, (rows[:, None] * columns)[None, None]), op.dtype, Value("", 0, (batch, 1, *places)))
        ones = np.ones((like.dim(1) or 0, 1, 1, 1), op.np_dtype)
        return op.declared(op.Conv(flat, ones, **window_attributes(2, [1, 1])), op.dtype, like)

    return op.cached(("pattern", tuple(like.shape or ()), tuple(strides)), build)


def one_of_each_sample(op: Emit, g: Value, like: Value) -> Value:
    """[N, 1, 1, 1] ones that are no constants, from a tensor with as many channels as ``like``."""

    def build() -> Value:
        mean = op.declared(op.GlobalAveragePool(g), op.dtype, small_of(like))
        return op.HardSigmoid(op.Slice(mean, [0], [1], [1]), alpha=1e-30, beta=1.0)  # OpenVINO takes its default for an alpha of 0

    return op.cached(("one of each sample", (like.shape or (None,))[0] or g.name), build)


@dataclass(frozen=True)
class _Phase:
    """Along one axis: the taps of the turned kernel that meet the places of one remainder, from ``first`` on, and the padding around."""

    first: int
    taps: int
    before: int
    after: int


def _phase(remainder: int, stride: int, begin: int, kernel: int, small: int, large: int) -> _Phase | None:
    """Place i = s q + r meets tap k of cell p = q + (r + b - k) / s, where that is whole; ``None`` where no tap does."""
    met = [k for k in range(kernel) if (k - begin) % stride == remainder]
    if not met:
        return None
    least, most = ((remainder + begin - k) // stride for k in (met[-1], met[0]))
    return _Phase(kernel - 1 - met[-1], len(met), -least, large // stride - small + most)


def strided(op: Emit, g: Value, kernel: Callable[[], Value], taps: Ints, strides: Ints, begin: Ints, like: Value) -> Value | None:
    """The adjoint of a strided convolution of ``like``: ``kernel`` makes its turned kernel [C of like, C of g, *taps]; ``g`` has a shape.
    ``None`` where the layout cannot hold both, or where the strides do not divide the places.

    Of the places i = s q + r, those of one remainder r meet every s-th tap only, so each remainder has a convolution of its own on the
    small side, without a product too many. A kernel of one tap meets one remainder: its result is spaced.
    """
    places, small = np.asarray(places_of(like)), np.asarray(places_of(g))
    if not blocked(op, like, g) or np.any(places % strides) or np.any(places != small * strides):
        return None
    if np.all(np.asarray(taps) == 1) and not np.any(begin):
        return spaced(op, op.Conv(g, kernel(), **window_attributes(2, [1, 1])), [int(s) for s in strides], like)
    axes = [[_phase(r, *map(int, numbers)) for r in range(numbers[0])] for numbers in zip(strides, begin, taps, small, places, strict=True)]
    rows, columns = ([phase for phase in axis if phase is not None and min(phase.before, phase.after) >= 0] for axis in axes)
    if len(rows) < strides[0] or len(columns) < strides[1]:
        return None
    parts = [[_of_phase(op, g, kernel(), [int(s) for s in strides], (row, column)) for column in columns] for row in rows]
    return gate(op, interleaved(op, parts, like), like)


def _of_phase(op: Emit, g: Value, kernel: Value, steps: Sequence[int], phase: tuple[_Phase, _Phase]) -> Value:
    """The places of one remainder along each axis, [N, h, w, C]."""
    row, column = phase
    own = op.Slice(kernel, [row.first, column.first], [END, END], [2, 3], steps)
    pads = [row.before, column.before, row.after, column.after]
    window = window_attributes(2, [row.taps, column.taps], pads=pads)
    return op.Transpose(op.Conv(g, own, **window), perm=[0, 2, 3, 1])


def interleaved(op: Emit, parts: Sequence[Sequence[Value]], like: Value) -> Value:
    """[N, C, H, W] of the parts [N, h, w, C] by the remainders of their rows and columns: laid together where the channels lie together."""
    channels, (height, width) = like.dim(1) or 0, places_of(like)
    lines = [op.Reshape(op.Concat(*row, axis=3), [0, height // len(parts), width, channels]) for row in parts]
    whole = op.Reshape(op.Concat(*lines, axis=2), [0, height, width, channels])
    return op.Transpose(whole, perm=[0, 3, 1, 2])
