"""Activations inside recurrent cells: with a clip, parameters of their own, and their slope at every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import helper

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import mask
from onnxsal.ops.registry import vjp

_NAMES = ["Affine", "Elu", "HardSigmoid", "LeakyRelu", "Relu", "ScaledTanh", "Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu"]
_LOWER = {name.lower(): name for name in _NAMES}
"""ONNX Runtime reads the names in any case."""

_TAKES = {"Affine": 2, "ScaledTanh": 2, "HardSigmoid": 2, "LeakyRelu": 1, "Elu": 1, "ThresholdedRelu": 1}
"""How many parameters (alpha, then beta) an activation takes from the node's lists, which are consumed in order."""

DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}

Through = Callable[[Value], Value]
"""Multiplies a signal by the slope of an activation."""


@dataclass(frozen=True)
class Activation:
    """One activation with its parameters; ``None``: the default of the ONNX operator of that name."""

    name: str
    alpha: float | None = None
    beta: float | None = None

    def __call__(self, op: Emit, node: NodeView, a: Value, clipped: bool = True) -> tuple[Value, Through]:
        """The activation of ``a`` (clipped first where the node has a clip), and its slope."""
        clip = node.attr("clip") if clipped else None
        inner = a if not clip else op.Clip(a, -clip, clip)
        y, slope = self._apply(op, node, inner)
        if not clip:
            return y, slope
        return y, lambda signal: mask(op, op.LessOrEqual(op.Abs(a), clip), slope(signal))

    def _apply(self, op: Emit, node: NodeView, a: Value) -> tuple[Value, Through]:
        if self.name == "Affine":
            return op.Add(op.Mul(a, self.alpha), self.beta), lambda signal: op.Mul(signal, self.alpha)
        if self.name == "ScaledTanh":
            y, inner = Activation("Tanh")._apply(op, node, op.Mul(a, self.beta))
            return op.Mul(y, self.alpha), lambda signal: op.Mul(op.Mul(inner(signal), self.alpha), self.beta)
        given = {k: v for k, v in (("alpha", self.alpha), ("beta", self.beta)) if v is not None}
        view = NodeView(node.model, helper.make_node(self.name, [a.name], ["y"], name=node.name, **given), node.index)
        y = op.clone(view, [a])
        view.proto.output[0] = y.name
        view.wants = (True,)

        def slope(signal: Value) -> Value:
            (dx,) = vjp(op, view, [signal])
            assert dx is not None
            return dx

        return y, slope


def activations(node: NodeView, directions: int) -> list[list[Activation]]:
    """The activations of each direction, with their parameters."""
    names = [n.decode() for n in node.attr("activations") or []] or DEFAULTS[node.op_type] * directions
    alphas, betas = (list(node.attr(k) or []) for k in ("activation_alpha", "activation_beta"))
    chosen = []
    for given in names:
        name = _LOWER.get(given.lower())
        if name is None:
            raise UnsupportedError(f"{node.label}: unknown activation '{given}'; known: {', '.join(_NAMES)}.")
        takes = _TAKES.get(name, 0)
        alpha = alphas.pop(0) if takes > 0 and alphas else None
        beta = betas.pop(0) if takes > 1 and betas else None
        if (alpha is None and name in ("Affine", "ScaledTanh", "ThresholdedRelu")) or (beta is None and name in ("Affine", "ScaledTanh")):
            raise UnsupportedError(
                f"{node.label}: activation {name} without activation_alpha or activation_beta: ONNX Runtime and the standard take "
                "different values then. Write them into the node."
            )
        chosen.append(Activation(name, alpha, beta))
    each = len(DEFAULTS[node.op_type])
    return [chosen[i * each : (i + 1) * each] for i in range(directions)]
