"""What a model's own first nodes do to its pictures: the normalisation that is built in, and so what is left to be done before it.

The numbers mean something: (x - 127) / 128 is made of pixels 0..255, (x - 0.485) / 0.229 of 0..1. Where both could be meant, or neither,
nothing is inferred.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from onnxsal.facts.affine_tail import is_constant
from onnxsal.facts.axes import Picture, moved
from onnxsal.graph import FLOATS, Model, NodeView, Value
from onnxsal.graph.adjoints import NUMBERS
from onnxsal.ops.registry import facts_of, spec_of
from onnxsal.ops.statements import APART

UNIT, BYTES = 1.0, 255.0
"""The largest value of a pixel in the two usual ranges, 0..1 and 0..255."""

NARROW, WIDE = 0.5, 16.0
"""How wide normalised pixels are: 1 (0..1), 2 (-1..1), or the reciprocal of a standard deviation of pixels, .06 to .5 of 0..1."""


@dataclass(frozen=True)
class Normalised:
    """The first nodes make ``(x - mean) / std`` of a picture, one number for all channels or one for each; ``nodes`` are those that do.

    ``whole``: the picture has values up to this in the range that the numbers mean (``BYTES`` or ``UNIT``); ``None``: they tell none, for
    the reason ``doubt``.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    nodes: tuple[NodeView, ...] = ()
    whole: float | None = None
    doubt: str = ""

    @property
    def formula(self) -> str:
        """In words: ``(x - 127) / 128``."""
        mean, std = (_listed(numbers) for numbers in (self.mean, self.std))
        shifted = "x" if not any(self.mean) else f"(x - {mean})"
        return shifted if set(self.std) == {1.0} else f"{shifted} / {std}"

    @property
    def by(self) -> str:
        """The nodes, by name and operator."""
        return ", ".join(f"'{n.name}' ({n.op_type})" for n in self.nodes)


def _listed(numbers: tuple[float, ...]) -> str:
    told = [f"{n:.6g}" for n in numbers]
    return told[0] if len(told) == 1 else f"[{', '.join(told)}]"


def first_normalisation(model: Model, x: Value, picture: Picture) -> Normalised | None:
    """What constants do to the picture ``x`` (axes ``picture``) before anything else: added, subtracted, multiplied, divided, for all
    channels or each, with changes of type and of the order of axes in between. ``None``: the first node does something else.
    """
    return model.once(("first normalisation", x.name), lambda: _first_normalisation(model, x, picture))


def _first_normalisation(model: Model, x: Value, picture: Picture) -> Normalised | None:
    scale, shift, nodes = np.ones(1), np.zeros(1), list[NodeView]()
    for node, factor, summand in _steps(model, x.name, picture[0]):
        if factor is None:
            return Normalised((0.0,), (1.0,), (node,), doubt=f"{node.label} does not do the same to every pixel of a channel")
        if (factor != 1).any() or summand.any():
            nodes.append(node)
        scale, shift = scale * factor, shift * factor + summand
    if not nodes:
        return None
    if not (np.isfinite(scale).all() and scale.all()):
        return Normalised((0.0,), (1.0,), tuple(nodes), doubt="they leave nothing of the picture")
    mean, std = (tuple(np.atleast_1d(a).tolist()) for a in (_plain(-shift / scale), _plain(1 / scale)))
    whole, doubt = (BYTES, "") if x.dtype == TensorProto.UINT8 else _meant(-shift / scale, 1 / scale)
    return Normalised(mean, std, tuple(nodes), whole, doubt)


def _plain(numbers: np.ndarray) -> np.ndarray:
    """One number where all are the same; to seven digits, as float32 holds them."""
    rounded = np.array([float(f"{n:.7g}") + 0.0 for n in numbers])
    return rounded[:1] if (rounded == rounded[0]).all() else rounded


def _meant(mean: np.ndarray, std: np.ndarray) -> tuple[float | None, str]:
    """The largest value of the pixels that are normalised by these numbers (``None``: not told), and why it is not told."""
    widths = {whole: whole / abs(std) for whole in (UNIT, BYTES)}
    fits = [w for w, width in widths.items() if width.min() >= NARROW and width.max() <= WIDE and _inside(mean, w)]
    if (std == 1).all() and _inside(mean, BYTES) and (mean > UNIT).all():
        fits = [BYTES]  # the mean is taken away, and no more
    if len(fits) == 1:
        return fits[0], ""
    return None, "these numbers normalise neither pixels 0..255 nor 0..1 in a usual way"


def _inside(mean: np.ndarray, whole: float) -> bool:
    """Whether these are values of pixels up to ``whole``: a mean, or the value that becomes 0."""
    return bool(((mean >= 0) & (mean <= whole)).all())


def _steps(model: Model, name: str, channel: int | None) -> Iterator[tuple[NodeView, np.ndarray | None, np.ndarray]]:
    """Node after node with its factor and summand for each channel (one number for all), as long as one node alone reads the picture.

    A factor of ``None`` ends it: constants of other shapes.
    """
    while True:
        readers = [n for n in model.consumers.get(name, []) if not facts_of(n).of_sizes]
        node = readers[0] if len(readers) == 1 and name not in model.output_names else None
        spec = None if node is None else spec_of(node)
        if node is None or spec is None or node.outputs[0] is None or list(node.proto.input).count(name) != 1:
            return
        i = list(node.proto.input).index(name)
        if spec.keeps == "place" or (spec.keeps == "elements" and _same_places(node)):
            after = None if channel is None else moved(node, i, channel)
            if node.y.dtype not in FLOATS and node.y.dtype != node.x.dtype:
                return  # it rounds
            if channel is not None and (after is None or after[1] is not APART):
                return
            channel = None if after is None else after[0]
            yield node, np.ones(1), np.zeros(1)
        elif spec.scaling is not None and spec.scaling.axis is None and spec.family in ("add", "product") and spec.scaling.takes(node, i):
            if not all(is_constant(model, v.name) for k, v in enumerate(node.inputs) if v is not None and k != i):
                return
            if node.y.dtype not in FLOATS:
                return  # whole numbers, which run over and are cut off
            yield (node, *_per_channel(node, i, channel))
        else:
            return
        name = node.y.name


def _same_places(node: NodeView) -> bool:
    """Whether an operator that moves elements only turns axes."""
    return node.x.shape is not None and all((after := moved(node, 0, a)) is not None and after[1] is APART for a in range(node.x.rank))


def _per_channel(node: NodeView, i: int, channel: int | None) -> tuple[np.ndarray | None, np.ndarray]:
    """(factor, summand) of a node that scales and shifts its input i, for each channel; (None, 0) where they differ within one."""
    spec, rank = spec_of(node), node.y.rank if node.y.shape is not None else None
    given = [None if k == i else node.const(k) for k in range(len(node.proto.input))]
    if spec is None or spec.scaling is None or rank is None or any(c is None for k, c in enumerate(given) if k != i):
        return None, np.zeros(1)
    flat = [None if c is None else _of_channels(np.asarray(c, np.float64), rank, channel) for c in given]
    if any(c is None for k, c in enumerate(flat) if k != i):
        return None, np.zeros(1)
    factor, summand = spec.scaling.parts(NUMBERS, node, flat, i)
    return np.atleast_1d(1.0 if factor is None else factor), np.atleast_1d(0.0 if summand is None else summand)


def _of_channels(constant: np.ndarray, rank: int, channel: int | None) -> np.ndarray | None:
    """A constant that is broadcast to a rank, as one number or one for each channel; ``None``: it has more."""
    if constant.ndim > rank:
        return None
    shape = (1,) * (rank - constant.ndim) + constant.shape
    return constant.reshape(-1) if all(size == 1 or axis == channel for axis, size in enumerate(shape)) else None
