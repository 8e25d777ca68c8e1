"""LRP rules in matrix form, in float64: the layer is a matrix W [units, inputs] and a bias b, its input and relevance are vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class Layer:
    """z = W a + b; ``mask`` tells which inputs a unit has at all."""

    W: Array
    b: Array
    a: Array
    mask: Array

    @property
    def z(self) -> Array:
        return self.W @ self.a + self.b


def sgn(z: Array) -> Array:
    return np.where(z >= 0, 1.0, -1.0)


def divided(r: Array, z: Array, epsilon: float = 0.0) -> Array:
    """r / (z + epsilon sgn z), 0 where the divisor is 0."""
    stable = z + epsilon * sgn(z)
    return np.divide(r, stable, out=np.zeros_like(r), where=stable != 0)


def plus(t: Array) -> Array:
    return np.maximum(t, 0)


def minus(t: Array) -> Array:
    return np.minimum(t, 0)


def epsilon(layer: Layer, r: Array, epsilon: float = 1e-6, bias: str = "absorb") -> Array:
    z = layer.z if bias != "ignore" else layer.W @ layer.a
    s = divided(r, z, epsilon)
    shares = (layer.W * layer.a) * s[:, None]
    if bias == "distribute":
        count = np.maximum(layer.mask.sum(1), 1)
        shares = shares + layer.mask * (layer.b * s / count)[:, None]
    return shares.sum(0)


def lrp_zero(layer: Layer, r: Array, bias: str = "absorb") -> Array:
    return epsilon(layer, r, 0.0, bias)


def alpha_beta(layer: Layer, r: Array, alpha: float = 2.0, beta: float = 1.0, bias: str = "absorb") -> Array:
    b = layer.b if bias == "absorb" else 0 * layer.b
    parts = layer.W * layer.a
    up, down = plus(parts), minus(parts)
    s = divided(alpha * r, up.sum(1) + plus(b))
    t = divided(beta * r, down.sum(1) + minus(b))
    return (up * s[:, None] - down * t[:, None]).sum(0)


def zplus(layer: Layer, r: Array, bias: str = "ignore", dead: str = "leak") -> Array:
    got = alpha_beta(layer, r, 1.0, 0.0, bias)
    if dead == "spread":
        total = plus(layer.W * layer.a).sum(1) + (plus(layer.b) if bias == "absorb" else 0)
        lost = np.where(total == 0, r, 0) / np.maximum(layer.mask.sum(1), 1)
        got = got + layer.mask.T @ lost
    return got


def gamma(layer: Layer, r: Array, gamma: float = 0.25, bias: str = "absorb") -> Array:
    b = layer.b if bias == "absorb" else 0 * layer.b
    parts = layer.W * layer.a
    up = parts + gamma * plus(parts)
    down = parts + gamma * minus(parts)
    high = layer.z >= 0
    s = divided(np.where(high, r, 0), up.sum(1) + b + gamma * plus(b))
    t = divided(np.where(high, 0, r), down.sum(1) + b + gamma * minus(b))
    return (up * s[:, None] + down * t[:, None]).sum(0)


def wsquare(layer: Layer, r: Array) -> Array:
    square = layer.W**2
    return square.T @ divided(r, square.sum(1))


def flat(layer: Layer, r: Array) -> Array:
    return layer.mask.T @ divided(r, layer.mask.sum(1))


def zbox(layer: Layer, r: Array, low: float = 0.0, high: float = 1.0) -> Array:
    parts = layer.W * layer.a - low * plus(layer.W) - high * minus(layer.W)
    return (parts * divided(r, parts.sum(1))[:, None]).sum(0)


def wplus(layer: Layer, r: Array, epsilon: float = 1e-5, bias: str = "ignore", ones: bool = False) -> Array:
    a = np.ones_like(layer.a) if ones else layer.a
    parts = plus(layer.W) * a
    total = parts.sum(1) + (layer.b if bias == "absorb" else 0) + epsilon
    return (parts * (r / total)[:, None]).sum(0)


def norm(layer: Layer, r: Array, epsilon: float = 1e-6) -> Array:
    parts = layer.W * layer.a
    return (parts * divided(r, parts.sum(1), epsilon)[:, None]).sum(0)


def gradient(layer: Layer, r: Array) -> Array:
    return layer.W.T @ r


TWINS: dict[str, Callable[..., Array]] = {
    f.__name__: f for f in (lrp_zero, epsilon, alpha_beta, zplus, gamma, wsquare, flat, zbox, wplus, norm, gradient)
}
"""Rules that cross a linear layer by its matrix."""


# ----- rules for other nodes: x are the values of all inputs, x0 those on a reference -----


def guided(r: Array, x: Array) -> list[Array]:
    return [np.where(x > 0, plus(r), 0)]


def deconvnet(r: Array, x: Array) -> list[Array]:
    return [plus(r)]


def pass_(r: Array, x: Array) -> list[Array]:
    return [r]


def through(r: Array, *xs: Array) -> list[Array]:
    return [r for _ in xs]


def split(r: Array, *xs: Array, how: str = "ratio", epsilon: float = 1e-6) -> list[Array]:
    if how == "signed":
        return [x * divided(r, sum(xs), epsilon) for x in xs]
    sizes = [np.abs(x) if how == "ratio" else np.ones_like(x) for x in xs]
    return [r * size / sum(sizes) for size in sizes]


def share(r: Array, *xs: Array, epsilon: float = 1e-6) -> list[Array]:
    y = np.prod(xs, axis=0)
    return [y * divided(r, len(xs) * y, epsilon) for _ in xs]


def meet(r: Array, data: Array, updates: Array, *, spots: Array, how: str = "ratio", epsilon: float = 1e-6) -> list[Array]:
    """Elements of ``updates`` are added to row i of ``data`` at the columns ``spots[i]``."""
    first, second = (x if how == "signed" else np.abs(x) if how == "ratio" else np.ones_like(x) for x in (data, updates))
    total = first.copy()
    np.add.at(total, (np.arange(len(spots))[:, None], spots), second)
    share = divided(r, total, epsilon) if how == "signed" else r / total
    return [first * share, second * np.take_along_axis(share, spots, axis=1)]


def as_average(r: Array, x: Array, epsilon: float = 1e-5) -> list[Array]:
    mean = x.reshape(*r.shape[:2], r.shape[2], 2, r.shape[3], 2).mean((3, 5))
    return [x / 4 * np.kron(r / (mean + epsilon), np.ones((2, 2)))]


def patterns(r: Array, x: Array, kernel: Array | None = None, times_weight: bool = False) -> list[Array]:
    return [r @ kernel]


def rescale(r: Array, x: Array, x0: Array, threshold: float = 1e-7) -> list[Array]:
    y, y0 = (1 / (1 + np.exp(-v)) for v in (x, x0))
    near = np.abs(x - x0) < threshold
    return [r * np.where(near, y * (1 - y), (y - y0) / np.where(near, 1, x - x0))]


def rescale_max(r: Array, x: Array, x0: Array, threshold: float = 1e-7) -> list[Array]:
    """One window over all of [1, 1, 1, K]."""
    m, top = r.item(), max(x.max(), x0.max())
    given = m * (top - x0.max()) * (x == x.max()) + m * (x.max() - top) * (x0 == x0.max())
    near = np.abs(x - x0) < threshold
    return [np.where(near, 0, given / np.where(near, 1, x - x0))]


def midpoint(r: Array, a: Array, b: Array, a0: Array, b0: Array) -> list[Array]:
    return [r * (b + b0) / 2, r * (a + a0) / 2]


def ratio(r: Array, x: Array) -> list[Array]:
    return [r * np.tanh(x) / x]


def uniform(r: Array, x0: Array, x1: Array) -> list[Array]:
    return [r * x1 / 2, r * x0 / 2]


def magnitudes(r: Array, x0: Array, x1: Array) -> list[Array]:
    return [r * np.sign(x) * (x0 + x1) / (np.abs(x0) + np.abs(x1)) for x in (x0, x1)]


def held(r: Array, x: Array) -> list[Array]:
    return [r / np.linalg.norm(x, axis=1, keepdims=True)]


OTHER_TWINS: dict[str, Callable[..., list[Array]]] = {
    f.__name__.rstrip("_"): f
    for f in (
        guided,
        deconvnet,
        pass_,
        through,
        split,
        share,
        meet,
        as_average,
        patterns,
        rescale,
        rescale_max,
        midpoint,
        ratio,
        uniform,
        held,
        magnitudes,
    )
}
