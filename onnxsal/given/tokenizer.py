"""The tokenizer beside a model: ``tokenizer.json``, and what the files with it say about lengths and padding."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from onnxsal.errors import InputError
from onnxsal.graph.load import Source
from onnxsal.runtime.libraries import library
from onnxsal.settings import Phrase, Wanted, Whole, checked, open_schema, read_config, read_text
from onnxsal.untrusted import printable

TOKENIZER, SETTINGS, CONFIG = "tokenizer.json", "tokenizer_config.json", "config.json"

BESIDE_TOKENIZER = (TOKENIZER, SETTINGS, CONFIG)
"""The files that a tokenizer is read from, which lie in one folder."""

EXPORTED = "onnx"
"""The folder in which Hugging Face keeps the ONNX files of a model, below its tokenizer."""

NO_LIMIT = 10**9
"""A length that tokenizer_config.json gives (10^30) where none is known."""

T = TypeVar("T")


Length = Annotated[int, Wanted("a whole number of 1 or more", strict=True, ge=1)]


@open_schema
class TokenizerSettings:
    """What is read of a ``tokenizer_config.json``."""

    model_max_length: Annotated[float, Wanted("a number of 1 or more", ge=1)] | None = None
    padding_side: Annotated[str, Wanted("left or right", strict=True, pattern="^(left|right)$")] = "right"
    pad_token: Phrase | dict[str, Any] | None = None


@open_schema
class TextConfig:
    """What is read of the ``config.json`` of a model of texts."""

    max_position_embeddings: Length | None = None
    pad_token_id: Whole | None = None


@dataclass(frozen=True)
class KnownTokenizer:
    """A tokenizer that neither pads nor truncates by itself, as the text is what is explained.

    ``longest``: the most tokens that the model is fed with, special ones included, and the file that says so (``None``: none says).
    ``pad``: id, token and token type of what fills up, and ``pad_left`` whether it stands before the text (``pad`` is ``None``: not known).
    """

    tokenizer: Any
    file: str
    longest: tuple[int, str] | None = None
    pad: tuple[int, str, int] | None = None
    pad_left: bool = False


def tokenizer_file(model: Source, given: str | os.PathLike[str] | None = None) -> Path:
    """The file that is given, else ``tokenizer.json`` beside the model, or above it where its folder is called ``onnx``.

    Raises ``InputError`` where there is none, with where it was looked for.
    """
    if given is not None:
        file = Path(given)
        return file / TOKENIZER if file.is_dir() else file
    how = "Give --tokenizer FILE (tokenizer= in Python): the tokenizer.json that `tokenizer.save_pretrained` of transformers writes."
    if not isinstance(model, str | os.PathLike):
        raise InputError(f"texts are turned into ids by a tokenizer, and the model is no file that one could lie beside. {how}")
    folder = Path(model).parent
    folders = [folder, folder.parent] if folder.resolve().name == EXPORTED else [folder]
    found = next((place / TOKENIZER for place in folders if (place / TOKENIZER).is_file()), None)
    if found is None:
        where = " and ".join(f"'{place / TOKENIZER}'" for place in folders)
        raise InputError(f"texts are turned into ids by a tokenizer, and there is none beside the model ({where}). {how}")
    return found


def load_tokenizer(path: str | os.PathLike[str]) -> KnownTokenizer:
    """Read a ``tokenizer.json`` and what lies beside it. Raises ``InputError`` for a file that is none, ``MissingLibraryError`` without
    the extra ``text``.
    """
    file = Path(path)
    tokenizers = library("tokenizers")
    text = read_text(file, f"tokenizer '{file}'")
    try:
        tokenizer = tokenizers.Tokenizer.from_str(text)
    except BaseException as error:  # a panic in the library is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise InputError(f"'{file}' is no tokenizer that the library tokenizers can read: {_one_line(error)}") from error
    truncation, padding = tokenizer.truncation or {}, tokenizer.padding or {}
    tokenizer.no_truncation()
    tokenizer.no_padding()
    settings, config = _beside(file, SETTINGS, TokenizerSettings), _beside(file, CONFIG, TextConfig)
    lengths = [*_lengths(file, truncation, settings, config)]
    left = str(padding.get("direction", settings.padding_side)).lower() == "left"
    return KnownTokenizer(tokenizer, str(file), min(lengths, default=None), _padding(tokenizer, padding, settings, config), left)


def _beside(tokenizer: Path, name: str, kind: type[T]) -> T:
    """What a file beside the tokenizer says, as a schema; its defaults where there is no such file."""
    file = tokenizer.with_name(name)
    return checked(kind, read_config(file) if file.is_file() else {}, f"'{file}'")


def _one_line(error: BaseException) -> str:
    return printable(" ".join(str(error).split()), keep="")[:300]


def _lengths(file: Path, truncation: Mapping[str, Any], settings: TokenizerSettings, config: TextConfig) -> Iterator[tuple[int, str]]:
    """The most tokens, by each file that says it, with the words that say where."""
    if "max_length" in truncation:
        yield int(truncation["max_length"]), f"truncation in '{file}'"
    if settings.model_max_length is not None and settings.model_max_length < NO_LIMIT:
        yield int(settings.model_max_length), f"model_max_length in '{file.with_name(SETTINGS)}'"
    if config.max_position_embeddings is not None:
        yield config.max_position_embeddings, f"max_position_embeddings in '{file.with_name(CONFIG)}'"


def _padding(tokenizer: Any, padding: Mapping[str, Any], settings: TokenizerSettings, config: TextConfig) -> tuple[int, str, int] | None:
    """What fills up: as tokenizer.json says, else the token of tokenizer_config.json, else the id of config.json."""
    if "pad_id" in padding:
        return int(padding["pad_id"]), str(padding["pad_token"]), int(padding["pad_type_id"])
    token = settings.pad_token if isinstance(settings.pad_token, str) else (settings.pad_token or {}).get("content")
    known = tokenizer.token_to_id(token) if isinstance(token, str) else None
    if known is not None:
        return int(known), str(token), 0
    number = -1 if config.pad_token_id is None else config.pad_token_id  # -1 stands for none in some files, too
    token = tokenizer.id_to_token(number) if number >= 0 else None
    return None if token is None else (number, str(token), 0)
