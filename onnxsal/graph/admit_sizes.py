"""No size below 0 where a slice is taken: the inference of ONNX ends the whole process there, and so does that of ONNX Runtime.

A window that is larger than what it slides over, padding that takes away more than there is, and a part of a size below 0 make such sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection

import onnx

from onnxsal.errors import ModelError
from onnxsal.graph.infer import infer_shapes, without_weights

_CUTS = {"starts"}
"""Of an operator that takes a slice, the name of an input or attribute."""
_SHRINKS = {"kernel_shape", "pads", "split", "scales", "repeats", "depth", "K", "k"}
"""Of operators that may make sizes below 0. What the standard calls so is looked up, whatever the operator."""

AGAIN = "Export the model again, for inputs of the size that it is made for."


def refuse_negative_sizes(proto: onnx.ModelProto) -> None:
    """Raise ``ModelError`` where a size that follows from the model alone is below 0, and a slice is taken behind it.

    Of an admitted model. What lies before the first slices is inferred without them, then what lies before the next, as long as something
    between them makes sizes smaller.
    """
    opsets = {o.domain: o.version for o in proto.opset_import}
    known = [_kind(n.op_type, opsets.get(n.domain, opsets.get("ai.onnx", 0)), n.domain) for n in proto.graph.node]
    cuts, shrinks = [cut for cut, _ in known], [shrink for _, shrink in known]
    if not any(cuts):
        return
    for stage in _stages(proto.graph, cuts, shrinks):
        _refuse(proto, stage)


@functools.cache
def _kind(op_type: str, version: int, domain: str) -> tuple[bool, bool]:
    """Whether the operator takes a slice, and whether it may make sizes below 0."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return False, False
    names = {formal.name for formal in schema.inputs} | set(schema.attributes)
    return not _CUTS.isdisjoint(names), not _SHRINKS.isdisjoint(names)


def _stages(graph: onnx.GraphProto, cuts: list[bool], shrinks: list[bool]) -> list[Collection[int]]:
    """The nodes before the slices of each stage: a slice belongs to the stage of those before it, unless something shrinks in between."""
    stage: dict[str, tuple[int, bool]] = {}  # of a tensor: how many stages of slices lie before it, and whether it shrank since
    levels, needed = [], set()
    for node, cut, shrink in zip(graph.node, cuts, shrinks, strict=True):
        level, shrank = max((stage.get(name, (0, False)) for name in node.input), default=(0, False))
        if cut and shrank:
            needed.add(level)
            level, shrank = level + 1, False
        levels.append(level)
        stage.update((name, (level, shrank or shrink)) for name in node.output)
    return [{i for i, level in enumerate(levels) if level <= last} for last in sorted(needed)]


def _refuse(proto: onnx.ModelProto, kept: Collection[int]) -> None:
    part = onnx.ModelProto()
    part.CopyFrom(without_weights(proto))
    del part.graph.value_info[:], part.graph.output[:]
    for i in sorted(set(range(len(part.graph.node))) - set(kept), reverse=True):
        del part.graph.node[i]
    try:
        inferred = infer_shapes(part)
    except Exception:  # onnx raises several kinds here, without a common base; that the whole contradicts itself is told later
        return
    maker: Callable[[str], onnx.NodeProto] = {name: n for n in part.graph.node for name in n.output}.__getitem__
    for value in inferred.graph.value_info:
        sizes = [d.dim_value for d in value.type.tensor_type.shape.dim if d.HasField("dim_value")]
        if any(size < 0 for size in sizes):
            node = maker(value.name)
            raise ModelError(
                f"node '{node.name or value.name}' ({node.op_type}) makes a tensor with the sizes {sizes}, "
                f"and none can be below 0: it takes away more than there is. {AGAIN}"
            )
