"""Passes: what each needs, does, promises and declines; what all of them keep; the guard around those that rewrite."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnxruntime.transformers.float16 import convert_float_to_float16

import onnxsal
from onnxsal.ask.guard import compare_on_random_input
from onnxsal.errors import ModelError, PlanError
from onnxsal.facts.heads import head_of
from onnxsal.facts.tags import RECTIFIER, tags_of
from onnxsal.graph import Model
from onnxsal.graph.load import load_model
from onnxsal.ops.registry import known
from onnxsal.passes import Prepared, passes, prepare
from onnxsal.passes.base import Pass, PassOutcome
from onnxsal.passes.explicit_pads import EXPLICIT_PADS
from onnxsal.passes.inline_functions import INLINE, expand_bodies
from onnxsal.passes.name_nodes import NAME_NODES
from onnxsal.passes.sort import SORT
from tests.oracle import run
from tests.small_models import cnn, draw, make, node


def every(domain: str, op_type: str) -> bool:
    """A registry that knows every standard operator: then no body is expanded."""
    return domain == ""


def plain(model: onnx.ModelProto, knows: Callable[[str, str], bool] = every, guarded: bool = True) -> Prepared:
    """The model after all passes; the model itself stays as it is."""
    return prepare(load_model(model), knows, compare_on_random_input if guarded else None)


def ops_of(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


def same_outputs(a: onnx.ModelProto, b: onnx.ModelProto, feed: dict[str, np.ndarray]) -> None:
    before, after = run(a, feed), run(b, feed)
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name])


def shuffle(nodes: object, seed: int | None) -> None:
    """Another order of the node list; without a seed, from the last to the first."""
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    order = range(len(copies))[::-1] if seed is None else np.random.default_rng(seed).permutation(len(copies))
    del nodes[:]
    nodes.extend(copies[i] for i in order)


# ----- what a pass is -----


def test_a_broken_promise_is_an_error():
    step = Pass("liar", run=lambda proto: PassOutcome(1, "did it"), ensures=lambda proto: "it did nothing")
    with pytest.raises(ModelError, match="pass 'liar' did not keep its promise: it did nothing"):
        step(cnn())


def test_a_declining_pass_does_not_run_and_says_why():
    def explode(proto: onnx.ModelProto) -> PassOutcome:
        raise AssertionError

    outcome = Pass("shy", run=explode, requires=lambda proto: "not today")(cnn())
    assert (outcome.changed, outcome.detail) == (0, "declined: not today")


def test_nothing_happens_to_a_plain_model():
    model = cnn(opset=20)
    prepared = plain(model, known)
    assert prepared.log == []
    assert not prepared.rewritten
    assert prepared.model.proto.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    for step in passes(known):
        assert step.requires(model) or step(load_model(model)) == PassOutcome()


def test_passes_do_nothing_twice():
    model = unfriendly()
    once = plain(model).model.proto
    again = plain(once)
    assert again.log == []
    assert again.model.proto.SerializeToString(deterministic=True) == once.SerializeToString(deterministic=True)


# ----- sort -----


@pytest.mark.parametrize("seed", range(4))
def test_a_shuffled_node_list_is_sorted(seed: int):
    model = cnn()
    shuffled = load_model(model)
    shuffle(shuffled.graph.node, seed)
    assert ops_of(shuffled) != ops_of(model)
    prepared = plain(shuffled)
    assert ops_of(prepared.model.proto) == ops_of(model)
    assert prepared.log == ["sort: node list was not in topological order"]
    same_outputs(model, prepared.model.proto, {"x": draw(2, 3, 8, 8)})


def branching() -> onnx.ModelProto:
    """An If whose branches hold several nodes and read tensors of the graph around them, one of them through a nested If."""

    def branch(name: str, nodes: list[onnx.NodeProto], output: str) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])

    deep = branch("deep", [node("Neg", "late", "d1"), node("Exp", "d1", "d2")], "d2")
    flat = branch("flat", [node("Abs", "late", "e1")], "e1")
    nested = node("If", "condition", "n1", then_branch=deep, else_branch=flat)
    then = branch("then", [nested, node("Add", "n1 early", "t1"), node("Relu", "t1", "t2")], "t2")
    other = branch("else", [node("Tanh", "early", "o1"), node("Mul", "o1 late", "o2")], "o2")
    nodes = [
        node("Sigmoid", "x", "early"),
        node("Mul", "early x", "late"),
        node("ReduceMax", "x", "peak", keepdims=0),
        node("Greater", "peak zero", "condition"),
        node("If", "condition", "y", then_branch=then, else_branch=other),
    ]
    return make(nodes, {"x": ["N", 3]}, {"y": ["N", 3]}, {"zero": np.float32(0)})


@pytest.mark.parametrize("seed", [None, 0, 1])
def test_subgraphs_are_sorted_and_sort_after_what_they_read(seed: int | None):
    model = branching()
    shuffled = load_model(model)
    (branches,) = [n.attribute for n in shuffled.graph.node if n.op_type == "If"]
    for attribute in branches:
        shuffle(attribute.g.node, seed)
    shuffle(shuffled.graph.node, seed)
    outcome = SORT(shuffled)
    assert outcome.changed >= 1
    onnx.checker.check_model(shuffled)  # onnx wants every name, captured ones too, to be known before it is read
    for x in (draw(2, 3), -np.abs(draw(2, 3))):
        same_outputs(model, shuffled, {"x": x})
    assert SORT(shuffled) == PassOutcome()


def test_a_sorted_list_keeps_its_order():
    """Among nodes that are ready the earlier comes first, so a sorted list, whatever its order, is left alone."""
    nodes = [node("Relu", "x", "b"), node("Abs", "x", "a"), node("Add", "a b", "y")]
    model = make(nodes, {"x": ["N", 3]}, {"y": ["N", 3]})
    assert SORT(model) == PassOutcome()
    assert ops_of(model) == ["Relu", "Abs", "Add"]


def test_a_cycle_is_refused_by_name():
    model = make([node("Add", "x b", "a"), node("Relu", "a", "b"), node("Relu", "x", "y")], {"x": [1]}, {"y": [1]})
    with pytest.raises(ModelError, match=r"cycle through nodes \['a', 'b'\]"):
        SORT(model)


def test_onnx_runtimes_own_float16_converter_just_works():
    """It appends its Casts at the end of the node list."""
    half = convert_float_to_float16(cnn(), keep_io_types=True)
    assert ops_of(half)[-1] == "Cast"
    x = draw(3, 3, 8, 8)
    got = run(onnxsal.convert(half, "gradient"), {"x": x})["attribution"]
    full = run(onnxsal.convert(cnn(), "gradient"), {"x": x})["attribution"]
    assert got.dtype == np.float32
    assert np.corrcoef(got.ravel(), full.ravel())[0, 1] > 0.999


# ----- inline functions -----


def scaled_leak() -> onnx.FunctionProto:
    """y = leaky_relu(x; alpha), alpha from the caller."""
    leak = helper.make_node("LeakyRelu", ["a"], ["b"])
    leak.attribute.append(onnx.AttributeProto(name="alpha", type=onnx.AttributeProto.FLOAT, ref_attr_name="alpha"))
    return helper.make_function("local", "Leak", ["a"], ["b"], [leak], [helper.make_opsetid("", 18)], ["alpha"])


def with_functions() -> onnx.ModelProto:
    """Functions with a referenced attribute, in each other, and with weights."""
    residual_nodes = [
        helper.make_node("Leak", ["a"], ["b"], domain="local", alpha=0.3),
        helper.make_node("MatMul", ["b", "w"], ["c"]),
        helper.make_node("Add", ["c", "a"], ["d"]),
    ]
    own = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    residual = helper.make_function("local", "Residual", ["a", "w"], ["d"], residual_nodes, own)
    nodes = [
        node("Residual", "x w", "h1", domain="local"),
        node("Residual", "h1 w", "h2", domain="local"),
        node("Leak", "h2", "h3", domain="local", alpha=0.7),
        node("Tanh", "h3", "y", doc_string="the last one"),
    ]
    nodes[-1].metadata_props.add(key="scope", value="head")
    shapes = {"x": ["N", 40]}, {"y": ["N", 40]}
    return make(nodes, *shapes, {"w": draw(40, 40, scale=0.2)}, domains={"local": 1}, functions=[scaled_leak(), residual])


def test_functions_are_inlined():
    model = with_functions()
    prepared = plain(model)
    proto = prepared.model.proto
    assert not proto.functions
    assert {n.domain for n in proto.graph.node} == {""}
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", 18)]
    assert prepared.log[0] == "inline functions: inlined local functions Leak, Residual"
    assert [a.f for n in proto.graph.node for a in n.attribute if n.op_type == "LeakyRelu"] == [pytest.approx(v) for v in (0.3, 0.3, 0.7)]
    last = proto.graph.node[-1]
    assert (last.name, last.doc_string, last.metadata_props[0].value) == ("y", "the last one", "head")
    assert [t.name for t in proto.graph.initializer] == ["w"]
    x = draw(3, 40)
    np.testing.assert_allclose(run(model, {"x": x})["y"], run(proto, {"x": x})["y"], rtol=1e-6)


def test_a_model_of_functions_is_explained():
    x = draw(2, 40)
    got = run(onnxsal.convert(with_functions(), "gradient", target=3), {"x": x})
    step = 1e-3 * draw(2, 40, seed=7)
    slope = (run(with_functions(), {"x": x + step})["y"] - run(with_functions(), {"x": x - step})["y"]) / 2
    np.testing.assert_allclose((got["attribution"] * step).sum(1), slope[:, 3], rtol=2e-2, atol=1e-6)


@pytest.mark.parametrize("opset", [13, 18, 20])
def test_a_function_of_another_opset_is_inlined(opset: int):
    """Axes were an attribute in opset 13. (ONNX Runtime itself reads the function by the model's opset, and fails.)"""
    mean = [helper.make_node("ReduceMean", ["a"], ["b"], axes=[1], keepdims=1)]
    function = helper.make_function("local", "Mean", ["a"], ["b"], mean, [helper.make_opsetid("", 13)])
    nodes = [node("Mean", "x", "m", domain="local"), node("Exp", "m", "y")]
    model = make(nodes, {"x": ["N", 4, 3]}, {"y": ["N", 1, 3]}, domains={"local": 1}, functions=[function], opset=opset, ir=8)
    proto = plain(model).model.proto
    assert [(o.domain, o.version) for o in proto.opset_import] == [("", max(opset, 18))]
    x = draw(2, 4, 3)
    np.testing.assert_allclose(run(proto, {"x": x})["y"], np.exp(x.mean(1, keepdims=True)), rtol=1e-6)


def test_a_model_without_functions_declines():
    assert INLINE.requires(cnn()) == "the model has no local functions"


# ----- bodies -----


@pytest.mark.parametrize(
    ("op_type", "dtype", "attributes"),
    [
        ("Mish", np.float32, {}),
        ("HardSwish", np.float32, {}),
        ("Celu", np.float32, {"alpha": 0.5}),
        ("Gelu", np.float32, {"approximate": "tanh"}),
        ("MeanVarianceNormalization", np.float32, {"axes": [0, 2]}),
        ("Softsign", np.float16, {}),
        ("Mish", np.float16, {}),
    ],
)
def test_an_operator_without_gradient_is_expanded_by_its_body(op_type: str, dtype: type, attributes: dict):
    def knows(domain: str, name: str) -> bool:
        return domain == "" and name != op_type

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    types = {"x": kind, "y": kind}
    nodes = [node("Relu", "x", "a"), node(op_type, "a", "b", **attributes), node("Neg", "b", "y", doc_string="kept")]
    model = make(nodes, {"x": ["N", 4, 5]}, {"y": ["N", 4, 5]}, opset=20, types=types)
    prepared = plain(model, knows, guarded=dtype == np.float32)
    proto = prepared.model.proto
    assert op_type not in ops_of(proto)
    assert len(proto.graph.node) > 3
    assert prepared.log[0] == f"expand bodies: expanded by their function bodies: {op_type}"
    assert (proto.graph.node[0].name, proto.graph.node[-1].doc_string) == ("a", "kept")
    x = draw(2, 4, 5, dtype=dtype)
    np.testing.assert_allclose(run(model, {"x": x})["y"], run(proto, {"x": x})["y"], rtol=2e-2 if dtype == np.float16 else 1e-5, atol=1e-6)


def test_bodies_within_bodies_are_expanded_too():
    """HardSwish is written with HardSigmoid, which has a body as well."""

    def knows(domain: str, name: str) -> bool:
        return domain == "" and name not in ("HardSwish", "HardSigmoid")

    model = make([node("HardSwish", "x", "y")], {"x": ["N", 4]}, {"y": ["N", 4]})
    prepared = plain(model, knows)
    assert not {"HardSwish", "HardSigmoid"} & set(ops_of(prepared.model.proto))
    x = draw(2, 4)
    np.testing.assert_allclose(run(model, {"x": x})["y"], run(prepared.model.proto, {"x": x})["y"], rtol=1e-5, atol=1e-6)


def test_messages_name_an_expanded_operator_by_its_own_name():
    """What stands in the model is the loss: its LogSoftmax is nowhere to be found in it."""
    nodes = [node("MatMul", "x w", "l"), node("SoftmaxCrossEntropyLoss", "l t", "y", reduction="none", name="loss")]
    types = {"t": TensorProto.INT64}
    model = make(nodes, {"x": ["N", 4], "t": ["N"]}, {"y": ["N"]}, {"w": draw(4, 3)}, types=types)
    with pytest.raises(PlanError, match=r"node 'loss/SoftmaxCrossEntropyLoss/LogSoftmax\d+' \(LogSoftmax"):
        onnxsal.convert(model, "lrp_epsilon")


@pytest.mark.parametrize("name", ["first", ""])
def test_the_nodes_of_a_body_are_called_by_the_node_that_it_is_of(name: str):
    """Two of one operator in a row, one within the body of another: every node of a body bears the name of its own node, no other does."""

    def knows(domain: str, op_type: str) -> bool:
        return domain == "" and op_type not in ("HardSwish", "HardSigmoid", "Mish")

    nodes = [node("Relu", "x", "a"), node("HardSwish", "a", "b", name=name), node("HardSwish", "b", "c"), node("Mish", "c", "d")]
    prepared = plain(make([*nodes, node("Neg", "d", "y")], {"x": ["N", 4]}, {"y": ["N", 4]}), knows)
    names = [n.name for n in prepared.model.proto.graph.node]
    assert (names[0], names[-1]) == ("a", "y")
    owners = [n.split("/")[:2] for n in names[1:-1]]
    wanted = [[name or "b", "HardSwish"], ["c", "HardSwish"], ["d", "Mish"]]
    assert [o for i, o in enumerate(owners) if o not in owners[:i]] == wanted
    assert len(set(names)) == len(names)


def test_known_operators_are_left_whole():
    model = make([node("HardSwish", "x", "a"), node("Softplus", "a", "y")], {"x": ["N", 4]}, {"y": ["N", 4]})
    assert ops_of(plain(model, known).model.proto) == ["HardSwish", "Softplus"]
    assert expand_bodies(known).requires(model) == "no operator needs its function body"


# ----- names -----


def test_every_node_gets_a_name_of_its_own():
    names = ["same", "", "same", "Neg_1", "", "same_1"]
    tensors = ["x", "a", "b", "c", "d", "e", "y"]
    nodes = [helper.make_node("Neg", [a], [b], name=n) for n, a, b in zip(names, tensors, tensors[1:], strict=False)]
    model = make(nodes, {"x": ["N", 2]}, {"y": ["N", 2]})
    outcome = NAME_NODES(model)
    got = [n.name for n in model.graph.node]
    assert len(set(got)) == len(got)
    assert all(got)
    assert got[0] == "same"
    assert got[3] == "Neg_1"
    assert got[5] == "same_1"
    assert (outcome.changed, outcome.detail) == (3, "named 3 node(s) without a name of their own")
    assert NAME_NODES(model) == PassOutcome()


# ----- explicit pads -----


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("op_type", "attributes"),
    [
        ("Conv", {}),
        ("MaxPool", {"kernel_shape": [3, 2]}),
        ("MaxPool", {"kernel_shape": [2, 3], "ceil_mode": 1}),
        ("AveragePool", {"kernel_shape": [3, 2]}),
        ("AveragePool", {"kernel_shape": [3, 2], "count_include_pad": 1}),
        ("LpPool", {"kernel_shape": [3, 2]}),
    ],
)
def test_pads_are_written_out_without_changing_a_bit(op_type: str, attributes: dict, mode: str, stride: int):
    for size in (7, 8):
        inputs, weights = ("x w", {"w": draw(2, 3, 3, 2)}) if op_type == "Conv" else ("x", {})
        nodes = [node(op_type, inputs, "y", auto_pad=mode, strides=[stride, stride], **attributes)]
        model = make(nodes, {"x": ["N", 3, size, size + 3]}, {"y": None}, weights)
        prepared = plain(model)
        written = {a.name: a for a in prepared.model.proto.graph.node[0].attribute}
        assert "auto_pad" not in written
        assert len(written["pads"].ints) == 4
        assert not prepared.rewritten
        same_outputs(model, prepared.model.proto, {"x": draw(2, 3, size, size + 3)})


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_a_dilated_pool_is_left_to_onnx_runtime(mode: str):
    """It pads it as if it were not dilated, which is not what the standard says; what the model computes must not change."""
    nodes = [node("MaxPool", "x", "y", auto_pad=mode, kernel_shape=[3, 2], dilations=[2, 2])]
    model = make(nodes, {"x": ["N", 3, 7, 9]}, {"y": None})
    same_outputs(model, plain(model).model.proto, {"x": draw(2, 3, 7, 9)})


def test_pads_that_depend_on_an_open_size_stay_automatic():
    model = make([node("MaxPool", "x", "y", auto_pad="SAME_UPPER", kernel_shape=[2, 2])], {"x": ["N", 3, "H", 8]}, {"y": None})
    assert EXPLICIT_PADS(model) == PassOutcome()
    assert model.graph.node[0].attribute[0].s == b"SAME_UPPER"
    assert EXPLICIT_PADS.requires(cnn()) == "no node uses auto_pad"


# ----- where the logits are -----


@pytest.mark.parametrize(
    ("nodes", "start"),
    [
        ([node("Softmax", "h", "y", axis=1)], "h"),
        ([node("LogSoftmax", "h", "y", axis=1)], "h"),
        ([node("Sigmoid", "h", "y")], "h"),
        ([node("Softmax", "h", "p", axis=1), node("Identity", "p", "q"), node("Reshape", "q shape", "y")], "h"),
        ([node("Softmax", "h", "p", axis=1), node("Cast", "p", "q", to=TensorProto.FLOAT), node("Flatten", "q", "y")], "h"),
        ([node("Softmax", "h", "p", axis=1), node("Mul", "p ten", "q"), node("Div", "q ten", "r"), node("Mul", "ten r", "y")], "h"),
        ([node("Sigmoid", "h", "p"), node("Clip", "p low", "y")], "h"),
        ([node("Softmax", "h", "p"), node("Unsqueeze", "p one", "q"), node("Transpose", "q", "y", perm=[0, 2, 1])], "h"),
        ([node("Softmax", "h", "p", axis=1), node("Mul", "p below", "y")], None),
        ([node("Softmax", "h", "p", axis=1), node("Mul", "p row", "y")], None),
        ([node("Softmax", "h", "p", axis=1), node("Div", "ten p", "y")], None),
        ([node("Softmax", "h", "p", axis=1), node("Transpose", "p", "y")], None),
        ([node("Softmax", "h", "p", axis=1), node("Relu", "p", "y")], None),
        ([node("Relu", "h", "y")], None),
        ([node("Softmax", "h", "y", domain="com.example")], None),
    ],
)
def test_the_final_squashing_is_found_through_reshapes(nodes: list, start: str | None):
    numbers = {"ten": 10, "low": 1e-6, "below": -1, "row": [1, 2, 3]}
    weights = {"w": draw(4, 3), "shape": np.asarray([-1, 3], np.int64), "one": np.asarray([1], np.int64)}
    weights |= {name: np.asarray(value, np.float32) for name, value in numbers.items()}
    model = make([node("MatMul", "x w", "h"), *nodes], {"x": ["N", 4]}, {"y": ["N", 3]}, weights, domains={"com.example": 1})
    found = head_of(Model(model), "y")
    assert (found.logits or None if found else None) == start


def test_cutting_leaves_the_forward_part_alone():
    model = cnn()
    converted = onnxsal.convert(model)
    assert [n.SerializeToString() for n in converted.graph.node[: len(model.graph.node)]] == [
        n.SerializeToString() for n in model.graph.node
    ]


# ----- tags -----


@pytest.mark.parametrize(
    ("rectifier", "tagged"),
    [
        (node("Relu", "h", "y"), True),
        (node("Clip", "h zero six", "y"), True),
        (node("Clip", "h zero", "y"), True),
        (node("Clip", "h minus six", "y"), False),
        (node("Clip", "h . six", "y"), False),
        (node("Max", "h zero", "y"), True),
        (node("Max", "zero h", "y"), True),
        (node("Max", "h six", "y"), False),
        (node("Max", "h h", "y"), False),
        (node("LeakyRelu", "h", "y"), False),
        (node("Relu", "h", "y", domain="com.example"), False),
    ],
)
def test_rectifiers_are_tagged_however_they_are_written(rectifier: onnx.NodeProto, tagged: bool):
    numbers = {"zero": np.float32(0), "six": np.float32(6), "minus": np.float32(-1)}
    model = make([node("Neg", "x", "h"), rectifier], {"x": ["N", 4]}, {"y": ["N", 4]}, numbers, domains={"com.example": 1})
    prepared = prepare(load_model(model), every)
    assert (RECTIFIER in tags_of(prepared.model).get(1, frozenset())) == tagged
    assert 0 not in tags_of(prepared.model)


# ----- what all of them keep -----


def unfriendly() -> onnx.ModelProto:
    """An unsorted, unnamed opset-13 model with automatic pads, and a note in every place that holds one."""
    nodes = [
        helper.make_node("Relu", ["c"], ["r"], doc_string="a relu"),
        helper.make_node("Conv", ["x", "w", "b"], ["c"], auto_pad="SAME_UPPER", doc_string="a conv"),
        helper.make_node("ReduceMean", ["r"], ["m"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["m", "w2"], ["y"]),
    ]
    nodes[1].metadata_props.add(key="scope", value="stem.conv")
    weights = {"w": draw(8, 3, 7, 7, scale=0.1), "b": draw(8), "w2": draw(8, 5)}
    model = make(nodes, {"x": ["N", 3, 9, 9]}, {"y": ["N", 5]}, weights, opset=13, ir=8, domains={"ai.onnx.ml": 2})
    model.producer_name, model.producer_version, model.domain = "exporter", "1.2", "org.example"
    model.model_version, model.doc_string = 7, "a model"
    model.graph.doc_string, model.graph.name = "a graph", "named"
    model.metadata_props.add(key="labels", value="cat,dog")
    info = helper.make_tensor_value_info("r", TensorProto.FLOAT, ["N", 8, 9, 9])
    info.doc_string = "after the relu"
    model.graph.value_info.append(info)
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.doc_string = f"about {value.name}"
    model.graph.input[0].metadata_props.add(key="layout", value="NCHW")
    model.graph.metadata_props.add(key="graph", value="noted")
    annotation = onnx.TensorAnnotation(tensor_name="r")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="b")
    model.graph.quantization_annotation.append(annotation)
    return model


def check_kept(model: onnx.ModelProto, result: onnx.ModelProto) -> None:
    for name in ("producer_name", "producer_version", "domain", "model_version", "doc_string"):
        assert getattr(result, name) == getattr(model, name), name
    assert (result.graph.name, result.graph.doc_string) == (model.graph.name, model.graph.doc_string)
    assert {p.key: p.value for p in result.metadata_props}["labels"] == "cat,dog"
    assert result.graph.metadata_props == model.graph.metadata_props
    assert result.graph.quantization_annotation == model.graph.quantization_annotation
    assert list(result.graph.input)[:1] == list(model.graph.input)
    assert list(result.graph.output)[:1] == list(model.graph.output)
    assert {v.name: v for v in result.graph.value_info}["r"] == model.graph.value_info[0]
    mine = {t.name: t for t in model.graph.initializer}
    assert {t.name: t for t in result.graph.initializer if t.name in mine} == mine
    nodes = {n.output[0]: n for n in result.graph.node}
    assert (nodes["c"].doc_string, nodes["r"].doc_string) == ("a conv", "a relu")
    assert [(p.key, p.value) for p in nodes["c"].metadata_props] == [("scope", "stem.conv")]
    assert ("ai.onnx.ml", 2) in [(o.domain, o.version) for o in result.opset_import]


def test_passes_keep_every_note():
    model = unfriendly()
    prepared = plain(model)
    assert [line.split(":")[0] for line in prepared.log][:3] == ["sort", "raise opset", "name nodes"]
    assert "explicit pads" in " ".join(prepared.log)
    check_kept(model, prepared.model.proto)
    same_outputs(model, prepared.model.proto, {"x": draw(2, 3, 9, 9)})


def test_conversion_keeps_every_note():
    model = unfriendly()
    check_kept(model, onnxsal.convert(model))


def test_expansion_and_inlining_keep_every_note():
    def knows(domain: str, name: str) -> bool:
        return domain == "" and name != "Relu"

    model = unfriendly()
    model.graph.node[3].CopyFrom(helper.make_node("Residual", ["m", "w2"], ["y"], domain="local"))
    body = [helper.make_node("MatMul", ["a", "w"], ["b"])]
    model.functions.append(helper.make_function("local", "Residual", ["a", "w"], ["b"], body, [helper.make_opsetid("", 13)]))
    model.opset_import.append(helper.make_opsetid("local", 1))
    prepared = plain(model, knows)
    assert "inline functions" in prepared.log[1]
    assert "expand bodies" in " ".join(prepared.log)
    nodes = {n.output[0]: n for n in prepared.model.proto.graph.node}
    assert "Relu" not in ops_of(prepared.model.proto)
    nodes["r"].doc_string = "a relu"  # the node that was expanded is gone, and its note with it
    check_kept(model, prepared.model.proto)


# ----- the guard -----


def test_a_rewrite_that_changes_outputs_is_refused(monkeypatch: pytest.MonkeyPatch):
    """A wrong expansion is planted in place of Gelu's."""
    from onnxsal.ops.expansion import EXPANSIONS

    model = make([node("Gelu", "x", "y", domain="com.microsoft")], {"x": ["N", 4]}, {"y": ["N", 4]}, domains={"com.microsoft": 1})
    assert "largest relative difference" in plain(model).log[-1]
    monkeypatch.setitem(EXPANSIONS, ("com.microsoft", "Gelu"), lambda w: w.add("Relu", w.input(0), output=w.node.output[0]))
    with pytest.raises(
        ModelError, match=r"rewriting the model \(expand fused operators\) changed its outputs by .* relative; at most 1e-05"
    ):
        plain(model)
    with pytest.raises(ModelError, match="changed its outputs"):
        onnxsal.convert(model)
    with pytest.raises(ModelError, match="changed its outputs"):
        onnxsal.vjp(model)


def test_the_guard_tries_larger_pictures():
    """With 64 x 64 pixels the last convolution would have nothing to work on."""
    kernels = {f"w{i}": draw(3, 3, 5, 5, seed=i, scale=0.1) for i in range(3)}
    nodes = [node("Conv", f"{a} w{i}", b, strides=[4, 4]) for i, (a, b) in enumerate([("x", "a"), ("a", "b"), ("b", "y")])]
    model = make(nodes, {"x": ["N", 3, "H", "W"]}, {"y": None}, kernels, opset=13)
    assert "largest relative difference 0.0e+00" in plain(model).log[-1]


def test_a_guard_that_cannot_run_says_so():
    model = make(
        [node("Gelu", "x", "h", domain="com.microsoft"), node("Reshape", "h shape", "y")],
        {"x": ["N", "M"]},
        {"y": None},
        {"shape": np.asarray([5003, 4999], np.int64)},
        domains={"com.microsoft": 1},
    )
    found = plain(model)
    assert "not compared: no random input could be found" in found.log[-1]
    assert "not compared: no random input could be found" in found.doubt
