"""The graphs that a node runs, each as a model of its own: what is known of its tensors, and where they come from.

A body's tensors have names of their own in the whole model, so that a walk through it can stand beside it. The shapes of what goes from
step to step are those that every step keeps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxsal.facts.solve import reached
from onnxsal.graph import Model, NodeView
from onnxsal.graph.infer import Dim, Inferred, Shape, infer
from onnxsal.graph.model import all_names, captured
from onnxsal.graph.replay import rename
from onnxsal.large import WEIGHT
from onnxsal.ops.control import Choice, Frame, Repeat, frame_of
from onnxsal.ops.registry import facts_of, spec_of

Typed = tuple[int, Shape | None]

ROUNDS = 4
"""How often the shapes of what is carried are put together with those of a further step: by then each size is kept, or open."""


@dataclass(frozen=True)
class Body:
    """A graph of a node as a model, whose ``outer`` model is the node's; ``inputs`` and ``outputs`` by their names there, in order."""

    model: Model
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def captured(self) -> list[str]:
        """The tensors that it reads from around it."""
        own = {*self.inputs, *self.model.initializers, *self.model.producer}
        read = [n for node in self.model.nodes for n in (*filter(None, node.proto.input), *captured(node.proto))]
        return [n for n in dict.fromkeys([*read, *self.outputs]) if n not in own]


def data_tensors(model: Model) -> set[str]:
    """Tensors whose values depend on the values of the model's inputs; sizes of tensors do not."""
    return model.once("data", lambda: reached(model, model.input_names, lambda node: not facts_of(node).of_sizes))


def changes(model: Model, name: str) -> bool:
    """Whether the value of a tensor of the model, or of one around it, depends on what is fed."""
    if model.outer is not None and name not in model.types and name not in model.producer:
        return changes(model.outer, name)
    return bool(model.copies) or name in data_tensors(model)


def data_decides(model: Model) -> bool:
    """Whether the values that are fed decide somewhere which graph of a node runs, or how often: one decision for all that is fed."""
    return model.once("data decides", lambda: any(map(_data_decides, model.nodes)))


def least_steps(node: NodeView) -> int:
    """How often a graph runs at least, as far as a number in the file tells: one that no condition ends before."""
    known = frame_of(node)
    count = node.const(known.count) if isinstance(known, Repeat) and known.count is not None else None
    if count is None or count.size != 1 or known is None or isinstance(known, Choice) or known.going is None:
        return 0
    (body,) = bodies_of(node)
    begin, name = node.const(known.going[0]), body.outputs[known.going[2]]
    while (made := body.model.producer.get(name)) is not None and (spec := spec_of(made)) is not None and spec.keeps == "place":
        name = made.proto.input[0]
    goes_on = name == body.inputs[known.going[1]] or bool((value := body.model.constant(name)) is not None and value.all())
    begins = node.optional(known.going[0]) is None or (begin is not None and bool(begin.all()))
    return int(count.reshape(-1)[0]) if goes_on and begins else 0


def _data_decides(node: NodeView) -> bool:
    known, bodies = frame_of(node), bodies_of(node)
    if any(data_decides(body.model) for body in bodies):
        return True
    if isinstance(known, Choice):
        return changes(node.model, node.input(known.by).name)
    if known is None or known.going is None:
        return False
    asked = [node.optional(i) for i in (known.count, known.going[0]) if i is not None]
    return any(v is not None and changes(node.model, v.name) for v in asked) or changes(bodies[0].model, bodies[0].outputs[known.going[2]])


def bodies_of(node: NodeView) -> tuple[Body, ...]:
    """The graphs of a node (none where nothing is known of how it runs them)."""
    known = frame_of(node)
    return () if known is None else node.model.once(("bodies", node.index), lambda: _bodies(node, known))


def _bodies(node: NodeView, known: Frame) -> tuple[Body, ...]:
    return tuple(_body(node, known, graph, f"{node.name}/{name}/") for name, graph in known.bodies.items())


def _body(node: NodeView, known: Frame, graph: onnx.GraphProto, prefix: str) -> Body:
    proto, names = _renamed(node.model, graph, prefix)
    inputs, outputs = (tuple(names.get(v.name, v.name) for v in values) for values in (graph.input, graph.output))
    ranks = {names[v.name]: _declared(v) for v in graph.input}
    types = _types_of_inputs(node, known, inputs, ranks)
    body = _known(node, proto, inputs, outputs, types)
    steps = [(inputs[c.inside], outputs[c.made]) for c in known.carried] if isinstance(known, Repeat) and known.count is not None else []
    for _ in range(ROUNDS):
        kept = {taken: _kept(types[taken], body.model.value(made)) for taken, made in steps}
        if all(types[taken] == both for taken, both in kept.items()):
            return body
        types |= kept
        body = _known(node, proto, inputs, outputs, types)
    return _known(node, proto, inputs, outputs, types | {taken: (types[taken][0], None) for taken, _ in steps})


def _kept(given: Typed, made: object) -> Typed:
    """What two shapes have in common: a size that differs is open, and so is all of it where the number of axes does."""
    before, after = given[1], made.shape  # type: ignore[attr-defined]
    if before is None or after is None or len(before) != len(after):
        return given[0], None
    return given[0], tuple(a if a == b else None for a, b in zip(before, after, strict=True))


def _renamed(model: Model, graph: onnx.GraphProto, prefix: str) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A model of the graph in which every tensor and node of it is called ``<prefix><its name>``, and the new names."""
    taken = root_of(model).once("names", lambda: all_names(root_of(model).graph))
    own = [*(v.name for v in graph.input), *(t.name for t in graph.initializer), *(o for n in graph.node for o in n.output if o)]
    prefix = next(p for p in (f"{prefix}{i or ''}" for i in itertools.count()) if not any(f"{p}{n}" in taken for n in own))
    names = {name: f"{prefix}{name}" for name in own}
    proto = onnx.ModelProto(ir_version=model.proto.ir_version)
    proto.opset_import.extend(model.proto.opset_import)
    proto.graph.name = prefix
    for index, node in enumerate(graph.node):
        copy = proto.graph.node.add()
        copy.CopyFrom(node)
        copy.name = f"{prefix}{node.name or f'{node.op_type}_{index}'}"
        rename(copy, names)
    for tensor in graph.initializer:
        copied = proto.graph.initializer.add()
        copied.CopyFrom(tensor)
        copied.name = names[tensor.name]
    return proto, names


def root_of(model: Model) -> Model:
    """The model around all."""
    return model if model.outer is None else root_of(model.outer)


def _declared(value: onnx.ValueInfoProto) -> Shape | None:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim)


def _types_of_inputs(node: NodeView, known: Frame, inputs: tuple[str, ...], declared: Mapping[str, Shape | None]) -> dict[str, Typed]:
    """What is known of the inputs of a body before its first step. Sizes that are open get a name, which tells whether steps keep them."""
    if isinstance(known, Choice):
        return {}
    types: dict[str, Typed] = {}
    if known.iteration is not None and known.going is not None:
        step, going = inputs[known.iteration], inputs[known.going[1]]
        types = {step: (TensorProto.INT64, declared[step] or ()), going: (TensorProto.BOOL, declared[going] or ())}
    for carried in known.carried:
        value, name = node.input(carried.given), inputs[carried.inside]
        types[name] = value.dtype, _named(name, declared[name] if value.shape is None else value.shape)
    for strip in known.read:
        value, name = node.input(strip.outside), inputs[strip.inside]
        axis = None if value.shape is None else strip.axis % len(value.shape)
        types[name] = value.dtype, declared[name] if axis is None or value.shape is None else without(value.shape, axis)
    return types


def without(shape: Shape, axis: int) -> Shape:
    """The shape less an axis."""
    return (*shape[:axis], *shape[axis + 1 :])


def _named(name: str, shape: Shape | None) -> Shape | None:
    return None if shape is None else tuple(f"{name}.{axis}" if d is None else d for axis, d in enumerate(shape))


def _known(node: NodeView, proto: onnx.ModelProto, inputs: tuple[str, ...], outputs: tuple[str, ...], types: Mapping[str, Typed]) -> Body:
    """The body with what inference tells of its tensors, if its inputs are of these ``types``."""
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    plain.graph.input.extend(helper.make_tensor_value_info(n, *types[n]) for n in inputs if n in types)
    model = Model(plain, outer=node.model)
    model.within, model.output_names = node, list(outputs)
    body = Body(model, inputs, outputs)
    model.take(_inferred(body))
    made: dict[str, onnx.ValueInfoProto] = {}
    while more := {info.name: info for inner in model.nodes for info in declarations(inner) if info.name not in made}:
        made |= more
        model.take(_inferred(body, made.values()))
    around = body.captured
    plain.graph.input.extend(onnx.ValueInfoProto(name=n) for n in around if changes(node.model, n))
    model.input_names += [n for n in around if changes(node.model, n)]
    return body


def standing_alone(body: Body, more: Iterable[onnx.ValueInfoProto] = ()) -> onnx.ModelProto:
    """A model of the body whose inputs are also the tensors around it, of the types that they have there; small constants are stored."""
    outer, around = body.model.outer, body.captured
    assert outer is not None
    typed = onnx.ModelProto()
    typed.CopyFrom(body.model.proto)
    kept = [v for v in typed.graph.input if v.name in body.inputs]
    del typed.graph.input[:]
    typed.graph.input.extend(kept)
    for name in around:
        value, array = outer.value(name), outer.constant(name)
        if array is not None and array.size <= WEIGHT:
            typed.graph.initializer.append(numpy_helper.from_array(array, name))
        elif value.dtype:
            typed.graph.input.append(helper.make_tensor_value_info(name, value.dtype, value.shape))
    typed.graph.output.extend(onnx.ValueInfoProto(name=n) for n in body.outputs if n not in around)
    typed.graph.value_info.extend(more)
    return typed


def _inferred(body: Body, more: Iterable[onnx.ValueInfoProto] = ()) -> Inferred:
    """Types of the tensors of a body, those around it being what they are there."""
    found, read = infer(standing_alone(body, more)), set(body.captured)
    folded = {n: (helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in found.constants.items()}
    types = {n: t for n, t in (found.types | folded).items() if n not in read}
    return Inferred(types, {n: a for n, a in found.constants.items() if n not in read})


# ----- what is known outside -----


def declarations(node: NodeView) -> Iterator[onnx.ValueInfoProto]:
    """The shapes of what a node that repeats a graph makes, where inference tells less: it takes every step to make another shape."""
    known = frame_of(node)
    if not isinstance(known, Repeat):
        return
    (body,) = bodies_of(node)
    sizes = {d for v in node.inputs if v is not None for d in v.shape or () if isinstance(d, str)}
    for output, shape in (*_carried_shapes(node, known, body), *_stacked_shapes(node, known, body)):
        value = node.outputs[output] if output < len(node.outputs) else None
        if value is None or shape is None or (value.shape is not None and not any(d is None for d in value.shape)):
            continue
        told: list[Dim] = [d if isinstance(d, int) or d in sizes else None for d in shape]
        if value.shape is None or any(a is None and b is not None for a, b in zip(value.shape, told, strict=True)):
            yield helper.make_tensor_value_info(value.name, value.dtype, told)


def declare(proto: onnx.ModelProto, supposed: bool = False) -> list[str]:
    """Write down the shapes of what the model's loops make, and of what follows, where inference tells less; returns the tensors.

    ``supposed``: its sizes are made up.
    """
    told: dict[str, onnx.ValueInfoProto] = {}
    repeats = [n for n in proto.graph.node if isinstance(frame_of(n), Repeat)]
    while repeats and (
        found := [info for node in Model(proto, supposed=supposed).nodes for info in declarations(node) if info.name not in told]
    ):
        told |= {info.name: info for info in found}
        for info in found:
            known = next((v for v in (*proto.graph.output, *proto.graph.value_info) if v.name == info.name), None)
            if known is None:
                proto.graph.value_info.append(info)
            else:
                known.type.CopyFrom(info.type)
    return list(told)


def _carried_shapes(node: NodeView, known: Repeat, body: Body) -> Iterator[tuple[int, Shape | None]]:
    for carried in known.carried:
        yield carried.result, body.model.value(body.inputs[carried.inside]).shape


def _stacked_shapes(node: NodeView, known: Repeat, body: Body) -> Iterator[tuple[int, Shape | None]]:
    for strip in known.stacked:
        shape = body.model.value(body.outputs[strip.inside]).shape
        if shape is not None:
            axis = strip.axis % (len(shape) + 1)
            yield strip.outside, (*shape[:axis], None, *shape[axis:])


def every_node(nodes: Iterable[NodeView]) -> Iterator[NodeView]:
    """The nodes, and those of the graphs that they run."""
    for node in nodes:
        yield node
        for body in bodies_of(node):
            yield from every_node(body.model.nodes)
