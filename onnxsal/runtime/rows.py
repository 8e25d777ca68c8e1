"""Do samples stay apart? A run before and after one of them changes tells what the graph alone does not prove."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from onnxsal.errors import OnnxsalError
from onnxsal.runtime.feeds import Choice, accepted, feed_of, rows_of
from onnxsal.runtime.session import Array, Feed, Session, open_session

ROUNDING = 1e-3
"""Other samples may change by this share of what the changed one does; with scales that are computed over a whole tensor by ``COARSE``."""
COARSE = 0.1


@dataclass(frozen=True)
class Seen:
    """Shapes of what was fed and of what came out; ``apart``: only row 0 of the outputs changed with row 0 of the inputs.

    ``given`` tells that the model ran on data of the user's, not on random numbers.
    """

    shapes: Mapping[str, tuple[int, ...]]
    apart: bool
    given: bool = False


def watch_rows(
    model: onnx.ModelProto,
    rows: Collection[str],
    sizes: Mapping[str, int] | None = None,
    batch: int = 2,
    example: Feed | None = None,
) -> Seen | None:
    """Run ``model`` on ``example``, or else on random input, change row 0 of each of the inputs ``rows``, run again; ``None`` where
    it does not run.

    An open first dimension has ``batch`` rows, those of the example repeated; ``sizes`` gives other numbers of rows for some inputs.
    """
    try:
        session = open_session(model)
    except OnnxsalError:
        return None
    given = _given(model, example or {}, sizes or {}, batch)

    def attempt(choice: Choice) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
        first, other = (_feed(model, seed, choice, sizes or {}, given) for seed in (0, 1))
        before = session.run(first)
        changed = {name: _with_first(array, other[name]) if name in rows else array for name, array in first.items()}
        return first, before, session.run(changed)

    choices = tuple(Choice(batch, factor, least) for factor, least in ((1, 0), (4, 0), (1, 1)))
    try:
        first, before, after = accepted(model, attempt, choices)
    except OnnxsalError:
        return None
    shapes = {name: np.shape(array) for name, array in (*first.items(), *before.items())}
    coarse = any(node.op_type.startswith("DynamicQuantize") for node in model.graph.node)
    apart = all(_apart(before[n], after[n], COARSE if coarse else ROUNDING, session, first, n) for n in before)
    return Seen(shapes, apart, bool(given))


def _given(model: onnx.ModelProto, example: Feed, sizes: Mapping[str, int], batch: int) -> dict[str, Array]:
    """The example's inputs with as many rows as are asked for where the first dimension is open."""
    found = {}
    for value in model.graph.input:
        if value.name in example:
            dims, array = value.type.tensor_type.shape.dim, np.asarray(example[value.name])
            leads = bool(dims) and not dims[0].HasField("dim_value")
            found[value.name] = rows_of(array, sizes.get(value.name, batch)) if leads else array
    return found


def _feed(model: onnx.ModelProto, seed: int, choice: Choice, sizes: Mapping[str, int], given: Feed) -> dict[str, Array]:
    feed = feed_of(model, choice, seed, given)
    if seed:  # another row for each that is given: noise of its own size on numbers, its values in another order elsewhere
        rng = np.random.default_rng(seed)
        for name, array in given.items():
            noise = rng.standard_normal(array.shape) * (np.std(array.astype(np.float64)) or 1.0) if array.dtype.kind == "f" else None
            feed[name] = rng.permuted(array.reshape(-1)).reshape(array.shape) if noise is None else (array + noise).astype(array.dtype)
    return {name: np.resize(a, (sizes[name], *a.shape[1:])) if name in sizes else a for name, a in feed.items()}


def _with_first(array: Array, other: Array) -> Array:
    return np.concatenate([other[:1], array[1:]]) if array.ndim else array


def _apart(before: Array, after: Array, share: float, session: Session, feed: Mapping[str, Array], name: str) -> bool:
    """Whether the rows from the second on kept still; what a model with random numbers of its own changes by itself does not count."""
    if before.shape != after.shape or not before.ndim or len(before) < 2:
        return before.shape == after.shape and before.ndim > 0
    own, others = _change(before[:1], after[:1]), _change(before[1:], after[1:])
    if others <= max(share * own, 1e-6 * float(np.max(np.abs(before), initial=0.0, where=np.isfinite(before)))):
        return True
    return others <= 3 * _change(before[1:], session.run(feed, [name])[name][1:])


def _change(before: Array, after: Array) -> float:
    """The largest difference; infinite where one is NaN or infinite and the other is not."""
    finite = np.isfinite(before)
    if not np.array_equal(before[~finite], after[~finite], equal_nan=True) or not np.isfinite(after[finite]).all():
        return float("inf")
    return float(np.max(np.abs(after[finite].astype(np.float64) - before[finite].astype(np.float64)), initial=0.0))
