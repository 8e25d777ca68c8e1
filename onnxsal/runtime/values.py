"""What values a tensor takes in runs: what the graph does not prove of a probability, a look at it can show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from onnxsal.errors import OnnxsalError
from onnxsal.large import Apart
from onnxsal.runtime.feeds import FeedChoice, accepted, feed_of
from onnxsal.runtime.probe import ENOUGH
from onnxsal.runtime.session import Array, Feed, open_session

SCALES = (1.0, -8.0, 64.0, -1000.0)
"""Random floats are multiplied by each: scores without a bound grow with the input and leave 0..1, probabilities do not."""

SMALL = 6
"""A model fed with little is run this many times with each: few scores may lie between 0 and 1 by chance."""

SLACK = 1e-3
"""How far rounding (half precision, a grid of 8 bits) may carry a probability past 0 and 1."""

SUM_SLACK = 0.02
"""How far a sum of probabilities may lie from 1: each is rounded, on a grid to 1/256."""


@dataclass(frozen=True)
class Values:
    """Smallest and largest value that a tensor took in ``runs`` runs, and the axis along which it summed to 1 in all (``None``: none)."""

    low: float
    high: float
    runs: int
    sums: int | None = None

    @property
    def bounded(self) -> bool:
        """Whether all values lay between 0 and 1."""
        return self.low >= -SLACK and self.high <= 1 + SLACK

    def __str__(self) -> str:
        sums = "" if self.sums is None else f", with a sum of 1 along axis {self.sums}"
        return f"{self.low:.3g} to {self.high:.3g} in {self.runs} runs{sums}"


def watch_values(model: Apart, feed: Feed | None = None) -> Values | None:
    """The values of ``model``'s one output on ``feed``, if one is given, and on random input of several sizes of numbers.

    ``None`` where the model runs on none of them with a finite result.
    """
    try:
        session = open_session(model).bounded(model)
    except OnnxsalError:
        return None
    (name,) = [o.name for o in model.light.graph.output]
    found = [y for one in _feeds(model.light, feed, session.run) if (y := one[name]).size and np.isfinite(y).all()]
    if not found:
        return None
    axes = [a for a in range(found[0].ndim) if all(y.ndim == found[0].ndim and _sums_to_one(y, a) for y in found)]
    least, most = min(float(y.min()) for y in found), max(float(y.max()) for y in found)
    return Values(least, most, len(found), axes[-1] if axes else None)


def _feeds(model: onnx.ModelProto, feed: Feed | None, run: Callable[[Feed], dict[str, Array]]) -> Iterator[dict[str, Array]]:
    """What comes out for the given feed and for random ones, in the first sizes that the model accepts."""
    given = {k: v for k, v in (feed or {}).items() if k in {i.name for i in model.graph.input}}

    def attempt(choice: FeedChoice) -> list[dict[str, Array]]:
        first = feed_of(model, choice, 0, given)
        count = len(SCALES) * (SMALL if sum(np.size(a) for a in first.values()) < ENOUGH else 1)
        scaled = (_times(feed_of(model, choice, seed, given), SCALES[seed % len(SCALES)]) for seed in range(count))
        return [*([run(first)] if given else []), *(run(one) for one in scaled)]

    try:
        yield from accepted(model, attempt)
    except OnnxsalError:
        return


def _times(feed: Feed, scale: float) -> dict[str, Array]:
    return {k: (v * scale).astype(v.dtype) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v for k, v in feed.items()}


def _sums_to_one(y: Array, axis: int) -> bool:
    return y.shape[axis] > 1 and bool(np.all(np.abs(y.astype(np.float64).sum(axis) - 1) <= SUM_SLACK))
