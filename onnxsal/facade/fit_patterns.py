"""Learn patterns: one pass over the data, for all layers at once, in bounded memory."""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx

from onnxsal.ask.guard import plain_model
from onnxsal.ask.request import DEFAULTS, FED, RUN, Ask
from onnxsal.errors import InputError, near_miss
from onnxsal.facts.linear_layers import LinearLayer
from onnxsal.graph import Emit, Model
from onnxsal.graph.assemble import Port, assemble
from onnxsal.graph.load import Source, load_model
from onnxsal.graph.provenance import model_sha256, refuse_converted
from onnxsal.methods.patterns.file import Patterns, layer_patterns, meta_of, named_layers
from onnxsal.methods.patterns.layer_sums import LayerSums, emit_sums, estimate
from onnxsal.ops.apart import keep_apart
from onnxsal.runtime.arrays import read_arrays, refuse_missing
from onnxsal.runtime.beside import beside
from onnxsal.runtime.data import Data, open_data
from onnxsal.runtime.data import Source as DataSource
from onnxsal.runtime.files import write_arrays
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.preprocess_files import load_preprocess
from onnxsal.runtime.providers import Providers
from onnxsal.runtime.session import Session, open_session
from onnxsal.settings import Phrase, Wanted, checked, open_schema

FitProgress = Callable[[int, int | None], None]
"""Called with the samples done and, where it is known, their number in all."""

BATCH = 8
"""Larger ones are hardly faster, and memory grows with them."""

SAVE_SECONDS = 60.0
STATE = 2
"""Format of the file that an interrupted pass leaves."""


def fit_patterns(
    model: Source,
    data: DataSource,
    *,
    preprocess: Preprocess | str | os.PathLike[str] | None = None,
    batch_size: int = BATCH,
    layers: str | Sequence[str] | None = None,
    samples: int | None = None,
    state: str | os.PathLike[str] | None = None,
    save_every: float = SAVE_SECONDS,
    providers: Providers = None,
    progress: FitProgress | None = None,
) -> Patterns:
    """Learn the patterns of every linear layer of a model from (training) data, for ``patternnet`` and ``pattern_attribution``.

    ``data`` is a folder or list of pictures (with ``preprocess``, by default what lies beside the model), a .npy, .npz, .parquet or
    .zarr file, an array, or an iterable of batches. ``layers`` chooses by name of weight or node (globs); ``samples`` limits how many
    are read. With ``state`` (a path) the sums are kept there every ``save_every`` seconds and when it is interrupted, and a later call
    with the same data, in the same order, goes on from them. Labels are not needed.

    Each unit's pattern a obeys w'a = 1. ``Patterns.inactive`` lists units that were hardly ever active; their a+ is the linear pattern.
    """
    ask = Ask.of(model, preprocess=preprocess_for(model, preprocess), batch_size=batch_size, providers=providers)
    return fitted(ask, Fitting(data, layers, samples, state, save_every, progress))


@dataclass(frozen=True)
class Fitting:
    """What is learned, and from what: the arguments of ``fit_patterns`` that are asked of the pass over the data."""

    data: DataSource
    layers: str | Sequence[str] | None = None
    samples: int | None = None
    state: str | os.PathLike[str] | None = None
    save_every: float = SAVE_SECONDS
    progress: FitProgress | None = None


def fitted(ask: Ask, work: Fitting) -> Patterns:
    """As ``fit_patterns``, of a request. Raises ``MethodError`` for a field of it that has no meaning here."""
    ask = ask.without("fit_patterns", *(name for name in DEFAULTS if name not in (*RUN, *FED)))
    fit = _Fit.open(ask, work)
    reader = open_data(work.data, fit.session.inputs, ask.preprocess)
    kept = None if work.state is None else Path(work.state)
    if kept is not None and kept.exists():
        fit.restore(kept)
    begin, first = time.perf_counter(), fit.done
    try:
        _read(fit, reader, ask.batch_size or BATCH, work, kept)
    except BaseException:
        if kept is not None and fit.done > first:
            fit.keep(kept)
        raise
    result = fit.result(ask.model, time.perf_counter() - begin, fit.done - first)
    if kept is not None:
        kept.unlink(missing_ok=True)
    return result


def _read(fit: _Fit, reader: Data, size: int, work: Fitting, kept: Path | None) -> None:
    """Add up all batches that are left, and keep the sums from time to time."""
    saved = time.perf_counter()
    for batch in reader.batches(fit.fixed or size, fit.done, work.samples):
        if fit.fixed and len(next(iter(batch.values()))) < fit.fixed:
            fit.left_out = len(next(iter(batch.values())))
            break
        fit.add(batch)
        if work.progress is not None:
            work.progress(fit.done, _total(reader, work.samples))
        if kept is not None and time.perf_counter() - saved >= work.save_every:
            fit.keep(kept)
            saved = time.perf_counter()


def preprocess_for(model: Source, given: Preprocess | str | os.PathLike[str] | None) -> Preprocess | None:
    """What is given, else what lies beside the model."""
    if isinstance(given, Preprocess):
        return given
    if given is not None:
        return load_preprocess(given)
    return beside(model).preprocess if isinstance(model, str | os.PathLike) else None


def _described(data: DataSource) -> str:
    """Tells data apart, as far as that can be seen without reading them."""
    if isinstance(data, str | os.PathLike):
        return str(Path(data).resolve())
    shape = data.shape if isinstance(data, np.ndarray) else ""
    first = data[0] if isinstance(data, Sequence) and data and isinstance(data[0], str | os.PathLike) else ""
    return f"{type(data).__name__} {shape} {first}".strip()


def _total(reader: Data, samples: int | None) -> int | None:
    counts = [c for c in (reader.count, samples) if c is not None]
    return min(counts) if counts else None


@dataclass
class _Fit:
    """A pass in progress: the model with the sums as outputs, and what was summed so far."""

    session: Session
    layers: dict[str, LinearLayer]
    sums: dict[str, LayerSums]
    digest: str
    fixed: int | None
    data: str = ""
    done: int = 0
    left_out: int = 0
    names: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def open(cls, ask: Ask, work: Fitting) -> _Fit:
        """The session; raises ``InputError`` where there is nothing to learn."""
        proto = load_model(ask.model)
        refuse_converted(proto)
        plain = plain_model(proto)
        layers = _chosen(named_layers(plain), work.layers)
        names = [(f"onnxsal/patterns/{i}/products", f"onnxsal/patterns/{i}/totals") for i in range(len(layers))]
        batch = plain.value(plain.input_names[0]).shape
        made = with_sums(plain, list(layers.values()), names)
        fixed = batch[0] if batch and isinstance(batch[0], int) else None
        sums = {n: LayerSums.empty(layer) for n, layer in layers.items()}
        session, digest = open_session(made, ask.resolved, threads=ask.threads), model_sha256(ask.model)
        return cls(session, layers, sums, digest, fixed, _described(work.data), names=names)

    def add(self, batch: dict[str, np.ndarray]) -> None:
        """Run one batch and add up what comes out."""
        found = self.session.run(batch, [n for pair in self.names for n in pair])
        for (products, totals), (name, sums) in zip(self.names, self.sums.items(), strict=True):
            if not (np.isfinite(found[products]).all() and np.isfinite(found[totals]).all()):
                raise InputError(
                    f"layer '{name}': its activations are NaN or infinite in the batch that follows sample {self.done}, so nothing can be "
                    "learned from them. Check the data and the preprocessing."
                )
            sums.add(found.pop(products), found.pop(totals))
        self.done += len(next(iter(batch.values())))

    def keep(self, path: Path) -> None:
        """Write the sums, whole or not at all."""
        arrays = {f"{kind}/{name}": getattr(s, kind) for name, s in self.sums.items() for kind in ("products", "totals")}
        meta = {"format": STATE, "done": self.done, "model": self.digest, "layers": list(self.sums), "data": self.data}
        write_arrays(path, {**arrays, "meta": np.asarray(json.dumps(meta))})

    def restore(self, path: Path) -> None:
        """Go on from the sums of an interrupted pass."""
        what, hint = f"state '{path}'", " Remove it to begin anew."
        stored = read_arrays(path, what, hint)
        found = meta_of(stored, what, STATE, hint.strip())
        meta = checked(PassState, found, f"{what}, meta")
        if meta.model != self.digest or meta.layers != tuple(self.sums) or meta.data != self.data:
            raise InputError(f"{what} is that of another model, other layers or other data; remove it to begin anew.")
        refuse_missing(stored, [f"{kind}/{name}" for name in self.sums for kind in ("products", "totals")], what, hint)
        for name, sums in self.sums.items():
            for kind, own in (("products", sums.products), ("totals", sums.totals)):
                if (stored[f"{kind}/{name}"].shape, stored[f"{kind}/{name}"].dtype) != (own.shape, own.dtype):
                    raise InputError(f"{what} is damaged: {kind}/{name} is not of the shape or type of this layer's sums.{hint}")
            sums.products, sums.totals = stored[f"products/{name}"], stored[f"totals/{name}"]
        self.done = meta.done

    def result(self, source: Source, seconds: float, samples: int) -> Patterns:
        """The patterns, layer by layer, with how long it took and how much memory."""
        if not self.done:
            raise InputError("the data hold no samples" + (f" (the model takes batches of {self.fixed})." if self.fixed else "."))
        nbytes = sum(s.nbytes for s in self.sums.values())
        learned = {}
        for name, layer in self.layers.items():
            learned[name] = layer_patterns(layer, estimate(layer.weights, self.sums.pop(name)))
        facts = {
            "seconds": seconds,
            "images_per_second": samples / seconds if seconds else 0.0,
            "sums_megabytes": nbytes / 1e6,
            "peak_megabytes": peak_megabytes(),
            "left_out": self.left_out,
            "provider": self.session.providers[0],
            "provider_options": self.session.provider_options,
        }
        return Patterns(learned, self.digest, self.done, facts)


@open_schema
class PassState:
    """What the file of an interrupted pass says of it: the JSON in the array ``meta``."""

    done: Annotated[int, Wanted("a whole number, not negative", strict=True, ge=0)]
    model: Phrase
    layers: tuple[Phrase, ...]
    data: Phrase


def with_sums(model: Model, layers: Sequence[LinearLayer], names: Sequence[tuple[str, str]]) -> onnx.ModelProto:
    """The model with the sums of each layer as outputs of these names."""
    op, ports = Emit(model), []
    for layer, pair in zip(layers, names, strict=True):
        for value, name in zip(emit_sums(op, layer), pair, strict=True):
            with op.at(layer.node):
                ports.append(Port(op.Identity(value, name=name), op.dtype, (None, None)))
    return keep_apart(assemble(model, op, [], ports), op.prefix)


def _chosen(layers: dict[str, LinearLayer], wanted: str | Sequence[str] | None) -> dict[str, LinearLayer]:
    if not layers:
        raise InputError("the model has no Conv, Gemm or MatMul with constant weights, so there are no patterns to learn.")
    if wanted is None:
        return layers
    found: dict[str, LinearLayer] = {}
    for pattern in [wanted] if isinstance(wanted, str) else wanted:
        hits = {n: v for n, v in layers.items() if fnmatch.fnmatchcase(n, pattern) or fnmatch.fnmatchcase(v.node.name, pattern)}
        if not hits:
            raise InputError(f"no linear layer is called '{pattern}'{near_miss(pattern, layers)}; known: {', '.join(layers)}.")
        found |= hits
    return {n: v for n, v in layers.items() if n in found}


def peak_megabytes() -> float | None:
    """The most memory that the process ever had, where the system tells."""
    with contextlib.suppress(ImportError):
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
    return None
