"""Where a map lies on the original: for every crop and every turn its strongest place is where the model's is."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from onnxsal.runtime.figures import draw_on, svg_of
from onnxsal.runtime.heatmap import overlay_on, scale_map
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.shown import ShownPicture, ShownValues

WAYS = {
    "resized": {"resize": (16, 16)},
    "shorter side, centre": {"resize": 24, "crop": (16, 16)},
    "centre only": {"crop": (16, 24)},
    "share of the centre": {"crop_pct": 0.8, "resize": (16, 16)},
    "all of it": {},
    "enlarged": {"resize": (120, 160)},
    "grey": {"channels": "GRAY", "resize": (20, 20)},
}
SIZES = [(60, 40), (40, 60), (41, 57), (200, 30)]


def shown_of(way: str, size: tuple[int, int], folder: Path, turn: int = 1) -> ShownPicture:
    """A grey picture of that size, stored with an EXIF turn."""
    picture, exif = Image.new("RGB", size, (90, 90, 90)), Image.Exif()
    exif[0x0112] = turn
    picture.save(folder / "one.png", exif=exif)
    return Preprocess(scale=1, **WAYS[way]).shown(folder / "one.png")  # type: ignore[arg-type]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", SIZES)
def test_the_strongest_place_lies_where_the_model_saw_it(way: str, size: tuple[int, int], tmp_path: Path) -> None:
    """A blob anywhere in the map: the centre of what is covered is the blob's centre, by the box, within a pixel of the coarser grid."""
    rng = np.random.default_rng(0)
    for turn in (1, 3, 6, 8):
        if way == "centre only" and min(size) < 24:
            continue  # it does not fit
        shown = shown_of(way, size, tmp_path, turn)
        assert shown.original is not None
        assert shown.box is not None
        upright = size if turn in (1, 3) else size[::-1]
        assert shown.original.size == upright
        height, width = shown.seen.shape[:2]
        at = rng.uniform(0.2, 0.8, 2) * (height, width)
        down, across = np.mgrid[:height, :width] + 0.5
        spread = max(height, width) / 12
        blob = np.exp(-((down - at[0]) ** 2 + (across - at[1]) ** 2) / (2 * spread**2))
        bare = np.asarray(overlay_on(shown, np.zeros((height, width)))).astype(float)
        strength = np.abs(np.asarray(overlay_on(shown, blob)).astype(float) - bare).sum(-1)
        left, top, right, bottom = shown.box
        enlarged = bare.shape[1] / upright[0]
        wanted = np.array([top + at[0] / height * (bottom - top), left + at[1] / width * (right - left)]) * enlarged
        centre = np.argwhere(strength > 0.9 * strength.max()).mean(0) + 0.5
        pixel = enlarged * np.array([(bottom - top) / height, (right - left) / width])
        np.testing.assert_array_less(np.abs(centre - wanted), np.maximum(1.2 * pixel, 1.2), err_msg=f"{way} {size} turned {turn}")


def test_what_the_model_did_not_see_is_dimmed_and_the_rest_is_as_it_was() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 80, 3), np.uint8)
    shown = Preprocess(scale=1, crop=(30, 40)).shown(Image.fromarray(pixels))
    found = np.asarray(overlay_on(shown, np.zeros((30, 40)))).astype(int)
    assert found.shape == pixels.shape
    np.testing.assert_array_equal(found[5:35, 20:60], pixels[5:35, 20:60])
    assert np.ptp(found[:, :18], axis=-1).max() == 0, "grey"
    assert found[:, :18].std() < 0.6 * pixels[:, :18].std()
    assert (found[4, 19:61] == 255).all(), "a line around it"


@pytest.mark.parametrize(("size", "expected"), [((8, 8), (32, 32)), ((20, 7), (100, 35)), ((64, 48), (64, 48))])
def test_an_original_smaller_than_what_the_model_saw_is_enlarged(size: tuple[int, int], expected: tuple[int, int]) -> None:
    shown = Preprocess(scale=1, resize=(32, 32)).shown(Image.new("RGB", size))
    assert overlay_on(shown, np.eye(32)).size == expected


def test_a_large_original_keeps_its_size_unless_a_bound_is_set() -> None:
    shown = Preprocess(scale=1, resize=(32, 32)).shown(Image.new("RGB", (900, 600)))
    assert overlay_on(shown, np.eye(32)).size == (900, 600)
    assert overlay_on(shown, np.eye(32), longest=300).size == (300, 200)


@pytest.mark.parametrize("shape", [(16, 20), (40,), (3, 6, 7)])
def test_one_explanation_is_drawn_on_axes(shape: tuple[int, ...]) -> None:
    """On axes of one's own, with what is shown or without; as SVG it says whose it is and is the same every time."""
    values = np.random.default_rng(0).standard_normal(shape)
    beside = ShownPicture(np.zeros((*shape, 3), np.uint8)) if len(shape) == 2 else ShownValues(np.ones((2, *shape)), 10.0)
    for shown in ((), (beside,)):
        made = []
        for _ in range(2):
            axes = Figure().add_subplot()
            assert draw_on(axes, SimpleNamespace(saliency_map=values[None], shown=shown)) is axes
            assert axes.images
            made.append(svg_of(axes.figure))
        assert made[0] == made[1]
        assert b"<dc:title>onnxsal" in made[0]
    if len(shape) == 1:
        assert axes.get_xlabel() == "seconds"
        assert axes.get_xlim() == pytest.approx((-0.05, 3.95))


def test_a_series_is_tinted_where_its_map_is_strong() -> None:
    values = np.zeros(50)
    values[30:35] = 1
    axes = draw_on(Figure().add_subplot(), SimpleNamespace(saliency_map=values[None], shown=(ShownValues(np.ones((1, 50))),)))
    tinted = [i for i in axes.images if np.asarray(i.get_array()).shape[1] == 50][-1]
    coloured = np.flatnonzero((np.asarray(tinted.get_array())[0] < 255).any(-1))
    assert coloured.tolist() == list(range(30, 35))
    assert scale_map(values, places=1).palette == "heat"
    assert list(itertools.islice(tinted.get_extent(), 2)) == [-0.5, 49.5]
