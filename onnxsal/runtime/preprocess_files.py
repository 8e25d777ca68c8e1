"""Preprocessing read from files: our short TOML, Hugging Face ``preprocessor_config.json``, timm ``config.json``.

A key that changes the result and is not understood is an error: a wrongly fed model gives a plausible, wrong map.
"""

from __future__ import annotations

import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from onnxsal.errors import InputError, near_miss
from onnxsal.runtime.preprocess import INTERPOLATIONS, Preprocess, Size

Config = Mapping[str, Any]

OURS = tuple(f.name for f in fields(Preprocess))


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


def read_config(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A TOML or JSON file as a dict, or one clear error."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8-sig")
        data = tomllib.loads(text) if file.suffix == ".toml" else json.loads(text)
    except OSError as error:
        raise InputError(f"'{file}' cannot be read: {error.strerror or error}.") from error
    except ValueError as error:  # not UTF-8, not TOML, not JSON
        raise InputError(f"'{file}' is not valid {'TOML' if file.suffix == '.toml' else 'JSON'}: {error}.") from error
    if not isinstance(data, dict):
        raise InputError(f"'{file}' holds a {type(data).__name__}, not keys and values.")
    return data


def from_config(config: Config, where: str) -> Preprocess | None:
    """Hugging Face or timm preprocessing, or None where the keys are of neither (a ``config.json`` of a text model)."""
    timm = config.get("pretrained_cfg", config)
    if isinstance(timm, Mapping) and "input_size" in timm and "mean" in timm:
        return from_timm(timm, where)
    if any(key in config for key in ("image_mean", "do_normalize", "do_rescale", "do_resize")):
        return from_hugging_face(config, where)
    return None


def from_ours(config: Config, where: str) -> Preprocess:
    """Our short form: the fields of ``Preprocess``; ``scale`` must be given, everything else has a default."""
    for key in config:
        if key not in OURS:
            raise InputError(f"{where}: unknown key '{key}'{near_miss(key, OURS)}; known: {', '.join(OURS)}.")
    if "scale" not in config:
        raise InputError(
            f"{where}: 'scale' is missing. It says what mean and std refer to: 1 for pixels 0..255, 0.00392156862745098 for 0..1."
        )
    values = dict(config)
    for key in ("mean", "std"):
        if key in values:
            values[key] = _numbers(values[key], f"{where}: {key}")
    values["scale"] = _numbers(values["scale"], f"{where}: scale")[0]
    if "resize" in values and not isinstance(values["resize"], int):
        values["resize"] = _pair(values["resize"], f"{where}: resize")
    if "crop" in values:
        values["crop"] = _pair(values["crop"], f"{where}: crop")
    return _made(where, **values)


# ----- timm -----

TIMM_MODES = ("center", "squash")


def from_timm(config: Config, where: str) -> Preprocess:
    """timm's evaluation transform: the size divided by ``crop_pct``, then a centre crop; mean and std refer to 0..1.

    Only these keys take part in it; the others in a ``pretrained_cfg`` say where weights come from. Absent keys have timm's defaults.
    """
    channels, rows, columns = _triple(config["input_size"], f"{where}: input_size")
    fraction = config.get("crop_pct") or 0.875
    mode = config.get("crop_mode") or "center"
    if mode not in TIMM_MODES or (mode == "center" and rows != columns):
        raise InputError(f"{where}: crop_mode '{mode}' for {rows}x{columns} is not supported. Write a .toml with resize and crop instead.")
    before_crop = (math.floor(rows / fraction), math.floor(columns / fraction))
    return _made(
        where,
        scale=1 / 255,
        mean=_numbers(config["mean"], f"{where}: mean"),
        std=_numbers(_required(config, "std", where), f"{where}: std"),
        channels=_by_depth(channels, where),
        resize=before_crop[0] if mode == "center" else before_crop,
        crop=(rows, columns),
        interpolation=_interpolation(config.get("interpolation") or "bicubic", where),
    )


# ----- Hugging Face -----

HUGGING_FACE = (
    *("do_resize", "size", "resample", "default_to_square", "do_center_crop", "crop_size", "crop_pct", "do_rescale", "rescale_factor"),
    *("do_normalize", "image_mean", "image_std", "do_flip_channel_order", "data_format"),
)
HARMLESS = (
    *("image_processor_type", "feature_extractor_type", "processor_class", "_valid_processor_keys", "model_input_names", "device"),
    *("do_convert_rgb", "input_data_format", "return_tensors", "disable_grouping", "use_fast", "transformers_version", "num_labels"),
)
"""Keys that change nothing for one RGB picture: we always convert to RGB."""


def from_hugging_face(config: Config, where: str) -> Preprocess:
    """Hugging Face's image processors: resize, centre crop, rescale (1/255 unless told), normalise; ``data_format`` is the layout.

    Only the defaults that all image processors share are filled in (``do_rescale`` true, ``rescale_factor`` 1/255).
    """
    for key, value in config.items():
        if key not in (*HUGGING_FACE, *HARMLESS) and value not in (None, False):
            raise InputError(
                f"{where}: '{key}' = {value!r} may change what the model sees and is not known here{near_miss(key, HUGGING_FACE)}. "
                "If it has no effect, delete the line; else write a .toml."
            )
    resize, crop = _hugging_face_geometry(config, where)
    normalise = _switch(config, "do_normalize", "image_mean", where)
    rescale = config.get("do_rescale")
    flip = bool(config.get("do_flip_channel_order"))
    if flip and normalise:
        raise InputError(f"{where}: do_flip_channel_order with do_normalize is ambiguous about the order of image_mean. Write a .toml.")
    return _made(
        where,
        scale=_numbers(config.get("rescale_factor") or 1 / 255, f"{where}: rescale_factor")[0] if rescale is None or rescale else 1.0,
        mean=_numbers(_required(config, "image_mean", where), f"{where}: image_mean") if normalise else (0.0,),
        std=_numbers(_required(config, "image_std", where), f"{where}: image_std") if normalise else (1.0,),
        layout=_data_format(config.get("data_format") or "channels_first", where),
        channels="BGR" if flip else "RGB",
        resize=resize,
        crop=crop,
        interpolation=_interpolation(_required(config, "resample", where), where) if resize is not None else "bilinear",
    )


def _hugging_face_geometry(config: Config, where: str) -> tuple[int | Size | None, Size | None]:
    resize = _hugging_face_size(config, where) if _switch(config, "do_resize", "size", where) else None
    crop = None
    if _switch(config, "do_center_crop", "crop_size", where):
        crop = _pair(_required(config, "crop_size", where), f"{where}: crop_size")
    if config.get("crop_pct") is None or resize is None:
        return resize, crop
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type"))
    if not kind.startswith("ConvNext") or not isinstance(resize, int):
        raise InputError(f"{where}: crop_pct is known for ConvNext processors with a shortest_edge only, not for {kind}. Write a .toml.")
    if resize >= 384:  # ConvNeXT: warped to the square without a crop
        return (resize, resize), None
    return int(resize / config["crop_pct"]), (resize, resize)


def _hugging_face_size(config: Config, where: str) -> int | Size:
    size = _required(config, "size", where)
    if isinstance(size, Mapping) and set(size) == {"shortest_edge"}:
        return int(size["shortest_edge"])
    if isinstance(size, Mapping) and set(size) == {"height", "width"}:
        return (int(size["height"]), int(size["width"]))
    square = config.get("default_to_square")
    if isinstance(size, int) and square is not None:
        return (size, size) if square else size
    raise InputError(
        f"{where}: size {size!r} can be read in two ways: give {{'height': h, 'width': w}} for exactly that, "
        "or {'shortest_edge': n} to keep the proportions."
    )


def _switch(config: Config, switch: str, needs: str, where: str) -> bool:
    """A ``do_...`` key; where it is absent but its data is there, processors disagree on the default, so it is not guessed."""
    if config.get(switch) is not None:
        return bool(config[switch])
    if config.get(needs) is None:
        return False
    raise InputError(f"{where}: '{needs}' is given but '{switch}' is not: say true or false.")


def _data_format(name: Any, where: str) -> str:
    layout = {"channels_first": "NCHW", "channels_last": "NHWC"}.get(str(name).removeprefix("ChannelDimension.").lower())
    if layout is None:
        raise InputError(f"{where}: data_format '{name}' is neither 'channels_first' nor 'channels_last'.")
    return layout


# ----- shared -----


def _made(where: str, **values: Any) -> Preprocess:
    try:
        return Preprocess(**values)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _required(config: Config, key: str, where: str) -> Any:
    value = config.get(key)
    if value is None:
        raise InputError(f"{where}: '{key}' is missing, and processors differ in its default: state it.")
    return value


def _numbers(value: Any, where: str) -> tuple[float, ...]:
    values = value if isinstance(value, list | tuple) else [value]
    if not values or any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        raise InputError(f"{where} must be a number or a list of numbers, not {value!r}.")
    return tuple(float(v) for v in values)


def _pair(value: Any, where: str) -> Size:
    if isinstance(value, Mapping) and set(value) == {"height", "width"}:
        value = (value["height"], value["width"])
    if isinstance(value, int) and not isinstance(value, bool):
        value = (value, value)
    if not isinstance(value, list | tuple) or len(value) != 2 or any(isinstance(v, bool) or not isinstance(v, int) for v in value):
        raise InputError(f"{where} must be one number or [height, width], not {value!r}.")
    return (value[0], value[1])


def _triple(value: Any, where: str) -> tuple[int, int, int]:
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(isinstance(v, int) for v in value):
        raise InputError(f"{where} must be [channels, height, width], not {value!r}.")
    return (value[0], value[1], value[2])


def _by_depth(channels: int, where: str) -> str:
    if channels not in (1, 3):
        raise InputError(f"{where}: {channels} channels are no picture: 1 or 3 are.")
    return "GRAY" if channels == 1 else "RGB"


def _interpolation(value: Any, where: str) -> str:
    """A name, or Pillow's number for it."""
    for name, number in INTERPOLATIONS.items():
        if value == name or (isinstance(value, int) and value == int(number)):
            return name
    raise InputError(f"{where}: interpolation {value!r} is none of {', '.join(f'{n} ({int(k)})' for n, k in INTERPOLATIONS.items())}.")
