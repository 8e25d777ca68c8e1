"""``onnxsal fit-patterns``: data go in; a file of learned patterns comes out, and how good they are if asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxsal.ask.request import RUN, Ask
from onnxsal.cli import options as o
from onnxsal.cli.shell import say, show, show_json, show_table
from onnxsal.disk import refuse_loss, remove_own
from onnxsal.errors import InputError
from onnxsal.facade import fit_patterns as fit
from onnxsal.methods.patterns.file import Patterns
from onnxsal.metrics.signal import SignalSettings, signals
from onnxsal.report.charts import quality_chart
from onnxsal.runtime.libraries import library
from onnxsal.runtime.pictures import save_picture
from onnxsal.runtime.progress import counted
from onnxsal.runtime.providers import as_text

DATA_HELP = "A folder of pictures, or a .npy, .npz, .parquet or .zarr file: what the model was trained on, or like it."


@o.takes_ask(only=(*RUN, "preprocess"), batch_size=fit.BATCH)
def fit_patterns(
    data: Annotated[Path, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)],
    ask: Ask,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file that is written.")] = Path("patterns.npz"),
    layers: Annotated[
        list[str] | None,
        typer.Option("--layer", help="Learn this layer only: name of its weight or node, * for any text.", show_default=False),
    ] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Read this many samples.", show_default="all")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew where an interrupted run left its sums.")] = False,
    quality: Annotated[
        tuple[Path, Path] | None,
        typer.Option(help="Two more sets of data: compute the signal quality of each layer on them.", show_default=False),
    ] = None,
    json: o.Json = False,
) -> None:
    """Learn the patterns that patternnet and pattern_attribution need, in one pass over the data."""
    if out.suffix != ".npz":
        raise InputError(f"'{out}': patterns are written as .npz; give a name that ends so.")
    if quality is not None:
        library("matplotlib")  # missing, it is said before the work, not after
    state = out.with_name(f"{out.name}.state")
    for made in (out, state, *([] if quality is None else [out.with_suffix(".quality.png")])):
        refuse_loss(made)
    if fresh:
        remove_own(state)
    elif state.exists() and not json:
        say(f"going on from '{state}', which an interrupted run left; --fresh begins anew")
    with counted(f"learning patterns of {ask.name}") as told:
        learned = fit.fitted(ask, fit.Fitting(data, layers, samples, state, progress=told))
    learned.save(out)
    facts = _facts(Path(str(ask.model)), learned, out)
    if quality is not None:
        with counted("signal quality") as told:
            found = signals(ask, learned, quality, SignalSettings(), told)
        chart = save_picture(quality_chart(found, f"signal quality, {ask.name}"), out.with_suffix(".quality.png"))
        facts |= {"quality": found.means(), "skipped": found.skipped, "chart": str(chart)}
    show_json(facts) if json else _tell(facts)


def _facts(model: Path, learned: Patterns, out: Path) -> dict[str, Any]:
    """What was learned, for people and machines."""
    layers = [
        {
            "weight": name,
            "node": layer.node,
            "units": len(layer.active),
            "samples": layer.samples,
            "inactive": layer.inactive,
            "fallbacks": {e: {str(u): why for u, why in layer.fallbacks(e).items()} for e in layer.origin},
        }
        for name, layer in learned.layers.items()
    ]
    facts = {"model": str(model), "patterns": str(out), "model_sha256": learned.model_sha256, "samples": learned.samples}
    return {**facts, "bytes": out.stat().st_size, **learned.facts, "layers": layers}


def _tell(facts: dict[str, Any]) -> None:
    rho = facts.get("quality", {})
    estimators = list(next(iter(rho.values()))) if rho else []
    rows = []
    for layer in facts["layers"]:
        own = rho.get(layer["weight"], {})
        learned = layer["units"] - len(layer["fallbacks"]["positive"])
        numbers = [f"{own[e]:.3f}" if e in own else "" for e in estimators]
        rows.append((layer["weight"], layer["node"], layer["units"], learned, len(layer["inactive"]), layer["samples"], *numbers))
    names = ("weight", "node", "units", "learned", "inactive", "samples", *(f"rho {e}" for e in estimators))
    show_table(names, rows, names[2:])
    if facts["left_out"]:
        say(f"{facts['left_out']} sample(s) did not fill a batch of the model, whose size is fixed, and were left out", "warning")
    where = as_text([facts["provider"]], facts["provider_options"])
    peak = "" if facts["peak_megabytes"] is None else f", process {facts['peak_megabytes']:.0f} MB at most"
    show(
        f"{facts['patterns']}: {facts['samples']} samples, {facts['images_per_second']:.1f} a second on {where}; "
        f"sums {facts['sums_megabytes']:.1f} MB{peak}; file {facts['bytes'] / 1e6:.1f} MB"
    )
    if "chart" in facts:
        show(f"signal quality: {facts['chart']}")
