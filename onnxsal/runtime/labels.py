"""Class names: the usual files that hold them, and the way from a name back to its index."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from onnxsal.errors import InputError, TargetError, near_miss
from onnxsal.settings import Wanted, checked, parse_json, read_text, refuse_odd

_Name = Annotated[str, Wanted("", strict=True)] | Annotated[int, Wanted("", strict=True)] | Annotated[float, Wanted("", strict=True)]
Name = Annotated[_Name, Wanted("a name")]


def _last(value: Any) -> Any:
    """Of ["n01440764", "tench"] the name."""
    return value[-1] if isinstance(value, list | tuple) and value else value


NameOfIndex = Annotated[_Name, Wanted("a name, or a list that ends with one", before=_last)]


def load_labels(path: str | os.PathLike[str]) -> list[str]:
    """Labels from one line each, a Python dict ``{0: 'tench', ...}``, a JSON list or dict, or a Hugging Face ``config.json``."""
    file = Path(path)
    what = f"labels '{file}'"
    labels = labels_from(_parsed(read_text(file, what), file, what), what)
    if not labels:
        raise InputError(f"{what} hold no label. Give one label a line, or a config.json with id2label.")
    return labels


def _parsed(text: str, file: Path, what: str) -> Any:
    stripped = text.strip()
    if stripped[:1] not in ("{", "["):
        return stripped.splitlines()
    try:
        return parse_json(stripped, what)
    except InputError:
        if file.suffix == ".json":
            raise
    try:
        tree = ast.parse(stripped, mode="eval").body
        data = ast.literal_eval(tree)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:  # MemoryError: nested too deeply for the parser
        why = str(error).partition(": <")[0] or "nested too deeply"
        raise InputError(f"{what} are neither JSON nor a Python dict: {why}.") from error
    if isinstance(tree, ast.Dict) and len(data) < len(tree.keys):
        raise InputError(f"{what}: {len(tree.keys) - len(data)} of the {len(tree.keys)} keys are given twice.")
    refuse_odd(data, what)
    return data


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
    labels = [str(label).strip() for label in checked(list[Name], data, what)]
    if "" in labels:
        raise InputError(f"{what}: line {labels.index('') + 1} is empty, so every later label would belong to the wrong class.")
    return labels


def _is_index(key: Any) -> bool:
    return (isinstance(key, int) and not isinstance(key, bool)) or (isinstance(key, str) and bool(re.fullmatch(r"\s*\d{1,9}\s*", key)))


def _by_index(data: Mapping[Any, Any], what: str) -> list[str]:
    given = checked(dict[int | str, NameOfIndex], data, what)
    names = {int(key): name for key, name in given.items()}
    if len(names) < len(given):
        raise InputError(f"{what}: some of the {len(given)} indices are the same number.")
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
