"""What one sample is shown as beside its map: a picture, a text, a row of a table, a series or a volume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from onnxsal.runtime.session import Array

Box: TypeAlias = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of a picture, from its upper left corner; edges, so a picture of 10 pixels ends at 10."""


@dataclass(frozen=True)
class ShownMark:
    """What was asked about, in pixels of what the model saw: a ``box``, a ``point`` (across, down), or the pixels of a ``mask`` [h, w],
    bool, spread over all of it. One of them.
    """

    box: Box | None = None
    point: tuple[float, float] | None = None
    mask: Array | None = None


@dataclass(frozen=True)
class ShownPicture:
    """``seen``: what the model saw, RGB bytes [H, W, 3]. ``original``: the whole picture, upright, RGB, and ``box`` the part of it that
    ``seen`` shows; ``None`` where only the former is known, as of a batch of arrays. ``mark``: what was asked about, if that is a place.
    """

    seen: Array
    original: Image.Image | None = None
    box: Box | None = None
    mark: ShownMark | None = None


@dataclass(frozen=True)
class ShownText:
    """``texts``: one, or the two of a pair. Of each of the L tokens: ``tokens`` as the tokenizer spells it; ``spans`` (which text, first
    character, character after the last), ``None`` of special tokens and padding; ``words`` the number of the word it belongs to, counted
    through all texts, ``None`` likewise; ``padding`` whether it is there to fill up only.
    """

    texts: tuple[str, ...]
    tokens: tuple[str, ...]
    spans: tuple[tuple[int, int, int] | None, ...]
    words: tuple[int | None, ...]
    padding: tuple[bool, ...]


@dataclass(frozen=True)
class ShownRow:
    """A row of a table: the names of its columns and the values as they were given, and which elements of each input of the model every
    column became (several, of categories that are one-hot): input -> column -> positions in [F].
    """

    columns: tuple[str, ...]
    values: tuple[Any, ...]
    places: Mapping[str, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)


@dataclass(frozen=True)
class ShownValues:
    """A series [C, L] or a volume [C, D, H, W]; of a series ``rate`` places per second, ``None`` where it is not known."""

    values: Array
    rate: float | None = None


AnyShown: TypeAlias = ShownPicture | ShownText | ShownRow | ShownValues


def shown_as(given: Image.Image | Array) -> ShownPicture | ShownValues:
    """What a map is to be laid over, as it is given: an image or RGB bytes [H, W, 3], else the values of a series or a volume."""
    if isinstance(given, Image.Image):
        return ShownPicture(np.asarray(given.convert("RGB")))
    values = np.asarray(given)
    return ShownPicture(values) if values.dtype == np.uint8 and values.ndim == 3 and values.shape[2] == 3 else ShownValues(values)
