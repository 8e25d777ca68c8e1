"""A verb carried out by the shard: listing, resuming, running here or on a cluster, and what is said at the end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

import typer

from onnxsal.cli.shard_options import BLOCK_ROWS, RAY, SHARD_ROWS, Engine
from onnxsal.cli.shell import CHECK_FAILED, UNUSABLE, say, show, show_json, show_table
from onnxsal.errors import InputError
from onnxsal.fleet.added import AddedPart
from onnxsal.fleet.audit_page import MergedAudit
from onnxsal.fleet.cluster import Cluster
from onnxsal.fleet.costs import Costs, costs_of
from onnxsal.fleet.cutting import Shard
from onnxsal.fleet.decoding import Decoding
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.job import Receipt, Worker
from onnxsal.fleet.merging import Merged, WholeRun, merge_run, several, whole_run
from onnxsal.fleet.ray import on_ray
from onnxsal.fleet.resume import DoneSoFar, Todo, begun, forget_bad, mine, read_run, refuse_foreign, run_file, run_here, todo
from onnxsal.fleet.run_files import RUN, STATS
from onnxsal.report.audit.document import Document
from onnxsal.runtime.progress import counted

INTERRUPTED, ENDED = 130, 143
"""Exit statuses of a run that was stopped by Ctrl-C, and by SIGTERM."""


FEW = 64
"""Samples that one worker is opened for: to start and to open it takes as long as some dozens."""


class Asked(Protocol):
    """What a verb does by the shard: an explanation, an evaluation, an audit."""

    @property
    def keys(self) -> dict[str, str]:
        """The key of each thing that is computed, by name."""

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says of it, the seed, the share of the sample and how many are added among it."""

    def prepare(self) -> None:
        """Put the models where workers find them."""

    def opened(self) -> Worker:
        """A worker."""

    def left_of(self, parts: Sequence[AddedPart]) -> Sequence[AddedPart]:
        """Those of the parts of samples that are added of which something is to be done yet."""

    def decoding(self) -> Decoding:
        """What decodes pictures for workers. Raises ``InputError`` where these decode what they need themselves."""


@dataclass(frozen=True)
class AskedRun:
    """One run as it is asked for: the ``verb``, the ``data`` as given, and how."""

    verb: str
    data: Sequence[str]
    every: Sequence[Shard]
    place: Folder
    engine: Engine
    listing: Mapping[str, Any]


def begin(verb: str, data: Sequence[str], every: Sequence[Shard], out: str, engine: Engine, listing: Mapping[str, Any]) -> AskedRun:
    """A run that is asked for. Raises ``InputError`` where ``out`` holds something else."""
    place = Folder.of(out)
    refuse_foreign(place)
    return AskedRun(verb, data, every, place, engine, listing)


def cut_of(out: str, engine: Engine) -> int:
    """The samples of a shard: as in the run that is in ``out``, else as asked for. Raises ``InputError`` where the two differ."""
    place = Folder.of(out)
    if not place.exists(RUN):
        return engine.shard_rows
    rows = read_run(place).shard_rows
    if engine.shard_rows not in (rows, SHARD_ROWS, BLOCK_ROWS):
        raise InputError(f"the run in '{place.place}' is cut into shards of {rows}: leave --shard-rows out, or give another --out.")
    return rows


def draw_of(run: AskedRun, wanted: int) -> tuple[float, int]:
    """The share of all samples that makes about ``wanted`` of them, and how many may be added so that every class is there; of a run that
    goes on those that it began with.
    """
    if run.place.exists(RUN):
        found = read_run(run.place)
        return found.share, found.added
    total = sum(shard.end - shard.begin for shard in run.every)
    return min(1.0, wanted / max(total, 1)), wanted


def carry_out(run: AskedRun, asked: Asked, json: bool, merged: Callable[[WholeRun], Merged] | None = None) -> None:
    """Do what is left of a run, or one part of it, and say how it ended; without a part it is merged too (by ``merge_run``, if ``merged``
    is not given). Whoever finds every shard done adds samples to the drawn ones.

    Ends with status 1 where too many samples have no explanation, 2 where a shard failed three times, 130 on Ctrl-C, 143 on SIGTERM.
    """
    engine, place = run.engine, run.place
    facts = {**asked.facts, "listing": dict(run.listing)}
    known = begun(place, run_file(run.verb, asked.keys, run.data, engine.shard_rows, run.every, facts))
    if engine.retry_bad:
        forget_bad(place, list(asked.keys.values()))
    work = todo(place, list(asked.keys.values()), run.every)
    left = mine(work, engine.part) if engine.part else list(work.left)
    asked.prepare()
    if engine.dry_run:
        _tell_costs(_tried(run, asked, work.fresh), work, engine, json)
        return
    if len(work.left) < len(work.every):
        say(f"{len(work.every) - len(work.left)} of {len(work.every)} shards were done before; {len(left)} are done now.")
    progress = _done(run, asked, left, "samples")
    alone, whole = engine.part in (None, (1, 1)), None
    if alone or (known.added and known.share < 1 and not todo(place, list(asked.keys.values()), run.every).left):
        whole = whole_run(place)
        _add(run, asked, whole)
    if alone and whole is not None:
        found = merge_run(place, whole) if merged is None else merged(whole)
        tell(found, json)
        if isinstance(found, MergedAudit) and found.document is not None:
            end_broken(found.document)
    elif json:
        show_json({"shards": len(progress.receipts), "left": len(work.left) - len(progress.receipts)})
    else:
        part, there = "part {} of {}".format(*engine.part or (1, 1)), place.uri if place.local is None else place.place
        say(f"{part}: {len(progress.receipts)} shards done. When all parts are: onnxsal merge {there}")
    refuse_bad(progress, engine.max_bad, f"{place.place}/{STATS}/")


def _add(run: AskedRun, asked: Asked, whole: WholeRun) -> None:
    """The second round: what is kept of the drawn samples, of those that are added too."""
    parts = asked.left_of(whole.added_parts)
    if parts:
        count = several(sum(len(part.ids) for part in parts), "sample is", "samples are")
        say(f"{count} added to those that were drawn: the first of every class, and those at the ends of the numbers.")
        _done(run, asked, parts, "added samples")


def _done(run: AskedRun, asked: Asked, left: Sequence[Shard] | Sequence[AddedPart], what: str) -> DoneSoFar:
    """Do the shards that are left, or what is added of them, here or on a cluster. Ends with status 2 where one failed three times."""
    begin, rows = time.perf_counter(), sum(shard.end - shard.begin for shard in left)
    with counted(f"{run.verb}: {what}") as told:
        count = 0

        def tell_one(receipt: Receipt) -> None:
            nonlocal count
            count += receipt.rows
            told(count, max(rows, 1))

        progress = DoneSoFar(tell_one)
        with _stopping(progress, len(left)):
            if run.engine.on == RAY and left:
                _on_ray(run.engine, asked, left, progress)
            else:
                run_here(asked.opened, left, progress)
    seconds = time.perf_counter() - begin
    if progress.receipts:
        shards = several(len(progress.receipts), "shard", "shards")
        say(f"{several(count, 'sample', 'samples')} in {seconds:.1f} s ({count / max(seconds, 1e-9):.1f} a second), {shards}.")
    if progress.failed:
        _fail(progress.failed)
    return progress


def _on_ray(engine: Engine, asked: Asked, left: Sequence[Shard] | Sequence[AddedPart], progress: DoneSoFar) -> None:
    workers, decoders = engine.workers, engine.decode_workers
    if not isinstance(left[0], Shard):  # the few that are added: workers decode them themselves, and no more are opened than pay
        few = -(-sum(part.end for part in left) // FEW)
        workers, decoders = min(workers, few) if workers else (1 if few == 1 else None), 0
    cluster = Cluster(engine.address, workers, engine.gpus_per_worker or 0.0, decoders)
    on_ray(asked.opened, left, cluster, progress, Receipt, asked.decoding() if decoders else None)


@contextmanager
def _stopping(progress: DoneSoFar, count: int) -> Iterator[None]:
    """Makes Ctrl-C and SIGTERM end a run with one line: what is done stays."""

    def ended(*_: Any) -> NoReturn:
        raise SystemExit(ENDED)

    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as stopped:
        status = ENDED if isinstance(stopped, SystemExit) else INTERRUPTED
        say(f"stopped: {len(progress.receipts)} of {count} shards are done and stay; the same command goes on from there.", "error")
        raise typer.Exit(status) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(failed: Sequence[Receipt]) -> NoReturn:
    for receipt in failed:
        say(f"shard {receipt.shard} failed: {receipt.why}", "error")
    some = several(len(failed), "shard", "shards")
    say(f"{some} failed; all others are done. The same command tries again; `onnxsal merge` takes what is there.", "error")
    raise typer.Exit(UNUSABLE)


def refuse_bad(progress: DoneSoFar, most: float, stats: str) -> None:
    """End with status 1 where a larger share of the samples that were done has no explanation."""
    rows, bad = (sum(getattr(receipt, name) for receipt in progress.receipts) for name in ("rows", "bad"))
    if rows and bad / rows > most:
        say(f"{bad} of {rows} samples have no explanation, more than --max-bad {most:g}; why stands in their rows of {stats}.", "error")
        raise typer.Exit(CHECK_FAILED)


# ----- what is said -----


def end_broken(found: Document) -> None:
    """Say which limits are broken, and end with status 1 if any is."""
    broken = [limit for limit in found.limits if limit.broken]
    for limit in broken:
        say(limit.text, "error")
    if broken:
        raise typer.Exit(CHECK_FAILED)


def tell(merged: Merged, json: bool) -> None:
    """What the merged run says, on stdout."""
    if json:
        show_json(merged.facts)
        return
    for words in merged.warnings:
        say(words, "warning")
    show(merged.headline)
    columns, rows = merged.table
    show_table(columns, rows, columns[1:])
    for what, file in merged.files.items():
        show(f"{what}: {file}")


def _tried(run: AskedRun, asked: Asked, fresh: Sequence[Shard]) -> Costs:
    """The first of the shards of which nothing is done, done here, and what it cost."""
    if not fresh:
        raise InputError(f"--dry-run has nothing to try: no shard of the run in '{run.place.place}' is left undone. Give another --out.")
    receipts: list[Receipt] = []
    run_here(asked.opened, fresh[:1], receipts.append)
    if receipts[0].why:
        _fail(receipts)
    return costs_of(run.place, list(asked.keys.values()), fresh[0], receipts[0])


def _tell_costs(costs: Costs, work: Todo, engine: Engine, json: bool) -> None:
    """What all of it would take."""
    facts = costs.facts(work.rows, engine.workers or 1)
    if json:
        show_json(facts)
        return
    show(f"one shard of {costs.rows} samples: {costs.rate:.1f} a second by one worker")
    show_table(("", "all"), [(name, value) for name, value in costs.words(work.rows, engine.workers or 1)], ("all",))
