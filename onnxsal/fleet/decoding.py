"""Pictures decoded apart from the model: on CPUs that do nothing else, as bytes that a worker with a card only has to scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from onnxsal.ask.request import Ask
from onnxsal.errors import InputError, OnnxsalError
from onnxsal.fleet.content import Content, contents, refuse_kind, suffix_of
from onnxsal.fleet.feeding import FedBatch, Row, digest_of
from onnxsal.fleet.shard import Shard
from onnxsal.given.from_files import Feeding, picture_feed
from onnxsal.metrics.open_dataset import class_of
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.sound import SOUNDS

DecodedShard: TypeAlias = dict[str, Any]
"""A whole shard, decoded: ``shard`` as a dict, ``rows`` a list of what is known of each, ``pixels`` uint8 [n, H, W, 3] of those that could
be read, in order.
"""


@dataclass(frozen=True)
class Decoding:
    """Decodes shards as a model with this preprocessing sees them; ``labels`` are those of its classes."""

    preprocess: Preprocess
    labels: Sequence[str] | None

    def __call__(self, shard: dict[str, Any]) -> Iterator[DecodedShard]:
        """The one block that a shard is. Never raises for a row; raises ``InputError`` for what is no pictures."""
        of = Shard.of(shard)
        refuse_apart(of)
        rows, pixels = list[dict[str, Any]](), list[np.ndarray]()
        for content in contents(of):
            row, seen = self._decoded(content)
            if seen is not None and pixels and seen.shape != pixels[0].shape:
                why = f"it is {list(seen.shape)} where others of its shard are {list(pixels[0].shape)}, and decoding apart wants one size"
                row, seen = row | {"why": why}, None
            rows.append(row)
            pixels += [] if seen is None else [seen]
        yield {"shard": shard, "rows": rows, "pixels": np.stack(pixels) if pixels else np.empty((0, 1, 1, 3), np.uint8)}

    def _decoded(self, content: Content) -> tuple[dict[str, Any], np.ndarray | None]:
        row = {"id": content.id, "row": content.row, "digest": "", "label": None, "why": ""}
        try:
            held = content.load()
            row["digest"] = digest_of(held)
            row["label"] = class_of(content.word, self.labels) if content.word else None
            return row, self.preprocess.display(held)
        except OnnxsalError as error:
            return row | {"why": str(error)}, None


def refuse_apart(shard: Shard) -> None:
    """Raise ``InputError`` for what is no pictures: only these are worth decoding elsewhere."""
    refuse_kind(shard, ("files", "parquet"), "pictures that are decoded apart (--decode-workers)")
    if sounds := [file.name for file in shard.files if suffix_of(file.name) in SOUNDS]:
        raise InputError(f"'{sounds[0]}' is a sound, and only pictures are decoded apart: leave --decode-workers out.")


def shard_of(block: DecodedShard) -> Shard:
    """The shard that a block is the whole of. Raises ``InputError`` where rows were lost on the way."""
    shard = Shard.of(block["shard"])
    read = sum(not row["why"] for row in block["rows"])
    if len(block["rows"]) != len(shard) or len(block["pixels"]) != read:
        raise InputError(f"a block holds {len(block['rows'])} rows and {len(block['pixels'])} pictures of a shard of {len(shard)} rows.")
    return shard


def fed_block(block: DecodedShard, ask: Ask, feeding: Feeding, size: int) -> Iterator[FedBatch | Row]:
    """A block as ``feeding.fed`` gives a shard: damaged rows, and batches of up to ``size`` others."""
    rows = [Row(**row) for row in block["rows"]]
    yield from (row for row in rows if row.why)
    read, pixels = [row for row in rows if not row.why], np.asarray(block["pixels"])
    for begin in range(0, len(read), size):
        seen = pixels[begin : begin + size]
        yield FedBatch(read[begin : begin + size], picture_feed(seen, ask, feeding), list(seen))
