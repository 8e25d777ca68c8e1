"""What a pass is: one file, one change to the ``ModelProto``, with what it needs, what it guarantees and why it declined."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import onnx

from onnxsal.errors import ModelError
from onnxsal.graph.originals import Original
from onnxsal.protos import graphs_of


@dataclass(frozen=True)
class PassOutcome:
    """What a pass did: how many places it changed, and a line for the log ('' = nothing to say).

    ``originals`` are nodes whose place was taken by a copy that is explained; they are put back where the model is run. ``refused`` says
    of the tensors of a node why the pass left it.
    """

    changed: int = 0
    detail: str = ""
    originals: tuple[Original, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Pass:
    """A change made in place.

    ``requires`` returns the reason why the pass declines ('' = it may run); ``run`` changes the model; ``ensures`` returns what
    is wrong afterwards ('' = the promise holds). ``rewrites`` tells that forward nodes are replaced, so that outputs may
    differ in the last bits and are compared before and after.
    """

    name: str
    run: Callable[[onnx.ModelProto], PassOutcome]
    requires: Callable[[onnx.ModelProto], str] = lambda proto: ""
    ensures: Callable[[onnx.ModelProto], str] = lambda proto: ""
    rewrites: bool = False

    def __call__(self, proto: onnx.ModelProto) -> PassOutcome:
        reason = self.requires(proto)
        if reason:
            return PassOutcome(0, f"declined: {reason}")
        outcome = self.run(proto)
        broken = self.ensures(proto)
        if broken:
            raise ModelError(f"pass '{self.name}' did not keep its promise: {broken}")
        return outcome


def forget_unused_domains(proto: onnx.ModelProto, among: Collection[str] | None = None) -> None:
    """Drop opset imports (``among`` these domains, if given) that no node uses any more, so that other runtimes load the file."""
    used = {"", "ai.onnx"} | _domains(proto.graph.node)
    kept = [o for o in proto.opset_import if o.domain in used or (among is not None and o.domain not in among)]
    copies = [onnx.OperatorSetIdProto(domain=o.domain, version=o.version) for o in kept]
    del proto.opset_import[:]
    proto.opset_import.extend(copies)


def _domains(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Domains of nodes and of the nodes in their subgraphs."""
    found: set[str] = set()
    for node in nodes:
        found.add(node.domain)
        for graph in graphs_of(node):
            found |= _domains(graph.node)
    return found
