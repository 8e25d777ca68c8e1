"""No size below 0 where a slice is taken: the inference of ONNX ends the whole process there, and so does that of ONNX Runtime.

A window that is larger than what it slides over, padding that takes away more than there is, and a part of a size below 0 make such sizes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import onnx

from onnxsal.errors import ModelError
from onnxsal.graph.infer import without_weights

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
    light = without_weights(proto).graph
    made = {v.name: v for v in light.input}
    for nodes in _stages(light, cuts, shrinks):
        made |= _inferred(light, nodes, made, proto.opset_import)


@functools.cache
def _kind(op_type: str, version: int, domain: str) -> tuple[bool, bool]:
    """Whether the operator takes a slice, and whether it may make sizes below 0."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return False, False
    names = {formal.name for formal in schema.inputs} | set(schema.attributes)
    return not _CUTS.isdisjoint(names), not _SHRINKS.isdisjoint(names)


def _stages(graph: onnx.GraphProto, cuts: list[bool], shrinks: list[bool]) -> list[list[onnx.NodeProto]]:
    """The nodes between slices that are to be looked at, in turn: a slice belongs to what lies before it, unless something shrank there."""
    stage: dict[str, tuple[int, bool]] = {}  # of a tensor: how many stages lie before it, and whether it shrank in its own
    stages: list[list[onnx.NodeProto]] = [[]]
    for node, cut, shrink in zip(graph.node, cuts, shrinks, strict=True):
        level, shrank = max((stage[name] for name in node.input if name in stage), default=(0, False))
        if cut and shrank:
            level, shrank = level + 1, False
        stages += [[] for _ in range(level + 1 - len(stages))]
        stages[level].append(node)
        stage.update((name, (level, shrank or shrink)) for name in node.output)
    return stages[:-1]


def _inferred(
    graph: onnx.GraphProto, nodes: list[onnx.NodeProto], known: Mapping[str, onnx.ValueInfoProto], opsets: Sequence[onnx.OperatorSetIdProto]
) -> dict[str, onnx.ValueInfoProto]:
    """What the nodes make, by name. Raises ``ModelError`` for a size below 0."""
    read = {name for node in nodes for name in node.input}
    inputs, weights = [known[name] for name in read if name in known], [t for t in graph.initializer if t.name in read]
    part = onnx.helper.make_model(onnx.helper.make_graph(nodes, "part", inputs, [], weights), opset_imports=opsets)
    try:
        found = onnx.shape_inference.infer_shapes(part).graph.value_info
    except Exception:  # onnx raises several kinds here, without a common base; that the whole contradicts itself is told later
        return {}
    for value in found:
        sizes = [d.dim_value if d.HasField("dim_value") else "?" for d in value.type.tensor_type.shape.dim]
        if any(size < 0 for size in sizes if isinstance(size, int)):
            node = next(n for n in nodes if value.name in n.output)
            raise ModelError(
                f"node '{node.name or value.name}' ({node.op_type}) makes a tensor with the sizes [{', '.join(map(str, sizes))}], "
                f"and none can be below 0: it takes away more than there is. {AGAIN}"
            )
    return {value.name: value for value in found}
