"""The first rows of each class are those of all rows together, whatever the cut and the order; and no damaged state is read."""

from __future__ import annotations

import json
import random
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxsal.errors import InputError
from onnxsal.fleet.added import AddedPart, added_ids, added_parts
from onnxsal.fleet.shard import Shard
from onnxsal.fleet.strata import PER_CLASS, Strata, rank
from onnxsal.fleet.sums import EndShards, Sums, merged


class Drawn(NamedTuple):
    share: float
    added: int
    seed: int = 3


ROWS = st.lists(st.tuples(st.sampled_from(["", "0", "1", "2", "rare"]), st.sampled_from(["", "a", "b"])), min_size=1, max_size=120)


def states(rows: list[tuple[str, str]], bounds: list[int], seed: int = 3) -> list[Sums]:
    found = []
    for number, (begin, end) in enumerate(zip([0, *bounds], [*bounds, len(rows)], strict=True)):
        part = rows[begin:end]
        classes = {"label": [b for _, b in part], "predicted": [a for a, _ in part]}
        found.append(Sums.of(f"shard{number}", seed, [f"{i:04}.png" for i in range(begin, end)], {}, strata=classes))
    return found


def first_by_hand(rows: list[tuple[str, str]], which: int, seed: int = 3) -> dict[str, list[str]]:
    ids = sorted((f"{i:04}.png" for i in range(len(rows))), key=lambda name: rank(name, seed))
    classes = {row[which] for row in rows} - {""}
    return {each: [name for name in ids if rows[int(name[:4])][which] == each][:PER_CLASS] for each in sorted(classes)}


@settings(max_examples=60, deadline=None)
@given(ROWS, st.lists(st.integers(0, 120), max_size=5), st.randoms(use_true_random=False))
def test_no_cut_and_no_order_changes_the_first_of_a_class(rows: list[tuple[str, str]], cuts: list[int], dice: random.Random):
    made = states(rows, sorted(min(cut, len(rows)) for cut in cuts))
    dice.shuffle(made)
    half = dice.randrange(len(made) + 1)
    groups = [merged(part) for part in (made[:half], made[half:]) if part]
    found = merged([Sums.from_json(group.as_json()) for group in groups])
    whole = merged(sorted(made, key=lambda state: state.shards))
    assert found.as_json() == whole.as_json()
    assert found.first_of_each("predicted") == first_by_hand(rows, 0)
    assert found.first_of_each("label") == first_by_hand(rows, 1)


@settings(max_examples=60, deadline=None)
@given(ROWS, st.integers(0, 60))
def test_the_first_of_all_classes_come_before_the_second(rows: list[tuple[str, str]], most: int):
    """Of as many as may be added, every class has one before any class has two."""
    strata = states(rows, [])[0].strata
    chosen = [row.id for row in strata.first(most)]
    by = [first_by_hand(rows, which) for which in (0, 1)]
    place = {name: min(c[name_of].index(name) for c in by for name_of in c if name in c[name_of]) for name in chosen}
    everyone = {name for c in by for members in c.values() for name in members}
    assert len(chosen) == len(set(chosen)) == min(most, len(everyone))
    assert set(chosen) <= everyone
    assert [place[name] for name in chosen] == sorted(place.values())


def test_what_is_drawn_already_is_not_added():
    rows = [("0", "")] * 300 + [("1", "")] * 3
    strata = merged(states(rows, [100, 200, 301])).strata
    found = added_ids(strata, [], Drawn(0.2, 1000))
    ids = {name for names in found.values() for name in names}
    assert all(rank(name, 3) >= 0.2 for name in ids)
    assert {f"{i:04}.png" for i in (300, 301, 302) if rank(f"{i:04}.png", 3) >= 0.2} == ids  # of the other class eight are drawn
    assert set(found) <= {"shard2", "shard3"}
    assert not added_ids(strata, [("0001.png", "shard0")], Drawn(1.0, 1000))
    assert not added_ids(strata, [("0001.png", "shard0")], Drawn(0.2, 0))


def test_as_many_ends_may_be_added_as_first_rows_and_none_twice():
    strata = merged(states([("0", "")] * 300, [100, 200])).strata
    first = {row.id for row in strata.rows}
    others = [f"{i:04}.png" for i in range(300) if f"{i:04}.png" not in first and rank(f"{i:04}.png", 3) >= 0.001][:5]
    ends = [*((row.id, row.shard) for row in strata.rows[:2]), *((name, f"shard{int(name[:4]) // 100}") for name in others)]
    for most in (100, 7, 4, 3, 1, 0):
        found = {name for names in added_ids(strata, ends, Drawn(0.0, most)).values() for name in names}
        assert found & first == {row.id for row in strata.rows[:most]} | {name for name, _ in ends[:most] if name in first}
        assert found - first == {name for name, _ in ends[:most]} - first


def test_ends_are_found_with_their_shards():
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(size=400), 1)  # with ties
    values[::7] = np.nan
    ids = [f"{i:04}.png" for i in range(400)]
    made = [
        Sums.of(f"s{i}", 0, ids[i * 50 : i * 50 + 50], {"x": values[i * 50 : i * 50 + 50], "none": np.full(50, np.nan)}) for i in range(8)
    ]
    ends = EndShards()
    for state in reversed(made):
        ends.see(state.shards[0], state)
    column = merged(made).column("x")
    assert ends.found == [(name, f"s{int(name[:4]) // 50}") for name in (column.min_id, column.max_id)]


def test_parts_are_those_of_the_data_that_have_maps():
    of = {kind: Shard(kind, "file:///x", "1", 0, 9) for kind in ("files", "parquet", "arrays", "table", "texts")}
    parts = added_parts(dict.fromkeys(("table", "arrays", "files"), ("a", "b")), {**of})
    assert [part.shard.kind for part in parts] == ["files", "arrays"]
    assert [AddedPart.of(part.as_dict()) for part in parts] == parts
    assert len({part.name for part in (*parts, AddedPart(of["files"], ("a",)), AddedPart(of["files"], ("a", "c")))}) == 4
    for spoiled in ({}, {"shard": 1, "ids": []}, {"shard": of["files"].as_dict(), "ids": 3}):
        with pytest.raises(InputError, match="describes no"):
            AddedPart.of(spoiled)


def test_a_naming_that_is_not_there_is_said():
    (state,) = states([("1", "a")], [])
    with pytest.raises(InputError, match="there are no classes 'predicts'; known: label, predicted"):
        state.first_of_each("predicts")
    with pytest.raises(InputError, match="has the strata label, predicted; others have none"):
        merged([Sums.of("other", 3, ["x"], {}), state])


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        (("ids",), lambda v: v[::-1], "strata.ids must be the first of each class, in order"),
        (("ids",), lambda v: v[1:], "strata.shards must be 9 whole numbers|must have 9 classes, not 10"),
        (("shards",), lambda v: "/" + v[1:], "strata.shards must be places in shards"),
        (("classes", "label"), lambda v: v[1:], "strata.classes.label must have 10 classes, not 9"),
        (("classes", "label"), lambda v: ["", *v[1:]], "strata.ids must be the first of each class|digest"),
        (("classes",), lambda v: {}, "strata.ids must be the first of each class"),
        (("ids",), lambda v: [1, *v[1:]], "strata.ids"),
    ],
)
def test_a_state_that_does_not_fit_is_named(place: tuple[str, ...], change: Any, words: str):
    (state,) = states([("", "a")] * 8 + [("", "b")] * 2 + [("", "")] * 3, [])
    document = json.loads(state.as_json())
    holder = document["strata"]
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = change(holder[place[-1]])
    with pytest.raises(InputError, match=words):
        Sums.from_json(json.dumps(document))


def test_a_class_has_no_more_rows_than_it_may():
    """A row that a file claims is kept, where eight of its class come before it."""
    (state,) = states([("", "a")] * 20, [])
    document = json.loads(state.as_json())
    missing = sorted({f"{i:04}.png" for i in range(20)} - set(document["strata"]["ids"]), key=lambda name: rank(name, 3))
    document["strata"]["ids"].append(missing[0])
    document["strata"]["classes"]["label"].append("a")
    document["strata"]["classes"]["predicted"].append("")
    document["strata"]["shards"] = "A" * 12
    with pytest.raises(InputError, match="first of each class"):
        Sums.from_json(json.dumps(document))


def test_ranks_are_below_one_and_spread(monkeypatch: pytest.MonkeyPatch):
    class Highest:
        def digest(self) -> bytes:
            return b"\xff" * 8

    assert 0 <= min(rank(str(i), 0) for i in range(2000)) < 0.01
    monkeypatch.setattr("onnxsal.fleet.strata.hashlib.blake2b", lambda *_, **__: Highest())
    assert rank("x", 0) < 1


def test_an_empty_state_adds_nothing():
    assert Strata.of("a", 0, [], {}) == Strata()
    (state,) = states([("1", "a")], [])
    empty = Sums.of("zero", 3, [], {}, strata={"label": [], "predicted": []})
    assert merged([empty, state]).strata == state.strata
