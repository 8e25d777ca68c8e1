"""SmoothGrad and its variants: walks at noisy copies of the input, with noise made inside the graph from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import cast, zeros_like
from onnxsal.methods.build import Build, Result, wrap
from onnxsal.methods.points import Points, Samples, Walked, sampled_walks

_PRIME = 2**31 - 1
_MIX = (1_407_677_000, 950_706_376, 742_938_285, 1_226_874_159)
"""Constants between rounds; any would do."""


def normal_noise(body: Emit, numbers: Value, elements: Value, seed: Value) -> Value:
    """Standard normal noise [c, D]: a hash of (seed, sample number, element), then Box and Muller's transform.

    ONNX's RandomNormal draws differently in every session and on every provider; this is the same everywhere, depends on no
    batch mate, and uses int64 Mul, Add and Mod only, which CUDA has.
    """
    first = hashed(body, numbers, elements, seed)
    second = _mix(body, _mix(body, first, 1), 0)
    radius = body.Sqrt(body.Mul(body.Log(_uniform(body, first)), -2.0))
    return body.Mul(radius, body.Cos(body.Mul(_uniform(body, second), float(2 * np.pi))))


def uniform_noise(body: Emit, numbers: Value, elements: Value, seed: Value) -> Value:
    """Uniform noise in (0, 1], [c, D], from the same hash."""
    return _uniform(body, hashed(body, numbers, elements, seed))


def hashed(body: Emit, numbers: Value, elements: Value, seed: Value) -> Value:
    """Integers in [0, prime) from (seed, sample number, element), [c, D]."""
    index = body.Unsqueeze(body.Range(0, elements, 1), [0])
    state = body.Mod(body.Add(body.Mul(numbers_column(body, numbers), 69_621), body.Mul(seed, 630_360_016)), _PRIME)
    state = _mix(body, body.Add(_mix(body, state, 0), index), 1)
    return _mix(body, _mix(body, state, 2), 3)


def numbers_column(body: Emit, numbers: Value) -> Value:
    """Sample numbers as [c, 1], from 1."""
    return body.Unsqueeze(body.Add(numbers, 1), [1])


def _mix(body: Emit, state: Value, round_: int) -> Value:
    """One round of a quadratic hash modulo a prime: s (s + a) + b. The state may be 2^28 larger than the prime: the product fits int64."""
    squared = body.Mod(body.Mul(state, body.Add(state, _MIX[round_])), _PRIME)
    return body.Mod(body.Add(body.Mul(squared, 48_271), _MIX[round_ - 1]), _PRIME)


def _uniform(body: Emit, state: Value) -> Value:
    """Integers in [0, prime) as numbers in (0, 1]."""
    return body.Div(cast(body, body.Add(state, 1)), float(_PRIME))


def noisy_points(build: Build) -> Points:
    """x + sigma e_i, with sigma = noise_level (max x - min x) of each sample."""
    op, x, settings = build.op, build.question.x, build.settings
    first = 1 if build.question.batched else 0
    axes = list(range(first, x.rank))
    low, high = (reduce(x, axes, keepdims=1, noop_with_empty_axes=1) for reduce in (op.ReduceMin, op.ReduceMax))
    spread = op.Sub(high, low)
    sigma = op.Mul(spread, float(settings["noise_level"]))
    seed = op.const(int(settings["seed"]))
    sizes = [d for d in (x.shape or ())[first:] if isinstance(d, int)]

    def points(body: Emit, numbers: Value) -> Value:
        known = len(sizes) == len(axes)
        shape = body.const(sizes) if known else body.Shape(body.raw(x), start=first)
        elements = body.const(int(np.prod(sizes))) if known else body.ReduceProd(shape, keepdims=0)
        noise = normal_noise(body, numbers, elements, seed)
        shaped = body.Reshape(noise, body.Concat(body.const([-1] + [1] * first), shape, axis=0))
        return body.Add(x, body.Mul(sigma, shaped))

    return points


@wrap("smooth")
def smoothgrad(build: Build) -> Result:
    """``A = mean_i g(x + sigma e_i)`` with ``sigma = noise_level (max x - min x)`` per sample, ``e_i`` standard normal.

    ``variant="squared"``: mean of g^2; ``"vargrad"``: variance of g. Smilkov et al. 2017, arXiv 1706.03825. The class is that
    of the clean input. All samples of a batch meet the same noise.
    """
    op, variant = build.op, build.settings["variant"]
    count = int(build.settings["n_samples"])
    zero = zeros_like(op, build.question.x)
    states = [zero] if variant == "mean" else [zero, zero]
    samples = Samples(count)
    done = sampled_walks(build, samples, noisy_points(build), states, partial(_moments, variant))
    return Result(done[0] if variant == "mean" else op.Div(done[1], float(count)))


def _moments(variant: str, chunk: Walked, states: Sequence[Value]) -> list[Value]:
    """The running mean and, where asked for, the sum of squares or of squared deviations, by Chan's update."""
    body, signals = chunk.body, chunk.signals
    before, last = (cast(body, body.Gather(chunk.numbers, i)) for i in (0, -1))
    size = body.Add(body.Sub(last, before), 1.0)
    mean = body.ReduceMean(signals, [0], keepdims=0)
    share = body.Div(size, body.Add(before, size))
    gap = body.Sub(mean, states[0])
    new_mean = body.Add(states[0], body.Mul(gap, share))
    if variant == "mean":
        return [new_mean]
    if variant == "squared":
        return [new_mean, body.Add(states[1], body.ReduceSumSquare(signals, [0], keepdims=0))]
    within = body.ReduceSumSquare(body.Sub(signals, mean), [0], keepdims=0)
    between = body.Mul(body.Mul(gap, gap), body.Mul(before, share))
    return [new_mean, body.Add(states[1], body.Add(within, between))]
