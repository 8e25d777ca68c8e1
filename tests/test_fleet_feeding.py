"""What models are fed with by the shard: to the bit that of the plain path, in order, ahead, and never stopped by a row that is damaged."""

from __future__ import annotations

import hashlib
import io
import threading
import time
import wave
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image, ImageFile

from onnxsal.ask.guard import plain_model
from onnxsal.ask.question import ask as question_of
from onnxsal.ask.request import Ask
from onnxsal.errors import InputError
from onnxsal.facts.table_tensor import table_tensor
from onnxsal.fleet import content as reading
from onnxsal.fleet.cutting import shards
from onnxsal.fleet.feeding import FedBatch, Row, dataset, fed, table
from onnxsal.given.from_files import Feeding, file_names, find_inputs, samples
from onnxsal.given.tables import given_rows
from onnxsal.given.text import TextReader, read_lines
from onnxsal.metrics.open_dataset import open_dataset
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.session import open_session
from onnxsal.runtime.table_files import open_table
from tests.fleet_data import LABELS, PREPROCESS, asked, encoded, feeding, in_memory, linear, parquet, pictures, reads_texts
from tests.small_models import cnn, draw, make, node
from tests.tabular import exported, frame
from tests.tokenizer_files import saved, word_piece


def all_fed(data: object, ask: Ask, feeding: Feeding, size: int = 4, rows: int = 5, **how: object) -> list[FedBatch | Row]:
    table = {"as_table": True} if how.pop("as_table", False) else {}
    return [one for shard in shards(data, rows, **table) for one in fed(shard, ask, feeding, size, **how)]


def rows_of(found: Iterable[FedBatch | Row]) -> list[Row]:
    return sorted((row for one in found for row in (one.rows if isinstance(one, FedBatch) else [one])), key=lambda row: row.row)


def feeds_of(found: Iterable[FedBatch | Row]) -> dict[str, dict[str, np.ndarray]]:
    """Id -> the inputs of that sample, and the picture under "seen"."""
    out = {}
    for batch in found:
        if isinstance(batch, FedBatch):
            assert len(batch.rows) == len(batch.pictures) == len(next(iter(batch.feed.values())))
            for i, (row, picture) in enumerate(zip(batch.rows, batch.pictures, strict=True)):
                out[row.id] = {k: v[i : i + 1] for k, v in batch.feed.items()} | ({} if picture is None else {"seen": picture})
    return out


def same(found: dict[str, dict[str, np.ndarray]], expected: dict[str, dict[str, np.ndarray]]) -> None:
    assert found.keys() == expected.keys()
    for name, feed in expected.items():
        assert found[name].keys() == feed.keys(), name
        for key, array in feed.items():
            assert found[name][key].dtype == array.dtype, (name, key)
            np.testing.assert_array_equal(found[name][key], array, f"{name} {key}")


def plainly_fed(files: list[Path], names: list[str], ask: Ask, how: Feeding) -> dict[str, dict[str, np.ndarray]]:
    found = samples(files, names, ask, how)
    return {s.name: s.feed | ({"seen": s.shown.seen} if hasattr(s.shown, "seen") else {}) for s in found}


# ----- the same as by the plain path -----


@pytest.mark.parametrize("size", [1, 3, 100])
def test_pictures_are_fed_as_from_files(tmp_path: Path, size: int):
    pictures(tmp_path / "data", 4)
    how = feeding()
    Image.fromarray(np.arange(120, dtype=np.uint16).reshape(10, 12) * 500).save(tmp_path / "data" / "grey.png")
    files = find_inputs([tmp_path / "data"])
    names = [p.relative_to(tmp_path / "data").as_posix() for p in files]
    expected = plainly_fed(files, names, asked(), how)
    assert [len(e) for e in expected.values()] == [2] * 9
    as_bytes = parquet(tmp_path / "p" / "x.parquet", {"image": [p.read_bytes() for p in files], "id": names}, 2)
    struct = [{"bytes": p.read_bytes(), "path": p.name} for p in files]
    hugging = parquet(tmp_path / "h" / "x.parquet", {"image": struct, "key": names})
    paths = parquet(tmp_path / "data" / "x.pq", {"path": names, "id": names})
    for data in (tmp_path / "data", as_bytes, hugging, paths, in_memory(tmp_path / "p"), f"{in_memory(tmp_path / 'data')}/grey.png"):
        if data == tmp_path / "data":
            paths.rename(tmp_path / "away")
        found = all_fed(data, asked(), how, size)
        wanted = expected if "grey" not in str(data) else {"grey.png": expected["grey.png"]}
        same(feeds_of(found), wanted)
        assert [row.id for row in rows_of(found)] == list(wanted)
        held = {own: hashlib.sha256((tmp_path / "data" / own).read_bytes()).hexdigest()[:32] for own in wanted}
        assert {row.id: row.digest for row in rows_of(found)} == held
        if data == tmp_path / "data":
            (tmp_path / "away").rename(paths)


def test_data_sets_are_those_of_open_dataset(tmp_path: Path):
    files, tensor = pictures(tmp_path / "data", 3, ("cat", "dog", "two_words")), feeding().inputs[0]
    (tmp_path / "data" / "cat" / "1.jpeg").write_bytes(b"rubbish")
    for masked in (False, True):
        if masked:
            for name in ("cat/0.png", "dog/1.png"):
                (tmp_path / "data" / "masks" / name).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.uint8([[0, 255], [0, 255]])).save(tmp_path / "data" / "masks" / name)
        plain = open_dataset(tmp_path / "data", tensor, PREPROCESS, LABELS)
        for data in (tmp_path / "data", in_memory(tmp_path / "data")):
            (shard,) = shards(data)
            own = dataset(shard, tensor, PREPROCESS, LABELS)
            equal_data(own, plain)
            assert own.masked == plain.masked == 2 * masked
            assert set(own.damaged) == set(plain.damaged) == {"cat/1.jpeg"}
    names = [p.relative_to(tmp_path / "data").as_posix() for p in files]
    cells = {"bytes": [p.read_bytes() for p in files], "id": names, "label": [n.partition("/")[0] for n in names]}
    (shard,) = shards(parquet(tmp_path / "x.parquet", cells))
    (tmp_path / "data" / "masks").rename(tmp_path / "masks")
    equal_data(dataset(shard, tensor, PREPROCESS, LABELS), open_dataset(tmp_path / "data", tensor, PREPROCESS, LABELS))


def equal_data(own: object, plain: object) -> None:
    assert own.names == plain.names
    left, right = list(own), list(plain)
    for a, b in zip(left, right, strict=True):
        assert (a.name, a.label, a.digest) == (b.name, b.label, b.digest)
        for name in ("x", "picture", "mask"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
        assert a.x.dtype == b.x.dtype


@pytest.mark.parametrize("kind", ["npy", "npz", "bytes", "float64"])
def test_arrays_are_those_of_the_plain_path(tmp_path: Path, kind: str):
    random, how = np.random.default_rng(0), feeding()
    x = random.normal(size=(7, 3, 8, 8)).astype(np.float64 if kind == "float64" else np.float32)
    if kind == "bytes":
        x = random.integers(0, 256, (7, 12, 9, 3), np.uint8)
    names = [f"n{i}" for i in range(7)]
    more = {"labels": np.array([3, -1, 0, 1, 2, 4, 4]), "masks": random.normal(size=(7, 8, 8)) > 0, "names": np.array(names)}
    file = tmp_path / ("x.npy" if kind == "npy" else "x.npz")
    np.save(file, x) if kind == "npy" else np.savez(file, x=x, **more)
    called = [f"x.npy#{i}" for i in range(7)] if kind == "npy" else names
    plain = open_dataset(file, how.inputs[0], PREPROCESS, LABELS)
    for data in (file, f"{in_memory(tmp_path)}/{file.name}"):
        found = all_fed(data, asked(), how, 3)
        expected = {own: {"x": s.x, "seen": s.picture} for own, s in zip(called, plain, strict=True)}
        same(feeds_of(found), expected)
        assert [row.label for row in rows_of(found)] == [s.label for s in plain]
        own = [sample for shard in shards(data, 3) for sample in dataset(shard, how.inputs[0], PREPROCESS, LABELS)]
        for a, b, name in zip(own, plain, called, strict=True):
            assert (a.name, a.label, a.digest) == (name, b.label, b.digest)
            np.testing.assert_array_equal(a.x, b.x)
            np.testing.assert_array_equal(a.mask, b.mask)
    if kind in ("npy", "float64"):
        np.save(tmp_path / "plain.npy", x)
        given = plainly_fed([tmp_path / "plain.npy"], [""], asked(), how)
        same({k: {"x": v["x"]} for k, v in feeds_of(found).items()}, dict(zip(called, given.values(), strict=True)))


def test_arrays_of_several_inputs(tmp_path: Path):
    model = make([node("Add", "a b", "y")], {"a": ["N", 3], "b": ["N", 3]}, {"y": ["N", 3]})
    arrays = {"a": draw(5, 3, seed=1), "b": draw(5, 3, seed=2)}
    np.savez(tmp_path / "x.npz", **arrays)
    ask, how = asked(model, None), feeding(model, "a")
    found = all_fed(tmp_path / "x.npz", ask, how, 2)
    for name, array in arrays.items():
        np.testing.assert_array_equal(np.concatenate([batch.feed[name] for batch in found]), array)
    np.savez(tmp_path / "x.npz", a=arrays["a"])
    np.save(tmp_path / "x.npy", arrays["a"])
    for file, why in (("x.npz", "gives the input(s) a, and the model takes a"), ("x.npy", "one array, and the model has 2 inputs")):
        found = all_fed(tmp_path / file, ask, how)
        assert len(found) == 5
        assert all(why in row.why for row in found)


def test_sounds_are_those_of_the_plain_path(tmp_path: Path):
    model = make(
        [node("Conv", "x w", "c"), node("ReduceMean", "c ax", "y", keepdims=0)],
        {"x": ["N", 2, 16]},
        {"y": ["N", 4]},
        {"w": np.ones((4, 2, 3), np.float32), "ax": np.array([2])},
    )
    for i in range(3):
        buffer = io.BytesIO()
        with wave.open(buffer, "wb") as file:
            file.setnchannels(2)
            file.setsampwidth(2)
            file.setframerate(8000)
            file.writeframes(np.random.default_rng(i).integers(-(2**15), 2**15, 32, np.int16).tobytes())
        (tmp_path / f"{i}.wav").write_bytes(buffer.getvalue()[: 50 if i == 1 else None])
    how, ask = feeding(model), asked(model, None)
    files = [tmp_path / "0.wav", tmp_path / "2.wav"]
    for data in (tmp_path, in_memory(tmp_path)):
        found = all_fed(data, ask, how)
        same(feeds_of(found), {f"{s.name}.wav": s.feed for s in samples(files, ["0", "2"], ask, how)})
        (bad,) = [row for row in rows_of(found) if row.why]
        assert bad.id == "1.wav"
        assert bad.digest
    with pytest.raises(InputError, match="is a sound"):
        dataset(shards(tmp_path)[0], how.inputs[0])


@pytest.mark.parametrize("truncate", [False, True])
def test_texts_are_those_of_the_plain_path(tmp_path: Path, truncate: bool):
    model = reads_texts()
    onnx.save(model, tmp_path / "model.onnx")
    tokenizer = word_piece()
    tokenizer.enable_truncation(6)
    saved(tokenizer, tmp_path)
    how, ask = feeding(model), Ask.of(tmp_path / "model.onnx", "gradient")
    reader = TextReader.of(tmp_path / "model.onnx", how, truncate=truncate)
    (tmp_path / "t.txt").write_text("the cat plays\n\ndog\nthe dog sat on a mat, the cat on the dog\ncat\nthe mat\n" * 5)
    plain: dict[str, dict[str, np.ndarray]] = {}
    for i, text in enumerate(read_lines(tmp_path / "t.txt")):
        if truncate or len(text) < 20:
            plain[f"t.txt#{i}"] = reader.samples(text)[0].feed
    for data in (tmp_path / "t.txt", f"{in_memory(tmp_path)}/t.txt"):
        found = all_fed(data, ask, how, 2, 3, reader=reader, ahead=4)
        same(feeds_of(found), plain)
        assert [row.row for row in rows_of(found) if "have it cut off" in row.why] == ([] if truncate else [2, 7, 12, 17, 22])
    if not truncate:
        same(feeds_of(all_fed(tmp_path / "t.txt", ask, how, 2)), plain)


def test_a_tokenizer_is_never_asked_by_two_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """It is told where to cut off, reads, and is told again: between these it is in one thread's hands."""
    model, alone, own = reads_texts(), threading.Lock(), TextReader.samples
    onnx.save(model, tmp_path / "model.onnx")
    saved(word_piece(), tmp_path)

    def held(*given: object) -> object:
        if not alone.acquire(blocking=False):
            raise InputError("two at once")
        try:
            time.sleep(0.005)
            return own(*given)
        finally:
            alone.release()

    monkeypatch.setattr(TextReader, "samples", held)
    (tmp_path / "t.txt").write_text("the cat\n" * 10)
    rows = rows_of(all_fed(tmp_path / "t.txt", Ask.of(tmp_path / "model.onnx", "gradient"), feeding(model), 5, 10, ahead=4))
    assert [row.why for row in rows] == [""] * 10


def test_tables_are_those_of_the_plain_path(tmp_path: Path):
    model = exported()
    onnx.save(model, tmp_path / "model.onnx")
    data = frame()
    data["id"] = [f"r{i // 2}" for i in range(len(data))]
    data["label"] = [i % 2 for i in range(len(data))]
    data.to_csv(tmp_path / "t.csv", index=False)
    data.to_parquet(tmp_path / "t.parquet", row_group_size=3)
    ask, how = Ask.of(tmp_path / "model.onnx", "gradient"), rows_fed(model)
    for name in ("t.csv", "t.parquet"):
        plain = given_rows(tmp_path / name, ask, how)
        made = shards(tmp_path / name, 4, as_table=True)
        found = [one for shard in made for one in fed(shard, ask, how, 3)]
        rows = rows_of(found)
        assert [row.label for row in rows] == list(data["label"])
        assert rows[0].id == "r0"
        assert all(row.id in (data["id"][i], f"{data['id'][i]}#2") for i, row in enumerate(rows))
        for key, array in plain.feed.items():
            np.testing.assert_array_equal(np.concatenate([b.feed[key] for b in found]), array)
        whole = open_table(tmp_path / name)
        for column, cells in whole.columns.items():
            np.testing.assert_array_equal(np.concatenate([table(shard).columns[column] for shard in made]), cells)
        with pytest.raises(InputError, match="read as table"):
            dataset(made[0], how.inputs[0])


def rows_fed(model: onnx.ModelProto) -> Feeding:
    """How a model is fed with rows, explained where all columns meet."""
    plain = plain_model(model, None)
    found = table_tensor(plain)
    assert found is not None
    return Feeding(question_of(plain, found.name), open_session(model, "cpu").inputs)


# ----- rows that are damaged -----


def test_a_damaged_picture_stops_nothing(tmp_path: Path):
    pictures(tmp_path, 4, ("cat",))
    (tmp_path / "cat" / "1.jpeg").write_bytes(b"rubbish")
    (tmp_path / "cat" / "2.bmp").write_bytes(encoded(3)[:100])
    found = all_fed(tmp_path, asked(), feeding(), 10)
    good, bad = [row for row in rows_of(found) if not row.why], [row for row in rows_of(found) if row.why]
    assert [row.id for row in good] == ["cat/0.png", "cat/3.png"]
    assert [row.id for row in bad] == ["cat/1.jpeg", "cat/2.bmp"]
    assert len([one for one in found if isinstance(one, FedBatch)]) == 1, "a batch is not cut for it"
    assert all(len(row.digest) == 32 for row in good + bad), "their bytes were read"
    assert [row.row for row in rows_of(found)] == [0, 1, 2, 3]
    assert [row.label for row in rows_of(found)] == [0] * 4


def test_empty_cells_and_missing_files_are_rows(tmp_path: Path):
    file = parquet(tmp_path / "x.parquet", {"image": [encoded(1), None, b"", encoded(2)]})
    whys = [row.why for row in rows_of(all_fed(file, asked(), feeding()))]
    assert whys == ["", "the cell is empty.", "the cell is empty.", ""]
    (tmp_path / "0.png").write_bytes(encoded(1))
    (tmp_path / "m.csv").write_text("file\n0.png\ngone.png\n\n0.png\n")
    rows = rows_of(all_fed(tmp_path / "m.csv", asked(), feeding()))
    assert [row.id for row in rows] == ["0.png", "gone.png", "0.png#2"]
    assert "No such file" in rows[1].why
    assert rows[1].digest == ""
    assert rows[0].digest == rows[2].digest != ""


def test_rows_of_the_wrong_shape_or_number(tmp_path: Path):
    x = np.zeros((4, 3, 8, 8), np.float32)
    x[1, 0, 0, 0] = np.nan
    np.save(tmp_path / "nan.npy", x)
    assert [bool(row.why) for row in rows_of(all_fed(tmp_path / "nan.npy", asked(), feeding()))] == [False, True, False, False]
    for name, array, why in (
        ("a", np.zeros((2, 3, 9, 8), np.float32), r"\[1, 3, 9, 8\] as input 'x'"),
        ("b", np.zeros((2, 8), np.float32), "as input 'x'"),
        ("c", np.zeros((2, 3, 8, 8), np.int64), "int64"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        fixed = feeding(cnn(size=8))
        rows = rows_of(all_fed(tmp_path / f"{name}.npy", asked(), fixed))
        assert len(rows) == 2
        for row in rows:
            with pytest.raises(InputError, match=why):
                raise InputError(row.why)


def test_pictures_of_several_sizes_make_batches_of_one_shape_in_order(tmp_path: Path):
    sizes = [(8, 8), (8, 8), (9, 8), (8, 8), (8, 8), (8, 8)]
    for i, size in enumerate(sizes):
        (tmp_path / f"{i}.png").write_bytes(encoded(i, size=size))
    found = all_fed(tmp_path, asked(preprocess=Preprocess(1 / 255)), feeding(cnn(size="S")), 2, 10)
    assert [[row.row for row in one.rows] for one in found] == [[0, 1], [2], [3, 4], [5]]


@pytest.mark.parametrize("change", ["gone", "rubbish", "shorter", "other"])
@pytest.mark.parametrize("kind", ["parquet", "npy", "txt", "csv"])
def test_a_source_that_changes_after_it_was_listed(tmp_path: Path, kind: str, change: str):
    file = tmp_path / f"x.{kind}"
    ask, how, asks = asked(), feeding(), {}
    if kind == "parquet":
        parquet(file, {"image": [encoded(i) for i in range(5)]})
    elif kind == "npy":
        np.save(file, np.zeros((5, 3, 8, 8), np.float32))
    elif kind == "txt":
        model = reads_texts()
        onnx.save(model, tmp_path / "model.onnx")
        saved(word_piece(), tmp_path)
        ask, how = Ask.of(tmp_path / "model.onnx", "gradient"), feeding(model)
        file.write_text("the cat\n" * 5)
    else:
        model = linear()
        ask, how, asks = asked(model, None), feeding(model), {"as_table": True}
        file.write_text("a,b\n" + "1,2\n" * 5)
    (shard,) = shards(file, **asks)
    assert not any(row.why for row in rows_of(fed(shard, ask, how, 2)))
    data = file.read_bytes()
    file.unlink()
    if change != "gone":
        file.write_bytes({"rubbish": b"rubbish", "shorter": data[: len(data) // 2], "other": data + b"\n"}[change])
    rows = rows_of(fed(shard, ask, how, 2))
    assert [row.row for row in rows] == list(range(5))
    assert all(("was changed" if change != "gone" else "not there any more") in row.why for row in rows)
    assert len({row.id for row in rows}) == 5
    if kind in ("parquet",):
        own = dataset(shard, how.inputs[0], PREPROCESS)
        assert list(own) == []
        assert len(own.damaged) == 5


def test_damage_within_a_parquet_file_is_told_row_by_row(tmp_path: Path):
    """What was written over after its end was written: the file's own description is whole."""
    file = parquet(tmp_path / "x.parquet", {"image": [encoded(i, size=(40, 40)) for i in range(20)]}, 5)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    file.write_bytes(bytes(data))
    rows = rows_of(all_fed(file, asked(), feeding(), 4, 5))
    assert [row.row for row in rows] == list(range(20))
    assert any(row.why for row in rows)
    assert not all(row.why for row in rows)


def test_a_damaged_row_of_a_table_is_one_row(tmp_path: Path):
    model = linear()
    ask, how = asked(model, None), feeding(model)
    (tmp_path / "t.csv").write_text('a,id,b\n1,p,2\nhalf,q,4\n5,r\n7,s,8\n"9",t,\n11,u,12\n')
    found = all_fed(tmp_path / "t.csv", ask, how, 10, 10, as_table=True)
    rows = rows_of(found)
    assert [bool(row.why) for row in rows] == [False, True, True, False, True, False]
    assert [row.id for row in rows] == ["p", "q", "t.csv#2", "s", "t", "u"]
    assert "'half' is no number" in rows[1].why
    assert "missing value" in rows[4].why
    (batch,) = [one for one in found if isinstance(one, FedBatch)]
    np.testing.assert_array_equal(batch.feed["x"], [[1, 2], [7, 8], [11, 12]])
    with pytest.raises(InputError, match="cannot be read"):
        table(shards(tmp_path / "t.csv", as_table=True)[0])


def test_a_table_without_a_column_says_so_in_every_row(tmp_path: Path):
    model = exported()
    onnx.save(model, tmp_path / "model.onnx")
    frame().drop(columns=["age"]).to_csv(tmp_path / "t.csv", index=False)
    ask, how = Ask.of(tmp_path / "model.onnx", "gradient"), rows_fed(model)
    rows = rows_of(all_fed(tmp_path / "t.csv", ask, how, 10, 4, as_table=True))
    assert len(rows) == len(frame())
    assert all("no column 'age'" in row.why for row in rows)


# ----- ahead -----


def test_two_pictures_are_decoded_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Each waits within its decoder until the other is there; one after the other, they would wait for ever."""
    pictures(tmp_path, 2, ("cat",))
    both, own = threading.Barrier(2), ImageFile.ImageFile.load
    entered = threading.local()

    def load(image: ImageFile.ImageFile) -> object:
        if not getattr(entered, "yes", False):
            entered.yes = True
            both.wait(20)
        return own(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    limit = Image.MAX_IMAGE_PIXELS
    found = all_fed(tmp_path, asked(), feeding(), 2, ahead=2)
    assert [row.why for row in rows_of(found)] == ["", ""]
    assert limit == Image.MAX_IMAGE_PIXELS


def test_no_more_is_read_ahead_than_two_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pictures(tmp_path, 30, ("cat",))
    read: list[str] = []
    own = reading.read_at
    monkeypatch.setattr(reading, "read_at", lambda folder, name: read.append(name) or own(folder, name))
    (shard,) = shards(tmp_path)
    stream, given = fed(shard, asked(), feeding(), 3, ahead=2), 0
    for batch in stream:
        given += len(batch.rows)
        time.sleep(0.005)
        assert given <= len(read) <= given + 2 * 3 + 1
    assert given == len(read) == 30
    stream = fed(shard, asked(), feeding(), 3, ahead=2)
    next(stream)
    stream.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("onnxsal-decode")]


# ----- labels, and what cannot be asked -----


def test_words_are_labels_as_open_dataset_reads_them(tmp_path: Path):
    words = ["cat", "two_words", "3", "nothing", None, "DOG"]
    file = parquet(tmp_path / "x.parquet", {"image": [encoded(i) for i in range(6)], "label": words})
    assert [row.label for row in rows_of(all_fed(file, asked(), feeding()))] == [0, 2, 3, None, None, 1]
    own = rows_of(all_fed(file, asked(), feeding(), label=lambda word: len(word)))
    assert [row.label for row in own] == [3, 9, 1, 7, None, 3]

    def strict(word: str) -> int:
        raise InputError(f"{word} is no class.")

    assert [row.why for row in rows_of(all_fed(file, asked(), feeding(), label=strict))] == [
        (w and f"{w} is no class.") or "" for w in words
    ]


def test_what_nothing_can_be_read_with_is_an_error(tmp_path: Path):
    pictures(tmp_path)
    with pytest.raises(InputError, match="no preprocessing is known"):
        all_fed(tmp_path, asked(preprocess=None), feeding())
    for wrong in ({"size": 0}, {"ahead": 0}):
        with pytest.raises(InputError, match="must be 1 or more"):
            all_fed(tmp_path, asked(), feeding(), **wrong)


def test_ids_are_those_that_the_plain_path_gives_a_folder(tmp_path: Path):
    pictures(tmp_path)
    files = find_inputs([tmp_path])
    ids = [row.id for row in rows_of(all_fed(tmp_path, asked(), feeding(), rows=100))]
    assert [Path(own).with_suffix("").as_posix() for own in ids] == [Path(name).as_posix() for name in file_names(files)]
