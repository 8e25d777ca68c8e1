"""Raise an old opset to 18, around the known faults of ONNX's version converter; the caller compares outputs before and after."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper, version_converter

from onnxsal.errors import ModelError
from onnxsal.passes.base import Outcome, Pass
from onnxsal.passes.light import put_back, take_out

LOWEST = 18
"""Reductions take their axes as an input, and ScatterElements reduces, from this opset on: rules are written for it."""

HIGHEST = 26
"""Newest opset that ONNX Runtime 1.31 loads."""

IR_VERSION = 10
NEWEST_IR_VERSION = 13
"""Newest IR version that ONNX Runtime 1.31 loads; onnx 1.23 writes 14 unless told otherwise, whatever the opset."""


def opset(proto: onnx.ModelProto) -> int:
    """The version of the standard operator set that the model imports (0 = none)."""
    return int(next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0))


def _requires(proto: onnx.ModelProto) -> str:
    version = opset(proto)
    if version == 0:
        raise ModelError("the model imports no 'ai.onnx' opset; only graphs of standard operators can be explained.")
    if version > HIGHEST:
        raise ModelError(
            f"the model uses opset {version}; ONNX Runtime loads opset {HIGHEST} at most. Export it with opset_version={HIGHEST} or lower."
        )
    return f"opset {version} is {LOWEST} or higher" if version >= LOWEST else ""


def _run(proto: onnx.ModelProto) -> Outcome:
    before = opset(proto)
    _drop_weight_inputs(proto)
    if before < 7:
        _reshape_slopes(proto)
    metadata = {n.output[0]: (n.doc_string, list(n.metadata_props)) for n in proto.graph.node if n.output}
    proto.ir_version = max(proto.ir_version, IR_VERSION)
    kept = take_out(proto)
    try:
        result = version_converter.convert_version(proto, LOWEST)
    except Exception as error:
        raise ModelError(
            f"the model uses opset {before}, and ONNX's version converter cannot raise it to {LOWEST}: {error}. "
            f"Export it with opset_version={LOWEST} or higher."
        ) from error
    finally:
        put_back(proto, kept)
    _take_graph(proto, result)
    if before <= 10:
        _restore_resize(proto.graph, {})
    if before < 10:
        _forget_mask_types(proto.graph)
    for node in proto.graph.node:
        doc, props = metadata.get(node.output[0], ("", []))
        if not node.doc_string:
            node.doc_string = doc
        if not node.metadata_props:
            node.metadata_props.extend(props)
    return Outcome(1, f"raised opset {before} to {LOWEST}")


def _restore_resize(graph: onnx.GraphProto, known: dict[str, np.ndarray]) -> None:
    """Give Resize nodes (Upsample too, by now) the meaning that they had up to opset 10, which the converter forgets.

    Coordinates are asymmetric. The nearest element is the lower one when enlarging; ONNX Runtime takes the upper one when shrinking.
    """
    known = known | {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.dims and t.dims[0] <= 8 and len(t.dims) == 1}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                known[node.output[0]] = numpy_helper.to_array(attribute.t)
            if attribute.type == onnx.AttributeProto.GRAPH:
                _restore_resize(attribute.g, known)
        if node.op_type == "Resize":
            scales = known.get(node.input[2]) if len(node.input) > 2 else None
            shrinks = scales is not None and scales.size and scales.max() <= 1
            _set_attribute(node, "coordinate_transformation_mode", "asymmetric")
            _set_attribute(node, "nearest_mode", "ceil" if shrinks else "floor")


def _forget_mask_types(graph: onnx.GraphProto) -> None:
    """The mask of a Dropout was floating point up to opset 9 and is boolean now; what the model says of its type is out of date."""
    masks = {n.output[1] for n in graph.node if n.op_type == "Dropout" and len(n.output) > 1}
    kept = [onnx.ValueInfoProto.FromString(v.SerializeToString()) for v in graph.value_info if v.name not in masks]
    if len(kept) < len(graph.value_info):
        del graph.value_info[:]
        graph.value_info.extend(kept)


def _take_graph(proto: onnx.ModelProto, result: onnx.ModelProto) -> None:
    """Nodes, opset and new constants of ``result``; names, weights, inputs, outputs and metadata stay."""
    del proto.graph.node[:]
    proto.graph.node.extend(result.graph.node)
    own = {t.name for t in proto.graph.initializer} | {i.name for i in proto.graph.input}
    proto.graph.initializer.extend(t for t in result.graph.initializer if t.name not in own)
    del proto.opset_import[:]
    proto.opset_import.extend(result.opset_import)


def _drop_weight_inputs(proto: onnx.ModelProto) -> None:
    """Before IR 4 every initialiser had to be listed as an input too; from then on that would make it an optional input."""
    if proto.ir_version >= 4:
        return
    names = {t.name for t in proto.graph.initializer}
    inputs = [onnx.ValueInfoProto.FromString(i.SerializeToString()) for i in proto.graph.input if i.name not in names]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)


def _reshape_slopes(proto: onnx.ModelProto) -> None:
    """PRelu-6 slopes [C] run along axis 1; from opset 7 they broadcast from the right, so they become [C, 1, 1]."""
    ranks = {
        v.name: len(v.type.tensor_type.shape.dim)
        for v in onnx.shape_inference.infer_shapes(proto).graph.value_info
        if v.type.tensor_type.HasField("shape")
    }
    ranks |= {v.name: len(v.type.tensor_type.shape.dim) for v in proto.graph.input if v.type.tensor_type.HasField("shape")}
    slopes = {n.input[1]: ranks.get(n.input[0]) for n in proto.graph.node if n.op_type == "PRelu"}
    for tensor in proto.graph.initializer:
        rank = slopes.get(tensor.name)
        if rank is not None and len(tensor.dims) == 1 and tensor.dims[0] > 1 and rank > 2:
            array = numpy_helper.to_array(tensor).reshape(-1, *[1] * (rank - 2))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _set_attribute(node: onnx.NodeProto, name: str, value: str) -> None:
    kept = [a for a in node.attribute if a.name != name]
    copies = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in kept]
    del node.attribute[:]
    node.attribute.extend([*copies, helper.make_attribute(name, value)])


RAISE_OPSET = Pass(
    "raise opset",
    _run,
    requires=_requires,
    ensures=lambda proto: "" if opset(proto) >= LOWEST else f"the opset is still {opset(proto)}",
    rewrites=True,
)


def _run_ir(proto: onnx.ModelProto) -> Outcome:
    before = proto.ir_version
    _drop_weight_inputs(proto)
    proto.ir_version = min(max(before, IR_VERSION), NEWEST_IR_VERSION)
    return Outcome(1, f"changed IR version {before} to {proto.ir_version}")


SET_IR = Pass(
    "IR version",
    _run_ir,
    requires=lambda proto: f"IR version {proto.ir_version} is fine" if IR_VERSION <= proto.ir_version <= NEWEST_IR_VERSION else "",
)
"""IR below 4 lists weights as inputs, IR below 8 cannot hold opset 18's types, and ONNX Runtime loads up to 13."""
