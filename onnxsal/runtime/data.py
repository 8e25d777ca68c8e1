"""Data sets as batches for a model: pictures, arrays in .npy, .npz, zarr or Parquet, or an iterator; read as they are needed."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onnxsal.disk import open_regular, regular
from onnxsal.errors import InputError, OnnxsalError
from onnxsal.runtime.arrays import read_arrays
from onnxsal.runtime.pictures import find_pictures
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.session import Array, Tensor

Batch: TypeAlias = dict[str, Array]
Source: TypeAlias = Any
"""A path, a sequence of paths of pictures, an array, a dict of arrays by input, or an iterable of batches (arrays, or dicts of them)."""

PICTURE_COLUMNS = ("image", "picture", "img", "bytes")


@dataclass(frozen=True)
class Data:
    """``chunks(size, skip)`` gives dicts of arrays, from sample ``skip`` on, of any length up to ``size`` or as they come."""

    chunks: Callable[[int, int], Iterator[Batch]]
    count: int | None = None

    def batches(self, size: int, skip: int = 0, most: int | None = None) -> Iterator[Batch]:
        """Batches of exactly ``size`` samples, but for the last; at most ``most`` samples, those skipped included."""
        left = None if most is None else max(most - skip, 0)
        held: list[Batch] = []
        for chunk in self.chunks(size, skip):
            n = _length(chunk) if left is None else min(_length(chunk), left)
            left = None if left is None else left - n
            held.append({k: v[:n] for k, v in chunk.items()})
            while sum(map(_length, held)) >= size:
                whole = {k: np.concatenate([h[k] for h in held]) for k in held[0]} if len(held) > 1 else held[0]
                yield {k: v[:size] for k, v in whole.items()}
                held = [{k: v[size:] for k, v in whole.items()}] if _length(whole) > size else []
            if left == 0:
                break
        if held and sum(map(_length, held)):
            yield {k: np.concatenate([h[k] for h in held]) for k in held[0]}


def _length(batch: Batch) -> int:
    return len(next(iter(batch.values())))


def open_data(source: Source, inputs: Sequence[Tensor], preprocess: Preprocess | None = None) -> Data:
    """A data set for a model with these inputs.

    Pictures (a file, a folder, a list of paths) need ``preprocess``. Arrays have the samples along their first axis; a file with
    several holds one per input, under its name. Raises ``InputError`` where data do not fit or a library is missing.
    """
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source), inputs, preprocess)
    if isinstance(source, np.ndarray | Mapping):
        return _arrays(source if isinstance(source, Mapping) else {_only(inputs, "the array").name: source}, inputs, "the data")
    if isinstance(source, Sequence) and source and all(isinstance(s, str | os.PathLike) for s in source):
        return _pictures(find_pictures(source), inputs, preprocess)
    if isinstance(source, Iterable):
        return _iterable(source, inputs)
    raise InputError(f"data of type {type(source).__name__} cannot be read: give a path, an array, or an iterable of arrays.")


def _open_path(path: Path, inputs: Sequence[Tensor], preprocess: Preprocess | None) -> Data:
    if not path.exists():
        raise InputError(f"data '{path}' is not there. Give a folder of pictures, or a .npy, .npz, .parquet or .zarr file.")
    suffix = path.suffix.lower()
    if suffix == ".npy":
        _only(inputs, f"'{path}'")
    if suffix in (".npy", ".npz"):
        return _arrays(_named(read_arrays(path), inputs, path), inputs, f"'{path}'")
    if suffix == ".parquet":
        return _parquet(path, inputs, preprocess)
    if suffix == ".zarr":
        library = _library("zarr", path)
        with _damaged(path):
            for part in path.rglob("*"):
                if not part.is_dir():
                    regular(part)
            opened = library.open(str(path), mode="r")
            groups = {k: opened[k] for k in opened} if hasattr(opened, "array_keys") else {"": opened}
        return _arrays(_named(groups, inputs, path), inputs, f"'{path}'")
    return _pictures(find_pictures([path]), inputs, preprocess)


@contextmanager
def _damaged(path: Path) -> Iterator[None]:
    """Makes whatever a library raises on a damaged file our error."""
    try:
        yield
    except OnnxsalError:
        raise
    except Exception as error:  # of pyarrow and zarr, and of numpy where rows are of several lengths
        raise InputError(f"data '{path}' is damaged, or does not hold what the model takes: {error}.") from error


def _library(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise InputError(f"'{path}' needs the library {package}, which is not installed: pip install {package}.") from error


def _only(inputs: Sequence[Tensor], what: str) -> Tensor:
    if len(inputs) == 1:
        return inputs[0]
    raise InputError(
        f"{what} is one array, but the model has {len(inputs)} inputs: {', '.join(map(str, inputs))}. Give one array for each, by name."
    )


def _named(arrays: Mapping[str, Any], inputs: Sequence[Tensor], path: Path) -> dict[str, Any]:
    """The arrays that are inputs; a single one needs no name."""
    if len(arrays) == 1 and len(inputs) == 1:
        return {inputs[0].name: next(iter(arrays.values()))}
    missing = [t.name for t in inputs if t.name not in arrays]
    if missing:
        raise InputError(f"'{path}' has no array for input(s) {', '.join(missing)}; it holds {', '.join(arrays) or 'none'}.")
    return {t.name: arrays[t.name] for t in inputs}


def _arrays(arrays: Mapping[str, Any], inputs: Sequence[Tensor], what: str) -> Data:
    sizes = {k: int(v.shape[0]) if v.shape else 0 for k, v in arrays.items()}
    if len(set(sizes.values())) > 1:
        raise InputError(f"{what} holds a different number of samples per input: {sizes}.")
    count = next(iter(sizes.values()))

    def chunks(size: int, skip: int) -> Iterator[Batch]:
        for begin in range(skip, count, size):
            yield _fitted({k: np.asarray(v[begin : begin + size]) for k, v in arrays.items()}, inputs)

    return Data(chunks, count)


def _pictures(files: Sequence[Path], inputs: Sequence[Tensor], preprocess: Preprocess | None) -> Data:
    name = _only(inputs, "a picture").name
    how = _required(preprocess)

    def chunks(size: int, skip: int) -> Iterator[Batch]:
        for begin in range(skip, len(files), size):
            yield _fitted({name: how.batch(files[begin : begin + size])}, inputs)

    return Data(chunks, len(files))


def _required(preprocess: Preprocess | None) -> Preprocess:
    if preprocess is None:
        raise InputError(
            "how pictures become the model's input is not known: give the preprocessing (--preprocess, or preprocess= in Python)."
        )
    return preprocess


def _iterable(source: Iterable[Any], inputs: Sequence[Tensor]) -> Data:
    def chunks(size: int, skip: int) -> Iterator[Batch]:
        for item in source:
            batch = dict(item) if isinstance(item, Mapping) else {_only(inputs, "each batch").name: np.asarray(item)}
            n = _length(batch)
            if n <= skip:
                skip -= n
                continue
            yield _fitted({k: np.asarray(v)[skip:] for k, v in batch.items()}, inputs)
            skip = 0

    return Data(chunks)


def _parquet(path: Path, inputs: Sequence[Tensor], preprocess: Preprocess | None) -> Data:
    """Columns named like the inputs; for a model with one input also a column of encoded pictures, or the only column there is."""
    library = _library("pyarrow.parquet", path)
    with _damaged(path):
        file = library.ParquetFile(open_regular(path))
        columns = list(file.schema_arrow.names)
    wanted = {t.name: t.name for t in inputs if t.name in columns}
    if len(wanted) < len(inputs):
        single = [c for c in columns if c in PICTURE_COLUMNS][:1] or (columns if len(columns) == 1 else [])
        if len(inputs) > 1 or not single:
            raise InputError(
                f"'{path}' has the columns {', '.join(columns)}; none is named like the input(s) {', '.join(t.name for t in inputs)}."
            )
        wanted = {inputs[0].name: single[0]}

    def chunks(size: int, skip: int) -> Iterator[Batch]:
        rows = 0
        with _damaged(path):
            for table in file.iter_batches(batch_size=size, columns=list(wanted.values())):
                n = table.num_rows
                if rows + n > skip:
                    cut = table.slice(max(skip - rows, 0))
                    yield _fitted({t.name: _column(cut.column(wanted[t.name]).to_pylist(), t, preprocess) for t in inputs}, inputs)
                rows += n

    return Data(chunks, int(file.metadata.num_rows))


def _column(values: list[Any], tensor: Tensor, preprocess: Preprocess | None) -> Array:
    """Encoded pictures (bytes, or Hugging Face's {"bytes": ...}), or lists of numbers, flat or nested."""
    encoded = [v["bytes"] if isinstance(v, dict) and "bytes" in v else v for v in values]
    if isinstance(encoded[0], bytes):
        return _required(preprocess).batch(encoded)
    array = np.asarray(encoded, tensor.dtype)
    sizes = tensor.shape[1:] if tensor.shape else ()
    flat = array.ndim == 2 and len(sizes) > 1 and all(isinstance(d, int) for d in sizes)
    return array.reshape(len(values), *(d for d in sizes if isinstance(d, int))) if flat else array


def _fitted(batch: Batch, inputs: Sequence[Tensor]) -> Batch:
    """Floating-point arrays in the input's precision; anything else is left to the session, which says what does not fit."""
    types = {t.name: t.dtype for t in inputs}
    fitted = {}
    for name, array in batch.items():
        dtype = types.get(name)
        if dtype is not None and dtype.kind == "f" and array.dtype.kind == "f":
            array = np.asarray(array, dtype)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise InputError(f"the data for input '{name}' hold NaN or infinite values.")
        fitted[name] = array
    return fitted
