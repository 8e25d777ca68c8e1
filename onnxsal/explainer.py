"""Explainer: a converted model held open in a session."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxsal.ask.class_names import classes_of, names_in, refuse_misfit
from onnxsal.ask.guard import open_converted
from onnxsal.ask.place import places_of
from onnxsal.ask.request import Ask, Target, spelled, with_given
from onnxsal.errors import ExampleNeeded, InputError, TargetError
from onnxsal.explanation import Explanation
from onnxsal.facade.adopt import adopt, original_outputs
from onnxsal.facade.class_words import class_words
from onnxsal.facade.convert import Conversion, conversion
from onnxsal.facade.memory import bytes_per_sample
from onnxsal.facade.returned import ADDED, TOLD, Fed, Returned
from onnxsal.facade.target import FIXED, OPTIONAL, REQUIRED, place_index, refuse_other_class, target_index
from onnxsal.facts.gaps import takes_gaps
from onnxsal.given.checked import checked_feed, sample_count
from onnxsal.given.from_files import Feeding
from onnxsal.given.gather import example_of, gather, is_many
from onnxsal.given.known import with_known
from onnxsal.given.text import AnyText
from onnxsal.given.texts import AnyTokenizer, Texts
from onnxsal.graph.emit import ON_CUDA, PREFIX
from onnxsal.graph.infer import shape_text
from onnxsal.graph.load import Source
from onnxsal.runtime.batches import Arrays, Batches, Portion, batch_names, fixed_batch, joined, row_count
from onnxsal.runtime.labels import find_label
from onnxsal.runtime.on_device import OnDevice, rows_at
from onnxsal.runtime.progress import Bar, counted
from onnxsal.runtime.progress import progress as reading
from onnxsal.runtime.providers import as_text, runs_on
from onnxsal.runtime.session import Session, Tensor
from onnxsal.runtime.table_files import is_table
from onnxsal.runtime.timed import timed

log = logging.getLogger(__name__)

MOST_BOXES = 1000
"""Boxes of one sample that are explained where all are asked for."""

BATCH = 16
"""Samples in one run, where nothing else is asked for."""


class Explainer:
    """Explains batches with one method, in one session that stays open; nothing is kept between calls.

    What is given is as for ``convert``, and how it is run: ``providers`` is what ONNX Runtime takes, or a short word
    ("cpu", "cuda"): what is asked for and not obtained is an error. Float32 is computed as float32; ``tf32=True`` lets CUDA round to
    10 bits of mantissa, which is faster and can spoil a map. ``threads`` bounds the threads of the CPU that one run takes (one for each
    core where it is not given): several processes on one machine take 1 each. A model that is already converted is run as it is: leave
    ``method`` out, or name the one that is built in. ``batch_size`` bounds the samples per run (a model with a
    fixed batch is run with that one, its last batch filled up). ``fixed_batch`` fixes the batch of a model that leaves it open: every run
    has that many rows, and what is computed of the batch is computed at opening. Where no input is of open size, runs on CUDA are CUDA
    graphs, whose kernels are sent to the card as one (``how`` says so, or what hinders it); with an open batch, a run on CUDA is filled up
    to a size that was run before (``runtime.batches``). ``labels`` lets a target be named; one for each class, else
    ``InputError``; ``preprocess`` says how pictures become the input. Of a model in a file both are looked for beside it and in its
    metadata where they are not given (``given.prepared``), as the command line does; where no labels are found, they are what a classical
    classifier itself calls its classes. A model that does not tell the number of
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
        ask = with_known(ask)
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
        self._prefix = made.prefix
        self._own = original_outputs(made.proto, self._prefix)
        self._per_sample = set(made.question.samples)
        fixed, sizes = self._sizes(made.proto, ask.fixed_batch)
        with timed(log, f"{ask.name or 'a model'}: opened"):
            self.session: Session = open_converted(ask.model, made.proto, self._providers, sizes, ask.threads)
        log.info("%s runs on %s", made.method.name, as_text(self.session.providers, self.session.provider_options))
        for doubt in filter(None, (made.question.doubt, self.session.rounds)):
            log.warning("%s: %s", ask.name or "a model", doubt)
        self._target, self._told_by = f"{self._prefix}target", made.target_input
        self._gaps = {t.name for t in self.session.inputs if takes_gaps(made.question.model, t.name)}
        self._by_sample = {self._target, f"{self._prefix}baseline"}
        own = {i for n in made.proto.graph.node if not n.name.startswith(f"{self._prefix}{PREFIX}/") for i in n.input}
        stored = {t.name: numpy_helper.to_array(t) for t in made.proto.graph.initializer if t.name in self._by_sample - own}
        can_be_fed = {t.name for t in self.session.optional}
        self._built_in = {k: v for k, v in stored.items() if k in can_be_fed and len(v) > 1}
        self._constants = {k: v for k, v in stored.items() if k not in can_be_fed}
        least = max(map(len, self._constants.values()), default=1)  # the rows of a constant belong to the samples of one run
        self._batches = Batches(max(int(ask.batch_size or BATCH), least), fixed, runs_on(self.session.obtained) == ON_CUDA and least == 1)

    def _sizes(self, proto: onnx.ModelProto, wanted: int | None) -> tuple[int | None, dict[str, int] | None]:
        """The number of rows that every run has, by the file or as ``wanted``, and the sizes of the names that are fixed with it.

        ``None`` is open. Raises ``InputError`` where what is wanted cannot be.
        """
        declared = fixed_batch(proto, self._per_sample)
        if wanted is not None and (not self._per_sample or declared not in (None, wanted)):
            has = f"takes {declared} sample(s) at once" if declared else "takes one sample"
            raise InputError(f"fixed_batch={wanted} cannot be: the model {has}. Leave it out.")
        fixed = wanted or declared
        on_card = runs_on(self._providers) == ON_CUDA and (fixed is not None or not self._per_sample)
        if wanted is None and not on_card:
            return fixed, None
        return fixed, dict.fromkeys(batch_names(proto, self._per_sample, f"{self._prefix}target"), fixed or 1)

    def __getattr__(self, name: str) -> Any:
        """What a model does not tell before it is fed is refused until then, with what would tell it."""
        waiting = self.__dict__.get("_waiting")
        if waiting is not None and not name.startswith("__"):
            raise waiting[0]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        if self._waiting is not None:
            return f"Explainer of {self._waiting[1].name or 'a model'}, which is converted when it is given the first data"
        made = self.conversion
        what = f"{made.question.output} at {made.question.x.name} of {made.ask.name or 'a model'}"
        return f"Explainer of {what} by {self.method}, on {', '.join(self.providers)}"

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
    def fed(self) -> Feeding:
        """How the model is fed, for what reads samples from files (``given``)."""
        return Feeding(self.conversion.question, self.inputs)

    @cached_property
    def texts(self) -> Texts:
        """What turns texts into the model's inputs, by the tokenizer beside it."""
        return Texts(self.conversion.ask.model, self.fed, self._providers)

    @property
    def batch_size(self) -> int:
        """Samples per run."""
        return self._batches.size

    @property
    def how(self) -> str:
        """How runs are sent to a card, where sizes are fixed: as a CUDA graph, or without, and what hinders ('' = it is no question)."""
        return self.session.how

    @cached_property
    def memory_per_sample(self) -> int | None:
        """The bytes that one sample takes in a run, by the sizes of its tensors (``facade.memory``); ``None`` where these are not known."""
        return bytes_per_sample(self.conversion.proto, self._per_sample, self._target)

    def on(self, model: Source) -> Explainer:
        """The same method, parameters and providers on another model, such as one with other weights."""
        return Explainer.of(replace(self.conversion.ask, model=model))

    def explain(
        self,
        x: Any = None,
        target: Target = None,
        *,
        text: AnyText | None = None,
        like: AnyText | None = None,
        tokenizer: AnyTokenizer = None,
        truncate: bool = False,
        on_device: bool = False,
        progress: Bar = None,
        **optional: np.ndarray,
    ) -> Explanation:
        """Explain a batch. ``x`` is the model's input [N, ...] as an array, or what hands its memory on by DLPack, such as a torch tensor,
        already prepared; or the path of a picture, a folder, a .npy or .npz, or a PIL image, which are prepared as is known of the model;
        or a dict of arrays by input; or a list of any of these, which make one batch; or a table with named columns: the path of a CSV or
        Parquet file, a DataFrame, a Table of pyarrow (``runtime.columns.by_column`` sums the attribution by column). What lies on the
        card that the session runs on stays there, and no array is copied to be fed on the CPU.

        ``target`` is ``None`` (the predicted class of each sample, unless the conversion set another), an index, a label, a tuple
        into a score of higher rank, or one index per sample; or a place ("box:3", "point:120,80", "class:dog@mask") of the kind that the
        model was converted for. Several places of one sample, or every box ("box:*"), are explained in one run, a row for each.
        ``optional`` feeds the converted model's optional inputs, such as ``baseline``. Raises ``InputError`` for infinity, a wrong shape
        or type, NaN that the model does not replace itself, and samples of several sizes; ``TargetError`` for an unknown class.

        ``Explanation.shown`` has what each sample is shown beside: pictures as the model saw them, on the whole picture where that was
        given (of all samples together up to 2^27 pixels; of later ones what the model saw); of prepared arrays their pixels, where the
        preprocessing is known, made of the array when they are looked at. ``progress``: a bar while files are read, and over several runs
        (``None``: in a terminal or a notebook only).

        ``text`` stands for ``x``: one, a pair (a tuple of two), or a list of these, read by the ``tokenizer`` beside the model, the file
        named or a ``texts.reader()``; ``truncate`` cuts off what is too long; ``like`` is compared with each or all (score="cosine").

        ``on_device`` leaves maps, components and the model's outputs where the session wrote them, as ``OnDevice``, which
        ``torch.from_dlpack`` takes without a copy (so it takes numpy's arrays, which results are else); what is one number for each sample
        comes to the host. That needs one run: as many samples as it takes at most, with a fixed batch exactly so many. Maps are checked on
        the device (one number of each comes back); the output that is explained is read for its check.
        """
        if text is not None or like is not None:
            x, shown = self.texts.given(x, text, like, self.texts.reader(tokenizer, truncate))
            return replace(self._explain(x, target, on_device, progress, optional), shown=shown)
        return self._explain(x, target, on_device, progress, optional)

    def _explain(self, x: Any, target: Target, on_device: bool, progress: Bar, optional: Mapping[str, np.ndarray]) -> Explanation:
        """Read what is given, and run it in as many runs as it takes."""
        if self._waiting is not None:
            if is_table(x):  # how its columns are fed is part of what is not known yet
                raise self._waiting[0]
            ask = replace(self._waiting[1], example=example_of(x, self._waiting[1]))
            self._open(conversion(ask, opened=False), ask)
        with reading("reading", wanted=progress if is_many(x) else False) as step:
            given = gather(x, self.conversion.ask, self.fed, step)
        feed = checked_feed(given.feed, self.fed, self.session, self._gaps)
        count = sample_count(feed, self._per_sample)
        feed, rows, target = self._each_place(feed, count, target)
        given = given if rows == count else given.again(rows)
        targets, extra = self._targets(target, rows), self._extra(optional, rows)
        begin = time.perf_counter()
        runs = [Portion(feed, extra, targets, begins, ends, rows) for begins, ends in self._batches.cut(rows)]
        parts = [self._run_on_device(runs)] if on_device else self._run_all(runs, progress)
        seconds = time.perf_counter() - begin
        arrays = joined(parts, [run.end - run.begin for run in runs])
        told, built_in = arrays[f"{self._prefix}explained_class"], self._target in self._constants
        refuse_other_class(self.conversion.question, told, targets, arrays, self._told_by == FIXED, built_in)
        found = self._explanation(
            arrays, seconds, lambda i: self._fed(Portion(feed, extra, targets, i, i + 1, rows), self._batches.fixed or 1)
        )
        doubt = "; ".join(filter(None, (found.doubt, given.doubt)))
        return replace(found, shown=given.shown, sources=given.sources, doubt=doubt)

    def _run_all(self, runs: Sequence[Portion], progress: Bar) -> list[dict[str, Any]]:
        """The results of every run."""
        parts = []
        with counted("explaining", progress if len(runs) > 1 else False) as told:
            for run in runs:
                log.debug("samples %d to %d of %d", run.begin, run.end, run.count)
                parts.append(self._run(run))
                told(run.end, run.count)
        return parts

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

    def _each_place(self, feed: dict[str, Any], count: int, target: Target) -> tuple[dict[str, Any], int, Target]:
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
        again = np.zeros(len(numbers), np.int64)
        repeated = {k: rows_at(v, again) if k in self._per_sample else v for k, v in feed.items()}
        return repeated, len(numbers), numbers

    def _boxes(self, feed: Arrays) -> int:
        """How many boxes the model lists for one sample. Raises ``TargetError`` for none, and for more than anybody looks at."""
        many = int(self._run(Portion(feed, {}, np.zeros(1, np.int64), 0, 1, 1))[f"{self._prefix}box_count"][0])
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

    def _run(self, run: Portion) -> dict[str, Any]:
        """One run, filled up; the results of what fills it are dropped."""
        size, rows = run.end - run.begin, self._rows(run)
        results = self.session.run(self._fed(run, rows))
        return {k: v[:size] if row_count(v) == rows else v for k, v in results.items()}

    def _run_on_device(self, runs: Sequence[Portion]) -> dict[str, Any]:
        """The only run, whose results stay on the device but for what is one number for each sample. Raises ``InputError``."""
        size = runs[0].end - runs[0].begin
        if len(runs) > 1 or size != (self._batches.fixed or size):
            takes = f"exactly {self._batches.fixed}" if self._batches.fixed else f"at most {self._batches.size}"
            raise InputError(f"on_device needs one run, which takes {takes} sample(s), and {runs[0].count} were given.")
        told = {f"{self._prefix}{name}" for name in ("explained_class", "compared_class", *TOLD)} - set(self._own)
        staying = [t.name for t in self.session.outputs if t.name not in told and t.dtype is not None and t.dtype != object]
        results = self.session.run(self._fed(runs[0], size), staying=staying)
        return {k: np.asarray(v) if isinstance(v, OnDevice) and v.ndim < 2 else v for k, v in results.items()}

    def _rows(self, run: Portion) -> int:
        """The rows that a run has."""
        return self._batches.rows(run.end - run.begin, tuple((k, v.shape[1:]) for k, v in run.feed.items() if k in self._per_sample))

    def _fed(self, run: Portion, size: int) -> dict[str, Any]:
        """What the session is fed with in a run, filled up to ``size`` rows with copies of the last."""
        rows = np.minimum(np.arange(run.begin, run.begin + size), run.end - 1)
        batch = {k: rows_at(v, rows) if k in self._per_sample else v for k, v in run.feed.items()}
        if self._told_by != FIXED and run.targets is not None:
            batch[self._target] = np.ascontiguousarray(run.targets[rows])
        elif self._told_by == REQUIRED and self._target not in run.feed:
            batch[self._target] = np.full(self._batches.fixed or 1, -1)
        mine = {k for k, v in run.extra.items() if k in self._by_sample and v.ndim and self._per_sample and len(v) == run.count}
        return {k: v[rows] if k in mine else v for k, v in run.extra.items()} | batch

    def _explanation(self, arrays: dict[str, Any], seconds: float, fed: Fed) -> Explanation:
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
        returned = Returned(self.conversion, self._providers, fed)
        for name in ("explained_score", "attribution", "saliency_map", "residual"):
            if (array := added[name]) is not None:
                returned.refuse_infinite(name.removeprefix("explained_").replace("_", " "), array, f"{self._prefix}{name}")
        if (own := arrays.get(self.conversion.question.output)) is not None:
            returned.refuse_contradiction(np.asarray(own), target, score, self._adopted)
        components = {k: v for k, v in arrays.items() if k not in self._own}
        outputs = {k: v for k, v in arrays.items() if k in self._own}
        parameters = {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in self.conversion.settings.items()}
        names = class_words(self.conversion.question, self.labels, target, added["compared_class"], components)
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
            self.how,
            names=names,
        )


OF_A_RUN = {"text": None, "like": None, "tokenizer": None, "truncate": False, "on_device": False, "progress": None}
"""Keywords of ``explain`` that go to ``Explainer.explain``, and what stands for not given."""


# mypy takes the name "model" as one that the method's own parameters might have too; Ask.of has it first, and so has the result
@with_given(Ask.of, OF_A_RUN)  # type: ignore[arg-type]
def explain(ask: Ask, given: Any, **run: Any) -> Explanation:
    """What a model says about what is ``given``: ``Explainer(model, method, ...).explain(given, target)`` in one call.

    ``given`` is a path (a picture, a folder, a .npy or .npz), a PIL image, an array, a tensor, a dict of arrays by input, or a list of any
    of these; other keywords are those of ``convert``, ``Explainer`` and ``Explainer.explain``. The explanation is built into the model in
    every call, which takes most of the time: for several calls keep an ``Explainer``. Raises as these do.
    """
    explainer = Explainer.of(told_in_runs(with_known(ask)))
    return explainer.explain(given, ask.target, **run)


def told_in_runs(ask: Ask) -> Ask:
    """The request of an explainer that is told its class in each run: of places only the kind is built in, and of classes none."""
    first = ask.target if isinstance(ask.target, str) else next(iter(ask.target or ())) if ask.places else None  # type: ignore[arg-type]
    return replace(ask, target=first if ask.places else None)
