"""What a run would take, from one shard of it: time and storage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxsal.fleet.cutting import Shard
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.job import Receipt


@dataclass(frozen=True)
class Costs:
    """What one shard of so many ``rows`` took: ``seconds`` of one worker, ``bytes`` written."""

    rows: int
    seconds: float
    bytes: int

    @property
    def rate(self) -> float:
        """Samples a second by one worker."""
        return self.rows / max(self.seconds, 1e-9)

    def facts(self, total: int, workers: int) -> dict[str, Any]:
        """What ``total`` samples take: worker hours, hours on so many workers, and bytes."""
        hours = total / self.rate / 3600
        stored = round(self.bytes / max(self.rows, 1) * total)
        known = {"samples": total, "workers": workers, "samples_per_second_and_worker": self.rate}
        return {**known, "worker_hours": hours, "hours": hours / workers, "bytes": stored}

    def words(self, total: int, workers: int) -> list[tuple[str, str]]:
        """The same for people."""
        facts = self.facts(total, workers)
        return [
            ("samples", f"{total:,}"),
            ("worker hours", f"{facts['worker_hours']:.3g}"),
            (f"hours on {workers} worker{'' if workers == 1 else 's'}", f"{facts['hours']:.3g}"),
            ("storage", amount(facts["bytes"])),
            ("price", "worker hours x what an hour of your machine costs"),
        ]


def amount(size: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"
        size /= 1000
    raise AssertionError


def costs_of(place: Folder, keys: Sequence[str], shard: Shard, receipt: Receipt) -> Costs:
    """What a shard took that was done."""
    parts = tuple(f"{key}-{shard.name}." for key in keys)
    folders = ("stats", "maps", "sums", "audit")
    stored = [one for folder in folders for one in place.files(folder) if one.name.rpartition("/")[2].startswith(parts)]
    return Costs(receipt.rows, receipt.seconds, sum(one.size for one in stored))
