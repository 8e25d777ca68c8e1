"""Sums of shards: numpy and scipy over all rows together say the same, no order and no cut changes a bit, and no damaged file is read."""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
import weakref
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsal.errors import InputError
from onnxsal.fleet import sums_file
from onnxsal.fleet.bootstrap import RESAMPLES, poisson_weights
from onnxsal.fleet.column_sums import WORST
from onnxsal.fleet.exact import FixedSums, limbs, moments, number_of, root, text_of, weighted_sums
from onnxsal.fleet.histogram import Histogram
from onnxsal.fleet.sums import Sums, merged
from tests.hostile_settings import bytes_spoiled, fields_spoiled

RNG = np.random.default_rng(17)

DATA = {
    "normal": RNG.normal(size=3000),
    "far from zero": 1e9 + RNG.normal(size=700),
    "uniform": RNG.uniform(size=1000),
    "tiny": RNG.normal(size=300) * 1e-290,
    "huge": RNG.normal(size=300) * 1e300,
    "constant": np.full(50, 0.1),
    "zeros": np.zeros(20),
    "few zeros": np.where(RNG.uniform(size=500) < 0.3, 0.0, RNG.normal(size=500)),
    "heavy tails": RNG.standard_cauchy(size=2000),
    "all scales": RNG.choice([-1, 1], 600) * 10.0 ** RNG.uniform(-300, 300, 600),
    "whole": RNG.integers(-5, 6, 400).astype(float),
    "with gaps": np.where(RNG.uniform(size=900) < 0.2, [np.nan, np.inf, -np.inf] * 300, RNG.normal(size=900)),
    "two": np.array([-3.0, 7.0]),
    "one": np.array([2.5]),
    "none": np.array([np.nan, np.inf]),
    "no rows": np.zeros(0),
}


def ids(begin: int, end: int) -> list[str]:
    return [f"{i:06d}" for i in range(begin, end)]


def cut(data: dict[str, np.ndarray], bounds: Sequence[int], **more: Any) -> list[Sums]:
    """A shard for the rows between neighbouring bounds."""
    found = []
    for begin, end in itertools.pairwise(bounds):
        by = {k: v[begin:end] for k, v in more.items()}
        counts = {"predicted": {f"{end % 3}": end - begin, "all": 1}}
        found.append(Sums.of(f"shard{begin}", 5, ids(begin, end), {k: v[begin:end] for k, v in data.items()}, counts, by))
    return found


def thirds(values: np.ndarray) -> Sums:
    n = len(values)
    return merged(cut({"x": values}, sorted({0, n // 3, n // 2, n}) if n else [0, 0]))


@pytest.mark.parametrize("name", DATA)
def test_moments_and_ends_are_those_of_numpy(name: str):
    found, kept = thirds(DATA[name]).column("x"), DATA[name][np.isfinite(DATA[name])]
    assert (found.n, found.missing) == (len(kept), len(DATA[name]) - len(kept))
    if not len(kept):
        assert all(math.isnan(v) for v in (found.mean, found.std, found.low, found.high, found.min, found.max, found.quantile(0.5)))
        assert (found.min_id, found.lowest) == ("", ())
        return
    assert found.mean == float(sum(map(Fraction, kept.tolist())) / len(kept))
    unit = np.abs(kept).max() or 1.0  # numpy's squares of 1e300 are infinite
    assert found.std / unit == pytest.approx(np.std(kept / unit), rel=1e-9 if name != "far from zero" else 1e-4, abs=1e-15)
    assert (found.min, found.max) == (kept.min(), kept.max())
    assert DATA[name][int(found.min_id)] == found.min
    assert DATA[name][int(found.max_id)] == found.max


def test_the_spread_far_from_zero_is_right():
    """Where numpy's two passes and one pass in float64 differ, Python's exact fractions decide."""
    values = 1e9 + RNG.normal(size=100) * 1e-5
    assert thirds(values).column("x").std == pytest.approx(statistics.pstdev(map(Fraction, values.tolist())), rel=1e-15)


def within(values: np.ndarray, q: float, found: float) -> None:
    """Found is within 1 % of each of the two values that numpy interpolates between."""
    exact = np.quantile(values, q)
    below, above = (np.quantile(values, q, method=m) for m in ("lower", "higher"))
    share = q * (len(values) - 1) % 1
    assert abs(found - exact) <= 0.01 * ((1 - share) * abs(below) + share * abs(above)) + 1e-12 * abs(above - below), (q, found, exact)


@pytest.mark.parametrize("name", [n for n in DATA if np.isfinite(DATA[n]).any()])
def test_quantiles_are_within_a_hundredth(name: str):
    found, kept = thirds(DATA[name]).column("x"), DATA[name][np.isfinite(DATA[name])]
    for q in (0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.62, 0.75, 0.9, 0.99, 0.999, 1):
        within(kept, q, found.quantile(q))
    with pytest.raises(InputError, match="0 to 1"):
        found.quantile(50)


FLOATS = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False, min_value=-1e300, max_value=1e300)


@settings(max_examples=80, deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=40), st.floats(0, 1))
def test_any_quantile_of_any_numbers(values: list[float], q: float):
    array = np.array(values)
    within(array, q, Histogram.of(array).quantile(q))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=30))
def test_sums_are_those_of_fractions(values: list[float]):
    """Of subnormal numbers and of the largest too; what is written reads the same."""
    array = np.array(values, np.float64)
    total, squares = sum(map(Fraction, values)), sum(Fraction(v) ** 2 for v in values)
    assert moments(array) == (total, squares)
    assert [number_of(text_of(Fraction(v))) for v in (total, squares)] == [total, squares]
    weights = np.arange(3 * len(values)).reshape(3, -1) % 13
    (found,) = weighted_sums(weights, [array])
    wanted = [sum((int(w) * Fraction(v) for w, v in zip(row, values, strict=True)), Fraction(0)) for row in weights]
    assert [n * Fraction(2) ** found.exponent for n in found.numbers.tolist()] == wanted
    again = FixedSums.of_digits(found.digits(), found.exponent)
    assert again.numbers.tolist() == found.numbers.tolist()
    rounded = found.rounded()
    off = [abs(n * Fraction(2) ** rounded.exponent - w) for n, w in zip(rounded.numbers.tolist(), wanted, strict=True)]
    assert max(off) <= max(map(abs, wanted)) / 2**61
    assert len(rounded.digits()) == 1
    assert all((np.abs(part) < 2.0**32).all() for _, part in limbs(array))


@pytest.mark.parametrize("text", ["", "3", "0x1", "0x1p", "0x1p99999", "0x1p-4401", "0xgp3", " 0x1p3", "0x1p3\n", "0x" + "f" * 1201 + "p1"])
def test_what_is_no_exact_number(text: str):
    assert number_of(text) is None


def test_roots():
    for number in (Fraction(2), Fraction(9, 4), Fraction(1, 3) ** 40, Fraction(2) ** 2046, Fraction(2) ** -2148, Fraction(0)):
        found = root(number)
        assert abs(Fraction(found) ** 2 - number) <= number / 2**51


# ----- adding -----


def trees(states: list[Sums], rng: random.Random) -> Sums:
    """Merged in some order, in some cuts, some written in between."""
    states = rng.sample(states, len(states))
    while len(states) > 1:
        many = rng.randint(2, len(states))
        some = merged(states[:many])
        states = [*states[many:], Sums.from_json(some.as_json()) if rng.random() < 0.5 else some]
        rng.shuffle(states)
    return states[0]


def test_no_order_and_no_cut_changes_a_bit():
    n = 500
    data = {"a": RNG.standard_cauchy(n), "b": 10.0 ** RNG.uniform(-200, 200, n), "c": DATA["with gaps"][:n], "d": np.full(n, 0.1)}
    states = cut(data, [0, 1, 40, 41, 200, 450, n], klass=[f"{i % 7}" if i < 300 else "late" for i in range(n)])
    states.append(Sums.of("empty", 5, [], {}, {"bad": {"damaged": 4}}))
    texts = {trees(states, random.Random(seed)).as_json() for seed in range(8)}
    assert len(texts) == 1
    found = Sums.from_json(texts.pop())
    assert found.shards == tuple(sorted(s.shards[0] for s in states))
    assert found.counts == {"predicted": {"0": 250, "1": 40, "2": 210, "all": 6}, "bad": {"damaged": 4}}


def test_counts_add_up():
    a = Sums.of("a", 0, [], {}, {"predicted": {"282": 5, "1": 1}})
    b = Sums.of("b", 0, [], {}, {"predicted": {"282": 2}, "bad": {"damaged": 3}})
    assert merged([a, b]).counts == {"predicted": {"282": 7, "1": 1}, "bad": {"damaged": 3}}
    assert a.counts == {"predicted": {"282": 5, "1": 1}}


def test_moments_do_not_depend_on_the_shards():
    """Only the bootstrap does, whose weights belong to shards."""
    data = {"x": DATA["heavy tails"]}
    one, other = merged(cut(data, [0, 2000])).column("x"), merged(cut(data, [0, 3, 1500, 2000])).column("x")
    for name in ("n", "mean", "std", "lowest", "highest"):
        assert getattr(one, name) == getattr(other, name)
    assert one.quantile(0.3) == other.quantile(0.3)
    assert one.low != other.low


def test_one_state_is_read_at_a_time():
    states = {s.shards[0]: s.as_json() for s in cut({"x": DATA["normal"]}, range(0, 3001, 300))}
    held: list[weakref.ref[Sums]] = []

    def read(name: str) -> Sums:
        assert sum(state() is not None for state in held) <= 1
        held.append(weakref.ref(found := Sums.from_json(states[name])))
        return found

    pairs = ((name, lambda name=name: read(name)) for name in states)
    wanted = merged(Sums.from_json(text) for text in states.values()).as_json()
    assert merged(pairs).as_json() == wanted
    assert len(held) == len(states)


def test_what_does_not_add_up_is_said():
    x = {"x": np.ones(2)}
    one = Sums.of("one", 1, ["a", "b"], x)
    for other, words in (
        (Sums.of("one", 1, ["c", "d"], x), "shard 'one' is there twice"),
        (Sums.of("two", 2, ["c", "d"], x), "seed 2, others with 1"),
        (Sums.of("two", 1, ["c", "d"], {"y": np.ones(2)}), "'two' has the columns y; others have x"),
        (Sums.of("two", 1, ["c", "d"], x, by={"k": ["1", "2"]}), "'two' has the classes k; others have none"),
    ):
        with pytest.raises(InputError, match=words):
            merged([one, other])
    with pytest.raises(InputError, match="no shard is done yet"):
        merged([])
    with pytest.raises(InputError, match="sums of shard 'two' are those of one"):
        merged([("two", lambda: one)])
    with pytest.raises(InputError, match=r"'x' has shape \[3\]; wanted one value for each of 2 rows"):
        Sums.of("one", 1, ["a", "b"], {"x": np.ones(3)})
    with pytest.raises(InputError, match="did you mean 'score'"):
        Sums.of("one", 1, ["a"], {"score": np.ones(1)}).column("scores")


# ----- ends -----


def test_the_first_and_last_values_are_kept_with_their_rows():
    values = np.array([3, 1, 2, 1, 9, 9, 9, 0, -0.0, 5, 4, 7, 8, 6, np.nan, np.inf])
    names = [f"{(7 * i) % 16:02d}" for i in range(16)]
    states = [Sums.of(f"s{k}", 0, names[k::3], {"x": values[k::3]}) for k in range(3)]
    found, pairs = merged(states).column("x"), [(v, i) for v, i in zip((values + 0.0).tolist(), names, strict=True) if np.isfinite(v)]
    assert list(found.lowest) == sorted(pairs)[:WORST]
    assert list(found.highest) == sorted(pairs, key=lambda p: (-p[0], p[1]))[:WORST]
    assert (found.min_id, found.max_id) == (min(names[7], names[8]), min(names[4:7]))
    assert str(found.min) == "0.0"


def test_ties_of_many_rows_are_broken_by_id():
    names = [f"{i:04d}" for i in RNG.permutation(500)]
    found = Sums.of("s", 0, names, {"x": np.zeros(500)}).column("x")
    assert [i for _, i in found.lowest] == [i for _, i in found.highest] == [f"{i:04d}" for i in range(WORST)]


# ----- the bootstrap -----


def drawn(seed: int, shard: str, rows: int) -> np.ndarray:
    """All weights [B, rows]."""
    return np.concatenate([w for _, w in poisson_weights(seed, shard, rows)], axis=1)


def test_weights_are_poisson():
    weights = drawn(0, "a", 5000)
    assert weights.shape == (RESAMPLES, 5000)
    n = weights.size
    assert weights.mean() == pytest.approx(1, abs=4 / math.sqrt(n))
    assert weights.var() == pytest.approx(1, abs=4 * math.sqrt(3 / n))  # the variance of (w - 1)^2 is 3
    seen = np.bincount(weights.ravel(), minlength=13)
    wanted = scipy.stats.poisson.pmf(np.arange(13), 1) * n
    assert (np.abs(seen - wanted) <= 5 * np.sqrt(wanted) + 3).all()
    rows, draws = weights.mean(0), weights.mean(1)
    assert rows.std() == pytest.approx(1 / math.sqrt(RESAMPLES), rel=0.1)
    assert draws.std() == pytest.approx(1 / math.sqrt(5000), rel=0.1)


def test_weights_belong_to_seed_and_shard():
    one = drawn(0, "a", 30)
    np.testing.assert_array_equal(one, drawn(0, "a", 30))
    np.testing.assert_array_equal(one, drawn(0, "a", 5000)[:, :30])
    for other in (drawn(1, "a", 30), drawn(0, "b", 30)):
        assert (one != other).mean() > 0.5


def direct(states: Sequence[tuple[str, int]]) -> np.ndarray:
    return np.concatenate([drawn(5, name, rows) for name, rows in states], axis=1).astype(float)


BOUNDS = [0, 300, 301, 1200, 2000]
SIZES = [(f"shard{a}", b - a) for a, b in itertools.pairwise(BOUNDS)]


def test_resampled_means_are_those_of_the_same_weights():
    values = DATA["with gaps"].repeat(3)[:2000]
    weights, there = direct(SIZES), np.isfinite(values)
    means = weights[:, there] @ values[there] / weights[:, there].sum(1)
    found = merged(cut({"x": values}, BOUNDS))
    np.testing.assert_allclose(found.columns["x"].resamples(found.weights), means, rtol=1e-11, atol=1e-14)
    summary = found.column("x")
    np.testing.assert_allclose((summary.low, summary.high), np.quantile(means, [0.025, 0.975]), rtol=1e-9)


@pytest.mark.parametrize("kind", ["normal", "uniform", "lognormal"])
def test_the_interval_is_that_of_scipy(kind: str):
    """Over several draws, of which each is off by 2 % of the width at B = 1,000."""
    off = []
    for seed in range(4):
        values = getattr(np.random.default_rng(seed), kind)(size=2000)
        how = {"method": "percentile", "n_resamples": 3000, "batch": 500, "rng": np.random.default_rng(seed)}
        low, high = scipy.stats.bootstrap((values,), np.mean, **how).confidence_interval
        found = merged(cut({"x": values}, BOUNDS)).column("x")
        off.append([(found.low - low) / (high - low), (found.high - high) / (high - low)])
    assert np.abs(off).max() < 0.08
    assert np.abs(np.mean(off, 0)).max() < 0.03


def test_differences_are_paired():
    base = RNG.normal(size=2000)
    data = {"a": base + 0.02 + 0.05 * RNG.normal(size=2000), "b": base, "c": np.full(2000, np.nan)}
    found = merged(cut(data, BOUNDS))
    weights = direct(SIZES)
    means = weights @ (data["a"] - data["b"]) / weights.sum(1)
    mean, low, high = found.difference("a", "b")
    assert mean == pytest.approx((data["a"] - data["b"]).mean(), rel=1e-12)
    np.testing.assert_allclose((low, high), np.quantile(means, [0.025, 0.975]), rtol=1e-9)
    assert high - low < 0.2 * (found.column("b").high - found.column("b").low)
    assert all(math.isnan(v) for v in found.difference("a", "c"))


@pytest.mark.parametrize(("values", "wanted"), [([0.1] * 9, (0.1, 0.1)), ([2.0], (math.nan, math.nan)), ([], (math.nan, math.nan))])
def test_an_interval_of_nothing_or_of_one_number(values: list[float], wanted: tuple[float, float]):
    found = Sums.of("s", 0, ids(0, len(values)), {"x": np.array(values)}).column("x")
    np.testing.assert_array_equal((found.low, found.high), wanted)


# ----- classes -----


def test_means_by_class():
    n = 5000
    values, klass = RNG.normal(size=n), [f"{k}" for k in RNG.integers(0, 40, n)]
    values[::11] = np.nan
    found = merged(cut({"x": values}, [0, 4500, n], predicted=klass)).by_class("predicted", "x")
    assert list(found) == sorted(set(klass))
    for name, (count, mean) in found.items():
        mine = values[[k == name for k in klass] & np.isfinite(values)]
        assert count == len(mine)
        assert mean == pytest.approx(mine.mean(), rel=1e-12)
    with pytest.raises(InputError, match=r"no classes 'predict' .did you mean 'predicted'"):
        merged(cut({"x": values}, [0, n], predicted=klass)).by_class("predict", "x")
    with pytest.raises(InputError, match="1,000 classes at most"):
        Sums.of("s", 0, ids(0, 1001), {}, by={"k": ids(0, 1001)})


# ----- the file -----


def small_state(*names: str) -> Sums:
    x = {"x": np.array([0.5, -1.0, np.nan]), **{name: np.arange(3.0) for name in names}}
    states = [Sums.of(s, 1, [f"{s}{i}\udce9" for i in range(3)], x, {"p": {"1": 3}}, {"k": ["1", "2", "2"]}) for s in "ab"]
    return merged(states)


def signed(document: Any) -> str:
    """As text, with the digest that fits."""
    if not isinstance(document, dict):
        return json.dumps(document)
    body = {k: v for k, v in document.items() if k != "digest"}
    return json.dumps(body | {"digest": sums_file._digest(json.dumps(body, sort_keys=True, separators=(",", ":")))})


def used(text: str) -> str:
    """The message that a state is refused with, '' where it is read: then it can be added, written and summed up."""
    try:
        found = Sums.from_json(text, "'s.json'")
    except InputError as error:
        return str(error)
    again = merged([found]).as_json()
    for name in found.columns:
        found.column(name)
        for group in found.groups:
            found.by_class(group, name)
    assert Sums.from_json(again).as_json() == again
    return ""


def test_a_spoiled_field_is_refused_or_does_not_matter():
    """Even where the digest was made to fit; every fifth of them."""
    documents = fields_spoiled(json.loads(small_state().as_json()))
    messages = [used(signed(document)) for document in itertools.islice(documents, 0, None, 5)]
    assert all(m == "" or m.startswith("'s.json'") for m in messages)
    assert sum(m != "" for m in messages) > 0.8 * len(messages) > 250


def test_spoiled_bytes_are_refused():
    text = small_state().as_json()
    for data in bytes_spoiled(text.encode(), random.Random(3)):
        spoiled = data.decode("utf-8", "replace")
        if spoiled.strip("\ufeff") != text:
            with pytest.raises(InputError):
                Sums.from_json(spoiled)


def other(array: str) -> str:
    """Another array of the same size: the fourth number has another lowest byte."""
    return array[:32] + ("A" if array[32] != "A" else "B") + array[33:]


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        (("n",), lambda v: v + 1, "columns.x.n and columns.x.missing must add up to n"),
        (("shards",), lambda v: [*v, v[0]], "shards must be in order, none twice"),
        (("weights",), lambda v: v[:-8], "weights must be 1,000 whole numbers as base64, not"),
        (("weights",), lambda v: v[:-1] + "A", "weights must be|weights"),
        (("weights",), lambda v: "?" + v[1:], "weights must be an array as base64"),
        (("resamples",), lambda v: 999, "resamples is 999, this version of onnxsal knows 1000"),
        (("format",), lambda v: v + 1, f"format is {sums_file.FORMAT + 1}"),
        (("columns", "x", "sum"), lambda v: "0x1p20", "columns.x.sum must be between"),
        (("columns", "x", "squares"), lambda v: "0x0p0", "columns.x.squares is less than"),
        (("columns", "x", "squares"), lambda v: "0x1p20", "columns.x.squares is more than"),
        (("columns", "x", "squares"), lambda v: "1.5", "columns.x.squares must be a number like"),
        (("columns", "x", "lowest"), lambda v: v[::-1], "columns.x.lowest and columns.x.highest must be in order"),
        (("columns", "x", "lowest"), lambda v: v[1:], "columns.x.lowest must have 4 rows, not 3"),
        (("columns", "x", "bins"), lambda v: v[:-4], "columns.x"),
        (("columns", "x", "in_bins"), lambda v: "AAAA", "columns.x.in_bins must"),
        (("columns", "x", "absent"), lambda v: "////" + v[4:], "columns.x.absent must not be above weights"),
        (("columns", "x", "resampled", "exponent"), lambda v: v + 9, "columns.x.resampled is more than"),
        (("columns", "x", "resampled", "exponent"), lambda v: 3000, "columns.x.resampled.exponent must be a whole number from"),
        (("columns", "x", "resampled", "digits"), lambda v: [], "columns.x.resampled.digits must be a list of arrays"),
        (("columns", "x", "resampled", "digits"), lambda v: ["/" * len(v[0]), *v], r"columns.x.resampled.digits\[0\] must be|has numbers"),
        (("counts", "p", "1"), lambda v: -1, "counts.p.1 must be a whole number from 0"),
        (("groups", "k", "classes"), lambda v: v[::-1], "groups.k.classes must be in order"),
        (("groups", "k", "rows"), lambda v: "AAA=", "groups.k.rows must add up to n"),
        (("groups", "k", "columns"), lambda v: {"x": v["x"]}, "groups.k.columns must be those of columns"),
    ],
)
def test_what_does_not_fit_is_named(place: tuple[str, ...], change: Any, words: str):
    document = json.loads(small_state("y").as_json())
    holder = document
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = change(holder[place[-1]])
    with pytest.raises(InputError, match=words):
        Sums.from_json(signed(document))


def test_a_number_that_still_fits_is_found_by_the_digest():
    document = json.loads(small_state("y").as_json())
    digits = document["columns"]["y"]["resampled"]["digits"]
    digits[0] = other(digits[0])
    Sums.from_json(signed(document))
    with pytest.raises(InputError, match="digest is not that of the rest"):
        Sums.from_json(json.dumps(document))


def test_a_name_that_could_not_be_read_is_not_written():
    with pytest.raises(InputError, match="a name of the sums of shard 's' is too long"):
        Sums.of("s", 0, [], {}, {"bad": {"x" * 1001: 1}})


def test_a_file_is_small():
    """2,048 rows of ten columns, every one with gaps: less than 250 kB, merged less than a third more."""
    columns = {f"c{i}": RNG.standard_cauchy(2048) for i in range(10)}
    for values in columns.values():
        values[RNG.integers(0, 2048, 200)] = np.nan
    states = [Sums.of(s, 0, ids(0, 2048), columns) for s in "ab"]
    assert len(states[0].as_json()) < 250_000
    assert len(merged(states).as_json()) < 400_000
