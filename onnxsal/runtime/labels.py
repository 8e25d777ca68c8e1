"""Class names: the usual files that hold them, and the way from a name back to its index."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxsal.errors import InputError, TargetError, near_miss


def load_labels(path: str | os.PathLike[str]) -> list[str]:
    """Labels from one line each, a Python dict ``{0: 'tench', ...}``, a JSON list or dict, or a Hugging Face ``config.json``."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"labels '{file}' cannot be read: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"labels '{file}' are not UTF-8 text: {error}.") from error
    labels = labels_from(_parsed(text, file), f"labels '{file}'")
    if not labels:
        raise InputError(f"labels '{file}' hold no label. Give one label a line, or a config.json with id2label.")
    return labels


def _parsed(text: str, file: Path) -> Any:
    stripped = text.strip()
    if stripped[:1] not in ("{", "["):
        return stripped.splitlines()
    try:
        return json.loads(stripped)
    except json.JSONDecodeError as error:
        if file.suffix == ".json":
            raise InputError(f"labels '{file}' are not valid JSON: {error}.") from error
    try:
        return ast.literal_eval(stripped)
    except (ValueError, SyntaxError) as error:
        raise InputError(f"labels '{file}' are neither JSON nor a Python dict: {error}.") from error


def labels_from(data: Any, what: str) -> list[str]:
    """Labels out of a list, an index-to-name dict, or a configuration that holds one (``id2label``, timm's ``label_names``)."""
    if isinstance(data, Mapping):
        for key in ("id2label", "label_names"):
            if data.get(key):
                return labels_from(data[key], f"{key} of {what}")
        nested = data.get("pretrained_cfg")
        if isinstance(nested, Mapping):
            return labels_from(nested, what)
        return _by_index(data, what) if all(_is_index(key) for key in data) else []
    labels = [str(label).strip() for label in data]
    if "" in labels:
        raise InputError(f"{what}: line {labels.index('') + 1} is empty, so every later label would belong to the wrong class.")
    return labels


def _is_index(key: Any) -> bool:
    return isinstance(key, int) or (isinstance(key, str) and key.strip().isdigit())


def _by_index(data: Mapping[Any, Any], what: str) -> list[str]:
    names = {int(key): value[-1] if isinstance(value, list | tuple) else value for key, value in data.items()}
    gaps = sorted(set(range(len(names))) - names.keys())
    if gaps:
        raise InputError(f"{what}: {len(names)} labels, and none for class {gaps[0]}.")
    return [str(names[index]) for index in range(len(names))]


def find_label(labels: Sequence[str], name: str) -> int:
    """The index of a label, by its full name or one of its comma-separated synonyms, in any case; ambiguous or unknown is an error."""
    wanted = name.strip().lower()
    hits = [i for i, label in enumerate(labels) if label.lower() == wanted]
    hits = hits or [i for i, label in enumerate(labels) if wanted in (part.strip().lower() for part in label.split(","))]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise TargetError(f"label '{name}' names {len(hits)} classes ({', '.join(f'{i} = {labels[i]}' for i in hits)}): give the index.")
    raise TargetError(f"no class is labelled '{name}' among {len(labels)} labels{near_miss(name, labels)}.")
