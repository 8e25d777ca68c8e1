"""Warnings about many samples, each said once."""

from __future__ import annotations

import re
from collections.abc import Iterable

_NUMBER = re.compile(r"[-+]?[0-9][0-9,]*(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?%?")

_SAMPLE = re.compile(r"sample ([0-9]+): ")
"""How a batch says which sample a warning is about."""


def gathered(warnings: Iterable[tuple[str, str]], count: int) -> list[str]:
    """(sample, warning) of ``count`` samples -> each warning once, with how many samples it is about: "20 of 20: ...".

    Warnings that differ in their numbers only are one, told with the numbers of the first; one about a single sample names it.
    """
    found: dict[str, dict[str, str]] = {}
    for sample, warning in warnings:
        found.setdefault(_NUMBER.sub("#", warning), {}).setdefault(sample, warning)
    return [_told(by, count) for by in found.values()]


def _told(by: dict[str, str], count: int) -> str:
    sample, warning = next(iter(by.items()))
    if len(by) == 1:
        return f"{sample}: {warning}" if count > 1 else warning
    differ = len(set(by.values())) > 1
    return f"{len(by)} of {count}: {warning}" + (f" ({sample}; the others with numbers of their own)" if differ else "")


def by_sample(warnings: Iterable[str], names: list[str]) -> list[tuple[str, str]]:
    """The warnings of a batch with the names of the samples that they are about; one about all of them with each name."""
    pairs = []
    for warning in warnings:
        match = _SAMPLE.match(warning)
        some = names if match is None else [names[int(match[1])]]
        pairs += [(name, warning if match is None else warning[match.end() :]) for name in some]
    return pairs
