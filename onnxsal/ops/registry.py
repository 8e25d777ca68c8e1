"""Where operators are registered: gradient, family, implicit bias and test cases in one decorated function.

A gradient has the signature ``gradient(op, node, dy) -> [one entry per input]``; ``dy`` is the signal at the (first)
output. Operators with several differentiable outputs register with ``many=True`` and receive a list with ``None`` where an
output carries no signal. An entry is ``None`` for an input that gets none; the engine treats a ``None`` for an input that
was *wanted* as an error, unless the operator lists that input in ``stops`` with the reason why its derivative is zero.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypedDict, Unpack

import onnx

from onnxsal.errors import UnsupportedError, near_miss
from onnxsal.graph import FLOATS, Emit, NodeView, Value
from onnxsal.graph.helpers import zeros_like
from onnxsal.ops.expansion import EXPANSIONS
from onnxsal.ops.guards import guarded
from onnxsal.ops.places import DEFAULTS as PLACES_OF_FAMILIES
from onnxsal.ops.places import PlaceRule, lost
from onnxsal.ops.squashing import HeadRule
from onnxsal.ops.statements import (
    AxesRule,
    Edge,
    EdgeRule,
    Facts,
    Gates,
    Keeps,
    PickRule,
    Range,
    RangeOf,
    RangeRule,
    Roles,
    Scaling,
    Units,
    WildRule,
)

Gradient = Callable[[Emit, NodeView, Any], Sequence[Value | None]]
Rest = Value | None | Sequence[Value | None]
"""What an operator keeps, of its first output or of each."""
Bias = Callable[[Emit, NodeView], Rest]

BiasKind = Literal["zero", "symmetric", "affine", "linear", "product", "unknown"]

FAMILIES: dict[str, str] = {
    "linear": "weighted sums: convolutions and matrix products",
    "activation": "elementwise non-linearities that end a layer",
    "elementwise": "other elementwise functions of one tensor",
    "add": "sums of tensors",
    "product": "products and quotients of tensors",
    "select": "elementwise choice between tensors",
    "max_pool": "the largest (or smallest) element of a window or axis",
    "average_pool": "means over a window or axis",
    "normalization": "division by a statistic of the data, or by stored statistics",
    "softmax": "normalised exponentials",
    "reduction": "sums, products and norms over axes; running sums",
    "movement": "copies, rearrangements and selections of elements",
    "resample": "interpolation",
    "quantize": "rounding to a grid and back",
    "recurrent": "layers that carry a state from step to step",
    "loss": "training losses",
}


@dataclass(frozen=True)
class Case:
    """One test case: a node with its inputs. Arrays of floats are differentiated; ``fixed`` inputs become initialisers.

    ``shapes`` gives random float inputs drawn from ``[low, high]`` (away from ``kinks``); an array is taken as it is; ``None``
    leaves an optional input out. ``opset`` is the lowest opset the case is written for. ``static_only`` is the reason why the
    case cannot run with symbolic shapes and run-time integers (empty: it can). ``straight_through`` marks a derivative that is
    defined through rounding: finite differences cannot see it, tests/test_quantize.py compares it with the unrounded function.
    """

    inputs: tuple[Any, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    fixed: tuple[int, ...] = ()
    low: float = -2.0
    high: float = 2.0
    kinks: tuple[float, ...] = ()
    outputs: int = 1
    opset: int = 18
    static_only: str = ""
    straight_through: bool = False


def case(
    *inputs: Any,
    fixed: Sequence[int] = (),
    low: float = -2.0,
    high: float = 2.0,
    kinks: Sequence[float] = (),
    outputs: int = 1,
    opset: int = 18,
    **attributes: Any,
) -> Case:
    """A test case: each input is a shape (tuple: random floats in [low, high], at least 0.05 from every kink), an array, or None.

    Integer, boolean and string arrays are always initialisers in the static form of the tests and inputs in the dynamic one;
    ``fixed`` lists float inputs that stay initialisers and are not differentiated.
    """
    return Case(tuple(inputs), attributes, tuple(fixed), low, high, tuple(kinks), outputs, opset)


@dataclass(frozen=True)
class Held:
    """An operator that divides by a statistic of its input, or multiplies by gates, with these held constant: its gradient, and its
    implicit bias (of an operator with several outputs one for each).
    """

    gradient: Gradient
    bias: Callable[[Emit, NodeView], Rest]


@dataclass(frozen=True)
class OpSpec:
    """All that onnxsal knows about one operator."""

    op_type: str
    domain: str
    family: str
    gradient: Gradient
    bias: BiasKind | Bias
    cases: tuple[Case, ...]
    many: bool = False
    stops: Mapping[int, str] = field(default_factory=dict)
    carries: tuple[int, ...] | None = None
    roles: Roles | None = None
    scaling: Scaling | None = None
    units: Units | None = None
    held: Held | None = None
    gates: Gates | None = None
    origin: Callable[[NodeView], float | None] = lambda node: None
    trained: tuple[int, ...] = ()
    keeps: Keeps = ""
    fills: Callable[[NodeView], bool] = lambda node: False
    facts: Facts = field(default_factory=Facts)
    module: str = ""

    @property
    def formula(self) -> str:
        """First line of the gradient's docstring."""
        return (self.gradient.__doc__ or "").strip().splitlines()[0]


REGISTRY: dict[tuple[str, str], OpSpec] = {}
FACTS: dict[tuple[str, str], Facts] = {}
"""What operators without a derivative do to facts."""
NOT_DIFFERENTIABLE: dict[tuple[str, str], str] = {}
NOT_YET: dict[tuple[str, str], str] = {}


class OpOptions(TypedDict, total=False):
    """What an operator may state beside its gradient, for all that share one function; ``head`` and ``places`` for each by name, too."""

    many: bool
    """The gradient takes a list of signals, one for each output."""
    stops: Mapping[int, str]
    """Inputs whose derivative is zero, with the reason."""
    carries: Sequence[int]
    """The outputs that carry a signal, whatever their element type (default: the floating-point ones)."""
    roles: Roles
    """Which inputs are multiplied and which are added."""
    scaling: Scaling
    """How constants scale and shift one input."""
    units: Units
    """Where a layer keeps the weights of each of its units."""
    held: Held
    """What it is while the statistic that it divides by, or its gates, are held constant."""
    gates: Gates
    """What the stored biases of its gates make of its outputs."""
    origin: Callable[[NodeView], float | None] | float
    """The slope at 0 of a function of its first input that is 0 there; ``None`` where it is not."""
    trained: Sequence[int]
    """The inputs that training fits."""
    keeps: Keeps
    """That y is x again."""
    fills: Callable[[NodeView], bool]
    """Whether a movement puts constants beside what it moves."""
    range: RangeRule | Range
    """Between which values its first output lies: always, or as a function of the ranges of the inputs."""
    axes: AxesRule
    """Where the axes of its inputs are in its outputs."""
    pictures: bool
    """That the standard defines it on [N, C, ...]."""
    rectifies: Callable[[NodeView, RangeOf], bool]
    """Whether it cuts its first input off at zero."""
    unsaturated: Callable[[NodeView, RangeOf], bool]
    """Whether it cuts nothing off of what can arrive."""
    head: HeadRule | Mapping[str, HeadRule]
    """What its first output is as a function of scores."""
    places: PlaceRule | Mapping[str, PlaceRule]
    """Where on a picture the elements of its outputs come from (default: as the family)."""
    edge: EdgeRule | Edge
    """What may become of finite inputs: a slope or an output that is infinite or no number."""
    wild: WildRule
    """What infinities among its inputs make of its output."""
    power: Callable[[NodeView], float]
    """Of which exponent it is."""
    picks: PickRule | Mapping[str, PickRule]
    """Which elements of an input its outputs hold."""
    compares: int
    """The input whose elements it compares to pick some of them."""
    level: Callable[[NodeView], int]
    """Along which axis a shift of its first input changes nothing."""


def gradient_of(
    *op_types: str,
    family: str,
    bias: BiasKind | Bias,
    cases: Sequence[Case] | Mapping[str, Sequence[Case]],
    domain: str = "",
    **stated: Unpack[OpOptions],
) -> Callable[[Gradient], Gradient]:
    """Register the decorated function as the gradient of ``op_types``, with what they have ``stated`` beside it.

    ``bias`` is the implicit bias ``r = y - sum_i J_i x_i`` over the active inputs ``node.wants``: a function
    ``(op, node) -> Value | None`` (broadcastable to y; None = zero; or a list, one for each output), or one of
    ``"zero"`` (homogeneous of degree 1), ``"symmetric"`` (symmetric Jacobian, so J x is the gradient of dy = x),
    ``"affine"`` (the node on zeros), ``"linear"`` (as affine, and zero where every floating-point input is active),
    ``"product"`` (multilinear: (1 - number of active inputs) y), ``"unknown"`` (refused by the methods that need it).
    ``cases`` is a list, or a dict per operator where several share one function. An operator without cases is refused.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown family '{family}' for {op_types}{near_miss(family, FAMILIES)}; known: {', '.join(FAMILIES)}")
    for name in stated.keys() - OpOptions.__annotations__.keys():
        known = OpOptions.__annotations__
        raise ValueError(f"unknown option '{name}' for {op_types}{near_miss(name, known)}; known: {', '.join(known)}")

    def register(gradient: Gradient) -> Gradient:
        if not (gradient.__doc__ or "").strip():
            raise ValueError(f"the gradient of {op_types} needs a docstring with its formula")
        for op_type in op_types:
            own = tuple(cases[op_type] if isinstance(cases, Mapping) else cases)
            key = (domain, op_type)
            if not own:
                raise ValueError(f"operator {op_type} is registered without test cases")
            if key in REGISTRY or key in NOT_DIFFERENTIABLE:
                raise ValueError(f"operator {op_type} is registered twice")
            facts, rest = _facts_and_rest(stated, op_type, family)
            REGISTRY[key] = OpSpec(op_type, domain, family, gradient, bias, own, facts=facts, module=gradient.__module__, **rest)
        return gradient

    return register


def _facts_and_rest(stated: OpOptions, op_type: str, family: str) -> tuple[Facts, dict[str, Any]]:
    """What is stated of one operator, in one form: what it does to facts, and the rest."""
    known: dict[str, Any] = dict(stated)
    known |= {k: known[k].get(op_type) for k in ("head", "places", "picks") if isinstance(known.get(k), Mapping)}
    known |= {k: tuple(known[k]) for k in ("carries", "trained") if k in known}
    known |= {"range": _always(known.get("range")), "edge": _always(known.get("edge"))}
    if isinstance(known.get("origin"), float):
        known["origin"] = lambda node, slope=known["origin"]: slope
    known["places"] = known.get("places") or PLACES_OF_FAMILIES.get(family, lost)
    of_facts = {f.name for f in fields(Facts)}
    return Facts(**{k: v for k, v in known.items() if k in of_facts}), {k: v for k, v in known.items() if k not in of_facts}


def _always(stated: Any) -> Any:
    """A rule that says the same of every node, where something is stated of all of them."""
    return stated if stated is None or callable(stated) else lambda node, of: stated


def not_differentiable(
    reason: str,
    *op_types: str,
    domain: str = "",
    range: RangeRule | Range | None = None,
    axes: AxesRule | None = None,
    of_sizes: bool = False,
    edge: EdgeRule | None = None,
    compares: int | None = None,
) -> None:
    """List operators whose outputs carry no derivative, with the reason: a signal that reaches them stops, by definition."""
    for op_type in op_types:
        key = (domain, op_type)
        if key in REGISTRY or key in NOT_DIFFERENTIABLE:
            raise ValueError(f"operator {op_type} is registered twice")
        NOT_DIFFERENTIABLE[key] = reason
        FACTS[key] = Facts(_always(range), axes, edge=edge, of_sizes=of_sizes, compares=compares)


def not_yet(advice: str, *op_types: str, domain: str = "") -> None:
    """List operators that have a derivative but no registered gradient, with what to do instead; on a path they are a refusal."""
    for op_type in op_types:
        NOT_YET[(domain, op_type)] = advice


def advice(node: NodeView) -> str:
    """What to do about a node without a gradient: why it is not known in this form, the advice listed for its operator, or the name that
    may have been meant."""
    refused = (node.model.refused.get(o) for o in node.proto.output)
    listed = next(filter(None, refused), None) or NOT_YET.get((node.domain, node.op_type))
    return f"; {listed}" if listed else near_operator(node.domain, node.op_type)


ALIKE = 0.75
"""How alike the names of two operators must be for one to be taken for a slip of the other: 'Reul' and 'Relu' are."""


def near_operator(domain: str, op_type: str) -> str:
    """``" (did you mean 'x'?)"``: an operator of the same domain (of the standard's, where none is known of that one) whose name is nearly
    the same, or that of the same name in another domain where none was named ('' = there is none).
    """
    known = {*REGISTRY, *NOT_DIFFERENTIABLE, *NOT_YET, *EXPANSIONS}
    elsewhere = [f"{d}.{o}" for d, o in sorted(known) if o == op_type and d and not domain]
    if elsewhere:
        return f" (did you mean '{elsewhere[0]}'?)"
    own = [name for d, name in known if d == domain]
    hit = near_miss(op_type, own or [name for d, name in known if not d], ALIKE)
    return hit.replace("'", f"'{domain}.", 1) if own and domain else hit


def known(domain: str, op_type: str) -> bool:
    """Whether the operator is registered, as differentiable or as not."""
    return (domain, op_type) in REGISTRY or (domain, op_type) in NOT_DIFFERENTIABLE


def spec_of(node: NodeView | onnx.NodeProto) -> OpSpec | None:
    """The operator's registration, or ``None``."""
    return REGISTRY.get(("" if node.domain == "ai.onnx" else node.domain, node.op_type))


def units_of(node: NodeView) -> Units | None:
    """Where the node keeps the weights of its units, if it is a layer of units."""
    spec = spec_of(node)
    return None if spec is None else spec.units


def facts_of(node: NodeView) -> Facts:
    """What the operator states about its outputs (nothing, where it is not registered)."""
    spec = spec_of(node)
    return FACTS.get((node.domain, node.op_type), Facts()) if spec is None else spec.facts


def family_of(node: NodeView) -> str:
    """The operator's family ('' = not registered)."""
    spec = spec_of(node)
    return spec.family if spec else ""


def vjp(op: Emit, node: NodeView, dys: Sequence[Value | None], held: bool = False) -> list[Value | None]:
    """The registered gradient of a node: one signal per input, ``None`` where the input is not wanted.

    ``held``: that of its form with a constant statistic or gates, if it has one. Raises ``UnsupportedError`` if a wanted input gets no
    signal and is not one of the operator's ``stops``.
    """
    spec = spec_of(node)
    if spec is None:
        raise UnsupportedError(f"{node.label} has no gradient{advice(node)}; known operators: `onnxsal ops`.")
    others = [i for i, d in enumerate(dys) if i and d is not None]
    if others and not spec.many:
        raise UnsupportedError(f"{node.label}: a gradient is known for its first output only, but output {others} is differentiated.")
    gradient = spec.held.gradient if held and spec.held is not None else spec.gradient
    answer = guarded(op, node, dys, lambda node, dys: gradient(op, node, list(dys) if spec.many else dys[0]), spec)
    if len(answer) != len(node.proto.input):
        raise AssertionError(f"{node.label}: gradient returned {len(answer)} entries for {len(node.proto.input)} inputs")
    for i, value in enumerate(answer):
        if node.want(i) and value is None and i not in spec.stops:
            raise UnsupportedError(f"{node.label}: no gradient is known for input {i} ('{node.proto.input[i]}').")
        if not node.want(i):
            answer[i] = None
    return answer


def held_bias(op: Emit, node: NodeView) -> Rest:
    """As ``implicit_bias``, of the form of the operator with its statistic, or its gates, constant: of its first output, or of each."""
    spec = spec_of(node)
    return implicit_bias(op, node) if spec is None or spec.held is None else spec.held.bias(op, node)


def implicit_bias(op: Emit, node: NodeView) -> Rest:
    """``r = y - sum_i J_i x_i`` over the wanted inputs, broadcastable to y; ``None`` where it is identically zero. Of an operator whose
    outputs have one each, a list of these.
    """
    spec = spec_of(node)
    if spec is None:
        raise UnsupportedError(f"{node.label} has no implicit bias; known operators: `onnxsal ops`.")
    if callable(spec.bias):
        return spec.bias(op, node)
    return _BIASES[spec.bias](op, node)


def kept(op: Emit, node: NodeView) -> Value | None:
    """As ``implicit_bias``, of an operator with one output."""
    rest = implicit_bias(op, node)
    assert rest is None or isinstance(rest, Value), node.label
    return rest


def _symmetric(op: Emit, node: NodeView) -> Value | None:
    (first, *_) = vjp(op, node, [node.x])
    return None if first is None else op.Sub(node.y, first)


def _affine(op: Emit, node: NodeView) -> Value | None:
    inputs = [zeros_like(op, v) if v is not None and node.want(i) else v for i, v in enumerate(node.inputs)]
    return op.clone(node, inputs)


def _linear(op: Emit, node: NodeView) -> Value | None:
    numeric = FLOATS | {0} | {v.dtype for i, v in enumerate(node.inputs) if v is not None and node.want(i)}
    floats = [i for i, v in enumerate(node.inputs) if v is not None and v.dtype in numeric]
    return None if all(node.want(i) for i in floats) else _affine(op, node)


def _product(op: Emit, node: NodeView) -> Value | None:
    active = sum(node.wants)
    return None if active == 1 else op.Mul(node.y, float(1 - active))


def _unknown(op: Emit, node: NodeView) -> Value | None:
    raise UnsupportedError(
        f"{node.label}: its implicit bias is not known, so the full-gradient of this model is not. "
        "Use another method, such as integrated_gradients."
    )


_BIASES: dict[str, Bias] = {
    "zero": lambda op, node: None,
    "symmetric": _symmetric,
    "affine": _affine,
    "linear": _linear,
    "product": _product,
    "unknown": _unknown,
}
