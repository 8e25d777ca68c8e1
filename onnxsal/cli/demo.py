"""``onnxsal demo``: every method on a few pictures, as a table and one contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import onnxsal
from onnxsal.cli import options as o
from onnxsal.cli.explain import Sample, file_names, named, near, open_explainer, row, write
from onnxsal.cli.shell import progress, say, show, show_json, show_table
from onnxsal.engine.method import shipped_methods
from onnxsal.errors import InputError, MethodError, PlanError, UnsupportedError
from onnxsal.methods.convert import DEFAULT_METHOD
from onnxsal.report.artefacts import Style
from onnxsal.report.sheet import Cell, Row, contact_sheet
from onnxsal.runtime.pictures import find_pictures, save_picture

SHIPPED_MODEL, SHIPPED_PICTURES = "efficientnet_lite0.onnx", "pictures"

QUICK: dict[str, dict[str, Any]] = {"occlusion": {"window": 0.15, "stride": 0.075}, "rise": {"n_masks": 200}}
"""Coarser settings for methods that run the model hundreds of times; the defaults are finer."""

ONCE = ("scorecam",)
"""Methods that run the model once per channel, over a thousand times: shown on the first picture only."""


def demo(
    model: Annotated[Path | None, typer.Argument(metavar="[MODEL]", help="In a checkout: EfficientNet-Lite0.", show_default=False)] = None,
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="[PICTURE]...", help="In a checkout: the photographs in models/.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for what is written.")] = Path("out/demo"),
    labels: o.LabelsFile = None,
    preprocess: o.PreprocessFile = None,
    provider: o.Provider = "cpu",
    json: o.Json = False,
) -> None:
    """Explain pictures with every method: a table, the pictures, and one contact sheet to look at."""
    model, files = _defaults(model, pictures or [])
    feed = o.feeding(model, preprocess, labels)
    shown = {file: feed.required.display(file) for file in files}
    names = dict(zip(files, file_names(files), strict=True))
    methods = [m for _, m in sorted(shipped_methods().items(), key=lambda item: (item[0] != DEFAULT_METHOD, item[0]))]
    cells: dict[Path, list[Cell]] = {file: [] for file in files}
    records: list[dict[str, Any]] = []
    refused: list[dict[str, str]] = []
    if not json:
        show(f"{model.name}: {len(files)} picture(s), {len(methods)} methods, on {provider}")
    with progress(f"reading {model.name}", len(methods) * (1 + len(files))) as step:
        for method in methods:
            step(f"{method.name}: building it into {model.name}")
            given = {"black": feed.black, "white": feed.white, "components": method.name == DEFAULT_METHOD, **QUICK.get(method.name, {})}
            try:
                explainer = open_explainer(feed, method, provider, 1, given)
            except (PlanError, UnsupportedError, MethodError) as error:  # not for this model, or not without more than a picture
                refused.append({"method": method.name, "why": str(error)})
                continue
            for file in files[:1] if method.name in ONCE else files:
                step(f"{method.name}: {names[file]}")
                x = feed.required.normalise(shown[file][None])
                sample = Sample(file, names[file], {explainer.session.inputs[0].name: x}, shown[file])
                one = explainer.explain(sample.feed)
                records.append(write(explainer, feed, sample, one, out / f"{sample.name}.{method.name}", Style()))
                cells[file].append(_cell(records[-1], one.saliency_map))
    if not records:
        raise PlanError("no method can explain this model:\n" + "\n".join(f"{r['method']}: {r['why']}" for r in refused))
    rows = [Row(names[file], shown[file], cells[file], file.name) for file in files]
    sheet = save_picture(contact_sheet(rows, f"{model.name}, {provider}"), out / "contact_sheet.png")
    if json:
        show_json({"explained": records, "refused": refused, "contact_sheet": str(sheet)})
        return
    _tell(records, refused, sheet)


def _cell(facts: dict[str, Any], saliency_map: np.ndarray | None) -> Cell:
    if saliency_map is None:
        raise InputError("the explained input is not an image, so there is no map to show; use `onnxsal explain` with .npy or .npz inputs.")
    residual = "" if facts["residual"] is None else f", residual {facts['residual']:.1e}"
    note = f"{named(facts['target'])}: {facts['score']:.4g}{residual}, {facts['seconds'] * 1000:.0f} ms"
    return Cell(facts["method"], saliency_map[0], note)


def _tell(records: list[dict[str, Any]], refused: list[dict[str, str]], sheet: Path) -> None:
    records = sorted(records, key=lambda facts: str(facts["source"]))
    lines = [(Path(facts["source"]).name, facts["method"], *row(facts)[2:]) for facts in records]
    show_table(("photograph", "method", "predicted", "score", "residual", "ms", "picture"), lines, ("score", "residual", "ms"))
    for entry in refused:
        say(f"{entry['method']} refused: {entry['why']}", "warning")
    for facts in records:
        if "components" in facts["files"]:
            show(f"layers of {Path(facts['source']).name} by {facts['method']}: {near(facts['files']['components'])}")
    show(f"contact sheet: {near(str(sheet))}")


def _defaults(model: Path | None, pictures: list[Path]) -> tuple[Path, list[Path]]:
    """The model and pictures that are named, else those of the checkout that this package, or the present folder, belongs to."""
    if model is not None:
        if not pictures:
            raise InputError("name pictures for the demo to explain: onnxsal demo MODEL PICTURE...")
        return model, find_pictures(pictures)
    folders = [folder / "models" for folder in (Path(onnxsal.__file__).resolve().parent.parent, Path.cwd())]
    home = next((folder for folder in folders if (folder / SHIPPED_MODEL).is_file()), None)
    if home is None:
        raise InputError(
            f"name a model and pictures: onnxsal demo MODEL PICTURE... Without them the demo takes models/{SHIPPED_MODEL} of a checkout, "
            "and neither this folder nor the one onnxsal is installed from is a checkout."
        )
    return home / SHIPPED_MODEL, find_pictures([home / SHIPPED_PICTURES])
