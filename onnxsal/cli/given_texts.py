"""Texts on the command line: --text, --text-pair, and what tells how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeAlias

import typer
from rich.console import RenderableType

from onnxsal.ask.request import Ask
from onnxsal.ask.scores import COSINE
from onnxsal.cli.shell import say, show, show_drawn
from onnxsal.errors import InputError
from onnxsal.explainer import Explainer
from onnxsal.explanation import Explanation
from onnxsal.given.sample import GivenSample
from onnxsal.given.text import TEXTS, TextReader, read_lines
from onnxsal.report.text_terminal import text_in_terminal
from onnxsal.runtime.shown import ShownText

TextOption = Annotated[list[str] | None, typer.Option("--text", help="A text to explain; may be given several times.", show_default=False)]
TextPairOption = Annotated[
    list[str] | None, typer.Option("--text-pair", help="The second text of a pair, one for each --text.", show_default=False)
]
TokenizerOption = Annotated[
    Path | None, typer.Option("--tokenizer", help="The tokenizer.json of the model. [default: the one beside it]", show_default=False)
]
TruncateOption = Annotated[bool, typer.Option("--truncate", help="Cut off a text that is longer than the model takes.")]
RolesOption = Annotated[
    str | None,
    typer.Option("--roles", help="Which input is what, where nothing tells it: ids=NAME,mask=NAME,types=NAME.", show_default=False),
]

LikeOption = Annotated[
    str | None,
    typer.Option("--like", help="Explain how alike each text is to this one: the cosine of their embeddings.", show_default=False),
]

BY_COSINE = "attnlrp"
"""The method where texts are compared and none is named: it divides a cosine up among the words."""


@dataclass(frozen=True)
class GivenTexts:
    """What the options say of texts, and the files that hold some, one a line."""

    texts: Sequence[str]
    pairs: Sequence[str]
    files: Sequence[Path]
    tokenizer: Path | None = None
    truncate: bool = False
    roles: str | None = None
    like: str | None = None

    def __post_init__(self) -> None:
        if self.pairs and len(self.pairs) != len(self.texts):
            raise InputError(f"--text is given {len(self.texts)} times and --text-pair {len(self.pairs)}: a pair takes one of each.")

    def __bool__(self) -> bool:
        return bool(self.texts or self.files)

    def __len__(self) -> int:
        return len(self.texts) + len(self.files)

    @property
    def told(self) -> dict[str, str]:
        """What a record says of what texts are compared with."""
        return {} if self.like is None else {"like": self.like}

    def reader(self, explainer: Explainer) -> TextReader:
        """What turns them into the model's inputs."""
        return explainer.texts.reader(self.tokenizer, self.truncate, roles_of(self.roles))

    def samples(self, explainer: Explainer) -> list[GivenSample]:
        """All texts as samples, each with what it is compared with."""
        if not self:
            return []
        reader, found = self.reader(explainer), list[GivenSample]()
        if self.texts:
            found += reader.samples(list(zip(self.texts, self.pairs, strict=True)) if self.pairs else list(self.texts))
        for file in self.files:
            lines = read_lines(file)
            names = [file.stem] if len(lines) == 1 else [f"{file.stem}-{i}" for i in range(len(lines))]
            found += reader.samples(lines, names)
        if self.like is not None:
            reference = explainer.texts.reference(self.like, 1, reader)
            found = [replace(sample, feed={**sample.feed, **reference}) for sample in found]
        return found

    def asked(self, ask: Ask) -> Ask:
        """The request, whose score is the cosine where texts are compared. Raises ``InputError`` where another one is asked for."""
        if self.like is None:
            return ask
        if not self or ask.score not in (None, COSINE):
            raise InputError("--like TEXT is what each --text is compared with, by --score cosine: give --text, and no other score.")
        if ask.method is None:
            say(f"method {BY_COSINE}: x times the gradient of a cosine sums to about 0 (docs/text.md); --method takes another.")
        return replace(ask, score=COSINE, method=ask.method or BY_COSINE)


def roles_of(words: str | None) -> dict[str, str] | None:
    """What --roles says: role -> name of the input. Raises ``InputError`` for anything else."""
    return None if words is None else dict(_role(word) for word in words.split(","))


def _role(word: str) -> tuple[str, str]:
    role, equals, name = word.partition("=")
    if not equals:
        raise InputError(f"--roles {word}: give ROLE=NAME, such as mask=attention_mask.")
    return role.strip(), name.strip()


def without_texts(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """The inputs of other kinds, and the files of texts."""
    texts = [path for path in paths if path.suffix.lower() in TEXTS]
    return [path for path in paths if path not in texts], texts


DrawnText: TypeAlias = tuple[str, RenderableType]
"""What a text is called, and its words in colour."""


def drawn_text(sample: GivenSample, one: Explanation) -> list[DrawnText]:
    """The words of an explained text; nothing of other samples."""
    if not isinstance(sample.shown, ShownText) or one.by_token is None:
        return []
    return [(sample.name, text_in_terminal(sample.shown, one.by_token[0]))]


def show_texts(drawn: Sequence[DrawnText]) -> None:
    """Each text on stdout, in colour where there is some."""
    for name, words in drawn:
        show(name)
        show_drawn(words)
