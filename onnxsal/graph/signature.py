"""What an operator takes: how many inputs and outputs, which of them must be there, which attributes of which types."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx

_MANY = 2**31 - 1
_COUNTS = ("split", "repeats", "depth", "K")
"""How the standard calls such inputs."""
_SINGLE = onnx.defs.OpSchema.FormalParameterOption.Single


@dataclass(frozen=True)
class Signature:
    """Of an operator or function: the least and largest number of inputs and outputs, the ``needed`` inputs, attribute -> type (0: any),
    and those that are ``required``. ``one_of``: exactly one of the attributes must be there. ``counts``: inputs that are numbers of
    elements or of parts."""

    inputs: tuple[int, int]
    outputs: tuple[int, int]
    needed: tuple[int, ...]
    attributes: Mapping[str, int]
    required: Collection[str]
    one_of: bool = False
    counts: tuple[int, ...] = ()

    def misfit(self, node: onnx.NodeProto) -> str:
        """What of the node's inputs, outputs and attribute names does not fit ('' = all does)."""
        for kind, count, (least, most) in (("inputs", len(node.input), self.inputs), ("outputs", len(node.output), self.outputs)):
            if not least <= count <= most:
                wanted = f"{least}" if least == most else f"{least} or more" if most >= _MANY else f"{least} to {most}"
                return f"has {count} {kind}; the operator takes {wanted}"
        for i in self.needed:
            if i < len(node.input) and not node.input[i]:
                return f"has no input {i}, which the operator needs"
        names = [a.name for a in node.attribute]
        for name in self.required:
            if name not in names:
                return f"has no attribute '{name}', which the operator needs"
        for name in names:
            if name not in self.attributes and not name.startswith("__"):
                return f"has an attribute '{name}', which the operator does not know; known: {', '.join(self.attributes) or 'none'}"
        if self.one_of and len(names) != 1:
            return f"has {len(names)} attributes; the operator takes one of them: {', '.join(self.attributes)}"
        return ""


@functools.cache
def signature(domain: str, op_type: str, version: int) -> Signature | None:
    """By the schema of the standard; ``None`` where this onnx knows none."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None
    attributes = {name: int(a.type.value) for name, a in schema.attributes.items()}
    needed = tuple(i for i, formal in enumerate(schema.inputs) if formal.option == _SINGLE)
    required = tuple(name for name, a in schema.attributes.items() if a.required)
    # stored tensors: the standard says in words that one attribute holds the value
    stored = not schema.max_input and "value_ints" in attributes
    counts = (schema.min_input, schema.max_input), (schema.min_output, schema.max_output)
    numbers = tuple(i for i, formal in enumerate(schema.inputs) if formal.name in _COUNTS)
    return Signature(*counts, needed, attributes, required, stored, numbers)


def signature_of_function(function: onnx.FunctionProto) -> Signature:
    """Of a local function: inputs and outputs may be left out, and its attributes have any type (0)."""
    names = dict.fromkeys((*function.attribute, *(a.name for a in function.attribute_proto)), 0)
    return Signature((0, len(function.input)), (0, len(function.output)), (), names, tuple(function.attribute))
