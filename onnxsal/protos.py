"""What lies inside of an ONNX message: one place that knows which attributes hold graphs."""

from __future__ import annotations

from collections.abc import Iterator

import onnx


def graphs_in(attribute: onnx.AttributeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that an attribute holds, themselves and not copies."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The subgraphs of a node, not those inside of them."""
    for attribute in node.attribute:
        yield from graphs_in(attribute)
