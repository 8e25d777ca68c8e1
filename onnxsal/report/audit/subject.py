"""A model under audit: what is asked of it, its plain scores, and how it is fed with the data."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from onnxsal.ask.request import Ask
from onnxsal.explainer import Explainer
from onnxsal.graph.provenance import model_sha256
from onnxsal.metrics.dataset import Sample
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.open_rows import RowsWork, with_columns_together
from onnxsal.metrics.scorer import Scorer
from onnxsal.runtime.preprocess import Preprocess

CHUNK = 8
"""Samples that are looked at, and written down, together: always the same ones, so that a run that goes on finds the same digits."""


@dataclass(frozen=True)
class Subject:
    """A model under audit. ``ask`` is what is measured: of ``rows`` of a table, the part behind where all columns meet; ``whole`` is the
    model as it was given, ``sha256`` that of its file.
    """

    ask: Ask
    scorer: Scorer
    sha256: str
    whole: Ask
    rows: RowsWork | None = None

    @classmethod
    def of(cls, ask: Ask, rows: RowsWork | None = None) -> Subject:
        """Open a model for an audit of pictures, or of ``rows``."""
        measured = replace(ask if rows is None else rows.ask, batch_size=CHUNK)
        scorer = Scorer.of(measured)
        scorer.columns = None if rows is None else rows.places
        return cls(measured.on(scorer.session.obtained), scorer, model_sha256(ask.model), ask, rows)

    @property
    def name(self) -> str:
        """The model's file, without its folder; '' where it is none."""
        return self.whole.name

    @property
    def preprocess(self) -> Preprocess | None:
        """How its pictures are prepared."""
        return self.ask.preprocess if self.rows is None else None

    def asked(self, way: Way) -> Ask:
        """What is asked of it by one method."""
        ask = self.ask.by(way.method, way.parameters)
        return ask if self.rows is None else with_columns_together(ask, self.rows.places)

    def explainer(self, way: Way, **more: Any) -> Explainer:
        """The explainer of one method."""
        return Explainer.of(replace(self.asked(way), **more))

    def fed(self, sample: Sample) -> np.ndarray:
        """A sample of the audited model's data [1, ...] as this one is fed with it: its own preprocessing, its own encoding of the row."""
        if self.rows is not None:
            return self.rows.data.read(sample.name).x
        known = self.preprocess is not None and sample.picture is not None
        return self.preprocess.normalise(sample.picture[None]) if known else sample.x  # type: ignore[union-attr, index]

    @cached_property
    def about(self) -> list[Any]:
        """What every number of it depends on, but for the method and the sample as the audited model has it."""
        encoded = "" if self.rows is None else key_of([self.rows.places.column, [s.x for s in self.rows.data.samples()]])
        return [self.sha256, self.scorer.session.obtained, repr(self.preprocess), self.ask.told, encoded]


def key_of(value: Any) -> str:
    """A short hash of anything; arrays count by their bytes."""

    def told(part: Any) -> str:
        return hashlib.sha256(part.tobytes()).hexdigest() if isinstance(part, np.ndarray) else repr(part)

    return hashlib.sha256(json.dumps(value, sort_keys=True, default=told).encode()).hexdigest()[:20]
