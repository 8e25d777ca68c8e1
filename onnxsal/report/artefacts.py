"""What explaining a picture leaves behind: the overlay, the map alone, the raw signed array and a record of the numbers."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.ask.likeness import SIMILARITY
from onnxsal.ask.place import MASK, place_text
from onnxsal.ask.question import Question
from onnxsal.disk import WRITTEN, refuse_loss, sha256
from onnxsal.explanation import Explanation
from onnxsal.facts.heads import is_bounded
from onnxsal.report.text_files import save_text_page
from onnxsal.runtime.drawn import draw
from onnxsal.runtime.figures import image_of
from onnxsal.runtime.files import write_whole
from onnxsal.runtime.heatmap import Scaled, scale_map
from onnxsal.runtime.libraries import has
from onnxsal.runtime.pictures import save_picture
from onnxsal.runtime.series_figure import is_spectrogram, series_figure
from onnxsal.runtime.shown import AnyShown, ShownPicture, ShownText, ShownValues
from onnxsal.untrusted import whole_text

PICTURE = 2
"""Axes of places of a map that Pillow draws; all others need matplotlib."""

TOP = 5
"""How many of the best classes a record lists."""


@dataclass(frozen=True)
class Style:
    """How maps are drawn: a palette (``None``: by the map's sign), and the percentile of the values that gets the strongest colour."""

    palette: str | None = None
    percentile: float = 99.5


MATLAB = Style("white_black", 100)
"""The MathWorks page on gradient attribution: white to black over the whole range."""


def record(one: Explanation, question: Question, labels: Sequence[str] | None = None, ids: np.ndarray | None = None) -> dict[str, Any]:
    """The numbers of one explained sample: its best classes by the model's own output, what was explained and how; where it is tokens,
    the attribution of each beside its id (from ``ids``, what the model was fed with).
    """
    labels = [SIMILARITY] if question.likeness is not None else labels
    classes, scored = None, False
    if question.output in one.outputs:  # it may be an inner tensor, such as what a map is made of
        own = np.asarray(one.outputs[question.output], np.float64)
        scored = question.reading is None and one.outputs[question.output].dtype.kind == "f"
        values = np.squeeze(question.by_class(own) if question.binary else own)
        classes = np.atleast_1d(values) if values.ndim < 2 and scored else None
    names = labels if classes is not None or (not scored and len(question.class_shape) == 1) else None
    best = [] if classes is None else np.argsort(-classes, kind="stable")[:TOP].tolist()
    return {
        "top": [{**_class(i, names), "output": float(classes[i])} for i in best] if classes is not None else [],
        "probabilities": classes is not None and is_bounded(question.model, question.output),
        "target": _class(int(one.target[0]), names) if question.reading is None else _there(one, question.reading.kind, labels),
        "against": None if one.against is None else _class(int(one.against[0]), names),
        "score": float(one.score[0]),
        "residual": None if one.residual is None else float(one.residual[0]),
        "reached": None if one.reached is None else float(one.reached[0]),
        "parts": {name: float(part[0]) for name, part in one.parts.items()},
        "tokens": _tokens(one, question, ids),
        "method": one.method,
        "parameters": one.parameters,
        "providers": one.providers,
        "provider_options": one.provider_options,
        "seconds": one.seconds,
        "warnings": one.warnings,
    }


def _tokens(one: Explanation, question: Question, ids: np.ndarray | None) -> dict[str, Any] | None:
    """The input that holds the tokens, their ids and attributions, without the batch of one; ``None`` where no tokens are explained.

    Tokens are explained at their vectors, or at their ids.
    """
    if question.tokens is None and ids is not None and ids.shape == one.attribution.shape:
        first = 0 if question.batched else slice(None)
        return {"input": question.x.name, "ids": ids[first].tolist(), "attribution": one.attribution[first].tolist()}
    if question.tokens is None or one.token_attribution is None:
        return None
    first = 0 if question.batched else slice(None)
    own = [] if ids is None or ids.shape != one.token_attribution.shape else ids[first].tolist()
    grid, values = question.tokens.grid, one.token_attribution[first].tolist()
    beside = None if grid is None else {str(i): values[i] for i in range(grid.count) if i not in set(grid.order)}
    told = {"input": question.tokens.ids or question.shown[0].name, "ids": own, "attribution": values}
    return told if grid is None else {**told, "grid": list(grid.sizes), "beside the grid": beside}


def _class(index: int, labels: Sequence[str] | None) -> dict[str, Any]:
    return {"index": index, "label": labels[index] if labels is not None and index < len(labels) else None}


def _there(one: Explanation, kind: str, labels: Sequence[str] | None) -> dict[str, Any]:
    """A box, a pixel or a mask: which one, the element of the scores, and the class there, where that is known."""
    label, place = (one.components.get(name) for name in ("explained_label", "explained_place"))
    index = int(one.target[0]) if kind == MASK else None if label is None else int(label[0])
    named = {"index": int(one.target[0]), "label": None if index is None else _class(index, labels)["label"], "class": index}
    return {**named, "place": kind if place is None else f"{kind} {place_text(kind, int(place[0]))}"}


def refuse_taken(base: Path) -> None:
    """Say before the work, not after it, that ``save_artefacts`` would replace files of others. Raises ``OutputError``."""
    for name in (f"{base}.json", f"{base}.map.png", f"{base}.overlay.png", f"{base}.html"):
        refuse_loss(name)


def save_artefacts(
    base: Path,
    one: Explanation,
    facts: Mapping[str, Any],
    shown: AnyShown | None,
    style: Style,
    written: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Write ``<base>.npy`` and ``.json``, and where there is a map ``.map.png`` and, over the picture,
    series or volume that is ``shown``, ``.overlay.png`` (``runtime.drawn.draw``; maps of series and volumes are drawn where matplotlib
    is); of a text ``.html``, its words in colour.

    The array is shaped like the explained input, its batch of one included; of tokens there is ``.tokens.npy`` too, with a number for each,
    and of an estimate by sampling ``.standard_error.npy``.
    Returns the files by kind, those ``written`` before included; the record names them too.
    """
    files = {"attribution": f"{base}.npy", "record": f"{base}.json", **(written or {})}
    hashes = {f"{base.name}.npy": _save(files["attribution"], one.attribution, files["record"])}
    if one.token_attribution is not None:
        files["tokens"] = f"{base}.tokens.npy"
        hashes[f"{base.name}.tokens.npy"] = _save(files["tokens"], one.token_attribution, files["record"])
    if one.standard_error is not None:
        files["standard_error"] = f"{base}.standard_error.npy"
        hashes[f"{base.name}.standard_error.npy"] = _save(files["standard_error"], one.standard_error, files["record"])
    if one.saliency_map is not None:
        scaled = scale_map(one.saliency_map[0], style.palette, style.percentile, one.saliency_map.ndim - 1)
        files |= _drawn(base, scaled, shown, one.saliency_map[0]) if scaled.values.ndim == PICTURE or has("matplotlib") else {}
    if isinstance(shown, ShownText) and one.by_token is not None:
        files["words"] = save_text_page(f"{base}.html", one, facts, shown, one.by_token[0])
    signed = {"onnxsal": version("onnxsal"), **facts, "files": files, WRITTEN: hashes}
    write_whole(files["record"], (as_json(signed) + "\n").encode())
    return files


def _drawn(base: Path, scaled: Scaled, shown: AnyShown | None, values: np.ndarray) -> dict[str, str]:
    """Write the map, and the overlay where there is something to lay it over."""
    files = {"map": str(save_picture(draw(scaled), f"{base}.map.png"))}
    if isinstance(shown, ShownValues) and (shown.rate is not None or is_spectrogram(shown)) and has("matplotlib"):
        files["overlay"] = str(save_picture(image_of(series_figure(shown, values)), f"{base}.overlay.png"))
    elif isinstance(shown, ShownPicture | ShownValues):
        files["overlay"] = str(save_picture(draw(scaled, shown), f"{base}.overlay.png"))
    return files


def _save(path: str, array: np.ndarray, listed_in: str) -> str:
    """Write an array; returns its hash, by which the record knows it again."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_whole(path, buffer.getvalue(), listed_in)
    return sha256(buffer.getvalue())


def as_json(data: Any, ascii: bool = False) -> str:
    """Indented JSON; what JSON has no number for (NaN, infinity) becomes a word. ``ascii`` is for streams of unknown encoding.

    Names of files that are not UTF-8 are written as ``untrusted.whole_text`` says; control characters are escaped.
    """
    text = json.dumps(_plain(data), indent=2, ensure_ascii=ascii, allow_nan=False)
    return re.sub("[\x7f-\x9f\u2028\u2029]", lambda m: f"\\u{ord(m[0]):04x}", text)


def _plain(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {whole_text(str(k)): _plain(v) for k, v in data.items()}
    if isinstance(data, np.ndarray | np.generic):
        return _plain(data.tolist())
    if isinstance(data, list | tuple | set | frozenset):
        return [_plain(v) for v in data]
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    return data if data is None or isinstance(data, bool | int | float) else whole_text(str(data))
