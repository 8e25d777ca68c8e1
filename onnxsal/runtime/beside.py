"""What lies beside a model file, or in its metadata, and tells how to feed it: preprocessing and labels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from onnxsal.errors import InputError
from onnxsal.runtime.labels import labels_from, load_labels
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.preprocess_files import from_config, from_ours, read_config

MANIFEST = "manifest.toml"
PREPROCESS, LABELS = "onnxsal.preprocess", "onnxsal.labels"
"""Keys of the metadata in which a converted model carries what lay beside the original."""


@dataclass(frozen=True)
class Beside:
    """Preprocessing and labels found beside a model, and the files that gave them."""

    preprocess: Preprocess | None = None
    preprocess_from: str = ""
    labels: tuple[str, ...] | None = None
    labels_from: str = ""


def beside(model: str | os.PathLike[str]) -> Beside:
    """Look for ``<stem>.toml``, ``preprocessor_config.json``, ``config.json``, ``manifest.toml``, ``<stem>.labels.txt``, ``labels.txt``.

    The first file that gives preprocessing counts, and the first that gives labels; a damaged one is an error, not passed over.
    """
    path = Path(model)
    found = Beside()
    for file, config in _configs(path):
        ours = file.suffix == ".toml"
        named = config.pop("labels", None) if ours else None
        if found.preprocess is None and config:
            preprocess = from_ours(config, f"'{file}'") if ours else from_config(config, f"'{file}'")
            found = replace(found, preprocess=preprocess, preprocess_from="" if preprocess is None else str(file))
        if named is not None:
            found = _with_labels(found, file.parent / named)
        elif not ours and found.labels is None and (labels := labels_from(config, f"'{file}'")):
            found = replace(found, labels=tuple(labels), labels_from=str(file))
    for file in (path.with_suffix(".labels.txt"), path.with_name("labels.txt")):
        if file.is_file():
            found = _with_labels(found, file)
    return found


def _with_labels(found: Beside, file: Path) -> Beside:
    return found if found.labels is not None else replace(found, labels=tuple(load_labels(file)), labels_from=str(file))


def _configs(model: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for file in (model.with_suffix(".toml"), model.with_name("preprocessor_config.json"), model.with_name("config.json")):
        if file.is_file():
            yield file, read_config(file)
    manifest = model.with_name(MANIFEST)
    if manifest.is_file():
        for entry in read_manifest(manifest).values():
            if entry.get("file") == model.name:
                yield manifest, {**entry.get("preprocess", {}), **({"labels": entry["labels"]} if "labels" in entry else {})}


def as_metadata(preprocess: Preprocess | None, labels: Sequence[str] | None) -> dict[str, str]:
    """Metadata of a model file that say how it is fed and what its classes are called, as far as is known."""
    known = {} if preprocess is None else {k: v for k, v in asdict(preprocess).items() if v is not None}
    given = {PREPROCESS: known, LABELS: [] if labels is None else list(labels)}
    return {key: json.dumps(value, ensure_ascii=False) for key, value in given.items() if value}


def from_metadata(found: Beside, metadata: Mapping[str, str], model: str | os.PathLike[str]) -> Beside:
    """What was found beside the model, and what is missing there from the model's own metadata."""
    where = f"the metadata of '{model}'"
    try:
        written = {key: json.loads(metadata[key]) for key in (PREPROCESS, LABELS) if key in metadata}
    except ValueError as error:
        raise InputError(f"{where} are damaged: {error}. Give --preprocess and --labels.") from error
    if found.preprocess is None and PREPROCESS in written:
        found = replace(found, preprocess=from_ours(written[PREPROCESS], where), preprocess_from=str(model))
    if found.labels is None and LABELS in written:
        found = replace(found, labels=tuple(labels_from(written[LABELS], where)), labels_from=str(model))
    return found


def read_manifest(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """The models of a ``manifest.toml`` by name: ``file``, ``sha256``, ``licence``, ``labels``, ``[models.<name>.preprocess]``, ..."""
    models = read_config(path).get("models", {})
    if not isinstance(models, dict) or not all(isinstance(entry, dict) and "file" in entry for entry in models.values()):
        raise InputError(f"'{path}' is no manifest: it needs tables [models.<name>] with a 'file' each.")
    return models
