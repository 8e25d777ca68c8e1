"""Relevance of files with fused operators: that of the same network with everything written out by its exporter."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import onnxsal
from tests.fused_models import close
from tests.oracle import run
from tests.small_models import draw, make, node

MS = {"domain": "com.microsoft"}
N, L, D = 2, 4, 8
HEAD = [node("ReduceMean", "last one", "pooled", keepdims=0), node("Gemm", "pooled head head_b", "y")]
SHARED = {"one": np.array([1]), "head": draw(D, 3, seed=90), "head_b": draw(3, seed=91), "axis": np.array([-1])}


def model(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    read = {name for n in (*nodes, *HEAD) for name in n.input}
    kept = {k: v for k, v in (weights | SHARED).items() if k in read}
    inputs = {"x": ["N", L, D], "kept": ["N", L]} if "kept" in read else {"x": ["N", L, D]}
    return make([*nodes, *HEAD], inputs, {"y": ["N", 3]}, kept, domains={"com.microsoft": 1}, types={"kept": TensorProto.INT64})


# ----- as BERT and GPT-2: packed projections, biases, layer norms behind sums, both Gelus -----

ENCODER = {
    **{
        "qkv": draw(D, 3 * D, seed=1, scale=0.5),
        "qkv_b": draw(3 * D, seed=2),
        "out": draw(D, D, seed=3, scale=0.5),
        "out_b": draw(D, seed=4),
    },
    **{"gamma": draw(D, seed=5), "beta": draw(D, seed=6), "up": draw(D, 16, seed=7), "up_b": draw(16, seed=8), "down": draw(16, D, seed=9)},
    **{"apart": np.array([0, 0, 2, -1]), "flat": np.array([0, 0, -1]), "width": np.float32(2), "root2": np.float32(np.sqrt(2))},
    **{"unit": np.float32(1), "half": np.float32(0.5), "order": np.where(np.tril(np.ones((L, L))), 0, -1e9).astype(np.float32)},
}


def encoder(fused: bool, causal: bool) -> onnx.ModelProto:
    if fused:
        nodes = [
            node("Attention", "x qkv qkv_b", "mixed", num_heads=2, unidirectional=int(causal), **MS),
            node("MatMul", "mixed out", "o"),
            node("SkipLayerNormalization", "o x gamma beta out_b", "h", epsilon=1e-5, **MS),
            node("MatMul", "h up", "u"),
            node("BiasGelu", "u up_b", "g", **MS),
            node("MatMul", "g down", "d"),
            node("SkipLayerNormalization", "d h gamma beta", "last", epsilon=1e-5, **MS),
        ]
        return model(nodes, ENCODER)
    turns = {"q": [0, 2, 1, 3], "k": [0, 2, 3, 1], "v": [0, 2, 1, 3]}
    nodes = [
        node("MatMul", "x qkv", "packed"),
        node("Add", "packed qkv_b", "biased"),
        node("Split", "biased", "q k v", axis=-1, num_outputs=3),
        *(n for p, t in turns.items() for n in (node("Reshape", f"{p} apart", f"{p}4"), node("Transpose", f"{p}4", f"{p}h", perm=t))),
        node("MatMul", "qh kh", "scores"),
        node("Div", "scores width", "scaled"),
        *([node("Add", "scaled order", "masked")] if causal else [node("Identity", "scaled", "masked")]),
        node("Softmax", "masked", "weights", axis=-1),
        node("MatMul", "weights vh", "m4"),
        node("Transpose", "m4", "mt", perm=[0, 2, 1, 3]),
        node("Reshape", "mt flat", "mixed"),
        node("MatMul", "mixed out", "o"),
        node("Add", "o out_b", "ob"),
        node("Add", "ob x", "s"),
        node("LayerNormalization", "s gamma beta", "h", axis=-1, epsilon=1e-5),
        node("MatMul", "h up", "u"),
        node("Add", "u up_b", "ub"),
        node("Div", "ub root2", "e1"),
        node("Erf", "e1", "e2"),
        node("Add", "e2 unit", "e3"),
        node("Mul", "ub e3", "e4"),
        node("Mul", "e4 half", "g"),
        node("MatMul", "g down", "d"),
        node("Add", "d h", "s2"),
        node("LayerNormalization", "s2 gamma beta", "last", axis=-1, epsilon=1e-5),
    ]
    return model(nodes, ENCODER)


# ----- as Llama: root mean square norms, turned queries and keys, few heads of keys, a gate -----

ANGLES = np.concatenate([draw(L, 2, seed=20)] * 2, 1)
DECODER = {
    **{"gamma": draw(D, seed=5), "wq": draw(D, D, seed=1), "wk": draw(D, 4, seed=2), "wv": draw(D, 4, seed=3), "out": draw(D, D, seed=4)},
    **{"gate": draw(D, 12, seed=6), "up": draw(D, 12, seed=7), "down": draw(12, D, seed=8, scale=0.3), "epsilon": np.float32(1e-5)},
    **{
        "two": np.float32(2),
        "width": np.float32(2),
        "offset": np.array([0]),
        "cos_half": np.cos(ANGLES[:, :2]),
        "sin_half": np.sin(ANGLES[:, :2]),
    },
    **{"cos": np.cos(ANGLES), "sin": np.sin(ANGLES), "heads": np.array([0, 0, 2, -1]), "single": np.array([0, 0, 1, -1])},
    **{"flat": np.array([0, 0, -1]), "halves": np.array([2, 2]), "twice": np.array([1, 2, 1, 1])},
    **{
        "order": np.where(np.tril(np.ones((L, L))), 0, -1e9).astype(np.float32),
        "all": np.array(L, np.int32),
    },
}


def norm(x: str, y: str) -> list[onnx.NodeProto]:
    return [
        node("Pow", f"{x} two", f"{y}_2"),
        node("ReduceMean", f"{y}_2 axis", f"{y}_m", keepdims=1),
        node("Add", f"{y}_m epsilon", f"{y}_e"),
        node("Sqrt", f"{y}_e", f"{y}_r"),
        node("Div", f"{x} {y}_r", f"{y}_d"),
        node("Mul", f"{y}_d gamma", y),
    ]


def turn(x: str, y: str) -> list[onnx.NodeProto]:
    return [
        node("Split", f"{x} halves", f"{y}_a {y}_b", axis=3),
        node("Neg", f"{y}_b", f"{y}_n"),
        node("Concat", f"{y}_n {y}_a", f"{y}_h", axis=3),
        node("Mul", f"{x} cos", f"{y}_c"),
        node("Mul", f"{y}_h sin", f"{y}_s"),
        node("Add", f"{y}_c {y}_s", y),
    ]


def decoder(fused: bool) -> onnx.ModelProto:
    projections = [node("MatMul", f"n w{p}", p) for p in "qkv"]
    ends = [
        node("MatMul", "m gate", "gates"),
        node("MatMul", "m up", "ups"),
        node("Mul", "acts ups", "hidden"),
        node("MatMul", "hidden down", "d"),
    ]
    if fused:
        nodes = [
            node("SimplifiedLayerNormalization", "x gamma", "n", epsilon=1e-5),
            *projections,
            *(node("RotaryEmbedding", f"{p} offset cos_half sin_half", f"{p}r", **MS) for p in "qk"),
            node("ReduceSum", "kept one", "counts", keepdims=0),
            node("Sub", "counts one", "last_places"),
            node("Cast", "last_places", "ends", to=TensorProto.INT32),
            node("GroupQueryAttention", "qr kr v . . ends all", "mixed unused_k unused_v", num_heads=2, kv_num_heads=1, scale=0.5, **MS),
            node("MatMul", "mixed out", "o"),
            node("SkipSimplifiedLayerNormalization", "o x gamma", "m . . s", epsilon=1e-5, **MS),
            ends[0],
            node("QuickGelu", "gates", "acts", alpha=1.0, **MS),
            *ends[1:],
            node("SkipSimplifiedLayerNormalization", "d s gamma", "last", epsilon=1e-5, **MS),
        ]
        return model(nodes, DECODER)
    apart = [(p, "heads" if p == "q" else "single") for p in "qkv"]
    nodes = [
        *norm("x", "n"),
        *projections,
        *(
            n
            for p, shape in apart
            for n in (node("Reshape", f"{p} {shape}", f"{p}4"), node("Transpose", f"{p}4", f"{p}t", perm=[0, 2, 1, 3]))
        ),
        *turn("qt", "qh"),
        *turn("kt", "kh1"),
        node("Tile", "kh1 twice", "kh"),
        node("Tile", "vt twice", "vh"),
        node("Transpose", "kh", "kT", perm=[0, 1, 3, 2]),
        node("MatMul", "qh kT", "scores"),
        node("Div", "scores width", "scaled"),
        node("Add", "scaled order", "masked"),
        node("Softmax", "masked", "weights", axis=-1),
        node("MatMul", "weights vh", "m4"),
        node("Transpose", "m4", "mt", perm=[0, 2, 1, 3]),
        node("Reshape", "mt flat", "mixed"),
        node("MatMul", "mixed out", "o"),
        node("Add", "o x", "s"),
        *norm("s", "m"),
        ends[0],
        node("Sigmoid", "gates", "opened"),
        node("Mul", "gates opened", "acts"),
        *ends[1:],
        node("Add", "d s", "s2"),
        *norm("s2", "last"),
    ]
    return model(nodes, DECODER)


PAIRS = {
    "encoder": (encoder(True, False), encoder(False, False)),
    "causal": (encoder(True, True), encoder(False, True)),
    "decoder": (decoder(True), decoder(False)),
}
ASKED = [
    *(("encoder", method) for method in ("gradient", "attnlrp", "chefer")),
    *(("causal", method) for method in ("cp_lrp", "attention_rollout")),
    *(("decoder", method) for method in ("gradient", "attnlrp", "cp_lrp", "attention_rollout", "chefer")),
]


@pytest.mark.parametrize(("pair", "method"), ASKED)
def test_a_fused_file_has_the_maps_of_the_network_written_out(pair: str, method: str):
    x = {"x": draw(N, L, D)}
    kept = {"kept": np.ones((N, L), np.int64)}
    maps = [run(onnxsal.convert(m, method, target=1), x | (kept if len(m.graph.input) > 1 else {})) for m in PAIRS[pair]]
    close(maps[0]["y"], maps[1]["y"], 1e-5)
    assert np.abs(maps[1]["attribution"]).max() > 0
    close(
        maps[0]["attribution"] / np.abs(maps[1]["attribution"]).max(), maps[1]["attribution"] / np.abs(maps[1]["attribution"]).max(), 1e-5
    )
