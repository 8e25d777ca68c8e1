"""A request with what is known of its model beside the graph: how its pictures are prepared, and what its classes are called."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from onnxsal.ask.request import Ask
from onnxsal.given.prepared import known_of

log = logging.getLogger(__name__)


def with_known(ask: Ask) -> Ask:
    """The request with the preprocessing and the labels that are known of its model, where it gives none and the model is a file.

    A file that is not there is left to who opens it, which says so.
    """
    if not isinstance(ask.model, str | os.PathLike) or None not in (ask.preprocess, ask.labels) or not os.path.isfile(ask.model):
        return ask
    found = known_of(Path(ask.model), layout=ask.layout)
    if found.note:
        log.info("%s", found.note)
    return replace(ask, preprocess=ask.preprocess or found.preprocess, labels=found.labels if ask.labels is None else ask.labels)
