"""Explanation: what a converted model said about a batch of samples."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.errors import InputError
from onnxsal.facts.booked import INPUT
from onnxsal.runtime.files import write_whole

REACHED = (0.1, 2.0)
"""A share of the score at the input outside this range is told. Biases that take a good part of it are nothing unusual."""

ROWS = ("attribution", "token_attribution", "saliency_map", "target", "score", "residual", "reached", "against", "standard_error")
"""Fields of an ``Explanation`` that hold a row for each sample."""


@dataclass(frozen=True)
class Explanation:
    """What a converted model said about a batch of N samples.

    ``attribution`` is signed and shaped like the explained input; ``token_attribution`` is its sum over each token's vector, [N, L] of
    [N, L, D], or ``None`` where the explained tensor holds no tokens; ``saliency_map`` float32 [N, *places]: [N, H, W] of pictures,
    [N, L] of series, [N, D, H, W] of volumes and films, or ``None`` where the input is none of these; ``target`` int64 [N] the explained
    classes, ``against`` int64 [N] what each was compared with, or ``None``; ``score`` float32 [N] (of a comparison the difference of
    both); ``residual`` float32 [N] the relative error of the method's law, or ``None`` where it has none; ``standard_error`` that of each
    element of an attribution that is an estimate by sampling (else ``None``); ``outputs`` the model's own outputs (where the samples were
    run in parts, those that hold a row for each); ``seconds`` the time of the run;
    ``partial`` whether the attribution is only a part of what the map shows (FullGrad: the map has the biases too); ``reached``
    float32 [N] the share of the score that reaches the input (relevance methods; else ``None``); ``parts`` what the score is made of, by
    name float32 [N] each (input, position, token type, class token, softmax, biases and so on), where it is divided up; ``doubt`` a
    reason to read all of the maps with care ('' = none); ``provider_options`` the options that were set for each of the ``providers``,
    such as use_tf32; ``how`` whether the run was a CUDA graph, and what hinders it ('' = it was no question). Where an explanation was left
    on the device, its maps, components and outputs are ``OnDevice``: an index or a measure copies their numbers to the host.
    """

    attribution: np.ndarray
    saliency_map: np.ndarray | None
    target: np.ndarray
    score: np.ndarray
    residual: np.ndarray | None
    outputs: dict[str, np.ndarray]
    providers: list[str]
    seconds: float
    method: str
    parameters: dict[str, Any] = field(default_factory=dict)
    components: dict[str, np.ndarray] = field(default_factory=dict)
    partial: bool = False
    reached: np.ndarray | None = None
    doubt: str = ""
    provider_options: dict[str, dict[str, str]] = field(default_factory=dict)
    token_attribution: np.ndarray | None = None
    parts: dict[str, np.ndarray] = field(default_factory=dict)
    against: np.ndarray | None = None
    standard_error: np.ndarray | None = None
    how: str = ""

    def __len__(self) -> int:
        return len(self.target)

    def __iter__(self) -> Iterator[Explanation]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, index: int) -> Explanation:
        """The explanation of one sample, as a batch of one. Raises ``IndexError`` past the last."""
        place = range(len(self))[index]
        if len(self) == 1:
            return self
        rows = {k: v for k in ROWS if (v := getattr(self, k)) is not None}
        outputs = {k: v[place : place + 1] if np.ndim(v) and len(v) == len(self) else v for k, v in self.outputs.items()}
        components, parts = ({k: v[place : place + 1] for k, v in some.items()} for some in (self.components, self.parts))
        one = {k: v[place : place + 1] for k, v in rows.items()}
        return replace(self, **one, outputs=outputs, components=components, parts=parts, seconds=self.seconds / max(len(self), 1))

    @property
    def warnings(self) -> list[str]:
        """Reasons not to read a map, or to read it with care. In a batch each says which sample it is about, if not all."""
        general = [self.doubt] if self.doubt else []
        if len(self) == 1:
            return [*general, *self._flaws()]
        return [*general, *(f"sample {i}: {flaw}" for i, one in enumerate(self) for flaw in one._flaws())]

    def _flaws(self) -> list[str]:
        return [*self._lost(), *self._empty()]

    def _lost(self) -> list[str]:
        """What the residual of a relevance method does not say: it counts what biases and leaks took as accounted for."""
        if self.reached is None or REACHED[0] <= self.reached[0] <= REACHED[1]:
            return []
        told = [f"{name} ({part[0] / self.score[0]:.1%})" for name, part in self.parts.items() if name != INPUT]
        kept = " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told) or "biases and constants and leaks"
        return [f"{self.reached[0]:.1%} of the score reaches the input; the rest is in {kept}, which the map does not show"]

    def _empty(self) -> list[str]:
        from onnxsal.runtime.heatmap import scale_map

        if self.saliency_map is None:
            return [] if np.any(self.attribution) else ["the attribution is zero everywhere, so it shows nothing"]
        scaled = scale_map(self.saliency_map[0], places=self.saliency_map.ndim - 1)
        if not scaled.flat:
            return []
        if np.any(self.attribution) and not np.any(self.saliency_map):
            why = "nothing in the layer speaks for the class more in one place than in another; the attribution keeps the signed map"
            return [f"the saliency map is zero everywhere: {why}"]
        one = "pixel" if self.saliency_map.ndim == 3 else "place"
        return [f"the saliency map is flat: every {one} is {scaled.low:.3g}, so it shows nothing"]

    @property
    def summary(self) -> dict[str, Any]:
        """Everything but the arrays, ready for JSON."""
        return {
            "method": self.method,
            "parameters": self.parameters,
            "target": self.target.tolist(),
            "score": self.score.tolist(),
            "residual": None if self.residual is None else self.residual.tolist(),
            "reached": None if self.reached is None else self.reached.tolist(),
            "parts": {name: part.tolist() for name, part in self.parts.items()},
            "providers": self.providers,
            "provider_options": self.provider_options,
            "how": self.how,
            "seconds": self.seconds,
            "warnings": self.warnings,
        }

    def save(self, path: str | Path) -> Path:
        """Write the arrays to ``<path>.npz`` and everything else to ``<path>.json``; returns the .npz path."""
        name = Path(path)
        name = name.with_suffix("") if name.suffix == ".npz" else name
        target = name.with_name(f"{name.name}.npz")
        arrays = {"attribution": self.attribution, "target": self.target, "score": self.score}
        some = {
            "token_attribution": self.token_attribution,
            "saliency_map": self.saliency_map,
            "residual": self.residual,
            "standard_error": self.standard_error,
            "reached": self.reached,
        }
        arrays |= {k: v for k, v in some.items() if v is not None}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays, **{f"outputs/{k}": v for k, v in self.outputs.items()})  # type: ignore[arg-type]
        write_whole(target, buffer.getvalue())
        write_whole(name.with_name(f"{name.name}.json"), (json.dumps(self.summary, indent=2, default=str) + "\n").encode())
        return target

    def plot(self, index: int = 0, picture: Any = None) -> Any:
        """The map of one sample as a PIL picture, laid over ``picture`` if one is given: an image, or RGB bytes [H, W, 3]; of a series its
        values [C, L], of a volume [C, D, H, W] (``runtime.drawn.draw``). Raises ``InputError`` without a map.
        """
        from onnxsal.runtime.drawn import draw
        from onnxsal.runtime.heatmap import scale_map

        if self.saliency_map is None:
            raise InputError("the explained input is no picture, series or volume, so there is no saliency map to plot; see .attribution.")
        return draw(scale_map(self.saliency_map[index], places=self.saliency_map.ndim - 1), picture)
