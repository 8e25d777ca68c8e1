"""Small detectors and segmenters by hand, and the same in torch, in float64: what scores all candidates have."""

from __future__ import annotations

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto as T
from torch import Tensor

from tests.small_models import draw, make, node

CLASSES, WIDTH = 3, 6
SCALES = 3
SIDES = (16, 24)
"""Pictures; candidates are the places of three maps: 8 x 12, 4 x 6 and 2 x 3."""
CANDIDATES = 8 * 12 + 4 * 6 + 2 * 3

WEIGHTS = {
    **{f"w{i}": draw(WIDTH, 3 if i == 0 else WIDTH, 3, 3, seed=i, scale=0.3) for i in range(SCALES)},
    **{f"k{i}": draw(CLASSES, WIDTH, 1, 1, seed=10 + i) for i in range(SCALES)},
    **{f"b{i}": draw(4, WIDTH, 1, 1, seed=20 + i) for i in range(SCALES)},
}
SETTINGS = {
    "classes_shape": np.asarray([0, CLASSES, -1]),
    "by_class": np.asarray([0, -1, CLASSES]),
    "boxes_shape": np.asarray([0, 4, -1]),
    "most": np.asarray([4]),
    "six": np.asarray([6]),
    "threshold": np.float32(0.4),
    "sure": np.float32(0.5),
    "flat": np.asarray([0, -1]),
    "count": np.asarray(CLASSES),
    "last": np.asarray([2]),
    "axis2": np.asarray([2]),
    "one": np.asarray([1]),
    "zero": np.asarray([0]),
    "two": np.asarray([2]),
    "three": np.asarray([3]),
    "minus": np.asarray([-1]),
    "chosen_classes": np.asarray([0, 1]),
    "chosen_boxes": np.asarray([0, 2]),
}


def logits(x: Tensor) -> Tensor:
    """[N, candidates, classes], before the sigmoid, in float64."""
    found = []
    for i in range(SCALES):
        x = torch.tanh(F.conv2d(x, torch.as_tensor(WEIGHTS[f"w{i}"]).double(), stride=2, padding=1))
        found.append(F.conv2d(x, torch.as_tensor(WEIGHTS[f"k{i}"]).double()).flatten(2))
    return torch.cat(found, 2).transpose(1, 2)


def heads() -> list[onnx.NodeProto]:
    """Three maps, of each the classes ``ki_flat`` [N, C, A] and the boxes ``bi_flat`` [N, 4, A]."""
    nodes, name = [], "x"
    for i in range(SCALES):
        nodes += [
            node("Conv", f"{name} w{i}", f"c{i}", pads=[1, 1, 1, 1], strides=[2, 2]),
            node("Tanh", f"c{i}", f"t{i}"),
            node("Conv", f"t{i} k{i}", f"k{i}_map"),
            node("Conv", f"t{i} b{i}", f"b{i}_map"),
            node("Reshape", f"k{i}_map classes_shape", f"k{i}_flat"),
            node("Reshape", f"b{i}_map boxes_shape", f"b{i}_flat"),
        ]
        name = f"t{i}"
    return nodes


JOINED = [
    node("Concat", "k0_flat k1_flat k2_flat", "z", axis=2),
    node("Concat", "b0_flat b1_flat b2_flat", "where", axis=2),
    node("Sigmoid", "z", "p"),
]
TURNED = [node("Transpose", "p", "p_last", perm=[0, 2, 1]), node("Transpose", "where", "where_last", perm=[0, 2, 1])]
SUPPRESSED = [
    node("Sigmoid", "where_last", "corners"),
    node("NonMaxSuppression", "corners p most threshold sure", "rows"),
]

FORMS: dict[str, tuple[list[onnx.NodeProto], dict[str, list[int | str | None]]]] = {
    "yolov8": ([*JOINED, node("Concat", "where p", "out", axis=1)], {"out": ["N", 4 + CLASSES, "A"]}),
    "yolov8, turned": (
        [*JOINED, node("Concat", "where p", "raw", axis=1), node("Transpose", "raw", "out", perm=[0, 2, 1])],
        {"out": ["N", "A", 4 + CLASSES]},
    ),
    "scales joined last": (
        [
            *(node("Sigmoid", f"k{i}_flat", f"p{i}") for i in range(SCALES)),
            *(node("Concat", f"b{i}_flat p{i}", f"o{i}", axis=1) for i in range(SCALES)),
            node("Concat", "o0 o1 o2", "out", axis=2),
        ],
        {"out": ["N", 4 + CLASSES, "A"]},
    ),
    "detr": (
        [*JOINED, *TURNED, node("Sigmoid", "where_last", "corners"), node("Concat", "corners p_last", "out", axis=2)],
        {"out": ["N", "A", 4 + CLASSES]},
    ),
    "ssd": (
        [*JOINED, *TURNED, node("Identity", "where_last", "loc"), node("Identity", "p_last", "conf")],
        {"loc": ["N", "A", 4], "conf": ["N", "A", CLASSES]},
    ),
    "ssd, reshaped": (
        [
            *JOINED,
            *TURNED,
            node("Transpose", "z", "z_last", perm=[0, 2, 1]),
            node("Reshape", "z_last flat", "z_row"),
            node("Sigmoid", "z_row", "p_row"),
            node("Reshape", "p_row by_class", "conf"),
            node("Identity", "where_last", "loc"),
        ],
        {"loc": ["N", "A", 4], "conf": ["N", "A", CLASSES]},
    ),
    "rows": ([*JOINED, *TURNED, *SUPPRESSED], {"rows": ["M", 3]}),
    "rows, gathered": (
        [
            *JOINED,
            *TURNED,
            *SUPPRESSED,
            node("GatherND", "p rows", "scores"),
            node("Gather", "rows chosen_boxes", "whose", axis=1),
            node("GatherND", "corners whose", "boxes"),
            node("Slice", "rows one two one", "labels"),
        ],
        {"boxes": ["M", 4], "scores": ["M"], "labels": ["M", 1]},
    ),
    "suppressed, best class": (
        [
            *JOINED,
            *TURNED,
            node("Sigmoid", "where_last", "corners"),
            node("ReduceMax", "p one", "most_sure", keepdims=1),
            node("NonMaxSuppression", "corners most_sure most threshold sure", "rows"),
            node("Gather", "rows chosen_boxes", "whose", axis=1),
            node("ReduceMax", "p_last axis2", "confidence", keepdims=0),
            node("GatherND", "confidence whose", "scores"),
            node("GatherND", "corners whose", "boxes"),
        ],
        {"boxes": ["M", 4], "scores": ["M"]},
    ),
    "topk": (
        [
            *JOINED,
            *TURNED,
            node("Reshape", "p_last flat", "all"),
            node("TopK", "all most", "scores index", axis=1),
            node("Mod", "index count", "labels"),
            node("Div", "index count", "whose"),
            node("Unsqueeze", "whose minus", "whose_each"),
            node("GatherND", "where_last whose_each", "boxes", batch_dims=1),
        ],
        {"boxes": ["N", 4, 4], "scores": ["N", 4], "labels": ["N", 4]},
    ),
    "two choices": (
        [
            *JOINED,
            *TURNED,
            node("ReduceMax", "p_last axis2", "confidence", keepdims=0),
            node("TopK", "confidence six", "first_best first", axis=1),
            node("Unsqueeze", "first minus", "first_each"),
            node("GatherND", "p_last first_each", "p_first", batch_dims=1),
            node("GatherND", "where_last first_each", "boxes_first", batch_dims=1),
            node("Reshape", "p_first flat", "all"),
            node("TopK", "all most", "scores index", axis=1),
            node("Div", "index count", "whose"),
            node("Unsqueeze", "whose minus", "whose_each"),
            node("GatherND", "boxes_first whose_each", "boxes", batch_dims=1),
        ],
        {"boxes": ["N", 4, 4], "scores": ["N", 4]},
    ),
    "topk of the logits' sigmoid": (
        [
            *JOINED,
            node("Transpose", "z", "z_last", perm=[0, 2, 1]),
            node("Sigmoid", "z_last", "p_of_last"),
            node("Flatten", "p_of_last", "all"),
            node("TopK", "all most", "scores index", axis=1),
        ],
        {"scores": ["N", 4]},
    ),
    "topk, joined": (
        [
            *JOINED,
            *TURNED,
            node("Reshape", "p_last flat", "all"),
            node("TopK", "all most", "best index", axis=1),
            node("Mod", "index count", "labels"),
            node("Div", "index count", "whose"),
            node("Unsqueeze", "whose minus", "whose_each"),
            node("GatherND", "where_last whose_each", "boxes", batch_dims=1),
            node("Unsqueeze", "best minus", "best_each"),
            node("Unsqueeze", "labels minus", "labels_each"),
            node("Cast", "labels_each", "labels_float", to=T.FLOAT),
            node("Concat", "boxes best_each labels_float", "out", axis=2),
        ],
        {"out": ["N", 4, 6]},
    ),
}
"""How a detector ends -> its nodes behind the heads, and its outputs."""

RAW = ("yolov8", "yolov8, turned", "scales joined last", "detr", "ssd", "ssd, reshaped")


def detector(form: str, batch: int | str = "N") -> onnx.ModelProto:
    nodes, outputs = FORMS[form]
    every = [*heads(), *nodes]
    used = {i for n in every for i in n.input}
    shapes = {name: [batch if d == "N" else d for d in shape] for name, shape in outputs.items()}
    kinds = {name: T.INT64 for name in outputs if name in ("rows", "labels")}
    return make(every, {"x": [batch, 3, *SIDES]}, shapes, {k: v for k, v in {**WEIGHTS, **SETTINGS}.items() if k in used}, types=kinds)


def pictures(count: int = 2) -> np.ndarray:
    return draw(count, 3, *SIDES, seed=77, scale=2.0)


# ----- segmenters -----


def masks(x: Tensor) -> Tensor:
    """[N, classes, h, w] of a segmenter whose places are half as many as pixels, in float64."""
    y = torch.tanh(F.conv2d(x, torch.as_tensor(WEIGHTS["w0"]).double(), stride=2, padding=1))
    y = torch.tanh(F.conv2d(y, torch.as_tensor(WEIGHTS["w1"]).double(), stride=2, padding=1))
    y = F.conv2d(y, torch.as_tensor(WEIGHTS["k1"]).double())
    return F.interpolate(y, scale_factor=2, mode="bilinear", align_corners=False)


SEGMENTERS = ("scores", "last", "softmax", "labels", "labels, last")
"""Scores [N, C, h, w], or [N, h, w, C], probabilities, or labels [N, h, w] made of either."""


def segmenter(form: str, size: tuple[int | str, int | str] = SIDES) -> onnx.ModelProto:
    nodes = [
        node("Conv", "x w0", "c0", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Tanh", "c0", "t0"),
        node("Conv", "t0 w1", "c1", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Tanh", "c1", "t1"),
        node("Conv", "t1 k1", "small"),
        node("Resize", "small . scales", "z", mode="linear"),
    ]
    weights = {k: WEIGHTS[k] for k in ("w0", "w1", "k1")} | {"scales": np.asarray([1, 1, 2, 2], np.float32)}
    if form.endswith("last"):
        nodes.append(node("Transpose", "z", "z_last", perm=[0, 2, 3, 1]))
    name, axis = ("z_last", 3) if form.endswith("last") else ("z", 1)
    if form.startswith("labels"):
        nodes.append(node("ArgMax", name, "y", axis=axis, keepdims=0))
    else:
        nodes.append(node("Softmax", name, "y", axis=1) if form == "softmax" else node("Identity", name, "y"))
    shape = ["N", None, None] if form.startswith("labels") else ["N", None, None, None]
    return make(nodes, {"x": ["N", 3, *size]}, {"y": shape}, weights, types={"y": T.INT64} if form.startswith("labels") else None)
