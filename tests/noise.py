"""The noise of SmoothGrad and Smooth FullGrad once more, from its definition: integers in Python, deviates in float64."""

from __future__ import annotations

import numpy as np

PRIME = 2**31 - 1
CONSTANTS = (1_407_677_000, 950_706_376, 742_938_285, 1_226_874_159)


def hashed(seed: int, sample: int, element: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The two integers behind a normal deviate, in Python's unbounded integers."""

    def mix(state: int, a: int, b: int) -> int:
        return (state % PRIME * (state % PRIME + a) % PRIME * 48_271 + b) % PRIME

    a, b, c, d = CONSTANTS
    pairs = []
    start = mix(((sample + 1) * 69_621 + seed * 630_360_016) % PRIME, a, d)
    for e in element.tolist():
        first = mix(mix(mix(start + e, b, a), c, b), d, c)
        pairs.append((first, mix(mix(first, b, a), a, d)))
    one, two = np.asarray(pairs, np.float64).T
    return one, two


def normal(seed: int, count: int, elements: int) -> np.ndarray:
    """Box and Muller's transform of the hash -> [count, elements], float64."""
    rows = []
    for sample in range(count):
        one, two = hashed(seed, sample, np.arange(elements))
        rows.append(np.sqrt(-2 * np.log((one + 1) / PRIME)) * np.cos(2 * np.pi * (two + 1) / PRIME))
    return np.asarray(rows)
