"""``explain``, ``evaluate`` and ``audit`` by the shard: what each asks of a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxsal.ask.request import Ask, Target
from onnxsal.cli.by_shard import AskedRun, begin, carry_out, cut_of, draw_of
from onnxsal.cli.explain_table import AT_ONCE
from onnxsal.cli.shard_options import Engine
from onnxsal.errors import InputError
from onnxsal.fleet.audit_page import merge_audit, request_of
from onnxsal.fleet.auditing import AuditJob
from onnxsal.fleet.cutting import shards
from onnxsal.fleet.feeding import table
from onnxsal.fleet.job import Job, TextsAsked
from onnxsal.fleet.measuring import MeasureJob
from onnxsal.fleet.working import Keeping
from onnxsal.given.tables import at_the_table
from onnxsal.metrics.evaluate import Work
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.open_rows import takes_rows
from onnxsal.report.audit.evidence import Request
from onnxsal.report.audit.gate import Limit
from onnxsal.runtime.columns import columns_beside
from onnxsal.runtime.providers import CUDA

AT_A_TIME, AT_A_TIME_ON_CUDA = 8, 32
"""Samples of one run, where nothing else is asked for. On a core 8 take 13 % less time than one by one, and 16 take twice the memory for
nothing; of rows ``AT_ONCE``.
"""

_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/+")


def as_given(path: Path | str) -> str:
    """What was given as DATA or OUT: a ``Path`` makes one slash of the two of a URL."""
    return _URL.sub(lambda m: f"{m[1]}://{'/' if m[1] == 'file' else ''}", str(path))


@dataclass(frozen=True)
class AskedSamples:
    """What ``explain`` is asked for: of which data, by which methods, for which targets, and how texts are read."""

    inputs: Sequence[Path]
    ways: Sequence[Way]
    targets: Sequence[Target]
    texts: Callable[[], TextsAsked]


def explain_by_shard(ask: Ask, asked: AskedSamples, out: Path, engine: Engine, json: bool) -> None:
    """Explain data by the shard. Raises ``InputError`` where several targets are asked for."""
    if len(asked.targets) > 1:
        raise InputError("a run by the shard explains one target of each sample: give one --target, or run once for each.")
    ask, run = _begun("explain", ask, asked.inputs, out, engine)
    share, added = draw_of(run, engine.sample)
    keeping = Keeping(engine.maps, share, 0, asked.targets[0], added)
    texts = asked.texts() if any(shard.kind == "texts" for shard in run.every) else None
    carry_out(run, Job.of(run.place.uri, replace(ask, target=None), asked.ways, keeping, texts), json)


def evaluate_by_shard(ask: Ask, data: Path, work: Work, out: Path, engine: Engine, json: bool) -> None:
    """Measure methods by the shard: all samples, or as many as ``work.samples``, drawn by the seed."""
    if work.masks is not None:
        raise InputError("--masks is for a run in one go: by the shard masks are not read.")
    ask, run = _begun("evaluate", ask, [data], out, engine)
    share = 1.0 if work.samples is None else draw_of(run, work.samples)[0]
    carry_out(run, MeasureJob.of(run.place.uri, ask, work, Keeping(share=share, seed=work.settings.seed)), json)


def audit_by_shard(request: Request, limits: Sequence[Limit], data: Path, out: Path, engine: Engine, json: bool) -> None:
    """Explain everything by the shard, and audit a drawn sample of it on one page that tells of all.

    Raises ``InputError`` for what is not looked at by the shard.
    """
    for name, given in (("--masks", request.masks), ("--against", request.against)):
        if given is not None:
            raise InputError(f"{name} is for an audit in one go: by the shard it is not looked at.")
    ask, run = _begun("audit", request.ask, [data], out, engine)
    share, added = draw_of(run, request.samples or engine.sample)
    keeping = Keeping(engine.maps, share, request.seed, added=added)
    job = AuditJob.of(run.place.uri, replace(request, ask=ask, data=None), keeping, share_of_measured(run, request.measured, share))
    carry_out(run, job, json, lambda whole: merge_audit(run.place, request_of(run.place, whole.run), limits=limits, whole=whole))


def share_of_measured(run: AskedRun, measured: int, share: float) -> float:
    """The share of all samples whose costly metrics are measured: at most the drawn ones."""
    total = sum(shard.end - shard.begin for shard in run.every)
    return min(share, measured / max(total, 1))


def _begun(verb: str, ask: Ask, data: Sequence[Path], out: Path, engine: Engine) -> tuple[Ask, AskedRun]:
    """The request as the workers run it, and the run: one thread for each worker, several samples at a time."""
    given = [as_given(path) for path in data]
    if not given:
        raise InputError("nothing to do by the shard: name DATA (a folder, Parquet files, arrays, a table, texts, a manifest, a URL).")
    of_rows = all(takes_rows(ask, path) for path in given)
    engine = replace(engine, shard_rows=cut_of(as_given(out), engine))
    every = shards([_absolute(path) for path in given], engine.shard_rows, as_table=of_rows)
    if ask.threads is None and (engine.on is not None or engine.part != (1, 1)):
        ask = replace(ask, threads=1)
    ask = replace(ask, batch_size=ask.batch_size or (AT_ONCE if of_rows else AT_A_TIME_ON_CUDA if _on_cuda(ask) else AT_A_TIME))
    if _on_cuda(ask):
        engine = replace(engine, gpus_per_worker=1.0 if engine.gpus_per_worker is None else engine.gpus_per_worker)
    if of_rows and verb == "explain":
        ask = at_the_table(ask, table(every[0]), columns_beside(ask.model, {}))
    return ask, begin(verb, [_absolute(path) for path in given], every, as_given(out), engine, {"as_table": of_rows})


def _absolute(path: str) -> str:
    return path if _URL.match(path) else str(Path(path).resolve())


def _on_cuda(ask: Ask) -> bool:
    names: list[Any] = [name if isinstance(name, str) else name[0] for name in ask.resolved]
    return CUDA in names
