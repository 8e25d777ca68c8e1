"""Explainer: a converted model held open in a session."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np
from onnx import numpy_helper

from onnxsal.ask.class_names import classes_of, names_in, refuse_misfit
from onnxsal.ask.guard import open_converted
from onnxsal.ask.origin import origin
from onnxsal.ask.place import places_of
from onnxsal.ask.request import Ask, Target, spelled
from onnxsal.errors import ExampleNeeded, InputError, TargetError
from onnxsal.explanation import Explanation
from onnxsal.facade.adopt import adopt, original_outputs
from onnxsal.facade.convert import Conversion, conversion
from onnxsal.facade.target import FIXED, OPTIONAL, REQUIRED, place_index, refuse_other_class, target_index
from onnxsal.facts.gaps import takes_gaps
from onnxsal.graph.emit import PREFIX
from onnxsal.graph.infer import shape_text
from onnxsal.graph.load import Source
from onnxsal.runtime.labels import find_label
from onnxsal.runtime.providers import runs_on
from onnxsal.runtime.session import Session, Tensor

Fed = Callable[[int], dict[str, np.ndarray]]
"""What the session is fed with for one sample."""

ADDED = (
    "attribution",
    "token_attribution",
    "saliency_map",
    "explained_class",
    "compared_class",
    "explained_score",
    "residual",
    "standard_error",
    "reached",
    "parts",
)
"""Outputs that the contract adds; everything else a converted model returns is the original's."""

MOST_BOXES = 1000
"""Boxes of one sample that are explained where all are asked for."""

BATCH = 16
"""Samples in one run, where nothing else is asked for."""


class Explainer:
    """Explains batches with one method, in one session that stays open; nothing is kept between calls.

    What is given is as for ``convert``, and how it is run: ``providers`` is what ONNX Runtime takes, or a short word
    ("cpu", "cuda"): what is asked for and not obtained is an error. Float32 is computed as float32; ``tf32=True`` lets CUDA round to
    10 bits of mantissa, which is faster and can spoil a map. A model that is already converted is run as it is: leave
    ``method`` out, or name the one that is built in. ``batch_size`` bounds the samples per run (a model with a
    fixed batch is run with that one, its last batch filled up). ``labels`` lets a target be named; one for each class, else
    ``InputError`` (where none are given, what a classical classifier itself calls its classes). A model that does not tell the number of
    axes of its input is converted by the first ``explain``, with its data as the ``example``. ``target_input`` is "optional" where it is
    not given, as ONNX Runtime's own API runs the model: ``target`` is then the class where ``explain`` is given none.
    """

    @spelled.method
    def __init__(self, ask: Ask) -> None:
        self._begin(ask)

    @classmethod
    def of(cls, ask: Ask) -> Explainer:
        """The explainer of a request."""
        made = cls.__new__(cls)
        made._begin(ask)
        return made

    def _begin(self, ask: Ask) -> None:
        """Convert and open, or wait for the first data where these are needed for it."""
        self.labels = list(ask.labels) if ask.labels is not None else None
        ask = replace(ask, labels=self.labels)
        built_in = adopt(ask)
        self._adopted = built_in is not None
        self._providers = ask.resolved
        ask = replace(ask.on(self._providers), target_input=ask.target_input or OPTIONAL, runs_on=ask.runs_on or runs_on(self._providers))
        self._waiting: tuple[ExampleNeeded, Ask] | None = None
        try:
            self._open(built_in or conversion(ask, opened=False), ask)
        except ExampleNeeded as error:
            if ask.example is not None:
                raise
            self._waiting = error, ask

    def _open(self, made: Conversion, ask: Ask) -> None:
        """Open the session of a converted model, and note how it is fed."""
        self._waiting = None
        refuse_misfit(self.labels, classes_of(made.question), made.question.output)
        self.labels = names_in(made.question) if self.labels is None else self.labels
        self.conversion = made
        self._asked = tuple(place for place in ask.places if place.number is None)
        self.session: Session = open_converted(ask.model, made.proto, self._providers)
        self._prefix = made.prefix
        self._own = original_outputs(made.proto, self._prefix)
        self._per_sample = set(made.question.samples)
        sizes = [t.shape[0] for t in self.session.inputs if t.name in self._per_sample and t.shape]
        self._fixed = next((d for d in sizes if isinstance(d, int)), None)
        self._batch = self._fixed or int(ask.batch_size or BATCH)
        self._target, self._told_by = f"{self._prefix}target", made.target_input
        self._gaps = {t.name for t in self.session.inputs if takes_gaps(made.question.model, t.name)}
        self._by_sample = {self._target, f"{self._prefix}baseline"}
        own = {i for n in made.proto.graph.node if not n.name.startswith(f"{self._prefix}{PREFIX}/") for i in n.input}
        stored = {t.name: numpy_helper.to_array(t) for t in made.proto.graph.initializer if t.name in self._by_sample - own}
        can_be_fed = {t.name for t in self.session.optional}
        self._built_in = {k: v for k, v in stored.items() if k in can_be_fed and len(v) > 1}
        self._constants = {k: v for k, v in stored.items() if k not in can_be_fed}
        if not self._fixed:  # the rows of a constant belong to the samples of one run
            self._batch = max([self._batch, *map(len, self._constants.values())])

    def __getattr__(self, name: str) -> Any:
        """What a model does not tell before it is fed is refused until then, with what would tell it."""
        waiting = self.__dict__.get("_waiting")
        if waiting is not None and not name.startswith("__"):
            raise waiting[0]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def method(self) -> str:
        """The method's name."""
        return self.conversion.method.name

    @property
    def providers(self) -> list[str]:
        """The execution providers the session really has."""
        return self.session.providers

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The model's own inputs that ``explain`` must be given."""
        return tuple(t for t in self.session.inputs if t.name != self._target)

    @property
    def batch_size(self) -> int:
        """Samples per run."""
        return self._batch

    def on(self, model: Source) -> Explainer:
        """The same method, parameters and providers on another model, such as one with other weights."""
        return Explainer.of(replace(self.conversion.ask, model=model))

    def explain(self, x: np.ndarray | Mapping[str, np.ndarray], target: Target = None, **optional: np.ndarray) -> Explanation:
        """Explain a batch: ``x`` is the model's input [N, ...], or a dict of its inputs.

        ``target`` is ``None`` (the predicted class of each sample, unless the conversion set another), an index, a label, a tuple
        into a score of higher rank, or one index per sample; or a place ("box:3", "point:120,80", "class:dog@mask") of the kind that the
        model was converted for. Several places of one sample, or every box ("box:*"), are explained in one run, a row for each.
        ``optional`` feeds the converted model's optional inputs, such as ``baseline``. Raises ``InputError`` for infinity, a wrong shape
        or type, and NaN that the model does not replace itself; ``TargetError`` for an unknown class.
        """
        if self._waiting is not None:
            ask = replace(self._waiting[1], example=x)
            self._open(conversion(ask, opened=False), ask)
        feed = self._feed(x)
        count = self._count(feed)
        feed, count, target = self._each_place(feed, count, target)
        targets = self._targets(target, count)
        extra = self._extra(optional, count)
        begin = time.perf_counter()
        bounds = [(i, min(i + self._batch, count)) for i in range(0, count, self._batch)]
        parts = [self._run(feed, extra, targets, begins, ends, count) for begins, ends in bounds]
        seconds = time.perf_counter() - begin
        arrays = _joined(parts, [ends - begins for begins, ends in bounds])
        told, built_in = arrays[f"{self._prefix}explained_class"], self._target in self._constants
        refuse_other_class(self.conversion.question, told, targets, arrays, self._told_by == FIXED, built_in)
        return self._explanation(arrays, seconds, lambda i: self._batch_of(feed, extra, targets, i, i + 1, count))

    def _extra(self, optional: Mapping[str, np.ndarray], count: int) -> dict[str, np.ndarray]:
        """What is fed beside the model's own inputs and the class, checked."""
        given = {f"{self._prefix}{k}": np.asarray(v) for k, v in optional.items()}
        for name in self._constants.keys() & given:
            raise InputError(
                f"'{name}' is a constant of the converted model (target_input='{self._told_by}'), so it cannot be fed. Convert the "
                f"original model again, with target_input='{OPTIONAL}', or with what it shall be."
            )
        for name, array in (self._constants | self._built_in | given).items():
            if name in self._by_sample and self._per_sample and array.ndim and len(array) not in (1, count):
                raise InputError(f"'{name}' has {len(array)} rows for {count} sample(s); give one, or one per sample.")
        return self._built_in | given

    def _feed(self, x: np.ndarray | Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if isinstance(x, Mapping):
            feed = {k: np.asarray(v) for k, v in x.items()}
        elif len(self.inputs) == 1:
            feed = {self.inputs[0].name: np.asarray(x)}
        else:
            names = ", ".join(map(str, self.inputs))
            raise InputError(f"the model has {len(self.inputs)} inputs ({names}); give a dict with an array for each.")
        for name, array in feed.items():
            wild = np.isinf if name in self._gaps else _not_finite
            if array.dtype.kind == "f" and (bad := int(wild(array).sum())):
                raise InputError(f"input '{name}' has {bad} value(s) that are NaN or infinite; a map of them would mean nothing.")
            if name in self._per_sample and (array.ndim == 0 or len(array) == 0):
                raise InputError(f"input '{name}' has shape {list(array.shape)}; it needs a batch axis with at least one sample.")
        return feed

    def _count(self, feed: Mapping[str, np.ndarray]) -> int:
        """The number of samples, of which every input with a batch axis holds one row each."""
        sizes = {name: len(array) for name, array in feed.items() if name in self._per_sample}
        if not sizes:
            return 1
        if len(set(sizes.values())) > 1:
            listing = ", ".join(f"{name} {size}" for name, size in sizes.items())
            raise InputError(f"the inputs hold different numbers of samples ({listing}); give one row per sample in each.")
        return next(iter(sizes.values()))

    def _each_place(self, feed: dict[str, np.ndarray], count: int, target: Target) -> tuple[dict[str, np.ndarray], int, Target]:
        """Of one sample and several places (or every box): the sample as often as there are places, and these."""
        places = places_of(target, self.labels) or (self._asked if target is None else ())
        every = any(place.number is None for place in places)
        if every and count > 1:
            raise TargetError(f"every box is asked for of {count} samples, which may have different numbers of them: give one at a time.")
        if count > 1 or not places or (len(places) == 1 and not every):
            return feed, count, target
        numbers = place_index(self.conversion.question, places)
        if every:
            numbers = np.arange(self._boxes(feed))
        if not self._per_sample:
            raise TargetError(f"{len(numbers)} places were given, and all that the model is fed with is one sample: give one at a time.")
        repeated = {k: np.repeat(v, len(numbers), axis=0) if k in self._per_sample else v for k, v in feed.items()}
        return repeated, len(numbers), numbers

    def _boxes(self, feed: dict[str, np.ndarray]) -> int:
        """How many boxes the model lists for one sample. Raises ``TargetError`` for none, and for more than anybody looks at."""
        many = int(self._run(feed, {}, np.zeros(1, np.int64), 0, 1, 1)[f"{self._prefix}box_count"][0])
        if not 0 < many <= MOST_BOXES:
            raise TargetError(f"the model lists {many} box(es), of which every one is asked for: between 1 and {MOST_BOXES} are explained.")
        return many

    def _targets(self, target: Target, count: int) -> np.ndarray | None:
        """One class per sample, or ``None`` for the model's own default (the predicted class, unless the conversion set another)."""
        if target is None:
            return None
        if places := places_of(target, self.labels):
            index = place_index(self.conversion.question, places)
        else:
            index = target_index(self.conversion.question, self._label_index(target) if isinstance(target, str) else target)
        if len(index) not in (1, count):
            raise TargetError(f"{len(index)} targets were given for {count} sample(s); give one, or one per sample.")
        return np.broadcast_to(index, (count,))

    def _label_index(self, label: str) -> int:
        if self.labels is None:
            raise TargetError(f"target '{label}' is a label, but no labels were given; pass labels=, or an index.")
        return find_label(self.labels, label)

    def _run(
        self, feed: dict[str, np.ndarray], extra: dict[str, np.ndarray], targets: np.ndarray | None, begin: int, end: int, count: int
    ) -> dict[str, np.ndarray]:
        """One batch; for a fixed batch size the last one is filled up with copies of its last sample, whose results are dropped."""
        size = end - begin
        results = self.session.run(self._batch_of(feed, extra, targets, begin, end, count))
        return {k: v[:size] if _rows(v) == (self._fixed or size) else v for k, v in results.items()}

    def _batch_of(
        self, feed: dict[str, np.ndarray], extra: dict[str, np.ndarray], targets: np.ndarray | None, begin: int, end: int, count: int
    ) -> dict[str, np.ndarray]:
        """What the session is fed with for the samples from ``begin`` to ``end``."""
        rows = np.minimum(np.arange(begin, begin + (self._fixed or end - begin)), end - 1)
        batch = {k: v[rows] if k in self._per_sample else v for k, v in feed.items()}
        if self._told_by != FIXED and targets is not None:
            batch[self._target] = np.ascontiguousarray(targets[rows])
        elif self._told_by == REQUIRED and self._target not in feed:
            batch[self._target] = np.full(1, -1)
        each = {k: v[rows] if k in self._by_sample and v.ndim and self._per_sample and len(v) == count else v for k, v in extra.items()}
        return each | batch

    def _refuse_infinite(self, what: str, array: np.ndarray, name: str, fed: Fed) -> None:
        """Raises ``InputError`` where the numbers ``array`` of the output ``name`` are not finite, with the node that makes them so."""
        wrong = ~np.isfinite(array)
        if not wrong.any():
            return
        sample = int(np.argwhere(wrong)[0][0]) if array.ndim else 0
        why = origin(self.conversion.proto, fed(sample), name, self._prefix, self._providers)
        where = f" (the first in sample {sample})" if len(array) > 1 else ""
        found = f"has {int(wrong.sum())} value(s) that are NaN or infinite{where}"
        raise InputError(f"the {what} of method '{self.method}' {found}, so it is not shown: {why}")

    def _refuse_contradiction(self, own: np.ndarray, target: np.ndarray, score: np.ndarray, fed: Fed) -> None:
        """The model's own output at the explained class must be a number, and the explained score where that is the output itself.

        Half-precision parts may be computed in float32 and overflow only where the output is written.
        """
        count, question = len(target), self.conversion.question
        if question.reading is not None:
            return  # the score is one of those that the output was chosen from, or a sum of several
        if question.binary:
            self._refuse_infinite("model output behind the score", own, question.output, fed)
            own = question.by_class(own)
        if own.size % count or (count > 1 and len(own) != count) or own.size // count <= target.max():
            return
        values = own.reshape(count, -1)[np.arange(count), target].astype(np.float64)
        self._refuse_infinite("model output behind the score", values, question.output, fed)
        alone = question.start.name == question.output and not question.squash and question.contrast is None
        whole = alone and (question.score == "raw" or not self._adopted)
        slack = 0.02 * np.abs(values) + 1e-3 * max(1.0, float(np.abs(values).max()))
        if whole and (np.abs(values - score) > slack).any():
            raise InputError(
                f"method '{self.method}' explains the score(s) {score.tolist()}, but output '{question.output}' says {values.tolist()}: "
                "numbers of the model are too large for its type on this input, or its batch was misread. Report it if neither is so."
            )

    def _explanation(self, arrays: dict[str, np.ndarray], seconds: float, fed: Fed) -> Explanation:
        added = {name: None if (told := f"{self._prefix}{name}") in self._own else arrays.pop(told, None) for name in ADDED}
        parts = {} if added["parts"] is None else dict(zip(self.conversion.parts, added["parts"].T, strict=True))
        attribution, target, score = added["attribution"], added["explained_class"], added["explained_score"]
        assert attribution is not None
        assert target is not None
        assert score is not None
        if target.ndim != 1:
            start = self.conversion.question.start
            raise TargetError(
                f"the classes explained come out as {list(target.shape)}, not one for each sample: the scores '{start.name}' are declared "
                f"{shape_text(start.shape)}, and the run makes more axes. Say that what is fed is one sample (batched=False in Python, "
                "--one-sample), or put the declaration of the file right."
            )
        for name in ("explained_score", "attribution", "saliency_map", "residual"):
            if (array := added[name]) is not None:
                self._refuse_infinite(name.removeprefix("explained_").replace("_", " "), array, f"{self._prefix}{name}", fed)
        if (own := arrays.get(self.conversion.question.output)) is not None:
            self._refuse_contradiction(own, target, score, fed)
        components = {k: v for k, v in arrays.items() if k not in self._own}
        outputs = {k: v for k, v in arrays.items() if k in self._own}
        parameters = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in self.conversion.settings.items()}
        return Explanation(
            attribution,
            added["saliency_map"],
            target,
            score,
            added["residual"],
            outputs,
            self.providers,
            seconds,
            self.method,
            parameters,
            components,
            self.conversion.method.partial,
            added["reached"],
            "; ".join(filter(None, (self.conversion.question.doubt, self.session.rounds))),
            self.session.provider_options,
            added["token_attribution"],
            parts,
            added["compared_class"],
            added["standard_error"],
        )


def _joined(parts: Sequence[Mapping[str, np.ndarray]], sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Results of several runs as one: those that hold a row for each sample."""
    if len(parts) == 1:
        return dict(parts[0])
    rows = [k for k in parts[0] if all(_rows(p[k]) == n for p, n in zip(parts, sizes, strict=True))]
    return {k: _concatenated([p[k] for p in parts]) for k in rows}


def _concatenated(results: Sequence[Any]) -> Any:
    """Arrays, or lists of maps, one after the other."""
    return list(chain.from_iterable(results)) if isinstance(results[0], list) else np.concatenate(results)


def _not_finite(array: np.ndarray) -> np.ndarray:
    return ~np.isfinite(array)


def _rows(result: np.ndarray | list[Any]) -> int | None:
    """The number of rows of a result: of an array, or of a list of maps (``None``: a number alone)."""
    return len(result) if isinstance(result, list) or result.ndim else None
