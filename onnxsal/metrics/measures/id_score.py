"""The ID score: insertion minus deletion, Otsuki et al. 2024, arXiv 2407.09115."""

from __future__ import annotations

from collections.abc import Mapping

from onnxsal.metrics.measure import Column, derived


@derived("id_score", {"id_score": Column(True, "insertion - deletion")}, of=("insertion", "deletion"), order=25)
def id_score(values: Mapping[str, float]) -> dict[str, float]:
    """The difference of the two areas."""
    return {"id_score": values["insertion"] - values["deletion"]}
