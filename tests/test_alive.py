"""The memory of a run: what is alive at once by the sizes of tensors, and the order of nodes that keeps little alive."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxsal
from onnxsal import Explainer
from onnxsal.facade.memory import most_alive
from onnxsal.graph import Model
from onnxsal.graph.model import captured
from tests.small_models import cnn, draw, make, node, unbatched


def wide(batch: int | str = "N") -> onnx.ModelProto:
    """x [N, 10] -> a [N, 100] -> b [N, 100] -> y [N, 5]: 400 bytes of a and of b, 20 of y for each sample."""
    nodes = [node("MatMul", "x w", "a"), node("Relu", "a", "b"), node("MatMul", "b v", "y")]
    return make(nodes, {"x": [batch, 10]}, {"y": [batch, 5]}, {"w": draw(10, 100), "v": draw(100, 5)})


@pytest.mark.parametrize(
    ("kept", "expected"),
    [
        ("d", 14),  # b, c and d
        ("a d", 17),  # a is kept beside them
    ],
)
def test_what_is_alive_at_once(kept: str, expected: int):
    """a is read by the maker of b only, b twice: 3 + 4; 4 + 5; 4 + 5 + 5."""
    nodes = [node("Relu", "x", "a"), node("Relu", "a", "b"), node("Relu", "b", "c"), node("Add", "b c", "d")]
    assert most_alive(nodes, {"a": 3, "b": 4, "c": 5, "d": 5}, kept.split()) == expected


@pytest.mark.parametrize("target_input", ["optional", "required", "fixed"])
@pytest.mark.parametrize("batch", ["N", 1, 3])
def test_the_memory_of_a_sample_by_hand(batch: int | str, target_input: str):
    """At the mask of b: the signal before and behind it, 400 bytes each, and the mask 100; y, the scores and what is told beside it.

    The weights, which are larger, are turned around at opening.
    """
    found = Explainer(wide(batch), "gradient", target_input=target_input).memory_per_sample
    assert found is not None
    assert 900 <= found <= 1000


def test_the_memory_of_a_loop_is_not_known():
    assert Explainer(cnn(), "rise", n_masks=4).memory_per_sample is None


def test_the_memory_of_a_sample_grows_with_what_it_is_made_of():
    small, large = (Explainer(cnn(size=size), "lrp_epsilon").memory_per_sample for size in (8, 16))
    assert small is not None
    assert large is not None
    assert 3.5 < large / small < 4.5
    assert Explainer(cnn(), "gradcam").memory_per_sample < Explainer(cnn(), "deeplift").memory_per_sample


def test_sizes_that_are_not_known_have_no_memory():
    assert Explainer(cnn(size="S"), "gradient").memory_per_sample is None
    assert Explainer(unbatched(), "gradient").memory_per_sample is not None


@pytest.mark.parametrize("method", ["gradient", "fullgrad", "lrp_epsilon_plus", "lrp_resnet", "deeplift", "gradcam"])
def test_what_the_signal_needs_comes_last(method: str):
    """Behind the first node that depends on the scores comes none that does not; every node comes behind those that it reads."""
    model = onnxsal.convert(cnn(), method)
    start = Explainer(cnn(), method).conversion.question.start.name
    behind, made = {start}, {t.name for t in model.graph.initializer} | {i.name for i in model.graph.input}
    order = []
    for one in model.graph.node:
        reads = {n for n in (*one.input, *captured(one)) if n}
        assert reads <= made
        made.update(one.output)
        if one.name.startswith("onnxsal/"):
            order.append(bool(reads & behind))
        if reads & behind:
            behind.update(one.output)
    assert order == sorted(order)
    assert True in order


def test_sums_of_relevance_are_not_held_from_the_first():
    """The sum that a layer's relevance is divided by is made when the layer above has been divided, in ONNX Runtime's order."""
    depth, width = 6, 10
    nodes = [n for i in range(depth) for n in (node("Gemm", f"x{i} w{i} b", f"z{i}"), node("Relu", f"z{i}", f"x{i + 1}"))]
    nodes[0].input[0] = "x"
    weights = {f"w{i}": np.abs(draw(width, width, seed=i)) for i in range(depth)} | {"b": draw(width)}
    source = make(nodes, {"x": ["N", width]}, {f"x{depth}": ["N", width]}, weights)
    order = _as_onnx_runtime(onnxsal.convert(source, "lrp_epsilon_plus"))
    for layer in range(depth - 1):
        assert order.index(f"onnxsal/z{layer}/Add0") > order.index(f"onnxsal/z{layer + 1}/Div0")


def _as_onnx_runtime(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes in ONNX Runtime's default order: depth first from the nodes that nobody reads, at each the last maker first."""
    nodes = Model(model).nodes
    index = {n.name: i for i, n in enumerate(nodes)}
    maker = {o: n for n in nodes for o in n.proto.output if o}
    read = {name for n in nodes for name in n.proto.input}
    order: dict[str, None] = {}

    def visit(one: object) -> None:
        if one.name in order:
            return
        for other in sorted({maker[n].name: maker[n] for n in one.proto.input if n in maker}.values(), key=lambda n: -index[n.name]):
            visit(other)
        order.setdefault(one.name)

    for one in sorted((n for n in nodes if not read.intersection(n.proto.output)), key=lambda n: -index[n.name]):
        visit(one)
    return list(order)
