"""``onnxsal explain``: pictures, arrays or ids of tokens go in; overlays, maps, raw arrays and records come out."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from onnxsal.ask.place import place_text, places_of
from onnxsal.ask.question import Question
from onnxsal.ask.request import Ask
from onnxsal.cli import options as o
from onnxsal.cli.parameters import PRESET, read_array
from onnxsal.cli.shell import progress, say, show, show_json, show_table
from onnxsal.disk import reads
from onnxsal.errors import ExampleNeeded, InputError
from onnxsal.explainer import Explainer
from onnxsal.explanation import Explanation
from onnxsal.facts.axes import layout_places
from onnxsal.facts.tokens import INTEGERS
from onnxsal.report.artefacts import MATLAB, TOP, Style, record, refuse_taken, save_artefacts
from onnxsal.report.parts import parts_of, parts_sheet
from onnxsal.report.path_sheet import path_sheet
from onnxsal.runtime.pictures import find_pictures, save_picture
from onnxsal.runtime.preprocess import as_type
from onnxsal.runtime.providers import as_text
from onnxsal.runtime.session import Tensor

ARRAYS = (".npy", ".npz")

PALETTE_HELP = "diverging, heat or white_black; by default what suits the map."


@dataclass(frozen=True)
class FileSample:
    """One sample to explain: where it is from, what its files are called, what the model is fed, the picture as the model sees it."""

    source: Path
    name: str
    feed: dict[str, np.ndarray]
    picture: np.ndarray | None = None

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        return [array.shape for array in self.feed.values()]


@o.takes_ask(without=("target_input", "runs_on"), batch_size=1)
def explain(
    inputs: Annotated[
        list[Path], typer.Argument(metavar="INPUT...", help="Pictures, folders of pictures, or .npy and .npz arrays.", show_default=False)
    ],
    ask: Ask,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for what is written.")] = Path("out"),
    palette: Annotated[str | None, typer.Option(help=PALETTE_HELP, show_default=False)] = None,
    show_path: Annotated[bool, typer.Option("--show-path", help="Also tile the pictures along the integration path.")] = False,
    json: o.Json = False,
) -> None:
    """Explain pictures, or the arrays that a model is fed with, such as ids of tokens: the overlay, the map, the raw signed array and a
    JSON record of each; of tokens what each of them adds.
    """
    files = find_inputs(inputs)
    if any(file.suffix.lower() not in ARRAYS for file in files):
        o.preprocess_of(ask)
    style = MATLAB if ask.parameters.get(PRESET) == "matlab" and palette is None else Style(palette)
    explainer = _opened(ask, files)
    for name in file_names(files):
        refuse_taken(out / f"{name}.{explainer.method}")
    records = []
    damaged: dict[Path, str] = {}
    with progress("explaining", len(files)) as step:
        several = len(ask.places) > 1 or any(place.number is None for place in ask.places)
        apart = set(explainer.conversion.question.samples) == {t.name for t in explainer.inputs}
        for group in batches(
            samples(files, file_names(files), ask, explainer, step, damaged), int(ask.batch_size or 1) if apart and not several else 1
        ):
            for sample, one in _explained(explainer, group, ask.target, damaged):
                records.append(write(explainer, sample, one, out / f"{sample.name}.{explainer.method}", style, show_path))
    if len(files) == 1 and not records:
        raise InputError(damaged[files[0]])
    if records:
        tell(records, json)
    for file, why in damaged.items():
        say(f"left out: {file}: {why}", "warning")
    if damaged:
        raise InputError(f"{len(damaged)} of {len(files)} inputs could not be explained; each is named above.")


def _opened(ask: Ask, files: Sequence[Path]) -> Explainer:
    """The explainer, whose class is told in each run; what the model does not tell is seen on the first of the inputs."""
    first = ask.target if isinstance(ask.target, str) else next(iter(ask.target or ())) if ask.places else None  # type: ignore[arg-type]
    ask = replace(ask.on(ask.resolved), target=first if ask.places else None)
    with progress(f"building the explanation into {ask.name}"):
        explainer = Explainer.of(ask)
        try:
            _ = explainer.conversion
        except ExampleNeeded:
            explainer = Explainer.of(replace(ask, example=o.example_of(files[:1], ask)))
    return explainer


def _explained(
    explainer: Explainer, group: Sequence[FileSample], target: Any, damaged: dict[Path, str]
) -> Iterator[tuple[FileSample, Explanation]]:
    """Each sample with its explanation. Where a batch is refused its samples go one by one, and those that are refused are noted."""
    try:
        places = places_of(target, explainer.labels)
        if len(places) > 1 or (places and places[0].number is None):
            yield from _each_place(explainer, group[0], target)
            return
        whole = explainer.explain(_stacked(group), target)
    except InputError as error:
        if len(group) == 1:
            damaged[group[0].source] = str(error)
            return
        for sample in group:
            yield from _explained(explainer, [sample], target, damaged)
        return
    for number, sample in enumerate(group):
        yield sample, whole if len(group) == 1 else whole[number]


def _each_place(explainer: Explainer, sample: FileSample, target: Any) -> Iterator[tuple[FileSample, Explanation]]:
    """One sample with the explanation of each of several places, each under a name of its own."""
    kind = places_of(target, explainer.labels)[0].kind
    for number, one in enumerate(explainer.explain(sample.feed, target)):
        place = int(one.components["explained_place"][0]) if "explained_place" in one.components else number
        yield replace(sample, name=f"{sample.name}.{kind}{place_text(kind, place).replace(',', '-')}"), one


def write(
    explainer: Explainer,
    sample: FileSample,
    one: Explanation,
    base: Path,
    style: Style,
    show_path: bool = False,
    also: dict[str, Any] | None = None,
    aloud: bool = True,
) -> dict[str, Any]:
    """Write everything about one explained sample; returns its record, with what it shall hold ``also``. ``aloud`` says its warnings."""
    ask = explainer.conversion.ask
    question = explainer.conversion.question
    counted = question.x.name if question.x.dtype in INTEGERS else ""
    ids = sample.feed.get(counted if question.tokens is None else question.tokens.ids)
    numbers = record(one, question, ask.labels, ids)
    facts = {"source": str(sample.source), "model": str(ask.model), **numbers, **(also or {})}
    extra = {}
    if parts_of(one) or (ask.components and one.components):  # parts of a product, such as their residuals, are returned unasked
        extra["components"] = str(save_picture(parts_sheet(one), f"{base}.components.png"))
    if show_path:
        if question.source not in sample.feed:
            raise InputError(f"--show-path tiles pictures; '{question.x.name}', which is explained, is none that is fed.")
        x = sample.feed[question.source]
        extra["path"] = str(save_picture(path_sheet(explainer.conversion, x, o.preprocess_of(ask)), f"{base}.path.png"))
    seen = sample.picture if sample.picture is not None else series_or_volume(question, sample.feed)
    files = save_artefacts(base, one, facts, seen, style, extra)
    for warning in facts["warnings"] if aloud else ():
        say(f"{sample.source}: {warning}", "warning")
    return {**facts, "files": files}


def series_or_volume(question: Question, feed: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """The values [C, *places] of an explained series or volume that is fed; ``None`` of a picture, whose colours are not known."""
    x, axes = question.shown
    if axes is None or layout_places(axes) == 2 or x.name not in feed or not question.batched:
        return None
    values = feed[x.name][0]
    return values[None] if axes[0] is None else np.moveaxis(values, axes[0] - 1, 0)


def tell(records: Sequence[dict[str, Any]], json: bool) -> None:
    """The records as JSON, or as a table."""
    if json:
        show_json(records)
        return
    columns = ("input", "predicted", "explained", "score", "residual", "reached", "ms", "picture")
    show_table(columns, [row(r) for r in records], ("score", "residual", "reached", "ms"))
    strongest = [token for facts in records for token in strongest_tokens(facts)]
    if strongest:
        show_table(("input", "token", "id", "attribution"), strongest, ("token", "id", "attribution"))
    if names := list(records[0]["parts"]):
        show_table(("input", *names), [(near(r["source"]), *(f"{part:+.4g}" for part in r["parts"].values())) for r in records], names)
    tell_providers(records[0])


def tell_providers(facts: Mapping[str, Any]) -> None:
    """What it was computed on, where options were set there that decide how exact the numbers are."""
    if facts["provider_options"]:
        show(f"computed on {as_text(facts['providers'], facts['provider_options'])}")


def row(facts: dict[str, Any]) -> tuple[str, ...]:
    """One line of the table: what was explained, its numbers, and the picture to look at."""
    files = facts["files"]
    return (
        near(facts["source"]),
        named(facts["top"][0]) if facts["top"] else "",
        named(facts["target"]) + (f" rather than {named(facts['against'])}" if facts["against"] else ""),
        f"{facts['score']:.4g}",
        *law(facts),
        f"{facts['seconds'] * 1000:.0f}",
        near(files.get("overlay") or files.get("map") or files.get("tokens") or files["attribution"]),
    )


def strongest_tokens(facts: dict[str, Any]) -> list[tuple[str, ...]]:
    """The tokens of the largest attributions, either sign, in their order: the input, the place, the id and the attribution of each."""
    told = facts["tokens"]
    if told is None or not told["ids"]:
        return []
    values, ids = np.asarray(told["attribution"]), np.asarray(told["ids"])
    best = np.sort(np.argsort(-np.abs(values.reshape(-1)), kind="stable")[:TOP])
    places = zip(*np.unravel_index(best, values.shape), strict=True)
    return [(near(facts["source"]), ", ".join(map(str, p)), str(ids[p]), f"{values[p]:+.4g}") for p in places]


def law(facts: dict[str, Any]) -> tuple[str, str]:
    """The error of the method's law, and the share of the score at the input without which that of a relevance method tells little."""
    residual, reached = facts["residual"], facts["reached"]
    return "" if residual is None else f"{residual:.1e}", "" if reached is None else f"{reached:.1%}"


def near(path: str) -> str:
    """A path as seen from the present folder, where it lies below it."""
    whole, folder = os.path.abspath(path), os.path.join(os.getcwd(), "")
    return whole.removeprefix(folder) if whole.startswith(folder) else path


def named(entry: dict[str, Any]) -> str:
    """A class by its label, or its number."""
    which = entry.get("place", entry["index"])
    return str(which) if entry["label"] is None else f"{entry['label']} ({which})"


def find_inputs(paths: Sequence[Path]) -> list[Path]:
    """Files as they are named, folders with every picture and array below them; each file once. One that is not there is an error."""
    found = [file for path in paths for file in (_in_folder(path) if path.is_dir() else find_pictures([path]))]
    return list(dict.fromkeys(found))


def _in_folder(folder: Path) -> list[Path]:
    arrays = [file for file in folder.rglob("*") if file.suffix.lower() in ARRAYS and file.is_file()]
    reads(arrays)
    try:
        return sorted([*arrays, *find_pictures([folder])])
    except InputError:
        if arrays:
            return sorted(arrays)
        raise


def file_names(files: Sequence[Path]) -> list[str]:
    """What the results of each file are called: its place below the folder that all share, without the ending unless that is needed."""
    top = os.path.commonpath([file.resolve().parent for file in files])
    places = [Path(os.path.relpath(file.resolve(), top)) for file in files]
    stems = [place.with_suffix("") for place in places]
    return [str(stem if stems.count(stem) == 1 else place) for stem, place in zip(stems, places, strict=True)]


def samples(
    files: Sequence[Path],
    names: Sequence[str],
    ask: Ask,
    explainer: Explainer,
    step: Any,
    damaged: dict[Path, str] | None = None,
) -> Iterator[FileSample]:
    """Read one file after the other. One that cannot be used is noted in ``damaged``; without that it is an error."""
    for file, name in zip(files, names, strict=True):
        step(str(file))
        try:
            found = _read(file, name, ask, explainer)
        except InputError as error:
            if damaged is None:
                raise
            damaged[file] = str(error)
            continue
        yield from found


def _read(file: Path, name: str, ask: Ask, explainer: Explainer) -> Iterable[FileSample]:
    """The samples of one file, which is a picture or an array with any number of them."""
    question, inputs = explainer.conversion.question, explainer.inputs
    if file.suffix.lower() not in ARRAYS:
        prepared = o.preprocess_of(ask)
        shown = prepared.display(file)
        fed = _picture_input(inputs, question.source or question.x.name)
        kind = next((t.dtype for t in inputs if t.name == fed), None)
        return [FileSample(file, name, {fed: as_type(prepared.normalise(shown[None]), kind, fed)}, shown)]
    arrays = array_feed(file, inputs, question.samples)
    rows = [n for n in arrays if n in question.samples]
    counts = {n: len(arrays[n]) if arrays[n].ndim else 0 for n in rows}
    if len(set(counts.values())) > 1:
        raise InputError(f"'{file}' holds a different number of samples per input: {counts}.")
    count = counts[rows[0]] if rows else 1
    if not count:
        shapes = ", ".join(f"{n} {list(arrays[n].shape)}" for n in rows)
        raise InputError(f"'{file}' holds no samples, which lie along the first axis: {shapes}.")
    if count == 1:
        return [FileSample(file, name, arrays)]
    return (FileSample(file, f"{name}-{i}", {k: v[i : i + 1] if k in rows else v for k, v in arrays.items()}) for i in range(count))


def _picture_input(inputs: Sequence[Tensor], explained: str) -> str:
    """Where a picture goes: the explained input, or the only one where an inner tensor is explained."""
    return inputs[0].name if len(inputs) == 1 else explained


def array_feed(file: Path, inputs: Sequence[Tensor], rows: Collection[str]) -> dict[str, np.ndarray]:
    """The inputs in a .npz by their names, or the only input in a .npy; floats get the input's precision, and the inputs ``rows``
    the axis of samples where it is missing.
    """
    data = read_array(file)
    if not isinstance(data, dict) or (len(data) == 1 and len(inputs) == 1):
        if len(inputs) != 1:
            listing = ", ".join(map(str, inputs))
            raise InputError(f"'{file}' holds one array, and the model has {len(inputs)} inputs: {listing}. Give a .npz with these names.")
        data = {inputs[0].name: next(iter(data.values())) if isinstance(data, dict) else data}
    known = {t.name: t for t in inputs}
    return {name: _fitted(array, known.get(name), name in rows) for name, array in data.items()}


def _fitted(array: np.ndarray, tensor: Tensor | None, rows: bool) -> np.ndarray:
    if tensor is None:
        return array  # the session says which inputs there are
    if rows and tensor.shape is not None and array.ndim == len(tensor.shape) - 1:
        array = array[None]
    if array.dtype.kind == "f" and tensor.dtype is not None and tensor.dtype.kind == "f":
        array = array.astype(tensor.dtype)
    return array


def batches(stream: Iterable[FileSample], size: int) -> Iterator[list[FileSample]]:
    """Groups of up to ``size`` neighbours of one shape."""
    for _, run in groupby(stream, key=lambda sample: sample.shapes):
        group: list[FileSample] = []
        for sample in run:
            group.append(sample)
            if len(group) == size:
                yield group
                group = []
        if group:
            yield group


def _stacked(group: Sequence[FileSample]) -> dict[str, np.ndarray]:
    if len(group) == 1:
        return group[0].feed
    return {name: np.concatenate([sample.feed[name] for sample in group]) for name in group[0].feed}
