"""Small networks that read ids of tokens: one by hand, in several spellings of its tables, and a BERT by both of torch's exporters."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto
from torch import Tensor, nn

from tests.small_models import draw, make, node

WORDS, PLACES, TYPES, WIDTH, CLASSES = 40, 16, 2, 8, 3

IDS = np.asarray([[1, 5, 7, 2, 0, 0], [1, 9, 8, 7, 6, 2]])
FEED = {
    "input_ids": IDS,
    "attention_mask": (IDS > 0).astype(np.int64),
    "token_type_ids": np.asarray([[0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]]),
}
"""Two texts, the first with two tokens of padding."""


def padded(feed: dict[str, np.ndarray], more: int) -> dict[str, np.ndarray]:
    """The same texts with more padding."""
    return {name: np.pad(array, ((0, 0), (0, more))) for name, array in feed.items()}


# ----- by hand -----


def summed(*tables: str, words: int = WORDS, places: int = PLACES, types: int = TYPES) -> onnx.ModelProto:
    """Vectors of ``tables``, summed for each token, a Tanh, the mean over all tokens, and a classifier. Tables are spelled

    ``words``: looked up by an input; ``flat``: by ids in one row; ``int8``: in a table of small integers, behind a scale and a zero point;
    ``types``, ``bbox``: by a second input; ``places``: by counting on from 0, as many as there are tokens; ``counted``: by a running sum
    over what is no padding; ``hidden``: by numbers of places, 0 for padding; ``fed``: by positions that are fed; ``same``: row 0 for
    each; ``added``: all of a table of fixed length.
    """
    length: int | str = 6 if {"added", "hidden"}.intersection(tables) else "L"
    weights = {
        "word": draw(words, WIDTH, seed=1),
        "coarse": np.clip(draw(words, WIDTH, seed=2) * 40, -127, 127).astype(np.int8),
        "scale": np.float32(0.025),
        "zero": np.float32(3),
        "place": draw(places, WIDTH, seed=3),
        "type": draw(types, WIDTH, seed=4),
        "all": draw(1, 6, WIDTH, seed=5),
        "w1": draw(WIDTH, WIDTH, seed=6),
        "w2": draw(WIDTH, CLASSES, seed=7),
        "numbers_of_places": np.arange(6),
        "none": np.asarray(0, np.int64),
        "one": np.asarray(1, np.int64),
        "row": np.asarray([-1], np.int64),
        "shape": np.asarray([0, 0, WIDTH], np.int64),
        "second": np.asarray([1], np.int64),
    }
    spelled: dict[str, list[onnx.NodeProto]] = {
        "words": [node("Gather", "word ids", "words")],
        "flat": [
            node("Reshape", "ids row", "ids_row"),
            node("Gather", "word ids_row", "flat_row"),
            node("Shape", "ids", "size"),
            node("Concat", "size width", "wide", axis=0),
            node("Reshape", "flat_row wide", "flat"),
        ],
        "int8": [
            node("Gather", "coarse ids", "stored"),
            node("Cast", "stored", "numbers", to=TensorProto.FLOAT),
            node("Sub", "numbers zero", "centred"),
            node("Mul", "centred scale", "int8"),
        ],
        "types": [node("Gather", "type type_ids", "types")],
        "bbox": [node("Gather", "place bbox_ids", "bbox")],
        "fed": [node("Gather", "place position_ids", "fed")],
        "places": [
            node("Shape", "ids", "lengths", start=1),
            node("Squeeze", "lengths", "length"),
            node("Range", "none length one", "range"),
            node("Gather", "place range", "places"),
        ],
        "counted": [
            node("Equal", "ids none", "is_padding"),
            node("Not", "is_padding", "is_word"),
            node("Cast", "is_word", "mask", to=TensorProto.INT64),
            node("CumSum", "mask one", "count"),
            node("Mul", "count mask", "counts"),
            node("Gather", "place counts", "counted"),
        ],
        "hidden": [
            node("Cast", "ids", "is_seen", to=TensorProto.BOOL),
            node("Where", "is_seen numbers_of_places none", "seen_places"),
            node("Gather", "place seen_places", "hidden"),
        ],
        "same": [node("Shape", "ids", "sizes"), node("Expand", "none sizes", "zeros"), node("Gather", "type zeros", "same")],
        "added": [node("Identity", "all", "added")],
    }
    weights["width"] = np.asarray([WIDTH], np.int64)
    nodes = [n for name in tables for n in spelled[name]]
    total = tables[0]
    for number, name in enumerate(tables[1:]):
        nodes.append(node("Add", f"{total} {name}", f"sum{number}"))
        total = f"sum{number}"
    nodes += [
        node("MatMul", f"{total} w1", "h"),
        node("Tanh", "h", "t"),
        node("ReduceMean", "t second", "m", keepdims=0),
        node("MatMul", "m w2", "y"),
    ]
    used = {i for n in nodes for i in n.input}
    names = [n for n in ("ids", "type_ids", "bbox_ids", "position_ids") if n in used]
    held = {k: np.asarray(v) for k, v in weights.items() if k in used}
    kinds = dict.fromkeys(names, TensorProto.INT64)
    return make(nodes, {n: ["N", length] for n in names}, {"y": ["N", CLASSES]}, held, types=kinds)


def two_texts(tables: tuple[str, str] = ("word", "word")) -> onnx.ModelProto:
    """Tables looked up by two inputs whose vectors are multiplied: neither is the text, however large they are."""
    nodes = [
        node("Gather", f"{tables[0]} a", "va"),
        node("Gather", f"{tables[1]} b", "vb"),
        node("Mul", "va vb", "m"),
        node("ReduceMean", "m second", "s", keepdims=0),
        node("MatMul", "s w2", "y"),
    ]
    weights = {t: draw(WORDS if t == "word" else TYPES, WIDTH, seed=1) for t in tables}
    weights |= {"second": np.asarray([1], np.int64), "w2": draw(WIDTH, CLASSES, seed=7)}
    kinds = dict.fromkeys("ab", TensorProto.INT64)
    return make(nodes, {"a": ["N", "L"], "b": ["N", "L"]}, {"y": ["N", CLASSES]}, weights, types=kinds)


# ----- by torch -----

MASKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "added": lambda scores, mask: scores + (1 - mask.to(scores.dtype)) * -10000.0,
    "smallest": lambda scores, mask: scores + (1 - mask.to(scores.dtype)) * torch.finfo(scores.dtype).min,
    "chosen": lambda scores, mask: torch.where(mask > 0, scores, torch.tensor(float("-inf"))),
    "causal": lambda scores, mask: torch.where((torch.ones_like(scores).tril() * mask) > 0, scores, torch.tensor(float("-inf"))),
}
"""How exporters spell a mask of padding, and one of later tokens: scores and mask -> masked scores."""


class Layer(nn.Module):
    """A post-norm encoder layer."""

    def __init__(self, width: int, heads: int, mask: str) -> None:
        super().__init__()
        self.heads, self.mask = heads, MASKS[mask]
        self.q, self.k, self.v, self.out = (nn.Linear(width, width) for _ in range(4))
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, length, width = x.shape
        q, k, v = (f(x).view(n, length, self.heads, width // self.heads).transpose(1, 2) for f in (self.q, self.k, self.v))
        weights = torch.softmax(self.mask(q @ k.transpose(2, 3) / math.sqrt(width // self.heads), mask[:, None, None]), -1)
        x = self.first(x + self.out((weights @ v).transpose(1, 2).reshape(n, length, width)))
        return self.second(x + self.down(F.gelu(self.up(x))))


class Bert(nn.Module):
    """Words, token types and positions, a norm, two layers, and a classifier on the first token (on each, where the mask is causal)."""

    def __init__(self, mask: str) -> None:
        super().__init__()
        self.causal = mask == "causal"
        self.word, self.place, self.kind = (nn.Embedding(n, WIDTH) for n in (WORDS, PLACES, TYPES))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, CLASSES)
        self.layers = nn.ModuleList(Layer(WIDTH, 2, mask) for _ in range(2))
        self.ids: Tensor
        self.register_buffer("ids", torch.arange(PLACES)[None])

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor) -> Tensor:
        x = self.norm(self.word(input_ids) + self.kind(token_type_ids) + self.place(self.ids[:, : input_ids.shape[1]]))
        for layer in self.layers:
            x = layer(x, attention_mask)
        out: Tensor = self.head(x if self.causal else x[:, 0])
        return out


def bert_net(mask: str = "added") -> Bert:
    """The seeded BERT, scales and shifts of its norms drawn too."""
    torch.manual_seed(3)
    net = Bert(mask).eval()
    for name, parameter in net.named_parameters():
        if parameter.ndim == 1:
            parameter.data = (1.0 if name.endswith("weight") else 0.0) + 0.3 * torch.randn_like(parameter)
    return net


@cache
def bert(exporter: str = "dynamo", opset: int = 18, mask: str = "added") -> onnx.ModelProto:
    """``bert_net``, with symbolic numbers of texts and tokens; do not change it."""
    net = bert_net(mask)
    feed, names = tuple(torch.from_numpy(array) for array in FEED.values()), list(FEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            sizes = {0: torch.export.Dim("N", min=1, max=64), 1: torch.export.Dim("L", min=2, max=PLACES)}
            program = torch.onnx.export(
                net, feed, dynamo=True, opset_version=opset, input_names=names, dynamic_shapes=(sizes,) * 3, verbose=False
            )
            assert program is not None
            return program.model_proto
        file, axes = io.BytesIO(), {n: {0: "N", 1: "L"} for n in names} | {"y": {0: "N"}}
        torch.onnx.export(net, feed, file, dynamo=False, opset_version=opset, input_names=names, output_names=["y"], dynamic_axes=axes)
        return onnx.load_from_string(file.getvalue())
