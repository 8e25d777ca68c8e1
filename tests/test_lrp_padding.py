"""Padding written as a node of its own is no input: relevance rules see what they see where the convolution pads by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxsal
from tests.oracle import run
from tests.small_models import make, node

DTYPE = dict.fromkeys("xy", 11)
PADS = np.asarray([0, 0, 1, 2, 0, 0, 2, 1])


def network(spelling: str, batch: int | str = "N") -> onnx.ModelProto:
    """Two convolutions that need padding, the second with dead sums (its weights are negative), and a mean."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(4, 3, 3, 3)), "b": rng.normal(size=4), "v": rng.normal(size=(5, 4, 3, 3)), "c": rng.uniform(2, 3, 5)}
    weights["v"][1:3] = -0.1 * np.abs(weights["v"][1:3])
    inside = [1, 2, 2, 1]
    if spelling == "inside":
        nodes = [node("Conv", "x w b", "z", pads=inside), node("Relu", "z", "a"), node("Conv", "a v c", "u", pads=inside, strides=[2, 2])]
    elif spelling == "Pad":
        weights |= {"pads": PADS, "zero": np.zeros(())}
        nodes = [node("Pad", "x pads zero", "p"), node("Conv", "p w b", "z"), node("Relu", "z", "a")]
        nodes += [node("Pad", "a pads", "q"), node("Conv", "q v c", "u", strides=[2, 2])]
    elif spelling == "Pad, channels last":
        weights |= {"pads": PADS[[0, 2, 3, 1, 4, 6, 7, 5]]}
        nodes = [node("Transpose", "x", "xt", perm=[0, 2, 3, 1]), node("Cast", "xt", "xc", to=11), node("Pad", "xc pads", "p")]
        nodes += [node("Transpose", "p", "pt", perm=[0, 3, 1, 2]), node("Conv", "pt w b", "z"), node("Relu", "z", "a")]
        nodes += [
            node("Transpose", "a", "at", perm=[0, 2, 3, 1]),
            node("Pad", "at pads", "q"),
            node("Transpose", "q", "qt", perm=[0, 3, 1, 2]),
        ]
        nodes += [node("Conv", "qt v c", "u", strides=[2, 2])]
    else:  # zeros joined to the sides, and a channel of zeros with a weight of its own
        weights |= {"w": np.concatenate([weights["w"], rng.normal(size=(4, 1, 3, 3))], 1), "none": np.zeros((2, 1, 6, 7))}
        weights |= {
            "left": np.zeros((2, 4, 6, 2)),
            "right": np.zeros((2, 4, 6, 1)),
            "above": np.zeros((2, 4, 1, 10)),
            "below": np.zeros((2, 4, 2, 10)),
        }
        nodes = [node("Concat", "x none", "x4", axis=1), node("Concat", "left x4 right", "p0", axis=3)]
        nodes += [node("Concat", "above p0 below", "p", axis=2), node("Conv", "p w b", "z"), node("Relu", "z", "a")]
        nodes += [node("Conv", "a v c", "u", pads=inside, strides=[2, 2])]
    nodes += [node("Relu", "u", "r"), node("GlobalAveragePool", "r", "g"), node("Flatten", "g", "y")]
    return make(nodes, {"x": [batch, 3, 6, 7]}, {"y": [batch, 5]}, weights, types=DTYPE)


CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "w squared": ("lrp_resnet", {}),
    "flat": ("lrp_resnet", {"input_rule": "flat"}),
    "ones": ("lrp_resnet", {"input_rule": "ones"}),
    "z+": ("lrp_resnet", {"input_rule": "zplus"}),
    "box": ("lrp_resnet", {"input_rule": "zbox", "low": -4.0, "high": 4.0}),
    "published": ("lrp_resnet", {"preset": "keio"}),
    "epsilon, biases spread": ("lrp_epsilon", {"bias": "distribute"}),
    "deep Taylor": ("deep_taylor", {"low": -4.0, "high": 4.0}),
}


@pytest.mark.parametrize("batch", ["N", 2])
@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("spelling", ["Pad", "Pad, channels last", "Concat"])
def test_padding_is_no_input(spelling: str, choice: str, batch: int | str) -> None:
    method, given = CHOICES[choice]
    x = np.random.default_rng(1).normal(size=(2, 3, 6, 7))
    target = 0 if given.get("preset") else 2  # unit 2 of the second layer has dead sums, for which the published code has no rule
    results = []
    for model in (network("inside", batch), network(spelling, 2 if spelling == "Concat" else batch)):
        results.append(run(onnxsal.convert(model, method, target=target, components=True, **given), {"x": x}))
    wanted, got = results
    assert np.abs(wanted["attribution"]).max() > 0
    np.testing.assert_allclose(got["y"], wanted["y"], rtol=1e-9)
    np.testing.assert_allclose(got["attribution"], wanted["attribution"], rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(got["residual"], wanted["residual"], atol=1e-9)
    for name, before in (("p", "shares"), ("pt", "shares"), ("q", "a"), ("qt", "a")):  # nothing is sent to what was filled in
        if f"relevance/{name}" in got:
            np.testing.assert_allclose(got[f"relevance/{name}"], got[f"relevance/{before}"], rtol=1e-6)


def test_copied_borders_are_inputs() -> None:
    """A Pad that repeats data adds inputs: their relevance goes back to what was repeated."""
    rng = np.random.default_rng(0)
    weights = {"pads": PADS, "w": rng.normal(size=(4, 3, 3, 3))}
    nodes = [node("Pad", "x pads", "p", mode="reflect"), node("Conv", "p w", "z"), node("Relu", "z", "r")]
    model = make(
        [*nodes, node("GlobalAveragePool", "r", "g"), node("Flatten", "g", "y")], {"x": [2, 3, 6, 7]}, {"y": [2, 4]}, weights, types=DTYPE
    )
    got = run(onnxsal.convert(model, "lrp_resnet", target=1, input_rule="flat", components=True), {"x": rng.normal(size=(2, 3, 6, 7))})
    assert got["residual"].max() < 1e-6
    np.testing.assert_allclose(got["relevance/p"], got["relevance/shares"], rtol=1e-6)
