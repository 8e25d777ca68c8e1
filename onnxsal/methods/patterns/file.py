"""The file of learned patterns: per weight its patterns by estimator, how often each unit was active, and for which model."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.errors import InputError, MethodError
from onnxsal.facts.linear_layers import LinearLayer, linear_layers
from onnxsal.graph import Model
from onnxsal.methods.patterns.layer_sums import ESTIMATORS, FROM_FILTER, FROM_LINEAR, ZERO, Estimates
from onnxsal.runtime.arrays import read_arrays, refuse_missing
from onnxsal.runtime.files import write_arrays
from onnxsal.settings import Phrase, Whole, checked, open_schema, parse_json, shown

FORMAT = 1
FALLBACKS = {FROM_LINEAR: "linear pattern", FROM_FILTER: "filter w / |w|^2", ZERO: "zero"}


@dataclass(frozen=True)
class LayerPatterns:
    """Patterns of one layer, each shaped like its weight, by estimator ("linear", "positive", "negative").

    ``active`` counts, per unit, the ``samples`` with y > 0; ``origin`` says per estimator and unit where the pattern comes from: 0 the
    data, 1 the linear pattern, 2 the filter w / |w|^2, 3 nothing (the weights are zero). ``digest`` is that of the layer.
    """

    node: str
    patterns: dict[str, np.ndarray]
    active: np.ndarray
    origin: dict[str, np.ndarray]
    samples: int
    digest: str

    @property
    def inactive(self) -> list[int]:
        """Units that were active in fewer than two samples."""
        return [int(i) for i in np.flatnonzero(self.active < 2)]

    def fallbacks(self, estimator: str = "positive") -> dict[int, str]:
        """Units whose pattern could not be learned, and what they have instead."""
        return {int(i): FALLBACKS[int(self.origin[estimator][i])] for i in np.flatnonzero(self.origin[estimator])}


@dataclass(frozen=True)
class Patterns:
    """Learned patterns: ``layers`` by the name of the weight; ``samples`` is how many pictures they were learned from."""

    layers: dict[str, LayerPatterns]
    model_sha256: str
    samples: int
    facts: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"patterns of {len(self.layers)} layers, learned from {self.samples} samples, of model {self.model_sha256[:12]}"

    __repr__ = __str__

    @property
    def inactive(self) -> dict[str, list[int]]:
        """Weight -> units that were (nearly) never active, so that a+ is the linear pattern or the filter."""
        return {name: layer.inactive for name, layer in self.layers.items() if layer.inactive}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a .npz file: arrays ``<estimator>/<weight>``, ``active/<weight>``, ``origin.<estimator>/<weight>``, and ``meta`` (JSON)."""
        arrays: dict[str, np.ndarray] = {}
        for name, layer in self.layers.items():
            arrays[f"active/{name}"] = layer.active
            for estimator in ESTIMATORS:
                arrays[f"{estimator}/{name}"] = layer.patterns[estimator]
                arrays[f"origin.{estimator}/{name}"] = layer.origin[estimator]
        meta = {
            "format": FORMAT,
            "model_sha256": self.model_sha256,
            "samples": self.samples,
            "estimators": ESTIMATORS,
            "facts": self.facts,
            "layers": {n: {"node": p.node, "samples": p.samples, "digest": p.digest} for n, p in self.layers.items()},
        }
        return write_arrays(path, {**arrays, "meta": np.asarray(json.dumps(meta))})

    def merged(self, other: Patterns) -> Patterns:
        """These patterns and those of ``other``, which win where both have a layer."""
        if other.model_sha256 != self.model_sha256:
            raise InputError(f"patterns of two models cannot be put together: {self.model_sha256[:12]} and {other.model_sha256[:12]}.")
        return Patterns({**self.layers, **other.layers}, self.model_sha256, max(self.samples, other.samples), {**self.facts, **other.facts})


def load_patterns(path: str | os.PathLike[str] | Patterns) -> Patterns:
    """Patterns from the file that ``fit-patterns`` wrote; raises ``InputError`` for anything else."""
    if isinstance(path, Patterns):
        return path
    what, hint = f"patterns '{path}'", " onnxsal fit-patterns writes such files."
    stored = read_arrays(path, what, hint)
    meta = checked(Meta, meta_of(stored, what, FORMAT, "Run fit-patterns again."), f"{what}, meta")
    wanted = {name: [f"active/{name}", *(f"{kind}{e}/{name}" for kind in ("", "origin.") for e in ESTIMATORS)] for name in meta.layers}
    refuse_missing(stored, [key for keys in wanted.values() for key in keys], what, hint)
    layers = {}
    for name, entry in meta.layers.items():
        patterns, origin = ({e: stored[f"{kind}{e}/{name}"] for e in ESTIMATORS} for kind in ("", "origin."))
        layers[name] = LayerPatterns(entry.node, patterns, stored[f"active/{name}"], origin, entry.samples, entry.digest)
        if problem := _misfit(layers[name]):
            raise InputError(f"{what}, layer {shown(name)}: {problem}.{hint}")
    return Patterns(layers, meta.model_sha256, meta.samples, meta.facts)


@open_schema
class LayerMeta:
    """What the file says of one layer, beside its arrays."""

    node: Phrase
    samples: Whole
    digest: Phrase


@open_schema
class Meta:
    """What the file says of itself: the JSON in the array ``meta``."""

    model_sha256: Phrase
    samples: Whole
    facts: dict[str, Any]
    layers: dict[str, LayerMeta]


def meta_of(stored: Mapping[str, np.ndarray], what: str, version: int, other: str) -> dict[str, Any]:
    """The JSON in the array ``meta`` of an archive of ours. Raises ``InputError`` where there is none, or one of another version."""
    text = stored.get("meta")
    if text is None or text.dtype.kind != "U" or text.ndim:
        raise InputError(f"{what} is damaged, or not a file that onnxsal fit-patterns wrote: it has no text 'meta'.")
    meta = parse_json(str(text), f"{what}, meta,", nan=True)
    if not isinstance(meta, dict) or meta.get("format") != version:
        found = shown(meta.get("format")) if isinstance(meta, dict) else "none"
        raise InputError(f"{what} are of format {found}, of another version; this onnxsal reads {version}. {other}")
    return meta


def _misfit(layer: LayerPatterns) -> str:
    """What is wrong with the arrays of a layer ('' = nothing): numbers of one shape, and for each of the same units how it was learned."""
    shapes = {p.shape for p in layer.patterns.values()}
    units = {a.shape for a in (layer.active, *layer.origin.values())}
    numbers = all(p.dtype in (np.float32, np.float64) and np.isfinite(p).all() for p in layer.patterns.values())
    counts = all(a.dtype.kind in "iu" for a in (layer.active, *layer.origin.values()))
    if not numbers or not counts:
        return "its patterns must be finite float32 or float64, and active and origin whole numbers"
    if len(shapes) > 1 or len(units) > 1 or len(layer.active.shape) != 1:
        return f"its patterns have the shapes {shown(sorted(shapes))}, and active and origin {shown(sorted(units))}, one for each unit"
    known = all(np.isin(a, [0, *FALLBACKS]).all() for a in layer.origin.values())
    return "" if known else f"origin must be 0 or one of {', '.join(map(str, FALLBACKS))}"


def named_layers(model: Model) -> dict[str, LinearLayer]:
    """Every linear layer by the name of its weight (and of its node, where several nodes share the weight)."""
    layers = linear_layers(model)
    names = [layer.weight for layer in layers]
    return {n if names.count(n) == 1 else f"{n}@{layer.node.name}": layer for n, layer in zip(names, layers, strict=True)}


def digest_of(layer: LinearLayer) -> str:
    """SHA-256 of all that a layer computes: its weights, bias and tail, in the types they are stored in."""
    model, found = layer.node.model, hashlib.sha256()
    for node in (layer.node, *layer.tail):
        found.update(node.op_type.encode())
        for attribute in sorted(node.proto.attribute, key=lambda a: a.name):
            found.update(attribute.name.encode() + str(node.attr(attribute.name)).encode())
        for name in node.proto.input:
            array = model.constant(name) if name else None
            if array is not None:
                found.update(str((array.dtype, array.shape)).encode() + np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def layer_patterns(layer: LinearLayer, found: Estimates) -> LayerPatterns:
    """Estimates in the shape and precision of the layer's weight."""
    dtype = np.float64 if layer.kernel.dtype == np.float64 else np.float32
    patterns = {e: layer.like_kernel(rows).astype(dtype) for e, rows in found.rows.items()}
    return LayerPatterns(layer.node.name, patterns, found.active, found.origin, found.samples, digest_of(layer))


def patterns_for(patterns: Patterns, layers: Mapping[str, LinearLayer], method: str) -> dict[str, LayerPatterns]:
    """The patterns of each of these layers; raises ``MethodError`` where they were learned for another model, or not at all."""
    missing = [n for n in layers if n not in patterns.layers]
    if missing:
        raise MethodError(
            f"method '{method}': the file has no patterns for {len(missing)} of {len(layers)} layers on the path: "
            f"{', '.join(missing[:5])}. "
            "It was fitted for another model, or with --layers; run onnxsal fit-patterns for this one."
        )
    other = [n for n, layer in layers.items() if patterns.layers[n].digest != digest_of(layer)]
    if other:
        raise MethodError(
            f"method '{method}': the patterns were learned for another model (SHA-256 {patterns.model_sha256[:12]}...): the weights of "
            f"{', '.join(other[:5])} differ. Run onnxsal fit-patterns for this one."
        )
    for n, layer in layers.items():
        shape, kernel = patterns.layers[n].patterns["linear"].shape, layer.kernel.shape
        if shape != kernel:
            raise MethodError(
                f"method '{method}': the patterns of {n} are {list(shape)}, and its weight {list(kernel)}: the file is damaged."
            )
    return {n: patterns.layers[n] for n in layers}
