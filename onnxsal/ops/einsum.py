"""Einsum: sums of products over labelled axes; its gradients are sums of products of the same kind."""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxsal.errors import UnsupportedError
from onnxsal.graph import Emit, NodeView, Value
from onnxsal.graph.adjoints import identity_matrix, shape_parts
from onnxsal.graph.helpers import same_dim, shape_of
from onnxsal.ops.places import Places, places, pooled, product
from onnxsal.ops.registry import case, gradient_of
from onnxsal.ops.statements import APART, Moved, Roles


@dataclass(frozen=True)
class Equation:
    """An equation in plain form: one label per axis of every operand and of the output, no ellipsis, the output written out."""

    terms: tuple[str, ...]
    output: str


def parse(node: NodeView) -> Equation:
    """The node's equation with its ellipses spelled out as labels of their own and its implicit output made explicit."""
    text = "".join(node.attr("equation").split())
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    ranks = [node.input(i).rank for i in range(len(terms))]
    spans = [rank - len(term.replace("...", "")) if "..." in term else 0 for term, rank in zip(terms, ranks, strict=True)]
    free = [c for c in string.ascii_letters if c not in text]
    if max(spans) > len(free):
        raise UnsupportedError(f"{node.label}: equation '{text}' has more axes than there are letters; spell its ellipsis out.")
    dots = "".join(free[: max(spans)])
    plain = tuple(term.replace("...", dots[len(dots) - span :]) for term, span in zip(terms, spans, strict=True))
    if not arrow:
        right = ("..." if "..." in left else "") + _implicit(node, text, terms)
    return Equation(plain, right.replace("...", dots))


def _implicit(node: NodeView, text: str, terms: Sequence[str]) -> str:
    """The labels that occur once, in alphabetical order."""
    counts = Counter("".join(terms).replace("...", ""))
    once = sorted(label for label, count in counts.items() if count == 1)
    if any(label.islower() for label in once) and any(label.isupper() for label in once):
        raise UnsupportedError(
            f"{node.label}: equation '{text}' leaves the order of its output's axes {once} to the alphabet, and runtimes disagree on "
            "whether capital letters come first. Write the output after '->'."
        )
    return "".join(once)


def _refuse_misstated(node: NodeView, equation: Equation) -> None:
    """Raise ``UnsupportedError`` where the output is stated to have size 1 along a label that an operand stretches.

    ONNX's inference takes a label's size from one operand only; what follows from it (how many samples, how many classes) is wrong.
    """
    for axis, label in enumerate(equation.output):
        sizes = [node.input(i).dim(term.index(label)) for i, term in enumerate(equation.terms) if label in term]
        if node.y.dim(axis) == 1 and any(size != 1 for size in sizes):
            told = ", ".join("?" if size is None else str(size) for size in sizes)
            raise UnsupportedError(
                f"{node.label}: along '{label}' of equation '{node.attr('equation')}' its operands have the sizes {told}, and the output "
                "is stated to have size 1, which the run does not make. Expand the operand of size 1 before this node, or write a Mul."
            )


def _operand_gradient(op: Emit, node: NodeView, dy: Value, equation: Equation, i: int) -> Value:
    """The sum of products of dy and the other operands, brought to the axes of operand i."""
    x, own = node.input(i), equation.terms[i]
    others = [j for j in range(len(equation.terms)) if j != i]
    beside = [(equation.output, node.y), *((equation.terms[j], node.input(j)) for j in others)]
    present = set("".join(labels for labels, _ in beside))
    kept = [p for p, label in enumerate(own) if label in present and own.index(label) == p]
    left = ",".join([equation.output, *(equation.terms[j] for j in others)])
    right = "".join(own[p] for p in kept)
    g = dy
    if left != right:
        g = op.Einsum(dy, *(node.input(j) for j in others), equation=f"{left}->{right}")
    missing = [p for p in range(len(own)) if p not in kept]
    g = op.Unsqueeze(g, missing) if missing else g
    return _diagonal(op, _fitted(op, g, x, own, kept, beside), x, own)


def _fitted(op: Emit, g: Value, x: Value, own: str, kept: list[int], beside: list[tuple[str, Value]]) -> Value:
    """``g`` summed along axes where x was repeated, and repeated along axes that x alone has.

    An axis of size 1 stands for every size: what dy and the others have there may be larger than x, or 1 where x is larger.
    """
    alone = [p for p, label in enumerate(own) if p not in kept and own.count(label) == 1]
    doubtful = [p for p in kept if not _agrees(x, p, [(v, q) for labels, v in beside for q, c in enumerate(labels) if c == own[p]])]
    if all(x.dim(p) is not None for p in doubtful):
        stretched = [p for p in doubtful if x.dim(p) == 1]
        g = op.ReduceSum(g, stretched, keepdims=1) if stretched else g
    else:
        eligible = np.isin(np.arange(len(own)), doubtful)
        axes = op.Squeeze(op.NonZero(op.And(op.Equal(shape_of(op, x), 1), eligible)), [0])
        g = op.ReduceSum(g, axes, keepdims=1, noop_with_empty_axes=1)
    if not alone and all(x.dim(p) == 1 for p in doubtful):
        return g
    return op.Expand(g, shape_parts(op, [(x, p) if own.index(label) == p else 1 for p, label in enumerate(own)]))


def _agrees(x: Value, axis: int, others: list[tuple[Value, int]]) -> bool:
    """Whether an axis of x is known to have the size that the same label has everywhere else."""
    size = (x.shape or ())[axis]
    return all(v.shape is not None and same_dim(v.shape[q], size) for v, q in others)


def _diagonal(op: Emit, g: Value, x: Value, own: str) -> Value:
    """``g`` put on the diagonal of the axes that share a label, 0 elsewhere."""
    for p, label in enumerate(own):
        first = own.index(label)
        if first != p:
            eye = identity_matrix(op, x, p)
            rest = [q for q in range(len(own)) if q not in (first, p)]
            g = op.Mul(g, op.Unsqueeze(eye, rest) if rest else eye)
    return g


def _sums_alone(node: NodeView) -> str:
    """Whether a label of a constant operand is summed without an active operand: then it is sums of weights that meet an element."""
    equation = parse(node)
    active = "".join(term for i, term in enumerate(equation.terms) if node.want(i))
    rest = "".join(term for i, term in enumerate(equation.terms) if not node.want(i))
    stretched = any(d == 1 for v in node.inputs if v is not None for d in v.shape or ())
    alone = set(rest) - set(active) - set(equation.output)
    return "it sums weights before they meet the input" if alone or (stretched and rest) else ""


def _einsum_axes(node: NodeView, i: int, axis: int, j: int) -> Moved:
    """An axis whose label the output has."""
    equation = parse(node)
    label = equation.terms[i][axis]
    stretched = node.input(i).dim(axis) == 1 and node.y.dim(equation.output.find(label)) != 1
    return (equation.output.index(label), APART) if equation.output.count(label) == 1 and not stretched else None


def _matrix(node: NodeView, i: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Axes whose label the output has and no other operand; axes whose label the output has not."""
    equation = parse(node)
    own, others = list(enumerate(equation.terms[i])), "".join(term for k, term in enumerate(equation.terms) if k != i)
    kept = {label for _, label in own if label in equation.output}
    return tuple(a for a, label in own if label in kept - set(others)), tuple(a for a, label in own if label not in kept)


def _places(node: NodeView, parts: Sequence[Places | None]) -> Places | None:
    """The mean of each operand over the labels that the output has not; operands with a diagonal are not followed."""
    equation, shape, sources = parse(node), node.y.static, []
    for term, part in zip(equation.terms, parts, strict=True):
        if len(set(term)) < len(term):
            return None
        if part is not None:
            at = pooled(part.at, [i for i, label in enumerate(term) if label not in equation.output])
            kept = [label for label in equation.output if label in term]
            at = at.transpose(0, *(1 + term.index(label) for label in (*kept, *(c for c in term if c not in kept))))
            sizes = iter(at.shape[1:])
            sources.append(at.reshape(len(at), *(next(sizes) if label in term else 1 for label in equation.output)))
    return None if shape is None else places(shape, product(sources, len(shape)))


@gradient_of(
    "Einsum",
    family="linear",
    axes=_einsum_axes,
    trained=(0, 1),
    places=_places,
    bias="product",
    roles=Roles(None, mixed=_sums_alone, matrix=_matrix),
    cases=[
        case((3, 4), (4, 5), equation="ij,jk->ik"),
        case((2, 3, 4), (2, 5, 4), equation="bid, bjd -> bij"),
        case((2, 3, 4, 2), (2, 5, 4, 2), equation="bqhd,bkhd->bhqk"),
        case((3, 4), equation="ij->ji"),
        case((3, 4), equation="ij->i"),
        case((3, 4), equation="ij->"),
        case((3, 3), equation="ii->i"),
        case((3, 3), equation="ii"),
        case((3, 2, 3), equation="iji->j"),
        case((3, 2, 3), (2, 3), equation="iji,ji->ij"),
        case((3, 3, 3), equation="iii->i"),
        case((3,), (4,), equation="i,j->ij"),
        case((3,), (3,), equation="i,i"),
        case((3,), (4,), equation="i,j->"),
        case((3, 4), (4, 5), equation="ba,ac"),
        case((3, 4), (4, 5), equation="cj,ja"),
        case((2, 3, 4, 5), (2, 3, 5, 6), equation="...ij,...jk->...ik"),
        case((2, 3, 4), (2, 3, 4), equation="...j,...j"),
        case((2, 3, 4), equation="...ij->...ji"),
        case((2, 3, 4), (4, 5), equation="b...j,jk->...bk"),
        case((2, 3), (3, 4), (4, 5), equation="ij,jk,kl->il"),
        case((2, 1), (3, 4), equation="ij,jk->ik"),
        case((2, 3), (1, 4), equation="ij,jk->ijk"),
        case((4, 3), (1, 3), equation="bi,bi->b"),
        case((), (2, 3), equation=",ij->ij"),
        case((2, 3), equation="ij->ij"),
    ],
)
def einsum(op: Emit, node: NodeView, dy: Value) -> list[Value | None]:
    """dx_i = einsum(dy, the other operands -> axes of x_i), repeated along axes that x_i alone has, on the diagonal of repeated ones."""
    equation = parse(node)
    _refuse_misstated(node, equation)
    return [_operand_gradient(op, node, dy, equation, i) if node.want(i) else None for i in range(len(equation.terms))]
