"""Heat maps: scaling, colours, overlays and tiles, by their numbers; none of it may invent or hide structure."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from onnxsal.errors import InputError
from onnxsal.report.sheet import tile
from onnxsal.runtime.heatmap import PALETTES, overlay, render_map, scale_map
from onnxsal.runtime.palettes import colours, path

RAMP = np.linspace(0, 1, 101)[None]
SIGNED = np.linspace(-2, 1, 100).reshape(10, 10)
PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)

# ----- scaling -----


def test_a_signed_map_keeps_zero_in_the_middle():
    scaled = scale_map(SIGNED, percentile=100)
    assert (scaled.palette, scaled.low, scaled.high, scaled.flat) == ("diverging", -2, 2, False)
    np.testing.assert_allclose(scaled.values, SIGNED / 2)


def test_an_unsigned_map_runs_from_its_minimum():
    scaled = scale_map(RAMP + 3, percentile=100)
    assert (scaled.palette, scaled.low, scaled.high) == ("heat", 3, 4)
    np.testing.assert_allclose(scaled.values, RAMP)
    assert scale_map(RAMP, "diverging").palette == "diverging"


def test_outliers_are_clipped_at_the_percentile():
    values = np.append(np.linspace(0, 1, 999), 1000.0).reshape(20, 50)
    scaled = scale_map(values)
    assert scaled.high == pytest.approx(np.percentile(values, 99.5))
    assert scaled.values.max() == 1
    assert scale_map(values, percentile=100).high == 1000
    assert scale_map(-values).low == pytest.approx(-np.percentile(values, 99.5))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_map_with_one_value_that_is_not_zero_is_not_clipped_away(sign):
    sparse = np.zeros((50, 50))
    sparse[3, 4] = sign * 7.0
    scaled = scale_map(sparse)
    assert not scaled.flat
    assert scaled.values[3, 4] == sign


@pytest.mark.parametrize("constant", [0.0, 5.0, -5.0])
def test_a_constant_map_is_flat_and_says_so(constant):
    scaled = scale_map(np.full((4, 6), constant))
    assert scaled.flat
    assert scaled.low == scaled.high == constant
    assert np.all(scaled.values == 0)


def test_rounding_is_not_blown_up():
    noise = np.random.default_rng(0).standard_normal((8, 8))
    assert scale_map(np.float32(0.1) + 1e-8 * noise).flat
    assert not scale_map(0.1 + 1e-4 * noise).flat
    assert not scale_map(1e-12 * noise).flat


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[1.0, np.nan]]), "1 NaN or infinite of 2 values"),
        (np.array([[np.inf, np.nan]]), "2 NaN or infinite of 2 values"),
        (np.zeros((3, 4, 4)), r"is \[H, W\]; this one has shape \[3, 4, 4\]"),
        (np.zeros((0, 4)), r"shape \[0, 4\]"),
    ],
)
def test_a_map_that_cannot_be_drawn(values, message):
    for draw in (scale_map, render_map, lambda m: overlay(PICTURE, m)):
        with pytest.raises(InputError, match=message):
            draw(values)


def test_settings_are_checked():
    with pytest.raises(InputError, match="did you mean 'diverging'"):
        scale_map(RAMP, "divergent")
    with pytest.raises(InputError, match="percentile"):
        scale_map(RAMP, percentile=0)


# ----- colours -----


def luminance(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(float) @ [0.299, 0.587, 0.114]


def test_diverging_is_blue_white_red():
    blue, white, red = colours(np.array([-1.0, 0.0, 1.0]), "diverging").astype(int)
    assert blue[2] > blue[0]
    assert red[0] > red[2]
    assert white.tolist() == [255, 255, 255]
    ramp = luminance(colours(np.linspace(-1, 1, 201), "diverging"))
    assert np.all(np.diff(ramp[:101]) >= 0)
    assert np.all(np.diff(ramp[100:]) <= 0)


def test_heat_grows_brighter():
    assert np.all(np.diff(luminance(colours(np.linspace(0, 1, 256), "heat"))) > -0.6)


def test_white_black_has_255_levels_and_ends_in_white_and_black():
    fine = colours(np.linspace(0, 1, 100_001), "white_black")
    assert fine[0].tolist() == [255, 255, 255]
    assert fine[-1].tolist() == [0, 0, 0]
    assert len(np.unique(fine[:, 0])) == 255
    assert np.all(fine[:, 0] == fine[:, 1])
    assert np.all(np.diff(fine[:, 0].astype(int)) <= 0)


@pytest.mark.parametrize("palette", PALETTES)
def test_a_rendered_map_has_one_pixel_a_value(palette):
    image = render_map(SIGNED, palette)
    assert image.size == (10, 10)
    assert image.mode == "RGB"
    first, last = np.asarray(image)[0, 0].tolist(), np.asarray(image)[-1, -1].tolist()
    ends = np.rint(path(palette)[[0, -1]]).astype(int).tolist()
    assert first == ends[0]
    assert (last == ends[1]) == (palette != "diverging")


# ----- overlays -----


def test_an_overlay_covers_the_strong_and_shows_the_weak():
    values = np.zeros((40, 60))
    values[:, 30:] = 1
    left, right = np.split(np.asarray(overlay(PICTURE, values)).astype(float), 2, axis=1)
    assert np.corrcoef(luminance(left).ravel(), luminance(PICTURE[:, :30]).ravel())[0, 1] > 0.99
    assert np.abs(right - colours(np.array(1.0), "heat")).mean() < 35


def test_an_overlay_of_a_flat_map_is_the_picture():
    for value in (0.0, 3.0, -3.0):
        np.testing.assert_array_equal(overlay(PICTURE, np.full((40, 60), value)), PICTURE)


@pytest.mark.parametrize("palette", ["heat", "diverging"])
def test_an_overlay_leaves_weak_places_as_they_are(palette):
    """Bit for bit where the map is below a fifth of its strongest value; from seven tenths on the same colour, whatever lies below."""
    values = np.linspace(-1 if palette == "diverging" else 0, 1, 60)[None].repeat(40, 0)
    found = np.asarray(overlay(PICTURE, values, palette, 100)).astype(int)
    weak, strong = np.abs(values[0]) < 0.2, np.abs(values[0]) > 0.72
    np.testing.assert_array_equal(found[:, weak], PICTURE[:, weak])
    assert np.ptp(found[:, strong], axis=0).max() <= 0.15 * 255 + 2
    assert np.ptp(found[:, weak], axis=0).min() > 150


def test_signs_keep_their_colours_on_the_picture():
    values = np.full((40, 60), 0.5)
    values[:20] = -0.5
    top, bottom = np.split(np.asarray(overlay(PICTURE, values)).astype(float), 2)
    assert top[..., 2].mean() > top[..., 0].mean() + 30
    assert bottom[..., 0].mean() > bottom[..., 2].mean() + 30


def test_a_coarse_map_is_enlarged_where_it_belongs():
    coarse = np.zeros((4, 6))
    coarse[0, 5] = 1
    strength = np.abs(np.asarray(overlay(PICTURE, coarse)).astype(float) - np.asarray(overlay(PICTURE, np.zeros((4, 6))))).sum(-1)
    assert strength[:10, 50:].mean() > 20
    assert strength[20:].max() == strength[:, :40].max() == 0


def test_a_map_of_another_part_of_the_picture_is_refused():
    with pytest.raises(InputError, match="a map of 40x40 does not lie on a picture of 40x60"):
        overlay(PICTURE, np.eye(40))
    with pytest.raises(InputError, match="RGB bytes"):
        overlay(PICTURE / 255, SIGNED)


def test_an_overlay_takes_a_pil_picture():
    np.testing.assert_array_equal(overlay(Image.fromarray(PICTURE), np.eye(40, 60)), overlay(PICTURE, np.eye(40, 60)))


# ----- tiles -----


def test_long_titles_wrap_and_do_not_shift_the_pictures():
    sheet = np.asarray(tile([PICTURE, PICTURE], ["x", "a_very_long_method_name_without_any_space and more words"]))
    starts = [
        (y, x) for y, x in np.argwhere((sheet[:-40] == PICTURE[0, 0]).all(-1)) if np.array_equal(sheet[y : y + 40, x : x + 60], PICTURE)
    ]
    assert len(starts) == 2
    assert starts[0][0] == starts[1][0]


def test_tiles_make_a_grid():
    pictures = [np.full((20, 30, 3), 40 * i, np.uint8) for i in range(5)]
    grid = np.asarray(tile(pictures, columns=3))
    assert grid.shape == (12 + 20 + 12 + 20 + 12, 12 + 30 + 12 + 30 + 12 + 30 + 12, 3)
    assert [int(grid[y, x, 0]) for y in (13, 45) for x in (13, 55, 97)] == [0, 40, 80, 120, 160, 255]
    assert tile(pictures, [f"alpha {i}" for i in range(5)]).height > grid.shape[0]
    assert tile(pictures[:1], width=90).width == 90 + 24


@pytest.mark.parametrize("make", [lambda: tile([]), lambda: tile([PICTURE], ["a", "b"])])
def test_empty_or_uneven_tiles_are_refused(make):
    with pytest.raises(InputError):
        make()
