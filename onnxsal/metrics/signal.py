"""Signal quality: how much of what a unit computes an estimator of its signal leaves behind in the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict, Unpack

import numpy as np
import onnx

from onnxsal.ask.guard import plain_model
from onnxsal.ask.request import Ask
from onnxsal.errors import InputError, MethodError, near_miss
from onnxsal.facade.fit_patterns import BATCH, FitProgress, preprocess_for
from onnxsal.facts.linear_layers import LinearLayer
from onnxsal.graph import Emit, Model
from onnxsal.graph.assemble import Port, assemble
from onnxsal.graph.load import Source, load_model
from onnxsal.methods.patterns.file import LayerPatterns, Patterns, load_patterns, named_layers, patterns_for
from onnxsal.ops.apart import keep_apart
from onnxsal.runtime.data import Data, open_data
from onnxsal.runtime.data import Source as DataSource
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.providers import Providers
from onnxsal.runtime.session import Session, open_session

ESTIMATORS = ("random", "filter", "linear", "two-component")
RIDGE = 1e-6
MOST_INPUTS = 4096
"""Layers whose units have more inputs than this are left out: the covariance of their inputs would not fit."""


class SignalOptions(TypedDict, total=False):
    """The fields of ``SignalSettings``, and how the model is run and fed, as keywords."""

    preprocess: Preprocess | str | os.PathLike[str] | None
    layers: Sequence[str] | None
    estimators: Sequence[str]
    units: int
    patches: int
    batch_size: int
    seed: int
    providers: Providers


@dataclass(frozen=True)
class SignalSettings:
    """What ``signal_quality`` can be told beside how the model is run. Raises ``MethodError`` for an estimator that is not known."""

    layers: Sequence[str] | None = None
    estimators: Sequence[str] = ESTIMATORS
    units: int = 32
    patches: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if unknown := [e for e in self.estimators if e not in ESTIMATORS]:
            raise MethodError(f"unknown estimator '{unknown[0]}'{near_miss(unknown[0], ESTIMATORS)}; known: {', '.join(ESTIMATORS)}.")


@dataclass(frozen=True)
class LayerQuality:
    """``rho`` per estimator and examined unit (NaN: the unit is constant on the data). ``units`` are their numbers.

    ``samples`` counts the input vectors v was found on and the ones rho was computed on; with fewer of the first than a few times
    ``inputs``, v is overfitted and every rho too good.
    """

    node: str
    rho: dict[str, np.ndarray]
    units: np.ndarray
    inputs: int
    samples: tuple[int, int]

    def mean(self, estimator: str) -> float:
        """Over the units that are not constant; NaN where there are none."""
        values = self.rho[estimator][np.isfinite(self.rho[estimator])]
        return float(values.mean()) if values.size else float("nan")


@dataclass(frozen=True)
class SignalQuality:
    """rho of each layer by the name of its weight, and the layers left out with the reason."""

    layers: dict[str, LayerQuality]
    skipped: dict[str, str] = field(default_factory=dict)

    def means(self) -> dict[str, dict[str, float]]:
        """Layer -> estimator -> mean rho."""
        return {name: {e: layer.mean(e) for e in layer.rho} for name, layer in self.layers.items()}


def signal_quality(
    model: Source,
    patterns: Patterns | str | os.PathLike[str],
    solve: DataSource,
    score: DataSource,
    *,
    progress: FitProgress | None = None,
    **options: Unpack[SignalOptions],
) -> SignalQuality:
    """``rho(S) = 1 - max_v corr(w'x, v'(x - S(x)))`` per layer and unit: 1 is best, nothing of y is left in the rest. Range [0, 1].

    Three disjoint splits of the data: ``patterns`` were learned on the first, v is solved for in closed form on ``solve``
    ((cov(d) + lambda I) v = cov(d, y), lambda = 1e-6 tr cov(d) / D), the correlation is computed on ``score``. Estimators: random
    u (w'u)^-1 y, filter w (w'w)^-1 y, linear a y, two-component a+ y where the unit is active and a- y where not. (The identity S(x) = x
    leaves no rest, so its rho is not defined.) At most ``units`` (default: 32) units of each layer are examined, and
    ``patches`` (16) positions of each sample, drawn with ``seed``; ``layers``: those of these weights only. On the data they were learned
    from, linear and two-component patterns both leave no covariance between d and y, so elsewhere they differ only by how well that
    carries over. Kindermans et al. 2017, arXiv 1705.05598.
    """
    run: dict[str, Any] = {k: v for k, v in options.items() if k in ("batch_size", "providers")}
    ask = Ask.of(model, preprocess=preprocess_for(model, options.get("preprocess")), **run)
    own: dict[str, Any] = {k: v for k, v in options.items() if k not in (*run, "preprocess")}
    return signals(ask, load_patterns(patterns), (solve, score), SignalSettings(**own), progress)


def signals(
    ask: Ask, learned: Patterns, splits: tuple[DataSource, DataSource], how: SignalSettings, progress: FitProgress | None = None
) -> SignalQuality:
    """As ``signal_quality``, of a request; ``splits``: what v is solved for on, and what the correlation is computed on."""
    plain = plain_model(load_model(ask.model))
    chosen, skipped = _chosen(named_layers(plain), learned, how.layers)
    known_patterns = patterns_for(learned, chosen, "signal_quality")
    rng = np.random.default_rng(how.seed)
    picked = {n: np.sort(rng.permutation(layer.units)[: how.units]) for n, layer in chosen.items()}
    session = open_session(_with_layers(plain, list(chosen.values())), ask.resolved, threads=ask.threads)
    moments = []
    for split in splits:
        found = {n: Moments(layer, picked[n]) for n, layer in chosen.items()}
        reader = open_data(split, session.inputs, ask.preprocess)
        done = 0
        for length, values in _runs(session, reader, ask.batch_size or BATCH, len(chosen)):
            for i, (n, layer) in enumerate(chosen.items()):
                found[n].add(*samples_of(layer, values[f"{_NAME}/{i}/x"], values[f"{_NAME}/{i}/y"], how.patches, rng))
            done += length
            if progress is not None:
                progress(done, reader.count)
        moments.append(found)
    quality = {n: _quality(layer, known_patterns[n], moments[0][n], moments[1][n], how.estimators, rng) for n, layer in chosen.items()}
    return SignalQuality(quality, skipped)


def _chosen(
    every: dict[str, LinearLayer], learned: Patterns, layers: Sequence[str] | None
) -> tuple[dict[str, LinearLayer], dict[str, str]]:
    """The layers that are examined, and those that are left out with the reason."""
    if unknown := [n for n in layers or () if n not in every]:
        raise InputError(f"no linear layer is called '{unknown[0]}'{near_miss(unknown[0], every)}; known: {', '.join(every)}.")
    wanted = {n: layer for n, layer in every.items() if n in (learned.layers if layers is None else layers)}
    skipped = {n: f"{layer.inputs} inputs per unit" for n, layer in wanted.items() if layer.inputs > MOST_INPUTS}
    return {n: layer for n, layer in wanted.items() if n not in skipped}, skipped


def _runs(session: Session, reader: Data, batch_size: int, count: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """(samples, the added outputs of ``count`` layers) batch by batch; what a fixed batch does not hold is left out at the end."""
    shape = session.inputs[0].shape
    size = shape[0] if shape and isinstance(shape[0], int) else batch_size
    for batch in reader.batches(size):
        length = len(next(iter(batch.values())))
        if length < size and size != batch_size:
            break
        yield length, session.run(batch, [f"{_NAME}/{i}/{end}" for i in range(count) for end in "xy"])


# ----- the inputs of units -----

_NAME = "onnxsal/signal"


def _with_layers(model: Model, layers: Sequence[LinearLayer]) -> onnx.ModelProto:
    """The model with each layer's input and result as outputs, at least in float32."""
    op, ports = Emit(model), []
    for i, layer in enumerate(layers):
        with op.at(layer.node):
            for end, value in (("x", layer.node.x), ("y", layer.y)):
                shape = tuple(None for _ in value.shape or ())
                ports.append(Port(op.Identity(value, name=f"{_NAME}/{i}/{end}"), op.dtype, shape))
    return keep_apart(assemble(model, op, [], ports), op.prefix)


def samples_of(layer: LinearLayer, x: np.ndarray, y: np.ndarray, most: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Inputs [samples, groups, inputs of a unit] and results [samples, units], at ``most`` positions of each element of the batch."""
    if not layer.kind.slides:
        rows, results = x.reshape(-1, layer.inputs), y.reshape(-1, layer.units)
        if x.ndim > 2:
            keep = rng.permutation(len(rows))[: most * len(x)]
            rows, results = rows[keep], results[keep]
        return rows[:, None], results
    node, spatial = layer.node, y.ndim - 2
    kernel = (node.input(1).static or ())[2:]
    strides, dilations = node.attr("strides") or [1] * spatial, node.attr("dilations") or [1] * spatial
    padded = np.pad(x, [(0, 0), (0, 0), *_padding(layer, x.shape[2:], y.shape[2:], kernel, strides, dilations)])
    count = int(np.prod(y.shape[2:]))
    take = min(most, count)
    where = np.stack([rng.permutation(count)[:take] for _ in range(len(x))])
    places = np.unravel_index(where.ravel(), y.shape[2:])
    batch = np.repeat(np.arange(len(x)), take)
    index = [(p * s)[:, None] + (np.arange(k) * d)[None] for p, s, k, d in zip(places, strides, kernel, dilations, strict=True)]
    grids = [v.reshape(len(batch), 1, *[-1 if a == axis else 1 for a in range(spatial)]) for axis, v in enumerate(index)]
    lead = (len(batch), 1, *[1] * spatial)
    channels = np.arange(x.shape[1]).reshape(1, -1, *[1] * spatial)
    rows = padded[(batch.reshape(lead), channels, *grids)]
    return rows.reshape(len(batch), layer.groups, -1), np.moveaxis(y, 1, -1)[(batch, *places)]


def _padding(
    layer: LinearLayer,
    large: Sequence[int],
    small: Sequence[int],
    kernel: Sequence[object],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[tuple[int, int]]:
    """(before, after) per spatial axis, after filled up to what the last window needs."""
    mode, spatial = layer.node.attr("auto_pad", "NOTSET"), len(large)
    given = layer.node.attr("pads") or [0] * (2 * spatial)
    pads = []
    for i, (full, out, k, s, d) in enumerate(zip(large, small, kernel, strides, dilations, strict=True)):
        assert isinstance(k, int)
        need = (out - 1) * s + (k - 1) * d + 1
        total = max(need - full, 0)
        before = {"SAME_UPPER": total // 2, "SAME_LOWER": total - total // 2, "VALID": 0}.get(mode, given[i])
        pads.append((before, max(need - full - before, 0)))
    return pads


# ----- moments and rho -----


class Moments:
    """Means and covariances of a layer's inputs x, and with p = y 1[active] and q = y 1[inactive] of some of its units (y = w'x)."""

    def __init__(self, layer: LinearLayer, units: np.ndarray) -> None:
        self.units = units
        self.group = units // (layer.units // layer.groups)
        self.weights = layer.weights[units]
        inputs = layer.inputs
        self.count = 0
        self.xx = np.zeros((layer.groups, inputs, inputs))
        self.x = np.zeros((layer.groups, inputs))
        self.xpq = np.zeros((2, len(units), inputs))
        self.pq = np.zeros((2, len(units)))
        self.squares = np.zeros((2, len(units)))

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Inputs [samples, groups, inputs] and results of every unit [samples, units]; the results only say which units are active."""
        x, picked = x.astype(np.float64), y[:, self.units]
        self.count += len(x)
        self.x += x.sum(0)
        for g in range(x.shape[1]):
            self.xx[g] += x[:, g].T @ x[:, g]
        for g in np.unique(self.group):
            own = np.flatnonzero(self.group == g)
            value = x[:, g] @ self.weights[own].T
            for part, mask in enumerate((picked[:, own] > 0, picked[:, own] <= 0)):
                masked = value * mask
                self.xpq[part, own] += masked.T @ x[:, g]
                self.pq[part, own] += masked.sum(0)
                self.squares[part, own] += (masked**2).sum(0)

    def of(self, i: int, up: np.ndarray, down: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """cov(d), cov(d, y), var(y) of the i-th unit, for d = x - up p - down q."""
        n, g = max(self.count, 1), self.group[i]
        x, p, q = self.x[g] / n, self.pq[0, i] / n, self.pq[1, i] / n
        cov = self.xx[g] / n - np.outer(x, x)
        xp, xq = self.xpq[0, i] / n - x * p, self.xpq[1, i] / n - x * q
        pp, qq, pq = self.squares[0, i] / n - p * p, self.squares[1, i] / n - q * q, -p * q
        half = np.outer(up, xp) + np.outer(down, xq) - np.outer(up, down) * pq
        spread = cov - half - half.T + np.outer(up, up) * pp + np.outer(down, down) * qq
        return spread, xp + xq - up * (pp + pq) - down * (qq + pq), float(pp + qq + 2 * pq)


def _quality(
    layer: LinearLayer, learned: LayerPatterns, solve: Moments, score: Moments, estimators: Sequence[str], rng: np.random.Generator
) -> LayerQuality:
    if not solve.count or not score.count:
        raise InputError("signal quality needs data to solve for v on, and other data to compute it on; one of them is empty.")
    signals = {e: signal_of(e, layer, learned, rng) for e in estimators}
    rho = {e: np.array([rho_of(solve, score, i, up[u], down[u]) for i, u in enumerate(solve.units)]) for e, (up, down) in signals.items()}
    return LayerQuality(layer.node.name, rho, solve.units, layer.inputs, (solve.count, score.count))


def signal_of(estimator: str, layer: LinearLayer, learned: LayerPatterns, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """S(x) = up y where a unit is active and down y where not, as rows [units, inputs]."""
    w = layer.weights
    if estimator == "two-component":
        return layer.rows(learned.patterns["positive"]), layer.rows(learned.patterns["negative"])
    if estimator == "linear":
        row = layer.rows(learned.patterns["linear"])
    else:
        u = w if estimator == "filter" else rng.standard_normal(w.shape)
        along = (w * u).sum(1, keepdims=True)
        row = u / np.where(along == 0, 1.0, along)
    return row, row


def rho_of(solve: Moments, score: Moments, i: int, up: np.ndarray, down: np.ndarray) -> float:
    """rho of the i-th unit; NaN where its y is constant."""
    spread, shared, _ = solve.of(i, up, down)
    held_spread, held_shared, variance = score.of(i, up, down)
    if variance <= 1e-12 * (score.squares[:, i].sum() / score.count + 1e-300):
        return float("nan")
    ridge = RIDGE * np.trace(spread) / len(spread)
    if ridge <= 0:
        return 1.0
    v = np.linalg.solve(spread + ridge * np.eye(len(spread)), shared)
    rest = float(v @ held_spread @ v)
    if rest <= 0:
        return 1.0
    return 1.0 - float(np.clip(v @ held_shared / np.sqrt(variance * rest), 0.0, 1.0))
