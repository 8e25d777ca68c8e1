"""The page of an audit that was done by the shard: that of an audit of the drawn sample, which tells of all data too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.ask.request import Ask
from onnxsal.errors import InputError
from onnxsal.fleet.auditing import AUDIT, LOOKED, MEASURED, ending, key_of_lines
from onnxsal.fleet.drawn_sample import DrawnSample, drawn_sample
from onnxsal.fleet.feeding import table
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.job import Taken
from onnxsal.fleet.measuring import source_name
from onnxsal.fleet.merging import Merged, WholeRun, merge_run, whole_run
from onnxsal.fleet.of_all import population_of
from onnxsal.fleet.resume import RunFile
from onnxsal.fleet.run_files import REPORT, files_by_shard
from onnxsal.fleet.strata import rank
from onnxsal.metrics.evaluation import Way
from onnxsal.report.audit.document import Document, headline
from onnxsal.report.audit.evidence import Request
from onnxsal.report.audit.gate import Limit
from onnxsal.report.audit.page import save_audit
from onnxsal.report.audit.run import METRIC_STATE, SAMPLE_STATE, audited
from onnxsal.runtime.beside import Beside, from_metadata
from onnxsal.runtime.table_files import DataTable

STATES = {LOOKED: SAMPLE_STATE, MEASURED: METRIC_STATE}


@dataclass(frozen=True)
class MergedAudit(Merged):
    """The page and the numbers of an audit, with its ``document``."""

    document: Document | None = None


def request_of(place: Folder, run: RunFile) -> Request:
    """What was asked for, as run.json says it, of the model that lies in the place."""
    facts = run.facts
    model = Taken(place).path(source_name(facts["sha256"], facts["model"]))
    known = from_metadata(Beside(), facts["known"], model)
    ask = Ask(model, preprocess=known.preprocess, labels=known.labels, **facts["asked"])
    ways = [Way(way["name"], way["method"], way["parameters"]) for way in facts["ways"]]
    names = ("measured_count", "form", "command", "labels_column")
    measured, form, command, column = (facts[name] for name in names)
    return Request(ask, None, ways, seed=run.seed, measured=measured, form=form, command=command, labels_column=column)


def merge_audit(
    place: Folder, request: Request, step: Callable[[str], Any] = str, limits: Sequence[Limit] = (), whole: WholeRun | None = None
) -> MergedAudit:
    """Write the page, report/audit.html and .json, beside the summary that ``merge_run`` writes; ``whole``: the run, where it is read.

    What workers noted of the drawn samples is taken as it is; what is missing is made now. Raises as ``merge_run``.
    """
    whole = whole_run(place) if whole is None else whole
    merged = merge_run(place, whole)
    ways = [way.name for way in request.ways if way.name in whole.sums]
    drawn = drawn_sample(place, whole, ways)
    if len(drawn.names) == len(drawn.added):
        raise InputError("none of the drawn samples has an explanation, so there is nothing to audit: raise --sample, and begin anew.")
    with tempfile.TemporaryDirectory(prefix="onnxsal-") as folder:
        asked = _asked(place, whole, request, drawn, Path(folder))
        found = audited(asked, limits, Path(folder), step)
        page = Path(folder) / "audit.html"
        save_audit(found, page)
        files = {kind: f"{REPORT}/{file.name}" for kind, file in (("page", page), ("json", page.with_suffix(".json")))}
        for name, file in zip(files.values(), (page, page.with_suffix(".json")), strict=True):
            place.write(name, file.read_bytes())
    named = {kind: f"{place.place}/{name}" for kind, name in files.items()}
    told = f"{merged.headline}\n{headline(found.document)[1]} (a sample of {len(drawn.names):,})"
    facts = {**merged.facts, **{k: found.facts[k] for k in ("findings", "checks", "limits")}}
    both = {**merged.files, "page": named["page"], "audit": named["json"]}
    return MergedAudit(told, merged.table, {**facts, "files": both}, merged.warnings, both, found.document)


def _asked(place: Folder, whole: WholeRun, request: Request, drawn: DrawnSample, folder: Path) -> Request:
    """The audit of the drawn sample, with the lines that workers noted in ``folder``."""
    population = population_of(place, whole, request.ask.labels, drawn)
    request = replace(request, population=population, besides=frozenset(drawn.added))
    if drawn.of_rows:
        return replace(request, data=_rows(drawn))
    _gather(place, whole.run, drawn, folder)
    measured = [name for name in drawn.names if rank(name, whole.run.seed) < whole.run.facts["measured"]]
    data = drawn.dataset(request.ask, folder / SAMPLE_STATE)
    return replace(request, data=data, measured_on=measured or None, samples=None)


def _gather(place: Folder, run: RunFile, drawn: DrawnSample, folder: Path) -> None:
    """The lines of all shards in one file of each kind, as an audit that goes on reads them; of what was added to a shard those of every
    time, as it is another set when there are more data.
    """
    for what, name in STATES.items():
        found = files_by_shard(place, AUDIT, key_of_lines(run.keys.values()), ending(what))
        with (folder / name).open("wb") as file:
            for shard in drawn.shards:
                for lines in found.get(shard, ()):
                    file.write(place.read(lines, ours=True))


def _rows(drawn: DrawnSample) -> DataTable:
    """The drawn rows of tables, as one table whose rows are called by their ids."""
    parts = [(table(shard), places) for shard, places in drawn.places()]
    names: Mapping[str, Any] = parts[0][0].columns
    joined = {name: [cell for part, places in parts for cell in part.part(places).columns[name].tolist()] for name in names}
    columns = {name: _cells(cells, parts[0][0].columns[name].dtype) for name, cells in joined.items()}
    return DataTable(drawn.source, columns, called=tuple(name for shard in drawn.shards for name in drawn.of_shard(shard)))


def _cells(cells: list[Any], dtype: Any) -> Any:
    found = np.empty(len(cells), dtype)
    found[:] = cells
    return found
