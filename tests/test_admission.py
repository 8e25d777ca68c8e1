"""What is refused before anything reads a model, and in which words; and what may not grow without end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, TensorProto, helper, numpy_helper

import onnxsal
from onnxsal.errors import InputError, ModelError, OnnxsalError
from onnxsal.graph.load import load_model
from onnxsal.limits import variable_of
from onnxsal.runtime.feeds import FeedChoice, feed_of
from onnxsal.runtime.session import open_session
from tests.fuzz.bases import BASES, control_flow, functions, residual, sequences, sparse
from tests.fuzz.child import run
from tests.small_models import cnn, draw, make, node

Change = Callable[[onnx.ModelProto], object]


def ints(*values: int) -> np.ndarray:
    return np.asarray(values, np.int64)


def named(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    return next(n for n in model.graph.node if n.name == name)


def weight(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == name)


def attribute(proto: onnx.NodeProto, name: str) -> AttributeProto:
    return next(a for a in proto.attribute if a.name == name)


def opset(version: int, domain: str = "") -> onnx.OperatorSetIdProto:
    return helper.make_opsetid(domain, version)


def change_branch(model: onnx.ModelProto, change: Callable[[onnx.GraphProto], object]) -> None:
    change(attribute(named(model, "b"), "then_branch").g)


def a_cycle(m: onnx.ModelProto) -> None:
    named(m, "c1").input[0] = "r"


def a_call_of_itself(m: onnx.ModelProto) -> None:
    m.functions[0].node.add().CopyFrom(helper.make_node("Inner", ["p"], ["again"], domain="my", slope=1.0))


def doubling(times: int) -> onnx.ModelProto:
    """Functions that each call the one before twice."""
    made = [helper.make_function("my", "F0", ["p"], ["q"], [node("Relu", "p", "q")], [opset(18)])]
    for i in range(1, times + 1):
        calls = [helper.make_node(f"F{i - 1}", [a], [b], domain="my") for a, b in (("p", "z"), ("z", "q"))]
        made.append(helper.make_function("my", f"F{i}", ["p"], ["q"], calls, [opset(18), opset(1, "my")]))
    nodes = [helper.make_node(f"F{times}", ["x"], ["a"], domain="my"), node("MatMul", "a w", "y")]
    return make(nodes, {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": draw(4, 3)}, domains={"my": 1}, functions=made, ir=9)


SPOILT: dict[str, tuple[Callable[[], onnx.ModelProto], Change, str]] = {
    "two versions": (residual, lambda m: m.opset_import.append(opset(17)), "imports the domain 'ai.onnx' in versions 18 and 17"),
    "unknown version": (residual, lambda m: setattr(m.opset_import[0], "version", 2**62), "imports opset 4611686018427387904"),
    "no version": (residual, lambda m: setattr(m.opset_import[0], "version", 0), "imports opset 0 of 'ai.onnx'"),
    "domain": (residual, lambda m: setattr(named(m, "r"), "domain", "x"), r"node 'r' \(x.Relu\): No opset import for domain x"),
    "inputs": (residual, lambda m: named(m, "r").input.append("c1"), r"node 'r' \(Relu, opset 18\) has 2 inputs; the operator takes 1"),
    "outputs": (residual, lambda m: named(m, "r").output.append("q"), r"node 'r' \(Relu, opset 18\) has 2 outputs; the operator takes 1"),
    "needed input": (residual, lambda m: named(m, "a").input.__setitem__(0, ""), r"node 'a' \(Add, opset 18\) has no input 0"),
    "attribute left out": (residual, lambda m: named(m, "ns").ClearField("attribute"), r"\(Concat, opset 18\) has no attribute 'axis'"),
    "unknown attribute": (residual, lambda m: setattr(attribute(named(m, "y"), "axis"), "name", "axes"), "has an attribute 'axes', which"),
    "attribute twice": (
        residual,
        lambda m: named(m, "y").attribute.append(named(m, "y").attribute[0]),
        "two attributes of the name 'axis'",
    ),
    "type of attribute": (residual, lambda m: setattr(attribute(named(m, "y"), "axis"), "type", 1), "'axis' is a float and holds 'i'"),
    "attribute of no type": (residual, lambda m: setattr(attribute(named(m, "y"), "axis"), "type", 0), "'axis' is undefined"),
    "other type than wanted": (
        residual,
        lambda m: attribute(named(m, "y"), "axis").CopyFrom(helper.make_attribute("axis", 1.0)),
        "attribute 'axis' is a float; the operator takes an int",
    ),
    "group": (residual, lambda m: named(m, "c1").attribute.append(helper.make_attribute("group", 0)), "attribute 'group' is 0; it must be"),
    "stride": (residual, lambda m: attribute(named(m, "p"), "strides").ints.__setitem__(0, 0), r"'strides' is \[0, 2\]; it must be"),
    "pads": (residual, lambda m: attribute(named(m, "c1"), "pads").ints.__setitem__(0, 2**62), "'pads' is .* may be above 2,147,483,647"),
    "text": (
        residual,
        lambda m: setattr(attribute(named(m, "c2"), "auto_pad"), "s", b"\xff"),
        "attribute 'auto_pad' is no text",
    ),
    "made twice": (residual, lambda m: named(m, "r").output.__setitem__(0, "bn"), "makes the tensor 'bn', which something else makes too"),
    "weight is made": (residual, lambda m: named(m, "r").output.__setitem__(0, "w1"), "makes the tensor 'w1', which something else"),
    "made by nothing": (
        residual,
        lambda m: named(m, "r").input.__setitem__(0, "?"),
        r"node 'r' .*reads the tensor '\?', which no node makes",
    ),
    "output of nothing": (residual, lambda m: setattr(m.graph.output[0], "name", "z"), "output 'z' of the graph is made by no node"),
    "input twice": (residual, lambda m: m.graph.input.append(m.graph.input[0]), "two inputs of the name 'x'"),
    "cycle": (residual, a_cycle, r"the graph has a cycle through nodes \['c1', 'bn', 'r'"),
    "long name": (residual, lambda m: setattr(named(m, "r"), "name", "a" * 9999), "9,999 characters are more than 4,096"),
    "element type": (residual, lambda m: setattr(weight(m, "w1"), "data_type", 99), "weight 'w1' is damaged: it has element type 99"),
    "negative size": (residual, lambda m: weight(m, "w1").dims.__setitem__(0, -4), r"weight 'w1' is damaged: it has sizes \[-4, 3, 3, 3\]"),
    "many axes": (residual, lambda m: weight(m, "w1").dims.extend([1] * 40), "44 axes are more than 32"),
    "short data": (residual, lambda m: setattr(weight(m, "w1"), "raw_data", b"1234"), r"holds 4 bytes, and float \[4, 3, 3, 3\] takes 432"),
    "data twice": (residual, lambda m: weight(m, "w1").float_data.append(1), "holds its data twice, as float_data and raw_data"),
    "data of another type": (
        residual,
        lambda m: weight(m, "m1").CopyFrom(TensorProto(name="m1", data_type=7, dims=[1], float_data=[1])),
        "weight 'm1' is damaged: it is int64 and holds float_data",
    ),
    "segment": (residual, lambda m: setattr(weight(m, "w1").segment, "begin", 1), "is a segment of a tensor"),
    "declared type": (
        residual,
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 77),
        "'x' in the graph has element type 77",
    ),
    "declared size": (
        residual,
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[1], "dim_value", 2**40),
        "'x' in the graph has a size of 1,099,511,627,776",
    ),
    "sparse": (sparse, lambda m: m.graph.sparse_initializer[0].dims.__setitem__(0, -1), "sparse weight 'w' contradicts itself"),
    "division by nothing": (
        sequences,
        lambda m: weight(m, "sp").CopyFrom(numpy_helper.from_array(np.asarray(0), "sp")),
        r"node 'parts' \(SplitToSequence, opset 18\): input 1 is 0; it must be 1 or more",
    ),
    "repeats": (
        BASES["einsum"],
        lambda m: weight(m, "rep").CopyFrom(numpy_helper.from_array(ints(1, -5, 1), "rep")),
        r"node 'ti' \(Tile, opset 18\): input 1 is \[1, -5, 1\]; it must be 0 or more",
    ),
    "in a branch": (
        control_flow,
        lambda m: change_branch(m, lambda g: g.node[0].input.append("x")),
        r"subgraph|node 'o1' \(Mul, opset 18\) has 3 inputs; the operator takes 2",
    ),
    "weight of a branch": (
        control_flow,
        lambda m: change_branch(m, lambda g: setattr(g.initializer[0], "raw_data", b"")),
        "weight 'two' is damaged: it holds 0 bytes",
    ),
    "function twice": (functions, lambda m: m.functions.append(m.functions[0]), "defines the function 'Inner' of domain 'my' twice"),
    "function of itself": (functions, a_call_of_itself, "function 'Inner' calls itself"),
    "inside a function": (functions, lambda m: m.functions[0].node[1].input.append("p"), r"\(Mul, opset 18\) has 3 inputs"),
    "reference": (
        functions,
        lambda m: setattr(m.functions[0].node[0].attribute[0], "ref_attr_name", "steep"),
        "refers to 'steep', which no function around it has",
    ),
    "function's output": (functions, lambda m: m.functions[0].output.__setitem__(0, "?"), r"output '\?' of function 'Inner' is made by no"),
    "inputs of a function": (functions, lambda m: named(m, "a").input.append("x"), r"\(my.Outer, opset 1\) has 3 inputs; .* 0 to 2"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_model_that_is_not_sound_is_refused_by_what_is_wrong_with_it(name: str) -> None:
    build, change, words = SPOILT[name]
    model = build()
    load_model(model)
    change(model)
    with pytest.raises(ModelError, match=words) as refusal:
        load_model(model)
    assert "\n" not in str(refusal.value)
    assert str(refusal.value).endswith(".")


def test_names_that_are_not_text_are_refused() -> None:
    data = residual().SerializeToString().replace(b"\x0a\x02bn", b"\x0a\x02b\xff")
    with pytest.raises(ModelError, match="names in it are not text"):
        load_model(data)


@pytest.mark.parametrize("name", BASES)
def test_sound_models_are_admitted_and_what_is_made_of_them_opens(name: str) -> None:
    """With every optimisation that ONNX Runtime has: the states that a recurrent layer leaves out are no exception."""
    model = BASES[name]()
    load_model(model)
    try:
        made = onnxsal.convert(model, "gradient")
    except OnnxsalError:
        assert name in ("tokens", "looked_up", "two_inputs", "control_flow", "scan", "integer", "sequences")
        return
    load_model(made)
    open_session(made)


# ----- what ends the process in ONNX's own code -----


def cut(first: onnx.NodeProto, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A slice is taken of what ``first`` makes."""
    rest = [node("Slice", "p st en axs", "sl"), node("ReduceMean", "sl", "y", axes=[2, 3], keepdims=0)]
    own = {"st": ints(0, 0), "en": ints(9, 9), "axs": ints(2, 3), **weights}
    return make([first, *rest], {"x": ["N", 3, 4, 4]}, {"y": ["N", None]}, own, opset=13)


NEGATIVE = {
    "Pad": cut(node("Pad", "x pads", "p"), {"pads": np.array([0, 0, -3, 0, 0, 0, -3, 0])}),
    "Conv": cut(node("Conv", "x w", "p"), {"w": draw(2, 3, 9, 9)}),
    "MaxPool": cut(node("MaxPool", "x", "p", kernel_shape=[9, 9]), {}),
    "AveragePool": cut(node("AveragePool", "x", "p", kernel_shape=[9, 9]), {}),
    "ConvTranspose": cut(node("ConvTranspose", "x w", "p", pads=[9, 9, 9, 9]), {"w": draw(3, 2, 3, 3)}),
    "Resize": cut(node("Resize", "x . s", "p"), {"s": np.array([1, 1, -2, 1], np.float32)}),
}


@pytest.mark.parametrize("name", NEGATIVE)
def test_what_takes_away_more_than_there_is_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=rf"node 'p' \({name}\) makes a tensor with the sizes .*-\d"):
        load_model(NEGATIVE[name])


def test_sizes_are_looked_at_behind_slices_too() -> None:
    model = cut(node("MaxPool", "x", "p", kernel_shape=[2, 2]), {})
    more = [node("MaxPool", "sl", "q", kernel_shape=[9, 9]), node("Slice", "q st en axs", "r"), node("Flatten", "r", "f")]
    load_model(model)
    model.graph.node.extend(more)
    with pytest.raises(ModelError, match=r"node 'q' \(MaxPool\) makes a tensor with the sizes .*-\d"):
        load_model(model)


# ----- bounds -----


def constant(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """A model that adds the mean of the constant 'big', which ``nodes`` make."""
    rest = [node("ReduceMean", "big", "m", keepdims=0), node("MatMul", "x w", "h"), node("Add", "h m", "y")]
    return make([*nodes, *rest], {"x": ["N", 6]}, {"y": ["N", 4]}, {"w": draw(6, 4), **weights})


def in_branch_of(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The same inside of an If."""
    inner = [*nodes, node("ReduceMean", "big", "m", keepdims=0), node("Add", "h m", "o1")]
    then = helper.make_graph(inner, "then", [], [helper.make_tensor_value_info("o1", 1, None)])
    other = helper.make_graph([node("Neg", "h", "o2")], "else", [], [helper.make_tensor_value_info("o2", 1, None)])
    whole = [node("MatMul", "x w", "h"), node("If", "yes", "y", then_branch=then, else_branch=other)]
    return make(whole, {"x": ["N", 6]}, {"y": ["N", 4]}, {"w": draw(6, 4), "yes": np.asarray(True), **weights})


def turns(count: int) -> onnx.ModelProto:
    model = control_flow()
    weight(model, "trip").CopyFrom(numpy_helper.from_array(np.asarray(count), "trip"))
    return model


def turns_in_function(count: int) -> onnx.ModelProto:
    """The loop in a function."""
    model = turns(count)
    loop = named(model, "c")
    body = onnx.NodeProto()
    body.CopyFrom(loop)
    body.input[:], body.output[0] = ["t", "k", "p"], "q"
    loop.CopyFrom(helper.make_node("Turn", ["trip", "cond", "b"], ["c"], name="c", domain="my"))
    model.functions.append(helper.make_function("my", "Turn", ["t", "k", "p"], ["q"], [body], [opset(18)]))
    model.opset_import.append(opset(1, "my"))
    return model


def chain(length: int) -> onnx.ModelProto:
    nodes = [node("Relu" if i % 2 else "Neg", f"t{i}" if i else "x", f"t{i + 1}") for i in range(length)]
    return make([*nodes, node("MatMul", f"t{length} w", "y")], {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": draw(4, 3)})


ONE = {"o": np.ones((1, 1), np.float32), "s": ints(100_000, 100_000)}
RANGE = {"a": np.asarray(0), "b": np.asarray(10**10), "c": np.asarray(1)}
LARGE: dict[str, tuple[Callable[[], onnx.ModelProto], str]] = {
    "doubling functions": (lambda: doubling(24), "nodes"),
    "a long chain": (lambda: chain(20_000), "nodes"),
    "ConstantOfShape": (lambda: constant([node("ConstantOfShape", "s", "big")], {"s": ints(10**10)}), "constant_bytes"),
    "Expand": (lambda: constant([node("Expand", "o s", "big")], ONE), "constant_bytes"),
    "Tile": (lambda: constant([node("Tile", "o s", "big")], ONE), "constant_bytes"),
    "Range": (lambda: constant([node("Range", "a b c", "r"), node("Cast", "r", "big", to=1)], RANGE), "constant_bytes"),
    "Pad": (lambda: constant([node("Pad", "o p", "big")], {**ONE, "p": ints(0, 0, 100_000, 100_000)}), "constant_bytes"),
    "Resize": (lambda: constant([node("Resize", "o . . s", "big", mode="nearest")], ONE), "constant_bytes"),
    "Einsum": (
        lambda: constant(
            [node("Range", "a b c", "r"), node("Cast", "r", "v", to=1), node("Einsum", "v v v v", "big", equation="a,b,c,d->abcd")],
            {**RANGE, "b": np.asarray(1000)},
        ),
        "constant_bytes",
    ),
    "sizes that are computed": (
        lambda: constant([node("Mul", "s s", "t"), node("ConstantOfShape", "t", "big")], {"s": ints(100_000)}),
        "constant_bytes",
    ),
    "in a branch": (lambda: in_branch_of([node("ConstantOfShape", "s", "big")], {"s": ints(10**10)}), "constant_bytes"),
    "data made large": (
        lambda: make(
            [node("Expand", "x s", "big"), node("ReduceMean", "big ax", "m", keepdims=1), node("MatMul", "m w", "y")],
            {"x": ["N", 1]},
            {"y": ["N", 4]},
            {"w": draw(1, 4), "s": ints(1, 10**12), "ax": ints(1)},
        ),
        "tensor_bytes",
    ),
    "names": (lambda: make([node("Relu", "x", "a" * 5000)], {"x": ["N", 4]}, {"a" * 5000: ["N", 4]}), "tensor_name_length"),
}


@pytest.mark.parametrize("name", LARGE)
def test_what_grows_beyond_a_limit_is_refused_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    build, bound = LARGE[name]
    model = build()
    with pytest.raises(ModelError, match=f"{variable_of(bound)}=N sets another limit"):
        onnxsal.convert(model, "gradient")
    if bound in ("nodes", "tensor_name_length") and name != "a long chain":
        monkeypatch.setenv(variable_of(bound), "100000000000")
        load_model(model)


@pytest.mark.parametrize(("build", "verb"), [(turns, "check"), (turns_in_function, "plan"), (turns_in_function, "explain")])
def test_a_loop_without_end_is_looked_at_for_a_while(
    build: Callable[[int], onnx.ModelProto], verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable_of("loop_seconds"), "1")
    (tmp_path / "m.onnx").write_bytes(build(2**60).SerializeToString())
    np.save(tmp_path / "x.npy", np.ones((1, 6), np.float32))
    words = {"check": ("check", "m.onnx"), "plan": ("plan", "m.onnx"), "explain": ("explain", "m.onnx", "x.npy", "-o", "out")}
    end = run((*words[verb], "-m", "gradient"), tmp_path)
    assert end.status in (1, 2), end.err
    assert variable_of("steps") in end.err + end.out


def test_random_data_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feed = cnn(), {"x": np.zeros((1, 3, 8, 8), np.float32)}
    monkeypatch.setenv(variable_of("drawn"), "100")
    with pytest.raises(InputError, match=f"random numbers are more than 100. {variable_of('drawn')}"):
        feed_of(model, FeedChoice())
    session = open_session(model).bounded(model)
    session.run(feed)
    monkeypatch.setenv(variable_of("probe_seconds"), "0")
    with pytest.raises(ModelError, match=variable_of("probe_seconds")):
        session.run(feed)


def test_a_model_that_takes_no_elements_is_not_run() -> None:
    model = BASES["gru"]()
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 0
    with pytest.raises(InputError, match="input 'x' has no elements"):
        feed_of(model, FeedChoice())


def test_operators_of_others_count_as_they_like() -> None:
    model = residual()
    named(model, "r").domain = "mine"
    named(model, "r").attribute.append(helper.make_attribute("group", 0))
    model.opset_import.append(opset(1, "mine"))
    load_model(model)


def test_what_takes_minutes_to_compare_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable_of("optimised_nodes"), "20")
    found = onnxsal.check(cnn(), method="gradient")
    assert found.drift is not None
    assert variable_of("optimised_nodes") in found.drift.why


# ----- what no check of structure sees -----


def test_a_rule_that_fails_on_a_model_which_does_not_run_blames_the_model() -> None:
    """ONNX's inference and ONNX Runtime, as it opens a model, pass over a permutation of three axes of a tensor that has four."""
    model = BASES["lstm"]()
    shape = model.graph.input[0].type.tensor_type.shape
    shape.dim.add().dim_value = 3
    with pytest.raises(ModelError, match=r"its nodes do not fit each other: .*Transpose"):
        onnxsal.convert(model, "gradient")
