"""``onnxsal init``: finds out how a model's pictures are prepared by what it answers, and writes it beside the model when told yes."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from onnxsal.ask.picture_input import PictureInput, picture_input
from onnxsal.ask.request import Ask
from onnxsal.cli import options as o
from onnxsal.cli.results import near
from onnxsal.cli.shell import CHECK_FAILED, say, show, show_json, show_table
from onnxsal.disk import replaces
from onnxsal.errors import InputError
from onnxsal.graph import Model
from onnxsal.graph.load import load_model
from onnxsal.metrics.dataset import Dataset
from onnxsal.metrics.open_dataset import open_dataset
from onnxsal.metrics.preprocessings import (
    MOST_OF_KNOWN,
    MOST_PICTURES,
    NEAR,
    SIZES,
    Candidate,
    Ranked,
    Trial,
    candidates,
    in_parts,
    words,
)
from onnxsal.metrics.scorer import Scorer
from onnxsal.runtime.files import write_whole
from onnxsal.runtime.labels import find_label
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.preprocess_files import as_toml
from onnxsal.runtime.progress import progress

PICTURES_HELP = "Pictures, folders (sub-folders named by class), or a .csv with the columns file and label."
TRUTH_HELP = "The class that the pictures show, by label or index: one for all, or once for each picture in their order."
PICK_HELP = "Take this row of the table, whatever the evidence."


@o.takes_ask(only=("labels", "providers", "input", "output", "layout", "batch_size"), batch_size=16)
def init(
    ask: Ask,
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURES...", help=PICTURES_HELP, show_default=False)],
    truth: Annotated[list[str] | None, typer.Option("--truth", help=TRUTH_HELP, show_default=False)] = None,
    size: Annotated[str | None, typer.Option(metavar="HxW", help="The size, where the model leaves it open.", show_default=False)] = None,
    pick: Annotated[int | None, typer.Option(min=1, help=PICK_HELP, show_default=False)] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write the file without asking.")] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Where the file is written.", show_default="MODEL's name.toml, beside it")
    ] = None,
    json: o.Json = False,
) -> None:
    """Find out how pictures become the model's input: try the usual ways, show what the model answers, write the best as a TOML."""
    target = Path(str(ask.model)).with_suffix(".toml") if out is None else out
    if out is not None:
        replaces(out)
    elif target.exists():
        raise InputError(f"'{target}' is there already, and says how pictures are prepared. Remove it, or name another file: --out FILE.")
    found, trial = _opened(ask, pictures, truth or ())
    with progress(f"trying preprocessings on {ask.name}") as trial.tell:
        evidence = trial.of(candidates(found, _sizes(size)))
        chosen = _picked(evidence, pick)
        seen = in_parts(evidence.tried[chosen].candidate)
        parts = trial.of(seen, NEAR) if evidence.labelled else None
    how, part = _with_part(seen[0], parts)
    decided = pick is not None or not evidence.open
    if not json:
        _tell(found, trial, evidence, parts, part, chosen)
    text = _toml(how, trial, evidence, chosen, part)
    written = decided and (yes or (not json and _agreed(how, target)))
    if written:
        write_whole(target, text.encode())
    if json:
        show_json(_facts(evidence, parts, how, part, str(target) if written else None))
    elif written:
        show(f"\nwritten: {near(str(target))}")
    if evidence.open and pick is None:
        say(
            f"ambiguous, so nothing is written: {evidence.open}. --truth or folders named by class tell more; --pick N takes row N.",
            "error",
        )
        raise typer.Exit(CHECK_FAILED)


# ----- what is given -----


def _opened(ask: Ask, pictures: Sequence[Path], truth: Sequence[str]) -> tuple[PictureInput, Trial]:
    """What the model says of its pictures, and a trial on those that are given."""
    found = picture_input(Model(load_model(ask.model)), ask.layout)
    if found is None:
        raise InputError(
            "the model has no one input of pictures (four axes: samples, channels, height, width), so there is nothing to try."
        )
    if found.depth not in (None, 1, 3):
        raise InputError(f"'{found.x.name}' has {found.depth} channels, and a picture 1 or 3. Feed arrays (.npy).")
    scorer = Scorer.of_pictures(ask)
    if len(scorer.question.class_shape) > 1:
        raise InputError(
            f"output '{scorer.question.output}' does not say one class for each picture, so its answers rank nothing: name --output, or "
            "write the file by hand (docs/preprocessing.md)."
        )
    whole = Preprocess(scale=1.0)
    given = [open_dataset(path, scorer.session.inputs[0], whole, ask.labels) for path in pictures]
    for data in given:
        scorer.refuse_misfit(ask.labels, data)
        for note in data.notes:
            say(note)
    seen, classes = _read(given)
    named = [find_class(ask, word) for word in truth]
    if named and len(named) not in (1, len(seen)):
        raise InputError(f"{len(named)} times --truth for {len(seen)} pictures: give one for all, or one for each.")
    if named:
        classes = [*(named * len(seen) if len(named) == 1 else named)]
    if None in classes and any(c is not None for c in classes):
        known = [k for k, c in enumerate(classes) if c is not None]
        say(f"{len(classes) - len(known)} pictures without a class are left out")
        seen, classes = [seen[k] for k in known], [classes[k] for k in known]
    most = MOST_PICTURES if None in classes else MOST_OF_KNOWN
    if len(seen) > most:
        some = np.linspace(0, len(seen) - 1, most).round().astype(int)
        say(f"{most} of {len(seen)} pictures are tried, evenly taken")
        seen, classes = [seen[k] for k in some], [classes[k] for k in some]
    return found, Trial(scorer, seen, [c for c in classes if c is not None] or None)


def _read(given: Sequence[Dataset]) -> tuple[list[np.ndarray], list[int | None]]:
    """The pictures, whole, and the class of each (``None``: not known)."""
    seen, classes = list[np.ndarray](), list[int | None]()
    for data in given:
        for sample in data:
            if sample.picture is None:
                raise InputError(f"'{sample.name}' is no picture but what a model is fed with: preprocessings are tried on pictures.")
            seen.append(sample.picture)
            classes.append(sample.label)
        for name, why in data.damaged.items():
            say(f"left out: {name}: {why}", "warning")
    if not seen:
        raise InputError("none of the pictures could be read.")
    return seen, classes


def find_class(ask: Ask, word: str) -> int:
    """The index of a class, by itself or by a label."""
    if re.fullmatch(r"\d{1,9}", word.strip()):
        return int(word)
    if ask.labels is None:
        raise InputError(f"--truth '{word}' is no index, and no labels are known for '{ask.name}': give --labels FILE.")
    return find_label(ask.labels, word)


def _sizes(text: str | None) -> list[tuple[int, int]]:
    if text is None:
        return [(side, side) for side in SIZES]
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if found is None:
        raise InputError(f"--size {text} is no size; give 224, or 224x320 (height x width).")
    return [(int(found[1]), int(found[2] or found[1]))]


# ----- what comes of it -----


def _picked(evidence: Ranked, pick: int | None) -> int:
    """The place of the row that is taken."""
    if pick is not None and pick > len(evidence.tried):
        raise InputError(f"--pick {pick}: there are {len(evidence.tried)} rows.")
    return 0 if pick is None else pick - 1


def _with_part(usual: Candidate, parts: Ranked | None) -> tuple[Preprocess, str]:
    """The preprocessing with the part of the picture that is seen, and how that is known. Answers tell it where classes are known only:
    what sees more of a picture is the more stable anyway.
    """
    if parts is not None and not parts.open:
        taken = parts.tried[0].candidate
        return taken.how, f"{taken.part} (decided by the answers)"
    return usual.how, f"{usual.part} (the usual one; the answers do not decide it)"


def _agreed(how: Preprocess, target: Path) -> bool:
    """Whether a person at a terminal says yes to writing it."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        show(f"\n{as_toml(how)}\nnothing is written without --yes ({near(str(target))})")
        return False
    show(f"\n{as_toml(how)}")
    return typer.confirm(f"write this to {near(str(target))}?", err=True)


def _toml(how: Preprocess, trial: Trial, evidence: Ranked, chosen: int, part: str) -> str:
    """The file, with where it is from."""
    known = "of known classes" if evidence.labelled else "by how sure and stable the answers are"
    told = [
        f"Written by onnxsal init {version('onnxsal')}: {words(evidence.tried[chosen].candidate)}.",
        f"Row {chosen + 1} of {len(evidence.tried)} that were tried on {len(trial.pictures)} pictures {known}.",
        f"Part of the picture: {part}.",
        *([f"Not decided by the evidence: {evidence.open}."] if evidence.open else []),
        *([f"Picked by hand; the answers speak for {words(evidence.tried[0].candidate)}."] if chosen and not evidence.open else []),
    ]
    return "".join(f"# {line}\n" for line in told) + as_toml(how)


HEAD = ("", "colours", "values", "layout", "size", "accuracy", "probability", "confidence", "agreement", "entropy", "behind", "")


def _rows(evidence: Ranked) -> list[tuple[str, ...]]:
    rows = list[tuple[str, ...]]()
    for number, one in enumerate(evidence.tried):
        ahead, how = evidence.lead(number), one.candidate.how
        told = "" if not number else f"{ahead.mean:.2f} ± {ahead.error:.2f}"
        size = "x".join(map(str, how.size or ()))
        accuracy = "" if one.accuracy is None else f"{one.accuracy:.0%}"
        cells = (f"{np.exp(one.mean):.3g}", f"{one.confidence:.2f}", f"{one.agreement:.0%}", f"{one.entropy:.2f}", told)
        verdict = "" if not number else "alike" if ahead.alike else "" if ahead.decides else "not decided"
        rows.append((str(number + 1), how.channels, one.candidate.values, how.layout, size, accuracy, *cells, verdict))
    return rows


def _tell(found: PictureInput, trial: Trial, evidence: Ranked, parts: Ranked | None, part: str, chosen: int) -> None:
    """The evidence, for people."""
    count = len(trial.pictures)
    show(f"{found}\n{count} picture(s){', of known classes' if evidence.labelled else ''}, each looked at {trial.count} times\n")
    rows = _rows(evidence)
    used = [k for k in range(len(HEAD)) if any(row[k] for row in rows)]
    show_table([HEAD[k] for k in used], [[row[k] for k in used] for row in rows], [*HEAD[:1], *HEAD[5:11]])
    what = "its class" if evidence.labelled else "what the other looks at the same picture say"
    show(f"probability: the geometric mean of what each look gives to {what}; behind: nats behind the first, ± its standard error")
    for name, why in evidence.refused.items():
        say(f"the model does not run on {name}: {why}")
    if parts is not None:
        _tell_parts(parts)
    show(f"\npart of the picture: {part}")
    if not evidence.open:
        show(f"decided: {words(evidence.tried[0].candidate)}")
    if chosen:
        show(f"picked: {words(evidence.tried[chosen].candidate)}")


def _tell_parts(parts: Ranked) -> None:
    cells = [(one.candidate.part, f"{np.exp(one.mean):.3g}", f"{one.confidence:.2f}", f"{one.agreement:.0%}") for one in parts.tried]
    show("")
    show_table(("part of the picture", "probability", "confidence", "agreement"), cells, ("probability", "confidence", "agreement"))


def _facts(evidence: Ranked, parts: Ranked | None, how: Preprocess, part: str, written: str | None) -> dict[str, Any]:
    """The same for machines."""

    def told(found: Ranked) -> list[dict[str, Any]]:
        return [
            {
                "preprocess": {k: v for k, v in asdict(one.candidate.how).items() if v is not None},
                "values": one.candidate.values,
                "part": one.candidate.part,
                **{k: getattr(one, k) for k in ("mean", "confidence", "agreement", "entropy", "accuracy")},
                "behind": asdict(found.lead(number)) if number else None,
                "answers": one.answers.argmax(1).tolist(),
            }
            for number, one in enumerate(found.tried)
        ]

    chosen = {k: v for k, v in asdict(how).items() if v is not None}
    return {
        "tried": told(evidence),
        "parts": [] if parts is None else told(parts),
        "refused": evidence.refused,
        "ambiguous": evidence.open or None,
        "preprocess": chosen,
        "part": part,
        "written": written,
    }
