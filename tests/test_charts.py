"""Charts: every line is there and told apart, nothing is cut off, and a plain install says what is missing."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageColor

from onnxsal.ask.request import Ask
from onnxsal.cli.conserve import check_conservation
from onnxsal.errors import InputError
from onnxsal.metrics.conservation import Conservation
from onnxsal.report import charts
from onnxsal.report.charts import COLOURS, GREY, bar_chart, conservation_plot, line_chart
from onnxsal.runtime.libraries import MissingLibraryError

AXIS = np.linspace(0, 1, 30)
LONG = r"lrp_resnet split=ratio identity=share, $\nosuch{$, as the authors have it"


def lines(n: int, name: str = "method") -> dict:
    """Flat lines, one above the other."""
    return {f"{name} {i}": (AXIS + 0.1, np.full(len(AXIS), i + 1.0)) for i in range(n)}


def conserved(cuts: tuple[str, ...] = ("last", "first", "x"), lost: int = 0) -> Conservation:
    score = np.linspace(1, 9, 20)
    sums = np.stack([score * share for share in (1, 0.9, 0.5)], axis=1)
    sums[:lost, 2] = np.nan
    return Conservation("lrp_resnet", score, cuts, sums, sums * 0, sums * 0, cuts[:2])


CHARTS: dict[str, Callable[[], Image.Image]] = {
    "3 lines": lambda: line_chart(lines(3, LONG), "title", LONG, LONG),
    "20 lines": lambda: line_chart(lines(20), LONG * 3, log=True),
    "30 lines": lambda: line_chart(lines(30, LONG), LONG, dotted=list(lines(12, LONG))),
    "bars": lambda: bar_chart({LONG: {LONG: 0.5}, f"{LONG} 2": {"b": 0.2}}, LONG, LONG),
    "conservation": lambda: conservation_plot(conserved(tuple(f"/{LONG * 2}/{i}" for i in range(3)), lost=1)),
}


def pixels(image: Image.Image, colour: str) -> np.ndarray:
    return (np.asarray(image) == ImageColor.getrgb(colour)).all(-1)


@pytest.mark.parametrize("name", CHARTS)
def test_nothing_touches_the_border(name: str) -> None:
    """Whatever the length of names, and whatever signs are in them."""
    image = np.asarray(CHARTS[name]())
    for edge in (image[:4], image[-4:], image[:, :4], image[:, -4:]):
        assert (edge == 255).all()


@pytest.mark.parametrize("log", [False, True])
def test_every_line_is_drawn_in_its_colour(log: bool) -> None:
    """In the axes, where a flat line has a row of its own, and again in the legend."""
    image = line_chart({**lines(8), "random": (AXIS + 0.1, AXIS)}, dotted=["random"], log=log)
    for colour in COLOURS:
        assert pixels(image, colour)[:, :500].sum(axis=1).max() > 300, colour
        assert pixels(image, colour)[:, -130:].any(), colour
    assert 50 < pixels(image, GREY)[:, :560].any(axis=0).sum() < 400, "dotted"


@pytest.mark.parametrize("dotted", [0, 1, 10, 20])
def test_no_two_of_twenty_lines_look_the_same(dotted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same line, drawn in the style of each, gives as many pictures."""
    names = list(lines(20))
    styles = list(charts._styles(names, names[:dotted]))
    assert all((style["linestyle"] == ":") == (style["color"] == GREY) == (i < dotted) for i, style in enumerate(styles))
    for first in range(dotted, 13):
        assert len({style["color"] for style in styles[first : first + 8]}) == 8
    drawn = set()
    for style in styles:
        monkeypatch.setattr(charts, "_styles", lambda *_, style=style: iter([style]))
        drawn.add(line_chart(lines(1)).tobytes())
    assert len(drawn) == 20


def test_no_number_is_a_gap() -> None:
    """No pixel of the line where it has none; a line between the neighbours would be a value that nobody measured."""
    holes = [0.0, np.nan, np.inf]
    gaps = []
    for hole in holes:
        values = np.where((AXIS > 0.4) & (AXIS < 0.6), hole, 0.0) + 1
        columns = np.flatnonzero(pixels(line_chart({"a": (AXIS, values)}), COLOURS[0])[:, :560].any(axis=0))
        gaps.append(np.diff(columns).max())
    assert gaps[0] == 1
    assert min(gaps[1:]) > 70


def test_lines_of_nothing_are_refused() -> None:
    for nothing in ({}, {"a": (AXIS, AXIS * np.nan)}):
        with pytest.raises(InputError, match="finite"):
            line_chart(nothing)
    with pytest.raises(InputError, match="positive"):
        line_chart({"a": (AXIS, AXIS)}, log=True)
    with pytest.raises(InputError, match="at least one value"):
        bar_chart({"a": {}})


def test_bars_are_as_high_as_their_values() -> None:
    image = bar_chart({"first": {"a": 0.5, "b": float("nan")}, "second": {"a": 1.0, "b": 0.25}}, "title", "rho")
    tall, short = (int(pixels(image, colour)[:, :270].sum(axis=0).max()) for colour in COLOURS[:2])
    assert tall == pytest.approx(260, abs=2)
    assert short == pytest.approx(65, abs=2)
    assert pixels(image, charts.ALARM).any(), "the cross of the NaN"
    nine = pixels(bar_chart({"one": {f"series {i}": 0.5 for i in range(9)}}), COLOURS[0])[:290].sum(axis=0)
    assert (nine > 120).sum() > 5, "the first is full"
    assert ((nine > 40) & (nine < 120)).sum() > 5, "the ninth, of the same colour, is hatched"


def test_colours_are_told_apart_by_colour_blind_readers() -> None:
    """CIE 1976 difference of any two, as seen without one kind of cone (Machado et al. 2009, severity 1); 2.3 is just noticed."""
    seen = {
        "all": np.eye(3),
        "no red": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
        "no green": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
        "no blue": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
    }
    share = np.array([ImageColor.getrgb(colour) for colour in COLOURS]) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
    assert (1.05 / (linear @ to_xyz[1] + 0.05) > 2).all(), "contrast on white"
    for eye, matrix in seen.items():
        xyz = np.clip(linear @ matrix.T, 0, 1) @ to_xyz.T / (0.95047, 1, 1.08883)
        x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
        lab = np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)) > 15, eye


def test_threads_draw_what_one_draws() -> None:
    with ThreadPoolExecutor(4) as pool:
        for name, drawn in zip(CHARTS, pool.map(lambda make: make(), CHARTS.values()), strict=True):
            np.testing.assert_array_equal(np.asarray(drawn), np.asarray(CHARTS[name]()), err_msg=name)
    assert "plt" not in Path(charts.__file__).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", CHARTS)
def test_a_plain_install_says_what_a_chart_needs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingLibraryError, match=r"needs matplotlib.*pip install 'onnxsal\[plot\]'"):
        CHARTS[name]()


def test_a_plain_install_is_told_before_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingLibraryError, match=r"onnxsal\[plot\]"):
        check_conservation(Ask(b""), [tmp_path / "none"], tmp_path / "plot.png", False)


def test_sheets_and_commands_need_no_matplotlib() -> None:
    code = """
import sys
sys.modules["matplotlib"] = None
import numpy as np
import onnxsal.cli.app, onnxsal.cli.demo, onnxsal.cli.explain, onnxsal.cli.conserve
from onnxsal.report.contact.html_page import contact_page
from onnxsal.report.contact.table import PictureRow, Tile, contact_sheet
from onnxsal.report.sheet import tile
from onnxsal.runtime.heatmap import overlay, scale_map
from onnxsal.runtime.shown import ShownPicture
picture = np.zeros((8, 8, 3), np.uint8)
row = PictureRow("p", ShownPicture(picture), "", {"m": Tile(scale_map(np.eye(8)))})
print(tile([picture]).size, overlay(picture, np.eye(8)).size == (8, 8) and b"<html" in contact_page(contact_sheet("t", [row]), "0"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "(32, 32) True"), done.stderr
