"""Class competition: what a method gives to a class, where it gives the others less. Walter, Vreeken and Fischer, arXiv 2503.07346."""

from __future__ import annotations

from dataclasses import replace

from onnxsal.errors import MethodError
from onnxsal.graph import Value
from onnxsal.graph.helpers import recast, signal_type
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.composed import Shown, shown_part
from onnxsal.methods.head import Chosen, Head, rivals, score_of, scores


@wrap("competition", composes=(1, 1))
def competition(build: Build) -> Result:
    """``A = A_t s_t`` where ``s_t - 1/K > threshold``, else 0, with ``s = softmax_c(temperature |A_c| / m)`` at every element.

    A_c are the attributions of one method for the class that is explained, t, and for the K - 1 best of the others; the map is made of
    their maps in the same way. ``m`` is the largest |A_c| of a sample (``scale = "max"``), or 1 as in the authors' code ("none"), whose
    shares then depend on the units of the method. K walks in place of one. No law: returns no residual.
    """
    op, question, settings = build.op, build.question, build.settings
    known, count = question.class_count, int(settings["classes"])
    if known is None or known < 2:
        why = "has one class" if known == 1 else "has a number of classes that only a run tells"
        raise MethodError(f"method '{build.method.name}' compares classes, and '{question.start.name}' {why}.")
    if question.reading is not None:
        raise MethodError(f"method '{build.method.name}' compares classes, not boxes or pixels. Name a class by its element, as a tuple.")
    if question.contrast is not None:
        raise MethodError(f"method '{build.method.name}' compares classes in its own way. Leave against= out.")
    op.shares = True  # what does not depend on the class is computed once
    found = [_of_class(build, head, number) for number, head in enumerate([build.head, *_others(build, min(count, known) - 1)])]
    maps = [part.saliency for part in found if part.saliency is not None]
    of_picture = _kept(build, maps, 2) if len(maps) == len(found) else None
    return Result(_kept(build, [part.attribution for part in found], question.x.rank - 1), None, of_picture)


def _others(build: Build, count: int) -> list[Head]:
    """The heads of the best ``count`` classes beside the explained one, best first."""
    op, question, head = build.op, build.question, build.head
    rows = scores(op, question, question.start)
    best = rivals(op, question, rows, head.chosen.target, count)
    heads = []
    for i in range(count):
        chosen = Chosen(op.Gather(best, op.const(i), axis=1))
        heads.append(Head(chosen, recast(op, score_of(op, rows, chosen), signal_type(question.start), op.dtype), head.exists))
    return heads


def _of_class(build: Build, head: Head, number: int) -> Shown:
    """What the method says of one class."""
    (part,) = build.method.of
    return shown_part(replace(build, head=head), part, f"{part.method.name}{number}")


def _kept(build: Build, values: list[Value], axes: int) -> Value:
    """The first of ``values``, tensors with the samples in front and ``axes`` more, as far as it wins over the others."""
    op, settings = build.op, build.settings
    sizes = op.Concat(*[op.Unsqueeze(op.Abs(v), [0]) for v in values], axis=0)
    if settings["scale"] == "max":
        inner = list(range(1 if build.question.batched else 0, axes + 1))
        most = op.ReduceMax(sizes, [0, *(a + 1 for a in inner)], keepdims=1)
        sizes = op.Div(sizes, op.Where(op.Greater(most, 0.0), most, 1.0))
    shares = op.Softmax(op.Mul(sizes, float(settings["temperature"])), axis=0)
    own = op.Squeeze(op.Slice(shares, [0], [1], [0]), [0])
    wins = op.Greater(own, 1.0 / len(values) + float(settings["threshold"]))
    return op.Where(wins, op.Mul(values[0], own), 0.0)
