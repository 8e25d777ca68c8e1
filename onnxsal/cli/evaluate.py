"""``onnxsal evaluate``: methods against metrics on a data set, with three maps beside them that know nothing of the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxsal.ask.request import Ask
from onnxsal.cli import options as o
from onnxsal.cli.explain import near, tell_providers
from onnxsal.cli.metric_settings import takes_settings
from onnxsal.cli.parameters import read_parameters
from onnxsal.cli.shell import counted, say, show, show_json, show_table
from onnxsal.engine.method import get_method, shipped_methods
from onnxsal.errors import MethodError
from onnxsal.metrics.evaluate import DEFAULT_METHODS, IDLE, LABEL, PREDICTED, Work, evaluated, refuse_nothing
from onnxsal.metrics.evaluation import Evaluation, Way
from onnxsal.metrics.libraries import library
from onnxsal.metrics.measures import DEFAULT_METRICS, MEASURES, Settings
from onnxsal.metrics.ranking import TIED_SHARE_LIMIT
from onnxsal.metrics.record import forget
from onnxsal.report.evaluation_files import better, refuse_lost, save_evaluation

DATA_HELP = "A folder of pictures (sub-folders named by class; masks in masks/ beside images/), a .csv (file, label, mask), a .npy or .npz."
METHODS_HELP = (
    "Methods, separated by commas, with parameters after colons: fullgrad,ig:n_steps=20,lrp_resnet:quantize=8,mine.toml. Or: all."
)
STATE = "state.jsonl"

Masks = Annotated[
    str | None, typer.Option(help="The folder of masks; 'alpha' for the pictures' own transparency.", show_default="DATA/masks")
]

OF_ONE = ("preset", "quantize", "layer", "grid", "score")
"""What one method may have for itself beside its parameters."""


@takes_settings
@o.takes_ask(without=("method", "parameters", *IDLE), batch_size=16)
def evaluate(
    ask: Ask,
    data: Annotated[Path, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)],
    methods: Annotated[str, typer.Option("--methods", "-m", help=METHODS_HELP)] = ",".join(DEFAULT_METHODS),
    metrics: Annotated[str, typer.Option("--metrics", help=f"Metrics, separated by commas: {', '.join(MEASURES)}.")] = ",".join(
        DEFAULT_METRICS
    ),
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The folder for what is written; a run that was cut short goes on there.")
    ] = Path("out/evaluate"),
    target: Annotated[str, typer.Option("--target", "-t", help="The class to explain: predicted, label, an index or a label.")] = PREDICTED,
    samples: Annotated[int | None, typer.Option(min=1, help="Take this many samples, drawn by the seed.", show_default="all")] = None,
    masks: Masks = None,
    *,
    settings: Settings,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew: forget what an earlier run left in the folder.")] = False,
    json: o.Json = False,
) -> None:
    """Evaluate methods on data: means with confidence intervals, paired differences, three baselines, every sample as CSV."""
    for needed in ("scipy", "matplotlib"):
        library(needed)  # missing, it is said before the work, not after
    ways = chosen_ways(methods)
    refuse_lost(out)
    if fresh:
        forget(out / STATE)
    named = target if target in (PREDICTED, LABEL) else _index(ask, target)
    with counted(f"evaluating {len(ways)} methods on {data.name}") as told:
        work = Work(data, ways, [m.strip() for m in metrics.split(",") if m.strip()], settings, masks, named, samples, out / STATE, told)
        found = refuse_nothing(evaluated(ask, work))
        facts = save_evaluation(found, out)
    _warn(found)
    if json:
        show_json(facts)
        return
    _tell(found, facts)


def chosen_ways(text: str) -> list[Way]:
    """The methods of ``--methods``: names or rule files, each with its parameters behind colons."""
    words = [w.strip() for w in text.split(",") if w.strip()]
    if words == ["all"]:
        return [Way(name, name) for name in shipped_methods()]
    ways = []
    for word in words:
        name, *given = word.split(":")
        parameters = read_parameters(given)
        method = get_method(Path(name) if name.endswith(".toml") else name)
        known = [*dict.fromkeys([*method.parameters, *sorted(method.names), *OF_ONE])]
        wrong = [p for p in parameters if p not in known]
        if wrong:
            raise MethodError(f"method '{method.name}' has no parameter '{wrong[0]}'; it has {', '.join(known)}.")
        ways.append(Way(":".join([method.name, *given]), method, parameters))
    if not ways:
        raise MethodError("no method was named; `onnxsal methods` lists them.")
    return ways


def _index(ask: Ask, target: str) -> int:
    found = o.target_of(target, ask)
    if not isinstance(found, int):
        raise MethodError(f"target '{target}' is no class of a picture: give predicted, label, an index or a label.")
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
            say(f"{way.name}: {share:.0%} of the pixels of its maps are tied ({distinct:.0f} distinct values){flattered}", "warning")
