"""What is asked: which input, which output, which score. Chosen and checked before anything is emitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Integral

import numpy as np
from onnx import TensorProto

from onnxsal.ask.batch_axis import sample_inputs
from onnxsal.ask.met_columns import columns_meet, of_columns
from onnxsal.ask.place import Place
from onnxsal.ask.reading import Listed, Reading, pixels_of
from onnxsal.ask.scores import SCORES, Scores, behind_labels, labelled, scores_of
from onnxsal.errors import TargetError, near_miss
from onnxsal.facts.axes import Picture, layout_text, picture_of, used_as_picture
from onnxsal.facts.entry import Entrance, entries, entry_of, explained_entry, tokens_at
from onnxsal.facts.grounds import Found, Ground
from onnxsal.facts.heads import FIRST, head_of
from onnxsal.facts.reach import reach
from onnxsal.facts.solve import ancestors
from onnxsal.facts.tokens import INTEGERS, Tokens, candidates, words_of
from onnxsal.graph import FLOATS, Model, Value
from onnxsal.graph.infer import Shape, shape_text
from onnxsal.ops.classical import behind_map
from onnxsal.ops.squashing import Kind

COUNTED = INTEGERS | {TensorProto.BOOL}
"""Types of elements that can be replaced, but have no derivative."""

RUNNER_UP = "runner-up"
"""What a class is compared with: the best of the others, sample by sample."""


@dataclass(frozen=True)
class Contrast:
    """The score explained is y_target - weight y_against (``weight`` is gamma of Finer-CAM, arXiv 2501.11309): what speaks for one class
    rather than for another. ``against``: the index of a class; ``None`` = the best of the others.
    """

    against: int | None
    weight: float = 1.0

    @property
    def record(self) -> dict[str, int | str | float]:
        """As it is asked for."""
        return {"against": RUNNER_UP if self.against is None else self.against, "against_weight": self.weight}


@dataclass(frozen=True)
class ComparedEmbedding:
    """The score is the cosine of each sample's embedding with a reference (``ask.likeness``): ``of`` is the output that the embedding is
    made of, ``pooling`` how ('' = it holds one vector for each sample), ``reference`` the input that holds the other ('' = it is built in),
    ``embedding`` the output with the unit vector.
    """

    of: str
    pooling: str
    reference: str
    embedding: str

    @property
    def record(self) -> dict[str, str]:
        """What the metadata say of it."""
        return {"embedding_of": self.of, "pooling": self.pooling, "reference_input": self.reference, "embedding": self.embedding}


@dataclass(frozen=True)
class Question:
    """Explain ``start`` (the tensor of scores, one row per sample) at ``x``.

    ``link`` makes probabilities of ``start``: "softmax" (its classes lie along ``axis``), "sigmoid", or '' where ``start`` is taken as it
    is. ``binary``: a sample has one score, with a sigmoid behind it, and two classes: 1, whose logit is ``start``, and 0, whose logit is
    -``start``. ``samples`` are the graph inputs that hold one row per sample: without any, all that is fed is one sample. ``picture``
    are the axes of channels, height and width of an explained picture, ``grid`` its height and width in tokens, where the user tells it;
    ``tokens`` is what is known of an explained tensor with a vector per token; ``source`` is the graph input whose values ``x`` holds
    ('' = ``x`` is an inner tensor that stands for none); ``reading`` says how a target that is a box or a pixel picks scores, ``likeness``
    what a cosine is taken of; ``doubt`` is a reason to read the maps with care ('' = none). ``found`` says of each of these how it is
    known.
    """

    model: Model
    x: Value
    output: str
    start: Value
    score: str
    link: str = ""
    axis: int = 1
    binary: bool = False
    samples: tuple[str, ...] = ()
    picture: Picture | None = None
    doubt: str = ""
    grid: tuple[int, int] | None = None
    tokens: Tokens | None = None
    source: str = ""
    found: tuple[Found, ...] = ()
    contrast: Contrast | None = None
    reading: Reading | None = None
    likeness: ComparedEmbedding | None = None

    @property
    def batched(self) -> bool:
        """Whether axis 0 of the scores counts samples; otherwise the whole output is one sample."""
        return bool(self.samples)

    @property
    def places(self) -> tuple[int, ...]:
        """The axes of the explained tensor that count tokens, or places of a picture; none where it is neither."""
        if self.tokens is not None:
            return tuple(range(1 if self.batched else 0, self.x.rank - 1))
        return () if self.picture is None else self.picture[1:]

    @property
    def shown(self) -> tuple[Value, Picture | None]:
        """The picture that a map is laid over and its axes (``None``: there is none): what is explained, or what its tokens are part of."""
        cut = self.tokens
        return (self.x, self.picture) if cut is None or cut.picture is None else (cut.picture, cut.axes)

    @property
    def sample_shape(self) -> Shape:
        """The shape of one sample's scores (nothing, where not even the rank is known)."""
        return (self.start.shape or ())[1 if self.batched else 0 :]

    @property
    def class_shape(self) -> Shape:
        """The shape of one sample's classes: that of its scores, or two for a single sigmoid."""
        return (2,) if self.binary else self.sample_shape

    @property
    def class_count(self) -> int | None:
        """The number of classes of a sample; ``None`` where it is known at run time only."""
        if self.start.shape is None or not all(isinstance(d, int) for d in self.class_shape):
            return None
        return int(np.prod([d for d in self.class_shape if isinstance(d, int)], dtype=np.int64))

    @property
    def single(self) -> bool:
        """Whether a sample has one score."""
        return self.start.shape is not None and all(d == 1 for d in self.sample_shape)

    @property
    def squash(self) -> str:
        """What is still to be applied to ``start`` for the score: its link, where probabilities are asked for."""
        return self.link if self.score == "probability" else ""

    @property
    def weighted(self) -> bool:
        """Whether the score is a weighted sum of ``start``, with weights that do not change: <seed, start>."""
        return not self.squash and not (self.binary and self.score == "probability")

    def by_class(self, own: np.ndarray) -> np.ndarray:
        """The model's own output as one row per sample: of a single sigmoid p (or log p) those of both classes."""
        rows = own.reshape(len(own) if self.batched and own.ndim else 1, -1)
        if not self.binary or rows.shape[1] != 1:
            return rows
        head = head_of(self.model, self.output)
        with np.errstate(divide="ignore", invalid="ignore"):
            other = np.log(-np.expm1(rows)) if head is not None and head.kind == Kind.LOG_SIGMOID else 1 - rows
        return np.concatenate([other, rows], 1)

    @property
    def fixed_batch(self) -> bool:
        """Whether the model accepts one batch size only."""
        return self.x.shape is not None and len(self.x.shape) > 0 and isinstance(self.x.shape[0], int)


def ask(
    model: Model,
    input: str | None = None,
    output: str | Listed | None = None,
    score: str = "logit",
    *,
    batched: bool | None = None,
    layout: str | None = None,
    example: Mapping[str, np.ndarray] | None = None,
    grid: Sequence[int] | str | None = None,
    integers: bool = False,
) -> Question:
    """The question for a model: its one floating-point input (else where its integers enter: the vectors of its words, the numbers of a
    picture; ``facts/entry.py``) unless ``input`` names another tensor or an integer input, its one floating-point output that depends on
    it unless ``output`` names one (or is a list of boxes that were found), and what of it is explained.

    ``integers``: whole numbers and truth values may be explained too, by a method that replaces elements and asks for no derivative; where
    there is no floating-point input that is the one integer input, of several the one that holds the ids of words.

    ``score``: ``"logit"`` explains what a final softmax, sigmoid or logarithm of one is computed from, however it is spelled (a probability
    whose logits are not found is taken as it is, with a ``doubt``); ``"probability"`` keeps it, or adds a softmax where the model has none;
    ``"raw"`` takes the output as it is. ``batched`` says whether axis 0 counts samples, ``layout`` what the axes of a picture are,
    ``grid`` how many rows and columns of tokens make one, where the model does not tell; ``example`` is data of some inputs to run the
    model on. Raises ``TargetError`` where a choice is unknown or not unique.
    """
    if score not in SCORES:
        raise TargetError(f"unknown score '{score}'{near_miss(score, SCORES)}; known: {', '.join(SCORES)}.")
    explained, entry = _input(model, _name("input", input), integers)
    x = model.value(explained)
    listed, as_map = (output, ()) if isinstance(output, Listed) else _scored(model, _name("output", output), x, score, batched, example)
    asked = listed.scores
    start, (samples, counted) = asked.start, sample_inputs(model, x, asked.start, batched, example)
    question = Question(model, x, listed.name, start, asked.score, asked.link, samples=samples, picture=shown_axes(model, x, layout))
    doubt = "" if asked.vanishes and integers else asked.doubt
    question = replace(question, binary=asked.single and question.single, doubt=doubt, axis=_axis(question, asked))
    if question.batched and asked.axis == 0 and model.value(listed.name).dtype not in FLOATS:
        raise TargetError(
            f"the classes of output '{listed.name}' lie along axis 0 of '{start.name}', which counts samples: name another output."
        )
    if question.squash == "softmax" and question.single:
        raise TargetError(
            f"score='probability': '{start.name}' holds one score per sample, and a Softmax over one class is 1 whatever the input. "
            "Explain the logit, or the output as it is (raw)."
        )
    if asked.axis is None and question.single and question.link == "softmax":
        question = replace(question, link="sigmoid")
    question = replace(question, tokens=tokens_at(model, x), grid=grid_of(grid), reading=listed.reading)
    question = replace(question, source=x.name if x.name in model.input_names else entry.input if entry else "")
    told = [_entered(model, x, entry), listed.found, None if question.tokens is None else question.tokens.found]
    return _with_layout(replace(question, found=(counted, *as_map, _head(question, asked), *filter(None, told))), layout)


def shown_axes(model: Model, x: Value, layout: str | None) -> Picture | None:
    """As ``picture_of``; words are a series only where ``layout`` says so: a map of them is told by their tokens."""
    return None if layout is None and tokens_at(model, x) is not None else picture_of(model, x, layout)


def _name(option: str, named: object) -> str | None:
    if named is not None and not isinstance(named, str):
        raise TargetError(f"{option}={named!r} is no name of a tensor; give one name as text.")
    return named


def _scored(
    model: Model, output: str | None, x: Value, score: str, batched: bool | None, feed: Mapping[str, np.ndarray] | None
) -> tuple[Listed, tuple[Found, ...]]:
    """An output and its scores, or those behind its labels, the samples first; and what is known where it is a map."""
    name, as_map = _output(model, output, x, score)
    if batched is not False and FIRST + name in model.producer:
        name = FIRST + name
    return Listed(name, (scores_of if model.value(name).dtype in FLOATS else labelled)(model, name, score, feed)), as_map


def at_place(question: Question, place: Place | None) -> Question:
    """The question of a pixel or of a mask (a box is one of ``ask``'s ``output`` already). Raises ``TargetError`` where there is none."""
    if place is None or question.reading is not None:
        return question
    reading, found = pixels_of(question.model, question.x, question.picture, question.start, question.batched, place)
    return replace(question, reading=reading, found=(*question.found, found))


def _entered(model: Model, x: Value, entry: Entrance | None) -> Found | None:
    """Where integers, or the columns of a table, are explained, and what the maps are shaped like."""
    if entry is None:
        return of_columns(model, x)
    given = model.value(entry.input)
    what = f"'{entry.input}' {_type_name(given)} {shape_text(given.shape)} is explained at {entry}"
    return Found("input", what, Ground.PROVED, entry.why)


def _with_layout(question: Question, layout: str | None) -> Question:
    """The question with how its picture's axes are known; where only the shape speaks that is no knowledge, but a doubt."""
    if question.picture is None:
        return question
    text, used = layout_text(question.picture), used_as_picture(question.model, question.x)
    if layout is None and used is None:
        doubt = (
            f"the layout of '{question.x.name}' is not proved: {text} is taken from its shape {shape_text(question.x.shape)} alone, as no "
            "convolution or other operator on pictures reads it; --layout (layout= in Python) says it"
        )
        return replace(question, doubt="; ".join(filter(None, (question.doubt, doubt))))
    as_it_is = used is None or used[0] == question.picture
    why = "" if used is None else f"{used[1].label} reads it{'' if as_it_is else f' otherwise ({layout_text(used[0])})'}"
    found = Found("layout", text, Ground.PROVED if layout is None else Ground.TOLD, why)
    return replace(question, found=(*question.found, found))


def grid_of(given: object) -> tuple[int, int] | None:
    """``grid`` as (height, width) in tokens, from a pair or "14x14"; raises ``TargetError`` where it is none."""
    if given is None:
        return None
    if isinstance(given, str):
        given = [int(n) if n.isdecimal() else n for n in given.lower().split("x")]
    pair = tuple(given) if isinstance(given, Sequence | np.ndarray) else ()
    if len(pair) != 2 or not all(isinstance(n, Integral) and not isinstance(n, bool) and int(n) > 0 for n in pair):
        raise TargetError(f"grid={given!r} is no height and width in tokens; give two whole numbers: grid=(14, 14), --grid 14x14.")
    return int(pair[0]), int(pair[1])


def begin(question: Question) -> Value:
    """Where relevance begins: the scores, or what a final softmax or sigmoid is computed from (it passes relevance as it is)."""
    head = head_of(question.model, question.start.name)
    return question.start if head is None or not head.logits else question.model.value(head.logits)


def _head(question: Question, asked: Scores) -> Found:
    two = ", two classes: 1 where it is positive, 0 where not" if question.binary else ""
    return replace(asked.found, value=asked.found.value + two)


def _axis(question: Question, asked: Scores) -> int:
    """The axis of the scores that counts classes: what the final softmax works on, else the first one of a sample."""
    if asked.axis is not None:
        return asked.axis
    if question.batched:
        return 1
    sizes = question.start.shape or (None,)
    return len(sizes) - 1 if len(sizes) < 3 else next((a for a, d in enumerate(sizes) if d != 1), 0)


def _input(model: Model, name: str | None, integers: bool = False) -> tuple[str, Entrance | None]:
    """The tensor that is explained, and where an integer input enters, if that is what it stands for."""
    if name is None and integers and not any(model.value(n).dtype in FLOATS for n in model.input_names):
        entry = explained_entry(model)
        if entry is not None and used_as_picture(model, entry.value) is not None:
            return entry.value.name, entry  # pixels are replaced by any number, such as their mean
        return _counted(model), None
    if name is None:
        found = _only_input(model)
        return (found, None) if isinstance(found, str) else (found.value.name, found)
    if name not in model.types:
        raise TargetError(f"the model has no tensor '{name}'{near_miss(name, model.types)}; its inputs: {', '.join(model.input_names)}.")
    if name in model.initializers or not varying(model, name):
        raise TargetError(
            f"tensor '{name}' is a constant of the model, the same for all samples, so it is no input to explain. "
            "For the derivative by a weight use vjp(model, wrt=...)."
        )
    if model.value(name).dtype not in (FLOATS | COUNTED if integers else FLOATS):
        entry = entry_of(model, name) if name in model.input_names else None
        if entry is None:
            kind = _type_name(model.value(name))
            raise TargetError(f"tensor '{name}' is {kind}, which has no gradient; name a floating-point tensor.{_lookups(model)}")
        return entry.value.name, replace(entry, why=f"{entry.why}; named as input")
    return name, next((one for n in model.input_names for one in entries(model, n) if one.value.name == name), None)


def _counted(model: Model) -> str:
    """The one input of whole numbers or truth values, of several the one whose entries are looked up as words."""
    inputs = [n for n in model.input_names if model.value(n).dtype in COUNTED]
    words, _ = words_of(model)
    if words is not None and words.ids in inputs:
        return words.ids
    if len(inputs) == 1:
        return inputs[0]
    kinds = ", ".join(f"{n} ({_type_name(model.value(n))})" for n in model.input_names)
    raise TargetError(f"none of the model's inputs ({kinds}) stands out as the one to explain; name it: --input.{_lookups(model)}")


def _only_input(model: Model) -> str | Entrance:
    """The one floating-point input, else where the one integer input enters. Raises ``TargetError`` where it is not one."""
    inputs = [n for n in model.input_names if model.value(n).dtype in FLOATS]
    if len(inputs) == 1:
        return inputs[0]
    if (met := columns_meet(model)) is not None:
        return met
    if inputs:
        several = f"the model has {len(inputs)} floating-point inputs ({', '.join(inputs)})"
        raise TargetError(f"{several}; name the one to explain: --input.{_lookups(model)}")
    entry = explained_entry(model)
    if entry is not None:
        return entry
    kinds = ", ".join(f"{n} ({_type_name(model.value(n))})" for n in model.input_names)
    raise TargetError(
        f"the model has no floating-point input ({kinds}), and an integer has no gradient. "
        f"Explain one of its inputs, or an inner tensor, instead (--input).{_lookups(model)}"
    )


def _output(model: Model, name: str | None, x: Value, score: str) -> tuple[str, tuple[Found, ...]]:
    """The tensor of scores that an output is, and where that is a map from names to scores, what is known of it."""
    tables = {n: _table_of(model, n) for n in model.output_names}
    floats = [n for n in tables.values() if model.value(n).dtype in FLOATS]
    if name is None:
        if not floats:
            return _labels(model), ()
        name = _only(model, list(dict.fromkeys(floats)), x, score)
    name = tables.get(name, name)
    if name not in model.types:
        raise TargetError(
            f"the model has no output '{name}'{near_miss(name, model.output_names)}; its outputs: {', '.join(model.output_names)}."
        )
    if model.value(name).dtype not in FLOATS and behind_labels(model, name) is None:
        raise TargetError(
            f"output '{name}' is {_type_name(model.value(name))}; a score must be floating point. Known: {', '.join(floats)}."
        )
    maps = [n for n, table in tables.items() if table == name != n]
    return name, tuple(Found("output", f"'{name}'", Ground.PROVED, f"output '{n}' is a map of its columns") for n in maps[:1])


def _table_of(model: Model, output: str) -> str:
    """The tensor behind an output: itself, or what a map is made of."""
    node = model.producer.get(output)
    return output if node is None else behind_map(node) or output


def _labels(model: Model) -> str:
    """The one output of labels behind which scores are found. Raises ``TargetError``."""
    found = {n: source[0].name for n in model.output_names if (source := behind_labels(model, n)) is not None}
    if len(set(found.values())) != 1:
        raise TargetError(f"the model has no floating-point output to explain; its outputs: {', '.join(model.output_names)}.")
    return next(iter(found))


def _only(model: Model, floats: list[str], x: Value, score: str) -> str:
    """The one floating-point output that depends on the explained tensor; several that start from the same scores count as one."""
    reached = [n for n in floats if len(floats) > 1 and reach(model, [x.name], [n]).path] or floats
    if len({_start(model, n, score) for n in reached}) > 1:
        listing = ", ".join(f"'{n}' {shape_text(model.value(n).shape)}" for n in reached)
        raise TargetError(f"the model has {len(reached)} floating-point outputs ({listing}); name the one to explain: --output.")
    return reached[0]


def _start(model: Model, output: str, score: str) -> str:
    """The tensor that an output's scores are in, as far as the graph tells."""
    head = None if score == "raw" else head_of(model, output)
    return output if head is None or not head.logits else head.logits


def varying(model: Model, name: str) -> bool:
    """Whether a tensor depends on what the model is fed with."""
    return bool(ancestors(model, [name]).intersection(model.input_names))


def _lookups(model: Model) -> str:
    """The tensors that ids and other integers become, for a message ('' = there are none)."""
    found = candidates(model)
    listed = {one.value.name for one in found}
    others = [str(one) for n in model.input_names for one in entries(model, n) if one.value.name not in listed]
    ids = f" Ids become vectors in {'; '.join(map(str, found))}." if found else ""
    return ids + (f" Other integers become {'; '.join(others)}." if others else "")


def _type_name(value: Value) -> str:
    known = value.dtype in TensorProto.DataType.values()
    return str(TensorProto.DataType.Name(value.dtype)).lower() if known else f"of the unknown type {value.dtype}"
