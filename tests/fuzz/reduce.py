"""A smaller case with the same fault: parts are left out one after the other, as long as it stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message

from tests.fuzz.cases import Case


def reduced(case: Case, same: Callable[[Case], bool], seconds: float = 15) -> Case:
    """The smallest case that was found in that time for which ``same`` holds, as it does for ``case``."""
    end = time.monotonic() + seconds
    found = True
    while found and time.monotonic() < end:
        found = False
        for smaller in _smaller(case):
            if time.monotonic() > end:
                break
            if same(smaller):
                case, found = smaller, True
                break
    return case


def _smaller(case: Case) -> Iterator[Case]:
    for name, data in sorted(case.files.items(), key=lambda item: -len(item[1])):
        rest = {k: v for k, v in case.files.items() if k != name}
        yield replace(case, files=rest)
        for less in _models(data) if name.endswith(".onnx") else _parts(data):
            yield replace(case, files=rest | {name: less})


def _parts(data: bytes) -> Iterator[bytes]:
    size = len(data) // 2
    while size:
        for i in range(0, len(data), size):
            yield data[:i] + data[i + size :]
        size //= 2 if size < 64 else 4


def _models(data: bytes) -> Iterator[bytes]:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        yield from _parts(data)
        return
    for path in _paths(model):
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        _leave_out(copy, path)
        yield copy.SerializeToString()


def _paths(message: Message, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every field and every entry of a list, the outer ones first."""
    fields = message.ListFields()
    for field, value in fields:
        yield (*at, (field.name, None))
        if field.is_repeated and len(value) > 1:
            yield from ((*at, (field.name, i)) for i in reversed(range(len(value))))
    for field, value in fields:
        if field.type == field.TYPE_MESSAGE:
            for i, inner in enumerate(value) if field.is_repeated else ((None, value),):
                yield from _paths(inner, (*at, (field.name, i)))


def _leave_out(message: Any, path: tuple[Any, ...]) -> None:
    for name, i in path[:-1]:
        message = getattr(message, name) if i is None else getattr(message, name)[i]
    name, i = path[-1]
    if i is None:
        message.ClearField(name)
    else:
        del getattr(message, name)[i]
