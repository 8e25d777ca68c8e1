"""``onnxsal check --conservation``: sums of relevance on pictures, arrays or random inputs, as a table and a scatter plot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.ask.request import Ask
from onnxsal.cli.shell import say, show, show_json, show_table
from onnxsal.disk import replaces
from onnxsal.errors import InputError
from onnxsal.explainer import Explainer
from onnxsal.given.from_files import file_names, find_inputs, samples
from onnxsal.metrics.conservation import COLUMNS, Conservation, conservation
from onnxsal.report.charts import conservation_plot
from onnxsal.runtime.libraries import library
from onnxsal.runtime.pictures import save_picture
from onnxsal.runtime.progress import progress

RANDOM = 8
"""Random inputs where none are given."""


def check_conservation(ask: Ask, on: Sequence[Path], plot: Path | None, json: bool) -> None:
    """Run, tell, and write the plot."""
    if plot is not None:
        library("matplotlib")  # missing, it is said before the work, not after
        replaces(plot)
    files = find_inputs(on)
    with progress(f"building relevance into {ask.name}"):
        explainer = Explainer.of(replace(ask, batch_size=1, components=True))
    with progress("summing relevance", len(files) or RANDOM) as step:
        feeds = _read(files, ask, explainer, step) if files else _random(explainer, step)
        result = conservation(explainer, feeds)
    written = None if plot is None else str(save_picture(conservation_plot(result), plot))
    if json:
        show_json(result.as_dict() | {"plot": written})
    else:
        _tell(result, len(result.score), bool(files), written)
    for warning in result.warnings:
        say(warning, "warning")


def _read(files: Sequence[Path], ask: Ask, explainer: Explainer, step: Any) -> Iterator[dict[str, np.ndarray]]:
    for sample in samples(files, file_names(files) if files else [], ask, explainer.fed, step):
        yield sample.feed


def _random(explainer: Explainer, step: Any) -> Iterator[dict[str, np.ndarray]]:
    """Standard normal inputs, one by one."""
    rng = np.random.default_rng(0)
    for number in range(RANDOM):
        step(f"random input {number + 1}")
        one = {}
        for tensor in explainer.inputs:
            sizes = [1 if axis == 0 and not isinstance(d, int) else d for axis, d in enumerate(tensor.shape or [None])]
            if tensor.dtype is None or tensor.dtype.kind != "f" or not all(isinstance(d, int) for d in sizes):
                raise InputError(
                    f"input {tensor} has no fixed shape of floating-point numbers, so it cannot be drawn at random. Give --example FILE."
                )
            one[tensor.name] = rng.standard_normal([int(d) for d in sizes if d is not None]).astype(tensor.dtype)
        yield one


def _tell(result: Conservation, count: int, given: bool, written: str | None) -> None:
    show(f"{result.method} on {count} {'samples' if given else 'random inputs'}; relevance from the score to the input:\n")
    show_table(COLUMNS, result.rows(), COLUMNS[1:6])
    least, most = (f"{share:.1%}" for share in (result.reached.min(), result.reached.max()))
    reached = least if least == most else f"{least} to {most}"
    show(f"\nworst unaccounted rest {result.accounted.max():.1e} of the score; {reached} of it reaches the input")
    if written:
        show(f"plot: {written}")
