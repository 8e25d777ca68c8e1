"""Admission of a model: its structure is sound, or it is refused before anything else reads it. ``admit`` says what holds afterwards."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

import onnx
from onnx import AttributeProto, numpy_helper

from onnxsal.errors import ModelError, ModelTooLarge
from onnxsal.graph.admit_data import LARGEST, refuse_tensor, refuse_type
from onnxsal.graph.signature import Signature, signature, signature_of_function
from onnxsal.limits import refuse_over
from onnxsal.protos import graphs_in, graphs_of

NEWEST = onnx.defs.onnx_opset_version()
WORDS = {"INT": "an int", "INTS": "a list of ints", "FLOAT": "a float", "STRING": "a string", "TENSOR": "a tensor", "GRAPH": "a graph"}
_ONE = {"f": "FLOAT", "i": "INT", "s": "STRING", "t": "TENSOR", "g": "GRAPH", "tp": "TYPE_PROTO", "sparse_tensor": "SPARSE_TENSOR"}
_LISTS = ("floats", "ints", "strings", "tensors", "graphs", "type_protos", "sparse_tensors")
FIELDS = {AttributeProto.AttributeType.Value(kind): field for field, kind in (*_ONE.items(), *((f, f.upper()) for f in _LISTS))}
"""Type of an attribute -> the field that holds its value."""

_BESIDE = {"name", "doc_string", "type", "ref_attr_name"}
_POSITIVE = {
    *("group", "groups", "num_groups", "num_heads", "q_num_heads", "kv_num_heads"),
    *("kernel_shape", "strides", "dilations", "blocksize", "hidden_size"),
}
"""Attributes that count or divide, in whichever operator of these domains."""
FEW = 64
_COUNTING = ("", "ai.onnx.ml", "com.microsoft")
_LENGTHS = {"pads", "output_padding", "output_shape", "axis", "perm", "border", "scale", "num_scan_inputs", "num_outputs", *_POSITIVE}
"""Attributes that are numbers of elements or of axes: they are added and multiplied, so they stay far from the largest number."""
AGAIN = "Export the model again; onnx.checker.check_model tells more."

Opsets: TypeAlias = Mapping[str, int]
Functions: TypeAlias = Mapping[tuple[str, str, str], Signature]


def admit(proto: onnx.ModelProto) -> None:
    """Refuse a model that is not sound in itself. Raises ``ModelError``: node, operator, what was found, what is wanted, what to do.

    Of what is admitted holds, in graphs, subgraphs and functions: all names are text. Each domain has one version, that of the standard one
    this onnx knows. Nodes of operators that have a schema have as many inputs and outputs as it says, the attributes it requires and none
    that it does not know, each once, of its type, with a value of that type and no other. A tensor has a known element type, sizes of 0 or
    more, and data that fill them to the byte. Each tensor is made once, each that is read is made by something, and none by itself.
    Functions do not call themselves, and what they make of the graph stays below the limit ``nodes``. Whether values and shapes fit each
    other is for shape inference and ONNX Runtime to say.
    """
    opsets = _opsets(proto.opset_import, "the model")
    _refuse_names("metadata", (text for p in proto.metadata_props for text in (p.key, p.value)), limited=False)
    functions: dict[tuple[str, str, str], Signature] = {}
    for function in proto.functions:
        key = (_plain(function.domain), function.name, function.overload)
        if key in functions:
            raise ModelError(f"the model defines the function '{function.name}' of domain '{function.domain}' twice. {AGAIN}")
        functions[key] = signature_of_function(function)
    _refuse_growth(proto)
    for function in proto.functions:
        _function(function, opsets, functions)
    _graph(proto.graph, "the graph", _Inside(opsets, functions, frozenset()), ())


class _Inside:
    """What a graph stands in: the versions of domains, the functions, the attributes of the function around it."""

    def __init__(self, opsets: Opsets, functions: Functions, references: Collection[str]) -> None:
        self.opsets, self.functions, self.references = opsets, functions, references
        self.numbers: dict[str, onnx.TensorProto] = {}
        """Stored tensors of a few numbers."""

    def signature(self, node: onnx.NodeProto) -> Signature | None:
        """What the operator takes; ``None`` where nobody says. Raises ``ModelError`` for a domain without a version."""
        domain = _plain(node.domain)
        function = self.functions.get((domain, node.op_type, node.overload))
        if function is not None:
            return function
        if domain not in self.opsets:
            raise ModelError(
                f"node '{node.name or node.op_type}' ({domain + '.' if domain else ''}{node.op_type}): No opset import for domain "
                f"{domain or 'ai.onnx'}; the model imports {', '.join(map(repr, self.opsets)) or 'none'}. {AGAIN}"
            )
        return signature(domain, node.op_type, self.opsets[domain])


def _plain(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


def _opsets(imports: Iterable[onnx.OperatorSetIdProto], what: str) -> dict[str, int]:
    found: dict[str, int] = {}
    for entry in imports:
        _refuse_names(what, (entry.domain,))
        domain, version = _plain(entry.domain), entry.version
        if found.setdefault(domain, version) != version:
            raise ModelError(f"{what} imports the domain '{domain or 'ai.onnx'}' in versions {found[domain]} and {version}. {AGAIN}")
        if not 0 <= version <= (LARGEST if domain else NEWEST) or not (version or domain):
            wanted = f"onnx {onnx.__version__} knows 1 to {NEWEST}" if not domain else "a version is a number from 0"
            raise ModelError(
                f"{what} imports opset {version} of '{domain or 'ai.onnx'}'; {wanted}. Export it with another, or install a newer onnx."
            )
    return found


def _refuse_names(what: str, names: Iterable[str], limited: bool = True) -> None:
    """Names are text, which protobuf gives as bytes where it is not UTF-8, and no longer than the limit."""
    for name in names:
        if not isinstance(name, str):
            raise ModelError(f"{what} is damaged: names in it are not text ({name!r:.60}). Export or download it again.")
        if limited and len(name) > 255:
            refuse_over("tensor_name_length", len(name), f"{what} has the name '{name[:40]}...'", ModelTooLarge)


# ----- functions -----


def _function(function: onnx.FunctionProto, opsets: Opsets, functions: Functions) -> None:
    what = f"function '{function.name}'"
    _refuse_names(what, (function.name, function.domain, function.overload, *function.input, *function.output, *function.attribute))
    inside = _Inside(
        {**opsets, **_opsets(function.opset_import, what)}, functions, {*function.attribute, *(a.name for a in function.attribute_proto)}
    )
    for value in function.value_info:
        refuse_type(value, what)
    for attribute in function.attribute_proto:
        _refuse_names(what, (attribute.name, attribute.ref_attr_name))
        _attribute(attribute, what, None, inside, (), False)
    _refuse_twice(what, "inputs", function.input)
    made = _nodes(function.node, what, inside, (), set(function.input))
    _refuse_missing(what, "output", function.output, (made,))


def _refuse_growth(proto: onnx.ModelProto) -> None:
    """The number of nodes when all functions are inlined; raises where they call themselves, or where it is above the limit."""
    bodies = {(_plain(f.domain), f.name, f.overload): f for f in proto.functions}
    sizes: dict[tuple[str, str, str], int] = {}
    open_: list[tuple[str, str, str]] = []

    def size(nodes: Iterable[onnx.NodeProto]) -> int:
        total = 0
        for node in nodes:
            key = (_plain(node.domain), node.op_type, node.overload)
            total += size_of(key) if key in bodies else 1
            total += sum(size(graph.node) for graph in graphs_of(node))
        return total

    def size_of(key: tuple[str, str, str]) -> int:
        if key in open_:
            raise ModelError(f"the function '{key[1]}' calls itself ({' -> '.join(k[1] for k in open_[open_.index(key) :])}). {AGAIN}")
        if key not in sizes:
            open_.append(key)
            if len(open_) > 200:
                raise ModelError(
                    f"functions call each other more than 200 deep ('{open_[0][1]}', ...). Export the model without functions."
                )
            sizes[key] = size(bodies[key].node)
            open_.pop()
        return sizes[key]

    total, largest = size(proto.graph.node), max(map(size_of, bodies), default=0)
    inlined = ", its functions inlined" if bodies else ""
    refuse_over("nodes", max(total, largest), f"the model{inlined}", ModelTooLarge)


# ----- graphs -----


def _graph(graph: onnx.GraphProto, what: str, inside: _Inside, around: Sequence[Collection[str]]) -> None:
    """A graph, or a subgraph that may also read what is made ``around`` it."""
    values = [*graph.input, *graph.output, *graph.value_info]
    _refuse_names(what, (graph.name, *(v.name for v in values)))
    for value in values:
        refuse_type(value, what)
    for tensor in graph.initializer:
        refuse_tensor(tensor, f"weight '{tensor.name}'")
    for sparse in graph.sparse_initializer:
        _sparse(sparse, f"sparse weight '{sparse.values.name}'")
    stored = {t.name for t in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    inside.numbers.update({t.name: t for t in graph.initializer if len(t.dims) < 2 and math.prod(t.dims) <= FEW})
    _refuse_names(what, stored)
    _refuse_twice(what, "inputs", [v.name for v in graph.input])
    made = _nodes(graph.node, what, inside, around, {v.name for v in graph.input} | stored)
    _refuse_missing(what, "output", [v.name for v in graph.output], (made, *around))


def _sparse(sparse: onnx.SparseTensorProto, what: str) -> None:
    for part in (sparse.values, sparse.indices):
        refuse_tensor(part, what)
    if sparse.indices.data_type != onnx.TensorProto.INT64 or len(sparse.values.dims) != 1 or any(d < 0 for d in sparse.dims):
        raise ModelError(f"{what} contradicts itself: its values are a vector, its indices int64, its sizes 0 or more. {AGAIN}")


def _refuse_twice(what: str, kind: str, names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(n for i, n in enumerate(names) if n in names[:i])
        raise ModelError(f"{what} has two {kind} of the name '{twice}'. {AGAIN}")


def _refuse_missing(what: str, kind: str, names: Iterable[str], scopes: Sequence[Collection[str]]) -> None:
    for name in names:
        if not any(name in scope for scope in scopes):
            raise ModelError(f"{kind} '{name}' of {what} is made by no node, and is no input and no weight. {AGAIN}")


def _nodes(
    nodes: Sequence[onnx.NodeProto], what: str, inside: _Inside, around: Sequence[Collection[str]], given: set[str]
) -> Collection[str]:
    """Check a list of nodes; returns the names of all tensors in it."""
    made = set(given)
    for node in nodes:
        _refuse_names(what, (node.name, node.op_type, node.domain, node.overload, *node.input, *node.output))
        for name in filter(None, node.output):
            if name in made:
                raise ModelError(f"{_label(node, inside)} makes the tensor '{name}', which something else makes too. {AGAIN}")
            made.add(name)
    ready, late, scopes = set(given), False, (made, *around)
    for node in nodes:
        _node(node, inside, scopes)
        for name in node.input:
            if name and name not in ready and name in made:
                late = True
            elif name and name not in ready and not any(name in scope for scope in around):
                raise ModelError(
                    f"{_label(node, inside)} reads the tensor '{name}', which no node makes, and which is no input and no weight. {AGAIN}"
                )
        ready.update(node.output)
    if late:
        _refuse_cycle(nodes, made - given)
    return made


def _refuse_cycle(nodes: Sequence[onnx.NodeProto], made: Collection[str]) -> None:
    """Of a list that is not in order. What subgraphs read is left to the pass that sorts."""
    readers: dict[str, list[int]] = {}
    wants = []
    for i, node in enumerate(nodes):
        needed = {n for n in node.input if n in made}
        wants.append(len(needed))
        for name in needed:
            readers.setdefault(name, []).append(i)
    ready = [i for i, count in enumerate(wants) if not count]
    for i in ready:
        for name in nodes[i].output:
            for reader in readers.get(name, ()):
                wants[reader] -= 1
                if not wants[reader]:
                    ready.append(reader)
    if len(ready) < len(nodes):
        stuck = [n.name or n.op_type for n, count in zip(nodes, wants, strict=True) if count][:5]
        raise ModelError(f"the graph has a cycle through nodes {stuck}; an ONNX graph must not. {AGAIN}")


# ----- nodes -----


def _label(node: onnx.NodeProto, inside: _Inside) -> str:
    domain = _plain(node.domain)
    version = f", opset {inside.opsets[domain]}" if domain in inside.opsets else ""
    name = node.name or next(filter(None, node.output), "")
    return f"node '{name}' ({domain + '.' if domain else ''}{node.op_type}{version})"


def _node(node: onnx.NodeProto, inside: _Inside, scopes: Sequence[Collection[str]]) -> None:
    _refuse_names(_label(node, inside), (text for a in node.attribute for text in (a.name, a.ref_attr_name)))
    known = inside.signature(node)
    if known is not None:
        fault = known.misfit(node)
        if fault:
            raise ModelError(f"{_label(node, inside)} {fault}. {AGAIN}")
        for i in known.counts:
            _refuse_numbers(inside.numbers.get(node.input[i]) if i < len(node.input) else None, f"{_label(node, inside)}: input {i}")
    if node.attribute:
        _refuse_twice(_label(node, inside), "attributes", [a.name for a in node.attribute])
        for attribute in node.attribute:
            _attribute(attribute, _label(node, inside), known, inside, scopes, _plain(node.domain) in _COUNTING)
            if attribute.type == AttributeProto.TENSOR and not node.input and math.prod(attribute.t.dims) <= FEW:
                inside.numbers[node.output[0]] = attribute.t


def _refuse_numbers(stored: onnx.TensorProto | None, what: str) -> None:
    """A number of parts is 1 or more; several numbers, one for each part or axis, are 0 or more."""
    if stored is not None:
        found = numpy_helper.to_array(stored).ravel().tolist()
        least = 0 if stored.dims else 1
        if any(number < least for number in found):
            raise ModelError(f"{what} is {found if stored.dims else found[0]}; it must be {least} or more. {AGAIN}")


def _attribute(
    attribute: AttributeProto, what: str, known: Signature | None, inside: _Inside, scopes: Sequence[Collection[str]], counts: bool
) -> None:
    """``counts``: the names of attributes that count or divide have their usual meaning."""
    name = attribute.name
    if attribute.ref_attr_name and attribute.ref_attr_name not in inside.references:
        raise ModelError(f"{what}: attribute '{name}' refers to '{attribute.ref_attr_name}', which no function around it has. {AGAIN}")
    field = FIELDS.get(attribute.type)
    stray = [f.name for f, _ in attribute.ListFields() if f.name not in _BESIDE and f.name != field]
    if field is None or stray:
        holds = f"and holds '{stray[0]}'" if stray else "of no type"
        raise ModelError(f"{what}: attribute '{name}' is {_kind(attribute.type)} {holds}, which contradict each other. {AGAIN}")
    wanted = known.attributes.get(name, 0) if known is not None else 0
    if wanted not in (0, attribute.type):
        raise ModelError(f"{what}: attribute '{name}' is {_kind(attribute.type)}; the operator takes {_kind(wanted)}. {AGAIN}")
    if not attribute.ref_attr_name:
        _value(attribute, f"{what}: attribute '{name}'", inside, scopes)
        if counts and name in _LENGTHS and attribute.type in (AttributeProto.INT, AttributeProto.INTS):
            _refuse_count(attribute, f"{what}: attribute '{name}'")


def _refuse_count(attribute: AttributeProto, what: str) -> None:
    values = (attribute.i,) if attribute.type == AttributeProto.INT else attribute.ints
    found = list(values) if len(values) != 1 else values[0]
    if attribute.name in _POSITIVE and not all(0 < v <= LARGEST for v in values):
        raise ModelError(f"{what} is {found}; it must be from 1 to {LARGEST:,}. {AGAIN}")
    if not all(abs(v) <= LARGEST for v in values):
        raise ModelError(f"{what} is {found}; nothing in it may be above {LARGEST:,}. {AGAIN}")


def _value(attribute: AttributeProto, what: str, inside: _Inside, scopes: Sequence[Collection[str]]) -> None:
    kind = attribute.type
    if kind == AttributeProto.STRING:
        try:
            attribute.s.decode()
        except UnicodeDecodeError as error:
            raise ModelError(f"{what} is no text ({attribute.s!r:.60}). {AGAIN}") from error
    elif kind in (AttributeProto.TENSOR, AttributeProto.TENSORS):
        for tensor in (attribute.t,) if kind == AttributeProto.TENSOR else attribute.tensors:
            refuse_tensor(tensor, what)
    elif kind in (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS):
        for sparse in (attribute.sparse_tensor,) if kind == AttributeProto.SPARSE_TENSOR else attribute.sparse_tensors:
            _sparse(sparse, what)
    else:
        for graph in graphs_in(attribute):
            _graph(graph, what.replace(": attribute", ", subgraph"), inside, scopes)


def _kind(code: int) -> str:
    name = AttributeProto.AttributeType.Name(code) if code in AttributeProto.AttributeType.values() else f"type {code}"
    return WORDS.get(name, name.lower().replace("_", " "))
