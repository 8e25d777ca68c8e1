"""What a metric of ``evaluate`` is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from onnxsal.explainer import Explainer
from onnxsal.metrics.scorer import Scorer


@dataclass(frozen=True)
class Task:
    """Samples [N] with their maps, ready to be measured.

    ``maps`` are the saliency maps, ``signed`` the attributions (the maps where those have no signs: ``unsigned``), ``residual`` [N] the
    error of the method's law, ``reached`` [N] the share of the score at the input (relevance methods), ``labels`` [N] -1 and ``masks`` [N]
    ``None`` where a sample has none, ``black`` a black pixel in the model's input, ``explainer`` ``None`` for maps that no model made.
    """

    scorer: Scorer
    x: np.ndarray
    maps: np.ndarray
    signed: np.ndarray
    residual: np.ndarray | None
    reached: np.ndarray | None
    target: np.ndarray
    labels: np.ndarray
    masks: tuple[np.ndarray | None, ...]
    black: np.ndarray | None = None
    explainer: Explainer | None = None
    unsigned: bool = False

    def __len__(self) -> int:
        return len(self.x)

    @property
    def objects(self) -> np.ndarray:
        """The masks as one array [N, H, W], for a metric that needs "mask"."""
        return np.stack([m for m in self.masks if m is not None])

    def part(self, rows: Sequence[int]) -> Task:
        """Some of the samples."""
        at = np.asarray(rows, np.int64)
        residual, reached = (None if law is None else law[at] for law in (self.residual, self.reached))
        arrays = {n: getattr(self, n)[at] for n in ("x", "maps", "signed", "target", "labels")}
        return replace(self, **arrays, residual=residual, reached=reached, masks=tuple(self.masks[i] for i in at))


@dataclass(frozen=True)
class Measured:
    """``values`` column -> [N], NaN where ``flags`` [N] say why; ``curves`` name -> (axis [K], rows [N, K])."""

    values: dict[str, np.ndarray]
    flags: tuple[str, ...]
    curves: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
