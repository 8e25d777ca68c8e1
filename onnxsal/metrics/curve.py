"""What the curves of insertion and deletion are made of: told once, for both and for their difference."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, TypedDict, Unpack

import numpy as np

from onnxsal.errors import InputError, near_miss
from onnxsal.metrics.ranking import TIES
from onnxsal.metrics.setting import Seed, Setting, Ties
from onnxsal.metrics.substrate import SUBSTRATES

PROTOCOLS = ("rise", "keio")

SCORES = ("probability", "logit")


class CurveOptions(TypedDict, total=False):
    """The fields of ``CurveSettings``, as keywords."""

    protocol: str
    substrate: str | None
    step: int | None
    ties: str
    score: str
    black: np.ndarray | float | None
    seed: int


@dataclass(frozen=True)
class CurveSettings:
    """How pixels are changed and what is measured meanwhile. Raises ``InputError`` for a value that is not known.

    ``protocol`` "rise": points at 0, step, 2 step ... all pixels; insertion starts from the blurred picture, deletion replaces by zeros in
    the model's input; ``step`` defaults to a 28th of the pixels (8 x 224 of 224 x 224). "keio": points at step (i + 1) + 1 pixels up to
    all of them, black on both ways; ``step`` defaults to 500 of 224 x 224 in proportion; their thresholds take all ties
    (``ties="inclusive"``), and they score the labelled class: give it as the target. ``substrate`` in place of the protocol's: blur, black
    (give ``black``), mean, zero_norm; of a table it is mean (each column's over all rows) where none is given. ``ties``: random (by
    ``seed``), stable, inclusive, see ``ranks``. ``score``: probability or logit.
    Petsiuk et al. 2018, arXiv 1806.07421; Otsuki et al. 2024, arXiv 2407.09115.
    """

    protocol: Annotated[str, Setting("Of insertion and deletion: rise, or keio (black; scores the labelled class).")] = "rise"
    substrate: Annotated[str | None, Setting("What stands for a pixel there: blur, black, mean, zero_norm.", shown="the protocol's")] = None
    step: Annotated[int | None, Setting("Pixels per point of the curves.", least=1, shown="a 28th of them")] = None
    ties: Ties = "random"
    score: Annotated[str, Setting("What the curves show: probability or logit.", option="score_of")] = "probability"
    black: np.ndarray | float | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        known = {"protocol": PROTOCOLS, "substrate": (None, *SUBSTRATES), "ties": TIES, "score": SCORES}
        for name, values in known.items():
            given, words = getattr(self, name), [v for v in values if v is not None]
            if given not in values:
                raise InputError(f"{name} '{given}' is not one of {', '.join(words)}{near_miss(str(given), words)}.")
        if self.step is not None and self.step < 1:
            raise InputError(f"step={self.step} is no number of pixels; give 1 or more.")

    def changed(self, **options: Unpack[CurveOptions]) -> CurveSettings:
        """The same with other values."""
        return replace(self, **options)

    def pixels(self, count: int) -> np.ndarray:
        """How many of ``count`` pixels are changed at each point, [K]. Raises ``InputError`` where that is no curve."""
        found = curve_pixels(count, self.protocol, self.step)
        if len(found) < 2:
            raise InputError(f"step={self.step} leaves {len(found)} point(s) of a curve over {count} pixels; take a smaller one.")
        return found

    def stand_in(self, inserting: bool) -> str:
        """The substrate that is asked for, or the protocol's own."""
        return self.substrate or ("black" if self.protocol == "keio" else "blur" if inserting else "zero_norm")


def curve_pixels(count: int, protocol: str, step: int | None = None) -> np.ndarray:
    """How many of ``count`` pixels are changed at each point of a curve, [K]."""
    if step is None:
        step = math.ceil(count / 28) if protocol == "rise" else max(1, round(count * 500 / 224**2))
    if protocol == "rise":
        return np.minimum(np.arange(math.ceil(count / step) + 1) * step, count)
    return np.minimum((np.arange(math.ceil(count / step)) + 1) * step + 1, count)
