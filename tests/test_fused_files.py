"""Fused operators where they stand in files: in branches, loops and functions, among others of their kind, and what raw texts become."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxsal
from onnxsal.ask.guard import compare_on_random_input
from onnxsal.errors import ModelError
from onnxsal.graph.load import load_model
from onnxsal.ops.registry import known
from onnxsal.passes import prepare
from onnxsal.untrusted import library_text
from tests.fused_models import close, plain
from tests.oracle import run
from tests.small_models import draw, make, node

MS = {"domain": "com.microsoft"}
DOMAIN = {"com.microsoft": 1}


def graph(
    nodes: list[onnx.NodeProto], outputs: list[str], inputs: list[onnx.ValueInfoProto] | None = None, **weights: np.ndarray
) -> onnx.GraphProto:
    made = [helper.make_tensor_value_info(n, TensorProto.BOOL if n.startswith("go") else TensorProto.FLOAT, None) for n in outputs]
    return helper.make_graph(nodes, "inner", inputs or [], made, [numpy_helper.from_array(a, n) for n, a in weights.items()])


def test_fused_operators_in_both_branches_are_written_out():
    """Nodes of one name in both branches and around them: their tensors get names of their own."""
    then = graph([node("Gelu", "x", "a", name="same", **MS)], ["a"])
    other = graph([node("FusedMatMul", "x w", "b", name="same", alpha=2.0, **MS)], ["b"], w=draw(4, 4, seed=1))
    nodes = [
        helper.make_node("If", ["go"], ["c"], name="if", then_branch=then, else_branch=other),
        node("QuickGelu", "c", "y", name="same", **MS),
    ]
    model = make(nodes, {"x": ["N", 4], "go": []}, {"y": ["N", 4]}, domains=DOMAIN, types={"go": TensorProto.BOOL})
    result = plain(model)
    tensors = [
        o
        for g in (result.graph, *(a.g for n in result.graph.node for a in n.attribute if a.HasField("g")))
        for n in g.node
        for o in n.output
    ]
    assert len(tensors) == len(set(tensors))
    for go in (True, False):
        feed = {"x": draw(3, 4), "go": np.array(go)}
        close(run(result, feed)["y"], run(model, feed)["y"])


def test_a_fused_operator_in_a_loop_is_written_out():
    body = graph(
        [node("Identity", "go_in", "go"), node("SkipSimplifiedLayerNormalization", "h h gamma", "h2", **MS)],
        ["go", "h2"],
        [
            helper.make_tensor_value_info(n, t, s)
            for n, t, s in (("i", TensorProto.INT64, []), ("go_in", TensorProto.BOOL, []), ("h", TensorProto.FLOAT, ["N", 2, 4]))
        ],
    )
    loop = helper.make_node("Loop", ["times", "", "x"], ["y"], name="loop", body=body)
    model = make([loop], {"x": ["N", 2, 4]}, {"y": ["N", 2, 4]}, {"times": np.array(3), "gamma": draw(4, seed=1)}, domains=DOMAIN)
    x = {"x": draw(2, 2, 4)}
    close(run(plain(model), x)["y"], run(model, x)["y"])


@pytest.mark.parametrize("opset", [13, 18])
def test_a_fused_operator_in_a_function_is_written_out(opset: int):
    """One that the standard domain does not have (in a function ONNX Runtime ends the process at it), and a fused one."""
    nodes = [node("SimplifiedLayerNormalization", "a g", "b"), node("FastGelu", "b", "c", **MS)]
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    function = helper.make_function("own", "block", ["a", "g"], ["c"], nodes, imports)
    domains = DOMAIN | {"own": 1}
    model = make(
        [node("block", "x g", "y", domain="own")],
        {"x": ["N", 4]},
        {"y": ["N", 4]},
        {"g": draw(4)},
        domains=domains,
        functions=[function],
        opset=opset,
    )
    x = {"x": draw(3, 4)}
    same = make(nodes, {"a": ["N", 4]}, {"c": ["N", 4]}, {"g": draw(4)}, domains=DOMAIN, opset=opset)
    close(run(plain(model), x)["y"], run(same, {"a": x["x"]})["c"])
    assert "not compared" in "".join(prepare(load_model(model), known, compare_on_random_input).log)


def test_ranks_are_found_behind_other_fused_operators():
    """What a fused operator makes has no shape before it is written out: those that must know wait for it, each behind the last."""
    nodes, name = [], "x"
    for i in range(3):
        nodes += [
            node("SkipSimplifiedLayerNormalization", f"{name} x gamma", f"n{i}", **MS),
            node("MatMul", f"n{i} w", f"q{i}"),
            node("RotaryEmbedding", f"q{i} zero cos sin", f"r{i}", **MS),
            node("MultiHeadAttention", f"r{i} r{i} n{i}", f"a{i}", num_heads=2, **MS),
        ]
        name = f"a{i}"
    angles = draw(12, 2, seed=3)
    weights = {"gamma": draw(8, seed=1), "w": draw(8, 8, seed=2), "zero": np.array([0]), "cos": np.cos(angles), "sin": np.sin(angles)}
    model = make(nodes, {"x": ["N", "L", 8]}, {name: ["N", "L", 8]}, weights, domains=DOMAIN)
    x = {"x": draw(2, 3, 8)}
    prepared = prepare(load_model(model), known, compare_on_random_input)
    assert not prepared.doubt
    close(run(prepared.model.proto, x)[name], run(model, x)[name])


def test_a_rank_that_nobody_tells_is_asked_for():
    nodes = [node("Mystery", "x", "q", domain="com.example"), node("RotaryEmbedding", "q zero cos sin", "y", **MS)]
    weights = {"zero": np.array([0]), "cos": draw(4, 2), "sin": draw(4, 2)}
    model = make(nodes, {"x": ["N", 4]}, {"y": None}, weights, domains=DOMAIN | {"com.example": 1})
    with pytest.raises(ModelError, match=r"node 'y' \(com.microsoft.RotaryEmbedding\) reads 'q', whose number of axes is not declared"):
        plain(model)


def test_attention_without_a_bias_never_runs():
    """ONNX Runtime's kernel on CPU ends the process there; the model is compared with zeros instead."""
    weights = {"w": draw(8, 24, seed=1), "head": draw(8, 3, seed=2)}
    nodes = [node("Attention", "x w", "a", num_heads=2, **MS), node("ReduceMean", "a axes", "m", keepdims=0), node("MatMul", "m head", "y")]
    model = make(nodes, {"x": ["N", 3, 8]}, {"y": ["N", 3]}, weights | {"axes": np.array([1])}, domains=DOMAIN)
    result = onnxsal.convert(model, "gradient", target=0)
    assert run(result, {"x": draw(2, 3, 8)})["attribution"].shape == (2, 3, 8)
    computed = make(
        [node("Identity", "w", "v"), node("Attention", "x v", "y", num_heads=2, **MS)],
        {"x": ["N", 3, 8]},
        {"y": None},
        weights,
        domains=DOMAIN,
    )
    with pytest.raises(ModelError, match="computes its weights and has no bias"):
        onnxsal.convert(computed)


def test_what_a_search_by_beams_holds_is_left_alone():
    """Its graphs mean what its kernel makes of them."""
    inner = graph([node("Gelu", "h", "g", **MS)], ["g"], [helper.make_tensor_value_info("h", TensorProto.FLOAT, [1])])
    search = helper.make_node("GreedySearch", ["ids", "n"], ["found"], name="search", decoder=inner, eos_token_id=0, pad_token_id=0, **MS)
    nodes = [search, node("Gelu", "x", "y", **MS)]
    model = make(
        nodes,
        {"x": ["N", 4], "ids": [1, 2], "n": [1]},
        {"y": ["N", 4], "found": None},
        domains=DOMAIN,
        types=dict.fromkeys(("ids", "n", "found"), TensorProto.INT32),
    )
    result = prepare(load_model(model), known).model.proto
    assert [n.op_type for n in result.graph.node if n.domain] == ["GreedySearch"]


@pytest.mark.parametrize(
    ("op_type", "inputs", "words"),
    [
        ("PackedAttention", "x w w c c", "packs texts without their padding"),
        ("LinearAttention", "x x x", "carries a state from token to token"),
        ("LongformerAttention", "x x x x x x x", "blocks or windows of keys"),
        ("Rfft", "x", "use the standard DFT"),
        ("DecoderMaskedSelfAttention", "x w w . w . c", "with a shared buffer"),
    ],
)
def test_an_operator_that_is_not_walked_says_what_to_do(op_type: str, inputs: str, words: str):
    """By name, in our words, whatever the nodes behind it would have needed to know."""
    nodes = [node(op_type, inputs, "a", **MS), node("MatMul", "a w", "b"), node("ReduceMean", "b axes", "y", keepdims=0)]
    model = make(
        nodes,
        {"x": ["N", 3, 4], "c": ["N"]},
        {"y": ["N", 4]},
        {"w": draw(4, 4), "axes": np.array([1])},
        domains=DOMAIN,
        types={"c": TensorProto.INT32},
    )
    with pytest.raises(onnxsal.errors.OnnxsalError) as caught:
        onnxsal.convert(model)
    assert f"node 'a' (com.microsoft.{op_type}" in str(caught.value), str(caught.value)
    assert words in str(caught.value)


# ----- texts of onnx and of ONNX Runtime -----

SAID = {
    "an open blank": (
        "/project/onnx/version_converter/convert.cc:101: convert_graph: Assertion `schema_it != all_schemas.end()` failed: "
        "Op '%s' has no registered schema; cannot convert it from version %lld to %lld.FooBar1318",
        "",
    ),
    "an assertion": (
        "/project/onnx/version_converter/adapters/b.h:18: adapt_b: Assertion `node->outputs().size() < 4` failed: "
        "outputs 4 and 5 are not supported in Opset 14.",
        "outputs 4 and 5 are not supported in Opset 14",
    ),
    "inference": (
        "[ShapeInferenceError] Inference error(s): (op_type:MatMul, node name: nn): [ShapeInferenceError] Incompatible dimensions\n",
        "node 'nn' (MatMul): Incompatible dimensions",
    ),
    "types": ("[TypeInferenceError] (op_type:Add): B has inconsistent type", "node '' (Add): B has inconsistent type"),
    "opening": (
        "[ONNXRuntimeError] : 1 : FAIL : Node (nn) Op (MatMul) [ShapeInferenceError] Incompatible dimensions for matrix multiplication",
        "node 'nn' (MatMul): Incompatible dimensions for matrix multiplication",
    ),
    "an unknown operator": (
        '[ONNXRuntimeError] : 10 : INVALID_GRAPH : This is an invalid model. In Node, ("nn", FooBar, "", -1) : ("x": tensor(float),) -> '
        '("y": tensor(float),) , Error No Op registered for FooBar with domain_version of 18',
        "node 'nn' (FooBar): No Op registered for FooBar with domain_version of 18",
    ),
    "a place in a source": (
        "[ONNXRuntimeError] : 1 : FAIL : /onnxruntime_src/onnxruntime/contrib_ops/cpu/bert/d.cc:144 "
        "onnxruntime::Status onnxruntime::D<T>::Compute(onnxruntime::OpKernelContext*) const [with T = float] share_buffer_ was false.",
        "[with T = float] share_buffer_ was false",
    ),
}


@pytest.mark.parametrize("name", SAID)
def test_a_text_of_a_library_is_made_plain(name: str):
    text, expected = SAID[name]
    assert library_text(RuntimeError(text)) == expected


def test_what_was_once_tried_out_is_not_taken_for_something_else():
    """From opset 10 on ONNX Runtime knows no Scale: somebody else's is not read as the one that was tried out."""
    model = make([node("Scale", "x", "y", scale=2.0)], {"x": ["N", 8]}, {"y": ["N", 8]}, opset=13, ir=8)
    with pytest.raises(ModelError, match=r"node 'y' \(Scale, opset 13\): the standard has no such operator"):
        onnxsal.convert(model)


X, W = {"x": ["N", 8]}, {"w": draw(9, 8)}
FAULTY = {
    "unknown operator": (
        make([node("FooBar", "x w", "y")], X, {"y": None}, W, opset=13, ir=8),
        r"node 'y' \(FooBar, opset 13\): the standard has no such",
    ),
    "a form that is not raised": (
        make([node("BatchNormalization", "x s s s s", "y a b c d")], X, {"y": None}, {"s": draw(8)}, opset=7, ir=8),
        r"node 'y' \(BatchNormalization, opset 7\) has a form that ONNX's version converter cannot raise",
    ),
    "contradiction": (make([node("MatMul", "x w", "y")], X, {"y": None}, W), r"node 'y' \(MatMul\)"),
    "contradiction, old": (make([node("MatMul", "x w", "y")], X, {"y": None}, W, opset=13, ir=8), r"node 'y' \(MatMul"),
    "contradiction, fused": (
        make([node("MatMul", "x w", "m"), node("Gelu", "m", "y", **MS)], X, {"y": None}, W, domains=DOMAIN),
        r"node 'm' \(MatMul\)",
    ),
    "no such operator of ONNX Runtime": (make([node("Gelu2", "x", "y", **MS)], X, {"y": None}, domains=DOMAIN), r"com\.microsoft"),
    "an attribute is missing": (make([node("Attention", "x w", "y", **MS)], X, {"y": None}, W, domains=DOMAIN), "num_heads"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_faulty_file_is_refused_in_our_words(name: str):
    model, words = FAULTY[name]
    with pytest.raises(onnxsal.errors.OnnxsalError, match=words) as caught:
        onnxsal.convert(model, batched=True)
    for raw in ("%s", "%lld", "Assertion", "InferenceError", "ONNXRuntimeError", ".cc:", ".h:"):
        assert raw not in str(caught.value)


def test_what_has_no_kernel_here_is_explained_with_a_doubt():
    """ONNX Runtime runs GroupNorm on other processors only: what stands in standard operators runs here, and was compared with nothing."""
    weights = {"gamma": draw(4, seed=1), "beta": draw(4, seed=2), "axes": np.array([1, 2])}
    nodes = [node("GroupNorm", "x gamma beta", "g", groups=2, activation=1, **MS), node("ReduceMean", "g axes", "y", keepdims=0)]
    model = make(nodes, {"x": ["N", 3, 3, 4]}, {"y": ["N", 4]}, weights, domains=DOMAIN)
    prepared = prepare(load_model(model), known, compare_on_random_input)
    assert "no kernel on CPU for GroupNorm" in prepared.doubt
    assert run(onnxsal.convert(model, target=1), {"x": draw(2, 3, 3, 4)})["attribution"].shape == (2, 3, 3, 4)
