"""What patterns are computed from: sums over all samples, made batch by batch in the graph, and the estimators in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxsal.facts.linear_layers import LinearLayer
from onnxsal.graph import Emit, Value
from onnxsal.graph.adjoints import calc, crop_or_pad, reshape_parts
from onnxsal.ops.windows import Window, correlate, window_of

ESTIMATORS = ("linear", "positive", "negative")

LEARNED, FROM_LINEAR, FROM_FILTER, ZERO = range(4)
"""Where a unit's pattern comes from: the data, else the linear pattern, else its filter w / |w|^2, else (no weights) nothing."""

NOISE = 1e-6
"""Sums made in float32 say nothing about a covariance smaller than this against the mean products that it is the difference of."""

SINGULAR = 1e-8
"""|w'n| below this against |w| |n|: the pattern n / w'n would explode."""


MANY_CHANNELS = 8
"""From this many channels on, products as wide as the channels are faster than products as wide as the kernel has taps."""


@dataclass
class LayerSums:
    """Per group of a layer, for its o units and d inputs: rows of sum y x, sum max(y, 0) x, sum 1[y > 0] x (o each), then sum x.

    ``products`` [groups, taps, 3 o + 1, d / taps] as the graph returns them: for each place in the kernel the channels that lie there.
    ``totals`` [groups, 3 o + 1]: the same without x, which is sum y, sum max(y, 0), the samples with y > 0 (o each), all samples.
    """

    products: np.ndarray
    totals: np.ndarray

    @classmethod
    def empty(cls, layer: LinearLayer) -> LayerSums:
        """Nothing seen yet."""
        rows, taps = 3 * (layer.units // layer.groups) + 1, _taps(layer)
        return cls(np.zeros((layer.groups, taps, rows, layer.inputs // taps)), np.zeros((layer.groups, rows)))

    def add(self, products: np.ndarray, totals: np.ndarray) -> None:
        """One batch, as the graph returns it."""
        self.products += products.reshape(self.products.shape)
        self.totals += totals.astype(np.float64).sum(0).reshape(self.totals.shape)

    def by_row(self) -> np.ndarray:
        """The products [groups, 3 o + 1, d], inputs in the order of the weight."""
        groups, _, rows, _ = self.products.shape
        return self.products.transpose(0, 2, 3, 1).reshape(groups, rows, -1)

    @property
    def nbytes(self) -> int:
        return self.products.nbytes + self.totals.nbytes


def _channels(layer: LinearLayer) -> int:
    """Channels that each unit of a convolution sees."""
    return layer.node.input(1).dim(1) or 0


def _taps(layer: LinearLayer) -> int:
    """How many products the sums are made by: one for each place in the kernel where channels are many, else a single one."""
    by_tap = layer.kind.slides and layer.groups == 1 and _channels(layer) >= MANY_CHANNELS
    return layer.inputs // _channels(layer) if by_tap else 1


def emit_sums(op: Emit, layer: LinearLayer) -> tuple[Value, Value]:
    """The layer's ``LayerSums`` over one batch: products in the order of ``LayerSums.products``, totals [samples or 1, groups * (3 o + 1)].

    For a Conv the sum over all windows of x times y is the correlation of the layer's input with its output: one more convolution, or
    with many channels one product of matrices, 10 to 30 times faster, for each place in the kernel.
    """
    node = layer.node
    with op.at(node):
        if layer.kind.slides and layer.groups == 1 and _channels(layer) >= MANY_CHANNELS:
            rows = op.Reshape(op.Transpose(layer.y, perm=[1, 0, *range(2, layer.y.rank)]), [layer.units, -1])
            small = _with_masks(op, rows, 0)
            totals = op.Unsqueeze(op.ReduceSum(small, [1], keepdims=0), [0])
            return _tap_by_tap(op, node.x, _channels(layer), small, window_of(op, node)), totals
        if layer.kind.slides:
            small, window = _beside_each_other(op, layer), window_of(op, node)
            totals = op.ReduceSum(small, list(range(2, layer.y.rank)), keepdims=0)
            return op.Flatten(correlate(op, node.x, small, node.input(1), window, layer.groups), axis=1), totals
        small = _with_masks(op, op.Reshape(layer.y, [-1, layer.units]), 1)
        return op.Gemm(small, op.Reshape(node.x, [-1, layer.inputs]), transA=1), op.ReduceSum(small, [0], keepdims=1)


def _tap_by_tap(op: Emit, x: Value, channels: int, small: Value, window: Window) -> Value:
    """The correlation [taps * rows, channels] of x with ``small`` [rows, windows], whose windows are those of all samples."""
    kernel = window.kernel
    assert isinstance(kernel, np.ndarray)  # the weight is a constant
    axes = list(window.axes)
    first = op.Transpose(x, perm=[1, 0, *axes])
    first = crop_or_pad(op, first, window.begin, window.end, axes, window.rank)
    reach = calc(op).Add(calc(op).Mul(calc(op).Sub(window.small, 1), window.strides), 1)
    whole = bool(np.all(kernel == 1) and np.all(np.asarray(window.strides) == 1))
    found = []
    for tap in np.ndindex(*kernel):
        begin = np.asarray(tap, np.int64) * window.dilations
        seen = first if whole else op.Slice(first, begin, calc(op).Add(reach, begin), axes, window.strides)
        found.append(op.Gemm(small, op.Reshape(seen, [channels, -1]), transB=1))
    return op.Concat(*found, axis=0) if len(found) > 1 else found[0]


def _with_masks(op: Emit, y: Value, axis: int) -> Value:
    """y, max(y, 0), 1[y > 0] and one line of ones side by side along the axis that counts units."""
    positive = op.Greater(y, 0.0)
    first = op.Slice(positive, [0], [1], [axis])
    ones = op.Cast(op.Or(first, op.Not(first)), to=op.dtype)
    return op.Concat(y, op.Relu(y), op.Cast(positive, to=op.dtype), ones, axis=axis)


def _beside_each_other(op: Emit, layer: LinearLayer) -> Value:
    """The same of a convolution's result, per group: [N, groups * (3 o + 1), *spatial]."""
    y, groups, own = layer.y, layer.groups, layer.units // layer.groups
    if groups == 1:
        return _with_masks(op, y, 1)
    joined = _with_masks(op, op.Reshape(y, [0, groups, own, -1]), 2)
    return reshape_parts(op, joined, [(y, 0), groups * (3 * own + 1), *((y, a) for a in range(2, y.rank))])


@dataclass(frozen=True)
class Estimates:
    """The patterns of a layer's units as rows [units, inputs], by estimator; where each comes from; how often each unit was active."""

    rows: dict[str, np.ndarray]
    origin: dict[str, np.ndarray]
    active: np.ndarray
    samples: int


def estimate(weights: np.ndarray, sums: LayerSums) -> Estimates:
    """The linear and the two-component estimator of each unit with ``weights`` [units, inputs] (Kindermans et al. 2017).

    ``a = n / w'n`` with ``n = E[x y] - E[x] E[y]`` for the linear one, and ``n = E+[x y] - E+[x] E[y]`` for a+ (E+: the mean over
    the samples with y > 0; E[y] over all), likewise a-. So w'a = 1. A unit with fewer than two samples, or whose n cannot be told
    from rounding, takes the linear pattern, else its filter.
    """
    units, inputs = weights.shape
    own = sums.totals.shape[1] // 3
    products = sums.by_row()
    xy, xy_up, x_up = (products[:, i * own : (i + 1) * own].reshape(units, inputs) for i in range(3))
    y, n_up = (sums.totals[:, i * own : (i + 1) * own].reshape(units) for i in (0, 2))
    n = float(sums.totals[0, -1])
    x = np.repeat(products[:, -1], own, axis=0)
    mean = y / max(n, 1)
    spare, spare_from = _filters(weights)
    rows, origin = {}, {}
    for name, (joint, single, count) in {
        "linear": (xy, x, np.full(units, n)),
        "positive": (xy_up, x_up, n_up),
        "negative": (xy - xy_up, x - x_up, n - n_up),
    }.items():
        rows[name], learned = _pattern(weights, joint, single, count, mean)
        origin[name] = np.where(learned, LEARNED, spare_from).astype(np.uint8)
        rows[name] = np.where(learned[:, None], rows[name], spare)
        if name == "linear":
            spare, spare_from = rows[name], np.where(origin[name] == LEARNED, FROM_LINEAR, origin[name])
    return Estimates(rows, origin, np.rint(n_up).astype(np.int64), round(n))


def _pattern(weights: np.ndarray, xy: np.ndarray, x: np.ndarray, count: np.ndarray, mean: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """n / w'n, and for which units that can be trusted."""
    most = np.maximum(count, 1)[:, None]
    products, means = xy / most, x / most * mean[:, None]
    n = products - means
    wn = (weights * n).sum(1)
    size, length = np.linalg.norm(n, axis=1), np.linalg.norm(weights, axis=1)
    noise = NOISE * (np.linalg.norm(products, axis=1) + np.linalg.norm(means, axis=1))
    learned = (count >= 2) & (size > noise) & (np.abs(wn) > length * np.maximum(SINGULAR * size, noise))
    return n / np.where(learned, wn, 1.0)[:, None], learned


def _filters(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """w / |w|^2 per unit, for which w'a = 1 too."""
    squares = (weights**2).sum(1)
    return weights / np.where(squares > 0, squares, 1.0)[:, None], np.where(squares > 0, FROM_FILTER, ZERO)
