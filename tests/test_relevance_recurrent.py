"""Relevance through recurrent layers: the signal takes all, gates take nothing, and nothing is mislaid."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from torch import Tensor, nn

import onnxsal
from onnxsal.errors import OnnxsalError
from tests.oracle import run
from tests.recurrent_oracle import functions
from tests.small_models import draw, make, node
from tests.torch_nets import export

METHODS = ("cp_lrp", "attnlrp")
T, N, D, H = 12, 3, 4, 5
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


def layer(kind: str, *, lens: list[int] | None = None, states: bool = False, reads: str = "all", **more: Any) -> onnx.ModelProto:
    """A layer on rows [N, T, 4], read at every step and (``all``) at its last states, in float64."""
    d = 2 if more.get("direction") == "bidirectional" else 1
    g, dtype = GATES[kind] * H, np.float64
    weights = {
        **{"w": draw(d, g, D, seed=1, dtype=dtype, scale=0.7), "r": draw(d, g, H, seed=2, dtype=dtype, scale=0.6)},
        **{"b": draw(d, 2 * g, seed=3, dtype=dtype, scale=0.4), "h0": draw(d, N, H, seed=4, dtype=dtype)},
        **{"c0": draw(d, N, H, seed=5, dtype=dtype), "p": draw(d, 3 * H, seed=6, dtype=dtype)},
        **{"m": draw(H, 3, seed=7, dtype=dtype), "steps": np.array([0, 1]), "one": np.array([0])},
    }
    if lens is not None:
        weights["lens"] = np.asarray(lens, np.int32)
    given = ["x", "w", "r", "b", "lens" if lens is not None else "."] + (["h0"] if states else [])
    if kind == "LSTM" and (states or more.pop("peepholes", False)):
        given = [*given[:5], "h0" if states else ".", "c0" if states else ".", "p"]
    more.pop("peepholes", None)
    outputs = "y yh yc" if kind == "LSTM" else "y yh"
    nodes = [
        node("Transpose", "rows", "x", perm=[1, 0, 2]),
        node(kind, " ".join(given), outputs, name="cell", hidden_size=H, **more),
        node("ReduceSum", "y steps", "s", keepdims=0),
        *([node("ReduceSum", "yh one", "sh", keepdims=0), node("Add", "s sh", "a")] if reads != "y" else [node("Identity", "s", "a")]),
        *(
            [node("ReduceSum", "yc one", "sc", keepdims=0), node("Add", "a sc", "e")]
            if kind == "LSTM" and reads != "y"
            else [node("Identity", "a", "e")]
        ),
        node("MatMul", "e m", "z"),
    ]
    kinds = dict.fromkeys(["rows", "z"], TensorProto.DOUBLE)
    return make(nodes, {"rows": [N, T, D]}, {"z": [N, 3]}, weights, types=kinds)


def forward(kind: str, proto: onnx.ModelProto, x: np.ndarray, d: int) -> list[dict[str, np.ndarray]]:
    """Everything that direction ``d`` computes at every step that it takes, in the order in which it takes them, step by step."""
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    cell = next(n for n in proto.graph.node if n.name == "cell")
    told = {a.name: onnx.helper.get_attribute_value(a) for a in cell.attribute}
    names, own = [n.decode() for n in told.get("activations", [])] or DEFAULTS[kind], len(DEFAULTS[kind])
    names = names * (d + 1) if len(names) == own else names
    f = functions(names, told.get("activation_alpha"), told.get("activation_beta"))[d * own :]
    w, r, (wb, rb) = weights["w"][d], weights["r"][d], np.split(weights["b"][d], 2)
    states, lens = "h0" in cell.input, weights.get("lens", np.full(N, T))
    h = weights["h0"][d] if states else np.zeros((N, H))
    c = weights["c0"][d] if states else np.zeros((N, H))
    pi, po, pf = np.split(weights["p"][d], 3) if "p" in cell.input else np.zeros((3, H))
    bound = told.get("clip", np.inf)
    order, found = range(T)[::-1] if told.get("direction") == b"reverse" or d else range(T), []
    for t in order:
        step = {"t": t, "h'": h, "c'": c, "inside": (t < lens)[:, None]}
        parts = dict(
            enumerate(
                zip(np.split(w, GATES[kind]), np.split(r, GATES[kind]), np.split(wb, GATES[kind]), np.split(rb, GATES[kind]), strict=True)
            )
        )

        def at(k: int, extra: np.ndarray | float = 0.0, h: np.ndarray = h, parts: dict = parts, t: int = t) -> np.ndarray:
            return np.clip(x[t] @ parts[k][0].T + parts[k][2] + h @ parts[k][1].T + parts[k][3] + extra, -bound, bound)

        if kind == "RNN":
            step |= {"a": x[t] @ w.T + wb + h @ r.T + rb}
            step["g"] = new = f[0](np.clip(step["a"], -bound, bound))
        elif kind == "GRU":
            z, reset = f[0](at(0)), f[0](at(1))
            inner = (
                reset * (h @ parts[2][1].T + rb[2 * H :]) if told.get("linear_before_reset") else (reset * h) @ parts[2][1].T + rb[2 * H :]
            )
            step |= {"a": x[t] @ parts[2][0].T + wb[2 * H :] + inner, "z": z, "r": reset}
            step["g"] = f[1](np.clip(step["a"], -bound, bound))
            new = (1 - z) * step["g"] + z * h
        else:
            i = f[0](at(0, pi * c))
            forget = 1 - i if told.get("input_forget") else f[0](at(2, pf * c))
            step |= {"a": x[t] @ parts[3][0].T + wb[3 * H :] + h @ parts[3][1].T + rb[3 * H :], "i": i, "f": forget}
            step["g"] = f[1](np.clip(step["a"], -bound, bound))
            step["c"] = forget * c + i * step["g"]
            new = f[0](at(1, po * step["c"])) * f[2](step["c"])
            c = np.where(step["inside"], step["c"], c)
        h = np.where(step["inside"], new, h)
        found.append(step | {"h": h})
    return found


def relevance(kind: str, proto: onnx.ModelProto, x: np.ndarray, c: int, reads: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Relevance of x, what biases and initial states keep, and the score, per sample: relevance divided at every sum, step by step."""
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    cell = next(n for n in proto.graph.node if n.name == "cell")
    late = any(a.name == "linear_before_reset" and a.i for a in cell.attribute)
    head, share = weights["m"][:, c], np.zeros_like(x)
    kept, score = np.zeros(N), np.zeros(N)
    for d in range(weights["w"].shape[0]):
        steps = forward(kind, proto, x, d)
        block = GATES[kind] - 1
        w, r = np.split(weights["w"][d], GATES[kind])[block], np.split(weights["r"][d], GATES[kind])[block]
        wb, rb = (np.split(b, GATES[kind])[block] for b in np.split(weights["b"][d], 2))
        last = steps[-1]
        every = reads == "all"
        rh = last["h"] * head if every else np.zeros((N, H))
        memory = np.where(last["inside"], last.get("c", 0.0), last["c'"])
        rc = memory * head if every and kind == "LSTM" else np.zeros((N, H))
        score += (rh + rc).sum(1)
        for s in reversed(steps):
            y = s["h"] * head * s["inside"]
            score += y.sum(1)
            arrived = (rh + y) * s["inside"]
            if kind == "LSTM":
                total = (rc + arrived) * s["inside"] / np.where(s["inside"], s["c"], 1.0)
                rc = np.where(s["inside"], total * s["f"] * s["c'"], rc)
                rg, back = total * s["i"] * s["g"], 0.0
            elif kind == "GRU":
                total = arrived / np.where(s["inside"], s["h"], 1.0)
                rg, back = total * (1 - s["z"]) * s["g"], total * s["z"] * s["h'"]
            else:
                rg, back = arrived, 0.0
            rg = rg / s["a"]
            share[s["t"]] += x[s["t"]] * (rg @ w)
            if kind == "GRU" and late:
                through = (rg * s["r"]) @ r
                kept += (rg * (wb + s["r"] * rb)).sum(1)
            else:
                through = (rg @ r) * (s["r"] if kind == "GRU" else 1.0)
                kept += (rg * (wb + rb)).sum(1)
            rh = np.where(s["inside"], s["h'"] * through + back, rh)
        kept += (rh + rc).sum(1)
    return share, kept, score


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "rnn": ("RNN", {}),
    "rnn, relu": ("RNN", {"activations": ["Relu"]}),
    "rnn, both ways, states": ("RNN", {"direction": "bidirectional", "states": True}),
    "rnn, lengths": ("RNN", {"lens": [12, 5, 0]}),
    "rnn, clipped": ("RNN", {"clip": 0.4}),
    "gru": ("GRU", {}),
    "gru, reset behind": ("GRU", {"linear_before_reset": 1}),
    "gru, both ways, lengths": ("GRU", {"direction": "bidirectional", "lens": [12, 5, 1]}),
    "gru, reset behind, backward, lengths, states": (
        "GRU",
        {"linear_before_reset": 1, "direction": "reverse", "lens": [7, 12, 2], "states": True},
    ),
    "gru, last states unread": ("GRU", {"reads": "y"}),
    "lstm": ("LSTM", {}),
    "lstm, peepholes": ("LSTM", {"peepholes": True}),
    "lstm, coupled": ("LSTM", {"input_forget": 1, "peepholes": True}),
    "lstm, both ways, lengths, states": ("LSTM", {"direction": "bidirectional", "lens": [12, 5, 1], "states": True}),
    "lstm, backward, clipped": ("LSTM", {"direction": "reverse", "clip": 0.6}),
    "lstm, other activations": (
        "LSTM",
        {"activations": ["HardSigmoid", "Softsign", "Elu"], "activation_alpha": [0.25, 1.0], "activation_beta": [0.5]},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_twelve_steps_against_a_division_at_every_sum(name: str) -> None:
    """In float64: relevance of the input, what is kept, and the law to 1e-12."""
    kind, options = CASES[name]
    proto, x = layer(kind, **options), draw(T, N, D, seed=9, dtype=np.float64)
    wanted, kept, score = relevance(kind, proto, x, 1, options.get("reads", "all"))
    got = []
    for method in METHODS:
        found = run(onnxsal.convert(proto, method, components=True), {"rows": x.transpose(1, 0, 2), "target": np.array([1])})
        np.testing.assert_allclose(found["explained_score"], score, rtol=1e-5)
        np.testing.assert_allclose(found["attribution"].transpose(1, 0, 2), wanted, rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(found["booked/bias"], kept, rtol=1e-5, atol=1e-6)
        assert np.abs(found["attribution"].sum((1, 2)) + kept - score).max() < 1e-12
        assert found["residual"].max() < 1e-12
        got.append(found["attribution"])
    np.testing.assert_array_equal(*got)


def test_fullgrad_on_the_same_pass() -> None:
    """Bias terms at every output that is read, the last states too."""
    proto, x = layer("LSTM", direction="bidirectional", lens=[12, 5, 1]), draw(N, T, D, seed=9, dtype=np.float64)
    fed = {"rows": x, "target": np.array([1])}
    full, plain = (run(onnxsal.convert(proto, method, components=True), fed) for method in ("libra_fullgrad", "cp_lrp"))
    assert full["residual"].max() < 1e-12
    np.testing.assert_array_equal(full["attribution"], plain["attribution"])
    at_outputs = sum(full[f"fullgrad/{name}"] for name in ("cell", "cell:1", "cell:2"))
    np.testing.assert_allclose(at_outputs, plain["booked/bias"], rtol=1e-5)


def test_the_golden_vector_of_one_step() -> None:
    """An LSTM with one unit; R = h."""
    order = ("i", "o", "f", "g")
    w = {"i": (0.4, 0.1), "f": (-0.3, 0.2), "g": (1, -0.5), "o": (0.6, 0.3)}
    u, b = {"i": 0.5, "f": 0.1, "g": -0.4, "o": 0.2}, {"i": 0.1, "f": 1, "g": 0.05, "o": -0.1}
    weights = {
        "w": np.array([[w[k] for k in order]]),
        "r": np.array([[[u[k]] for k in order]]),
        "b": np.array([[*(b[k] for k in order), 0, 0, 0, 0]], np.float64),
        "flat": np.array([1, 1]),
    }
    nodes = [node("LSTM", "x w r b . h c", ". yh", hidden_size=1), node("Reshape", "yh flat", "z")]
    shapes = {"x": [1, 1, 2], "h": [1, 1, 1], "c": [1, 1, 1]}
    proto = make(nodes, shapes, {"z": [1, 1]}, weights, types=dict.fromkeys([*shapes, "z"], TensorProto.DOUBLE))
    fed = {"x": np.array([[[0.5, -1]]]), "h": np.full((1, 1, 1), 0.2), "c": np.full((1, 1, 1), 0.7), "target": np.array([0])}
    wanted = {"x": [0.085829213, 0.085829213], "h": [-0.013732674], "c": [0.179270953]}
    for name, shares in wanted.items():
        found = run(onnxsal.convert(proto, "cp_lrp", input=name, score="raw", batched=False, components=True), fed)
        np.testing.assert_allclose(found["attribution"].reshape(-1), shares, atol=1e-9)
        np.testing.assert_allclose(found["z"], 0.345779626, atol=1e-9)
        others = sum(sum(v) for k, v in wanted.items() if k != name)
        np.testing.assert_allclose(found["booked/bias"], 0.008582921 + others, atol=1e-8)
        assert found["residual"].max() < 1e-12


@pytest.mark.parametrize("kind", list(GATES))
def test_the_initial_state_is_explained(kind: str) -> None:
    """The input then carries no signal, and what it adds is kept."""
    proto = layer(kind, states=True, lens=[12, 5, 0])
    h0 = next(t for t in proto.graph.initializer if t.name == "h0")
    proto.graph.initializer.remove(h0)
    proto.graph.input.append(onnx.helper.make_tensor_value_info("h0", TensorProto.DOUBLE, [1, N, H]))
    fed = {"rows": draw(N, T, D, seed=9, dtype=np.float64), "h0": onnx.numpy_helper.to_array(h0), "target": np.array([1])}
    found = run(onnxsal.convert(proto, "cp_lrp", input="h0", batched=False, score="raw"), fed)
    assert found["residual"].max() < 1e-12
    assert np.abs(found["attribution"]).max() > 1e-2


ACTIVATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "a sigmoid": ("RNN", {"activations": ["Sigmoid"]}),
    "softplus, clipped": ("GRU", {"activations": ["Sigmoid", "Softplus"], "clip": 0.7, "linear_before_reset": 1}),
    "affine": ("LSTM", {"activations": ["Sigmoid", "Affine", "Sigmoid"], "activation_alpha": [0.5], "activation_beta": [0.25]}),
    "tanh one way, affine the other": (
        "RNN",
        {"direction": "bidirectional", "activations": ["Tanh", "Affine"], "activation_alpha": [0.5], "activation_beta": [0.25]},
    ),
    "scaled": ("LSTM", {"activations": ["Sigmoid", "ScaledTanh", "Tanh"], "activation_alpha": [0.5], "activation_beta": [0.25]}),
    "leaky": ("GRU", {"activations": ["Sigmoid", "LeakyRelu"], "activation_alpha": [0.25]}),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_that_are_not_0_at_0_are_booked(name: str) -> None:
    """Their derivative is taken, and what is left over is kept; the law holds whatever the function."""
    kind, options = ACTIVATIONS[name]
    proto, x = layer(kind, lens=[12, 5, 1], states=True, **options), draw(N, T, D, seed=9, dtype=np.float64)
    found = run(onnxsal.convert(proto, "cp_lrp"), {"rows": x, "target": np.array([2])})
    assert found["residual"].max() < 1e-12
    assert np.abs(found["attribution"]).max() > 1e-3
    assert not found["attribution"][2, 1:].any()


def test_what_is_padded_has_no_influence() -> None:
    """Steps beyond the end of a sequence get exactly nothing, and change nothing."""
    for kind in GATES:
        converted = onnxsal.convert(layer(kind, lens=[12, 5, 1]), "cp_lrp")
        x = draw(N, T, D, seed=9, dtype=np.float64)
        found = run(converted, {"rows": x, "target": np.array([0])})["attribution"]
        x[1, 5:], x[2, 1:] = 7.0, -3.0
        again = run(converted, {"rows": x, "target": np.array([0])})["attribution"]
        assert not found[1, 5:].any()
        np.testing.assert_array_equal(found, again)


def test_what_the_rule_does_not_know_is_refused() -> None:
    """Weights that are computed from the input, and layout 1, for which ONNX Runtime has no kernel."""
    weights = {"w": draw(1, 4 * H, D, dtype=np.float32), "r": draw(1, 4 * H, H, dtype=np.float32)}
    sides = {"x": [2, 3, D]}
    turned = make([node("LSTM", "x w r", "y", layout=1, hidden_size=H)], sides, {"y": [2, 3, 1, H]}, weights)
    made = make(
        [node("Mul", "w x0", "v"), node("LSTM", "x v r", "y", hidden_size=H), node("ReduceMean", "x", "x0")][::-1],
        sides,
        {"y": [2, 1, 3, H]},
        weights,
    )
    made.graph.node.sort(key=lambda n: ["x0", "v", "y"].index(n.output[0]))
    for proto, text in ((turned, "layout"), (made, "no gradient is known for input 1")):
        with pytest.raises(OnnxsalError, match=text):
            onnxsal.convert(proto, "cp_lrp", batched=False, score="raw")


class Classifier(nn.Module):
    """Two stacked layers of one kind over [N, T, 4], read at the last step."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.cell = getattr(nn, kind)(D, H, 2, batch_first=True, bidirectional=kind != "RNN")
        self.head = nn.Linear(H * (1 if kind == "RNN" else 2), 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.cell(x)[0][:, -1])


@pytest.mark.parametrize(
    ("kind", "exporter", "opset"), [("LSTM", "legacy", 14), ("GRU", "legacy", 17), ("RNN", "legacy", 17), ("LSTM", "dynamo", 18)]
)
def test_exported_layers_in_float32(kind: str, exporter: str, opset: int) -> None:
    """By ONNX Runtime: the law to 1e-5, and each sample by itself."""
    torch.manual_seed(0)
    x = torch.randn(3, T, D)
    proto = export(Classifier(kind).eval(), exporter, opset, example=x)
    for method in METHODS:
        converted = onnxsal.convert(proto, method)
        name = converted.graph.input[0].name
        found = run(converted, {name: x.numpy(), "target": np.array([1])})
        assert found["residual"].max() < 1e-5
        alone = run(converted, {name: x[1:2].numpy(), "target": np.array([1])})
        np.testing.assert_allclose(found["attribution"][1:2], alone["attribution"], rtol=1e-4, atol=1e-6)
