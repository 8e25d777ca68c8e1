"""How much memory a part of a model takes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from onnxsal.facts.axes import numbered
from onnxsal.graph import FLOATS, Model, Value
from onnxsal.graph.admit_data import bytes_at


def bytes_of_row(model: Model, x: Value, nodes: Sequence[int]) -> int | None:
    """Bytes of all floating-point tensors that these nodes make of one row of ``x``; ``None`` where sizes beside the batch are open."""
    for seen in itertools.islice(numbered(model, x), 2):  # as it is, then with a number for its batch
        batch = (seen.value(x.name).shape or (None,))[0]
        made = [v for i in nodes for name in seen.nodes[i].proto.output if name and (v := seen.value(name)).dtype in FLOATS]
        shapes = [(v.dtype, (None,) if v.shape is None else [1 if isinstance(d, str) and d == batch else d for d in v.shape]) for v in made]
        if all(isinstance(d, int) for _, shape in shapes for d in shape):
            total = sum(bytes_at(kind, [d for d in shape if isinstance(d, int)]) for kind, shape in shapes)
            return max(total // (batch if isinstance(batch, int) else 1), 1)
    return None
