"""One sample as it is given: what the model is fed, where it is from, and what its map is shown beside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from onnxsal.ask.question import Question
from onnxsal.facts.axes import layout_places
from onnxsal.runtime.shown import AnyShown, ShownValues


@dataclass(frozen=True)
class GivenSample:
    """``feed``: the inputs of the model by name, those with a batch axis as a batch of one. ``source``: the file or the words that it is
    from; ``name``: what its results are called; ``shown``: what its map is shown beside, where that is known.
    """

    feed: dict[str, np.ndarray]
    source: str = ""
    name: str = ""
    shown: AnyShown | None = None

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Those of the inputs: samples of the same make a batch."""
        return [array.shape for array in self.feed.values()]


def batches(stream: Iterable[GivenSample], size: int) -> Iterator[list[GivenSample]]:
    """Groups of up to ``size`` neighbours of one shape."""
    for _, run in groupby(stream, key=lambda sample: sample.shapes):
        group: list[GivenSample] = []
        for sample in run:
            group.append(sample)
            if len(group) == size:
                yield group
                group = []
        if group:
            yield group


def stacked(group: Sequence[GivenSample]) -> dict[str, np.ndarray]:
    """The inputs of several samples of one shape, each of which holds a row of every input."""
    if len(group) == 1:
        return group[0].feed
    return {name: np.concatenate([sample.feed[name] for sample in group]) for name in group[0].feed}


def shown_values(
    question: Question, feed: Mapping[str, np.ndarray], rate: float | None = None, spectrogram: bool = False
) -> ShownValues | None:
    """The values [C, *places] of an explained series or volume that is fed; ``None`` of a picture, whose colours are not known, unless it
    is said to be a ``spectrogram`` [C, F, T]: then also of a series, whose channels are its frequencies.
    """
    x, axes = question.shown
    if axes is None or (layout_places(axes) == 2 and not spectrogram) or x.name not in feed or not question.batched:
        return None
    values = feed[x.name][0]
    laid = values[None] if axes[0] is None else np.moveaxis(values, axes[0] - 1, 0)
    return ShownValues(laid[None] if spectrogram and layout_places(axes) == 1 else laid, rate)
