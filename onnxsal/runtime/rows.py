"""Do samples stay apart? A run before and after one of them changes tells what the graph alone does not prove."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import onnx

from onnxsal.errors import OnnxsalError
from onnxsal.large import Apart
from onnxsal.runtime.feeds import FeedChoice, accepted, feed_of, rows_of
from onnxsal.runtime.session import Array, Feed, Session, open_session

ROUNDING = 1e-6
"""Other rows may change by this share of the largest score: in two runs of the same sizes they are computed alike, to the last bit."""
COARSE = 0.1
"""With scales that are computed over a whole tensor, by this share of what the changed row does."""
WATCHED = 8
"""Rows that are changed, one after the other: all, or as many from both ends. A row may depend on later ones only, or on earlier ones."""


@dataclass(frozen=True)
class Observation:
    """Shapes of what was fed and of what came out; ``apart``: with a row of the inputs, only that row of the outputs changed.

    ``given`` tells that the model ran on data of the user's, not on random numbers; ``choice`` is what was chosen for the open rest.
    """

    shapes: Mapping[str, tuple[int, ...]]
    apart: bool
    choice: FeedChoice
    given: bool = False


def watch_rows(
    part: Apart,
    rows: Collection[str],
    sizes: Mapping[str, int] | None = None,
    batch: int = 3,
    example: Feed | None = None,
    choice: FeedChoice | None = None,
) -> Observation | None:
    """Run ``part`` on ``example``, or else on random input, then with one row of the inputs ``rows`` changed after the other; ``None``
    where it does not run.

    An open first dimension has ``batch`` rows, those of the example repeated; ``sizes`` gives other numbers of rows for some inputs.
    With ``choice`` no other is tried.
    """
    try:
        session = open_session(part).bounded(part)
    except OnnxsalError:
        return None
    model = part.light
    given = _given(model, example or {}, sizes or {}, batch)

    def attempt(tried: FeedChoice) -> tuple[FeedChoice, dict[str, Array], dict[str, Array], list[tuple[int, dict[str, Array]]]]:
        first, other = (_feed(model, seed, tried, sizes or {}, given) for seed in (0, 1))
        before, after = session.run(first), []
        for row in _watched(first, rows):
            changed = {name: _with_row(array, other[name], row) if name in rows else array for name, array in first.items()}
            after.append((row, session.run(changed)))
        return tried, first, before, after

    choices = tuple(FeedChoice(rows, factor, least) for rows in (batch, 2) for factor, least in ((1, 0), (4, 0), (1, 1)))
    try:
        ran, first, before, after = attempt(choice) if choice else accepted(model, attempt, choices)
    except OnnxsalError:
        return None
    shapes = {name: np.shape(array) for name, array in (*first.items(), *before.items())}
    coarse = any(node.op_type.startswith("DynamicQuantize") for node in model.graph.node)
    apart = all(_apart(before[n], now[n], row, coarse, partial(_again, session, first, n)) for row, now in after for n in before)
    return Observation(shapes, apart and bool(after or not rows), ran, bool(given))


def _again(session: Session, feed: Feed, name: str) -> Array:
    return session.run(feed, [name])[name]


def _watched(feed: Mapping[str, Array], rows: Collection[str]) -> list[int]:
    """The rows that are changed, one after the other."""
    count = min((len(feed[name]) for name in rows if np.ndim(feed[name])), default=0)
    return list(range(count)) if count <= WATCHED else [*range(WATCHED // 2), *range(count - WATCHED // 2, count)]


def _given(model: onnx.ModelProto, example: Feed, sizes: Mapping[str, int], batch: int) -> dict[str, Array]:
    """The example's inputs with as many rows as are asked for where the first dimension is open."""
    found = {}
    for value in model.graph.input:
        if value.name in example:
            dims, array = value.type.tensor_type.shape.dim, np.asarray(example[value.name])
            leads = bool(dims) and not dims[0].HasField("dim_value")
            found[value.name] = rows_of(array, sizes.get(value.name, batch)) if leads else array
    return found


def _feed(model: onnx.ModelProto, seed: int, choice: FeedChoice, sizes: Mapping[str, int], given: Feed) -> dict[str, Array]:
    feed = feed_of(model, choice, seed, given)
    if seed:  # another row for each that is given: noise of its own size on numbers, its values in another order elsewhere
        rng = np.random.default_rng(seed)
        for name, array in given.items():
            noise = rng.standard_normal(array.shape) * (np.std(array.astype(np.float64)) or 1.0) if array.dtype.kind == "f" else None
            feed[name] = rng.permuted(array.reshape(-1)).reshape(array.shape) if noise is None else (array + noise).astype(array.dtype)
    return {name: np.resize(a, (sizes[name], *a.shape[1:])) if name in sizes else a for name, a in feed.items()}


def _with_row(array: Array, other: Array, row: int) -> Array:
    return np.concatenate([array[:row], other[row : row + 1], array[row + 1 :]]) if np.ndim(array) else array


def _apart(before: Array, after: Array, row: int, coarse: bool, again: Callable[[], Array]) -> bool:
    """Whether the other rows kept still; what a model with random numbers of its own changes by itself does not count."""
    if before.shape != after.shape or not before.ndim or len(before) < 2:
        return before.shape == after.shape and before.ndim > 0
    if row >= len(before):
        return False
    own, rest = _change(before[row : row + 1], after[row : row + 1]), np.arange(len(before)) != row
    others = _change(before[rest], after[rest])
    size = float(np.max(np.abs(before), initial=0.0, where=np.isfinite(before)))
    if others <= max(COARSE * own if coarse else 0.0, ROUNDING * size):
        return True
    return others <= 3 * _change(before[rest], again()[rest])


def _change(before: Array, after: Array) -> float:
    """The largest difference; infinite where one is NaN or infinite and the other is not."""
    finite = np.isfinite(before)
    if not np.array_equal(before[~finite], after[~finite], equal_nan=True) or not np.isfinite(after[finite]).all():
        return float("inf")
    return float(np.max(np.abs(after[finite].astype(np.float64) - before[finite].astype(np.float64)), initial=0.0))
