"""Groups of maps that look alike, found on a sample (SpRAy), and the group of every other map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxsal.errors import InputError
from onnxsal.runtime.libraries import library

NEIGHBOURS = 10
"""Neighbours of a map in the graph. A group has more members than this, or it is no group."""

LEAST = 50
"""Maps that it takes to look for groups."""

GAP = 6.0
"""An eigenvalue this many times the one before shows groups. One cloud, however stretched, has 4 at most: on a line l_k ~ (k - 1)^2, on a
circle l_2 = l_3 = l_4 / 4, on a sphere l_2 = l_3 = l_4 = l_5 / 3."""

ZERO = 1e-6
"""Eigenvalues below this count as zero."""

AT_ONCE = 2**15
"""Maps that are compared with the centres at a time."""


@dataclass(frozen=True, eq=False)
class Clusters:
    """Groups of n maps of k values, the largest group first.

    ``centres`` [c, k]: the mean direction of the members, of length 1. ``labels`` int64 [n]: the group of each map, -1 for a map without
    a direction (zero everywhere, or not finite). ``closeness`` [n]: the cosine between a map and the centre of its group (0 for -1).
    ``eigenvalues``: the smallest of the Laplacian, the gap behind the c-th of which told the number of groups (none where the maps were
    too few). ``agreement``: the share of maps with a group whose nearest centre is that group's: how well ``assign`` knows the groups.
    ``note`` says what was in the way, '' where nothing was.
    """

    centres: np.ndarray
    labels: np.ndarray
    closeness: np.ndarray
    eigenvalues: tuple[float, ...]
    note: str
    agreement: float

    @property
    def members(self) -> tuple[np.ndarray, ...]:
        """The maps of each group, by their place, in order."""
        return tuple(np.flatnonzero(self.labels == group) for group in range(len(self.centres)))

    def assign(self, maps: np.ndarray) -> np.ndarray:
        """The group of each of ``maps`` [m, k], int64 [m]: that of the nearest centre, of the largest cosine; -1 for no direction.

        Raises ``InputError`` for maps of another size.
        """
        size = self.centres.shape[1]
        if maps.ndim != 2 or maps.shape[1] != size:
            raise InputError(f"maps of shape {list(maps.shape)} are not [maps, {size}], as those that the groups were found in.")
        return nearest_centre(maps, self.centres)

    def examples(self, n: int) -> tuple[np.ndarray, ...]:
        """Of each group the ``n`` members nearest to its centre, by their place, the nearest first."""
        return tuple(member[np.argsort(-self.closeness[member], kind="stable")[:n]] for member in self.members)


def clusters(maps: np.ndarray, seed: int, most: int = 8) -> Clusters:
    """Groups of ``maps`` [n, k] (small maps, row by row), at most ``most`` of them: spectral relevance analysis.

    Each map x is taken as x / |x|: signed, since relevance for and against a class in one place are two strategies, and without its
    strength, which goes with the score. W_ij = 1 where i is among the 10 nearest neighbours of j or j among those of i, D = diag(sum_j
    W_ij), L = I - D^-1/2 W D^-1/2 with eigenvalues 0 = l_1 <= l_2 <= ...; the number of groups is the largest c with l_(c+1) >= 6 l_c,
    one where there is none. The groups are those of k-means in the first c eigenvectors, D^-1/2 v. Parts of the graph that nothing
    joins are groups at least, and are taken apart one by one.

    Lapuschkin, Waeldchen, Binder, Montavon, Samek & Mueller 2019, "Unmasking Clever Hans predictors", Nature Communications 10:1096, who
    look for the eigengap by eye; von Luxburg 2007, "A tutorial on spectral clustering". Deterministic for a ``seed``.

    Below 50 maps with a direction they are one group, and ``note`` says so. Raises ``InputError`` for maps of another shape.
    """
    if maps.ndim != 2 or not maps.shape[1] or most < 1:
        raise InputError(f"groups are looked for in maps [maps, values], not {list(maps.shape)}, and at least 1, not {most}.")
    unit = directions(maps)
    there = np.flatnonzero(unit.any(axis=1))
    labels = np.full(len(maps), -1)
    eigenvalues, note = np.zeros(0), ""
    if len(there) >= LEAST:
        labels[there], eigenvalues, note = _spectral(unit[there], seed, most)
    else:
        labels[there] = 0
        note = f"{len(there)} maps are too few to look for groups in (it takes {LEAST})"
        note += ": they are taken as one." if len(there) else "."
    labels = _largest_first(labels)
    centres = _centres(unit, labels)
    closeness = np.where(labels >= 0, np.einsum("nk,nk->n", unit, centres[labels]), 0.0) if len(centres) else np.zeros(len(maps))
    agreement = float((nearest_centre(unit[there], centres) == labels[there]).mean()) if len(there) else float("nan")
    return Clusters(centres, labels, closeness, tuple(eigenvalues.tolist()), note, agreement)


def directions(maps: np.ndarray) -> np.ndarray:
    """Maps [n, k] as rows of length 1, float64; zeros for those that are zero or not finite."""
    values = maps.astype(np.float64)
    values[~np.isfinite(values).all(axis=1)] = 0
    for length in (np.abs(values).max(axis=1, initial=0), None):  # first by the largest: squares of tiny and huge numbers are lost
        length = np.linalg.norm(values, axis=1) if length is None else length
        values = np.divide(values, length[:, None], out=np.zeros_like(values), where=length[:, None] > 0)
    return values


def nearest_centre(maps: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """For each of ``maps`` [m, k] the row of ``centres`` [c, k] (of length 1) with the largest cosine; -1 without a direction."""
    found = np.full(len(maps), -1)
    for begin in range(0, len(maps) if len(centres) else 0, AT_ONCE):
        unit = directions(maps[begin : begin + AT_ONCE])
        found[begin : begin + AT_ONCE] = np.where(unit.any(axis=1), (unit @ centres.T).argmax(axis=1), -1)
    return found


def _centres(unit: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean directions of groups, of length 1."""
    means = [unit[labels == group].mean(axis=0) for group in range(labels.max(initial=-1) + 1)]
    return directions(np.stack(means)) if means else np.zeros((0, unit.shape[1]))


def _largest_first(labels: np.ndarray) -> np.ndarray:
    """The same groups numbered by size; of one size, that with the first map comes first."""
    groups, first, sizes = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    number = np.full(groups.max(initial=-1) + 1, -1)
    number[groups[order]] = np.arange(len(groups))
    return np.where(labels >= 0, number[labels], -1) if len(groups) else labels


# ----- the graph -----


def _spectral(unit: np.ndarray, seed: int, most: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Groups of directions [n, k]: labels [n], the smallest eigenvalues, and what was in the way."""
    near = library("sklearn.neighbors").kneighbors_graph(unit, NEIGHBOURS)
    graph = near.maximum(near.T).tocsr()
    count, part_of = library("scipy.sparse.csgraph").connected_components(graph, directed=False)
    if count > most:
        by_size = np.argsort(-np.bincount(part_of), kind="stable")[:most]
        labels = nearest_centre(unit, _centres(unit, _numbered(part_of, by_size)))
        return labels, np.zeros(most + 1), f"the maps fall into {count} groups that nothing joins: the {most} largest are shown."
    parts = [np.flatnonzero(part_of == part) for part in range(count)]
    spectra = [_spectrum(graph[part][:, part], seed, most + 1) for part in parts]
    values = np.concatenate([found for found, _ in spectra])
    order = np.argsort(values, kind="stable")
    wanted = _number_of_groups(values[order], count, most)
    owner = np.repeat(np.arange(count), [len(found) for found, _ in spectra])[order[:wanted]]
    labels, used = np.zeros(len(unit), np.int64), 0
    for index, (part, (_, vectors)) in enumerate(zip(parts, spectra, strict=True)):
        inside = int((owner == index).sum())
        labels[part] = used + _split(vectors[:, :inside], seed)
        used += inside
    return labels, values[order[: most + 1]], ""


def _numbered(part_of: np.ndarray, parts: np.ndarray) -> np.ndarray:
    """The place of each map's part in ``parts``, -1 for one that is not in it."""
    number = np.full(part_of.max() + 1, -1)
    number[parts] = np.arange(len(parts))
    return number[part_of]


def _spectrum(graph: Any, seed: int, many: int) -> tuple[np.ndarray, np.ndarray]:
    """The ``many`` smallest eigenvalues of a connected graph's Laplacian, and D^-1/2 v for their eigenvectors v [n, many].

    Of a connected graph, since the solver may miss some of several eigenvalues that are zero.
    """
    degrees = np.asarray(graph.sum(axis=1)).ravel()
    scale = library("scipy.sparse").diags(degrees**-0.5)
    joined = scale @ graph @ scale
    if len(degrees) <= 20 * many:
        found, vectors = np.linalg.eigh(joined.toarray())
    else:
        start = np.random.default_rng(seed).uniform(size=len(degrees))
        found, vectors = library("scipy.sparse.linalg").eigsh(joined.tocsr(), k=many, which="LA", v0=start, ncv=5 * many)
    order = np.argsort(-found, kind="stable")[:many]
    return np.maximum(1 - found[order], 0), vectors[:, order] * degrees[:, None] ** -0.5


def _number_of_groups(eigenvalues: np.ndarray, least: int, most: int) -> int:
    """The largest c up to ``most`` behind which the eigenvalues [in order] jump, ``least`` where none does."""
    jumps = [c for c in range(least, min(most, len(eigenvalues) - 1) + 1) if eigenvalues[c] >= GAP * max(eigenvalues[c - 1], ZERO)]
    return max(jumps, default=least)


def _split(vectors: np.ndarray, seed: int) -> np.ndarray:
    """The groups of the rows of eigenvectors [n, c]: c of them."""
    if vectors.shape[1] == 1:
        return np.zeros(len(vectors), np.int64)
    model = library("sklearn.cluster").KMeans(vectors.shape[1], n_init=10, random_state=seed)
    found: np.ndarray = model.fit_predict(vectors / np.abs(vectors).max(axis=0)).astype(np.int64)
    return found
