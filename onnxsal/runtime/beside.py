"""What lies beside a model file and tells how to feed it: preprocessing and labels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from onnxsal.errors import InputError
from onnxsal.runtime.labels import labels_from, load_labels
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.preprocess_files import from_config, from_ours, read_config

MANIFEST = "manifest.toml"


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


def read_manifest(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """The models of a ``manifest.toml`` by name: ``file``, ``sha256``, ``licence``, ``labels``, ``[models.<name>.preprocess]``, ..."""
    models = read_config(path).get("models", {})
    if not isinstance(models, dict) or not all(isinstance(entry, dict) and "file" in entry for entry in models.values()):
        raise InputError(f"'{path}' is no manifest: it needs tables [models.<name>] with a 'file' each.")
    return models
