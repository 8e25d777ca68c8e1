"""Where a number that is not finite comes from: the first node that makes one of finite ones, in the forward part or on the way back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx

from onnxsal.facts.solve import ancestors
from onnxsal.graph import Model, NodeView
from onnxsal.graph.emit import PREFIX
from onnxsal.graph.load import load_model
from onnxsal.graph.model import captured
from onnxsal.runtime.providers import Providers
from onnxsal.runtime.session import open_session

Arrays = Mapping[str, np.ndarray]

MOVE_OFF = "Explain a point beside it (a little noise, another baseline), or with a method that needs no derivative (occlusion, rise)."
CHECK = "Check the preprocessing and the model's own outputs."
OF_NUMBERS = "fc"


def origin(converted: onnx.ModelProto, feed: Arrays, name: str, prefix: str, providers: Providers) -> str:
    """In words, what makes the output ``name`` of a converted model infinite or no number on ``feed``, and what to do.

    The model is run once more with the inner tensors that the output is made of as outputs. Loops keep theirs, so of what happens in one
    it is only said that it does.
    """
    model = Model(load_model(converted))
    values = _inner(model, feed, name, providers)
    found = _first(model, values, name)
    if found is None:
        return f"a number in it is too large for its type. {CHECK}"
    return _told(model, found, values, f"{prefix}{PREFIX}")


def _inner(model: Model, feed: Arrays, name: str, providers: Providers) -> Arrays:
    """The tensors that ``name`` is made of, as far as a session returns them."""
    made = [n for n in ancestors(model, [name]) if n in model.producer]
    known = set(model.output_names)
    model.proto.graph.output.extend(onnx.ValueInfoProto(name=n) for n in made if n not in known)
    session = open_session(model.proto, providers, optimise=False)
    kept = {t.name for t in session.outputs if t.dtype is not None}
    return {**feed, **session.run(dict(feed), [n for n in made if n in kept])}


def _first(model: Model, values: Arrays, name: str) -> NodeView | None:
    """The node to which a value that is not finite goes back: it reads finite numbers (and constants, which may be masks)."""
    while True:
        node = model.producer.get(name)
        if node is None:
            return None
        reads = [n for n in (*node.proto.input, *captured(node.proto)) if n in model.producer and not _is_finite(values.get(n))]
        if not reads:
            return node
        name = min(reads, key=lambda n: (not np.isnan(values[n]).any(), reads.index(n)))


def _is_finite(array: np.ndarray | None) -> bool:
    return array is None or array.dtype.kind not in OF_NUMBERS or bool(np.isfinite(array).all())


def _told(model: Model, found: NodeView, values: Arrays, inside: str) -> str:
    """The node in the user's own model, what it reads and what becomes of it."""
    made = _kind(values[found.y.name])
    if not found.name.startswith(f"{inside}/"):
        return f"{found.label} reads {_numbers(found, values)} and gives {made}. {CHECK}"
    if any(captured(found.proto)) or any(a.type == onnx.AttributeProto.GRAPH for a in found.proto.attribute):
        return f"at one of the points at which the method evaluates the model, the model or a slope becomes {made}. {MOVE_OFF}"
    node = next(_explained(model, found.name.removeprefix(f"{inside}/")), None)
    if node is None:
        return f"finite parts of it add up, or divide, to {made}. {CHECK}"
    if found.op_type == node.op_type and found.y.name.endswith(f"/{node.y.name}"):
        return f"on the baseline {node.label} reads {_numbers(found, values)} and gives {made}. Choose another baseline."
    return (
        f"the signal sent back through {node.label}, which reads {_numbers(node, values)}, becomes {made}: "
        f"its slope is infinite there, or too large for the type. {MOVE_OFF}"
    )


def _explained(model: Model, scope: str) -> Iterator[NodeView]:
    """The node that an emitted one is named after; of several the one with the longest name."""
    fitting = [n for n in model.nodes if scope.startswith(f"{n.name}/")]
    yield from sorted(fitting, key=lambda n: -len(n.name))


def _kind(array: np.ndarray) -> str:
    return "NaN" if np.isnan(array).any() else "infinity"


def _numbers(node: NodeView, values: Arrays) -> str:
    """The range of what a node reads: only numbers that were made on the way."""
    read = [values[n] for n in node.proto.input if n in values and values[n].dtype.kind in "fiu" and values[n].size]
    if not read:
        return "constants"
    return " and ".join(f"numbers from {np.nanmin(a):.6g} to {np.nanmax(a):.6g}" for a in read)
