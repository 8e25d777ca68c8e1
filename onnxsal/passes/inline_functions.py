"""Inline local functions and expand operators that the standard defines by a body and that have no gradient of their own."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import onnx
from onnx import inliner

from onnxsal.errors import ModelError
from onnxsal.graph.infer import infer_shapes
from onnxsal.large import light_copy
from onnxsal.passes.base import Pass, PassOutcome, forget_unused_domains
from onnxsal.untrusted import library_text

Known = Callable[[str, str], bool]


def _inline(proto: onnx.ModelProto) -> PassOutcome:
    names = sorted({f.name for f in proto.functions})
    try:
        result = inliner.inline_local_functions(_typed(light_copy(proto)), convert_version=True)
    except Exception as error:
        raise ModelError(
            f"the model's local functions {', '.join(names)} cannot be inlined: {library_text(error)}. Export it without functions."
        ) from error
    domains = {f.domain for f in proto.functions}
    _replace_graph(proto, result)
    forget_unused_domains(proto, domains)
    return PassOutcome(len(names), f"inlined local functions {', '.join(names)}")


def _replace_graph(proto: onnx.ModelProto, result: onnx.ModelProto) -> None:
    """Take nodes and opsets of ``result``; everything else of the model stays as it was."""
    del proto.graph.node[:]
    proto.graph.node.extend(result.graph.node)
    del proto.functions[:]
    proto.functions.extend(result.functions)
    del proto.opset_import[:]
    proto.opset_import.extend(result.opset_import)


INLINE = Pass(
    "inline functions",
    _inline,
    requires=lambda proto: "" if proto.functions else "the model has no local functions",
    ensures=lambda proto: "" if not proto.functions else "local functions remain",
    rewrites=True,
)


def has_body(op_type: str, opset: int) -> bool:
    """Whether the standard gives the operator a function body at this opset."""
    try:
        schema = onnx.defs.get_schema(op_type, opset, "")
    except onnx.defs.SchemaError:
        return False
    return bool(schema.has_function or schema.has_context_dependent_function)


def _typed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every tensor has its type written down, initialisers included: bodies are chosen by type."""
    typed = infer_shapes(proto)
    written = {v.name for v in (*typed.graph.value_info, *typed.graph.input)}
    typed.graph.value_info.extend(
        onnx.helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in typed.graph.initializer if t.name not in written
    )
    return typed


def _name_bodies(before: onnx.ModelProto, after: onnx.ModelProto, operators: Sequence[str]) -> None:
    """Nodes of a body are called ``<node>/<operator>/<node of the body><number>``, so that messages say what stands in the user's model."""
    taken = {t.name for t in (*before.graph.input, *before.graph.initializer)} | {o for n in before.graph.node for o in n.output}
    owner = {o: n for n in before.graph.node if n.op_type in operators and n.domain in ("", "ai.onnx") for o in n.output if o}
    kept = {o for n in before.graph.node for o in n.output} - owner.keys()
    for number, node in reversed(list(enumerate(after.graph.node))):
        of = next((owner[o] for o in node.output if o in owner), None)
        if of is None or kept & set(node.output):
            continue
        node.name = f"{of.name or of.output[0]}/{of.op_type}/{node.op_type}{number}"
        owner |= {name: of for name in node.input if name and name not in taken}


def expand_bodies(known: Known) -> Pass:
    """A pass that expands standard operators that are not ``known`` (domain, operator) but have a function body."""

    def wanted(proto: onnx.ModelProto) -> list[str]:
        opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
        types = {n.op_type for n in proto.graph.node if n.domain in ("", "ai.onnx")}
        return sorted(t for t in types if not known("", t) and has_body(t, opset))

    def run(proto: onnx.ModelProto) -> PassOutcome:
        expanded: list[str] = []
        while names := [n for n in wanted(proto) if n not in expanded]:
            try:
                result = inliner.inline_selected_functions(
                    _typed(light_copy(proto)), [("", n) for n in names], exclude=False, inline_schema_functions=True
                )
            except Exception as error:
                raise ModelError(
                    f"operators {', '.join(names)} cannot be expanded by the bodies that the standard gives them: {library_text(error)}. "
                    "Export the model with an older opset, in which they are written out."
                ) from error
            _name_bodies(proto, result, names)
            _replace_graph(proto, result)
            expanded += names
        return PassOutcome(len(expanded), f"expanded by their function bodies: {', '.join(expanded)}" if expanded else "")

    return Pass(
        "expand bodies",
        run,
        requires=lambda proto: "" if wanted(proto) else "no operator needs its function body",
        rewrites=True,
    )
