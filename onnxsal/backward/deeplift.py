"""DeepLIFT, rescale rule: multipliers in place of derivatives, so that contributions sum to the difference from a reference.

Shrikumar et al. 2017, arXiv 1704.02685. ``m`` is the multiplier at a tensor: (difference of the score) / (difference of the tensor).
"""

from __future__ import annotations

from onnxsal.backward.registry import rule
from onnxsal.backward.walk import walk_of
from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Signals, Value
from onnxsal.graph.helpers import like_shape, over, times, unbroadcast
from onnxsal.ops.registry import family_of, spec_of, vjp
from onnxsal.ops.statements import Roles


def reference_of(op: Emit, node: NodeView) -> NodeView:
    """The node as it is on the reference input."""
    twins = walk_of(op).reference
    if twins is None or node.index not in twins:
        raise UnsupportedError(f'{node.label}: DeepLIFT\'s rules need the activations of a reference; use wrap = "deeplift".')
    twin = twins[node.index]
    twin.wants, twin.wild, twin.norm = node.wants, node.wild, node.norm
    return twin


def _one_active(node: NodeView) -> int:
    active = [i for i, wanted in enumerate(node.wants) if wanted]
    if len(active) != 1 or node.input(active[0]).shape != node.y.shape:
        names = [node.proto.input[i] for i in active]
        raise UnsupportedError(f"{node.label}: rule 'rescale' takes functions of one tensor, element by element; {names} decide here.")
    return active[0]


@rule("rescale", families=("activation", "elementwise", "select", "quantize", "product"))
def rescale(op: Emit, node: NodeView, dys: Signals, *, threshold: float = 1e-7) -> Signals:
    """m_x = m dy / dx with differences from the reference; the derivative where |dx| is below the threshold."""
    (m, *_), twin, i = dys, reference_of(op, node), _one_active(node)
    assert m is not None
    moved, near = _difference(op, node.input(i), twin.input(i), threshold)
    if family_of(node) == "activation" and not node.wild:
        derivative = vjp(op, _plainly(node), [op.const(1.0)])[i]
        slope = op.Where(near, derivative, op.Div(op.Sub(node.y, twin.y), moved))  # where the divisor is 0 the quotient is not taken
        return [op.Mul(m, slope) if j == i else None for j in range(len(node.proto.input))]
    slope = over(op, node, op.Sub(node.y, twin.y), op.Where(near, 1.0, moved))
    derivative = vjp(op, node, dys)[i]
    assert derivative is not None
    return [op.Where(near, derivative, times(op, node, m, slope)) if j == i else None for j in range(len(node.proto.input))]


def _plainly(node: NodeView) -> NodeView:
    """The node, masked by choices rather than products: beside quotients nothing is in the blocked layout."""
    view = node.replaced(node.inputs, node.y)
    view.finite = False
    return view


def _difference(op: Emit, x: Value, x0: Value, threshold: float) -> tuple[Value, Value]:
    moved = op.Sub(x, x0)
    return moved, op.Less(op.Abs(moved), float(threshold))


@rule("rescale_max", families=("max_pool",))
def rescale_max(op: Emit, node: NodeView, dys: Signals, *, threshold: float = 1e-7) -> Signals:
    """m_x dx = what max(y, y0) - y0 brings to the winner of x, and y - max(y, y0) to the winner of the reference."""
    (m, *others), twin = dys, reference_of(op, node)
    # of this family TopK alone gives other elements than the largest
    if m is None or any(o is not None for o in others) or node.op_type == "TopK":
        raise UnsupportedError(f"{node.label}: rule 'rescale_max' is known for the largest element of windows and axes only.")
    larger = op.Max(node.y, twin.y)
    gained = vjp(op, node, [times(op, node, m, op.Sub(larger, twin.y))])[0]
    # what goes back to the reference is each sample's own, and the reference may be one for all
    each = Value(op.cached(("each", twin.x.name), lambda: like_shape(op, twin.x, node.x)).name, 0, node.x.shape)
    lost = vjp(op, twin.replaced([each, *twin.inputs[1:]], twin.y), [times(op, node, m, op.Sub(node.y, larger))])[0]
    assert gained is not None
    assert lost is not None
    moved, near = _difference(op, node.x, twin.x, threshold)
    return node.grads(op.Where(near, 0.0, op.Div(op.Add(gained, lost), op.Where(near, 1.0, moved))))


@rule("midpoint", families=("linear", "product"))
def midpoint(op: Emit, node: NodeView, dys: Signals, *, threshold: float = 1e-7) -> Signals:
    """m_a = J_a^T m with the other factor halfway between reference and input: exact for products of two activations."""
    active = [i for i, wanted in enumerate(node.wants) if wanted]
    spec = spec_of(node)
    roles = Roles(()) if spec is None or spec.roles is None else spec.roles
    if set(active) & set(roles.divisors):
        return rescale(op, node, dys, threshold=threshold) if len(active) == 1 else _quotient(op, node, dys)
    factors = active if roles.factors is None else [i for i in active if i in roles.factors]
    if len(factors) > 2 or any(i not in (*factors, *roles.shifts) for i in active):
        names = [node.proto.input[i] for i in active]
        raise UnsupportedError(
            f"{node.label}: DeepLIFT has no rule for this node, which is no product of at most two of the activations {names}."
        )
    if len(factors) < 2:
        return vjp(op, node, dys)
    twin = reference_of(op, node)
    halfway = [op.Mul(op.Add(v, twin.input(i)), 0.5) if i in factors and v is not None else v for i, v in enumerate(node.inputs)]
    return vjp(op, node.replaced(halfway, node.y), dys)


def _quotient(op: Emit, node: NodeView, dys: Signals) -> Signals:
    """a / b as a product of a and 1 / b: m_a = m (1/b + 1/b0) / 2, m_b = -m (a + a0) / (2 b b0)."""
    (m, *_), twin = dys, reference_of(op, node)
    assert m is not None
    (a, b), (a0, b0) = (node.x, node.input(1)), (twin.x, twin.input(1))
    first = times(op, node, m, op.Mul(op.Add(op.Reciprocal(b), op.Reciprocal(b0)), 0.5))
    second = over(op, node, times(op, node, m, op.Mul(op.Add(a, a0), -0.5)), op.Mul(b, b0))
    return [unbroadcast(op, first, node.y, a), unbroadcast(op, second, node.y, b)]
