"""Sliding windows: where convolutions and poolings look, and the maps between the two sides and the kernel.

A window over the *large* side makes one cell of the *small* side: per spatial axis, tap k of cell p meets the large element
``stride * p + dilation * k - begin``. Conv and pooling go from large to small, ConvTranspose from small to large. Three maps,
each the adjoint of the others, are all that their gradients need:

    gather:     small[p] = sum_k large[s p + d k - b] W[k]
    spread:     large[s p + d k - b] += small[p] W[k]
    correlate:  W[k] = sum_p small[p] large[s p + d k - b]
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from onnxsal.errors import UnsupportedError
from onnxsal.forms.choice import blocked
from onnxsal.forms.enlarge import spaced, strided
from onnxsal.forms.scale import taken_in
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import END, Ints, calc, crop_or_pad, join, sizes
from onnxsal.graph.window_attributes import window_attributes

FEW_CHANNELS = 4
"""Up to this many channels of the image side ONNX Runtime's ConvTranspose beats Conv, at stride 1 too (3 x for VGG's first layer)."""


@dataclass(frozen=True)
class Window:
    """The geometry of one node's windows; each field has one entry per spatial axis.

    ``end`` is what is padded after the large side. ``exact`` tells that the last window ends where that padding ends (always so
    for ConvTranspose), ``ceil`` that the last window may end beyond it.
    """

    large: Ints
    small: Ints
    kernel: Ints
    strides: np.ndarray
    dilations: np.ndarray
    begin: Ints
    end: Ints
    exact: bool = False
    ceil: bool = False

    @property
    def axes(self) -> list[int]:
        """The spatial axes of a tensor in N C spatial layout."""
        return [2 + i for i in range(len(self.strides))]

    @property
    def rank(self) -> int:
        """Of such a tensor."""
        return 2 + len(self.strides)

    @cached_property
    def extent(self) -> np.ndarray | None:
        """How many large elements a window spans, where known."""
        return np.asarray((self.kernel - 1) * self.dilations + 1) if isinstance(self.kernel, np.ndarray) else None

    @cached_property
    def pads(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Padding before and after, where known."""
        return (self.begin, self.end) if isinstance(self.begin, np.ndarray) and isinstance(self.end, np.ndarray) else None

    @cached_property
    def slack(self) -> np.ndarray | None:
        """How far before the end of the padding the last window ends (negative: beyond it), where known."""
        if self.exact or bool(np.all(self.strides == 1)):
            return np.zeros_like(self.strides)
        if self.pads is None or self.extent is None or not isinstance(self.large, np.ndarray) or not isinstance(self.small, np.ndarray):
            return None
        spanned = (self.small - 1) * self.strides + self.extent
        return self.large + self.pads[0] + self.pads[1] - spanned


# ----- the geometry of a node -----


def _per_axis(node: NodeView, name: str, count: int, default: int) -> np.ndarray:
    values = node.attr(name)
    return np.full(count, default, np.int64) if values is None else np.asarray(values, np.int64)


def _kernel(op: Emit, node: NodeView, axes: list[int]) -> Ints:
    """The kernel's shape: the attribute, else that of the weight."""
    given = node.attr("kernel_shape")
    return np.asarray(given, np.int64) if given is not None else sizes(op, node.input(1), axes)


def _extent(op: Emit, kernel: Ints, dilations: np.ndarray) -> Ints:
    return calc(op).Add(calc(op).Mul(calc(op).Sub(kernel, 1), dilations), 1)


def _halves(op: Emit, total: Ints, larger_end: bool) -> tuple[Ints, Ints]:
    """A total of padding as (before, after); an odd one goes to the end or to the beginning."""
    half = calc(op).Div(total, 2)
    rest = calc(op).Sub(total, half)
    return (half, rest) if larger_end else (rest, half)


def window_of(op: Emit, node: NodeView) -> Window:
    """The windows of a Conv or of a pooling."""
    axes = list(range(2, node.x.rank))
    kernel = _kernel(op, node, axes)
    strides, dilations = _per_axis(node, "strides", len(axes), 1), _per_axis(node, "dilations", len(axes), 1)
    large = sizes(op, node.x, axes)
    mode, ceil = node.attr("auto_pad", "NOTSET"), bool(node.attributes.get("ceil_mode", 0))
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        if np.any(dilations > 1):
            raise UnsupportedError(
                f"{node.label}: auto_pad={mode} with dilations {dilations.tolist()}: the standard and ONNX Runtime pad differently here. "
                "Write the padding as explicit pads and convert again."
            )
        total = calc(op).Sub(kernel, 1)
        if np.any(strides > 1):
            cells = calc(op).Div(calc(op).Add(large, strides - 1), strides)
            spanned = calc(op).Add(calc(op).Mul(calc(op).Sub(cells, 1), strides), kernel)
            total = calc(op).Max(calc(op).Sub(spanned, large), 0)
        begin, end = _halves(op, total, larger_end=mode == "SAME_UPPER")
    else:
        begin, end = _explicit_pads(node, len(axes), mode)
    known = all(isinstance(size, np.ndarray) for size in (large, kernel, begin))
    small = _cells(large, _extent(op, kernel, dilations), strides, begin, end, ceil) if known else sizes(op, node.y, axes)
    return Window(large, small, kernel, strides, dilations, begin, end, ceil=ceil)


def _cells(large: Any, extent: Any, strides: np.ndarray, begin: Any, end: Any, ceil: bool) -> np.ndarray:
    """How many windows there are. (Shape inference below opset 22 also counts windows that would begin beyond x, with ceil_mode.)"""
    room = large + begin + end - extent
    if not ceil:
        return np.asarray(room // strides + 1)
    cells = -(-room // strides) + 1
    return np.where((cells - 1) * strides >= large + begin, cells - 1, cells)


def _explicit_pads(node: NodeView, count: int, mode: str) -> tuple[np.ndarray, np.ndarray]:
    pads = np.zeros(2 * count, np.int64) if mode == "VALID" else _per_axis(node, "pads", 2 * count, 0)
    return pads[:count], pads[count:]


def transposed_window_of(op: Emit, node: NodeView) -> Window:
    """The windows of a ConvTranspose: its output is the large side.

    Where padding follows from the output's size, only the beginning is a choice; the end is what the sizes leave.
    """
    axes = list(range(2, node.x.rank))
    kernel = _kernel(op, node, axes)
    strides, dilations = _per_axis(node, "strides", len(axes), 1), _per_axis(node, "dilations", len(axes), 1)
    more = _per_axis(node, "output_padding", len(axes), 0)
    large, small = sizes(op, node.y, axes), sizes(op, node.x, axes)
    mode, shape = node.attr("auto_pad", "NOTSET"), node.attr("output_shape")
    if shape is None and mode in ("NOTSET", "VALID"):
        before, after = _explicit_pads(node, len(axes), mode)
        return Window(large, small, kernel, strides, dilations, before, after - more, exact=True)
    extent = _extent(op, kernel, dilations)
    begin: Ints
    end: Ints
    spanned = calc(op).Add(calc(op).Mul(calc(op).Sub(small, 1), strides), extent)
    if shape is None:
        # The output aims at small * stride elements, but is never filled up to that.
        surplus: Ints = calc(op).Add(extent, more - strides)
        begin, end = _halves(op, calc(op).Max(surplus, 0), larger_end=mode == "SAME_UPPER")
        end = calc(op).Sub(end, more)
        large = calc(op).Sub(calc(op).Sub(spanned, begin), end)
    else:
        large = np.asarray(shape, np.int64)[-len(axes) :]
        surplus = calc(op).Sub(calc(op).Add(spanned, more), large)
        begin, _ = _halves(op, calc(op).Max(surplus, 0), larger_end=mode == "SAME_UPPER")
        end = calc(op).Sub(calc(op).Sub(spanned, large), begin)
    return Window(large, small, kernel, strides, dilations, begin, end, exact=True)


# ----- the three maps -----


def spread(op: Emit, g: Value, weight: Value, window: Window, group: int = 1, mirrored: bool = False, like: Value | None = None) -> Value:
    """large[s p + d k - b] += g[p] W[k], the adjoint of a convolution with ``weight`` [channels of g, channels of large / group, *kernel].

    At stride 1 a Conv with the kernel turned around, which ONNX Runtime does about twice as fast as ConvTranspose (and which takes
    uneven padding), also depthwise at larger strides; else a ConvTranspose that reaches ``output_padding`` further, where no window
    came. ``mirrored`` says that the kernel is its own mirror image; ``like`` is the forward tensor that the result is the signal of: with
    its shape known, forms that suit the place where the file runs are taken.
    """
    g, weight = taken_in(op, g, weight)
    if _thin(weight, window, group):
        g, window = _thinned(op, g, weight.dim(0), window, like)
    axes, strides = window.axes, window.strides
    turning = _turned_pads(weight, window, group)
    if turning is not None:
        before, after = turning
        g = crop_or_pad(op, g, np.minimum(before, 0), np.minimum(after, 0), axes, window.rank)
        pads = np.maximum(np.concatenate([before, after]), 0)
        kernel = turned(op, weight, window, group, mirrored)
        return op.Conv(g, kernel, **_attributes(window, group, pads=pads))
    if (phased := _phased(op, g, weight, window, group, like)) is not None:
        return phased
    if window.pads is None or window.slack is None:
        more = np.maximum(strides - 1 - (0 if window.pads is None else window.pads[1]), 0)
        whole = op.ConvTranspose(g, weight, output_padding=_more(more), **_attributes(window, group))
        return op.Slice(whole, window.begin, calc(op).Add(window.begin, window.large), axes)
    begin, end = window.pads
    more = window.slack - end + begin
    if np.all((more >= 0) & ((more == 0) | (more < strides))):
        return op.ConvTranspose(g, weight, output_padding=_more(more), **_attributes(window, group, pads=np.tile(begin, 2)))
    # Uneven padding is sliced off afterwards: not every provider's ConvTranspose takes it.
    more = np.maximum(window.slack - end, 0)
    whole = op.ConvTranspose(g, weight, output_padding=_more(more), **_attributes(window, group))
    return crop_or_pad(op, whole, -begin, -(end - window.slack + more), axes, window.rank)


def gather(op: Emit, g: Value, weight: Value, window: Window, group: int = 1) -> Value:
    """small[p] = sum_k g[s p + d k - b] W[k]: a convolution with ``weight`` [channels of small, channels of g / group, *kernel]."""
    axes, strides = window.axes, window.strides
    further = strides - 1 if window.ceil else np.zeros_like(strides)
    if window.pads is None:
        g = crop_or_pad(op, g, window.begin, calc(op).Add(window.end, further), axes, window.rank)
        result = op.Conv(g, weight, **_attributes(window, group))
    else:
        begin = window.pads[0]
        after = window.pads[1] + further if window.slack is None else window.pads[1] - window.slack
        # Fewer than a stride of elements too many make no further window; more are cut off.
        g = crop_or_pad(op, g, np.zeros_like(begin), np.where(after <= -strides, after, 0), axes, window.rank)
        result = op.Conv(g, weight, **_attributes(window, group, pads=np.maximum(np.concatenate([begin, after]), 0)))
    if window.ceil and window.slack is None:
        result = op.Slice(result, [0] * len(axes), window.small, axes)
    return result


def correlate(op: Emit, large: Value, small: Value, weight: Value, window: Window, group: int = 1) -> Value:
    """W[k] = sum_p small[p] large[s p + d k - b], shaped like ``weight`` [channels of small, channels of large / group, *kernel].

    A Conv of the large side with the small side as its kernel: batch and channels change places, and so do strides and dilations.
    """
    swap = [1, 0, *window.axes]
    images = _channels_first(op, large, weight, window, group)
    pads, whole = None, False
    if window.pads is None:
        images = crop_or_pad(op, images, window.begin, window.end, window.axes, window.rank)
    else:
        begin, end = window.pads
        after = end if window.slack is None else end - window.slack
        whole = window.slack is not None and bool(np.all(after >= 0))
        pads = np.maximum(np.concatenate([begin, after]), 0)
    slid = replace(window, kernel=window.small, strides=window.dilations, dilations=window.strides)
    result = op.Conv(images, op.Transpose(small, perm=swap), **_attributes(slid, group, pads=pads))
    if not whole:
        result = op.Slice(result, [0] * len(window.axes), window.kernel, window.axes)
    return op.Transpose(result, perm=swap)


def _channels_first(op: Emit, large: Value, weight: Value, window: Window, group: int) -> Value:
    """[N, groups * C, *spatial] as [C, groups * N, *spatial]."""
    if group == 1:
        return op.Transpose(large, perm=[1, 0, *window.axes])
    channels = sizes(op, weight, [1])
    split = op.Reshape(large, join(op, join(op, np.asarray([0, group]), channels), np.asarray([-1])))
    moved = op.Transpose(split, perm=[2, 1, 0, 3])
    return op.Reshape(moved, join(op, join(op, channels, np.asarray([-1])), window.large))


def _turned_pads(weight: Value, window: Window, group: int) -> tuple[np.ndarray, np.ndarray] | None:
    """The padding with which ``spread`` is a convolution with a turned kernel; ``None`` where it is not one, or not a faster one."""
    if window.pads is None or window.extent is None or np.any(window.strides != 1):
        return None
    few = group == 1 and (weight.dim(1) or END) <= FEW_CHANNELS
    if few or (group > 1 and weight.static is None):
        return None
    return window.extent - 1 - window.pads[0], window.extent - 1 - window.pads[1]


def _thin(weight: Value, window: Window, group: int) -> bool:
    """Whether the convolution is depthwise and strided: ONNX Runtime's ConvTranspose then makes one tiny product per channel."""
    if not (isinstance(window.kernel, np.ndarray) and isinstance(window.small, np.ndarray)) or window.slack is None or window.pads is None:
        return False
    depthwise = group > 1 and weight.static is not None and weight.dim(1) == 1
    return depthwise and len(window.axes) == 2 and bool(np.prod(window.kernel) > np.prod(window.strides) > 1)


def _phased(op: Emit, g: Value, weight: Value, window: Window, group: int, like: Value | None) -> Value | None:
    """The form for strided dense windows, where it fits."""
    known = [window.kernel, window.begin, window.small]
    if like is None or like.shape is None or group > 1 or np.any(window.dilations > 1) or len(window.axes) != 2:
        return None
    if weight.static is None or not all(isinstance(size, np.ndarray) for size in known):
        return None
    small = Value(g.name, 0, (like.shape[0], weight.dim(0), *map(int, np.asarray(window.small))))
    taps, begin = np.asarray(window.kernel), np.asarray(window.begin)
    return strided(op, small, lambda: turned(op, weight, window), taps, window.strides, begin, like)


def _thinned(op: Emit, g: Value, channels: int | None, window: Window, like: Value | None) -> tuple[Value, Window]:
    """``g`` with zeros between its elements, and the stride-1 windows that meet it so: then a turned depthwise Conv does (2 x faster)."""
    strides, small = window.strides, np.asarray(window.small)
    end = np.asarray(window.end) - np.asarray(window.slack) + strides - 1
    spaced_window = replace(window, small=small * strides, strides=np.ones_like(strides), end=end, exact=False, ceil=False)
    wide_like = None if like is None or like.shape is None else Value("", 0, (like.shape[0], channels, *map(int, small * strides)))
    if wide_like is not None and blocked(op, wide_like):
        return spaced(op, g, [int(s) for s in strides], wide_like), spaced_window
    wide = op.Resize(
        g, None, np.asarray([1, 1, *strides], np.float32), mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    rows, columns = (np.tile(np.eye(1, s, dtype=op.np_dtype)[0], n) for s, n in zip(strides, small, strict=True))
    return op.Mul(wide, op.Mul(rows.reshape(-1, 1), columns)), spaced_window


def turned(op: Emit, weight: Value, window: Window, group: int = 1, mirrored: bool = False) -> Value:
    """The kernel of the adjoint: mirrored along its spatial axes, input and output channels exchanged within each group.

    An expression over the original weight, so that the file does not grow; ONNX Runtime folds it when it loads.
    """
    return op.cached(("turned", weight.name, group, mirrored), lambda: _turned(op, weight, window, group, mirrored))


def _turned(op: Emit, weight: Value, window: Window, group: int, mirrored: bool) -> Value:
    axes, result = window.axes, weight
    if group == 1:
        result = op.Transpose(result, perm=[1, 0, *axes])
    elif weight.static is not None and weight.static[:2] != (group, 1):
        small, large, *kernel = weight.static
        split = op.Reshape(result, [group, small // group, large, *kernel])
        moved = op.Transpose(split, perm=[0, 2, 1, *[1 + a for a in axes]])
        result = op.Reshape(moved, [group * large, small // group, *kernel])
    long = [a for a in axes if weight.dim(a) != 1]
    if mirrored or not long:
        return result
    return op.Slice(result, [-1] * len(long), [-END] * len(long), long, [-1] * len(long))


def _attributes(window: Window, group: int, pads: np.ndarray | None = None) -> dict[str, Any]:
    """The attributes of a convolution with the kernel, strides and dilations of ``window``."""
    kernel = window.kernel if isinstance(window.kernel, np.ndarray) else None
    return window_attributes(len(window.strides), kernel, window.strides, window.dilations, pads, group)


def _more(values: np.ndarray) -> list[int] | None:
    """An ``output_padding``; ``None`` (leave it out) where there is none."""
    return [int(v) for v in values] if values.any() else None
