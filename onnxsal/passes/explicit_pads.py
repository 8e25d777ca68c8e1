"""Explicit pads: ``auto_pad`` becomes ``pads`` wherever the spatial sizes are known; where they are not, rules compute them."""

from __future__ import annotations

import onnx
from onnx import helper

from onnxsal.graph.infer import Shape, infer
from onnxsal.ops.registry import OpSpec, spec_of
from onnxsal.passes.base import Pass, PassOutcome


def _attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _auto(node: onnx.NodeProto) -> str:
    value = _attributes(node).get("auto_pad", b"NOTSET")
    return value.decode() if isinstance(value, bytes) else "NOTSET"


def _padded(node: onnx.NodeProto) -> OpSpec | None:
    """What is known of a node with ``auto_pad`` whose windows lie on its input: a convolution or a pooling."""
    spec = spec_of(node)
    scatters = spec is not None and spec.units is not None and spec.units.slides == "scatters"
    return None if scatters or _auto(node) == "NOTSET" else spec


def same_pads(size: int, kernel: int, stride: int, dilation: int, upper: bool) -> tuple[int, int]:
    """Padding before and after an axis so that the output has ceil(size / stride) cells."""
    total = max((-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    return (total // 2, total - total // 2) if upper else (total - total // 2, total // 2)


def _pads(node: onnx.NodeProto, spec: OpSpec, x: Shape | None, w: Shape | None) -> list[int] | None:
    """The pads that ``auto_pad`` means for this node, or ``None`` where a size is not known."""
    mode, attributes = _auto(node), _attributes(node)
    kernel = list(attributes.get("kernel_shape", w[2:] if w is not None else []))  # type: ignore[call-overload]
    if mode == "VALID":
        return [0] * (2 * len(kernel)) if kernel else None
    sizes = [d for d in (x or ())[2:] if isinstance(d, int)]
    if x is None or not kernel or len(sizes) != len(x) - 2 or not all(isinstance(k, int) for k in kernel):
        return None
    strides = list(attributes.get("strides", [1] * len(kernel)))  # type: ignore[call-overload]
    dilations = list(attributes.get("dilations", [1] * len(kernel)))  # type: ignore[call-overload]
    if spec.units is None and any(d != 1 for d in dilations):
        return None  # In poolings the standard and ONNX Runtime pad differently; what the model computes must not change.
    sides = [same_pads(*axis, mode == "SAME_UPPER") for axis in zip(sizes, kernel, strides, dilations, strict=True)]
    return [begin for begin, _ in sides] + [end for _, end in sides]


def _run(proto: onnx.ModelProto) -> PassOutcome:
    types = infer(proto).types
    changed = 0
    for node in proto.graph.node:
        spec = _padded(node)
        if spec is None:
            continue
        weight = types.get(node.input[1], (0, None))[1] if spec.units is not None else None
        pads = _pads(node, spec, types.get(node.input[0], (0, None))[1], weight)
        if pads is not None:
            kept = [onnx.AttributeProto.FromString(a.SerializeToString()) for a in node.attribute if a.name not in ("auto_pad", "pads")]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("pads", pads)])
            changed += 1
    return PassOutcome(changed, f"wrote the pads of {changed} node(s) with auto_pad explicitly" if changed else "")


def _has_auto_pad(proto: onnx.ModelProto) -> bool:
    return any(_padded(n) is not None for n in proto.graph.node)


EXPLICIT_PADS = Pass("explicit pads", _run, requires=lambda proto: "" if _has_auto_pad(proto) else "no node uses auto_pad")
