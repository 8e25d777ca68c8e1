"""Arrays that stay where they are: on a card, handed on by DLPack, or in the host's memory, never copied."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort

from onnxsal.errors import InputError
from onnxsal.runtime.providers import HOST, Device

_SAME_NAME = ("float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128")
DTYPES: dict[str, np.dtype[Any]] = {f"tensor({name})": np.dtype(name) for name in _SAME_NAME}
DTYPES |= {"tensor(float)": np.dtype(np.float32), "tensor(double)": np.dtype(np.float64), "tensor(string)": np.dtype(object)}
"""ONNX Runtime's types of tensors that numpy has too."""

DEVICES = {1: "cpu", 2: "cuda", 3: "cpu", 13: "cuda"}
"""DLPack's numbers of devices -> their names: the host, CUDA, memory of the host that CUDA pinned, memory that CUDA manages."""


class OnDevice:
    """An array [N, ...] that lies where a session reads or wrote it.

    ``torch.from_dlpack``, ``cupy.from_dlpack`` and others take it without a copy. What needs its numbers (``numpy.asarray``, an index)
    copies them to the host. ``source`` is what it was made of, whose library cuts it into batches.
    """

    def __init__(self, value: ort.OrtValue, source: Any = None) -> None:
        self.value = value
        self._source = source
        self.shape: tuple[int, ...] = tuple(value.shape())
        self.dtype: np.dtype[Any] | None = DTYPES.get(value.data_type())

    @classmethod
    def of(cls, source: Any) -> OnDevice:
        """What DLPack hands on. Raises what the two libraries raise."""
        return source if isinstance(source, cls) else cls(ort.OrtValue.from_dlpack(source), source)

    @property
    def device(self) -> Device:
        """The device that it lies on."""
        kind, number = self.value.__dlpack_device__()
        return DEVICES.get(int(kind), self.value.device_name()), int(number)

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    def rows(self, index: np.ndarray) -> OnDevice:
        """The rows of that ``index``, on the same device: some that follow each other are not copied. Raises ``InputError``."""
        if np.array_equal(index, np.arange(len(self))):
            return self
        if not hasattr(self._source, "__getitem__"):
            raise InputError(f"a {type(self._source).__name__} cannot be cut into batches: give the samples of one run, or a torch tensor.")
        return OnDevice.of(self._source[_as_slice(index)])

    def copy(self) -> OnDevice:
        """The same numbers in memory of their own, on the same device."""
        held = ort.OrtValue.ortvalue_from_shape_and_type(list(self.shape), self.dtype, *self.device)
        held.update_inplace(self.value)
        return OnDevice(held)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self)[index]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.value.numpy(), dtype=dtype)

    def __dlpack__(self, **asked: Any) -> Any:
        return self.value.__dlpack__(stream=asked.get("stream"))

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.value.__dlpack_device__()

    def __repr__(self) -> str:
        return f"OnDevice({self.dtype}{list(self.shape)} on {':'.join(map(str, self.device))})"


def where_it_lies(value: Any, name: str) -> np.ndarray | OnDevice:
    """``value`` as an array where it lies: numpy's where the host reads its memory, else ``OnDevice``; neither is a copy of what DLPack
    hands on. Other things become numpy's arrays. Raises ``InputError`` for what cannot be handed on."""
    if isinstance(value, np.ndarray | OnDevice):
        return value
    if not hasattr(value, "__dlpack_device__"):
        return np.asarray(value)
    try:
        host = DEVICES.get(int(value.__dlpack_device__()[0])) == HOST[0]
        return np.from_dlpack(value) if host else OnDevice.of(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        kind = f"{type(value).__module__}.{type(value).__qualname__}"
        raise InputError(
            f"input '{name}', a {kind}, cannot be handed on: {error}. Give it detached, contiguous, in a plain type."
        ) from error


def rows_at(array: np.ndarray | OnDevice, index: np.ndarray) -> np.ndarray | OnDevice:
    """Some rows of an array, wherever it lies; some that follow each other are not copied."""
    return array.rows(index) if isinstance(array, OnDevice) else array[_as_slice(index)]


def _as_slice(index: np.ndarray) -> slice | np.ndarray:
    """An index of rows that follow each other as a slice, which takes no copy; any other as it is."""
    follow = len(index) > 0 and np.array_equal(index, np.arange(index[0], index[0] + len(index)))
    return slice(int(index[0]), int(index[-1]) + 1) if follow else index
