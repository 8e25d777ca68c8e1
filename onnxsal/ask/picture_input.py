"""What a model says of the pictures that it is fed with, and the preprocessing that follows from it and from a preset's name."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np
from onnx import TensorProto, helper

from onnxsal.errors import InputError
from onnxsal.facts.axes import LAYOUTS as AXES_OF
from onnxsal.facts.axes import flat, image_axes, used_as_picture
from onnxsal.facts.first_nodes import BYTES, UNIT, Normalised, first_normalisation
from onnxsal.facts.tokens import INTEGERS
from onnxsal.graph import FLOATS, Model, Value
from onnxsal.graph.infer import shape_text
from onnxsal.graph.load import Source, load_model
from onnxsal.graph.provenance import METADATA
from onnxsal.ops.registry import spec_of
from onnxsal.runtime.preprocess import DTYPES, LAYOUTS, Preprocess, Size
from onnxsal.runtime.preprocess_files import load_preprocess
from onnxsal.runtime.presets import CAFFE_MEAN, CLIP_MEAN, IMAGENET_MEAN, PRESETS, AskedPreset, named, unknown, with_preset

KNOWN_MEANS = (IMAGENET_MEAN, CLIP_MEAN, tuple(m / BYTES for m in reversed(CAFFE_MEAN)))
"""Means of pixels 0..1 that are so well known that their order tells that of the colours: red first."""

AS_THEY_ARE = {BYTES: "rgb", UNIT: "unit"}
"""The largest value of a pixel -> the preset that makes that range, and no more."""


@dataclass(frozen=True)
class PictureInput:
    """The input ``x`` that takes pictures. ``layout`` ("NCHW" or "NHWC"), ``depth`` (channels), ``size`` (height, width) and ``dtype`` as
    the model says them, ``None`` where it leaves them open; ``normalised`` is what its first nodes do.
    """

    x: Value
    layout: str | None
    depth: int | None
    size: Size | None
    dtype: str
    normalised: Normalised | None = None

    @property
    def whole(self) -> float | None:
        """The largest value of the pixels that are fed, where the model tells it: by its type, or by its first nodes."""
        return BYTES if self.x.dtype == TensorProto.UINT8 else None if self.normalised is None else self.normalised.whole

    @property
    def channels(self) -> str | None:
        """The order of the colours, where the model tells it: by a single channel, or by a well-known mean."""
        if self.depth == 1:
            return "GRAY"
        found = self.normalised
        if found is None or found.whole is None or len(found.mean) != 3:
            return None
        share = np.array(found.mean) / found.whole
        for order, means in (("RGB", KNOWN_MEANS), ("BGR", [m[::-1] for m in KNOWN_MEANS])):
            if any(np.allclose(share, mean, atol=0.01) for mean in means):
                return order
        return None

    def __str__(self) -> str:
        kind = helper.tensor_dtype_to_np_dtype(self.x.dtype).name
        told = [] if self.size is None else [f"{self.size[0]}x{self.size[1]} pixels"]
        told += [] if self.depth is None else [f"{self.depth} channel{'s' if self.depth > 1 else ''}"]
        told += [] if self.layout is None else [self.layout]
        words = ": ".join(filter(None, (f"input '{self.x.name}' takes {kind} {shape_text(self.x.shape)}", ", ".join(told))))
        return f"{words}; {self.first_nodes}" if self.first_nodes else words

    @property
    def first_nodes(self) -> str:
        """What the first nodes do, in words ('' = nothing of the kind)."""
        found = self.normalised
        if found is None:
            return ""
        if found.doubt:
            return f"its first nodes, {found.by}, make {found.formula} of it, and {found.doubt}"
        return f"its first nodes, {found.by}, make {found.formula} of pixels 0..{found.whole:g}"


def picture_input(model: Model, layout: str | None = None) -> PictureInput | None:
    """The one input that takes pictures, of four axes; ``None`` where none or several could. ``layout`` says what its axes are, where the
    model does not.
    """
    found = [(x, seen) for x in map(model.value, model.input_names) if (seen := _axes(model, x, layout)) is not None]
    if len(found) != 1:
        return None
    x, (axes, known) = found[0]
    name = next((n for n in LAYOUTS if AXES_OF[n] == axes), None)
    if name is None:
        return None
    depth, *sides = (x.dim(a) for a in axes) if known else (None, None, None)
    size = (sides[0], sides[1]) if sides[0] and sides[1] else None
    kind = helper.tensor_dtype_to_np_dtype(x.dtype).name
    normalised = first_normalisation(model, x, axes) if known else None
    return PictureInput(x, name if known else None, depth, size, kind if kind in DTYPES else "float32", normalised)


def _axes(model: Model, x: Value, layout: str | None) -> tuple[tuple[int, int, int], bool] | None:
    """The axes of channels, height and width, and whether they are known; ``None`` where this is no picture."""
    if x.dtype not in FLOATS | INTEGERS or x.shape is None or len(x.shape) != 4:
        return None
    told = AXES_OF[str(layout)] if layout in LAYOUTS else None
    used = None if told is not None else used_as_picture(model, x)
    if told is not None or used is not None:
        axes = flat(told if used is None else used[0])
        return None if axes is None else (axes, True)
    seen = image_axes(x.shape)
    like = [x.dim(a) in (1, 3) for a in (1, 3)]
    return None if seen is None else (seen, like.count(True) == 1)


# ----- what follows -----


def preprocess_from(word: object, model: Source, layout: str | None = None) -> Preprocess:
    """The preprocessing that a word means for a model: the name of a preset (``imagenet``, ``imagenet:224``) or a file."""
    if isinstance(word, Preprocess):
        return word
    if not isinstance(word, str | os.PathLike):
        raise InputError(f"preprocess={word!r} is none; give a preset ({', '.join(PRESETS)}), the path of a file, or a Preprocess.")
    asked = named(str(word))
    if asked is not None:
        return fitted(asked, model, layout)
    if not os.path.exists(word) and not os.path.splitext(word)[1]:
        raise unknown(str(word))
    return load_preprocess(word)


def fitted(asked: AskedPreset, source: Source, layout: str | None = None) -> Preprocess:
    """A preset in the size, layout and type of a model's input. Raises ``InputError`` where that leaves one open, or says otherwise."""
    model = Model(load_model(source))
    found = picture_input(model, layout)
    what = f"preprocess '{asked.name}'"
    if found is None:
        inputs = ", ".join(f"'{n}' {shape_text(model.value(n).shape)}" for n in model.input_names)
        raise InputError(f"{what}: no one input of the model takes pictures (four axes: samples, channels, height, width): {inputs}.")
    if mistakes := [m for m in (*_open(asked, found), *_against(asked, found)) if m]:
        raise InputError("\n".join(f"{what}: {mistake}" for mistake in mistakes))
    size, depth = found.size or asked.size, found.depth or 3
    assert size is not None
    assert found.layout is not None
    return with_preset(asked.preset, size, found.layout, depth, found.dtype)


def _open(asked: AskedPreset, found: PictureInput) -> list[str]:
    """What the model leaves open and nobody said."""
    size, shape = found.size or asked.size, shape_text(found.x.shape)
    return [
        "" if found.layout else f"the model does not say what the axes of '{found.x.name}' {shape} are: give --layout NCHW or NHWC.",
        "" if size else f"the model takes pictures of any size ('{found.x.name}' {shape}): say which, as {asked.name}:224.",
    ]


def _against(asked: AskedPreset, found: PictureInput) -> list[str]:
    """What the model says otherwise."""
    preset, depth = asked.preset, found.depth or 3
    wrong = []
    if asked.size and found.size and asked.size != found.size:
        wrong.append(f"'{found.x.name}' takes {found.size[0]}x{found.size[1]} pixels, not {asked.size[0]}x{asked.size[1]}.")
    if depth not in (1, 3):
        wrong.append(f"'{found.x.name}' has {depth} channels, and a picture 1 or 3. Feed arrays (.npy), or name another --layout.")
    elif depth < len(preset.mean):
        single = ", ".join(n for n, p in PRESETS.items() if len(p.mean) == 1 and p.channels == "RGB")
        wrong.append(f"it is for three channels, and '{found.x.name}' has one; of those that fit there are {single}.")
    if found.whole is not None and not _makes(asked, found.whole):
        why = found.first_nodes or f"'{found.x.name}' takes bytes"
        as_it_is = " or ".join(n for n in PRESETS if _makes(AskedPreset(n), found.whole))
        wrong.append(f"the model takes pixels 0..{found.whole:g}, as {why}; so give {as_it_is}, or a file.")
    return wrong


def _makes(asked: AskedPreset, whole: float) -> bool:
    """Whether a preset makes pixels from 0 to ``whole``."""
    preset = asked.preset
    return (preset.mean, preset.std) == ((0.0,), (1.0,)) and bool(np.isclose(preset.scale * BYTES, whole))


def inferred(found: PictureInput) -> Preprocess | None:
    """The preprocessing that the model itself tells whole: how large pixels are, the order of their colours, size and layout; all of the
    picture is seen, stretched. ``None`` where one of these is open.
    """
    if found.whole is None or found.channels is None or found.size is None or found.layout is None or found.depth not in (1, 3):
        return None
    plain = with_preset(PRESETS[AS_THEY_ARE[found.whole]], found.size, found.layout, found.depth, found.dtype)
    return replace(plain, channels=found.channels)


def worth_a_look(model: Model) -> bool:
    """Whether first nodes may tell a preprocessing: an input of four axes is of bytes, or is turned, copied, scaled or shifted at once.

    Asked before shapes are inferred, which takes long for large models. A converted model carries what was known of the original.
    """
    if any(p.key.startswith(METADATA) for p in model.proto.metadata_props):
        return False
    for given in model.graph.input:
        kind = given.type.tensor_type
        specs = [spec for node in model.consumers.get(given.name, []) if (spec := spec_of(node)) is not None]
        if len(kind.shape.dim) == 4 and (kind.elem_type == TensorProto.UINT8 or any(s.keeps or s.scaling for s in specs)):
            return True
    return False
