"""Changes at random: of a protobuf message any field of any message inside it, by its kind; of a file its bytes."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.message import Message

NUMBERS = (0, 1, -1, 2, 3, 7, 99, -4, 2**31 - 1, 2**31, -(2**31), 2**40, 2**60, 2**63 - 1, -(2**63))
FLOATS = (0.0, -1.0, 1e-45, 1e38, float("inf"), float("nan"))
TEXTS = ("", "x", "y", "Relu", "Loop", "Einsum", "RandomNormal", "ai.onnx.ml", "\x1b[2J", "a" * 9999, "../x", "ij,jk->", "\u00e9")


def mutated(message: Message, draw: random.Random) -> Any:
    """A copy of the message with one to four changes."""
    copy = type(message)()
    copy.CopyFrom(message)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        _change(copy, draw)
    return copy


def _messages(message: Message) -> list[Message]:
    found = [message]
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for inner in value if field.is_repeated else (value,):
                found += _messages(inner)
    return found


def _change(message: Message, draw: random.Random) -> None:
    at = draw.choice(_messages(message))
    there = [f for f, _ in at.ListFields()]
    field = draw.choice(there) if there and draw.random() < 0.8 else draw.choice(list(at.DESCRIPTOR.fields))
    if not field.is_repeated:
        at.ClearField(field.name) if draw.random() < 0.15 or field.type == field.TYPE_MESSAGE else _set(at, field, draw)
        return
    values, kind = getattr(at, field.name), draw.randrange(4)
    if not values:
        values.add() if field.type == field.TYPE_MESSAGE else values.append(_value(field, draw))
        return
    i = draw.randrange(len(values))
    if kind == 0:
        del values[i]
    elif field.type != field.TYPE_MESSAGE:
        values[i] = _value(field, draw) if kind < 3 else draw.choice(list(values))
    elif kind == 1:
        values.add().CopyFrom(values[i])
    else:
        values[i].CopyFrom(draw.choice(list(values)))


def _set(message: Any, field: Any, draw: random.Random) -> None:
    try:
        setattr(message, field.name, _value(field, draw))
    except ValueError:  # out of the range of the field
        setattr(message, field.name, 1)


def _value(field: Any, draw: random.Random) -> Any:
    if field.cpp_type == field.CPPTYPE_STRING:
        text = draw.choice(TEXTS)
        return text if field.type == field.TYPE_STRING else draw.choice((text.encode(), b"\xff\xfe", bytes(draw.randrange(40))))
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return draw.choice(FLOATS)
    if field.cpp_type == field.CPPTYPE_ENUM:
        return draw.choice(list(field.enum_type.values)).number
    number = draw.choice(NUMBERS)
    if field.cpp_type in (field.CPPTYPE_UINT64, field.CPPTYPE_UINT32):
        number = abs(number)
    return (number + 2**31) % 2**32 - 2**31 if field.cpp_type == field.CPPTYPE_INT32 else number


def cut(data: bytes, draw: random.Random) -> bytes:
    """The bytes with one to three changes: some of them flipped, left out, doubled or put elsewhere, or the end cut off."""
    for _ in range(draw.randrange(1, 4)):
        i, j = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        near = min(j, i + draw.randrange(1, 9))
        flipped = bytes(b ^ 1 << draw.randrange(8) for b in data[i:near])
        other = bytes(draw.randrange(256) for _ in range(near - i))
        data = draw.choice(
            (data[:i] + flipped + data[near:], data[:i] + other + data[near:], data[:i] + data[near:], data[:j] + data[i:], data[:i])
        )
        if len(data) < 2:
            break
    return data
