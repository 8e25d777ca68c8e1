"""What lies beside a model file, or in its metadata, and tells how to feed it: preprocessing and labels."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from onnxsal.errors import InputError
from onnxsal.runtime.columns import COLUMN_KEYS
from onnxsal.runtime.labels import labels_from, load_labels
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.preprocess_files import from_config, from_ours
from onnxsal.settings import Phrase, checked, open_schema, parse_json, read_config, shown

MANIFEST = "manifest.toml"
PREPROCESS, LABELS = "onnxsal.preprocess", "onnxsal.labels"
"""Keys of the metadata in which a converted model carries what lay beside the original."""


@dataclass(frozen=True)
class Beside:
    """Preprocessing and labels found beside a model, and the files that gave them. ``note``: what is to be said of it ('' = nothing)."""

    preprocess: Preprocess | None = None
    preprocess_from: str = ""
    labels: tuple[str, ...] | None = None
    labels_from: str = ""
    note: str = ""


def beside(model: str | os.PathLike[str]) -> Beside:
    """Look for ``<stem>.toml``, ``preprocessor_config.json``, ``config.json``, ``manifest.toml``, ``<stem>.labels.txt``, ``labels.txt``.

    The first file that gives preprocessing counts, and the first that gives labels; a damaged one is an error, not passed over.
    """
    path = Path(model)
    found = Beside()
    if not path.name:
        return found
    for file, where, config in _configs(path):
        ours = file.suffix == ".toml"
        named = config.pop("labels", None) if ours else None
        config = {k: v for k, v in config.items() if not (ours and k in COLUMN_KEYS)}
        if found.preprocess is None and config:
            preprocess = from_ours(config, where) if ours else from_config(config, where)
            found = replace(found, preprocess=preprocess, preprocess_from="" if preprocess is None else str(file))
        if named is not None:
            found = _with_labels(found, file.parent / _inside(named, where))
        elif not ours and found.labels is None and (labels := labels_from(config, where)):
            found = replace(found, labels=tuple(labels), labels_from=str(file))
    for file in (path.with_suffix(".labels.txt"), path.with_name("labels.txt")):
        if os.path.isfile(file):  # a name that is too long is none
            found = _with_labels(found, file)
    return found


def _inside(name: object, where: str) -> str:
    """The name of a file of labels, which lies beside the file that names it, or below: what it names is shown and written elsewhere."""
    word: str = checked(Phrase, name, f"{where}, labels")
    parts = {*PurePosixPath(word).parts, *PureWindowsPath(word).parts}
    if not word.strip() or ".." in parts or PurePosixPath(word).is_absolute() or PureWindowsPath(word).anchor:
        raise InputError(f"{where}: labels = {shown(word)} leads out of the folder; name a file beside this one, or below it.")
    return word


def _with_labels(found: Beside, file: Path) -> Beside:
    return found if found.labels is not None else replace(found, labels=tuple(load_labels(file)), labels_from=str(file))


def _configs(model: Path) -> Iterator[tuple[Path, str, dict[str, Any]]]:
    """The files that may say something of a model: file, the place in it, and what is written there."""
    for file in (model.with_suffix(".toml"), model.with_name("preprocessor_config.json"), model.with_name("config.json")):
        if os.path.isfile(file):  # a name that is too long is none
            yield file, f"'{file}'", read_config(file)
    manifest = model.with_name(MANIFEST)
    if os.path.isfile(manifest):
        for name, entry in read_manifest(manifest).items():
            if entry["file"] == model.name:
                labels = {"labels": entry["labels"]} if "labels" in entry else {}
                yield manifest, f"'{manifest}', models.{name}", {**entry.get("preprocess", {}), **labels}


def as_metadata(preprocess: Preprocess | None, labels: Sequence[str] | None) -> dict[str, str]:
    """Metadata of a model file that say how it is fed and what its classes are called, as far as is known."""
    known = {} if preprocess is None else {k: v for k, v in asdict(preprocess).items() if v is not None}
    given = {PREPROCESS: known, LABELS: [] if labels is None else list(labels)}
    return {key: json.dumps(value, ensure_ascii=False) for key, value in given.items() if value}


def from_metadata(found: Beside, metadata: Mapping[str, str], model: str | os.PathLike[str]) -> Beside:
    """What was found beside the model, and what is missing there from the model's own metadata."""
    where = f"the metadata of '{model}'"
    written = {key: parse_json(metadata[key], f"{where}, {key},") for key in (PREPROCESS, LABELS) if key in metadata}
    if found.preprocess is None and PREPROCESS in written:
        found = replace(found, preprocess=from_ours(written[PREPROCESS], f"{where}, {PREPROCESS}"), preprocess_from=str(model))
    if found.labels is None and LABELS in written:
        found = replace(found, labels=tuple(labels_from(written[LABELS], f"{where}, {LABELS}")), labels_from=str(model))
    return found


@open_schema
class ManifestEntry:
    """What is read of ``[models.<name>]``; the rest of a table says where the file comes from."""

    file: Phrase
    labels: Phrase | None = None
    preprocess: dict[str, Any] | None = None


@open_schema
class Manifest:
    """A ``manifest.toml``."""

    models: dict[str, ManifestEntry] | None = None


def read_manifest(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """The models of a ``manifest.toml`` by name: ``file``, ``sha256``, ``licence``, ``labels``, ``[models.<name>.preprocess]``, ..."""
    config = read_config(path)
    checked(Manifest, config, f"'{path}' is no manifest with tables [models.<name>]")
    models: dict[str, dict[str, Any]] = config.get("models", {})
    return models
