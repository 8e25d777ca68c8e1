"""Make the graph plain first: then rules stay short. ``prepare`` runs every pass in order and says what each changed."""

from __future__ import annotations

import onnx

from onnxsal.graph import Model


def prepare(proto: onnx.ModelProto) -> tuple[Model, list[str]]:
    """The plain model and a log line for each pass that changed something. ``proto`` is changed in place."""
    return Model(proto), []
