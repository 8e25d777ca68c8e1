"""Kinds of data, and their nouns: whoever speaks of data in a sentence asks here what they are called."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class DataKind:
    """``one`` of ``many`` samples; what a method finds for each is a ``map`` (several ``maps``), with a number for each ``place`` of its
    ``places``. ``named``: its places have names of their own, which are the same in every sample.
    """

    one: str
    many: str
    place: str
    places: str
    map: str
    maps: str
    named: bool = False

    def say(self, text: str) -> str:
        """A text of ours with these nouns for {one}, {many}, {place}, {places}, {map} and {maps}; other braces stay."""
        return re.sub(r"\{(one|many|place|places|map|maps)\}", lambda found: str(getattr(self, found[1])), text)

    @property
    def heading(self) -> str:
        """The samples, as a heading begins."""
        return self.many.capitalize()

    def count(self, number: int) -> str:
        """So many samples."""
        return f"{number} {self.one if number == 1 else self.many}"


PICTURES = DataKind("picture", "pictures", "pixel", "pixels", "map", "maps")
ROWS = DataKind("row", "rows", "column", "columns", "attribution", "attributions", named=True)
VALUES = DataKind("sample", "samples", "place", "places", "map", "maps")
"""Series, volumes, tokens, and vectors whose numbers nobody has named."""
