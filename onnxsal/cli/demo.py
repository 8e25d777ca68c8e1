"""``onnxsal demo``: every method on a few pictures, as a table and one contact sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import onnxsal
from onnxsal.ask.request import DEFAULT_METHOD, Ask
from onnxsal.cli import options as o
from onnxsal.cli.results import NO_PLOT, ResultFiles, Results, near, row, tell_providers
from onnxsal.cli.shell import say, show, show_json, show_table
from onnxsal.engine.method import Method, get_method, shipped_methods
from onnxsal.errors import InputError, MethodError, PlanError, TargetError, UnsupportedError
from onnxsal.explainer import Explainer
from onnxsal.explanation import Explanation
from onnxsal.given.from_files import file_names
from onnxsal.given.prepared import preprocess_of
from onnxsal.given.sample import GivenSample
from onnxsal.metrics.faithfulness import occlusion_correlation
from onnxsal.metrics.scorer import Scorer, scorer_of
from onnxsal.runtime.pictures import find_pictures
from onnxsal.runtime.progress import progress

OCCLUSION = "occlusion"

SHIPPED_MODEL, SHIPPED_PICTURES = "efficientnet_lite0.onnx", "pictures"

WINDOW, STRIDE = 0.15, 0.075
"""Of occlusion, as shares of a picture's height and width."""

QUICK: dict[str, dict[str, Any]] = {"occlusion": {"window": WINDOW, "stride": STRIDE}, "rise": {"n_masks": 200}}
"""Coarser settings for methods that run the model hundreds of times; the defaults are finer."""

ONCE = ("scorecam",)
"""Methods that run the model once per channel, over a thousand times: shown on the first picture only."""


def shipped_model(word: Path | None) -> Path:
    """In a checkout: EfficientNet-Lite0."""
    return word or _home() / SHIPPED_MODEL


@o.takes_ask(only=("labels", "preprocess", "providers", "tf32"), model=shipped_model)
def demo(
    ask: Ask,
    pictures: Annotated[
        list[Path] | None, typer.Argument(metavar="[PICTURE]...", help="In a checkout: the photographs in models/.", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for what is written.")] = Path("out/demo"),
    json: o.Json = False,
) -> None:
    """Explain pictures with every method: a table, the pictures, and one contact sheet to look at."""
    files, where = pictures_of(ask, pictures or []), ask.providers
    ask = replace(ask.on(ask.resolved), batch_size=1)
    shown = Showing(ask, files, Results(out, ResultFiles(slides=False)))
    order = sorted(shipped_methods(), key=lambda name: (name != DEFAULT_METHOD, name))
    methods = [get_method(name) for name in sorted(order, key=lambda name: name != OCCLUSION)]  # first, as all others are held against it
    if not json:
        show(f"{ask.name}: {len(files)} picture(s), {len(methods)} methods, on {where}")
    with progress(f"reading {ask.name}", len(methods) * (1 + len(files))) as step:
        for method in methods:
            step(f"{method.name}: building it into {ask.name}")
            shown.explain(method, step)
    records = shown.results.records
    if not records:
        raise PlanError("no method can explain this model:\n" + "\n".join(f"{r['method']}: {r['why']}" for r in shown.refused))
    records.sort(key=lambda facts: order.index(facts["method"]))
    sheet = shown.results.sheet(f"{ask.name}, {where}")
    if json:
        show_json({"explained": records, "refused": shown.refused, **sheet})
        return
    _tell(records, shown.refused)
    for path in sheet.values():
        show(f"contact sheet: {near(path)}")
    if not shown.results.plots:
        show(NO_PLOT)


class Showing:
    """The pictures of a demo, with what each method made of them: the results, and who refused."""

    def __init__(self, ask: Ask, files: Sequence[Path], results: Results) -> None:
        self.ask, self.files, self.results = ask, files, results
        self.pictures = {file: preprocess_of(ask).shown(file) for file in files}
        self.names = dict(zip(files, file_names(files), strict=True))
        self.refused: list[dict[str, str]] = []
        self._occluded = _Occluded()

    def explain(self, method: Method, step: Callable[[str], None]) -> None:
        """Explain every picture by one method, or note why it refuses the model."""
        ask = replace(self.ask.by(method, QUICK.get(method.name, {})), components=method.name in (DEFAULT_METHOD, OCCLUSION))
        try:
            explainer = Explainer.of(ask)
        except (PlanError, UnsupportedError, MethodError) as error:  # not for this model, or not without more than a picture
            self.refused.append({"method": method.name, "why": str(error)})
            return
        for file in self.files[:1] if method.name in ONCE else self.files:
            step(f"{method.name}: {self.names[file]}")
            x = preprocess_of(ask).normalise(self.pictures[file].seen[None])
            sample = GivenSample({explainer.inputs[0].name: x}, str(file), self.names[file], self.pictures[file])
            one = explainer.explain(sample.feed)
            if method.name == OCCLUSION:
                one = self._occluded.keep(explainer, file, one)
            also = {"occlusion_correlation": self._occluded.correlation(file, x, one)}
            if one.saliency_map is None:
                raise InputError(
                    "the explained input is not an image, so there is no map to show; use `onnxsal explain` with .npy or .npz inputs."
                )
            self.results.add(explainer, sample, one, also=also)


class _Occluded:
    """What hiding each window does to the score of each picture: the method occlusion says it once, and every map is held against it."""

    def __init__(self) -> None:
        self._scorer: Scorer | None = None
        self._drops: dict[Path, np.ndarray] = {}

    def keep(self, explainer: Explainer, file: Path, one: Explanation) -> Explanation:
        """Take the falls of the score out of what the method occlusion returned."""
        with suppress(InputError, TargetError):  # scores that do not belong to pictures one by one
            self._scorer = self._scorer or scorer_of(explainer)
            self._drops[file] = one.components["occlusion/drop"]
        return replace(one, components={})

    def correlation(self, file: Path, x: np.ndarray, one: Explanation) -> dict[str, Any] | None:
        """How the map's mean in each window goes with the fall of the score when that was hidden; ``None`` where it is not known."""
        if self._scorer is None or file not in self._drops:
            return None
        window, stride = ([max(1, round(side * share)) for side in self._scorer.places(x).shape] for share in (WINDOW, STRIDE))
        try:
            found = occlusion_correlation(self._scorer, x, one, one.target, window=window, stride=stride, drop=self._drops[file])
        except InputError:
            return None  # too small a picture
        return {"pearson": float(found.pearson[0]), "spearman": float(found.spearman[0])}


def _tell(records: list[dict[str, Any]], refused: list[dict[str, str]]) -> None:
    records = sorted(records, key=lambda facts: str(facts["source"]))
    lines = []
    for facts in records:
        *numbers, ms, picture = row(facts)[2:]
        lines.append((Path(facts["source"]).name, facts["method"], *numbers, _coefficient(facts["occlusion_correlation"]), ms, picture))
    columns = ("photograph", "method", "predicted", "score", "residual", "reached", "occlusion r", "ms", "picture")
    show_table(columns, lines, ("score", "residual", "reached", "occlusion r", "ms"))
    tell_providers(records[0])
    if any(facts["occlusion_correlation"] for facts in records):
        show("occlusion r: correlation of the map's mean in a window with the fall of the score when it is hidden, on this photograph")
    for method in dict.fromkeys(facts["method"] for facts in records):
        told = [facts["warnings"][0] for facts in records if facts["method"] == method and facts["warnings"]]
        if told:
            say(f"{method}, {len(told)} picture(s): {told[0]}", "warning")
    for entry in refused:
        say(f"{entry['method']} refused: {entry['why']}", "warning")
    for facts in records:
        if "components" in facts["files"]:
            show(f"layers of {Path(facts['source']).name} by {facts['method']}: {near(facts['files']['components'])}")


def _coefficient(found: dict[str, Any] | None) -> str:
    return "" if found is None or math.isnan(found["pearson"]) else f"{found['pearson']:.2f}"


def pictures_of(ask: Ask, named: list[Path]) -> list[Path]:
    """The pictures that are named; of the shipped model those of the checkout."""
    if not named and ask.name != SHIPPED_MODEL:
        raise InputError("name pictures for the demo to explain: onnxsal demo MODEL PICTURE...")
    return find_pictures(named or [_home() / SHIPPED_PICTURES])


def _home() -> Path:
    """The models of the checkout that this package, or the present folder, belongs to."""
    folders = [folder / "models" for folder in (Path(onnxsal.__file__).resolve().parent.parent, Path.cwd())]
    home = next((folder for folder in folders if (folder / SHIPPED_MODEL).is_file()), None)
    if home is None:
        raise InputError(
            f"name a model and pictures: onnxsal demo MODEL PICTURE... Without them the demo takes models/{SHIPPED_MODEL} of a checkout, "
            "and neither this folder nor the one onnxsal is installed from is a checkout."
        )
    return home
