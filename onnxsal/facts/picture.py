"""Which axes of an explained picture are channels, height and width."""

from __future__ import annotations

from collections.abc import Sequence

from onnxsal.errors import TargetError, near_miss
from onnxsal.graph import Model, NodeView, Value
from onnxsal.ops.registry import spec_of

Picture = tuple[int, int, int]
"""The axes of channels, height and width."""

LAYOUTS: dict[str, Picture] = {"NCHW": (1, 2, 3), "NHWC": (3, 1, 2)}

CHANNELS_FIRST = frozenset(
    {"Conv", "ConvTranspose", "DeformConv", "MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool"}
    | {"BatchNormalization", "InstanceNormalization", "GroupNormalization", "LRN", "DepthToSpace", "SpaceToDepth", "GridSample"}
)
"""Operators that the standard defines on [N, C, H, W]."""

_IN_PLACE = frozenset({"activation", "elementwise", "add", "product", "select", "quantize", "resample", "softmax", "normalization"})
_ALSO_IN_PLACE = ("Cast", "Identity", "Dropout", "Pad", "Slice", "Concat")


def picture_of(model: Model, x: Value, layout: str | None = None) -> Picture | None:
    """The picture axes of a tensor, ``None`` where it is no picture: as ``layout`` says ("NCHW" or "NHWC"), else as the first operator
    on pictures that it comes to takes it, else as its shape looks.
    """
    if layout is None:
        used = used_as_picture(model, x)
        return image_axes(x.shape) if used is None else used[0]
    if layout not in LAYOUTS:
        raise TargetError(f"layout={layout!r} is unknown{near_miss(str(layout), LAYOUTS)}; known: {', '.join(LAYOUTS)}.")
    if x.shape is not None and len(x.shape) != 4:
        raise TargetError(f"layout {layout} is for pictures of four dimensions; '{x.name}' has shape {list(x.shape)}.")
    return LAYOUTS[layout]


def layout_text(picture: Picture) -> str:
    """The axes of a picture in words."""
    names = [f"{name}: " for name, axes in LAYOUTS.items() if axes == picture]
    return f"{''.join(names)}channels on axis {picture[0]}, height on {picture[1]}, width on {picture[2]}"


def used_as_picture(model: Model, x: Value) -> tuple[Picture, NodeView] | None:
    """The axes as the first convolution, pooling or the like reached from ``x`` sees them, through Transposes on the way; and that node.

    ``None`` where no such operator is reached, or ``x`` has not four dimensions.
    """
    if x.shape is None or len(x.shape) != 4:
        return None
    return model.once(("used_as_picture", x.name), lambda: _first_use(model, x))


def _first_use(model: Model, x: Value) -> tuple[Picture, NodeView] | None:
    places: dict[str, tuple[int, ...]] = {x.name: (0, 1, 2, 3)}
    for node in model.nodes:
        source = next((n for n in node.proto.input if n in places), None)
        if source is None or node.domain or node.outputs[0] is None:
            continue
        place = places[source]
        if node.op_type in CHANNELS_FIRST and node.proto.input[0] == source:
            if place[0] == 0:
                return (place[1], place[2], place[3]), node
        elif node.op_type == "Transpose":
            places[node.y.name] = tuple(place[p] for p in (node.attr("perm") or (3, 2, 1, 0)))
        elif _in_place(node):
            places[node.y.name] = place
    return None


def _in_place(node: NodeView) -> bool:
    spec = spec_of(node)
    known = node.op_type in _ALSO_IN_PLACE or (spec is not None and spec.family in _IN_PLACE)
    return known and node.y.shape is not None and len(node.y.shape) == 4


def image_axes(shape: Sequence[object] | None) -> Picture | None:
    """(channel, height, width) axes of an image tensor [N, C, H, W] or [N, H, W, C] by its shape alone; ``None`` if it is not an image.

    A picture has 1, 3 or 4 channels; where neither axis says so, a rank-4 tensor is taken as [N, C, H, W].
    """
    if shape is None or len(shape) != 4:
        return None
    if shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4):
        return 3, 1, 2
    return 1, 2, 3
