"""Recurrent layers: what the table of operators cannot say."""

from __future__ import annotations

import io

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import onnxsal
from onnxsal.errors import OnnxsalError
from onnxsal.ops.cells import GATES
from onnxsal.ops.recurrent import GATE_NAMES
from onnxsal.ops.registry import REGISTRY, Case
from tests.oracle import Evaluator, one_node_model, random_like, run, session_of

LAYERS = ["RNN", "GRU", "LSTM"]
CASES = [pytest.param(op_type, c, id=f"{op_type}-{i}") for op_type in LAYERS for i, c in enumerate(REGISTRY["", op_type].cases)]


@pytest.mark.parametrize(("op_type", "test"), CASES)
def test_the_oracle_agrees_with_onnx_runtime(op_type: str, test: Case) -> None:
    model, feed, _ = one_node_model(REGISTRY["", op_type], test, dtype=np.float32)
    for ours, theirs in zip(Evaluator(model).run(None, feed), session_of(model).run(None, feed), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op_type", LAYERS)
def test_a_layer_that_only_returns_its_last_state(op_type: str) -> None:
    """The states of every step are then computed again; the gradient is that of the layer that returns them."""
    model, feed, wrt = one_node_model(REGISTRY["", op_type], REGISTRY["", op_type].cases[3], dtype=np.float32)
    u = random_like(run(model, feed), ["y1"], seed=1)["y1"]
    full = run(onnxsal.vjp(model, wrt=wrt, outputs=["y1"]), feed | {"cotangent/y1": u})
    model.graph.node[0].output[0] = ""
    del model.graph.output[0]
    bare = run(onnxsal.vjp(model, wrt=wrt, outputs=["y1"]), feed | {"cotangent/y1": u})
    for w in wrt:
        np.testing.assert_allclose(bare[f"vjp/{w}"], full[f"vjp/{w}"], rtol=1e-5, atol=1e-6)


def explained_squares(op_type: str, test: Case) -> tuple[onnx.ModelProto, onnx.ModelProto, dict[str, np.ndarray]]:
    """A case whose score is the sum of squares of all outputs, the same with its FullGrad at X, and what both are fed with."""
    model, feed, _ = one_node_model(REGISTRY["", op_type], test)
    for j, y in enumerate(model.graph.output):
        model.graph.node.append(helper.make_node("ReduceSumSquare", [y.name], [f"s{j}"], name=f"s{j}", keepdims=0))
    model.graph.node.append(helper.make_node("Sum", [f"s{j}" for j in range(test.outputs)], ["score"], name="score"))
    model.graph.output.append(helper.make_tensor_value_info("score", TensorProto.DOUBLE, []))
    made = onnxsal.convert(model, "fullgrad", input="x0", output="score", batched=False, target=0, components=True)
    return model, made, feed


@pytest.mark.parametrize(("op_type", "test"), CASES)
def test_fullgrad_is_complete_through_every_output(op_type: str, test: Case) -> None:
    """The score is the sum of squares of all outputs; inputs, weights and biases are fed, and X alone is explained."""
    _, made, feed = explained_squares(op_type, test)
    found = run(made, feed)
    assert found["residual"].max() < 1e-6
    told = [found[f"fullgrad/n{f':{j}' if j else ''}"] for j in range(test.outputs)]
    assert all(np.abs(t).max() > 0 for t in told)


@pytest.mark.parametrize(("op_type", "test"), [one for one in CASES if len(one.values[1].inputs) > 3 and one.values[1].inputs[3]])
def test_fullgrad_tells_what_the_bias_of_each_gate_adds(op_type: str, test: Case) -> None:
    """It is the slope of the score along the rows of B that belong to the gate, times these: a finite difference."""
    model, made, feed = explained_squares(op_type, test)
    found, count = run(made, feed), GATES[op_type]
    bias, step = feed["x3"], 1e-6
    for k, gate in enumerate(GATE_NAMES[op_type]):
        rows = np.zeros((2 * count, bias.shape[1] // (2 * count)))
        rows[[k, count + k]] = 1
        moved = bias * rows.reshape(-1)
        near = [float(run(model, feed | {"x3": bias + sign * step * moved})["score"]) for sign in (1, -1)]
        got = sum(float(found[f"fullgrad/n{f':{j}' if j else ''}/{gate}"].sum()) for j in range(test.outputs))
        assert got == pytest.approx((near[0] - near[1]) / (2 * step), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(("attributes", "message"), [({"layout": 1}, "layout"), ({"activations": ["Affine"]}, "activation_alpha")])
def test_what_has_two_meanings_is_refused(attributes: dict[str, object], message: str) -> None:
    spec = REGISTRY["", "RNN"]
    test = Case(spec.cases[1].inputs, spec.cases[1].attributes | attributes)
    model, _, wrt = one_node_model(spec, test)
    with pytest.raises(OnnxsalError, match=message):
        onnxsal.vjp(model, wrt=wrt, outputs=["y0"])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_parts_tell_biases_from_functions(kind: type[nn.RNNBase]) -> None:
    """Of each sample: what the gates' biases add is among the biases, what their curves add among the functions."""
    torch.manual_seed(0)
    cell, dense = kind(6, 8, batch_first=True), nn.Linear(8, 3)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.dense = cell, dense

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.dense(self.cell(x)[0][:, -1])

    buffer, x = io.BytesIO(), np.random.default_rng(0).standard_normal((3, 5, 6)).astype(np.float32)
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "N"}, "y": {0: "N"}}}
    torch.onnx.export(Net(), torch.from_numpy(x), buffer, opset_version=17, dynamo=False, **names)
    found = onnxsal.Explainer(buffer.getvalue(), "fullgrad", components=True).explain(x)
    gates = [v for k, v in found.components.items() if k.split("/")[-1] in {name for names in GATE_NAMES.values() for name in names}]
    last = next(v for k, v in found.components.items() if "Gemm" in k)
    assert len(gates) == len(GATE_NAMES[kind.__name__])
    np.testing.assert_allclose(found.parts["biases"], sum(gates) + last, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(sum(found.parts.values()), found.score, rtol=1e-5, atol=1e-7)
    parameters = [p for n, p in cell.named_parameters() if "bias" in n]
    score = Net()(torch.from_numpy(x))[0, found.target[0]]
    slopes = torch.autograd.grad(score, parameters)
    wanted = sum(float((g * p).sum()) for g, p in zip(slopes, parameters, strict=True))
    assert float(sum(gates)[0]) == pytest.approx(wanted, rel=1e-4)
