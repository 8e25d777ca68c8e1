"""From a picture to the array that a model takes: cut, resize, crop, then (pixel * scale - mean) / std in the model's layout."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
from PIL import Image

from onnxsal.errors import InputError, near_miss
from onnxsal.limits import refuse_over
from onnxsal.runtime.pictures import Picture, load_picture
from onnxsal.runtime.session import Array
from onnxsal.runtime.shown import Box, ShownPicture
from onnxsal.settings import Number, Numbers, Pair, Phrase, SideOrPair, schema, shown

Size: TypeAlias = tuple[int, int]

LAYOUTS = ("NCHW", "NHWC")
CHANNELS = ("RGB", "BGR", "GRAY")
DTYPES = ("float32", "float16", "float64", "uint8")
INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}


@schema
class Preprocess:
    """What happens to a picture before the model sees it, in this order.

    ``crop_pct`` keeps the central fraction of the picture, in the proportions of the result; ``resize`` is (height, width), or one
    number for the shorter side; ``crop`` cuts (height, width) out of the centre. ``scale`` brings pixels 0..255 into the range in
    which ``mean`` and ``std`` are given (1/255 for 0..1, 1 for 0..255); these have one number for all channels or one for each,
    in the model's channel order (``BGR``: blue first). The types say what a file may give (``preprocess_files.from_ours``).
    """

    scale: Number
    mean: Numbers = (0.0,)
    std: Numbers = (1.0,)
    layout: Phrase = "NCHW"
    channels: Phrase = "RGB"
    resize: SideOrPair | None = None
    crop: Pair | None = None
    crop_pct: Number | None = None
    interpolation: Phrase = "bilinear"
    dtype: Phrase = "float32"

    def __post_init__(self) -> None:
        if mistakes := list(self._mistakes()):
            raise InputError("\n".join(f"preprocessing: {mistake}" for mistake in mistakes))
        if self.dtype == "uint8" and (self.scale, *self._constants().ravel()) != (1, *(0,) * self.depth, *(1,) * self.depth):
            raise InputError("preprocessing: a uint8 input takes the pixels as they are: scale 1, mean 0, std 1.")
        mean, std = self._constants()
        with np.errstate(over="ignore"):
            ends = ((np.array([[0.0], [255.0]]) * self.scale - mean) / std).astype(self.dtype)
        if not np.isfinite(ends).all():
            raise InputError(f"preprocessing: {self._range} bring pixels out of the range of {self.dtype}.")
        rows, columns = self.resize if isinstance(self.resize, tuple) else (self.resize or 1,) * 2
        refuse_over("pixels", max(rows * columns, math.prod(self.crop or ())), "preprocessing: resize or crop is too large")

    def _mistakes(self) -> Iterator[str]:
        for name, known in (("layout", LAYOUTS), ("channels", CHANNELS), ("interpolation", tuple(INTERPOLATIONS)), ("dtype", DTYPES)):
            value = getattr(self, name)
            if value not in known:
                yield f"{name} {shown(value)} is none of {', '.join(known)}{near_miss(str(value), known)}."
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in (1, self.depth):
                yield f"{name} has {len(getattr(self, name))} numbers for {self.depth} channels; give 1 or {self.depth}."
        numbers = (self.scale, *self.mean, *self.std)
        if not all(map(math.isfinite, numbers)) or 0 in (self.scale, *self.std):
            yield f"{self._range} must be finite; scale and std not 0."
        if self.crop_pct is not None and not 0 < self.crop_pct <= 1:
            yield f"crop_pct is the fraction that is kept, above 0 and up to 1, not {self.crop_pct}."
        resize = (self.resize,) if isinstance(self.resize, int) else self.resize or ()
        if any(size < 1 for size in (*resize, *(self.crop or ()))):
            yield f"resize {self.resize} and crop {self.crop} must be at least 1 pixel."

    @property
    def _range(self) -> str:
        return f"scale {self.scale}, mean {shown(self.mean)} and std {shown(self.std)}"

    @property
    def depth(self) -> int:
        """The number of channels."""
        return 1 if self.channels == "GRAY" else 3

    @property
    def size(self) -> Size | None:
        """(height, width) of the result, or None where it depends on the picture."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    def apply(self, picture: Picture) -> Array:
        """The picture as a batch of one: [1, C, H, W] or [1, H, W, C]."""
        return self.batch([picture])

    def batch(self, pictures: Sequence[Picture]) -> Array:
        """Several pictures as one batch; they must come out in one size."""
        return self.normalise(np.stack(_same_size([self.display(p) for p in pictures])))

    def display(self, picture: Picture) -> Array:
        """The cut and resized picture that the model sees, as RGB [H, W, 3] bytes: what a heat map is laid over."""
        return self.shown(picture).seen

    def shown(self, picture: Picture) -> ShownPicture:
        """What the model sees (``display``), with the whole picture, upright, and the part of it that is seen."""
        original = load_picture(picture)
        image = original.convert("L") if self.channels == "GRAY" else original
        box: Box = (0, 0, *image.size)
        if self.crop_pct is not None:
            cut = _central(image, _central_part(image, self.crop_pct, self.size))
            image, box = image.crop(cut), _within(box, cut, image.size)
        if self.resize is not None:
            size = self.resize if isinstance(self.resize, tuple) else _shorter_side(image, self.resize)
            refuse_over("pixels", math.prod(size), f"a picture of {image.height}x{image.width} resized to {size[0]}x{size[1]}")
            image = image.resize((size[1], size[0]), INTERPOLATIONS[self.interpolation])
        if self.crop is not None:
            cut = _central(image, self.crop)
            image, box = image.crop(cut), _within(box, cut, image.size)
        return ShownPicture(np.asarray(image.convert("RGB")), original, box)

    def normalise(self, pixels: Array) -> Array:
        """RGB bytes [N, H, W, 3], as ``display`` gives them, as the model's input."""
        ordered = {"RGB": pixels, "BGR": pixels[..., ::-1], "GRAY": pixels[..., :1]}[self.channels]
        mean, std = self._constants()
        values = ordered if self.dtype == "uint8" else ((ordered * self.scale - mean) / std).astype(self.dtype)
        return np.ascontiguousarray(values if self.layout == "NHWC" else np.moveaxis(values, -1, 1))

    def pixels(self, values: Array) -> Array:
        """The inverse of ``normalise``, clipped to what a picture can show: RGB bytes [N, H, W, 3] of a model's input."""
        mean, std = self._constants()
        channels = values if self.layout == "NHWC" else np.moveaxis(values, 1, -1)
        shown = np.clip((channels.astype(np.float64) * std + mean) / self.scale, 0, 255)
        shown = shown[..., ::-1] if self.channels == "BGR" else shown
        return np.asarray(np.rint(np.broadcast_to(shown, (*shown.shape[:-1], 3))), np.uint8)

    def black(self) -> Array:
        """A black pixel as the model sees it, broadcastable to the input: [1, C, 1, 1] or [1, 1, 1, C]."""
        return self.normalise(np.zeros((1, 1, 1, 3), np.uint8))

    def white(self) -> Array:
        """A white pixel, in the same shape."""
        return self.normalise(np.full((1, 1, 1, 3), 255, np.uint8))

    def _constants(self) -> Array:
        """Mean and std, one number for each channel."""
        return np.array([values * self.depth if len(values) == 1 else values for values in (self.mean, self.std)])


def as_type(array: Array, kind: np.dtype | None, name: str) -> Array:
    """``array`` as the model's input ``name`` of type ``kind`` takes it: whole numbers, where it takes integers.

    Raises ``InputError`` for fractions and numbers beyond that type: such a picture was scaled, and the model scales it itself.
    """
    if kind is None or kind.kind not in "iu" or array.dtype.kind not in "fiu" or array.dtype == kind:
        return array
    ends = np.iinfo(kind)
    if not (
        np.isfinite(array).all()
        and (array == np.rint(array)).all()
        and ends.min <= array.min(initial=0)
        and array.max(initial=0) <= ends.max
    ):
        raise InputError(
            f"input '{name}' is {kind}, and the picture was prepared as numbers from {array.min():.4g} to {array.max():.4g}: prepare it as "
            f"whole numbers from {ends.min} to {ends.max} (scale = 1, mean = 0 and std = 1 leave the pixels as they are)."
        )
    return array.astype(kind)


def _same_size(pictures: list[Array]) -> list[Array]:
    sizes = sorted({p.shape[:2] for p in pictures})
    if len(sizes) > 1:
        raise InputError(f"pictures of sizes {', '.join(f'{h}x{w}' for h, w in sizes)} do not make one batch: set resize or crop.")
    return pictures


def _central_part(image: Image.Image, fraction: float, target: Size | None) -> Size:
    """The size of ``fraction`` of the largest part that has the proportions of ``target`` (of the picture itself where that is open)."""
    width, height = image.size
    rows, columns = target or (height, width)
    unit = min(height / rows, width / columns) * fraction
    return max(1, round(rows * unit)), max(1, round(columns * unit))


def _shorter_side(image: Image.Image, length: int) -> Size:
    """(height, width) with the shorter side ``length`` and the proportions kept; the longer one is rounded down, as torchvision does."""
    width, height = image.size
    return (length, int(length * width / height)) if height <= width else (int(length * height / width), length)


def _central(image: Image.Image, size: Size) -> tuple[int, int, int, int]:
    """The centre of the picture, as left, top, right and bottom; an odd rest is split as torchvision does."""
    rows, columns = size
    if rows > image.height or columns > image.width:
        raise InputError(f"a crop of {rows}x{columns} does not fit into a picture of {image.height}x{image.width}: resize it first.")
    top, left = round((image.height - rows) / 2), round((image.width - columns) / 2)
    return left, top, left + columns, top + rows


def _within(box: Box, cut: tuple[int, int, int, int], size: tuple[int, int]) -> Box:
    """Where a part ``cut`` out of a picture of ``size`` (width, height), which shows ``box`` of the original, lies in that."""
    across, down = (box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]
    return box[0] + cut[0] * across, box[1] + cut[1] * down, box[0] + cut[2] * across, box[1] + cut[3] * down
