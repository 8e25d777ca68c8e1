"""Convolutions and poolings in float64 for the oracle, written tap by tap: ONNX Runtime has no float64 kernels for them on the CPU.

onnx's own evaluator is no oracle here: its grouped ConvTranspose and its LpPool are wrong, its AveragePool spreads the elements
that ceil_mode adds over both ends, and it has no GlobalLpPool. tests/test_windows.py compares these with ONNX Runtime in float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Ints = Sequence[int]


def filled(values: Ints | None, count: int, default: int) -> np.ndarray:
    return np.full(count, default) if values is None else np.asarray(values)


def same_pads(total: np.ndarray, auto_pad: str) -> tuple[np.ndarray, np.ndarray]:
    """Padding before and after that adds up to ``total``; SAME_UPPER puts an odd one at the end."""
    half, rest = total // 2, total - total // 2
    return (half, rest) if auto_pad == "SAME_UPPER" else (rest, half)


def layout(size: np.ndarray, extent: np.ndarray, strides: np.ndarray, auto_pad: str | None, pads: Ints | None, ceil: bool) -> Any:
    """Padding before and after, and how many windows there are, of a Conv or a pooling."""
    if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
        cells = -(-size // strides)
        begin, end = same_pads(np.maximum((cells - 1) * strides + extent - size, 0), auto_pad)
        return begin, end, cells
    begin, end = np.split(filled(None if auto_pad == "VALID" else pads, 2 * len(size), 0), 2)
    room = size + begin + end - extent
    cells = (-(-room // strides) if ceil else room // strides) + 1
    return begin, end, np.where(ceil & ((cells - 1) * strides >= size + begin), cells - 1, cells)


def taps(padded: np.ndarray, kernel: Ints, strides: np.ndarray, dilations: np.ndarray, cells: np.ndarray) -> Iterator[tuple[Any, Any]]:
    """Every tap of the kernel with what all windows see there."""
    for tap in itertools.product(*map(range, kernel)):
        starts = np.asarray(tap) * dilations
        yield tap, padded[(..., *(slice(a, a + s * (n - 1) + 1, s) for a, s, n in zip(starts, strides, cells, strict=True)))]


def surrounded(x: np.ndarray, begin: np.ndarray, end: np.ndarray, value: float = 0.0) -> np.ndarray:
    return np.pad(x, [(0, 0)] * (x.ndim - len(begin)) + list(zip(begin, end, strict=True)), constant_values=value)


class Conv(OpRun):
    op_domain = ""

    def _run(self, x, w, b=None, auto_pad=None, dilations=None, group=1, kernel_shape=None, pads=None, strides=None):
        n = x.ndim - 2
        strides, dilations = filled(strides, n, 1), filled(dilations, n, 1)
        extent = (np.asarray(w.shape[2:]) - 1) * dilations + 1
        begin, end, cells = layout(np.asarray(x.shape[2:]), extent, strides, auto_pad, pads, False)
        y = np.zeros((x.shape[0], w.shape[0], *cells), x.dtype)
        for tap, seen in taps(surrounded(x, begin, end), w.shape[2:], strides, dilations, cells):
            split = seen.reshape(x.shape[0], group, -1, *cells)
            kernel = w[(..., *tap)].reshape(group, -1, w.shape[1])
            y += np.einsum("ngc...,goc->ngo...", split, kernel).reshape(y.shape)
        return (y if b is None else y + b.reshape(-1, *[1] * n),)


class ConvTranspose(OpRun):
    op_domain = ""

    def _run(
        self,
        x,
        w,
        b=None,
        auto_pad=None,
        dilations=None,
        group=1,
        kernel_shape=None,
        output_padding=None,
        output_shape=None,
        pads=None,
        strides=None,
    ):
        n = x.ndim - 2
        strides, dilations, more = filled(strides, n, 1), filled(dilations, n, 1), filled(output_padding, n, 0)
        size = np.asarray(x.shape[2:])
        whole = (size - 1) * strides + (np.asarray(w.shape[2:]) - 1) * dilations + 1
        if output_shape is not None or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            aim = size * strides if output_shape is None else np.asarray(output_shape)
            total = np.maximum(whole + more - aim, 0)
            begin, end = same_pads(total, auto_pad or "")
            result = whole + more - total if output_shape is None else aim
        else:
            begin, end = np.split(filled(None if auto_pad == "VALID" else pads, 2 * n, 0), 2)
            result = whole + more - begin - end
        y = np.zeros((x.shape[0], w.shape[1] * group, *(np.maximum(whole, begin + result))), x.dtype)
        split = x.reshape(x.shape[0], group, -1, *size)
        for tap, part in taps(y, w.shape[2:], strides, dilations, size):
            kernel = w[(..., *tap)].reshape(group, -1, w.shape[1])
            part += np.einsum("ngc...,gco->ngo...", split, kernel).reshape(part.shape)
        y = y[(..., *(slice(a, a + r) for a, r in zip(begin, result, strict=True)))]
        return (y if b is None else y + b.reshape(-1, *[1] * n),)


def window_sums(x: np.ndarray, counted: np.ndarray, begin: Any, beyond: Any, kernel: Ints, strides: Any, dilations: Any, cells: Any) -> Any:
    """Sum of ``x`` and of ``counted`` over every window."""
    kernel = list(kernel)
    sums = sum(seen for _, seen in taps(surrounded(x, begin, beyond), kernel, strides, dilations, cells))
    return sums, sum(seen for _, seen in taps(counted, kernel, strides, dilations, cells))


class AveragePool(OpRun):
    op_domain = ""
    power = False

    def _run(
        self,
        x,
        auto_pad=None,
        ceil_mode=None,
        count_include_pad=None,
        dilations=None,
        kernel_shape=None,
        pads=None,
        strides=None,
        p=None,
    ):
        n = x.ndim - 2
        strides, dilations = filled(strides, n, 1), filled(dilations, n, 1)
        extent = (np.asarray(kernel_shape) - 1) * dilations + 1
        begin, end, cells = layout(np.asarray(x.shape[2:]), extent, strides, auto_pad, pads, bool(ceil_mode))
        beyond = np.maximum((cells - 1) * strides + extent - begin - np.asarray(x.shape[2:]), end)
        counted = np.ones(x.shape[2:])
        counted = surrounded(surrounded(counted, begin, end, float(bool(count_include_pad))), 0 * end, beyond - end)
        values = np.abs(x) ** p if self.power else x
        sums, counts = window_sums(values, counted, begin, beyond, kernel_shape, strides, dilations, cells)
        return ((sums ** (1 / p) if self.power else sums / counts).astype(x.dtype),)


class LpPool(AveragePool):
    op_domain = ""
    power = True

    def _run(self, x, auto_pad=None, ceil_mode=None, dilations=None, kernel_shape=None, p=2, pads=None, strides=None):
        return super()._run(x, auto_pad, ceil_mode, 0, dilations, kernel_shape, pads, strides, p)


class GlobalLpPool(OpRun):
    op_domain = ""

    def _run(self, x, p=2):
        return ((np.abs(x) ** p).sum(tuple(range(2, x.ndim)), keepdims=True) ** (1 / p),)


class GlobalMaxPool(OpRun):
    op_domain = ""

    def _run(self, x):
        return (x.max(tuple(range(2, x.ndim)), keepdims=True),)


class MaxUnpool(OpRun):
    """As ONNX Runtime reads it: indices count the elements of the output that ``output_shape`` gives."""

    op_domain = ""

    def _run(self, x, indices, output_shape=None, kernel_shape=None, pads=None, strides=None):
        n = x.ndim - 2
        around = filled(pads, 2 * n, 0)
        size = (np.asarray(x.shape[2:]) - 1) * filled(strides, n, 1) + np.asarray(kernel_shape) - around[:n] - around[n:]
        y = np.zeros((*x.shape[:2], *size) if output_shape is None else output_shape, x.dtype)
        for where, value in zip(indices.ravel(), x.ravel(), strict=True):
            y.flat[where] = value
        return (y,)


WINDOWS = [Conv, ConvTranspose, AveragePool, LpPool, GlobalLpPool, GlobalMaxPool, MaxUnpool]
