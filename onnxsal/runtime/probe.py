"""Before and after: what guards a pass that rewrites the forward part of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from onnxsal.errors import ExampleNeeded, InputError, ModelError, OnnxsalError
from onnxsal.large import Apart, apart
from onnxsal.runtime.feeds import FeedChoice, accepted, fed_inputs, feed_of
from onnxsal.runtime.session import Feed, has_loop, open_session
from onnxsal.untrusted import library_text

ENOUGH = 10_000
"""Random numbers that exercise a model: a picture's worth. A model fed with fewer is run a second time."""


def compare_models(
    before: onnx.ModelProto | Apart, after: onnx.ModelProto, feeds: Feed | Iterable[Feed] | None = None, example: Feed | None = None
) -> float:
    """The largest relative difference of ``before``'s outputs in ``after``: max |b - a| / max |a|, per output tensor.

    0.0 is bit-identical (NaN equal to NaN); ``inf`` is a tensor that changed its shape or type or has NaN or infinity in other
    places. Without ``feeds`` random ones are drawn, but for the inputs in ``example``. Both run unoptimised; an old model for which
    ONNX Runtime has no kernels runs in ONNX's reference evaluator. Raises ``ExampleNeeded`` where the model runs on no random feed,
    ``InputError`` where it does not run on the example.
    """
    before = before if isinstance(before, Apart) else apart(before)
    names = [o.name for o in before.light.graph.output]
    lost = set(names) - {o.name for o in after.graph.output}
    if lost:
        raise ModelError(f"the rewritten model lost outputs: {', '.join(sorted(lost))}.")
    runs = list(_runs(before.light, _runner(before), feeds, example or {}))
    second, worst = open_session(apart(after, before), optimise=False).bounded(after), 0.0
    for feed, kept in runs:
        now = second.run(feed, names)
        worst = max(worst, *(relative_difference(kept[n], now[n]) for n in names))
    return worst


def first_run(model: onnx.ModelProto, example: Feed | None = None) -> tuple[Feed, dict[str, Any]]:
    """One feed that the model runs on, as written, with its outputs: the ``example``, and random data for inputs that it lacks.

    Raises ``ExampleNeeded`` and ``InputError`` as ``compare_models``, ``ModelError`` where nothing can run the model.
    """
    return next(iter(_runs(model, _runner(apart(model)), None, example or {})))


def gaps_of(model: onnx.ModelProto, pairs: Mapping[str, str], example: Feed | None = None) -> list[tuple[str, float, bool]]:
    """For each pair of outputs of ``model``: the first one's name, how far the second is from it on one feed, and whether that is told in
    steps (of quantised values) or relative to the largest element. Raises as ``first_run``."""
    values = first_run(model, example)[1] if pairs else {}
    return [(name, *_gap(values[name], values[other])) for name, other in pairs.items()]


def _gap(own: Any, other: Any) -> tuple[float, bool]:
    if isinstance(own, np.ndarray) and own.dtype.kind in "iu" and own.dtype.itemsize <= 2 and np.shape(own) == np.shape(other):
        return float(np.max(np.abs(own.astype(np.int64) - np.asarray(other).astype(np.int64)), initial=0)), True
    return relative_difference(own, other), False


def refuse_other_types(before: Apart, after: onnx.ModelProto) -> None:
    """What is known without a run: ONNX Runtime opens both, and the outputs kept their types. Raises ``ModelError``."""
    both = (before, apart(after, before))
    types = [{t.name: t.type for t in open_session(model, optimise=False, planned=False).outputs} for model in both]
    changed = [f"'{name}' {kind} -> {types[1].get(name)}" for name, kind in types[0].items() if types[1].get(name) != kind]
    if changed:
        raise ModelError(f"rewriting the model changed the types of its outputs: {', '.join(changed)}.")


def _runner(model: Apart) -> Callable[[Feed], dict[str, Any]]:
    """``feed -> outputs`` for a model as it is."""
    try:
        return open_session(model, optimise=False).bounded(model).run
    except ModelError as refused:
        if has_loop(model.light):
            raise  # the evaluator cannot be stopped
        try:
            evaluator = ReferenceEvaluator(model.fed())
        except Exception:  # the reference evaluator raises anything; what matters to the user is why ONNX Runtime refused
            raise refused from None
    names, weights = [o.name for o in model.light.graph.output], model.arrays()

    def run(feed: Feed) -> dict[str, Any]:
        try:
            return dict(zip(names, evaluator.run(None, {**weights, **feed}), strict=True))
        except Exception as error:
            raise ModelError(f"the model runs neither in ONNX Runtime nor in ONNX's reference evaluator: {library_text(error)}.") from error

    return run


def _runs(model: onnx.ModelProto, run: Any, feeds: Feed | Iterable[Feed] | None, example: Feed) -> Iterable[tuple[Feed, dict[str, Any]]]:
    """Each feed with what ``run`` makes of it; random feeds in the first sizes that the model accepts."""
    if feeds is not None:
        return [(feed, run(feed)) for feed in ([feeds] if isinstance(feeds, Mapping) else feeds)]
    if example and all(i.name in example for i in fed_inputs(model)):
        try:
            return [(example, run(example))]
        except OnnxsalError as error:
            raise InputError(f"the model does not run on the data given (example=, --example): {error}") from error

    def attempt(choice: FeedChoice) -> list[tuple[Feed, dict[str, Any]]]:
        drawn = [feed_of(model, choice, given=example)]
        if sum(np.size(a) for a in drawn[0].values()) < ENOUGH:
            drawn.append(feed_of(model, choice, 1, example))
        return [(feed, run(feed)) for feed in drawn]

    try:
        return accepted(model, attempt)
    except OnnxsalError as problem:
        raise ExampleNeeded(f"no random input could be found on which the model runs: {problem}") from problem


def relative_difference(a: Any, b: Any) -> float:
    """max |b - a| / max |a| over finite entries; ``inf`` where shape, type or the places of NaN and infinity differ."""
    if isinstance(a, list) and isinstance(b, list):
        return max((relative_difference(x, y) for x, y in zip(a, b, strict=True)), default=0.0) if len(a) == len(b) else np.inf
    if isinstance(a, dict) and isinstance(b, dict):
        return relative_difference(np.asarray(list(a.values())), np.asarray([b[key] for key in a])) if a.keys() == b.keys() else np.inf
    if not isinstance(a, np.ndarray) or a.dtype.kind not in "fiubc":
        return 0.0 if np.array_equal(a, b) else np.inf
    if a.shape != b.shape or a.dtype != b.dtype:
        return np.inf
    finite = np.isfinite(a)
    if not np.array_equal(a[~finite], b[~finite], equal_nan=a.dtype.kind in "fc") or not np.all(np.isfinite(b[finite])):
        return np.inf
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    was, now = a[finite].astype(wide), b[finite].astype(wide)
    gap = float(np.max(np.abs(now - was), initial=0.0))
    return gap / max(float(np.max(np.abs(was))), np.finfo(np.float64).tiny) if gap else 0.0
