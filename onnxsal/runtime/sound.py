"""Sounds from .wav files: PCM of 8 to 32 bits, as numbers from -1 to 1."""

from __future__ import annotations

import io
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onnxsal.errors import InputError
from onnxsal.limits import refuse_over
from onnxsal.runtime.session import Array
from onnxsal.settings import read_bytes

SOUNDS = (".wav",)


class Sound(NamedTuple):
    """``values`` float32 [channels, length] in [-1, 1), ``rate`` of them per second."""

    values: Array
    rate: float


def read_sound(path: Path, data: bytes | None = None) -> Sound:
    """A .wav file, or what it holds (``data``): ``integer / 2^(bits - 1)``; those of 8 bits, which have no sign, less 128 before.

    Raises ``InputError`` for anything but PCM (floating point, compressed), a damaged file, and one without a sound.
    """
    what = f"sound '{path}'"
    try:
        with wave.open(io.BytesIO(read_bytes(path, what, "table_bytes") if data is None else data)) as file:
            channels, width, rate, count = file.getnchannels(), file.getsampwidth(), file.getframerate(), file.getnframes()
            refuse_over("array_bytes", count * channels * 4, f"{what} is too large")
            frames = file.readframes(count)
    except (wave.Error, EOFError) as error:
        raise InputError(f"{what} cannot be read: {error or 'it ends too early'}. PCM of 8, 16, 24 or 32 bits is read.") from error
    if not frames or len(frames) % (channels * width) or rate <= 0:
        raise InputError(f"{what} holds no whole sound: {len(frames)} bytes for {channels} channel(s) of {width} bytes, {rate} per second.")
    whole = _integers(np.frombuffer(frames, np.uint8).reshape(-1, width))
    return Sound((whole.reshape(-1, channels).T / 2.0 ** (8 * width - 1)).astype(np.float32), float(rate))


def _integers(parts: Array) -> Array:
    """Little-endian integers of 1 to 4 bytes [n, width] as float64 [n]."""
    width = parts.shape[1]
    if width == 1:
        return parts[:, 0].astype(np.float64) - 128
    wide = np.zeros((len(parts), 4), np.uint8)
    wide[:, 4 - width :] = parts  # at the upper end, so that the sign is in its place
    return wide.view("<i4")[:, 0].astype(np.float64) / 2.0 ** (8 * (4 - width))
