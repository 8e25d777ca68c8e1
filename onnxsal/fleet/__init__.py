"""Explain, evaluate and audit by the shard: on this machine, in the jobs of an array, or on a cluster.

Three functions that know no engine, for who has one of their own (Spark, Dask, Daft):

explainer = Explainer("model.onnx", "gradient", threads=1)
tables = [work(explainer, shard) for shard in shards("pictures/")]
merge(tables).column("concentration")          # mean, interval, extremes with their samples, quantiles
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from onnxsal.fleet.cutting import Shard, shards
from onnxsal.fleet.numbers import NUMBERS
from onnxsal.fleet.run_files import summed
from onnxsal.fleet.sums import Sums, merged
from onnxsal.fleet.working import Keeping, work

__all__ = ["Keeping", "Shard", "Sums", "merge", "shards", "work"]


def merge(tables: Iterable[Any]) -> Sums:
    """What the tables of several shards say together, the same to the last bit in whatever order they come.

    Raises ``InputError`` for none, for a shard twice, and for a table that ``work`` did not make.
    """
    return merged(summed(table, NUMBERS) for table in tables)
