"""Every convolution that is added names all of its attributes, and every Split its sizes: not all runtimes know what a gap means."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import pytest

import onnxsal
from onnxsal.engine.method import shipped_methods
from onnxsal.graph.infer import inferred
from onnxsal.graph.window_attributes import CONVOLUTIONS, window_attributes
from onnxsal.ops.registry import REGISTRY, Case, OpSpec
from tests.nets import light
from tests.oracle import one_node_model
from tests.small_models import cnn, make, node

ALWAYS = {"dilations", "group", "strides", "pads"}


def graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside its nodes."""
    yield graph
    for one in graph.node:
        for attribute in one.attribute:
            if attribute.HasField("g"):
                yield from graphs(attribute.g)


def added(made: onnx.ModelProto, model: onnx.ModelProto) -> list[onnx.NodeProto]:
    own = {n.name for n in model.graph.node}
    return [n for graph in graphs(made.graph) for n in graph.node if n.name not in own]


def gaps(made: onnx.ModelProto, model: onnx.ModelProto) -> list[str]:
    """What is missing at the convolutions and Splits that were added. A kernel is named where the shape of the weight is known."""
    known = {v.name: v for v in [*inferred(made).graph.value_info, *made.graph.input]}
    shapes = {t.name: list(t.dims) for t in made.graph.initializer}
    shapes |= {n: [d.dim_value for d in v.type.tensor_type.shape.dim] for n, v in known.items() if v.type.tensor_type.HasField("shape")}
    found = []
    for one in added(made, model):
        names = {a.name for a in one.attribute}
        if one.op_type in CONVOLUTIONS:
            kernel = shapes.get(one.input[1], [0])[2:]
            wanted = ALWAYS | ({"kernel_shape"} if kernel and all(kernel) else set())
            found += [f"{one.op_type} {one.name}: {sorted(wanted - names)}"] if wanted - names else []
        if one.op_type == "Split" and "num_outputs" in names:
            found.append(f"Split {one.name}: num_outputs")
    return found


def every_case() -> list:
    """Each case of each operator on pictures, series or volumes: those whose signal may go through a convolution."""
    return [
        pytest.param(spec, one, id=f"{name}-{i}")
        for (domain, name), spec in REGISTRY.items()
        for i, one in enumerate(spec.cases)
        if not domain and not one.straight_through and isinstance(one.inputs[0], tuple) and len(one.inputs[0]) >= 3
        if spec.family in ("resample", "linear") or "Pool" in name
    ]


ATTENTION = ("attention_rollout", "chefer")
"""Methods that follow attention, of which a convolutional network has none."""

SEEN: list[int] = []
"""How many convolutions each case brought."""


@pytest.mark.parametrize(("spec", "one"), every_case())
def test_the_gradient_of_every_operator_on_places(spec: OpSpec, one: Case):
    model, _, wrt = one_node_model(spec, one, dtype=np.float32)
    made = onnxsal.vjp(model, wrt=[w for w in wrt if int(w[1:]) not in spec.stops])
    SEEN.append(sum(n.op_type in CONVOLUTIONS for n in added(made, model)))
    assert not gaps(made, model)


def test_the_cases_bring_convolutions():
    """All of the cases above in one process, or a part of them: without a convolution nothing would be checked."""
    made = onnxsal.vjp(cnn(), wrt=["w1", "w2"])
    assert sum(n.op_type in CONVOLUTIONS for n in added(made, cnn())) >= 2
    assert not gaps(made, cnn())
    assert not SEEN or sum(SEEN) > len(SEEN) / 8


@pytest.mark.parametrize("where", ["any", "cpu"])
@pytest.mark.parametrize("method", sorted(n for n, m in shipped_methods().items() if "patterns" not in m.parameters and n not in ATTENTION))
def test_every_method(method: str, where: str):
    colours = {"black": 0.0, "white": 1.0}
    made = onnxsal.convert(cnn(), method, runs_on=where, **colours)
    assert not gaps(made, cnn())


def test_forms_of_the_blocked_layout():
    model = light("squeezenet")
    made = onnxsal.convert(model, "gradient", runs_on="cpu")
    assert sum(n.op_type in CONVOLUTIONS for n in added(made, model)) > 20
    assert not gaps(made, model)


def plain(**attributes: object) -> onnx.ModelProto:
    """A convolution that names nothing that it need not."""
    nodes = [node("Conv", "x w b", "c", **attributes), node("Relu", "c", "r"), node("ReduceMean", "r", "y", axes=[2, 3], keepdims=0)]
    weights = {"w": np.ones((3, 2, 3, 3), np.float32), "b": np.ones(3, np.float32)}
    return make(nodes, {"x": ["N", 2, 6, 6]}, {"y": ["N", 3]}, weights, opset=17)


@pytest.mark.parametrize(
    "attributes", [{}, {"pads": [1, 1, 1, 1]}, {"auto_pad": "SAME_UPPER"}, {"strides": [2, 2], "kernel_shape": [3, 3]}]
)
def test_a_copy_of_a_node_of_the_file_names_what_the_file_leaves_out(attributes: dict):
    """Relevance runs a convolution again, on other weights; the file's own node stays as it was."""
    model = plain(**attributes)
    made = onnxsal.convert(model, "lrp_epsilon_plus")
    copies = [n for n in added(made, model) if n.op_type == "Conv"]
    assert copies
    (own,) = [n for n in made.graph.node if n.name == model.graph.node[0].name]
    assert not {"dilations", "group"} & {a.name for a in own.attribute}
    for copy in copies:
        told = {a.name: onnx.helper.get_attribute_value(a) for a in copy.attribute}
        assert {"dilations", "group", "kernel_shape", "strides"} <= told.keys()
        assert ("pads" in told) != ("auto_pad" in told)
    x = np.random.default_rng(0).random((2, 2, 6, 6), np.float32)
    explained = onnxsal.Explainer(made).explain(x)
    assert explained.residual is not None
    assert np.isfinite(explained.attribution).all()


def test_what_is_not_given_is_what_the_standard_says():
    """A convolution with the attributes written out gives the numbers of one without."""
    for places in (1, 2, 3):
        names = {k: v for k, v in window_attributes(places, [3] * places).items() if v is not None}
        x, w = np.random.default_rng(0).random((1, 2, *[5] * places), np.float32), np.ones((1, 2, *[3] * places), np.float32)
        answers = []
        for attributes in ({}, names):
            model = make([node("Conv", "x w", "y", **attributes)], {"x": list(x.shape)}, {"y": None}, {"w": w})
            answers.append(onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})[0])
        np.testing.assert_array_equal(*answers)
