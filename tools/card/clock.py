"""The time that a check may take, shared out among its parts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Clock:
    """So many ``seconds`` in all. What does not fit any more is left out, and named in ``left_out``."""

    def __init__(self, seconds: float) -> None:
        self.begin, self.seconds = time.monotonic(), seconds
        self.left_out: list[str] = []

    @property
    def spent(self) -> float:
        return time.monotonic() - self.begin

    def within(self, share: float, items: Iterable[T], what: str) -> Iterator[T]:
        """The items, as long as one that takes as long as the longest so far would end within this ``share`` of the time.

        The share counts from now; what earlier parts left over is at the disposal of later ones.
        """
        deadline = min(self.spent + share * self.seconds, self.seconds)
        longest, skipped = 0.0, []
        for item in items:
            if self.spent + longest > deadline:
                skipped.append(str(item))
                continue
            begin = self.spent
            yield item
            longest = max(longest, self.spent - begin)
        if skipped:
            self.left_out.append(f"{what}: {', '.join(skipped)}")
