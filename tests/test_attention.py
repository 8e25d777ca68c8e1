"""Which softmaxes weight values, in every spelling that exporters have for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from onnxsal.ask.guard import compare_on_random_input
from onnxsal.facts.attention import AttentionLayer, attention_of
from onnxsal.facts.axes import numbered
from onnxsal.graph import Model
from onnxsal.graph.load import load_model
from onnxsal.ops.registry import known
from onnxsal.passes import prepare
from tests.small_models import draw, make, node
from tests.torch_nets import export

PLAIN = [node("Softmax", "s", "p", axis=-1)]
WRITTEN_OUT = [
    node("ReduceMax", "s last", "m"),
    node("Sub", "s m", "d"),
    node("Exp", "d", "e"),
    node("ReduceSum", "e last", "t"),
    node("Div", "e t", "p"),
]
BY_RECIPROCAL = [*WRITTEN_OUT[:-1], node("Reciprocal", "t", "r"), node("Mul", "e r", "p")]
UNSHIFTED = [node("Exp", "s", "e"), node("ReduceSum", "e last", "t"), node("Div", "e t", "p")]
BY_LOGARITHM = [node("ReduceLogSumExp", "s last", "l"), node("Sub", "s l", "d"), node("Exp", "d", "p")]

GUARDED = [node("IsNaN", "p", "n"), node("Where", "n zero p", "q")]
SCALED = [node("Cast", "p", "c", to=1), node("Dropout", "c", "o"), node("Mul", "o half", "q")]
SUNK = [node("Concat", "p sink", "c", axis=-1), node("Slice", "c start four last", "q")]

PRODUCT = [node("MatMul", "q v", "a")]


def one(softmax: Sequence[onnx.NodeProto], after: Sequence[onnx.NodeProto], product: Sequence[onnx.NodeProto]) -> onnx.ModelProto:
    """Two heads of four tokens: scores s [N, 2, 4, 4], probabilities p, values v [N, 2, 4, 3], their product a."""
    weights = {
        **{"wq": draw(2, 6, 3, seed=1), "wk": draw(2, 6, 3, seed=2), "wv": draw(2, 6, 3, seed=3), "mix": draw(4, 3, seed=4)},
        **{"last": np.array([-1]), "zero": np.float32(0), "half": np.float32(0.5), "sink": np.zeros((1, 2, 4, 1), np.float32)},
        **{"start": np.array([0]), "four": np.array([4]), "flat": np.array([-1, 4, 4]), "three": np.array([-1, 4, 3])},
        **{"first": np.array([1]), "parts": np.array([-1, 2, 4, 3])},
    }
    nodes = [
        node("Unsqueeze", "x first", "u"),
        *[node("MatMul", f"u w{k}", k) for k in "qkv"],
        node("Transpose", "k", "kt", perm=[0, 1, 3, 2]),
        node("MatMul", "q kt", "s"),
        *[onnx.NodeProto.FromString(n.SerializeToString()) for n in (*softmax, *after, *product)],
        node("ReduceSum", "a", "y", keepdims=0),
    ]
    for n in nodes[5:]:  # the probabilities are called q only behind the query
        for names in (n.input, n.output):
            for i, name in enumerate(names):
                names[i] = "w" if name == "q" and n.op_type != "Exp" else name
    nodes[5].input[0] = "q"
    if not after:
        nodes.insert(-1 - len(product), node("Identity", "p", "w"))
    return make(nodes, {"x": ["N", 4, 6]}, {"y": []}, weights)


def found(model: onnx.ModelProto) -> tuple[AttentionLayer, ...]:
    return attention_of(Model(model))


@pytest.mark.parametrize(
    "softmax", [PLAIN, WRITTEN_OUT, BY_RECIPROCAL, UNSHIFTED, BY_LOGARITHM], ids=["one", "div", "mul", "unshifted", "log"]
)
@pytest.mark.parametrize("after", [[], GUARDED, SCALED, SUNK], ids=["bare", "guarded", "scaled", "sunk"])
def test_a_softmax_in_any_spelling(softmax: list[onnx.NodeProto], after: list[onnx.NodeProto]) -> None:
    """It is one thing from the scores to the probabilities, also where it is written out."""
    (layer,) = found(one(softmax, after, PRODUCT))
    assert (layer.scores, layer.weights, layer.factor, layer.product.y.name, layer.position) == ("s", "p", "w", "a", 0)
    assert (layer.axis, layer.query, layer.key) == (3, 2, 3)
    assert {layer.softmax.model.nodes[i].y.name for i in layer.nodes} == {n.output[0] for n in softmax}


PRODUCTS: dict[str, tuple[list[onnx.NodeProto], int]] = {
    "einsum": ([node("Einsum", "q v", "a", equation="bhqk,bhkd->bqhd")], 0),
    "heads in the batch": (
        [node("Reshape", "q flat", "f"), node("Reshape", "v three", "g"), node("MatMul", "f g", "a")],
        0,
    ),
    "transposed": (
        [
            node("Transpose", "q", "f", perm=[0, 1, 3, 2]),
            node("Transpose", "v", "g", perm=[0, 1, 3, 2]),
            node("MatMul", "g f", "a"),
        ],
        1,
    ),
    "einsum, values first": ([node("Einsum", "v q", "a", equation="bhkd,bhqk->bhdq")], 1),
    "one head of values": ([node("ReduceMean", "v first", "g"), node("MatMul", "q g", "a")], 0),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_query_and_key_are_axes_of_the_probabilities(name: str) -> None:
    product, position = PRODUCTS[name]
    (layer,) = found(one(PLAIN, [], product))
    assert (layer.axis, layer.query, layer.key, layer.position) == (3, 2, 3, position)


NONE: dict[str, list[onnx.NodeProto]] = {
    "a constant matrix": [node("MatMul", "q mix", "a")],
    "a product element by element": [node("ReduceMean", "v last", "g"), node("Mul", "q g", "a")],
    "averaged probabilities": [node("ReduceMean", "q first", "a", keepdims=0)],
    "the largest one": [node("ReduceMax", "q last", "g"), node("MatMul", "g v", "a")],
    "a sum with something else": [node("Add", "q s", "g"), node("MatMul", "g v", "a")],
}


@pytest.mark.parametrize("name", NONE)
def test_what_weights_no_values(name: str) -> None:
    assert not found(one(PLAIN, [], NONE[name]))


def test_two_products_of_one_softmax_are_two() -> None:
    both = [node("MatMul", "q v", "a1"), node("MatMul", "q s", "a2"), node("ReduceSum", "a1", "b1"), node("Add", "a2 b1", "a")]
    assert [layer.product.y.name for layer in found(one(PLAIN, [], both))] == ["a1", "a2"]


# ----- exporters -----


class Block(nn.Module):
    """One block of attention with a head behind it: a class token's row, or the last one."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.qkv, self.out, self.norm, self.head = nn.Linear(8, 24), nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.whole = nn.MultiheadAttention(8, 2, batch_first=True)

    def attend(self, x: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        if self.kind == "causal":
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        elif self.kind == "boolean mask":
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=x[:, None, None, :, 0] > -1)
        elif self.kind == "added mask":
            mask = torch.where(x[:, None, None, :, 0] > -1, 0.0, -10000.0)
            mixed = torch.softmax(q @ k.transpose(-1, -2) / math.sqrt(width // 2) + mask, -1) @ v
        else:
            mixed = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        y = x + (self.whole(y, y, y, need_weights=False)[0] if self.kind == "whole" else self.attend(y))
        return torch.softmax(self.head(y[:, 0]), -1)


EXPORTS = [
    *[("dynamo", opset, kind) for opset in (18, 23) for kind in ("causal", "boolean mask")],
    *[("legacy", opset, kind) for opset in (14, 17) for kind in ("plain", "causal", "boolean mask")],
    ("legacy", 14, "added mask"),
    ("legacy", 17, "whole"),
]


def read(proto: onnx.ModelProto) -> Model:
    """The model as every method sees it."""
    return prepare(load_model(proto), known, compare_on_random_input).model


@pytest.mark.parametrize(("exporter", "opset", "kind"), EXPORTS)
def test_attention_of_both_exporters(exporter: str, opset: int, kind: str) -> None:
    """One layer, its axes and its scores; not the softmax over the classes behind it."""
    torch.manual_seed(0)
    proto = export(Block(kind).eval(), exporter, opset, example=torch.randn(2, 5, 8))
    (layer,) = attention_of(read(proto))
    rank = layer.softmax.y.rank
    assert (layer.axis % rank, layer.query, layer.key) == (rank - 1, rank - 2, rank - 1)
    assert layer.position == 0
    assert layer.scores


def test_a_table_that_is_cut_to_the_number_of_tokens() -> None:
    """Sizes are filled in with small numbers too: the table of positions holds no more than 64."""
    nodes = [
        node("Shape", "x", "l", start=1, end=2),
        node("Slice", "table zero l zero", "positions"),
        node("Add", "x positions", "y"),
    ]
    weights = {"table": draw(64, 6), "zero": np.array([0])}
    for batch in ("N", 2):
        model = Model(make(nodes, {"x": [batch, "L", 6]}, {"y": [batch, "L", 6]}, weights))
        assert any(view.value("y").static for view in numbered(model, model.value("x")))
