"""Which tensor holds the scores, and what makes probabilities of them: decided here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnxsal.errors import TargetError
from onnxsal.facts.grounds import Found, Ground
from onnxsal.facts.heads import head_of, is_bounded, may_be_bounded
from onnxsal.facts.part import part_of
from onnxsal.graph import FLOATS, Model, Value
from onnxsal.graph.infer import shape_text
from onnxsal.ops.registry import facts_of, spec_of
from onnxsal.ops.squashing import FINAL, Kind, Squashed
from onnxsal.runtime.session import Feed
from onnxsal.runtime.values import Values, watch_values

COSINE = "cosine"
"""The score that compares embeddings (``ask.likeness``)."""

SCORES = ("logit", "probability", "raw", COSINE)


@dataclass(frozen=True)
class Scores:
    """What is explained of an output.

    ``start`` is the tensor, ``score`` what it is called; ``link`` makes probabilities of it ("softmax" or "sigmoid"; '' = it is taken as
    it is), ``axis`` is that of its classes, where the graph tells. ``single`` says that a sigmoid stands behind it, so that a sample with
    one score has two classes. ``doubt`` is a reason to read maps with care, ``vanishes`` that it is about derivatives only.
    """

    start: Value
    score: str
    link: str
    found: Found
    axis: int | None = None
    single: bool = False
    doubt: str = ""
    vanishes: bool = False


def scores_of(model: Model, output: str, score: str, feed: Feed | None = None) -> Scores:
    """The scores of an output: its logits, its probabilities, or the output as it is.

    A logit is what a final softmax or sigmoid is computed from, or an output that is neither: what is a probability without known
    logits, proved or seen in a run (on ``feed``, if given, and on random input), or may be one for all that is known, is taken as it is
    ("raw"), with a doubt.
    """
    own = model.value(output)
    if score == COSINE:
        return Scores(own, score, "", Found("head", f"'{output}', the cosine of two embeddings", Ground.TOLD))
    if score == "raw":
        return Scores(own, score, "", Found("head", f"output '{output}' as it is", Ground.TOLD))
    head = head_of(model, output)
    if head is None:
        return _bounded(model, own, score, feed)
    probable, found = _is_probability(head), _words(model, output, head, score)
    if score == "probability" and probable and (head.exact or head.kind != Kind.SIGMOID):
        return Scores(own, score, "", found, single=head.kind == Kind.SIGMOID)
    if head.logits and (score == "probability" or not _are_probabilities(model, head.logits)):
        link = FINAL[head.kind]
        return Scores(model.value(head.logits), score, link, found, head.axis, link == Kind.SIGMOID)
    if score == "probability" and not probable:
        raise TargetError(
            f"score='probability': output '{output}' is the logarithm of a probability whose logits were not found. "
            "Explain it as it is: score='raw'."
        )
    return _as_it_is(own, score, found)


def behind_labels(model: Model, output: str) -> tuple[Value, int | None] | None:
    """The scores that an output of labels was made of by a choice of the best one, and the axis of the classes; ``None``: it is none."""
    node = model.producer.get(output)
    while node is not None and (spec := spec_of(node)) is not None and spec.keeps:
        node = model.producer.get(node.x.name)
    source = None if node is None else facts_of(node).compares
    if node is None or source is None or node.input(source).dtype not in FLOATS or node.x.shape is None or node.attr("axis") is None:
        return None
    return node.input(source), int(node.attr("axis")) % node.x.rank


def labelled(model: Model, output: str, score: str, feed: Feed | None = None) -> Scores:
    """As ``scores_of``, of the scores that an output of labels was made of. Raises ``TargetError`` where it was made of none."""
    found = behind_labels(model, output)
    if found is None:
        raise TargetError(f"output '{output}' holds whole numbers, and no scores were found behind them: name a floating-point tensor.")
    value, axis = found
    asked = scores_of(model, value.name, score, feed)
    told = replace(asked.found, why="; ".join(filter(None, (asked.found.why, f"output '{output}' is the best of them"))))
    return replace(asked, found=told, axis=axis if asked.axis is None else asked.axis)


def _is_probability(head: Squashed) -> bool:
    """Whether it is a probability itself, and not the logarithm of one."""
    return FINAL[head.kind] == head.kind


def _are_probabilities(model: Model, name: str) -> bool:
    """Whether what a squashing reads is one already, as where a network ends in two of them."""
    head = head_of(model, name)
    return is_bounded(model, name) or (head is not None and _is_probability(head))


def _bounded(model: Model, own: Value, score: str, feed: Feed | None) -> Scores:
    """An output of which no softmax or sigmoid is known."""
    if is_bounded(model, own.name):
        return _as_it_is(own, score, Found("head", f"output '{own.name}' lies between 0 and 1, its logits were not found", Ground.PROVED))
    return _watched(model, own, score, feed)


def _as_it_is(own: Value, score: str, found: Found) -> Scores:
    if score == "probability":
        return Scores(own, score, "", found)
    why = f"output '{own.name}' is a probability whose logits were not found, so it is explained as it is (score 'raw')"
    return Scores(own, "raw", "", found, vanishes=True, doubt=f"{why}: close to 0 and 1 its gradient vanishes")


def _watched(model: Model, own: Value, score: str, feed: Feed | None) -> Scores:
    """An output of which the graph proves nothing: a run may show a probability, unless the graph rules it out."""
    plain = f"scores '{own.name}' {shape_text(own.shape)}, behind which nothing squashes them"
    if not may_be_bounded(model, own.name):
        return Scores(own, score, Kind.SOFTMAX, Found("head", plain, Ground.PROVED, "a weighted sum without bounds"))
    seen = _values(model, own.name, feed)
    if seen is None:
        found = Found("head", f"output '{own.name}' as it is", Ground.PROVED, "whether it is a probability is not known")
        doubt = (
            f"whether output '{own.name}' is a probability is not known: the graph does not tell, and the model does not run on random "
            "input here; it is explained as it is (score 'raw')"
        )
        return Scores(own, "raw", "", found, doubt=doubt)
    if seen.bounded:
        return _as_it_is(own, score, Found("head", f"output '{own.name}' lies between 0 and 1", Ground.SEEN, str(seen)))
    return Scores(own, score, Kind.SOFTMAX, Found("head", plain, Ground.SEEN, str(seen)))


def _values(model: Model, name: str, feed: Feed | None) -> Values | None:
    def look() -> Values | None:
        return watch_values(part_of(model, [name]), feed)

    return model.once(("values", name), look) if feed is None else look()


def _words(model: Model, output: str, head: Squashed, score: str) -> Found:
    """What was found of a softmax or sigmoid, in words."""
    shape = model.value(head.logits).shape if head.logits else None
    where = ""
    if head.axis is not None:
        size = shape[head.axis] if shape else None
        where = f" over axis {head.axis}" + (f" ({size} classes)" if isinstance(size, int) else "")
    name = f"a {head.kind.replace('_', ' ')}"
    if not head.logits:
        return Found("head", f"output '{output}', {name}{where} whose logits were not found", Ground.PROVED)
    if score == "probability":
        return Found("head", f"probabilities '{output}', {name} of '{head.logits}'{where}", Ground.PROVED)
    return Found("head", f"logits '{head.logits}' before {name}{where}", Ground.PROVED)
