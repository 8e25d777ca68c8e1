"""Sounds as a model of series is fed with them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxsal.ask.question import Question
from onnxsal.errors import InputError
from onnxsal.facts.axes import layout_places
from onnxsal.graph.infer import shape_text
from onnxsal.runtime.session import Array, Tensor
from onnxsal.runtime.sound import read_sound


def sound_feed(
    file: Path, question: Question, inputs: Sequence[Tensor], rate: float | None, data: bytes | None = None
) -> tuple[dict[str, Array], float]:
    """A .wav file, or what it holds (``data``), as the model's input, numbers from -1 to 1 laid out as it reads a series, and its rate.

    Raises ``InputError`` where the model does not read a series, takes another number of channels or another length, or where ``rate``,
    which was told, is not that of the file: nothing is mixed down, cut, filled up or resampled.
    """
    x, axes = question.shown
    if axes is None or layout_places(axes) != 1 or len(inputs) != 1 or x.name != inputs[0].name or not question.batched:
        listing = ", ".join(map(str, inputs))
        raise InputError(
            f"'{file}' is a sound, and the model is not known to read one series, but {listing}. --layout NCL, NLC or NL says so."
        )
    sound = read_sound(file, data)
    if rate is not None and rate != sound.rate:
        raise InputError(f"'{file}' has {sound.rate:g} values per second, and --rate says {rate:g}: resample it before.")
    channel, place = axes[0], next(iter(axes[1:]))
    channels = 1 if channel is None else x.shape[channel] if x.shape is not None else None
    if isinstance(channels, int) and channels != len(sound.values):
        raise InputError(f"'{file}' has {len(sound.values)} channel(s), and the model takes {channels}: mix it before.")
    length = None if x.shape is None else x.shape[place]
    if isinstance(length, int) and length != sound.values.shape[1]:
        own, wanted = (f"{n} values ({n / sound.rate:.4g} s)" for n in (sound.values.shape[1], length))
        raise InputError(f"'{file}' has {own}, and the model takes {wanted} {shape_text(x.shape)}: cut it, or fill it up, before.")
    values = sound.values[0] if channel is None else np.moveaxis(sound.values, 0, channel - 1)
    return {x.name: values[None].astype(inputs[0].dtype or np.float32)}, sound.rate
