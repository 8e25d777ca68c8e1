"""What operators do to the columns of a table: which column each element of an inner tensor is made of.

The columns of a tensor are whole numbers [1, ...], shaped like it for one row: the number of the column from 1, 0 where an element is a
constant, ``MIXED`` where it is made of several.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxsal.graph import NodeView
from onnxsal.ops.axes import aligned
from onnxsal.ops.classical import CLASSICAL
from onnxsal.ops.places import run_on_numbers
from onnxsal.ops.registry import facts_of, family_of, spec_of

Columns = np.ndarray

MIXED = -1

_ELEMENTWISE = frozenset({"activation", "elementwise", "add", "product", "select", "quantize"})
"""Families whose outputs are made of the elements at the same place."""


def looks_up(node: NodeView) -> bool:
    """Whether a node looks the values of a column up in a list: names or numbers of categories, which have no derivative."""
    return node.domain == CLASSICAL and node.op_type in ("CategoryMapper", "LabelEncoder", "OneHotEncoder")


def categories(node: NodeView) -> int:
    """How many elements a node makes of every one, each for a category (0: it is no such node)."""
    if node.domain != CLASSICAL or node.op_type != "OneHotEncoder":
        return 0
    return len(node.attributes.get("cats_strings") or node.attributes.get("cats_int64s") or ())


def columns_through(node: NodeView, parts: Sequence[Columns | None]) -> Columns | None:
    """The columns of a node's first output, from those of its inputs (``None``: an input that is the same for all rows); ``None`` where
    they are not followed.
    """
    first = parts[0] if parts else None
    if (count := categories(node)) and first is not None:
        return np.repeat(first[..., None], count, -1)
    spec = spec_of(node)
    if first is not None and (looks_up(node) or (spec is not None and spec.keeps == "place")):
        return first
    if node.domain == CLASSICAL and node.op_type == "ArrayFeatureExtractor":
        index = node.const(1)
        return None if index is None or first is None else np.take(first, index.reshape(-1), -1)
    if node.domain:
        return None
    if family_of(node) == "movement":
        return _moved(node, parts)
    return _met(node, parts) if family_of(node) in _ELEMENTWISE or facts_of(node).axes is aligned else None


def _moved(node: NodeView, parts: Sequence[Columns | None]) -> Columns | None:
    """Copies: the node itself, run on the numbers of the columns; elements that are moved among them are constants."""
    feeds = {}
    for i, part in enumerate(parts):
        if node.optional(i) is None:
            continue
        known = part if part is not None else node.const(i)
        if known is None:
            return None
        moves = part is not None or known.dtype.kind in "iub"
        feeds[i] = known if moves else np.zeros(known.shape, np.int64)
    found = run_on_numbers(node, feeds)
    return found[0] if found else None


def _met(node: NodeView, parts: Sequence[Columns | None]) -> Columns | None:
    """Elements at one place: of one column, whatever constants meet it there; of several they are mixed."""
    arrays = []
    for i, part in enumerate(parts):
        if part is None and node.optional(i) is not None:
            known = node.const(i)
            if known is None:
                return None
            part = np.zeros(known.shape, np.int64)
        if part is not None:
            arrays.append(part)
    try:
        laid = np.stack(np.broadcast_arrays(*arrays))
    except ValueError:  # sizes that only the run tells
        return None
    most = laid.max(0)
    lone = np.all((laid == most) | (laid == 0), 0)
    return np.where(lone, most, MIXED)
