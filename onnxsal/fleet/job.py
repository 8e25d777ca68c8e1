"""What a run asks of its workers: small, picklable, and the same for every one of them; and a worker that does it, shard by shard."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, cast

from onnxsal.ask.request import FED, RUN, Ask
from onnxsal.disk import read_bytes, sha256
from onnxsal.errors import InputError, ModelError
from onnxsal.explainer import Explainer, told_in_runs
from onnxsal.facade.adopt import adopt
from onnxsal.facade.convert import conversion
from onnxsal.facade.target import OPTIONAL
from onnxsal.fleet.added import AddedPart, without_maps
from onnxsal.fleet.cutting import Shard
from onnxsal.fleet.decoding import DecodedShard, Decoding, fed_block, shard_of
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.numbers import NUMBERS
from onnxsal.fleet.run_files import MODELS, Done, maps_name, summed, write_maps, write_part
from onnxsal.fleet.working import AHEAD, EVERY, OF_SAMPLE, Keeping, explained, worked
from onnxsal.given.prepared import preprocess_of
from onnxsal.given.text import TextReader
from onnxsal.given.tokenizer import BESIDE_TOKENIZER, tokenizer_file
from onnxsal.graph.assemble import set_metadata
from onnxsal.graph.emit import ON_CUDA
from onnxsal.graph.load import load_model, save_model, size_on_disk
from onnxsal.graph.provenance import model_sha256
from onnxsal.large import serialised
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.record import packed
from onnxsal.report.audit.subject import key_of
from onnxsal.runtime.batches import fixed_batch
from onnxsal.runtime.beside import as_metadata
from onnxsal.runtime.columns import as_column_metadata, columns_beside
from onnxsal.runtime.providers import runs_on


@dataclass(frozen=True)
class Receipt:
    """What a worker says of a shard: how many ``rows`` it has, how many of these have no explanation (``bad``), the ``seconds`` that it
    took, and ``why`` it is not done ('' = it is).
    """

    shard: str
    rows: int
    bad: int
    seconds: float
    why: str = ""


@dataclass(frozen=True)
class Job:
    """What is explained of every shard, by every way (method with parameters) of a model, and the place ``out`` where it goes.

    ``ask`` holds everything that is asked of the model but the method; ``sha256`` is the model's, ``keys`` has the key of each way by its
    name. Of the worker's machine it needs nothing but ``out`` and the data: the model that is opened lies in ``out``.
    """

    out: str
    ask: Ask
    ways: tuple[Way, ...]
    keeping: Keeping
    sha256: str
    keys: dict[str, str]
    texts: TextsAsked | None = None
    ahead: int = AHEAD

    @classmethod
    def of(cls, out: str, ask: Ask, ways: Sequence[Way], keeping: Keeping, texts: TextsAsked | None = None) -> Job:
        """The job of a request, with its keys; ``texts``: how texts are read, where the data are texts.

        Raises ``InputError`` for two ways of one name, and for several places of a sample.
        """
        refuse_places(ask)
        if len({way.name for way in ways}) < len(ways):
            raise InputError(f"methods {', '.join(way.name for way in ways)}: two have one name. Name each once.")
        digest = sha256_of(ask)
        told = [packed(keeping.target), keeping.maps, list(ask.labels or ()), None if texts is None else texts.told]
        keys = {way.name: _key(told_in_runs(ask.by(way.method, way.parameters)), digest, told) for way in ways}
        return cls(out, ask, tuple(ways), keeping, digest, keys, texts)

    def asked(self, way: Way) -> Ask:
        """What is asked of the model by one of the ways."""
        return told_in_runs(self.ask.by(way.method, way.parameters))

    def opened(self) -> Worker:
        """A worker that explains."""
        return Worker(Explaining(self))

    def left_of(self, parts: Sequence[AddedPart]) -> list[AddedPart]:
        """Those of the parts of samples that are added of which something is to be done yet: a map that is to be kept."""
        return without_maps(Folder.of(self.out), list(self.keys.values()), parts, self.keeping.maps)

    def decoding(self) -> Decoding:
        """What decodes pictures for workers. Raises ``InputError`` where no preprocessing is known."""
        return Decoding(preprocess_of(self.ask), self.ask.labels)

    def prepare(self) -> None:
        """Convert the model for every way, once, and put it where workers find it. What lies under a key is the same model already."""
        for way in self.ways:
            converted(self, way)
        if self.texts is not None:
            self.texts.put(Folder.of(self.out))

    @property
    def facts(self) -> dict[str, Any]:
        """What ``run.json`` says of it."""
        return facts_of(self)


def _key(ask: Ask, digest: str, told: Sequence[Any]) -> str:
    """A hash of everything that the numbers of a way depend on, beside the sample; ``told``: what is not asked of the model itself."""
    asked = [ask.chosen.name, ask.chosen.sha256, ask.told, repr(ask.preprocess), runs_on(ask.resolved)]
    return key_of([version("onnxsal"), digest, *asked, *told])


@dataclass(frozen=True)
class TextsAsked:
    """How texts are read: by the ``tokenizer`` (a file, or the one beside the model), cut off where they are too long (``truncate``), into
    inputs by their ``roles``.
    """

    tokenizer: str
    truncate: bool = False
    roles: Mapping[str, str] | None = None

    @classmethod
    def of(cls, model: Any, tokenizer: Any = None, truncate: bool = False, roles: Mapping[str, str] | None = None) -> TextsAsked:
        """What is asked of texts for a model. Raises ``InputError`` where there is no tokenizer."""
        return cls(str(tokenizer_file(model, tokenizer)), truncate, roles)

    @property
    def told(self) -> list[Any]:
        """What the numbers depend on."""
        files = [Path(self.tokenizer).with_name(name) for name in BESIDE_TOKENIZER]
        return [self.truncate, self.roles, [sha256(read_bytes(file)) if file.is_file() else "" for file in files]]

    def put(self, place: Folder) -> None:
        """Put the tokenizer where workers find it."""
        for name in BESIDE_TOKENIZER:
            file = Path(self.tokenizer).with_name(name)
            if file.is_file() and not place.exists(f"{MODELS}/{name}"):
                place.write(f"{MODELS}/{name}", read_bytes(file))

    def reader(self, explainer: Explainer, taken: Taken) -> TextReader:
        """What reads texts, from the files that ``put`` wrote."""
        for name in BESIDE_TOKENIZER[1:]:
            taken.path(f"{MODELS}/{name}", missing=True)
        return explainer.texts.reader(taken.path(f"{MODELS}/{BESIDE_TOKENIZER[0]}"), self.truncate, self.roles)


def sha256_of(ask: Ask) -> str:
    """The hash of a model; of a file with weights beside it that of both."""
    path = ask.model
    if isinstance(path, str | os.PathLike) and size_on_disk(Path(path)) != os.path.getsize(path):
        return model_sha256(load_model(path))
    return model_sha256(path)


def model_name(key: str) -> str:
    """Where the converted model of a key lies in the place of a run."""
    return f"{MODELS}/{key}.onnx"


def converted(job: Job, way: Way) -> None:
    """Convert the model for a way, and put it into the place of the job, unless it is there."""
    place, name = Folder.of(job.out), model_name(job.keys[way.name])
    if not place.exists(name):
        ask = job.asked(way)
        known = replace(ask.on(ask.resolved), target_input=ask.target_input or OPTIONAL, runs_on=ask.runs_on or runs_on(ask.resolved))
        made = adopt(ask) or conversion(known, opened=False)
        set_metadata(made.proto, as_metadata(ask.preprocess, ask.labels) | as_column_metadata(columns_beside(ask.model)))
        put_model(made.proto, place, name)


def put_model(proto: Any, place: Folder, name: str) -> None:
    """Write a model into a place. Raises ``ModelError`` for one over 2 GiB where the place is no folder of a file system."""
    if place.local is not None:
        (place.local / name).parent.mkdir(parents=True, exist_ok=True)
        save_model(proto, place.local / name)
        return
    data = serialised(proto)
    if data is None:
        raise ModelError(f"the model is over 2 GiB, more than one file holds, so it cannot be put into '{place.place}': use a folder.")
    place.write(name, data)


class Taken:
    """Files of a place as files on this machine: as they are where the place is a folder here, else fetched into a temporary folder."""

    def __init__(self, place: Folder) -> None:
        self._place = place
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def path(self, name: str, missing: bool = False) -> Path:
        """The path of a file of the place. Raises ``InputError`` where it is not there, unless it may be ``missing``."""
        if self._place.local is not None:
            return self._place.local / name
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="onnxsal-")
        path = Path(self._folder.name) / name
        if not path.exists() and not (missing and not self._place.exists(name)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._place.read(name))
        return path


class Doing(Protocol):
    """What a worker does with a shard: explaining, measuring."""

    def do(self, shard: Shard) -> tuple[int, int]:
        """Do it, and write what comes out; returns how many rows the shard has, and how many of them are bad."""


class DoingAdded(Doing, Protocol):
    """What also has something to do for samples that are added to the drawn ones."""

    def do_added(self, part: AddedPart) -> tuple[int, int]:
        """As ``do``, of the samples of the part."""


class DoingBlocks(Doing, Protocol):
    """What can also be done with pictures that were decoded elsewhere."""

    def do_block(self, block: DecodedShard) -> tuple[int, int]:
        """As ``do``, of the shard that the block is the whole of."""


class Worker:
    """Opened once on its machine, then given shards. Raises what opening raises (a provider that is not there, a model that is not)."""

    def __init__(self, doing: Doing) -> None:
        self._doing = doing

    def do(self, shard: Shard | AddedPart) -> Receipt:
        """One shard, or what is added of one. What is wrong with samples is in its files; what is wrong with the whole shard (it
        vanished) is in the receipt.

        Raises what would be wrong with every other shard too: a place that is full, a method that does not fit.
        """
        if isinstance(shard, AddedPart):
            return self._done(shard, lambda: cast(DoingAdded, self._doing).do_added(shard))
        return self._done(shard, lambda: self._doing.do(shard))

    def do_block(self, block: DecodedShard) -> Receipt:
        """One shard whose pictures were decoded elsewhere."""
        doing = cast(DoingBlocks, self._doing)
        return self._done(shard_of(block), lambda: doing.do_block(block))

    def _done(self, shard: Shard | AddedPart, do: Callable[[], tuple[int, int]]) -> Receipt:
        begin = time.perf_counter()
        try:
            rows, bad = do()
        except (InputError, ModelError) as error:
            return Receipt(shard.name, shard.end - shard.begin, 0, time.perf_counter() - begin, str(error) or type(error).__name__)
        return Receipt(shard.name, rows, bad, time.perf_counter() - begin)


class Explaining:
    """Explains a shard by every way that is not done yet, and writes the files of each."""

    def __init__(self, job: Job) -> None:
        self._job, self._place = job, Folder.of(job.out)
        taken = Taken(self._place)
        self._explainers = {job.keys[way.name]: explainer_of(job, way, taken) for way in job.ways}
        self._reader = None if job.texts is None else job.texts.reader(next(iter(self._explainers.values())), taken)
        self._taken = taken  # holds the files that the sessions may still read

    def do(self, shard: Shard) -> tuple[int, int]:
        """Explain and write; returns its rows, and how many of them have no explanation by one of the ways."""
        return self._do(shard, lambda explainers: worked(explainers, shard, self._job.keeping, self._job.ahead, self._reader))

    def do_block(self, block: DecodedShard) -> tuple[int, int]:
        """The same of a shard whose pictures were decoded elsewhere."""
        shard = shard_of(block)

        def tables(explainers: Sequence[Explainer]) -> list[Any]:
            first = explainers[0]
            items = fed_block(block, first.conversion.ask, first.fed, first.batch_size)
            return explained(explainers, items, shard, self._job.keeping)

        return self._do(shard, tables)

    def do_added(self, part: AddedPart) -> tuple[int, int]:
        """The maps of samples that are added, where those of the drawn ones are kept; returns as ``do``."""
        keys = self._explainers if self._job.keeping.maps in OF_SAMPLE else ()
        left = [key for key in keys if not self._place.exists(maps_name(key, part.name))]
        whole, explainers = replace(self._job.keeping, maps=EVERY), [self._explainers[key] for key in left]
        made = worked(explainers, part.shard, whole, self._job.ahead, self._reader, frozenset(part.ids)) if left else []
        for key, table in zip(left, made, strict=True):
            write_maps(self._place, key, part.name, table)
        return len(part.ids), sum(bool(why) for table in made[:1] for why in table.column("why").to_pylist())

    def _do(self, shard: Shard, tables: Callable[[Sequence[Explainer]], list[Any]]) -> tuple[int, int]:
        left = [key for key in self._explainers if not self._place.exists(Done(key, shard.name).name)]
        bad, made = set[str](), tables([self._explainers[key] for key in left]) if left else []
        for key, table in zip(left, made, strict=True):
            write_part(self._place, key, shard, table, summed(table, NUMBERS))
            bad |= {row for row, why in zip(table.column("id").to_pylist(), table.column("why").to_pylist(), strict=True) if why}
        return shard.end - shard.begin, len(bad)


def explainer_of(job: Job, way: Way, taken: Taken) -> Explainer:
    """The explainer of a way, from the converted file alone: the source is not read."""
    kept = {name: getattr(job.ask, name) for name in (*RUN, *FED)}
    return Explainer.of(of_one_size(Ask(taken.path(model_name(job.keys[way.name])), **kept)))


def of_one_size(ask: Ask) -> Ask:
    """On CUDA the batch is fixed, where the file, converted or not, leaves it open: every run has the same sizes, none is planned anew."""
    if runs_on(ask.resolved) != ON_CUDA or ask.fixed_batch is not None:
        return ask
    made = adopt(ask)
    proto = load_model(ask.model) if made is None else made.proto
    samples = {value.name for value in proto.graph.input} if made is None else set(made.question.samples)
    return replace(ask, fixed_batch=ask.batch_size) if samples and fixed_batch(proto, samples) is None else ask


def refuse_places(ask: Ask) -> None:
    """Raise ``InputError`` where several places of a sample are explained: a shard has one row for each sample."""
    places = ask.places
    if len(places) > 1 or any(place.number is None for place in places):
        raise InputError("several places of each sample (box:*, a list) cannot be explained by the shard: ask for one, such as box:0.")


def facts_of(job: Job) -> dict[str, Any]:
    """What ``run.json`` says of a job."""
    ask = job.ask
    ways = [
        {"name": w.name, "key": job.keys[w.name], "method": job.asked(w).chosen.name, "parameters": packed(dict(w.parameters))}
        for w in job.ways
    ]
    return {
        "model": ask.name,
        "sha256": job.sha256,
        "ways": ways,
        "preprocess": None if ask.preprocess is None else packed(asdict(ask.preprocess)),
        "maps": job.keeping.maps,
        "share": job.keeping.share,
        "added": job.keeping.added,
        "seed": job.keeping.seed,
        "target": packed(job.keeping.target),
    }
