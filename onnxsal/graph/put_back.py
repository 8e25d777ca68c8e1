"""Put the operators of the file back where the walk went through their copies (``originals.py``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import onnx
from onnx import helper

from onnxsal.graph.model import captured
from onnxsal.graph.originals import Original, as_run, copied


def put_back(proto: onnx.ModelProto, originals: Sequence[Original]) -> None:
    """Put the originals back into the graph (in place), without the copies that nothing reads."""
    if not originals:
        return
    nodes = as_run(proto.graph.node, originals)
    names = [copied(name) for original in originals for name in original.outputs]
    _replace(proto, _without_unread(proto, nodes, names))
    known = {o.domain for o in proto.opset_import}
    used = {original.node.domain: original.version for original in originals if original.node.domain not in (*known, "ai.onnx")}
    proto.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in used.items())


def _without_unread(proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], ends: Sequence[str]) -> list[onnx.NodeProto]:
    """The nodes but those that make ``ends`` which nothing reads, and what was made for them alone; stored tensors go with them."""
    reads = dict[str, int]()
    for name in (n for node in nodes for n in (*node.input, *captured(node))):
        reads[name] = reads.get(name, 0) + 1
    wanted, doubtful, kept = {o.name for o in proto.graph.output}, set(ends), list[onnx.NodeProto]()
    for node in reversed(nodes):
        outputs = {name for name in node.output if name}
        if outputs and outputs <= doubtful and not any(reads.get(name) or name in wanted for name in outputs):
            for name in (*node.input, *captured(node)):
                reads[name] -= 1
                doubtful.add(name)
        else:
            kept.append(node)
    gone = {name for name in doubtful if reads.get(name) == 0 and name not in wanted}
    for i in reversed([i for i, t in enumerate(proto.graph.initializer) if t.name in gone]):
        del proto.graph.initializer[i]
    return kept[::-1]


def _replace(proto: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(copies)


@contextmanager
def run_beside(proto: onnx.ModelProto, originals: Sequence[Original]) -> Iterator[dict[str, str]]:
    """For a while the graph has the originals and their copies, and the outputs of both: yields names, an original's -> its copy's."""
    pairs = {name: copied(name) for original in originals for name in original.outputs}
    if not pairs:
        yield pairs
        return
    before = [onnx.NodeProto.FromString(n.SerializeToString()) for n in proto.graph.node]
    outputs, imports = len(proto.graph.output), len(proto.opset_import)
    own = {o.name for o in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=n) for pair in pairs.items() for n in pair if n not in own)
    put_back(proto, originals)
    try:
        yield pairs
    finally:
        _replace(proto, before)
        del proto.graph.output[outputs:], proto.opset_import[imports:]
