"""What a converted file says of where it came from, and what a file is."""

from __future__ import annotations

import hashlib

import onnx

from onnxsal.disk import open_regular
from onnxsal.errors import ModelError
from onnxsal.graph.load import Source

METADATA = "onnxsal."
"""Before the keys of everything that a converted file says about itself."""


def is_converted(proto: onnx.ModelProto) -> bool:
    """Whether a model holds an explanation already."""
    return any(p.key == f"{METADATA}version" for p in proto.metadata_props)


def refuse_converted(proto: onnx.ModelProto) -> None:
    """Explaining an explanation is a mistake: the file holds the original model, which is what was meant."""
    if is_converted(proto):
        found = {p.key: p.value for p in proto.metadata_props}
        raise ModelError(
            f"the model was already converted (method '{found.get(f'{METADATA}method', '?')}', onnxsal {found[f'{METADATA}version']}). "
            "Convert the original model, or run this one as it is: its explanation is built in."
        )


def model_sha256(source: Source) -> str:
    """SHA-256 of the file's bytes (for a ``ModelProto``: of its nodes, weights, inputs and outputs)."""
    if isinstance(source, onnx.ModelProto):
        digest = hashlib.sha256()
        for part in (*source.graph.node, *source.graph.initializer, *source.graph.input, *source.graph.output):
            digest.update(part.SerializeToString(deterministic=True))  # part by part: the whole may outgrow one message
        return digest.hexdigest()
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    with open_regular(source) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
