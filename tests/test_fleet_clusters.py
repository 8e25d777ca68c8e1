"""Groups of maps: what was planted is found, one cloud is one group however it is stretched, and too little to tell is said."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import SpectralClustering
from sklearn.metrics import adjusted_rand_score

from onnxsal.errors import InputError
from onnxsal.fleet.clusters import LEAST, NEIGHBOURS, clusters, directions

SIZE = 16


def objects(rng: np.random.Generator, n: int, y: float = 7.5, x: float = 7.5, jitter: float = 1.0, noise: float = 0.2) -> np.ndarray:
    """Maps of an object near a place, [n, 256]."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    down, right = jitter * rng.normal(size=(2, n, 1, 1))
    maps = np.exp(-((rows - y - down) ** 2 + (columns - x - right) ** 2) / 8)
    return (maps + noise * rng.normal(size=maps.shape)).reshape(n, SIZE * SIZE)


def watermarks(rng: np.random.Generator, n: int, noise: float = 0.2) -> np.ndarray:
    """Maps of a mark in the lower right corner, of any strength."""
    maps = np.zeros((n, SIZE, SIZE))
    maps[:, 12:, 11:] = rng.uniform(0.5, 1.5, (n, 1, 1))
    return (maps + noise * rng.normal(size=maps.shape)).reshape(n, SIZE * SIZE)


def on_a_line(rng: np.random.Generator, n: int) -> np.ndarray:
    """An object anywhere along a line: one cloud, as long as it can be."""
    return np.concatenate([objects(rng, 1, x=x, jitter=0.1) for x in rng.uniform(2, 14, n)])


PLANTED = {
    "half": (210, 200),
    "few watermarks": (400, 20),
    "few maps": (35, 30),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_watermark_is_found(name: str):
    rng, sizes = np.random.default_rng(1), PLANTED[name]
    truth = np.repeat([0, 1], sizes)
    order = rng.permutation(len(truth))
    maps = np.concatenate([objects(rng, sizes[0]), watermarks(rng, sizes[1])])[order]
    found = clusters(maps, seed=0)
    np.testing.assert_array_equal(found.labels, truth[order])
    assert [len(m) for m in found.members] == list(sizes)
    assert found.note == ""
    assert found.agreement == 1
    corner = np.abs(found.centres.reshape(-1, SIZE, SIZE)[:, 12:, 11:]).sum((1, 2)) / np.abs(found.centres).sum(1)
    assert corner[1] > 0.4 > 0.15 > corner[0]
    others = np.concatenate([watermarks(rng, 300), objects(rng, 500)])
    np.testing.assert_array_equal(found.assign(others), np.repeat([1, 0], [300, 500]))


def four(rng: np.random.Generator) -> np.ndarray:
    places = [(3, 3), (3, 12), (7.5, 7.5)]
    return np.concatenate([watermarks(rng, 70), *(objects(rng, 60, y, x) for y, x in places)])


@pytest.mark.filterwarnings("ignore:Graph is not fully connected")
def test_four_groups_are_those_of_scikit_learn():
    maps = four(np.random.default_rng(2))
    found = clusters(maps, seed=0)
    model = SpectralClustering(4, affinity="nearest_neighbors", n_neighbors=NEIGHBOURS, random_state=0)
    assert adjusted_rand_score(found.labels, model.fit_predict(directions(maps))) > 0.98
    assert adjusted_rand_score(found.labels, np.repeat([0, 1, 2, 3], [70, 60, 60, 60])) > 0.98
    assert len(found.centres) == 4


@pytest.mark.parametrize("n", [60, 400])
@pytest.mark.parametrize(
    "cloud",
    [
        objects,
        on_a_line,
        lambda rng, n: objects(rng, n, jitter=2.5),
        lambda rng, n: objects(rng, n, jitter=0.0),
        lambda rng, n: rng.normal(size=(n, 256)),
        lambda rng, n: rng.normal(size=(n, 3)) @ rng.normal(size=(3, 256)),
    ],
    ids=["object", "line", "wide", "one place", "noise", "sphere"],
)
def test_one_cloud_is_one_group(cloud: object, n: int):
    found = clusters(cloud(np.random.default_rng(3), n), seed=0)  # type: ignore[operator]
    assert [len(m) for m in found.members] == [n]
    assert found.note == ""
    assert found.eigenvalues[0] == pytest.approx(0, abs=1e-9)


def test_for_and_against_are_two_groups():
    rng = np.random.default_rng(4)
    maps = np.concatenate([objects(rng, 60), -objects(rng, 50)])
    found = clusters(maps, seed=0)
    np.testing.assert_array_equal(found.labels, np.repeat([0, 1], [60, 50]))
    assert found.centres[0] @ found.centres[1] < -0.5


def test_neither_strength_nor_order_matters():
    rng = np.random.default_rng(5)
    maps = four(rng)
    found, order = clusters(maps, seed=0), rng.permutation(len(maps))
    strong = clusters(maps * 10.0 ** rng.uniform(-200, 150, (len(maps), 1)), seed=0)
    np.testing.assert_array_equal(strong.labels, found.labels)
    assert adjusted_rand_score(clusters(maps[order], seed=1).labels, found.labels[order]) > 0.98


def test_centres_and_examples():
    maps = four(np.random.default_rng(6))
    found = clusters(maps, seed=0)
    unit = maps / np.linalg.norm(maps, axis=1, keepdims=True)
    for group, (member, centre, example) in enumerate(zip(found.members, found.centres, found.examples(5), strict=True)):
        mean = unit[member].mean(0)
        np.testing.assert_allclose(centre, mean / np.linalg.norm(mean), rtol=1e-12)
        cosines = unit[member] @ centre
        np.testing.assert_array_equal(example, member[np.argsort(-cosines)[:5]])
        np.testing.assert_allclose(found.closeness[member], cosines, rtol=1e-12)
        assert (found.assign(centre[None]) == group).all()
    np.testing.assert_array_equal(clusters(maps, seed=0).centres, found.centres)
    assert [len(m) for m in found.members] == sorted((len(m) for m in found.members), reverse=True)
    assert [len(e) for e in found.examples(1000)] == [len(m) for m in found.members]


def test_maps_without_a_direction_have_no_group():
    rng = np.random.default_rng(7)
    maps = np.concatenate([objects(rng, 60), watermarks(rng, 60)])
    maps[3], maps[70, 5], maps[90, 9] = 0, np.nan, np.inf
    found = clusters(maps, seed=0)
    assert np.flatnonzero(found.labels < 0).tolist() == [3, 70, 90]
    assert found.closeness[3] == 0
    np.testing.assert_array_equal(found.assign(maps), found.labels)


@pytest.mark.parametrize("n", [0, 1, 11, LEAST - 1])
def test_too_few_maps_are_said(n: int):
    maps = np.concatenate([objects(np.random.default_rng(8), n), np.zeros((3, 256))])
    found = clusters(maps, seed=0)
    assert f"{n} maps are too few" in found.note
    assert found.labels.tolist() == [0] * n + [-1] * 3
    assert len(found.centres) == min(n, 1)
    assert found.assign(maps).tolist() == found.labels.tolist()
    assert len(found.examples(2)) == min(n, 1)


def test_more_groups_than_are_shown_are_said():
    rng = np.random.default_rng(9)
    spots = np.eye(256)[::20][:10].repeat(20, axis=0)
    found = clusters(spots + 0.01 * rng.normal(size=spots.shape), seed=0, most=3)
    assert "10 groups that nothing joins: the 3 largest" in found.note
    assert len(found.centres) == 3
    assert (found.labels >= 0).all()
    assert len(clusters(spots + 0.01 * rng.normal(size=spots.shape), seed=0, most=10).centres) == 10


def test_other_shapes_are_refused():
    rng = np.random.default_rng(10)
    with pytest.raises(InputError, match=r"\[maps, values\], not \[60, 16, 16\]"):
        clusters(rng.normal(size=(60, 16, 16)), seed=0)
    with pytest.raises(InputError, match="at least 1, not 0"):
        clusters(rng.normal(size=(60, 16)), seed=0, most=0)
    with pytest.raises(InputError, match=r"\[4, 9\] are not \[maps, 16\]"):
        clusters(rng.normal(size=(60, 16)), seed=0).assign(np.ones((4, 9)))
