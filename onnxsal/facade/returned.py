"""Whether what a run answered can be shown: its numbers are finite, and it speaks of the model's own score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxsal.ask.origin import origin
from onnxsal.errors import InputError
from onnxsal.facade.convert import Conversion
from onnxsal.runtime.finite import all_finite
from onnxsal.runtime.on_device import OnDevice
from onnxsal.runtime.providers import Resolved

TOLD = ("explained_score", "residual", "reached", "parts")
"""Outputs that are a few numbers for each sample."""

ADDED = (
    "attribution",
    "token_attribution",
    "saliency_map",
    "explained_class",
    "compared_class",
    "explained_score",
    "residual",
    "standard_error",
    "reached",
    "parts",
)
"""Outputs that the contract adds; everything else a converted model returns is the original's."""

Fed = Callable[[int], dict[str, Any]]
"""What the session is fed with for one sample."""


@dataclass(frozen=True)
class Returned:
    """A run of a converted model on ``providers``: ``fed`` says on what."""

    made: Conversion
    providers: Resolved
    fed: Fed

    def refuse_infinite(self, what: str, array: np.ndarray | OnDevice, name: str) -> None:
        """Raises ``InputError`` where the numbers ``array`` of the output ``name`` are not finite, with the node that makes them so."""
        if all_finite(array, self.providers):
            return
        wrong = ~np.isfinite(np.asarray(array))
        sample = int(np.argwhere(wrong)[0][0]) if array.ndim else 0
        why = origin(self.made.proto, self.fed(sample), name, self.made.prefix, self.providers)
        where = f" (the first in sample {sample})" if len(wrong) > 1 else ""
        found = f"has {int(wrong.sum())} value(s) that are NaN or infinite{where}"
        raise InputError(f"the {what} of method '{self.made.method.name}' {found}, so it is not shown: {why}")

    def refuse_contradiction(self, own: np.ndarray, target: np.ndarray, score: np.ndarray, adopted: bool) -> None:
        """The model's own output at the explained class must be a number, and the explained score where that is the output itself.

        Half-precision parts may be computed in float32 and overflow only where the output is written. Of a model that was converted before
        (``adopted``) it is not known whether its score is that output.
        """
        count, question = len(target), self.made.question
        if question.reading is not None:
            return  # the score is one of those that the output was chosen from, or a sum of several
        if question.binary:
            self.refuse_infinite("model output behind the score", own, question.output)
            own = question.by_class(own)
        if own.size % count or (count > 1 and len(own) != count) or own.size // count <= target.max():
            return
        values = own.reshape(count, -1)[np.arange(count), target].astype(np.float64)
        self.refuse_infinite("model output behind the score", values, question.output)
        alone = question.start.name == question.output and not question.squash and question.contrast is None
        whole = alone and (question.score == "raw" or not adopted)
        slack = 0.02 * np.abs(values) + 1e-3 * max(1.0, float(np.abs(values).max()))
        if whole and (np.abs(values - score) > slack).any():
            raise InputError(
                f"method '{self.made.method.name}' explains the score(s) {score.tolist()}, but output '{question.output}' says "
                f"{values.tolist()}: numbers of the model are too large for its type on this input, or its batch was misread. Report it if "
                "neither is so."
            )
