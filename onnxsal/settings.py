"""The one boundary for settings that somebody else wrote: text is read and parsed within limits, and checked against a schema.

A schema is a dataclass whose fields say in words what they want: ``size: Annotated[int, Wanted("a whole number", strict=True)]``.
pydantic does the checking and is imported when the first file is read; its findings come out as one message of ours, a line for each
mistake: the file, the path of the field, what is wanted, what was found.
Nothing is coerced: "false" is no switch, true is no number, 8.7 is no size.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import reprlib
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

import numpy as np

from onnxsal.disk import open_regular
from onnxsal.errors import InputError, OnnxsalError, near_miss
from onnxsal.limits import limit, refuse_over

T = TypeVar("T")

SHOWN = 20
"""So many mistakes of one file are told; of the others, how many there are."""

CUT = 600
"""Characters of one mistake that are told."""


class Wanted:
    """Phrases for what a field wants, told whatever is wrong with it; ``bounds`` are pydantic's (strict, ge, min_length).

    ``before`` brings a value into the usual form first: one number that stands for a list of them.
    """

    def __init__(self, words: str, before: Callable[[Any], Any] | None = None, **bounds: Any) -> None:
        self.words, self.before, self.bounds = words, before, bounds

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        from pydantic_core import core_schema

        made: Any = {**handler(source), **self.bounds}
        if self.before is not None:
            made = core_schema.no_info_before_validator_function(self.before, made)
        return core_schema.custom_error_schema(made, "wanted", custom_error_message=self.words)


Whole = Annotated[int, Wanted("a whole number", strict=True)]
Number = Annotated[float, Wanted("a number", strict=True, allow_inf_nan=False)]
Switch = Annotated[bool, Wanted("true or false", strict=True)]
Phrase = Annotated[str, Wanted("a text", strict=True)]
Phrases = Annotated[tuple[Phrase, ...], Wanted("a text or a list of texts", before=lambda v: [v] if isinstance(v, str) else v)]
Numbers = Annotated[
    tuple[Number, ...],
    Wanted("a number or a list of numbers", before=lambda v: v if isinstance(v, list | tuple) else [v], min_length=1),
]


def _name(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError
    return value


FileName = Annotated[Any, Wanted("a text", before=_name)]
"""The name of a file, which need not be UTF-8; pydantic's own text must be."""


def _as_pair(value: Any) -> Any:
    """One number twice, and {"height": h, "width": w}, as a pair."""
    if isinstance(value, Mapping) and set(value) == {"height", "width"}:
        return (value["height"], value["width"])
    return (value, value) if isinstance(value, int) else value


PAIR = "one number or [height, width]"
Pair = Annotated[tuple[Whole, Whole], Wanted(PAIR, before=_as_pair)]
SideOrPair = Annotated[Whole | tuple[Whole, Whole], Wanted(PAIR, before=lambda v: v if isinstance(v, int) else _as_pair(v))]
Fraction = Annotated[float, Wanted("a number from 0.01 to 10", strict=True, allow_inf_nan=False, ge=0.01, le=10)]


@dataclass_transform(frozen_default=True)
def schema(kind: type[T]) -> type[T]:
    """Makes a class a schema: a frozen dataclass that has no other keys than its own."""
    made = dataclass(frozen=True)(kind)
    made.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return made


@dataclass_transform(frozen_default=True)
def open_schema(kind: type[T]) -> type[T]:
    """As ``schema``, for what may have keys that are not read here."""
    made = dataclass(frozen=True)(kind)
    made.__pydantic_config__ = {"extra": "ignore"}  # type: ignore[attr-defined]
    return made


# ----- checking -----


def checked(kind: type[T], data: object, where: str, error: type[OnnxsalError] = InputError, hints: Mapping[str, str] | None = None) -> T:
    """``data`` as a ``kind`` (a schema, or any type). Raises ``error`` with all mistakes; ``hints`` says more of keys that are missing."""
    made, mistakes = validated(kind, data, hints)
    if mistakes:
        raise error(listed([f"{where}: {mistake}" for mistake in mistakes]))
    return made  # type: ignore[return-value]


def validated(kind: type[T], data: object, hints: Mapping[str, str] | None = None) -> tuple[T | None, list[str]]:
    """``data`` as a ``kind``, or the mistakes in it, each with the path of its field."""
    from pydantic import ValidationError

    any_kind: Any = kind
    try:
        return _adapter(any_kind).validate_python(data), []
    except ValidationError as error:
        return None, [_told(one, kind, hints or {}) for one in error.errors(include_url=False)]


def listed(mistakes: Sequence[str]) -> str:
    """Mistakes as one message, a line for each: the first of them, cut to what a message has room for, and how many there are more."""
    lines = [text if len(text) < CUT else f"{text[:CUT]}..." for text in mistakes[:SHOWN]]
    return "\n".join([*lines, *([f"{len(mistakes) - SHOWN} more mistakes."] if len(mistakes) > SHOWN else [])])


@cache
def _adapter(kind: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _told(one: Mapping[str, Any], kind: Any, hints: Mapping[str, str]) -> str:
    """One finding of pydantic in our words."""
    place = path_of(one["loc"])
    if one["type"] == "missing":
        return f"'{place}' is missing{hints.get(place, '.')}"
    if one["type"] == "unexpected_keyword_argument":
        known = [f.name for f in fields(kind)] if is_dataclass(kind) and len(one["loc"]) == 1 else []
        return f"unknown key '{place}'{near_miss(place, known)}{'; known: ' if known else ''}{', '.join(known)}."
    wanted = {"dataclass_type": "a table of keys and values", "dict_type": "a table of keys and values", "list_type": "a list"}
    wanted |= {"string_type": "a text", "bool_type": "true or false", "tuple_type": "a list", "wanted": one["msg"]}
    if one["type"] == "enum":
        wanted["enum"] = f"one of {one['ctx']['expected']}"
    return f"{place or 'it'} must be {wanted.get(one['type']) or one['msg']}, not {shown(one['input'])}."


def path_of(parts: tuple[int | str, ...]) -> str:
    """The place of a field: ``models.net.preprocess.mean[1]``."""
    text = ""
    for part in parts:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if re.fullmatch(r"[\w-]{1,60}", part) else shown(part))
    return text


def shown(value: object) -> str:
    """A value as it stands in a file, cut to what a message has room for."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 256:
        return f"a number of {value.bit_length()} bits"
    return _REPR.repr(value)


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 60
_REPR.maxlevel = 3


def numbers_of(value: object) -> np.ndarray | None:
    """A number, rows of numbers or an array as an array; ``None`` for anything else: text, truth values, tables, uneven rows."""
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return None if array.dtype.kind in "OUSMmb" else array


# ----- reading -----


def read_bytes(path: Path, what: str, most: str = "text_bytes", error: type[OnnxsalError] = InputError) -> bytes:
    """A file whole, up to the limit ``most``."""
    try:
        with open_regular(path) as file:
            data = file.read(limit(most) + 1)
    except (OSError, ValueError) as problem:  # a name with NUL is a ValueError
        raise error(f"{what} cannot be read: {getattr(problem, 'strerror', None) or problem}.") from problem
    refuse_over(most, len(data), f"{what} is too large", error)
    return data


def read_text(path: Path, what: str, most: str = "text_bytes", error: type[OnnxsalError] = InputError, nul: bool = False) -> str:
    """A text file whole: UTF-8, with or without a byte order mark, line breaks as they come; ``nul`` as ``as_text``."""
    return as_text(read_bytes(path, what, most, error), what, error, nul)


def as_text(data: bytes, what: str, error: type[OnnxsalError] = InputError, nul: bool = False) -> str:
    """Bytes as text, line breaks in one form; ``nul``: it may hold NUL, which the reader of its cells refuses."""
    try:
        text = io.StringIO(data.decode("utf-8-sig"), newline=None).read()
    except UnicodeDecodeError as problem:
        raise error(f"{what} cannot be read: it is not UTF-8 text ({problem}).") from problem
    if "\0" in text and not nul:
        raise error(f"{what} cannot be read: it is not text, it holds NUL bytes.")
    return text


def parse_toml(text: str, what: str, error: type[OnnxsalError] = InputError) -> dict[str, Any]:
    """A TOML document as plain values."""
    refuse_over("toml_bytes", len(text), f"{what} is too large", error)
    _refuse_long_keys(text, what, error)
    found: dict[str, Any] = _parsed(tomllib.loads, text, "TOML", what, error)
    return found


def parse_json(text: str, what: str, error: type[OnnxsalError] = InputError, nan: bool = False, names: bool = False) -> Any:
    """A JSON document as plain values; a key that is given twice is a mistake.

    ``nan``: NaN and infinity may stand in it; ``names``: names of files that are not UTF-8 (with surrogates, as Python reads them).
    """
    constant = float if nan else _no_constant
    return _parsed(lambda t: json.loads(t, object_pairs_hook=_once, parse_constant=constant), text, "JSON", what, error, nan, names)


def _parsed(
    parse: Callable[[str], Any], text: str, kind: str, what: str, error: type[OnnxsalError], nan: bool = False, names: bool = False
) -> Any:
    try:
        data = parse(text)
    except RecursionError as problem:
        raise error(f"{what} is nested too deeply to be read.") from problem
    except ValueError as problem:  # not TOML, not JSON, a number of 5,000 digits
        raise error(listed([f"{what} is not valid {kind}: {str(problem).rstrip('.')}."])) from problem
    refuse_odd(data, what, error, nan, names)
    return data


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"key {shown(next(k for k in keys if keys.count(k) > 1))} is given twice")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _refuse_long_keys(text: str, what: str, error: type[OnnxsalError]) -> None:
    """A key of 10,000 names is read in time that grows with its square."""
    plain = re.sub(r"\"[^\"\n]*\"|'[^'\n]*'", "q", text)
    if re.search(rf"(?:\.[ \t]*[\w-]+[ \t]*){{{limit('nesting')}}}", plain):
        raise error(f"{what}: a key joins more than {limit('nesting')} names.")


def refuse_odd(data: Any, what: str, error: type[OnnxsalError] = InputError, nan: bool = False, names: bool = False) -> None:
    """Raise ``error`` for what no settings hold: depth, numbers over 64 bits, NaN, and text that cannot be written."""
    if odd := [f"{what}: {path_of(place) or 'it'} {why}." for place, why in _odd(data, nan, names)]:
        raise error(listed(odd))


def _odd(data: Any, nan: bool, names: bool) -> Iterator[tuple[tuple[int | str, ...], str]]:
    most = limit("nesting")
    todo: list[tuple[Any, tuple[int | str, ...]]] = [(data, ())]
    while todo:
        value, place = todo.pop()
        if isinstance(value, dict | list | tuple):
            if len(place) >= most:
                yield place[:3], f"lies in more than {most} tables and lists"
                return
            inner = value.items() if isinstance(value, dict) else enumerate(value)
            todo += [(each, (*place, key if isinstance(key, int | str) else str(key))) for key, each in inner]
            if isinstance(value, dict):
                longest = max((len(key) for key in value if isinstance(key, str)), default=0)
                if longest > limit("name_length"):
                    yield place, f"has a key of {longest:,} characters"
                todo += [(key, place) for key in value if isinstance(key, str) and not key.isascii()]
        elif isinstance(value, bool):
            continue
        elif isinstance(value, int) and value.bit_length() > 64:
            yield place, f"is {shown(value)}, a whole number over 64 bits"
        elif isinstance(value, float) and not nan and not math.isfinite(value):
            yield place, f"is {value}, which is no number"
        elif isinstance(value, str) and not _writable(value, names):
            yield place, "is no text that can be written: it holds NUL or half a character"


def _writable(text: str, names: bool) -> bool:
    return "\0" not in text and (names or text.isascii() or not re.search("[\ud800-\udfff]", text))


def read_config(path: str | os.PathLike[str], what: str = "", error: type[OnnxsalError] = InputError) -> dict[str, Any]:
    """A TOML (by its suffix) or JSON file as a dict of plain values, or one clear error."""
    file = Path(path)
    what = what or f"'{file}'"
    toml = file.suffix == ".toml"
    text = read_text(file, what, "toml_bytes" if toml else "text_bytes", error)
    data = parse_toml(text, what, error) if toml else parse_json(text, what, error)
    if not isinstance(data, dict):
        raise error(f"{what} holds a {type(data).__name__}, not keys and values.")
    return data
