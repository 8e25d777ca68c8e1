"""Missing values: whether a model may be fed with NaN because it puts something else in their place."""

from __future__ import annotations

from onnxsal.graph import Model
from onnxsal.ops.classical import asks_for_gaps, fills_gaps
from onnxsal.ops.registry import family_of


def takes_gaps(model: Model, name: str) -> bool:
    """Whether NaN in a tensor is replaced before anything computes with it: all that reads it, or a copy of it, fills them."""
    readers = model.consumers.get(name, [])
    return (
        bool(readers)
        and name not in model.output_names
        and all(
            asks_for_gaps(reader)
            or fills_gaps(reader, name)
            or (family_of(reader) == "movement" and len(reader.proto.output) == 1 and takes_gaps(model, reader.proto.output[0]))
            for reader in readers
        )
    )
