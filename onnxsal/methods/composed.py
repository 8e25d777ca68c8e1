"""Methods made of others: the maps of several methods, each brought to scale, multiplied, added or averaged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

from onnx import TensorProto

from onnxsal.engine.method import Part
from onnxsal.errors import MethodError
from onnxsal.graph import Emit, Value
from onnxsal.methods.build import Build, Result, with_colours, wrap, wrapper_of

MANY = 2**31 - 1

Combine = Callable[[Emit, Sequence[Value]], Value]
"""(op, values of one shape) -> one value."""


@dataclass(frozen=True)
class Shown:
    """What one part says: its attribution, its map [N, H, W] if there are pictures, both at scale, and the error of its law."""

    attribution: Value
    saliency: Value | None
    residual: Value | None


@wrap("product", keeps="those of its parts", composes=(2, MANY))
def product(build: Build) -> Result:
    """``A = prod_k A_k / s_k``, ``map = prod_k map_k / t_k`` with the scales that the table asks for (``rescale``; default 1)."""
    return _composed(build, lambda op, values: reduce(op.Mul, values))


@wrap("sum", keeps="those of its parts", composes=(2, MANY))
def sum_(build: Build) -> Result:
    """``A = sum_k A_k / s_k``, ``map = sum_k map_k / t_k`` with the scales that the table asks for (``rescale``; default 1)."""
    return _composed(build, lambda op, values: op.Sum(*values))


@wrap("mean", keeps="those of its parts", composes=(2, MANY))
def mean(build: Build) -> Result:
    """``A = 1/n sum_k A_k / s_k``, ``map = 1/n sum_k map_k / t_k`` with the scales that the table asks for (``rescale``; default 1)."""
    return _composed(build, lambda op, values: op.Mean(*values))


def _composed(build: Build, fold: Combine) -> Result:
    """Residual: the largest of the parts'. Outputs of each part: ``<method>/residual`` and ``<method>/reached`` [N], and its components."""
    op = build.op
    op.shares = True  # where two parts send the same signal across a node, it is sent once
    parts = [_part(build, part, number) for number, part in enumerate(build.method.of)]
    saliency = [part.saliency for part in parts if part.saliency is not None]
    residuals = [part.residual for part in parts if part.residual is not None]
    return Result(
        fold(op, [part.attribution for part in parts]),
        (residuals[0] if len(residuals) == 1 else op.Max(*residuals)) if residuals else None,
        fold(op, saliency) if len(saliency) == len(parts) else None,
    )


def _part(build: Build, part: Part, number: int) -> Shown:
    """One part under its own name, numbered where a method is there twice."""
    same = [other.method.name for other in build.method.of].count(part.method.name) > 1
    return shown_part(build, part, f"{part.method.name}{number}" if same else part.method.name)


def shown_part(build: Build, part: Part, label: str) -> Shown:
    """One part, built as if it were alone, its own inputs and outputs named after ``label``."""
    op, method = build.op, part.method
    settings = method.settle(part.parameters)
    score = settings.pop("score", build.question.score)
    if score != build.question.score:
        raise MethodError(
            f"part '{method.name}' of method '{build.method.name}' explains score='{score}'; ask for that score for the whole."
        )
    own = replace(
        build,
        method=method.bound(with_colours(settings, build.edges)),
        settings=settings,
        name=lambda name: build.name(f"{label}/{name}"),
        layer=None,
    )
    op.walk = None
    with op.named(label):
        found = wrapper_of(method).build(own)
        pixels = found.saliency or own.pixels(found.attribution)
        for name, value in (("residual", found.residual), ("reached", found.reached)):
            if value is not None:
                single = op.Cast(value, to=TensorProto.FLOAT)
                build.components.append(own.told(name, single, TensorProto.FLOAT, (f"{label}/samples",)))
        rank = build.question.x.rank
        axes = list(range(1 if build.question.batched else 0, rank))
        scaled = _rescaled(op, found.attribution, part.rescale, axes)
        return Shown(scaled, None if pixels is None else _rescaled(op, pixels, part.rescale, [1, 2]), found.residual)


def _rescaled(op: Emit, value: Value, how: str, axes: Sequence[int]) -> Value:
    """A value at scale (``engine.table_rows.RESCALINGS``), each sample by itself; nothing is divided by zero."""
    if how == "none" or not axes:
        return value
    low: Value | None = None
    if how == "range":
        low = op.ReduceMin(value, list(axes), keepdims=1)
        size = op.Sub(op.ReduceMax(value, list(axes), keepdims=1), low)
    else:
        size = (op.ReduceMax if how == "max" else op.ReduceSum)(op.Abs(value), list(axes), keepdims=1)
    above = value if low is None else op.Sub(value, low)
    return op.Div(above, op.Where(op.Greater(size, 0.0), size, 1.0))
