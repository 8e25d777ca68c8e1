"""The plain model, open in one session, that tells the scores of many changed pictures in full batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import onnx

from onnxsal.ask.class_names import classes_of, refuse_misfit
from onnxsal.ask.guard import as_example, plain_model
from onnxsal.ask.question import Question
from onnxsal.ask.question import ask as question_of
from onnxsal.ask.request import DEFAULTS, RUN, Ask, Target, spelled
from onnxsal.errors import InputError, MethodError, ModelError, TargetError
from onnxsal.explainer import BATCH, Explainer
from onnxsal.facade.adopt import original_outputs
from onnxsal.facade.target import out_of_range, target_index
from onnxsal.facts.axes import flat
from onnxsal.facts.part import part_of
from onnxsal.graph import Model
from onnxsal.graph.load import Source, load_model
from onnxsal.graph.provenance import refuse_converted
from onnxsal.metrics.dataset import Dataset
from onnxsal.metrics.input_places import InputPlaces, places_of
from onnxsal.runtime.session import open_session

Progress = Callable[[int, int], None]
"""Called with (pictures done, pictures in all)."""

Make = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Pictures for (samples [B], steps [B])."""


ASKED = ("input", "output", "batched", "layout", "example")
"""Fields of an ``Ask`` that decide what the scores of the plain model are, beside how it is run."""


def refuse_contrast(explainer: Explainer) -> None:
    """Raise ``MethodError`` where the maps compare two classes: what is measured of a map is measured on the score of one."""
    if explainer.conversion.question.contrast is not None:
        raise MethodError("maps are measured by the score of one class, and these compare two (against=). Leave it out.")


def forward_model(explainer: Explainer) -> onnx.ModelProto:
    """The model that an ``Explainer`` explains, without the explanation: what its original outputs need, weights and all."""
    refuse_contrast(explainer)
    made = explainer.conversion
    forward = part_of(Model(made.proto), original_outputs(made.proto, made.prefix), declared=True).whole()
    for entry in [i for i in forward.graph.input if i.name == f"{made.prefix}target"]:
        forward.graph.input.remove(entry)
    return forward


class Scorer:
    """Logits and probabilities of the plain model: forward passes only, in one session that stays open.

    The logit is what a final softmax or sigmoid is computed from (the output itself where there is none), whatever score an explanation
    starts from; the probability is their result (a softmax over the classes where there is none; a sigmoid for a single one). A single
    sigmoid has two classes, with logits -z and z, and probabilities 1 - p and p.
    """

    @spelled.method
    def __init__(self, ask: Ask) -> None:
        self._open(ask.without("a Scorer", *(name for name in DEFAULTS if name not in (*ASKED, *RUN))))

    @classmethod
    def of(cls, ask: Ask) -> Scorer:
        """The scorer of the model of a request; what is asked about explanations does not matter here."""
        made = cls.__new__(cls)
        made._open(ask)
        return made

    columns: InputPlaces | None = None
    """The columns of a table, where that is what the model is measured on."""

    @classmethod
    def of_pictures(cls, ask: Ask) -> Scorer:
        """As ``of``, fed at the input of the file, though that may be one of bytes, which is explained further in."""
        made = cls.__new__(cls)
        made._open(ask, at_source=True)
        return made

    def _open(self, ask: Ask, at_source: bool = False) -> None:
        proto = load_model(ask.model)
        refuse_converted(proto)
        data = as_example(proto, ask.example, ask.input)
        plain = plain_model(proto, data)
        self.question: Question = question_of(plain, ask.input, ask.output, batched=ask.batched, layout=ask.layout, example=data)
        if not self.question.batched:
            raise TargetError(f"output '{self.question.output}' has no batch axis, so its scores do not belong to samples one by one.")
        start = self.question.start
        if start.name not in [o.name for o in proto.graph.output]:
            shape = None if start.shape is None else list(start.shape)
            proto.graph.output.append(onnx.helper.make_tensor_value_info(start.name, start.dtype, shape))
        self.session = open_session(part_of(Model(proto), [start.name], declared=True).whole(), ask.resolved, threads=ask.threads)
        self._fed = self.question.source if at_source else self.question.x.name
        names = [t.name for t in self.session.inputs]
        if names != [self._fed]:
            raise InputError(f"metrics change one input, '{self._fed}', but the model needs {', '.join(names) or 'none'}.")
        declared = self.session.inputs[0].shape
        self._fixed = declared[0] if declared and isinstance(declared[0], int) else None
        self.batch_size = self._fixed or ask.batch_size or BATCH

    @property
    def of_pixels(self) -> bool:
        """Whether the input that is measured is known to be a picture."""
        return self.columns is None and flat(self.question.picture) is not None

    @property
    def single(self) -> bool:
        """Whether the model takes single samples: its batch is open, or 1."""
        return self._fixed in (None, 1)

    def refuse_misfit(self, labels: Sequence[str] | None, data: Dataset) -> None:
        """Raise ``InputError`` for names, and ``TargetError`` for labels of samples, that do not fit the number of the model's classes.

        Where the graph leaves that number open, the first sample that can be read and scored tells it.
        """
        given = {n: label for n in data.names if (label := data.label(n)) is not None}
        names = count = classes_of(self.question)
        if count is None and (given or labels is not None) and (first := self._first(data)) is not None:
            count = self._columns(first, first).shape[1]
            names = count if first.ndim == 2 else None
        refuse_misfit(labels, names, self.question.output)
        wrong = [n for n, label in given.items() if count is not None and not 0 <= label < count]
        if wrong:
            raise TargetError(
                f"{len(wrong)} of {len(given)} labels are none of the {count} classes of the model: '{wrong[0]}' is labelled "
                f"{given[wrong[0]]}. Give the labels of this model, or its indices, which begin at 0."
            )

    def _first(self, data: Dataset) -> np.ndarray | None:
        """The scores of the first sample that has any."""
        for sample in data.samples():
            try:
                return self._start(sample.x)
            except (InputError, ModelError):  # what becomes of this sample is told where it is measured
                continue
        return None

    def places(self, x: np.ndarray) -> InputPlaces:
        """Where the inputs ``x`` can be changed: pixels of pictures, ``columns`` of a table where these are known."""
        return self.columns or places_of(x, self.question.picture)

    def targets(self, x: np.ndarray, target: Target = None) -> np.ndarray:
        """One class per sample, int64 [N]: the given ones, or the predicted ones (also where -1 is given)."""
        if isinstance(target, str):
            raise TargetError(f"target '{target}' is a label; metrics take indices.")
        index = np.broadcast_to(target_index(self.question, target), (len(x),)) if target is None else self._given(x, target)
        return np.where(index < 0, self.predict(x), index) if (index < 0).any() else index

    def _given(self, x: np.ndarray, target: Target) -> np.ndarray:
        index = target_index(self.question, target)
        if len(index) not in (1, len(x)):
            raise TargetError(f"{len(index)} targets were given for {len(x)} sample(s); give one, or one per sample.")
        return np.broadcast_to(index, (len(x),))

    def logits(self, x: np.ndarray) -> np.ndarray:
        """Scores before the final Softmax or Sigmoid, float64 [N, classes]. Raises ``InputError`` where the model returns NaN."""
        return np.concatenate([self._rows(x[i : i + self.batch_size])[0] for i in range(0, len(x), self.batch_size)])

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        """Scores after it, float64 [N, classes]."""
        return np.concatenate([self._squashed(self._start(x[i : i + self.batch_size])) for i in range(0, len(x), self.batch_size)])

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The best class of each sample, int64 [N]; the lowest one where several are best."""
        return self.logits(x).argmax(1)

    def answers(self, x: np.ndarray) -> np.ndarray:
        """The same, and -1 for a sample that the model has no answer to: it returns NaN, or breaks off."""
        try:
            return self.predict(x)
        except (InputError, ModelError):
            return np.full(1, -1) if len(x) == 1 else np.concatenate([self.answers(x[i : i + 1]) for i in range(len(x))])

    def evaluate(
        self, make: Make, samples: np.ndarray, steps: int, target: np.ndarray, progress: Progress | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logit and probability, float64 [samples, steps] each, of the class ``target`` [samples] on ``make(sample, step)``.

        Pictures are made in full batches across samples, the next batch while the session runs the last one.
        """
        total = len(samples) * steps
        logit, probability = np.empty(total), np.empty(total)
        done = 0
        for batch in _ahead(make, np.repeat(samples, steps), np.tile(np.arange(steps), len(samples)), self.batch_size):
            rows = np.arange(done, done + len(batch))
            chosen = target[rows // steps]
            logit[rows], probability[rows] = (self._of_class(scores, chosen) for scores in self._rows(batch))
            done += len(batch)
            if progress is not None:
                progress(done, total)
        return logit.reshape(-1, steps), probability.reshape(-1, steps)

    def _of_class(self, scores: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """The score of each sample's class. Raises ``TargetError`` where only the run tells that there is no such class."""
        if (chosen >= scores.shape[1]).any():
            raise out_of_range(chosen.max(), self.question.start.name, scores.shape[1])
        return np.take_along_axis(scores, chosen[:, None], 1)[:, 0]

    def _rows(self, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start = self._start(batch)
        return self._columns(start, -start), self._squashed(start)

    def _start(self, batch: np.ndarray) -> np.ndarray:
        count = len(batch)
        if self._fixed and count < self._fixed:
            batch = batch[np.minimum(np.arange(self._fixed), count - 1)]
        found = self.session.run({self._fed: np.ascontiguousarray(batch)})[self.question.start.name][:count].astype(np.float64)
        if not np.isfinite(found).all():
            raise InputError(
                "the model returns scores that are NaN or infinite, so nothing can be said about its maps. Check the preprocessing."
            )
        return found

    def _squashed(self, start: np.ndarray) -> np.ndarray:
        """The same probabilities as an explanation's ``score="probability"``, one row per sample."""
        if self.question.link == "softmax":
            start = _softmax(start, self.question.axis)
        elif self.question.link == "sigmoid":
            start = 0.5 + 0.5 * np.tanh(start / 2)
        return self._columns(start, 1 - start)

    def _columns(self, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
        """One row of classes per sample; of a single sigmoid the negative class and the positive one."""
        rows = positive.reshape(len(positive), -1)
        return np.concatenate([negative.reshape(rows.shape), rows], 1) if self.question.binary else rows


def _softmax(values: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(values - values.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True))


def _ahead(make: Make, samples: np.ndarray, steps: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Batches of pictures, each made while the one before it is used."""
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(make, samples[:size], steps[:size])]
        for begin in range(size, len(samples) + size, size):
            batch = waiting.pop().result()
            if begin < len(samples):
                waiting.append(pool.submit(make, samples[begin : begin + size], steps[begin : begin + size]))
            yield batch


_OPEN: WeakKeyDictionary[Explainer, Scorer] = WeakKeyDictionary()


def scorer_of(explainer: Explainer | Scorer) -> Scorer:
    """The plain model of an ``Explainer``, opened once for as long as the ``Explainer`` lives."""
    if isinstance(explainer, Scorer):
        return explainer
    if explainer not in _OPEN:
        question = explainer.conversion.question
        ask = replace(asked_like(explainer, forward_model(explainer)), input=question.shown[0].name, output=question.output)
        _OPEN[explainer] = Scorer.of(replace(ask, batch_size=explainer.batch_size))
    return _OPEN[explainer]


def asked_like(explainer: Explainer, model: Source) -> Ask:
    """What an ``Explainer`` was asked, of another model, on the provider that it obtained."""
    refuse_contrast(explainer)
    return replace(explainer.conversion.ask.on(explainer.session.obtained), model=model)


def composites(base: np.ndarray, top: np.ndarray, chosen: Callable[[int, int], np.ndarray]) -> Make:
    """Pictures of ``top`` where ``chosen(sample, step)`` is true (bool, broadcastable over a sample) and of ``base`` elsewhere."""

    def make(samples: np.ndarray, steps: np.ndarray) -> np.ndarray:
        made = np.empty((len(samples), *base.shape[1:]), base.dtype)
        for out, i, step in zip(made, samples, steps, strict=True):  # one by one: indexing by arrays would copy everything twice
            np.copyto(out, base[i])
            np.copyto(out, top[i], where=chosen(i, step))
        return made

    return make
