"""Labelled data for metrics and audits: pictures in folders, a CSV, or arrays; a damaged sample is listed and stops nothing.

data = open_dataset("pictures/", tensor, preprocess, labels)
for batch in data.batches(16):      # lists of Sample of one shape
    ...
data.damaged                        # name -> why, of those that could not be read
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from onnxsal.disk import read_bytes, reads
from onnxsal.errors import InputError, TargetError, near_miss
from onnxsal.metrics.dataset import Dataset, Entry
from onnxsal.runtime.arrays import read_arrays
from onnxsal.runtime.labels import find_label
from onnxsal.runtime.pictures import WITH_ALPHA, find_pictures, open_picture
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.session import Tensor
from onnxsal.settings import SHOWN, listed, read_text, shown

IMAGES, MASKS = "images", "masks"
"""Sub-folders of DATA that hold the pictures and their masks, where there are masks."""

FILE_COLUMNS = ("file", "filename", "picture", "image", "path")
LABEL_COLUMNS = ("label", "labels", "class", "target", "y")
MASK_COLUMNS = ("mask", "masks")
NAME_COLUMNS = ("name", "names", "id")

ALPHA = "alpha"
"""For ``masks``: the object is what the picture's own transparency leaves."""

HOW = """\
DATA is a folder of pictures (one sub-folder for each class, named by its label or index, if labels are known; masks in masks/, at the \
same place below it as the picture), a .csv with the columns file, label and mask (the last two may be missing), a .npy array [N, ...], \
or a .npz with the input, labels [N] and masks [N, H, W]."""


def open_dataset(
    path: str | Path,
    tensor: Tensor,
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    masks: str | Path | None = None,
) -> Dataset:
    """The data set at ``path`` for the model's input ``tensor``; pictures need ``preprocess``, labels given as words need ``labels``.

    ``masks`` is a folder of masks, or "alpha" where the pictures' own transparency is the mask (a picture without any cannot be read).
    In a mask the object is white (a mask with transparency: opaque; one with the values 0 and 1: 1). Arrays of bytes [N, H, W, 3] are
    pictures. Raises ``InputError`` where nothing can be read; single damaged samples are found when they are read.
    """
    source, how = Path(path), SampleReader(tensor, preprocess, labels)
    suffix = source.suffix.lower()
    if not source.exists():
        raise InputError(f"data '{source}' is not there. {HOW}")
    if suffix in (".npy", ".npz"):
        if masks is not None:
            raise InputError(f"--masks is for pictures; '{source}' holds its masks itself, as the array 'masks' of a .npz.")
        return _from_arrays(read_arrays(source), str(source), how)
    if suffix == ".csv":
        return _from_table(source, how, masks)
    if not source.is_dir():
        return Dataset([how.picture(source, source.name, None, None, masks == ALPHA)])
    tables = sorted(source.glob("*.csv"))
    if len(tables) > 1:
        raise InputError(f"'{source}' holds {len(tables)} tables ({', '.join(t.name for t in tables)}): name the one to read as DATA.")
    return _from_table(tables[0], how, masks) if tables else _from_folder(source, how, masks)


@dataclass(frozen=True)
class SampleReader:
    """How files, or what they hold, become samples of one model."""

    tensor: Tensor
    preprocess: Preprocess | None
    labels: Sequence[str] | None

    @property
    def required(self) -> Preprocess:
        if self.preprocess is None:
            raise InputError(
                "how pictures become the model's input is not known: give the preprocessing (--preprocess NAME or FILE, or preprocess= in "
                "Python), or find it out with `onnxsal init MODEL PICTURES` (docs/preprocessing.md)."
            )
        return self.preprocess

    def label(self, word: str) -> int | None:
        """The class that a word names, or ``None``."""
        return class_of(word, self.labels)

    def picture(self, file: PictureFile, name: str, label: int | None, mask: PictureFile | None, alpha: bool = False) -> Entry:
        """The sample that a picture is, with its mask: each a file, or a function that gives what one holds."""
        how = self.required
        reads(f for f in (file, mask) if isinstance(f, Path))

        def read() -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
            seen = how.display(_there(file))
            found = read_alpha(_there(file), how) if alpha else None if mask is None else read_mask(_there(mask), how)
            return how.normalise(seen[None]), seen, found

        def content() -> list[bytes]:
            return [read_bytes(f) if isinstance(f, Path) else f() for f in (file, mask) if f is not None]

        return Entry(name, read, content, label, alpha or mask is not None)

    def arrays(self, stored: dict[str, np.ndarray], source: str) -> Dataset:
        """The samples in arrays by name, with their labels, masks and names."""
        return _from_arrays(stored, source, self)


PictureFile: TypeAlias = Path | Callable[[], bytes]


def _there(file: PictureFile) -> Path | bytes:
    return file if isinstance(file, Path) else file()


def class_of(word: str, labels: Sequence[str] | None) -> int | None:
    """The class that a word names: its index, or its label, in which spaces may be written as "_". ``None`` where it names none."""
    if re.fullmatch(r"-?[0-9]{1,9}", word):
        return int(word)
    for spelling in dict.fromkeys((word, word.replace("_", " "))) if labels is not None else ():
        try:
            return find_label(labels or (), spelling)
        except TargetError:
            continue
    return None


def read_mask(file: Path | bytes | np.ndarray, how: Preprocess) -> np.ndarray:
    """A mask cut and resized as the pictures are: bool [H, W]."""
    image = Image.fromarray(file) if isinstance(file, np.ndarray) else _opened(file)
    alpha = _alpha(image)
    return _cut(np.asarray(image.convert("L")) if alpha is None else alpha, how)


def read_alpha(file: Path | bytes, how: Preprocess) -> np.ndarray:
    """The opaque part of a picture as its mask: bool [H, W]. Raises ``InputError`` where nothing of it is transparent."""
    alpha = _alpha(_opened(file))
    if alpha is None:
        what = "the picture given" if isinstance(file, bytes) else f"picture '{file}'"
        raise InputError(
            f"{what} has no transparency, so it does not say where its object is. Give masks as files (--masks FOLDER), or none."
        )
    return _cut(alpha, how)


def _alpha(image: Image.Image) -> np.ndarray | None:
    """How opaque each pixel is, 0..255; ``None`` where all of them are entirely."""
    alpha = np.asarray(image.convert("RGBA").getchannel("A")) if image.mode in WITH_ALPHA else None
    return None if alpha is None or alpha.min() == 255 else alpha


def _cut(grey: np.ndarray, how: Preprocess) -> np.ndarray:
    binary = Image.fromarray(np.where(grey > (127 if grey.max() > 1 else 0), 255, 0).astype(np.uint8))
    return np.asarray(replace(how, interpolation="nearest").display(binary)[..., 0] > 127)


def _opened(file: Path | bytes) -> Image.Image:
    try:
        image = open_picture(file)
        return image.convert("RGBA") if "transparency" in image.info else image
    except Exception as error:  # decoders of damaged files raise anything
        what = "the mask given" if isinstance(file, bytes) else f"mask '{file}'"
        raise InputError(f"{what} cannot be read: {error}.") from error


# ----- folders -----


def _from_folder(folder: Path, how: SampleReader, masks: str | Path | None) -> Dataset:
    pictures = folder / IMAGES if (folder / IMAGES).is_dir() and (folder / MASKS).is_dir() else folder
    own = folder / MASKS if (folder / MASKS).is_dir() else None
    where = own if masks is None else None if masks == ALPHA else Path(masks)
    if where is not None and not where.is_dir():
        raise InputError(f"masks '{where}' are no folder. Give the folder that holds a mask for each picture, at the same place below it.")
    found = {m.relative_to(where).with_suffix("").as_posix(): m for m in find_pictures([where])} if where is not None else {}
    skipped = [w.resolve() for w in (own, where) if w is not None]
    files = [f for f in find_pictures([pictures]) if not any(f.resolve().is_relative_to(w) for w in skipped)]
    if not files:
        raise InputError(f"no picture was found in '{pictures}'. {HOW}")
    places = [f.relative_to(pictures) for f in files]
    classes, notes = _classes(places, how, pictures)
    entries = []
    for file, place in zip(files, places, strict=True):
        mask = found.get(place.with_suffix("").as_posix())
        entries.append(how.picture(file, place.as_posix(), classes.get(place.parts[0]), mask, masks == ALPHA))
    if found and not any(e.masked for e in entries):
        raise InputError(
            f"none of the {len(found)} masks in '{where}' lies where a picture does: '{places[0]}' wants a mask "
            f"'{places[0].with_suffix('.png')}'."
        )
    return Dataset(entries, notes)


def _classes(places: Sequence[Path], how: SampleReader, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Sub-folder -> class, where the sub-folders are classes: all of them or none."""
    tops = list(dict.fromkeys(p.parts[0] for p in places if len(p.parts) > 1))
    if not tops:
        return {}, []
    found = {top: index for top in tops if (index := how.label(top)) is not None}
    if not found:
        shown = ", ".join(tops[:3]) + (", ..." if len(tops) > 3 else "")
        return {}, [f"the sub-folders of '{folder}' ({shown}) name no classes: samples have no labels"]
    missing = [top for top in tops if top not in found]
    if missing:
        raise InputError(
            f"of the sub-folders of '{folder}', {len(found)} name classes and {len(missing)} do not ({', '.join(missing[:5])}): "
            f"name each by a class's label or index{near_miss(missing[0], how.labels or ())}."
        )
    return found, []


# ----- tables -----


def _from_table(table: Path, how: SampleReader, masks: str | Path | None) -> Dataset:
    what = f"table '{table}'"
    rows, at = _rows(table, what)
    if masks not in (None, ALPHA):
        raise InputError(f"--masks and a table: give the masks in a column 'mask' of '{table}'.")
    cells = [{kind: (row.get(column) or "").strip() if column is not None else "" for kind, column in at.items()} for row in rows]
    classes = [how.label(cell["label"]) if cell["label"] else None for cell in cells]
    wrong = ((number, _mistake(cell, label, how)) for number, (cell, label) in enumerate(zip(cells, classes, strict=True), 2))
    if mistakes := [f"{what}, line {number}: {mistake}" for number, mistake in wrong if mistake]:
        raise InputError(listed(mistakes))
    entries, taken = [], dict[str, int]()
    for cell, label in zip(cells, classes, strict=True):
        taken[cell["file"]] = taken.get(cell["file"], 0) + 1
        again = f"#{taken[cell['file']]}" if taken[cell["file"]] > 1 else ""
        mask = table.parent / cell["mask"] if cell["mask"] else None
        entries.append(how.picture(table.parent / cell["file"], cell["file"] + again, label, mask, masks == ALPHA))
    return Dataset(entries)


def _rows(table: Path, what: str) -> tuple[list[dict[str, str]], dict[str, str | None]]:
    """The rows of a table, and the column of each kind: each once, and no row longer than the header."""
    reader = csv.DictReader(io.StringIO(read_text(table, what, "table_bytes", nul=True), newline=""))
    try:
        rows, columns = list(reader), list(reader.fieldnames or ())
    except csv.Error as error:
        raise InputError(f"{what} cannot be read: {error}.") from error
    lower = [c.strip().lower() for c in columns]
    at = {kind: next((columns[lower.index(n)] for n in names if n in lower), None) for kind, names in _COLUMNS.items()}
    if not rows or at["file"] is None:
        known = ", ".join(map(shown, columns[:SHOWN])) or "none"
        raise InputError(f"{what} has {len(rows)} rows and the columns {known}; it needs a column 'file'.")
    if twice := sorted({name for name in lower if name and lower.count(name) > 1}):
        raise InputError(f"{what} has the column {shown(twice[0])} twice.")
    rest: list[Any] = [row.pop(None, ()) for row in rows]
    if long := next((number for number, more in enumerate(rest, 2) if any(more)), None):
        raise InputError(f"{what}, line {long}: it has more cells than the {len(columns)} columns.")
    return rows, at


def _mistake(cell: dict[str, str], label: int | None, how: SampleReader) -> str:
    """What is wrong with a row ('' = nothing)."""
    if not cell["file"]:
        return "no file is named."
    if not cell["label"] or label is not None:
        return ""
    known = "no labels are known for this model: give --labels FILE, or indices" if how.labels is None else "no class is labelled so"
    return f"label {shown(cell['label'])}: {known}{near_miss(cell['label'], how.labels or ())}."


_COLUMNS = {"file": FILE_COLUMNS, "label": LABEL_COLUMNS, "mask": MASK_COLUMNS}


# ----- arrays -----


def _from_arrays(stored: dict[str, np.ndarray], file: str, how: SampleReader) -> Dataset:
    parts = {kind: next((stored.pop(n) for n in names if n in stored), None) for kind, names in _ARRAYS.items()}
    wanted = how.tensor.name
    if wanted not in stored and len(stored) != 1:
        raise InputError(f"'{file}' holds the arrays {', '.join(stored) or 'none'}; the model's input is '{wanted}': name one of them so.")
    x = stored[wanted] if wanted in stored else next(iter(stored.values()))
    if x.ndim == 0 or x.size == 0:
        raise InputError(f"'{file}' holds an array of shape {list(x.shape)}; samples lie along its first axis, and there is nothing there.")
    for kind, part in parts.items():
        if part is not None and (part.ndim == 0 or len(part) != len(x)):
            raise InputError(f"'{file}': {kind} of shape {list(part.shape)} do not belong to {len(x)} samples.")
    labels, masks, names = parts["labels"], parts["masks"], parts["names"]
    if labels is not None and (labels.ndim != 1 or labels.dtype.kind not in "iu"):
        raise InputError(f"'{file}': labels are {labels.dtype} {list(labels.shape)}; give the index of each sample's class, integers [N].")
    if labels is not None and labels.max() >= 2**31:
        raise InputError(f"'{file}': label {labels.max()} is no index of a class.")
    if masks is not None and masks.ndim != 3:
        raise InputError(f"'{file}': masks are {list(masks.shape)}; give [N, H, W].")
    called = [str(i) for i in range(len(x))] if names is None else [str(n) for n in names]
    if len(set(called)) < len(called):
        raise InputError(f"'{file}': names of samples must differ.")
    pictures = x.dtype == np.uint8 and how.tensor.dtype != np.uint8
    read = _picture_row if pictures else _row
    if pictures:
        _ = how.required
    entries = []
    for i, name in enumerate(called):
        label = None if labels is None or labels[i] < 0 else int(labels[i])
        mask = None if masks is None else masks[i]
        entries.append(Entry(name, _bound(read, how, x[i], mask), _bytes(x[i], mask), label, mask is not None))
    return Dataset(entries, ["arrays of bytes were taken as pictures"] if pictures else [])


_ARRAYS = {"labels": LABEL_COLUMNS, "masks": MASK_COLUMNS, "names": NAME_COLUMNS}


def _bound(read: Callable[..., Any], *given: Any) -> Callable[[], Any]:
    return lambda: read(*given)


def _bytes(*arrays: np.ndarray | None) -> Callable[[], list[bytes]]:
    return lambda: [np.ascontiguousarray(a).tobytes() for a in arrays if a is not None]


def _row(how: SampleReader, values: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """A row of an array that is the model's input."""
    x = np.asarray(values)[None]
    dtype = how.tensor.dtype
    if dtype is not None and dtype.kind == "f" and x.dtype.kind == "f":
        x = x.astype(dtype)
    seen = None
    if how.preprocess is not None and x.ndim == 4 and x.shape[1 if how.preprocess.layout == "NCHW" else 3] == how.preprocess.depth:
        seen = how.preprocess.pixels(x)[0]
    return x, seen, None if mask is None else np.asarray(mask) > 0.5


def _picture_row(how: SampleReader, values: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """A row of an array of pictures in bytes."""
    seen = how.required.display(picture_in(values))
    found = None if mask is None else read_mask((np.asarray(mask) > 0.5).astype(np.uint8) * 255, how.required)
    return how.required.normalise(seen[None]), seen, found


def picture_in(values: np.ndarray) -> Image.Image:
    """Bytes [H, W], [H, W, 1], [H, W, 3] in RGB or [H, W, 4] as a picture. Raises ``InputError`` for any other shape."""
    pixels = np.asarray(values)
    pixels = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[-1] not in (3, 4)):
        raise InputError(f"bytes of shape {list(pixels.shape)} are no picture: give [H, W], or [H, W, 3] in RGB.")
    return Image.fromarray(pixels)
