"""Preprocessing by name: what the usual ways to feed a network with pictures are, each stated once.

A preset says how the colours become numbers and which part of a picture is seen; size, layout and type are the model's own (``fitted``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from onnxsal.errors import InputError, near_miss
from onnxsal.runtime.preprocess import Preprocess, Size

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CAFFE_MEAN = (103.939, 116.779, 123.68)
"""Blue first, of pixels 0..255: the same picture as ``IMAGENET_MEAN`` describes."""


@dataclass(frozen=True)
class Preset:
    """``(pixel * scale - mean) / std`` of pixels 0..255, the colours in the order ``channels``.

    ``crop_pct`` is the central fraction of the picture that is kept, in the proportions of the model's input (``None``: all of the picture
    is seen, stretched); ``source`` says whose way it is.
    """

    title: str
    scale: float
    source: str
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    channels: str = "RGB"
    crop_pct: float | None = None
    interpolation: str = "bilinear"


PRESETS = {
    "imagenet": Preset(
        "RGB, 0..1, then ImageNet's mean and standard deviation; the centre",
        *(1 / 255, "torchvision's ImageNet weights: the shorter side to 256, then 224x224 of the centre"),
        *(IMAGENET_MEAN, IMAGENET_STD),
        crop_pct=0.875,
    ),
    "tf": Preset("RGB, -1..1; the whole picture, stretched", 1 / 127.5, "keras.applications, mode 'tf'", (1.0,)),
    "caffe": Preset(
        "BGR, 0..255 minus ImageNet's mean; the whole picture, stretched",
        *(1.0, "keras.applications, mode 'caffe'", CAFFE_MEAN),
        channels="BGR",
    ),
    "unit": Preset("RGB, 0..1; the whole picture, stretched", 1 / 255, "torchvision's ToTensor, YOLO"),
    "clip": Preset(
        "RGB, 0..1, then CLIP's mean and standard deviation; the centre square",
        *(1 / 255, "openai/CLIP: the shorter side to the input's size, bicubic, then the centre"),
        *(CLIP_MEAN, CLIP_STD),
        crop_pct=1.0,
        interpolation="bicubic",
    ),
    "rgb": Preset("RGB, 0..255 as they are; the whole picture, stretched", 1.0, "models that take bytes, or normalise themselves"),
    "bgr": Preset("BGR, 0..255 as they are; the whole picture, stretched", 1.0, "the same, blue first (OpenCV)", channels="BGR"),
}
"""By name; ``--preprocess NAME`` or ``NAME:SIZE``."""


@dataclass(frozen=True)
class AskedPreset:
    """A preset that is asked for, and the size where it is told with it."""

    name: str
    size: Size | None = None

    @property
    def preset(self) -> Preset:
        """What it stands for."""
        return PRESETS[self.name]


def named(word: str) -> AskedPreset | None:
    """The preset that a word names, as ``imagenet``, ``imagenet:224`` or ``imagenet:224x320`` (height x width); ``None``: it is none."""
    name, colon, size = word.partition(":")
    if name not in PRESETS:
        return None
    found = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", size)
    if colon and found is None:
        raise InputError(f"preprocess '{word}': '{size}' is no size; give {name}:224, or {name}:224x320 (height x width).")
    return AskedPreset(name, None if found is None else (int(found[1]), int(found[2] or found[1])))


def unknown(word: str) -> InputError:
    """The error for a word that is neither a preset nor a file."""
    hint = near_miss(word.partition(":")[0], PRESETS)
    return InputError(f"preprocess '{word}' is neither a preset ({', '.join(PRESETS)}) nor a file that is there{hint}.")


def with_preset(preset: Preset, size: Size, layout: str, depth: int, dtype: str) -> Preprocess:
    """The preprocessing of a preset for an input of this size (height, width), layout, number of channels and type.

    ``crop_pct`` is applied as the source does it where the input is a square: the shorter side resized, then cut.
    """
    square, kept = size[0] == size[1], preset.crop_pct
    geometry: dict[str, Any] = {"resize": size, "crop_pct": kept}
    if kept is not None and square:
        geometry = {"resize": round(size[0] / kept), "crop": size}
    return Preprocess(
        scale=preset.scale,
        mean=preset.mean,
        std=preset.std,
        layout=layout,
        channels="GRAY" if depth == 1 else preset.channels,
        interpolation=preset.interpolation,
        dtype=dtype,
        **geometry,
    )
