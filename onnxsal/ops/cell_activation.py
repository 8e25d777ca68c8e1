"""Activations inside recurrent cells: with a clip, parameters of their own, and their slope at every step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnx import helper

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.helpers import mask, ones_like
from onnxsal.ops.registry import spec_of, vjp

_NAMES = ["Affine", "Elu", "HardSigmoid", "LeakyRelu", "Relu", "ScaledTanh", "Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu"]
_LOWER = {name.lower(): name for name in _NAMES}
"""ONNX Runtime reads the names in any case."""

_TAKES = {"Affine": 2, "ScaledTanh": 2, "HardSigmoid": 2, "LeakyRelu": 1, "Elu": 1, "ThresholdedRelu": 1}
"""How many parameters (alpha, then beta) an activation takes from the node's lists, which are consumed in order."""

DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}

NEAR = 1e-12
"""Up to this size of a its ratio y / a is taken to be the slope at 0."""

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

    def ratio(self, op: Emit, node: NodeView, a: Value, done: tuple[Value, Through]) -> tuple[Value, Value | None]:
        """(k, r) with ``y = k a + r``, of an activation that was ``done``: k = y / a, where y is 0 at 0 (there its slope), and no r.

        Of any other k is the derivative.
        """
        (y, slope), (view, origin) = done, self._origin(node, a)
        if origin is not None:
            near = op.Less(op.Abs(a), NEAR)
            return op.Where(near, origin, op.Div(y, a)), None
        k = slope(ones_like(op, a))
        homogeneous = view is not None and (spec := spec_of(view)) is not None and spec.bias == "zero"
        return k, None if homogeneous else op.Sub(y, op.Mul(k, a))

    def _origin(self, node: NodeView, a: Value) -> tuple[NodeView | None, float | None]:
        """The node of the activation alone, and its slope at 0 if it is 0 there and curved (``None``: it is not, or has a kink there)."""
        if self.name == "Affine":
            return None, self.alpha if self.beta == 0 else None
        if self.name == "ScaledTanh":
            assert self.alpha is not None
            assert self.beta is not None
            return None, self.alpha * self.beta
        view = self._node(node, a)
        spec = spec_of(view)
        return view, None if spec is None else spec.origin(view)

    def _node(self, node: NodeView, a: Value) -> NodeView:
        given = {k: v for k, v in (("alpha", self.alpha), ("beta", self.beta)) if v is not None}
        return NodeView(node.model, helper.make_node(self.name, [a.name], ["y"], name=node.name, **given), node.index)

    def _apply(self, op: Emit, node: NodeView, a: Value) -> tuple[Value, Through]:
        if self.name == "Affine":
            return op.Add(op.Mul(a, self.alpha), self.beta), lambda signal: op.Mul(signal, self.alpha)
        if self.name == "ScaledTanh":
            y, inner = Activation("Tanh")._apply(op, node, op.Mul(a, self.beta))
            return op.Mul(y, self.alpha), lambda signal: op.Mul(op.Mul(inner(signal), self.alpha), self.beta)
        view = self._node(node, a)
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
