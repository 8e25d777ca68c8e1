"""Explain, evaluate and audit by the shard: on this machine, in the jobs of an array, or on a cluster.

Three functions that know no engine, for who has one of their own (Spark, Dask, Daft):

explainer = Explainer("model.onnx", "gradient", threads=1)
tables = [work(explainer, shard) for shard in shards("pictures/")]
merge(tables).column("concentration")          # mean, interval, extremes with their samples, quantiles
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxsal.runtime.libraries import imported_later

if TYPE_CHECKING:
    from onnxsal.fleet.cutting import Shard, shards
    from onnxsal.fleet.kept_maps import maps
    from onnxsal.fleet.merging import merge
    from onnxsal.fleet.sums import Sums
    from onnxsal.fleet.working import Keeping, work

__all__ = ["Keeping", "Shard", "Sums", "maps", "merge", "shards", "work"]

LATER = {
    **dict.fromkeys(("Shard", "shards"), "onnxsal.fleet.cutting"),
    **dict.fromkeys(("Keeping", "work"), "onnxsal.fleet.working"),
    "Sums": "onnxsal.fleet.sums",
    "maps": "onnxsal.fleet.kept_maps",
    "merge": "onnxsal.fleet.merging",
}
"""What is imported when it is first asked for: a process of Ray that waits for work is there sooner."""

__getattr__, __dir__ = imported_later(__name__, globals(), LATER)
