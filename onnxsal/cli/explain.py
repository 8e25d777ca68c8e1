"""``onnxsal explain``: pictures, texts, tables or arrays go in; overlays, maps, raw arrays and records come out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxsal.ask.place import place_text, places_of
from onnxsal.ask.request import Ask, Target
from onnxsal.cli import given_texts as t
from onnxsal.cli import options as o
from onnxsal.cli.completion import several_methods
from onnxsal.cli.explain_table import AsParquet, Each, Group, TableAsk, explain_table, only_table
from onnxsal.cli.parameters import PRESET
from onnxsal.cli.results import ResultFiles, Results
from onnxsal.cli.shard_options import Engine, takes_engine
from onnxsal.cli.shard_verbs import AskedSamples, explain_by_shard
from onnxsal.cli.shell import say
from onnxsal.cli.ways import chosen_ways
from onnxsal.errors import ExampleNeeded, InputError, MethodError, PlanError, TargetError, UnsupportedError
from onnxsal.explainer import Explainer, told_in_runs
from onnxsal.explanation import Explanation
from onnxsal.fleet.job import TextsAsked
from onnxsal.given.from_files import UNPREPARED, file_names, find_inputs, samples
from onnxsal.given.prepared import preprocess_of
from onnxsal.given.sample import GivenSample, batches, stacked
from onnxsal.metrics.evaluation import Way
from onnxsal.report.artefacts import MATLAB, Style, refuse_taken
from onnxsal.report.asked_place import BOXES
from onnxsal.report.explained_rows import TableFiles
from onnxsal.report.slide import short
from onnxsal.runtime.progress import progress
from onnxsal.runtime.series_figure import series_axis

INPUTS_HELP = "Pictures, folders of pictures, .npy and .npz arrays, .wav, a table (.csv, .parquet), .txt with a text in each line."
PALETTE_HELP = "diverging, heat or white_black; by default what suits the map."

METHODS_HELP = "Several methods side by side, separated by commas, with parameters after colons: gradcam,ig:n_steps=20. Or: all."

BOXES_HELP = f"How a detector's four numbers tell a box, to mark it: {', '.join(BOXES)}."

TARGET_HELP = f"{o.SAID['target'].__metadata__[0].words} Several, with commas or given again, are shown side by side."

SPECTROGRAM = "spectrogram"

Rate = Annotated[float | None, typer.Option(help="Of a series: places per second, for an axis of seconds.", show_default="that of a .wav")]
ShownAs = Annotated[
    str | None,
    typer.Option("--as", help="spectrogram: the input [N, 1, F, T] or [N, F, T] is one, drawn upwards over time.", show_default=False),
]


@takes_engine
@o.takes_ask(without=("target", "target_input", "runs_on"), spelled={"example": "--example"})
def explain(
    ask: Ask,
    inputs: Annotated[list[Path] | None, typer.Argument(metavar="INPUT...", help=INPUTS_HELP, show_default=False)] = None,
    target: Annotated[list[str] | None, typer.Option("--target", "-t", help=TARGET_HELP, show_default=False)] = None,
    methods: Annotated[str | None, typer.Option(help=METHODS_HELP, show_default=False, autocompletion=several_methods)] = None,
    text: t.TextOption = None,
    text_pair: t.TextPairOption = None,
    tokenizer: t.TokenizerOption = None,
    truncate: t.TruncateOption = False,
    roles: t.RolesOption = None,
    like: t.LikeOption = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The folder for what is written.")] = Path("out"),
    palette: Annotated[str | None, typer.Option(help=PALETTE_HELP, show_default=False)] = None,
    slides: Annotated[bool | None, typer.Option(help="A slide for each sample; by default of a few.", show_default=False)] = None,
    svg: Annotated[bool, typer.Option("--svg", help="Slides and contact sheets as SVG too.")] = False,
    boxes: Annotated[str | None, typer.Option(help=BOXES_HELP, show_default=False)] = None,
    show_path: Annotated[bool, typer.Option("--show-path", help="Also tile the pictures along the integration path.")] = False,
    groups: Group = None,
    each: Each = False,
    parquet: AsParquet = False,
    rate: Rate = None,
    shown_as: ShownAs = None,
    *,
    engine: Engine | None,
    json: o.Json = False,
) -> None:
    """Explain pictures, texts, or the arrays that a model is fed with: the overlay, the map, the raw signed array, a slide and a JSON
    record of each; of tokens what each of them adds, of texts each word, of a table with named columns each column. Several pictures,
    methods or targets make a contact sheet.
    """
    if engine is not None:
        _refuse_here(text=text, text_pair=text_pair, like=like, palette=palette, slides=slides, svg=svg, boxes=boxes, show_path=show_path)
        read = partial(TextsAsked.of, ask.model, tokenizer, truncate, t.roles_of(roles))
        explain_by_shard(ask, AskedSamples(inputs or [], ways_of(ask, methods), targets_of(target or [], ask), read), out, engine, json)
        return
    if (table := only_table(inputs or [])) is not None:
        _explain_table(ask, table, target or [], methods, out, TableAsk(groups or (), TableFiles(each, parquet)), json)
        return
    _refuse_unknown(rate, shown_as)
    ask = replace(ask, batch_size=ask.batch_size or 1)
    named, lines = t.without_texts(inputs or [])
    texts = t.GivenTexts(text or [], text_pair or [], lines, tokenizer, truncate, roles, like)
    ask = texts.asked(ask)
    if not named and not texts:
        raise InputError("nothing to explain: name pictures, arrays, a table or .txt files, or give --text.")
    files, asks, targets = _files(ask, named), by_method(ask, methods), targets_of(target or [], ask)
    count = (len(files) + len(texts)) * len(asks) * len(targets)
    results = Results(out, ResultFiles(_style(ask, palette), show_path, slides, svg, boxes), count)
    work = _Work(files, texts, {"rate": rate, "spectrogram": shown_as == SPECTROGRAM}, targets, results)
    _finish(work, work.each_method(asks), len(asks), ask.name, json)


def _style(ask: Ask, palette: str | None) -> Style:
    """The colours of maps: as asked for, or as a preset of the method has them."""
    return MATLAB if ask.parameters.get(PRESET) == "matlab" and palette is None else Style(palette)


def _refuse_here(**given: Any) -> None:
    """Raise ``InputError`` for options that mean nothing by the shard."""
    if idle := [f"--{name.replace('_', '-')}" for name, value in given.items() if value]:
        raise InputError(f"{', '.join(idle)}: not by the shard, which draws no slides and reads texts from files (.txt, one a line).")


def _files(ask: Ask, named: Sequence[Path]) -> list[Path]:
    """The files that are named, or lie in folders that are. Raises ``InputError`` where a picture is among them that cannot be prepared."""
    files = find_inputs(named) if named else []
    if pictures := [file for file in files if file.suffix.lower() not in UNPREPARED]:
        preprocess_of(ask, pictures[0])
    return files


def _explain_table(ask: Ask, table: Path, target: Sequence[str], methods: str | None, out: Path, how: TableAsk, json: bool) -> None:
    """Explain the rows of a table. Raises ``InputError`` where several methods or targets are asked for."""
    targets = targets_of(target, ask)
    if methods is not None or len(targets) > 1:
        raise InputError("a table is explained by one method, for one target: leave the others out.")
    explain_table(replace(ask, target=targets[0]), table, out, how, json)


def _finish(work: _Work, refused: Sequence[str], asked: int, name: str, json: bool) -> None:
    """Say what was found and what is left out. Raises ``PlanError`` where every method refuses, ``InputError`` where inputs are damaged."""
    count = len(work.files) + len(work.texts)
    for words in refused:
        say(words, "warning")
    if len(refused) == asked:
        raise PlanError("none of the methods can explain this model; each says above why.")
    if count == 1 and work.damaged and not work.results.records:
        raise InputError(next(iter(work.damaged.values())))
    if work.results.records:
        work.results.finish(f"{name}: {count} input{'s' if count > 1 else ''}", json)
    t.show_texts([] if json else work.words)
    for file, why in work.damaged.items():
        say(f"left out: {file}: {why}", "warning")
    if work.damaged:
        raise InputError(f"{len(work.damaged)} of {count} inputs could not be explained; each is named above.")


def _refuse_unknown(rate: float | None, shown_as: str | None) -> None:
    if shown_as not in (None, SPECTROGRAM):
        raise InputError(f"--as '{shown_as}' is no way to show an input; there is {SPECTROGRAM}.")
    series_axis(rate, 1)


# ----- what is asked -----


def by_method(ask: Ask, methods: str | None) -> list[tuple[str, Ask]]:
    """The request, or one for each of several methods with what it is called.

    Raises ``MethodError`` where both ``--method`` and ``--methods`` were given.
    """
    if methods is None:
        return [("", ask)]
    if ask.method is not None:
        raise MethodError("--method names one method and --methods several: give one of the two.")
    return [(way.name, ask.by(way.method, way.parameters)) for way in chosen_ways(methods)]


def ways_of(ask: Ask, methods: str | None) -> list[Way]:
    """The one method of the request, or several. Raises ``MethodError`` as ``by_method``."""
    by_method(ask, methods)
    return [Way(ask.chosen.name, ask.chosen)] if methods is None else chosen_ways(methods)


def targets_of(words: Sequence[str], ask: Ask) -> list[Target]:
    """The targets that words name; one that is not named (the predicted class) where there are none. Places go into one run together.

    A label may hold commas itself; what is no label as a whole is taken apart at its commas.
    """
    found: list[Target] = [target for word in words for target in _apart(word, ask)]
    places: list[Any] = [one for target in found for one in (target if isinstance(target, list) else [target])]
    if len(found) > 1 and places_of([p for p in places if isinstance(p, str)], ask.labels):
        places_of(list(map(str, places)), ask.labels)
        return [places]
    return found or [None]


def _apart(word: str, ask: Ask) -> list[Target]:
    try:
        return [o.target_of(word, ask)]
    except TargetError:
        parts = [part.strip() for part in word.split(",")]
        if len(parts) < 2:
            raise
        return [o.target_of(part, ask) for part in parts]


def _each(targets: Sequence[Target], explainer: Explainer) -> list[Target]:
    """The targets, now that it is known how many numbers name a class: of one, a tuple is several."""
    single = len(explainer.conversion.question.class_shape) == 1
    return [one for given in targets for one in (given if single and isinstance(given, tuple) and len(given) > 1 else [given])]


def _opened(ask: Ask, files: Sequence[Path], targets: Sequence[Target]) -> Explainer:
    """The explainer, whose class is told in each run; what the model does not tell is seen on the first of the inputs."""
    ask = told_in_runs(replace(ask.on(ask.resolved), target=targets[0]))
    with progress(f"building the explanation into {ask.name}"):
        explainer = Explainer.of(ask)
        try:
            _ = explainer.conversion
        except ExampleNeeded:
            explainer = Explainer.of(replace(ask, example=o.example_of(files[:1], ask)))
    return explainer


# ----- running -----


class _Work:
    """What is explained, for which targets, and where what comes out goes."""

    def __init__(
        self, files: Sequence[Path], texts: t.GivenTexts, shown_how: dict[str, Any], targets: Sequence[Target], results: Results
    ) -> None:
        self.files, self.texts, self.shown_how, self.targets, self.results = files, texts, shown_how, targets, results
        self.damaged: dict[Path, str] = {}
        self.words: list[t.DrawnText] = []

    def each_method(self, asks: Sequence[tuple[str, Ask]]) -> list[str]:
        """Explain everything by every method; returns why those that refuse the model do, where there are several."""
        refused = []
        with progress("explaining", (len(self.files) + len(self.texts)) * len(asks)) as step:
            for called, ask in asks:
                try:
                    explainer = _opened(ask, self.files, self.targets)
                except (PlanError, UnsupportedError, MethodError) as error:
                    if len(asks) == 1:
                        raise
                    refused.append(f"{called} refused: {error}")
                    continue
                names, written = file_names(self.files) if self.files else [], self.texts.samples(explainer)
                for name in (*names, *(sample.name for sample in written)):
                    refuse_taken(self.results.base(name, called or explainer.method))
                read = samples(self.files, names, ask, explainer.fed._replace(**self.shown_how), step, self.damaged)
                self._write_all(explainer, chain(read, written), called)
        return refused

    def _write_all(self, explainer: Explainer, given: Iterable[GivenSample], called: str) -> None:
        """Explain every sample that is given for each target, and write what comes out; one of several methods is ``called`` so."""
        question, labels = explainer.conversion.question, explainer.labels
        apart = set(question.samples) == {tensor.name for tensor in explainer.inputs}
        each = _each(self.targets, explainer)
        several = any(len(p := places_of(target, labels)) > 1 or (p and p[0].number is None) for target in each)
        for group in batches(given, int(explainer.conversion.ask.batch_size or 1) if apart and not several else 1):
            for target in each:
                for sample, one in _explained(explainer, group, target, self.damaged):
                    row, column = sample.name, ""
                    if several:
                        row, _, column = sample.name.rpartition(".")
                    elif len(each) > 1:
                        index = int(one.target[0])
                        sample = replace(sample, name=f"{sample.name}.class{index}")
                        column = short({"index": index, "label": None if labels is None else labels[index]})
                    columns = ", ".join(filter(None, [called, column]))
                    self.results.add(explainer, sample, one, called, row, columns, self.texts.told)
                    self.words += t.drawn_text(sample, one)


def _explained(
    explainer: Explainer, group: Sequence[GivenSample], target: Any, damaged: dict[Path, str]
) -> Iterator[tuple[GivenSample, Explanation]]:
    """Each sample with its explanation. Where a batch is refused its samples go one by one, and those that are refused are noted."""
    try:
        places = places_of(target, explainer.labels)
        if len(places) > 1 or (places and places[0].number is None):
            yield from _each_place(explainer, group[0], target)
            return
        whole = explainer.explain(stacked(group), target)
    except InputError as error:
        if len(group) == 1:
            damaged[Path(group[0].source)] = str(error)
            return
        for sample in group:
            yield from _explained(explainer, [sample], target, damaged)
        return
    for number, sample in enumerate(group):
        yield sample, whole if len(group) == 1 else whole[number]


def _each_place(explainer: Explainer, sample: GivenSample, target: Any) -> Iterator[tuple[GivenSample, Explanation]]:
    """One sample with the explanation of each of several places, each under a name of its own."""
    kind = places_of(target, explainer.labels)[0].kind
    for number, one in enumerate(explainer.explain(sample.feed, target)):
        place = int(one.components["explained_place"][0]) if "explained_place" in one.components else number
        yield replace(sample, name=f"{sample.name}.{kind}{place_text(kind, place).replace(',', '-')}"), one
