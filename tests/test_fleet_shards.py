"""Data cut into shards: nothing lost, nothing twice, names that say what is in them, and which column holds what."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import onnxsal.fleet.cutting as cutting
from onnxsal.errors import InputError
from onnxsal.fleet import folders
from onnxsal.fleet import parquet as reading_parquet
from onnxsal.fleet.content import contents
from onnxsal.fleet.cutting import shards
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.parquet import RowRange, opened, record_batches, roles
from onnxsal.fleet.records import csv_records, cut_records, text_records, texts_in
from onnxsal.fleet.shard import Shard, unique
from onnxsal.given.text import read_lines
from onnxsal.runtime.array_rows import StoredArrays
from onnxsal.runtime.pictures import find_pictures
from tests.fleet_data import encoded, in_memory, parquet, pictures

FAST = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def some_data(tmp_path: Path) -> dict[str, tuple[Path, dict]]:
    """Data of every kind, seven rows each -> how it is read."""
    pictures(tmp_path / "pictures", 4)
    (tmp_path / "pictures" / "dog" / "0.png").unlink()
    parquet(tmp_path / "p.parquet", {"bytes": [encoded(i) for i in range(7)], "y": list(range(7))}, group=3)
    np.savez(tmp_path / "a.npz", x=np.zeros((7, 2, 3), np.float32), labels=np.arange(7))
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{i},{i * i}\n" for i in range(7)))
    parquet(tmp_path / "t.parquet", {"a": list(range(7)), "b": [0.5] * 7}, group=2)
    (tmp_path / "t.txt").write_text("".join(f"text {i}\n" for i in range(7)))
    (tmp_path / "m.csv").write_text("file,id,label\n" + "".join(f"pictures/cat/{3 * (i % 2)}.png,n{i},cat\n" for i in range(7)))
    table = {"as_table": True}
    return {
        "files": (tmp_path / "pictures", {}),
        "parquet": (tmp_path / "p.parquet", {}),
        "arrays": (tmp_path / "a.npz", {}),
        "table": (tmp_path / "t.csv", table),
        "Parquet table": (tmp_path / "t.parquet", table),
        "texts": (tmp_path / "t.txt", {}),
        "manifest": (tmp_path / "m.csv", {}),
    }


KINDS = ["files", "parquet", "arrays", "table", "Parquet table", "texts", "manifest"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
def test_every_row_is_in_one_shard(tmp_path: Path, kind: str, rows: int):
    data, how = some_data(tmp_path)[kind]
    made = shards(data, rows, **how)
    assert [row for shard in made for row in range(shard.begin, shard.end)] == list(range(7))
    assert all(0 < len(shard) <= rows for shard in made)
    assert len({shard.name for shard in made}) == len(made)
    assert all(len(shard.name) == 20 and int(shard.name, 16) >= 0 for shard in made)


@pytest.mark.parametrize("kind", KINDS)
def test_a_shard_travels_as_json_and_as_pickle(tmp_path: Path, kind: str):
    data, how = some_data(tmp_path)[kind]
    for shard in shards(data, 3, **how):
        for there in (Shard.of(json.loads(json.dumps(shard.as_dict()))), pickle.loads(pickle.dumps(shard))):
            assert there == shard
            assert there.name == shard.name
        assert len(pickle.dumps(shard)) < 1000


@pytest.mark.parametrize("kind", KINDS)
def test_parts_have_names_of_their_own_and_hold_the_same_rows(tmp_path: Path, kind: str):
    data, how = some_data(tmp_path)[kind]
    (whole,) = shards(data, **how)
    parts = [whole.part(0, 3), whole.part(3, 7).part(3, 4), whole.part(4, 7)]
    assert len({whole.name, *(part.name for part in parts)}) == 4
    if whole.kind != "table":
        together = [c for part in parts for c in contents(part)]
        assert [(c.row, c.id, c.word) for c in together] == [(c.row, c.id, c.word) for c in contents(whole)]
        assert all(np.all(a.load() == b.load()) for a, b in zip(together, contents(whole), strict=True) if whole.kind != "arrays")
    for begin, end in ((-1, 3), (3, 3), (5, 8)):
        with pytest.raises(InputError, match="no part of a shard"):
            whole.part(begin, end)


@pytest.mark.parametrize(
    "change", [{"kind": "other"}, {"begin": 9}, {"listing": "x"}, {"span": None}, {"source": 3}, {"extra": 1}, {"columns": [["a"]]}]
)
def test_a_damaged_description_is_refused(tmp_path: Path, change: dict):
    (shard,) = shards(some_data(tmp_path)["files"][0])
    with pytest.raises(InputError, match="describes no shard"):
        Shard.of(shard.as_dict() | change)
    with pytest.raises(InputError, match="describes no shard"):
        Shard.of({})


# ----- names -----


@pytest.mark.parametrize("kind", KINDS)
def test_a_name_changes_with_what_is_read_and_with_nothing_else(tmp_path: Path, kind: str):
    data, how = some_data(tmp_path)[kind]
    before = [shard.name for shard in shards(data, 3, **how)]
    assert [shard.name for shard in shards(data, 3, **how)] == before
    changed = {"files": data / "cat" / "1.jpeg", "manifest": tmp_path / "pictures" / "cat" / "0.png"}.get(kind, data)
    changed = next(iter(changed.parent.glob(f"{changed.stem}.*"))) if kind == "files" else changed
    content = changed.read_bytes()
    longer = {"parquet": b"PAR1" + content, "Parquet table": b"PAR1" + content}.get(kind, content + b"\n")  # its end says where all lies
    for change in (lambda: os.utime(changed, ns=(0, 12345)), lambda: changed.write_bytes(longer)):
        change()
        after = [shard.name for shard in shards(data, 3, **how)]
        same = [a == b for a, b in zip(before, after, strict=True)]
        if kind == "files":
            assert same == [False, True, True], "the others are what they were"
        else:
            assert same[0] is False
        before = after


def test_names_are_the_same_in_another_process_and_from_another_folder(tmp_path: Path):
    pictures(tmp_path / "data")
    here = [shard.name for shard in shards(tmp_path / "data", 4)]
    (tmp_path / "below").mkdir()
    code = "from onnxsal.fleet.cutting import shards; print(*(s.name for s in shards('../data', 4)))"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "below", env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == here


def test_two_rows_numbers_are_two_shards_and_one_thing_twice_is_one(tmp_path: Path):
    pictures(tmp_path)
    once = shards(tmp_path)
    assert shards([tmp_path, str(tmp_path), tmp_path / "cat"]) == once
    assert not {s.name for s in shards(tmp_path, 2)} & {s.name for s in shards(tmp_path, 3)}
    file = parquet(tmp_path / "p" / "x.parquet", {"image": [encoded(1)]})
    assert len(shards([file, file])) == 1


# ----- loose files -----


def test_pictures_are_those_that_the_plain_path_finds(tmp_path: Path):
    pictures(tmp_path)
    for name in (".hidden.png", ".folder/x.png", "notes.md", "cat/labels.txt", "a-b/x.PNG", "a/b/y.tif"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"1")
    (tmp_path / "link.png").symlink_to(tmp_path / "cat" / "0.png")
    expected = [p.relative_to(tmp_path).as_posix() for p in find_pictures([tmp_path])]
    for data in (tmp_path, tmp_path.as_uri(), in_memory(tmp_path)):
        found = [file for shard in shards(data, 3) for file in shard.files]
        assert [file.name for file in found] == expected
        assert {file.name: file.word for file in found} == {name: name.partition("/")[0] if "/" in name else "" for name in expected}


def test_bytes_cut_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for i, size in enumerate([10, 10, 10, 30, 100, 10]):
        (tmp_path / f"{i}.png").write_bytes(bytes(size))
    monkeypatch.setattr(cutting, "MOST_BYTES", 30)
    assert [(s.begin, s.end) for s in shards(tmp_path)] == [(0, 3), (3, 4), (4, 5), (5, 6)]
    (tmp_path / "t.txt").write_text("0123456789\n" * 5)
    assert [len(s) for s in shards(tmp_path / "t.txt")] == [2, 2, 1]
    np.save(tmp_path / "x.npy", np.zeros((7, 10), np.uint8))
    assert [len(s) for s in shards(tmp_path / "x.npy")] == [3, 3, 1]


def test_ids_keep_their_place_below_the_folder_that_all_lie_in(tmp_path: Path):
    for name in ("a/x/1.png", "b/x/1.png", "b/1.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(encoded(1))
    for data in ([tmp_path / "a", tmp_path / "b"], [tmp_path / "b", tmp_path / "a/x/1.png"]):
        ids = [content.id for shard in shards(data) for content in contents(shard)]
        expected = {"a/x/1.png", "b/1.png", "b/x/1.png"}
        assert sorted(ids) == sorted(expected)
        assert len(shards(data)) == 1, "small folders share a shard"
    words = {content.id: content.word for shard in shards([tmp_path / "a", tmp_path / "b"]) for content in contents(shard)}
    assert words == {"a/x/1.png": "x", "b/x/1.png": "x", "b/1.png": ""}
    for place in ("a", "b"):
        parquet(tmp_path / "p" / place / "part.parquet", {"image": [encoded(1), encoded(2)]})
        np.save(tmp_path / "p" / place / "v.npy", np.zeros((1, 2)))
    ids = [c.id for shard in shards(tmp_path / "p") for c in contents(shard)]
    assert ids == ["a/part.parquet#0", "a/part.parquet#1", "b/part.parquet#0", "b/part.parquet#1"]
    both = shards([tmp_path / "p" / "a" / "part.parquet", in_memory(tmp_path / "b")])
    assert len({c.id for shard in both for c in contents(shard)}) == 4


def test_ids_can_be_written_anywhere(tmp_path: Path):
    for name in (b"p\xff.png", b"p\\xff.png"):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(encoded(1))
    (shard,) = shards(tmp_path)
    rows = list(contents(Shard.of(json.loads(json.dumps(shard.as_dict())))))
    assert {row.id.encode() for row in rows} == {b"p\\xff.png", b"p\\\\xff.png"}
    assert all(row.load() == encoded(1) for row in rows)


def test_masks_are_no_samples(tmp_path: Path):
    for name in ("images/cat/1.jpg", "images/2.png", "masks/cat/1.png", "masks/other.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(name.encode())
    for data in (tmp_path, in_memory(tmp_path)):
        rows = [row for shard in shards(data) for row in contents(shard)]
        assert [(row.id, row.word, row.load(), row.mask and row.mask()) for row in rows] == [
            ("2.png", "", b"images/2.png", None),
            ("cat/1.jpg", "cat", b"images/cat/1.jpg", b"masks/cat/1.png"),
        ]


def test_ids_that_are_given_twice():
    assert unique(["a", "b", "a", "a#2", "a", "a#2", "b"]) == ["a", "b", "a#3", "a#2", "a#4", "a#2#2", "b#2"]


@FAST
@given(st.lists(st.sampled_from(["a", "a#2", "a#3", "a#2#2", "b", ""])))
def test_no_two_rows_of_a_shard_share_an_id(ids: list[str]):
    found = unique(ids)
    assert len(set(found)) == len(ids)
    assert all(new == old or new.startswith(f"{old}#") for old, new in zip(ids, found, strict=True))
    assert all(found[ids.index(own)] == own for own in ids), "the first keeps its id"


# ----- manifests -----

ROWS = [("pictures/cat/0.png", "one", "cat"), ("pictures/gone.png", "two", "7"), ("pictures/cat/0.png", "one", ""), ("", "four", "dog")]


def csv_text(between: str = ",") -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, delimiter=between)
    writer.writerows([("ID", " Path ", "Class"), *((i, file, word) for file, i, word in ROWS)])
    return buffer.getvalue()


MANIFESTS = {
    "m.csv": csv_text().encode(),
    "m.tsv": csv_text("\t").encode(),
    "semicolons.csv": b"\xef\xbb\xbf" + csv_text(";").encode(),
    "m.jsonl": "\n\n".join(json.dumps({"uri": file or None, "key": i, "y": word or None}) for file, i, word in ROWS).encode(),
}


@pytest.mark.parametrize("name", [*MANIFESTS, "m.parquet"])
@pytest.mark.parametrize("remote", [False, True])
def test_manifests_name_files_ids_and_labels(tmp_path: Path, name: str, remote: bool):
    pictures(tmp_path / "pictures")
    if name == "m.parquet":
        files, ids, words = zip(*ROWS, strict=True)
        parquet(tmp_path / name, {"path": [f or None for f in files], "name": list(ids), "target": list(words)})
    else:
        (tmp_path / name).write_bytes(MANIFESTS[name])
    data = f"{in_memory(tmp_path)}/{name}" if remote else tmp_path / name
    rows = [row for shard in shards(data, 3 if name != "m.parquet" else 4) for row in contents(shard)]
    assert [row.id for row in rows] == ["one", "two", "one#2", "four"], "of all of a manifest, or of a shard of Parquet"
    assert [row.word for row in rows] == ["cat", "7", "", "dog"]
    assert rows[0].load() == rows[2].load() == (tmp_path / "pictures/cat/0.png").read_bytes()
    with pytest.raises(InputError, match="No such file"):
        rows[1].load()
    with pytest.raises(InputError, match=r"no file is named|cell is empty"):
        rows[3].load()


def test_a_manifest_names_files_anywhere(tmp_path: Path):
    pictures(tmp_path / "pictures")
    other = in_memory(tmp_path / "pictures")
    file = tmp_path / "pictures" / "cat" / "0.png"
    places = [str(file), file.as_uri(), f"{other}/cat/0.png", "../pictures/cat/0.png"]
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "m.csv").write_text("file\n" + "\n".join(places) + "\n")
    (shard,) = shards(tmp_path / "lists" / "m.csv")
    rows = list(contents(shard))
    assert [row.id for row in rows] == places
    assert all(row.load() == file.read_bytes() for row in rows)
    remote = in_memory(tmp_path / "lists")
    again = list(contents(shards(f"{remote}/m.csv")[0]))
    with pytest.raises(InputError, match="a place on one machine"):
        again[0].load()
    assert again[2].load() == file.read_bytes()


def test_a_manifest_that_grows_keeps_its_shards(tmp_path: Path):
    (tmp_path / "m.csv").write_text("file\na.png\nb.png\nc.png\n")
    before = [shard.name for shard in shards(tmp_path / "m.csv", 2)]
    (tmp_path / "m.csv").write_text("file\na.png\nb.png\nc.png\nd.png\ne.png\n")
    after = [shard.name for shard in shards(tmp_path / "m.csv", 2)]
    assert before[0] == after[0]
    assert before[1] not in after


# ----- Parquet -----

BYTES, TEXT, NUMBER = pyarrow.binary(), pyarrow.string(), pyarrow.int64()
HUGGING_FACE = pyarrow.struct({"bytes": BYTES, "path": TEXT})


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"image": BYTES, "id": NUMBER, "label": TEXT}, ("image", "id", "label")),
        ({"Picture": HUGGING_FACE, "Key": TEXT, "CLASS": NUMBER}, ("Picture", "Key", "CLASS")),
        ({"path": TEXT, "bytes": BYTES, "name": TEXT, "y": NUMBER}, ("bytes", "name", "y")),
        ({"jpg": pyarrow.large_binary(), "__key__": TEXT}, ("jpg", None, None)),
        ({"file_name": TEXT, "target": NUMBER}, ("file_name", None, "target")),
        ({"path": pyarrow.dictionary(pyarrow.int32(), TEXT)}, ("path", None, None)),
        ({"image": NUMBER, "thumb": HUGGING_FACE, "label": NUMBER}, ("thumb", None, "label")),
        ({"uri": TEXT, "name": TEXT, "id": TEXT, "class": TEXT, "label": TEXT}, ("uri", "id", "label")),
    ],
)
def test_which_column_holds_what(columns: dict, expected: tuple):
    found = roles(pyarrow.schema(columns), "x")
    assert (found["content"], found.get("id"), found.get("label")) == expected


@pytest.mark.parametrize(
    ("columns", "asked", "message"),
    [
        ({"a": BYTES, "b": BYTES}, {}, r"'a' \(binary\), 'b' \(binary\)"),
        ({"x": NUMBER, "title": TEXT}, {}, "no column is known to hold pictures.*'x'.*'title'.*as_table=True"),
        ({"image": BYTES}, {"content": "imgae"}, r"no column 'imgae' \(did you mean 'image'"),
        ({"image": BYTES, "n": NUMBER}, {"content": "n"}, "column 'n' is int64"),
        ({"image": BYTES}, {"picture": "image"}, "what a column can hold is content, id, label"),
    ],
)
def test_columns_that_cannot_be_told(columns: dict, asked: dict, message: str):
    with pytest.raises(InputError, match=message):
        roles(pyarrow.schema(columns), "x", asked)


def test_columns_that_are_told(tmp_path: Path):
    columns = {"a": [b"1", b"2"], "b": [b"3", b"4"], "id": ["x", "y"], "uid": ["p", "q"], "kind": ["cat", None]}
    file = parquet(tmp_path / "x.parquet", columns)
    (shard,) = shards(file, columns={"content": "b", "id": "uid", "label": "kind"})
    assert [(row.load(), row.id, row.word) for row in contents(shard)] == [(b"3", "p", "cat"), (b"4", "q", "")]


def test_cells_of_every_kind(tmp_path: Path):
    (tmp_path / "beside.png").write_bytes(b"beside")
    cells = [{"bytes": b"1", "path": "beside.png"}, {"bytes": None, "path": "beside.png"}, {"bytes": None, "path": None}, None]
    file = parquet(tmp_path / "x.parquet", {"image": cells, "id": [7, None, 7, 7], "label": [1.0, None, 0.0, -1.0]})
    rows = list(contents(shards(file)[0]))
    assert [row.id for row in rows] == ["7", "x.parquet#1", "7#2", "7#3"]
    assert [row.word for row in rows] == ["1", "", "0", "-1"]
    assert [row.load() for row in rows[:2]] == [b"1", b"beside"]
    for row in rows[2:]:
        with pytest.raises(InputError, match="the cell is empty"):
            row.load()


def test_folders_that_say_the_class(tmp_path: Path):
    for word in ("cat", "dog"):
        parquet(tmp_path / f"class={word}" / "0.parquet", {"image": [encoded(1)]})
    parquet(tmp_path / "_temporary" / "0.parquet", {"image": [encoded(1)]})
    found = [(row.id, row.word) for shard in shards(tmp_path) for row in contents(shard)]
    assert found == [("class=cat/0.parquet#0", "cat"), ("class=dog/0.parquet#0", "dog")]


@pytest.mark.parametrize(("group", "rows"), [(1, 10), (3, 10), (10, 10), (11, 10), (25, 10), (100, 10), (7, 1), (4, 9)])
def test_parquet_is_cut_at_row_groups_where_that_is_possible(tmp_path: Path, group: int, rows: int):
    file = parquet(tmp_path / "x.parquet", {"image": [b"%d" % i for i in range(50)]}, group)
    made = shards(file, rows)
    assert [int(row.load()) for shard in made for row in contents(shard)] == list(range(50))
    assert all(len(shard) <= rows for shard in made)
    if group <= rows:
        assert all(shard.begin % group == 0 for shard in made)
        assert all(len(a) + len(b) > rows for a, b in itertools.pairwise(made) if len(a) % group == 0 and rows % group == 0)


@pytest.mark.parametrize(("begin", "end"), [(0, 1), (3, 9), (9, 10), (10, 11), (5, 27), (0, 30), (29, 30)])
def test_rows_of_parquet_begin_and_end_where_they_are_asked_for(tmp_path: Path, begin: int, end: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading_parquet, "MOST_AT_ONCE", 4)
    file = parquet(tmp_path / "x.parquet", {"n": list(range(30)), "more": ["x"] * 30}, 10)
    with opened(Folder.of(tmp_path), file.name) as there:
        batches = list(record_batches(there, RowRange(begin, end), ["n"]))
        assert [n for batch in batches for n in batch.column("n").to_pylist()] == list(range(begin, end))
        assert all(batch.schema.names == ["n"] and batch.num_rows <= 4 for batch in batches)
        with pytest.raises(InputError, match="the file has 30 rows"):
            list(record_batches(there, RowRange(20, 31)))


class Counting(io.FileIO):
    """A file that notes how many bytes are read of it."""

    reads: ClassVar[list[int]] = []

    def read(self, count: int = -1) -> bytes:
        data = super().read(count)
        self.reads.append(len(data))
        return data


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    monkeypatch.setattr(folders, "open_regular", Counting)
    monkeypatch.setattr(Counting, "reads", [])
    return Counting.reads


def test_only_wanted_columns_and_row_groups_are_read(tmp_path: Path, counted: list[int]):
    random = np.random.default_rng(0)
    columns = {"image": [random.bytes(5_000) for _ in range(100)], "other": [random.bytes(50_000) for _ in range(100)]}
    file = parquet(tmp_path / "x.parquet", columns, 10)
    size = file.stat().st_size
    (third,) = [shard for shard in shards(file, 10) if shard.begin == 30]
    assert 0 < sum(counted) < size / 20, "listing reads what the file says of itself"
    counted.clear()
    assert [row.load() for row in contents(third)] == columns["image"][30:40]
    assert 50_000 < sum(counted) < size / 20


def test_a_large_row_group_is_not_read_at_once(tmp_path: Path, counted: list[int]):
    random = np.random.default_rng(0)
    columns = {"image": [random.bytes(200_000) for _ in range(200)]}
    pyarrow.parquet.write_table(pyarrow.table(columns), tmp_path / "x.parquet", write_batch_size=1, use_dictionary=False)
    rows = contents(shards(tmp_path / "x.parquet")[0])
    counted.clear()
    assert next(rows).load() == columns["image"][0]
    assert max(counted) < 2**24
    assert sum(counted) < 30_000_000, "of 40"
    assert [row.load() for row in rows] == columns["image"][1:]


# ----- files of lines -----

CELLS = st.text(st.sampled_from('ab,"\n;é '), max_size=6)


@FAST
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=8), st.sampled_from(["\n", "\r\n"]), st.integers(1, 4))
def test_records_of_a_csv_are_cut_where_they_end(rows: list[tuple[str, str]], ends: str, most: int):
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator=ends).writerows([("x", "y"), *rows])
    data = buffer.getvalue().encode()
    records = list(csv_records(iter(data.splitlines(True)) if ends == "\n" else iter(io.BytesIO(data)), ",", "x"))
    parsed = [next(csv.reader(io.StringIO(data[r.begin : r.end].decode(), newline=""))) for r in records]
    assert parsed == [["x", "y"], *map(list, rows)]
    runs = list(cut_records(iter(records), most, 10**9))
    assert sum(run.records for run, _ in runs) == len(records)
    assert [before for _, before in runs] == list(range(0, len(records), most))


def test_a_quote_that_nothing_closes_is_no_silent_loss(tmp_path: Path):
    (tmp_path / "t.csv").write_text('a,b\n1,"2\n' + "3,4\n" * 50_000)
    with pytest.raises(InputError, match="field larger than field limit"):
        shards(tmp_path / "t.csv", as_table=True)


LINE = st.text(st.sampled_from("ab \t\u00a0\u2028\x1cé猫\ufeff\r"), max_size=5)


@FAST
@given(st.lists(LINE, max_size=8), st.sampled_from(["\n", "\r\n", "\r"]), st.integers(1, 3), st.booleans())
def test_texts_are_those_that_the_plain_path_reads(tmp_path: Path, lines: list[str], ends: str, most: int, bom: bool):
    data = (b"\xef\xbb\xbf" if bom else b"") + ends.join(["text", *lines]).encode()
    (tmp_path / "t.txt").write_bytes(data)
    found = [
        text
        for extent, _ in cut_records(text_records(iter(io.BytesIO(data))), most, 10**9)
        for text in texts_in(data[extent.begin : extent.end], extent.begin == 0, "x")
    ]
    assert found == read_lines(tmp_path / "t.txt")
    assert [row.load() for shard in shards(tmp_path / "t.txt", most) for row in contents(shard)] == found


def test_a_line_that_is_no_text_is_one_row(tmp_path: Path):
    (tmp_path / "t.txt").write_bytes(b"one\n\xff\xfe bad\ntwo\nnul \0\nthree")
    rows = [row for shard in shards(tmp_path / "t.txt", 2) for row in contents(shard)]
    assert [rows[i].load() for i in (0, 2, 4)] == ["one", "two", "three"]
    for row, why in ((rows[1], "not UTF-8"), (rows[3], "NUL")):
        with pytest.raises(InputError, match=why):
            row.load()


# ----- arrays -----


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_rows_of_arrays_are_those_of_numpy(tmp_path: Path, save: Callable):
    random = np.random.default_rng(0)
    arrays = {
        "x": random.normal(size=(7, 2, 3)),
        "f": np.asfortranarray(random.normal(size=(7, 4))),
        "b": random.integers(0, 2, (7, 1)).astype(bool),
        "t": np.array([f"n{i}" for i in range(7)]),
        "h": random.normal(size=7).astype(np.float16),
    }
    save(tmp_path / "a.npz", **arrays)
    with open(tmp_path / "a.npz", "rb") as file:
        stored = StoredArrays(file, "a")
        blocks = list(stored.rows(arrays, 2, 7, 2))
        assert [len(block["x"]) for block in blocks] == [2, 2, 1]
        for name, array in arrays.items():
            np.testing.assert_array_equal(np.concatenate([block[name] for block in blocks]), array[2:7])
            np.testing.assert_array_equal(stored.whole(name), array)
            assert stored.heads[name].dtype == array.dtype


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"PK\x03\x04rubbish", "damaged"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9, 9)}".ljust(128) + b"\n", "ends too early"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,)}".ljust(127) + b"\n", "Python objects"),
    ],
)
def test_damaged_arrays_are_refused(data: bytes, message: str):
    with pytest.raises(InputError, match=message):
        list(StoredArrays(io.BytesIO(data), "a").rows([""], 0, 9, 9))


# ----- what is refused -----


@pytest.mark.parametrize(
    ("files", "data", "how", "message"),
    [
        ({}, "gone", {}, "data '.*gone' is not there"),
        ({}, ".", {}, "nothing in it is read"),
        ({"readme.md": b"1"}, ".", {}, "nothing in it is read"),
        ({"x.parquet": b"rubbish"}, "x.parquet", {}, "cannot be read as Parquet"),
        ({"x.npy": b"rubbish"}, "x.npy", {}, "damaged, or not a .npy"),
        ({"x.csv": b"a,b\n1,2\n"}, "x.csv", {}, "it needs one that names files.*as_table=True"),
        ({"x.csv": b"file\n"}, "x.csv", {}, "has no rows"),
        ({"x.csv": b"a,b\n"}, "x.csv", {"as_table": True}, "holds no samples"),
        ({"x.jsonl": b"[1]\n"}, "x.jsonl", {}, "line 1: it holds a list"),
        ({"x.jsonl": b"{\n"}, "x.jsonl", {}, "cannot be read"),
        ({"x.txt": b"\n \n"}, "x.txt", {}, "holds no samples"),
        ({"a.csv": b"file\nx\n", "b.csv": b"file\nx\n"}, ".", {}, "holds 2 tables"),
        ({"x.parquet": b"1", "y.png": b"1"}, ".", {}, "1 Parquet files.*and 1 pictures"),
        ({"x.png": b"1"}, "x.png", {"as_table": True}, "is no table"),
        ({"x.png": b"1"}, "x.png", {"rows": 0}, "rows=0 is no number of rows"),
    ],
)
def test_data_that_cannot_be_listed(tmp_path: Path, files: dict, data: str, how: dict, message: str):
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        shards(tmp_path / data, **how)
    if "gone" not in data and "rows" not in how:
        with pytest.raises(InputError):
            shards(in_memory(tmp_path) + ("" if data == "." else f"/{data}"), **how)


@pytest.mark.parametrize("data", [[], None, 3, [np.zeros(3)], {"a": 1}])
def test_data_that_is_no_place(data: object):
    with pytest.raises(InputError):
        shards(data)


def test_a_folder_of_many_files_is_listed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Listing asks each folder once, and opens nothing."""
    pictures(tmp_path, 5, tuple("abcdef"))
    asked: list[str] = []
    own = os.scandir
    monkeypatch.setattr(folders.os, "scandir", lambda path: asked.append(str(path)) or own(path))
    monkeypatch.setattr(folders, "open_regular", lambda path: pytest.fail("a file was opened"))
    monkeypatch.setattr(folders, "read_bytes", lambda path: pytest.fail("a file was read"))
    assert sum(map(len, shards(tmp_path, 4))) == 30
    assert len(asked) == len(set(asked)) == 7
