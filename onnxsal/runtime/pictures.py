"""Pictures in and out: any file that Pillow reads becomes plain 8-bit RGB, or one clear error."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from onnxsal.disk import open_regular, reads
from onnxsal.errors import InputError
from onnxsal.limits import refuse_over
from onnxsal.runtime.files import write_whole

Picture: TypeAlias = str | os.PathLike[str] | bytes | Image.Image

FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "BMP", "DIB", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "TGA", "ICO")
"""Formats of Pillow that are opened, whatever a file is called: pictures of pixels. Others run programs (EPS: Ghostscript), or stretch."""

_BOUNDS_ARE_OURS = threading.Lock()
"""Pillow's own limit is a variable of its module; it is put aside while a picture is opened."""

WITH_ALPHA = ("RGBA", "LA", "PA", "La", "RGBa")


def load_picture(source: Picture) -> Image.Image:
    """An RGB picture, upright (EXIF), alpha laid on white, 16 bits brought to 8; of an animation the first frame."""
    what = _called(source)
    try:
        image = source if isinstance(source, Image.Image) else open_picture(source)
        image.load()
        return _rgb(_upright(image), what)
    except InputError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{what} is not a picture that Pillow can read. Give a PNG, JPEG, WebP, BMP, GIF or TIFF file.") from error
    except OSError as error:
        if error.strerror:
            raise InputError(f"{what} cannot be read: {error.strerror}.") from error
        raise InputError(f"{what} is damaged or cut short: {error}.") from error
    except Exception as error:  # decoders of damaged files raise anything: SyntaxError, struct.error, IndexError, a bomb warning
        raise InputError(f"{what} is damaged or cannot be decoded: {error}.") from error


def _called(source: Picture) -> str:
    return "the picture given" if isinstance(source, bytes | Image.Image) else f"picture '{source}'"


def open_picture(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """A picture of one of ``FORMATS``, decoded. Raises ``InputError`` over ``picture_pixels``, and whatever Pillow and decoders raise."""
    with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source) as file:
        with _BOUNDS_ARE_OURS:  # for the head only: pictures are decoded beside each other
            pillows, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                image = Image.open(file, formats=_readable())
            finally:
                Image.MAX_IMAGE_PIXELS = pillows
        said = f"{_called(source)} says that it is {image.width} x {image.height}"
        refuse_over("picture_pixels", image.width * image.height, said)
        image.load()
        return image


def _readable() -> list[str]:
    """Those of ``FORMATS`` that this Pillow reads."""
    Image.init()
    return [kind for kind in FORMATS if kind in Image.OPEN]


def _upright(image: Image.Image) -> Image.Image:
    """Turned as EXIF says. Damaged EXIF is not a damaged picture: it is then shown as it is stored."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _rgb(image: Image.Image, what: str) -> Image.Image:
    if image.mode in WITH_ALPHA or "transparency" in image.info:
        seen = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        values = np.asarray(image).astype(np.float64)
        return Image.fromarray(np.rint(np.clip(values, 0, 65535) * (255 / 65535)).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        low, high = image.getextrema()
        raise InputError(
            f"{what} holds 32-bit values from {low} to {high}, and nothing says which is black and which white: convert it to 8 or 16 bits."
        )
    return image.convert("RGB")


def find_pictures(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """The files named, and every picture (by suffix, sorted, hidden ones left out) in the folders named and below."""
    found = list(_find(paths))
    if not found:
        raise InputError(f"no picture was found in {', '.join(str(p) for p in paths) or 'an empty list'}.")
    return found


def picture_suffixes() -> frozenset[str]:
    """The endings of files that are looked for as pictures, in lower case, with their dot."""
    return frozenset(suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN and kind in FORMATS)


def _find(paths: Iterable[str | os.PathLike[str]]) -> Iterator[Path]:
    readable = picture_suffixes()
    for path in map(Path, paths):
        if not path.exists():
            raise InputError(f"'{path}' cannot be read: No such file or directory.")
        if not path.is_dir():
            reads([path])
            yield path
            continue
        for file in sorted(path.rglob("*")):
            hidden = any(part.startswith(".") for part in file.relative_to(path).parts)
            if file.suffix.lower() in readable and not hidden and file.is_file():
                reads([file])
                yield file


def save_picture(image: Image.Image, path: str | os.PathLike[str]) -> Path:
    """Write a PNG that says who made it, whole or not at all."""
    buffer, about = io.BytesIO(), PngInfo()
    about.add_text("Software", "onnxsal")
    image.save(buffer, "PNG", optimize=True, pnginfo=about)
    return write_whole(path, buffer.getvalue())
