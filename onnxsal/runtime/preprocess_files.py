"""Preprocessing read from files: our short TOML, Hugging Face ``preprocessor_config.json``, timm ``config.json``.

A key that changes the result and is not understood is an error: a wrongly fed model gives a plausible, wrong map.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from onnxsal.errors import InputError, near_miss
from onnxsal.runtime.preprocess import INTERPOLATIONS, Preprocess, Size
from onnxsal.settings import Fraction, Number, Numbers, Pair, Phrase, Switch, Wanted, Whole, checked, open_schema, read_config, shown

Config = Mapping[str, Any]

OURS = tuple(f.name for f in fields(Preprocess))

SCALE_MEANS = ". It says what mean and std refer to: 1 for pixels 0..255, 0.00392156862745098 for 0..1."
NO_DEFAULT = ", and processors differ in its default: state it."

Filter = Annotated[Phrase | Whole, Wanted("the name of an interpolation, or Pillow's number for it")]


Sizes = Annotated[Whole | dict[Phrase, Whole], Wanted("a whole number, or a table of them (height and width, or shortest_edge)")]


def load_preprocess(path: str | os.PathLike[str]) -> Preprocess:
    """Read a file of any of the three kinds; a ``.toml`` is ours, a ``.json`` tells its kind by its keys."""
    config = read_config(path)
    where = f"'{path}'"
    if Path(path).suffix == ".toml":
        return from_ours(config, where)
    found = from_config(config, where)
    if found is None:
        raise InputError(
            f"{where} describes no preprocessing: neither Hugging Face (image_mean, do_normalize, ...) nor timm (pretrained_cfg). "
            f"Write a .toml with {', '.join(OURS)}."
        )
    return found


def from_config(config: Config, where: str) -> Preprocess | None:
    """Hugging Face or timm preprocessing, or None where the keys are of neither (a ``config.json`` of a text model)."""
    inner = config.get("pretrained_cfg")
    if inner is not None and not isinstance(inner, Mapping):
        raise InputError(f"{where}: pretrained_cfg must be a table of keys and values, not {shown(inner)}.")
    timm, at = (config, where) if inner is None else (inner, f"{where}, pretrained_cfg")
    if "input_size" in timm and "mean" in timm:
        return from_timm(timm, at)
    if any(key in config for key in ("image_mean", "do_normalize", "do_rescale", "do_resize")):
        return from_hugging_face(config, where)
    return None


def from_ours(config: object, where: str) -> Preprocess:
    """Our short form: the fields of ``Preprocess``; ``scale`` must be given, everything else has a default."""
    try:
        return checked(Preprocess, config, where, hints={"scale": SCALE_MEANS})
    except InputError as error:
        raise _placed(error, where) from error


def as_toml(how: Preprocess) -> str:
    """Our short form of a preprocessing, a line for each field that says something."""
    told = {name: getattr(how, name) for name in ("layout", "channels", "resize", "crop", "crop_pct", "interpolation")}
    told |= {"scale": how.scale, "mean": list(how.mean), "std": list(how.std), "dtype": how.dtype}
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in told.items() if value is not None)


# ----- timm -----

TIMM_MODES = ("center", "squash")


@open_schema
class Timm:
    """The keys of a ``pretrained_cfg`` that take part in timm's evaluation transform; the others say where weights come from."""

    input_size: Annotated[tuple[Whole, Whole, Whole], Wanted("[channels, height, width]")]
    mean: Numbers
    std: Numbers
    crop_pct: Fraction | None = None
    crop_mode: Phrase | None = None
    interpolation: Filter | None = None


def from_timm(config: Config, where: str) -> Preprocess:
    """timm's evaluation transform: the size divided by ``crop_pct``, then a centre crop; mean and std refer to 0..1.

    Absent keys have timm's defaults.
    """
    given = checked(Timm, config, where, hints={"std": NO_DEFAULT})
    channels, rows, columns = given.input_size
    fraction, mode = given.crop_pct or 0.875, given.crop_mode or "center"
    if mode not in TIMM_MODES or (mode == "center" and rows != columns):
        raise InputError(
            f"{where}: crop_mode {shown(mode)} for {rows}x{columns} is not supported. Write a .toml with resize and crop instead."
        )
    before_crop = (math.floor(rows / fraction), math.floor(columns / fraction))
    return _made(
        where,
        scale=1 / 255,
        mean=given.mean,
        std=given.std,
        channels=_by_depth(channels, where),
        resize=before_crop[0] if mode == "center" else before_crop,
        crop=(rows, columns),
        interpolation=_interpolation(given.interpolation or "bicubic", where),
    )


# ----- Hugging Face -----


@open_schema
class HuggingFace:
    """The keys of a ``preprocessor_config.json`` that change what the model sees."""

    do_resize: Switch | None = None
    size: Sizes | None = None
    resample: Filter | None = None
    default_to_square: Switch | None = None
    do_center_crop: Switch | None = None
    crop_size: Pair | None = None
    crop_pct: Fraction | None = None
    do_rescale: Switch | None = None
    rescale_factor: Number | None = None
    do_normalize: Switch | None = None
    image_mean: Numbers | None = None
    image_std: Numbers | None = None
    do_flip_channel_order: Switch | None = None
    data_format: Phrase | None = None
    image_processor_type: Phrase | None = None
    feature_extractor_type: Phrase | None = None


HUGGING_FACE = tuple(f.name for f in fields(HuggingFace))
HARMLESS = (
    *("processor_class", "_valid_processor_keys", "model_input_names", "device", "transformers_version", "num_labels"),
    *("do_convert_rgb", "input_data_format", "return_tensors", "disable_grouping", "use_fast"),
)
"""Keys that change nothing for one RGB picture: we always convert to RGB."""


def from_hugging_face(config: Config, where: str) -> Preprocess:
    """Hugging Face's image processors: resize, centre crop, rescale (1/255 unless told), normalise; ``data_format`` is the layout.

    Only the defaults that all image processors share are filled in (``do_rescale`` true, ``rescale_factor`` 1/255).
    """
    for key, value in config.items():
        if key not in (*HUGGING_FACE, *HARMLESS) and value is not None and value is not False:
            raise InputError(
                f"{where}: {shown(key)} = {shown(value)} may change what the model sees and is not known here"
                f"{near_miss(key, HUGGING_FACE)}. If it has no effect, delete the line; else write a .toml."
            )
    given = checked(HuggingFace, config, where)
    resize, crop = _hugging_face_geometry(given, where)
    normalise = _switch(given, "do_normalize", "image_mean", where)
    if given.do_flip_channel_order and normalise:
        raise InputError(f"{where}: do_flip_channel_order with do_normalize is ambiguous about the order of image_mean. Write a .toml.")
    return _made(
        where,
        scale=1.0 if given.do_rescale is False else 1 / 255 if given.rescale_factor is None else given.rescale_factor,
        mean=_required(given, "image_mean", where) if normalise else (0.0,),
        std=_required(given, "image_std", where) if normalise else (1.0,),
        layout=_data_format(given.data_format or "channels_first", where),
        channels="BGR" if given.do_flip_channel_order else "RGB",
        resize=resize,
        crop=crop,
        interpolation=_interpolation(_required(given, "resample", where), where) if resize is not None else "bilinear",
    )


def _hugging_face_geometry(given: HuggingFace, where: str) -> tuple[int | Size | None, Size | None]:
    resize = _hugging_face_size(given, where) if _switch(given, "do_resize", "size", where) else None
    crop = None
    if _switch(given, "do_center_crop", "crop_size", where):
        crop = _required(given, "crop_size", where)
    if given.crop_pct is None or resize is None:
        return resize, crop
    kind = str(given.image_processor_type or given.feature_extractor_type)
    if not kind.startswith("ConvNext") or not isinstance(resize, int):
        raise InputError(
            f"{where}: crop_pct is known for ConvNext processors with a shortest_edge only, not for {shown(kind)}. Write a .toml."
        )
    if resize >= 384:  # ConvNeXT: warped to the square without a crop
        return (resize, resize), None
    return int(resize / given.crop_pct), (resize, resize)


def _hugging_face_size(given: HuggingFace, where: str) -> int | Size:
    size = _required(given, "size", where)
    if isinstance(size, int):
        if given.default_to_square is not None:
            return (size, size) if given.default_to_square else size
    elif set(size) == {"shortest_edge"}:
        return int(size["shortest_edge"])
    elif set(size) == {"height", "width"}:
        return (size["height"], size["width"])
    raise InputError(
        f"{where}: size {shown(size)} can be read in two ways: give {{'height': h, 'width': w}} for exactly that, "
        "or {'shortest_edge': n} to keep the proportions."
    )


def _switch(given: HuggingFace, switch: str, needs: str, where: str) -> bool:
    """A ``do_...`` key; where it is absent but its data is there, processors disagree on the default, so it is not guessed."""
    said: bool | None = getattr(given, switch)
    if said is not None:
        return said
    if getattr(given, needs) is None:
        return False
    raise InputError(f"{where}: '{needs}' is given but '{switch}' is not: say true or false.")


def _data_format(name: str, where: str) -> str:
    layout = {"channels_first": "NCHW", "channels_last": "NHWC"}.get(name.removeprefix("ChannelDimension.").lower())
    if layout is None:
        raise InputError(f"{where}: data_format {shown(name)} is neither 'channels_first' nor 'channels_last'.")
    return layout


# ----- shared -----


def _made(where: str, **values: Any) -> Preprocess:
    try:
        return Preprocess(**values)
    except InputError as error:
        raise _placed(error, where) from error


def _placed(error: InputError, where: str) -> InputError:
    """An error of ``Preprocess`` itself, with the file in every line."""
    return InputError("\n".join(line if line.startswith(where) else f"{where}: {line}" for line in str(error).splitlines()))


def _required(given: HuggingFace, key: str, where: str) -> Any:
    value = getattr(given, key)
    if value is None:
        raise InputError(f"{where}: '{key}' is missing{NO_DEFAULT}")
    return value


def _by_depth(channels: int, where: str) -> str:
    if channels not in (1, 3):
        raise InputError(f"{where}: {channels} channels are no picture: 1 or 3 are.")
    return "GRAY" if channels == 1 else "RGB"


def _interpolation(value: str | int, where: str) -> str:
    """A name, or Pillow's number for it."""
    for name, number in INTERPOLATIONS.items():
        if value in (name, int(number)):
            return name
    raise InputError(f"{where}: interpolation {shown(value)} is none of {', '.join(f'{n} ({int(k)})' for n, k in INTERPOLATIONS.items())}.")
