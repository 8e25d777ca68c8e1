"""``onnxsal evaluate``: methods against metrics on a data set, with three maps beside them that know nothing of the model."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxsal.ask.request import Ask
from onnxsal.cli import options as o
from onnxsal.cli.completion import several_methods, several_metrics
from onnxsal.cli.metric_settings import takes_settings
from onnxsal.cli.results import near, tell_providers
from onnxsal.cli.shard_options import Engine, takes_engine
from onnxsal.cli.shard_verbs import evaluate_by_shard
from onnxsal.cli.shell import say, show, show_json, show_table
from onnxsal.cli.ways import chosen_ways
from onnxsal.errors import MethodError
from onnxsal.metrics.evaluate import DEFAULT_METHODS, IDLE, LABEL, PREDICTED, Work, evaluated, refuse_nothing
from onnxsal.metrics.evaluation import Evaluation
from onnxsal.metrics.measures import DEFAULT_METRICS, MEASURES, Settings
from onnxsal.metrics.open_rows import METHODS, METRICS, takes_rows
from onnxsal.metrics.ranking import TIED_SHARE_LIMIT
from onnxsal.metrics.record import forget
from onnxsal.report.evaluation_files import better, refuse_lost, save_evaluation
from onnxsal.runtime.libraries import library
from onnxsal.runtime.progress import counted

DATA_HELP = (
    "A folder of pictures (sub-folders named by class; masks in masks/ beside images/), a .csv (file, label, mask), a .npy or .npz; of a "
    "model that is fed with columns, a table of rows (.csv, .parquet)."
)
METHODS_HELP = (
    "Methods, separated by commas, with parameters after colons: fullgrad,ig:n_steps=20,lrp_resnet:quantize=8,mine.toml. Or: all."
)
STATE = "state.jsonl"

Masks = Annotated[
    str | None, typer.Option(help="The folder of masks; 'alpha' for the pictures' own transparency.", show_default="DATA/masks")
]

LabelsColumn = Annotated[
    str | None, typer.Option(help="Of a table: the column that holds the class of each row.", show_default="label, class, target or y")
]


@takes_engine
@takes_settings
@o.takes_ask(without=("method", "parameters", *IDLE), spelled={"example": "--example"}, batch_size=16)
def evaluate(
    ask: Ask,
    data: Annotated[Path, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)],
    methods: Annotated[str, typer.Option("--methods", "-m", help=METHODS_HELP, autocompletion=several_methods)] = ",".join(DEFAULT_METHODS),
    metrics: Annotated[
        str, typer.Option("--metrics", help=f"Metrics, separated by commas: {', '.join(MEASURES)}.", autocompletion=several_metrics)
    ] = ",".join(DEFAULT_METRICS),
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for what is written; a run that was cut short goes on there.")
    ] = Path("out/evaluate"),
    target: Annotated[str, typer.Option("--target", "-t", help="The class to explain: predicted, label, an index or a label.")] = PREDICTED,
    samples: Annotated[int | None, typer.Option(min=1, help="Take this many samples, drawn by the seed.", show_default="all")] = None,
    masks: Masks = None,
    labels_column: LabelsColumn = None,
    *,
    settings: Settings,
    engine: Engine | None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew: forget what an earlier run left in the folder.")] = False,
    json: o.Json = False,
) -> None:
    """Evaluate methods on data: means with confidence intervals, paired differences, three baselines, every sample as CSV."""
    for needed in ("scipy", "matplotlib"):
        library(needed)  # missing, it is said before the work, not after
    of_rows = takes_rows(ask, data)
    ways = chosen_ways(",".join(METHODS) if of_rows and methods == ",".join(DEFAULT_METHODS) else methods)
    names = [m.strip() for m in metrics.split(",") if m.strip()]
    names = list(METRICS) if of_rows and tuple(names) == tuple(DEFAULT_METRICS) else names
    if engine is not None:
        by = Work(data, ways, names, settings, masks, target if target in (PREDICTED, LABEL) else _index(ask, target), samples)
        evaluate_by_shard(ask, data, replace(by, data="", labels_column=labels_column), out, engine, json)
        return
    refuse_lost(out)
    if fresh:
        forget(out / STATE)
    named = target if target in (PREDICTED, LABEL) else _index(ask, target)
    with counted(f"evaluating {len(ways)} methods on {data.name}") as told:
        work = Work(data, ways, names, settings, masks, named, samples, out / STATE, told, labels_column)
        found = refuse_nothing(evaluated(ask, work))
        facts = save_evaluation(found, out)
    _warn(found)
    if json:
        show_json(facts)
        return
    _tell(found, facts)


def _index(ask: Ask, target: str) -> int:
    found = o.target_of(target, ask)
    if not isinstance(found, int):
        raise MethodError(f"target '{target}' is no class: give predicted, label, an index or a label.")
    return found


def _tell(found: Evaluation, facts: dict[str, Any]) -> None:
    lines = facts["summary"]
    for column, what in found.columns.items():
        rows = [row for row in lines if row["metric"] == column]
        if not rows:
            continue
        if what.larger is not None:
            rows.sort(key=lambda row: _rank(row["mean"], bool(what.larger)))
        base = next((row["over"] for row in rows if row["over"]), None)
        show(f"\n{column}: {what.title} ({better(found, column)} is better)" if what.larger is not None else f"\n{column}: {what.title}")
        own = {w.name for w in found.ways if not w.baseline}
        cells = [_cells(row, row["method"] in own) for row in rows]
        columns = ("method", "mean", "95 % interval", "n", f"minus {base}" if base else "", "its interval")
        used = range(6 if base else 4)
        show_table([columns[i] for i in used], [[c[i] for i in used] for c in cells], columns[1:])
    files = facts["files"]
    tell_providers(facts)
    show(f"\n{len(found.samples)} samples, {facts['labelled']} labelled, {facts['masked']} with masks")
    names = {"samples": "every sample", "differences": "every pair of methods", "json": "all of it"}
    show("; ".join(f"{words}: {near(files[kind])}" for kind, words in names.items() if kind in files))


def _rank(mean: float, larger: bool) -> float:
    return math.inf if math.isnan(mean) else -mean if larger else mean


def _cells(row: dict[str, Any], own: bool) -> tuple[str, ...]:
    def interval(low: float, high: float) -> str:
        return "" if low is None or math.isnan(low) else f"{low:.4g} to {high:.4g}"

    over = "" if row["over_mean"] is None else f"{row['over_mean']:+.4g}"
    n = f"{row['n']}" + (f" (+{row['excluded']} without)" if row["excluded"] else "")
    name = row["method"] if own else f"({row['method']})"
    return (name, f"{row['mean']:.4g}", interval(row["low"], row["high"]), n, over, interval(row["over_low"], row["over_high"]))


def _warn(found: Evaluation) -> None:
    for name, why in found.refused.items():
        say(f"{name} refused: {why}", "warning")
    for name, why in found.damaged.items():
        say(f"left out: {name}: {why}", "warning")
    lost = list(dict.fromkeys(name for _, name in found.lost))
    if lost:
        say(f"the model, or a map of it, fails on {len(lost)} sample(s), which have no value: {', '.join(lost)}", "warning")
    for note in found.facts["notes"]:
        say(note)
    for way in found.ways:
        for reason, count in found.reasons(way.name).items():
            say(f"{way.name}: {count} sample(s) without a value: {reason}", "warning")
        share, distinct = found.ties(way.name)
        if not way.baseline and share > TIED_SHARE_LIMIT:
            flattered = "" if found.facts["settings"]["ties"] == "random" else "; the chosen order of ties flatters such maps"
            of = f"the {found.kind.places} of its {found.kind.maps}"
            say(f"{way.name}: {share:.0%} of {of} are tied ({distinct:.0f} distinct values){flattered}", "warning")
