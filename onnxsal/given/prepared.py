"""How pictures become the model's input: told, found beside the model, carried by it, or done by its own first nodes. Else an error says
what is known and what to do; nothing is guessed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from onnxsal.ask.picture_input import inferred, picture_input, preprocess_from, worth_a_look
from onnxsal.ask.request import Ask
from onnxsal.errors import InputError, ModelError
from onnxsal.graph import Model
from onnxsal.graph.load import Source, admitted, load_model, read_metadata, read_model
from onnxsal.runtime.beside import Beside, beside, from_metadata
from onnxsal.runtime.labels import load_labels
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.presets import PRESETS

FIRST_NODES = "the model's first nodes"
"""Where a preprocessing is from that lies in no file."""


def known_of(model: Path, preprocess: str | Path | None = None, labels: str | Path | None = None, layout: str | None = None) -> Beside:
    """Preprocessing and labels of a model file: those given (a preset's name or a file; a file), else what lies beside the model, else
    what a converted model carries, else what its first nodes tell.
    """
    prepared = None if preprocess is None else preprocess_from(preprocess, model, layout)
    names = None if labels is None else tuple(load_labels(labels))
    if prepared is not None and names is not None:
        return Beside(prepared, labels=names)
    found = beside(model)
    if (found.preprocess is None or found.labels is None) and model.is_file():
        found = from_metadata(found, read_metadata(model), model)
    if prepared is None and found.preprocess is None and model.is_file():
        found = _from_first_nodes(found, model, layout)
    if prepared is not None:
        found = replace(found, preprocess=prepared, preprocess_from=str(preprocess))
    return found if names is None else replace(found, labels=names, labels_from=str(labels))


def _from_first_nodes(found: Beside, source: Path, layout: str | None) -> Beside:
    """With the preprocessing that the model itself tells, if it does, and the words that say so."""
    read = read_model(source)
    if not worth_a_look(Model(read)):
        return found
    pictures = picture_input(Model(admitted(read)), layout)
    made = None if pictures is None else inferred(pictures)
    if pictures is None or made is None:
        return found
    told = f"{pictures}. So {made.channels} pictures are fed as {'bytes' if pictures.whole != 1 else 'numbers'} 0..{pictures.whole:g}, "
    return replace(
        found, preprocess=made, preprocess_from=FIRST_NODES, note=f"{told}whole, stretched to its size; --preprocess FILE says otherwise."
    )


def preprocess_of(ask: Ask, picture: Path | None = None) -> Preprocess:
    """The preprocessing, or the error that says what the model tells of its pictures, and how to give or find the rest."""
    if ask.preprocess is None:
        raise InputError(unprepared(ask.model, ask.layout, picture))
    return ask.preprocess


def unprepared(source: Source, layout: str | None = None, picture: Path | None = None) -> str:
    """That no preprocessing is known, what the model says of its pictures, and what to do."""
    is_file = isinstance(source, str | os.PathLike)
    path = Path(source) if is_file else Path("model.onnx")  # type: ignore[arg-type]
    what, shown = f" '{path}'" if is_file else "", picture or "PICTURES"
    presets = "\n".join(f"  {name:<9}{preset.title}" for name, preset in PRESETS.items())
    return f"""\
no preprocessing is known for model{what}. {_told(source, layout)} Numbers made otherwise than in training give a plausible, wrong answer, \
so they are never guessed. To find out:
  onnxsal init {path} {shown}   (tries the usual ways, shows what the model answers to each, and writes '{path.stem}.toml')
If you know how the model was trained, say it with --preprocess, which takes a file or one of:
{presets}
A file '{path.stem}.toml', preprocessor_config.json or config.json beside the model is found by itself (docs/preprocessing.md)."""


def _told(source: Source, layout: str | None) -> str:
    """What the model says of its pictures, and what is still open."""
    try:
        found = picture_input(Model(load_model(source)), layout)
    except ModelError as error:
        return f"It cannot be read: {error}"
    if found is None:
        return "None of its inputs is seen to take pictures (four axes: samples, channels, height, width); arrays go in as .npy or .npz."
    lacking = [
        *([] if found.layout else ["where the channels are (--layout)"]),
        *([] if found.size else ["the size"]),
        *([] if found.channels else ["the order of the colours"]),
        *([] if found.whole else ["how they are scaled"]),
    ]
    return f"Its {str(found).rstrip('.')}. It does not say {', '.join(lacking)}." if lacking else f"Its {found}."
