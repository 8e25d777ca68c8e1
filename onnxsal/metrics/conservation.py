"""Conservation: the sum of relevance wherever all paths of a network meet, beside the score it began with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxsal.ask.request import Target
from onnxsal.errors import MethodError
from onnxsal.explainer import Explainer
from onnxsal.facts.tags import RESIDUAL, tags_of
from onnxsal.graph import Model
from onnxsal.methods.build import wrapper_of

PARTS = "relevance/"
GROWTH = 10.0
"""A sum of relevance of more than this many times the score is reported: an unbounded split, or sums close to zero."""

CANCELLING = 1e3
"""So is a map of which the sizes sum to more than this many times the score: its sum may be right, its pixels are not."""

BLOWN = (
    "additions or sums close to zero blow it up (a signed split, an equal split by rule epsilon, or ignored biases); its maps mean little"
)
KEPT = "the score is small beside what the input and what biases, constants and softmaxes keep add to it and take from it"


@dataclass(frozen=True)
class Conservation:
    """Relevance on its way from the score to the input.

    ``score`` [N]; for every cut (a tensor that all paths pass), from the score on and ending with the input: ``sums``, ``bias`` and
    ``leak`` [N, cuts], the relevance there and what biases (with constants) and leaks took until there. ``blocks`` are the cuts that end
    residual blocks.
    ``size`` [N] is the sum of the absolute relevance of the input. ``divides``: the method divides relevance by sums.
    """

    method: str
    score: np.ndarray
    cuts: tuple[str, ...]
    sums: np.ndarray
    bias: np.ndarray
    leak: np.ndarray
    blocks: tuple[str, ...] = ()
    size: np.ndarray | None = None
    divides: bool = True

    @property
    def scale(self) -> np.ndarray:
        """|score| [N, 1], at least 1e-6."""
        return np.maximum(np.abs(self.score), 1e-6)[:, None]

    def share(self, part: np.ndarray) -> np.ndarray:
        """``part`` [N, cuts] (``sums``, ``bias`` or ``leak``) / score; scores closer to zero than 1e-6 count as that, with their sign."""
        return np.asarray(part * np.where(self.score < 0, -1.0, 1.0)[:, None] / self.scale)

    @property
    def error(self) -> np.ndarray:
        """(sum - score) / |score| [N, cuts]. Range (-inf, inf), 0 where relevance is conserved."""
        return (self.sums - self.score[:, None]) / self.scale

    @property
    def accounted(self) -> np.ndarray:
        """|sum + bias shares + leak - score| / |score| [N, cuts]. Range [0, inf): 0 up to rounding, whatever the rules are."""
        return np.abs(self.sums + self.bias + self.leak - self.score[:, None]) / self.scale

    @property
    def reached(self) -> np.ndarray:
        """Relevance of the input / score [N]: the share of the score that reaches it."""
        return self.sums[:, -1] / np.where(np.abs(self.score) < 1e-6, np.copysign(1e-6, self.score), self.score)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the maps of this method doubtful on these samples."""
        size = np.abs(self.sums) / self.scale
        worst = int(size.max(0).argmax())
        found = []
        if not np.isfinite(self.sums).all():
            found.append("relevance is not finite: it grew beyond what the numbers hold")
        elif size.max() > GROWTH:
            found.append(
                f"relevance grows to {size.max():.3g} times the score at '{self.cuts[worst]}': "
                + ("sums close to zero are divided by (a signed split, or ignored biases); its maps mean little" if self.divides else KEPT)
            )
        gross = 0.0 if self.size is None else float((self.size / self.scale[:, 0]).max())
        if gross > CANCELLING:
            found.append(
                f"positive and negative relevance of the input, {gross:.3g} times the score in size, cancel: "
                + (BLOWN if self.divides else KEPT)
            )
        if self.accounted.max() > 1e-3:
            found.append(f"{self.accounted.max():.2g} of the score is unaccounted for: rounding of large opposite contributions")
        return tuple(found)

    def shown(self) -> tuple[str, ...]:
        """The cuts that tell most: the last and first residual block, and the input."""
        ends = (self.blocks[0], self.blocks[-1]) if self.blocks else (self.cuts[0],)
        return tuple(dict.fromkeys((*ends, self.cuts[-1])))

    def rows(self) -> list[tuple[str, str, str, str, str, str, str]]:
        """Per cut: name, mean sum / score, its worst error, mean shares of biases and leaks, worst unaccounted rest, what it is."""
        told = []
        for i, name in enumerate(self.cuts):
            kept, bias, leak = (float(self.share(v)[:, i].mean()) for v in (self.sums, self.bias, self.leak))
            kind = "input" if i == len(self.cuts) - 1 else "residual block" if name in self.blocks else ""
            worst, rest = float(np.abs(self.error[:, i]).max()), float(self.accounted[:, i].max())
            told.append((name, f"{kept:.4f}", f"{worst:.1e}", f"{bias:.4f}", f"{leak:.1e}", f"{rest:.1e}", kind))
        return told

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        cuts = [
            {"tensor": n, "sum": self.sums[:, i], "bias": self.bias[:, i], "leak": self.leak[:, i], "error": self.error[:, i]}
            for i, n in enumerate(self.cuts)
        ]
        return {
            "method": self.method,
            "score": self.score,
            "cuts": cuts,
            "blocks": self.blocks,
            "largest_error": float(np.abs(self.error[:, -1]).max()),
            "largest_unaccounted": float(self.accounted.max()),
            "reached": self.reached,
            "warnings": self.warnings,
        }


COLUMNS = ("tensor", "sum / score", "worst error", "biases", "leak", "unaccounted", "")


def conservation(explainer: Explainer, batches: np.ndarray | Iterable[Any], target: Target = None) -> Conservation:
    """Sums of relevance at every tensor that all paths pass, for a relevance method converted with ``components=True``.

    ``batches`` is one array [N, ...] or several feeds. For every sample and cut, sum + bias shares + leak = score up to rounding;
    relevance is conserved where the sum itself is the score (Otsuki et al. 2024, page on conservation). Raises ``MethodError`` for
    a method that distributes no score.
    """
    stream = [batches] if isinstance(batches, np.ndarray) else list(batches)
    found = [explainer.explain(x, target) for x in stream]
    parts = [n for n in found[0].components if n.startswith(PARTS)] if found else []
    if not wrapper_of(explainer.conversion.method).books or not parts:
        raise MethodError(
            f"method '{explainer.method}' sends no relevance back, or was converted without components. Those that do: lrp_*, "
            "deep_taylor, cp_lrp and attnlrp, with components=True."
        )
    inputs, *cuts = parts
    columns = [np.concatenate([f.components[n] for f in found]).astype(np.float64) for n in (*cuts, inputs)]
    table = np.stack(columns, axis=1)
    question = explainer.conversion.question
    names = (*(n.removeprefix(PARTS) for n in cuts), question.x.name)
    score = np.concatenate([f.score for f in found]).astype(np.float64)
    blocks = tuple(n for n in names if _ends_block(question.model, n))
    size = np.concatenate([np.abs(f.attribution.astype(np.float64)).reshape(len(f.score), -1).sum(1) for f in found])
    divides = wrapper_of(explainer.conversion.method).starts == "score"
    return Conservation(explainer.method, score, names, table[..., 0], table[..., 1], table[..., 2], blocks, size, divides)


def _ends_block(model: Model, name: str) -> bool:
    node = model.producer.get(name)
    return node is not None and RESIDUAL in tags_of(model).get(node.index, ())
