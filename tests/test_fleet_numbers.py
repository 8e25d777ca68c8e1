"""The numbers and the small maps that are kept of an explanation, against their formulas written out another way."""

from __future__ import annotations

import math

import numpy as np
import pytest

from onnxsal.explanation import Explanation
from onnxsal.fleet.numbers import NUMBERS, SIDE, TITLES, cell_means, map_png, map_values, numbers_of, small_map


def explanation(attribution: np.ndarray, saliency: np.ndarray | None = None, **more: np.ndarray) -> Explanation:
    one = np.zeros(1, np.int64), np.array([2.5], np.float32)
    return Explanation(attribution[None], None if saliency is None else saliency[None], *one, more.get("residual"), {}, [], 0.0, "m")


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(3, 40, 56), (1, 7, 5), (2, 16, 16)])
def test_numbers_of_a_picture(shape: tuple[int, int, int]):
    """By loops and sorting in place of sums over axes and partitions."""
    signed, saliency = drawn(*shape), drawn(*shape[1:], seed=1)
    found = numbers_of(explanation(signed, saliency, residual=np.array([1e-4], np.float32)))
    size = np.abs(saliency.astype(np.float64))
    flat = sorted((size / size.sum()).ravel().tolist(), reverse=True)
    height, width = size.shape
    edge = [max(1, round(side * 0.1)) for side in size.shape]
    places = [(y, x, size[y, x] / size.sum()) for y in range(height) for x in range(width)]
    inside = [p for y, x, p in places if edge[0] <= y < height - edge[0] and edge[1] <= x < width - edge[1]]
    wanted = {
        "score": 2.5,
        "residual": float(np.float32(1e-4)),
        "reached": math.nan,
        "total": math.fsum(abs(float(v)) for v in signed.ravel()),
        "positive": math.fsum(float(v) for v in signed.ravel() if v > 0),
        "negative": math.fsum(float(v) for v in signed.ravel() if v < 0),
        "concentration": math.fsum(flat[: max(1, round(len(flat) * 0.1))]),
        "entropy": -math.fsum(p * math.log(p) for p in flat) / math.log(len(flat)),
        "rim": 1 - math.fsum(inside),
        "centre_y": math.fsum(p * (y + 0.5) for y, _, p in places) / height,
        "centre_x": math.fsum(p * (x + 0.5) for _, x, p in places) / width,
    }
    assert set(found) == set(wanted) == set(NUMBERS) == set(TITLES)
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=1e-12, nan_ok=True), name


def test_a_map_in_one_corner_is_told():
    saliency = np.zeros((20, 20), np.float32)
    saliency[0, 19] = 3
    found = numbers_of(explanation(drawn(3, 20, 20), saliency))
    assert (found["concentration"], found["rim"], found["entropy"]) == (1.0, 1.0, 0.0)
    assert (found["centre_y"], found["centre_x"]) == (0.025, 0.975)


def test_an_even_map_is_told():
    found = numbers_of(explanation(drawn(3, 20, 20), np.ones((20, 20), np.float32)))
    assert found["entropy"] == pytest.approx(1.0, abs=1e-12)
    assert found["concentration"] == pytest.approx(0.1, abs=1e-12)
    assert found["rim"] == pytest.approx(1 - 16 * 16 / 400, abs=1e-12)


@pytest.mark.parametrize("saliency", [np.zeros((6, 6), np.float32), None])
def test_nothing_has_no_shares(saliency: np.ndarray | None):
    found = numbers_of(explanation(np.zeros((3, 6, 6), np.float32), saliency))
    assert found["total"] == 0
    assert all(math.isnan(found[name]) for name in ("concentration", "entropy", "rim", "centre_x", "centre_y"))


def test_a_row_has_numbers_without_places():
    found = numbers_of(explanation(np.array([1.0, -2.0, 0.5, 0.0], np.float32)))
    assert (found["positive"], found["negative"], found["total"]) == (1.5, -2.0, 3.5)
    assert found["concentration"] == pytest.approx(2 / 3.5)
    assert math.isnan(found["rim"])


@pytest.mark.parametrize("shape", [(224, 224), (17, 33), (16, 16), (5, 40)])
def test_cells_are_means(shape: tuple[int, int]):
    """Weighted by their sizes they give the mean of all; a constant stays what it is."""
    values = drawn(*shape).astype(np.float64)
    found = cell_means(values, SIDE)
    assert found.shape == tuple(min(SIDE, side) for side in shape)
    edges = [np.diff(np.linspace(0, side, min(SIDE, side) + 1).round().astype(int)) for side in shape]
    assert (found * np.outer(*edges)).sum() == pytest.approx(values.sum(), rel=1e-12)
    assert np.allclose(cell_means(np.full(shape, 3.0), SIDE), 3.0, rtol=0, atol=1e-12)


def test_small_maps():
    saliency = drawn(32, 32)
    small = small_map(explanation(drawn(3, 32, 32), saliency))
    assert small is not None
    assert np.allclose(small, saliency.reshape(16, 2, 16, 2).mean((1, 3)), atol=1e-6)
    row = small_map(explanation(np.arange(4, dtype=np.float32)))
    assert row is not None
    assert row.tolist() == [0, 1, 2, 3]
    assert small_map(explanation(drawn(1025))) is None


@pytest.mark.parametrize("signed", [False, True])
def test_a_map_comes_back_out_of_its_picture(signed: bool):
    values = drawn(24, 40) if signed else np.abs(drawn(24, 40))
    drawn_map = map_png(explanation(drawn(3, 24, 40), values))
    assert drawn_map is not None
    assert np.abs(map_values(*drawn_map) - values).max() <= np.abs(values).max() / 510 * 1.001
    small = map_png(explanation(drawn(3, 24, 40), values), 10)
    assert small is not None
    assert np.abs(map_values(*small) - cell_means(values.astype(np.float64), 10)).max() <= np.abs(values).max() / 500


def test_what_is_no_map_of_a_picture_has_no_picture():
    assert map_png(explanation(drawn(4))) is None
    assert map_png(explanation(drawn(3, 4, 4), np.full((4, 4), np.inf, np.float32))) is None
