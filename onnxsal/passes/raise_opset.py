"""Raise an old opset to 18, around the known faults of ONNX's version converter; the caller compares outputs before and after."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import helper, version_converter

from onnxsal.errors import ModelError
from onnxsal.graph.infer import inferred, without_weights
from onnxsal.graph.standard import nodes
from onnxsal.large import light_copy
from onnxsal.ops.history import REPAIRS
from onnxsal.passes.base import Pass, PassOutcome
from onnxsal.untrusted import library_text

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
    if version > HIGHEST:
        raise ModelError(
            f"the model uses opset {version}; ONNX Runtime loads opset {HIGHEST} at most. Export it with opset_version={HIGHEST} or lower."
        )
    return f"opset {version} is {LOWEST} or higher" if version >= LOWEST else ""


def _run(proto: onnx.ModelProto) -> PassOutcome:
    before = opset(proto)
    if not before:  # all of it stands in other domains, such as a classical model; what these are written in has a version
        proto.opset_import.add(version=LOWEST)
        return PassOutcome(1, f"imported opset {LOWEST}")
    _drop_weight_inputs(proto)
    for repair in REPAIRS:
        if before < repair.since and repair.first:
            repair.apply(proto)
    metadata = {n.output[0]: (n.doc_string, list(n.metadata_props)) for n in proto.graph.node if n.output}
    proto.ir_version = max(proto.ir_version, IR_VERSION)
    try:
        result = version_converter.convert_version(light_copy(proto), LOWEST)
    except Exception as error:
        raise _not_raised(proto, before, error) from error
    _take_graph(proto, result)
    for repair in REPAIRS:
        if before < repair.since and not repair.first:
            repair.apply(proto)
    for node in proto.graph.node:
        doc, props = metadata.get(node.output[0], ("", []))
        if not node.doc_string:
            node.doc_string = doc
        if not node.metadata_props:
            node.metadata_props.extend(props)
    return PassOutcome(1, f"raised opset {before} to {LOWEST}")


def _not_raised(proto: onnx.ModelProto, before: int, error: Exception) -> ModelError:
    """What is said where ONNX's version converter fails: which node it fails at (where it does so for that node alone), and what to do."""
    advice = f"Export the model with opset_version={LOWEST} or higher."
    for node in nodes(proto):
        name = f"node '{node.name or next(filter(None, node.output), '')}' ({node.op_type}, opset {before})"
        if node.domain in ("", "ai.onnx") and not _has_schema(node.op_type):
            return ModelError(
                f"{name}: the standard has no such operator, so the model cannot be raised to opset {LOWEST}. "
                "Export it with standard operators, or give the node the domain that it belongs to."
            )
    known = {v.name: v for v in inferred(without_weights(proto)).graph.value_info} | {v.name: v for v in proto.graph.input}
    known |= {t.name: helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in proto.graph.initializer}
    for node in proto.graph.node:
        try:
            _raised_alone(node, known, proto)
        except Exception as why:  # onnx raises several kinds here, without a common base
            text = library_text(why)
            reason = f" ({text})" if text else ""
            name = f"node '{node.name or next(filter(None, node.output), '')}' ({node.op_type}, opset {before})"
            return ModelError(f"{name} has a form that ONNX's version converter cannot raise to opset {LOWEST}{reason}. {advice}")
    text = library_text(error)
    return ModelError(
        f"the model uses opset {before}, and ONNX's version converter cannot raise it to {LOWEST}{': ' + text if text else ''}. {advice}"
    )


def _raised_alone(node: onnx.NodeProto, known: Mapping[str, onnx.ValueInfoProto], proto: onnx.ModelProto) -> None:
    """Raise the opset of a node by itself. Raises what onnx raises."""
    read = [known.get(name, onnx.ValueInfoProto(name=name)) for name in dict.fromkeys(filter(None, node.input))]
    made = [known.get(name, onnx.ValueInfoProto(name=name)) for name in filter(None, node.output)]
    graph = helper.make_graph([node], "alone", read, made, [t for t in light_copy(proto).graph.initializer if t.name in node.input])
    version_converter.convert_version(helper.make_model(graph, opset_imports=proto.opset_import), LOWEST)


def _has_schema(op_type: str) -> bool:
    return any(schema.name == op_type and not schema.domain for schema in onnx.defs.get_all_schemas_with_history())


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


RAISE_OPSET = Pass(
    "raise opset",
    _run,
    requires=_requires,
    ensures=lambda proto: "" if opset(proto) >= LOWEST else f"the opset is still {opset(proto)}",
    rewrites=True,
)


def _run_ir(proto: onnx.ModelProto) -> PassOutcome:
    before = proto.ir_version
    _drop_weight_inputs(proto)
    proto.ir_version = min(max(before, IR_VERSION), NEWEST_IR_VERSION)
    return PassOutcome(1, f"changed IR version {before} to {proto.ir_version}")


SET_IR = Pass(
    "IR version",
    _run_ir,
    requires=lambda proto: f"IR version {proto.ir_version} is fine" if IR_VERSION <= proto.ir_version <= NEWEST_IR_VERSION else "",
)
"""IR below 4 lists weights as inputs, IR below 8 cannot hold opset 18's types, and ONNX Runtime loads up to 13."""
