"""Palettes: equal steps to the eye, lightness that runs one way, and colours that people without one kind of cone tell apart."""

from __future__ import annotations

import numpy as np
import pytest

from onnxsal.runtime.palettes import CORNERS, colours, from_oklab, oklab, path

SEEN = {
    "all": np.eye(3),
    "no red": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "no green": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
    "no blue": np.array([[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]),
}
"""Linear sRGB as seen without one kind of cone (Machado, Oliveira and Fernandes 2009, severity 1)."""

UNIFORM = ("diverging", "heat")


def linear(pixels: np.ndarray) -> np.ndarray:
    share = pixels / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def lab(pixels: np.ndarray, eye: str = "all") -> np.ndarray:
    """CIE 1976 L*a*b* (D65) of sRGB 0..255: a second opinion, of another space than the palettes are made in."""
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
    xyz = np.clip(linear(pixels) @ SEEN[eye].T, 0, 1) @ to_xyz.T / (0.95047, 1, 1.08883)
    x, y, z = np.moveaxis(np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116), -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1)


@pytest.mark.parametrize(
    ("pixel", "place"),
    [([255, 255, 255], [1, 0, 0]), ([255, 0, 0], [0.62796, 0.22486, 0.12585]), ([0, 0, 255], [0.45201, -0.03246, -0.31153])],
)
def test_known_colours_in_oklab(pixel: list[int], place: list[float]) -> None:
    """Published places of white, red and blue."""
    np.testing.assert_allclose(oklab(np.array(pixel)), place, atol=2e-4)
    np.testing.assert_allclose(from_oklab(np.array(place)), pixel, atol=0.7)


@pytest.mark.parametrize("palette", UNIFORM)
def test_a_palette_has_equal_steps(palette: str) -> None:
    """In OKLab; shorter only where the path turns, never by more than a corner cuts off. Nothing was clipped by sRGB."""
    steps = np.linalg.norm(np.diff(oklab(path(palette)), axis=0), axis=1)
    usual = np.median(steps)
    turns = np.abs(steps / usual - 1) > 0.02
    assert turns.sum() <= 2 * (len(CORNERS[palette]) - 2)
    assert steps.max() < 1.02 * usual
    assert steps[turns].min(initial=usual) > 0.7 * usual


@pytest.mark.parametrize("palette", UNIFORM)
@pytest.mark.parametrize("eye", SEEN)
def test_lightness_runs_one_way_for_every_eye(palette: str, eye: str) -> None:
    values = np.linspace(0, 1, 65)
    up = lab(colours(values, "heat").astype(float), eye)[:, 0]
    if palette == "diverging":
        for sign in (-1, 1):
            up = -lab(colours(sign * values, palette).astype(float), eye)[:, 0]
            assert np.diff(up).min() > 0
    assert np.diff(up).min() > 0


@pytest.mark.parametrize("eye", SEEN)
def test_signs_are_told_apart_by_every_eye(eye: str) -> None:
    """From a tenth of the strongest value on; 2.3 is just noticed. Both signs of a value are as light, so neither looks stronger."""
    values = np.linspace(0.1, 1, 10)
    blue, red = (colours(sign * values, "diverging").astype(float) for sign in (-1, 1))
    assert np.linalg.norm(lab(blue, eye) - lab(red, eye), axis=1).min() > 5
    assert np.linalg.norm(lab(blue, eye) - lab(red, eye), axis=1)[-1] > 40
    np.testing.assert_allclose(oklab(blue)[:, 0], oklab(red)[:, 0], atol=0.005)


@pytest.mark.parametrize("eye", SEEN)
def test_every_step_of_heat_is_seen_by_every_eye(eye: str) -> None:
    """Sixteen steps; a difference of 2.3 is just noticed."""
    seen = lab(colours(np.linspace(0, 1, 17), "heat").astype(float), eye)
    assert np.linalg.norm(np.diff(seen, axis=0), axis=1).min() > 2.3
