"""What a wrapper lays out for the rules of its walk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxsal.backward.book import Book
from onnxsal.graph import Emit, NodeView, Value


@dataclass(frozen=True)
class Walk:
    """One walk, as far as the rules on its way need to know it.

    ``input`` is the explained tensor, ``book`` where what does not arrive there is written down. ``rectified``: tensors that may be read
    behind their ReLU (``engine.rectified``); ``zeros_get_nothing``: whether the elements of a tensor that are 0 get none of the signal.
    ``reference``: node index -> the same node on the reference input (DeepLIFT).
    """

    input: Value | None = None
    book: Book | None = None
    rectified: Mapping[str, Value] = field(default_factory=dict)
    zeros_get_nothing: Mapping[str, bool] = field(default_factory=dict)
    reference: Mapping[int, NodeView] | None = None


NONE = Walk()


def walk_of(op: Emit) -> Walk:
    """The walk that is being written; one of which nothing is known, where no wrapper said more."""
    return op.walk if isinstance(op.walk, Walk) else NONE
