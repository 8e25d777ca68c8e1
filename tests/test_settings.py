"""Settings that somebody else wrote: spoiled in every way they are read or refused, each refusal names file, field, found and wanted."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

import onnxsal
from onnxsal.ask.request import Ask
from onnxsal.cli.app import app
from onnxsal.cli.parameters import read_parameters
from onnxsal.engine.method import get_method, parse_method
from onnxsal.errors import InputError, MethodError, ModelError, OnnxsalError
from onnxsal.facade.adopt import adopt
from onnxsal.limits import Limits, limit
from onnxsal.methods.patterns.file import load_patterns
from onnxsal.metrics.open_dataset import open_dataset
from onnxsal.metrics.record import Record, measured_or_damaged
from onnxsal.runtime.arrays import read_array, read_arrays
from onnxsal.runtime.beside import beside
from onnxsal.runtime.data import open_data
from onnxsal.runtime.labels import load_labels
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.preprocess_files import load_preprocess
from onnxsal.runtime.session import Tensor
from onnxsal.settings import Number, Numbers, Pair, Phrase, Switch, checked, parse_json, parse_toml, path_of, read_config, schema
from tests.hostile_settings import CONVERTED, CONVNEXT, LABELS, OURS, TABLE, TIMM, VIT, Kind, fields_spoiled, kinds, sample, toml
from tests.small_models import cnn

KINDS = kinds()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "l.txt").write_text("tench\ngoldfish\n")
    return tmp_path


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def ending(read: Any, *given: Any) -> str:
    """The message of the error of ours that a call ends in, '' where it ends well. Any other error is a failure of the test."""
    try:
        read(*given)
    except OnnxsalError as error:
        return str(error)
    return ""


# ----- every field of every file -----


@pytest.mark.parametrize("kind", KINDS, ids=[f"{i}-{k.name}" for i, k in enumerate(KINDS)])
def test_a_spoiled_file_is_read_or_refused_and_nothing_else(kind: Kind, folder: Path):
    """No exception but ours leaves a reader, none takes long, and no message carries the inside of Python."""
    rng, file = random.Random(f"{kind.name}{len(str(kind.document))}"), folder / kind.name
    kind.read(written(file, kind.valid))
    refused = 0
    for data in sample(kind, rng, 60):
        begin = time.perf_counter()
        told = ending(kind.read, written(file, data))
        refused += bool(told)
        assert "object at 0x" not in told, (data[:200], told)
        assert len(told) < 15_000, (data[:200], len(told))
        assert time.perf_counter() - begin < 5, data[:200]
    assert refused > 20 or kind.name == "labels.txt"


@pytest.mark.parametrize(
    "kind", [k for k in KINDS if k.name in ("m.toml", "preprocessor_config.json", "config.json")], ids=lambda k: k.name
)
def test_nothing_is_coerced(kind: Kind, folder: Path):
    """What a mutation gave is in the result as it was, or the file is refused: no "false" is true, no 8.7 is 8."""
    for document in fields_spoiled(kind.document):
        try:
            read = load_preprocess(written(folder / kind.name, kind.write(document).encode(errors="surrogatepass")))
        except OnnxsalError:
            continue
        numbers = (read.scale, *read.mean, *read.std)
        sizes = [n for s in (read.resize, read.crop) if s is not None for n in (s if isinstance(s, tuple) else (s,))]
        assert all(type(n) is float and np.isfinite(n) for n in numbers)
        assert all(type(n) is int and n >= 1 for n in sizes)
        assert np.prod([float(n) for n in sizes[:2]]) <= limit("pixels")


# ----- the message -----


def refusal(kind: type[OnnxsalError], read: Any, *given: Any, **more: Any) -> str:
    with pytest.raises(kind) as caught:
        read(*given, **more)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("p.toml", 'scale = "1/255"\nresize = [8.7, 8]', ["scale must be a number, not '1/255'", "resize must be one number or [height"]),
        ("p.toml", "scale = true\nmean = [1, true, 2]", ["scale must be a number, not true", "mean must be", "[1, True, 2]"]),
        ("p.toml", "scale = nan", ["scale is nan, which is no number"]),
        ("p.toml", "mean = inf\n", ["mean is inf"]),
        ("p.toml", "scale = 1\nscale = 2", ["not valid TOML", "overwrite"]),
        ("p.toml", "scale = [1, 2]", ["scale must be a number, not [1, 2]"]),
        ("p.toml", 'meen = 3\nlayout = "NCWH"', ["'scale' is missing", "unknown key 'meen' (did you mean 'mean'?)"]),
        ("p.toml", 'scale = 1\nlayout = "NCWH"\nmean = [1, 2]', ["layout 'NCWH' is none of", "mean has 2 numbers"]),
        ("p.toml", "scale = 1\nresize = [1000000, 1000000]", ["1,000,000,000,000 pixels", "67,108,864", "ONNXSAL_MAX_PIXELS=N"]),
        ("p.toml", "scale = 1\nresize = 1000000", ["ONNXSAL_MAX_PIXELS"]),
        ("p.json", json.dumps({**VIT, "do_resize": "false"}), ["do_resize must be true or false, not 'false'"]),
        ("p.json", json.dumps({**VIT, "do_normalize": "no", "image_std": ["1", 2, 3]}), ["do_normalize must be", "image_std must be"]),
        ("p.json", json.dumps({**VIT, "size": {"height": 8.7, "width": 8}}), ["size must be a whole number, or a table", "8.7"]),
        ("p.json", json.dumps({**VIT, "rescale_factor": [1, 2]}), ["rescale_factor must be a number, not [1, 2]"]),
        ("p.json", json.dumps({**VIT, "size": {"height": 10**6, "width": 10**6}}), ["ONNXSAL_MAX_PIXELS"]),
        ("p.json", json.dumps({**CONVNEXT, "crop_pct": 1e-9}), ["crop_pct must be a number from 0.01 to 10"]),
        ("p.json", json.dumps({**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], "input_size": [3, 10**6, 10**6]}}), ["MAX_PIXELS"]),
        ("p.json", json.dumps({**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], "crop_pct": "1"}}), ["pretrained_cfg: crop_pct must"]),
        ("p.json", '{"do_resize": false, "do_resize": true}', ["key 'do_resize' is given twice"]),
        ("p.json", '{"do_resize": NaN}', ["NaN is no number of JSON"]),
        ("p.json", "[" * 100_000, ["nested too deeply"]),
        ("p.json", json.dumps({**VIT, "image_mean": [[[[0.5]]]]}), ["image_mean must be a number or a list of numbers"]),
        ("p.toml", "scale = 1\nx = " + "[" * 100 + "]" * 100, ["lies in more than 64 tables and lists"]),
        ("p.toml", ".".join(["a"] * 50_000) + " = 1", ["a key joins more than 64 names"]),
        ("p.toml", b"scale = 1\0", ["holds NUL bytes"]),
        ("p.toml", "scale = 1".encode("utf-16"), ["is not UTF-8 text"]),
    ],
)
def test_the_message_names_file_field_found_and_wanted(name: str, text: str | bytes, parts: list[str], tmp_path: Path):
    told = refusal(InputError, load_preprocess, written(tmp_path / name, text))
    assert all(line.startswith(f"'{tmp_path / name}'") for line in told.splitlines()), told
    assert [p for p in parts if p not in told] == [], told


def test_all_mistakes_of_a_file_are_told_at_once_but_not_thousands(tmp_path: Path):
    told = refusal(InputError, load_preprocess, written(tmp_path / "p.toml", 'scale = "a"\nstd = ["b"]\nresize = 8.7\ncrop = true\nx = 1'))
    assert len(told.splitlines()) == 5
    told = refusal(InputError, checked, list[Phrase], [3] * 1000, "f")
    assert told.splitlines()[-1] == "980 more mistakes."


def test_a_schema_takes_what_it_says_and_nothing_near_it():
    @schema
    class Some:
        number: Number
        switch: Switch = False
        pair: Pair | None = None
        numbers: Numbers = ()

    assert checked(Some, {"number": 3, "pair": {"height": 2, "width": 3}, "numbers": 1}, "f") == Some(3.0, False, (2, 3), (1.0,))
    assert path_of(("models", "my net", "preprocess", "mean", 1)) == "models.'my net'.preprocess.mean[1]"
    for wrong in (
        {"number": "3"},
        {"number": True},
        {"number": 10**400},
        {"number": 1, "switch": 1},
        {"number": 1, "pair": [1, 2.0]},
        [],
        3,
        None,
    ):
        refusal(InputError, checked, Some, wrong, "f")


# ----- labels, tables, rules -----


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.json", '{"0": "a", "0": "b"}', "key '0' is given twice"),
        ("l.txt", "{0: 'a', 0: 'b'}", "1 of the 2 keys are given twice"),
        ("l.json", '{"0": "a", "00": "b"}', "same number"),
        ("l.json", '["a", null]', "[1] must be a name, not null"),
        ("l.json", '{"id2label": 3}', "must be"),
        ("l.json", '{"id2label": {"0": {"a": 1}}}', "must be a name, or a list that ends with one"),
        ("l.txt", b"a\0b\n", "NUL"),
    ],
)
def test_labels_that_are_none(name: str, text: str | bytes, message: str, tmp_path: Path):
    assert message in refusal(InputError, load_labels, written(tmp_path / name, text))


@pytest.mark.parametrize("named", ["../secret.txt", "/etc/passwd", "a/../../b", "..\\secret.txt", "C:\\x", "", 3])
@pytest.mark.parametrize("manifest", [False, True])
def test_labels_lie_beside_the_file_that_names_them(named: object, manifest: bool, tmp_path: Path):
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "secret.txt").write_text("s\n")
    line = f"labels = {json.dumps(named)}\n"
    written(inside / ("manifest.toml" if manifest else "m.toml"), f'[models.m]\nfile = "m.onnx"\n{line}' if manifest else line)
    told = refusal(InputError, beside, inside / "m.onnx")
    assert "labels" in told
    assert "secret" not in told.replace("secret.txt", "")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("file,label\na.png,nobody\nb.png,9x\n", ["line 2: label 'nobody'", "line 3: label '9x'"]),
        ("file,file\na.png,b.png\n", ["the column 'file' twice"]),
        ("file,label\na.png,1,2\n", ["line 2: it has more cells than the 2 columns"]),
        ("a,b\n1,2\n", ["needs a column 'file'"]),
        ("", ["0 rows"]),
    ],
)
def test_tables_of_samples(text: str, parts: list[str], tmp_path: Path):
    tensor = Tensor("x", "tensor(float)", np.dtype(np.float32), (None, 3, 8, 8))
    told = refusal(InputError, open_dataset, written(tmp_path / "t.csv", text), tensor, Preprocess(1), LABELS)
    assert [p for p in parts if p not in told] == [], told
    assert open_dataset(written(tmp_path / "t.csv", TABLE), tensor, Preprocess(1), LABELS).label("b.png") == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("aliases = 3", "aliases must be a list, not 3"),
        ('times_input = "yes"', "times_input must be true or false, not 'yes'"),
        ("rule = 3", "rule must be a list, not 3"),
        ("extends = [1]", "extends must be a text"),
        ("parameters = 1", "parameters must be a table of keys and values"),
        ("parameters = {a = {default = 1, doc = 2}}", "parameter 'a': doc must be a text, not 2"),
        ("preset = {p = 3}", "preset.p must be a table of keys and values"),
        ('rule = [{use = "epsilon", epsilon = "big"}]', "[[rule]] row 1: epsilon: it must be a number, not 'big'"),
        ('rule = [{use = "patterns", kernel = 3}]', "[[rule]] row 1: 'kernel' is filled in by the method"),
        ('rule = [{use = "zbox", low = "black"}]', "[[rule]] row 1: low: it must be a number or a list of numbers"),
        ('rule = [{use = "gradient", op = 3}]', "rule[0].op must be a text or a list of texts"),
    ],
)
def test_rule_files_of_wrong_types(line: str, message: str):
    told = refusal(MethodError, parse_method, f'name = "m"\ntitle = "t"\nsource = "s"\n{line}\n', "mine.toml")
    assert f"mine.toml, {message}" in told or f"mine.toml: {message}" in told, told


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'name = "m"\nextends = "smoothgrad"\n[parameters.noise_level]\ndefault = "much"\n',
            "parameter 'noise_level': its default 'much' is",
        ),
        ('name = "m"\nextends = "ig"\n[parameters.baseline]\ndefault = {a = 1}\n', "baseline={'a': 1} is no baseline"),
        ('name = "m"\nextends = "lrp_epsilon_gamma_box"\n[parameters.low]\ndefault = {a = 1}\n', "low = {'a': 1} is not a number"),
        (
            'name = "m"\nextends = "occlusion"\nparameters = {chunk = {default = [1], kind = "anything"}}\n',
            "chunk=[1] is no number of samples in one turn",
        ),
        ('name = "m"\ntitle = "t"\nsource = "s"\nwrap = "occlusion"\n', "no parameter 'window', which wrap 'occlusion' needs"),
    ],
)
def test_parameters_are_of_the_kind_that_their_wrap_reads(text: str, message: str, tmp_path: Path):
    assert message in refusal(MethodError, onnxsal.convert, cnn(), written(tmp_path / "r.toml", text))


def test_rule_files_that_extend_one_another_without_end(tmp_path: Path):
    for i in range(12):
        written(tmp_path / f"{i}.toml", f'name = "n{i}"\nextends = "{i + 1}.toml"\n')
    assert "ONNXSAL_MAX_EXTENDS" in refusal(MethodError, get_method, tmp_path / "0.toml")


# ----- metadata -----


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("onnxsal.parameters", "3", "must be a table"),
        ("onnxsal.parameters", '{"input": 3}', "input must be a text, not 3"),
        ("onnxsal.parameters", "[" * 100_000, "nested too deeply"),
        ("onnxsal.facts", '[{"what": 3, "value": "", "ground": "guessed"}]', "[0].ground must be one of 'proved from the graph'"),
    ],
)
def test_damaged_metadata_of_a_converted_model(key: str, text: str, message: str):
    model = onnx.ModelProto()
    model.CopyFrom(CONVERTED)
    next(p for p in model.metadata_props if p.key == key).value = text
    told = refusal(ModelError, adopt, Ask.of(model))
    assert message in told
    assert "Convert the original model again." in told


@pytest.mark.parametrize("field", ["input", "output", "prefix"])
def test_metadata_that_name_tensors_which_are_not_there(field: str):
    model = onnx.ModelProto()
    model.CopyFrom(CONVERTED)
    entry = next(p for p in model.metadata_props if p.key == "onnxsal.parameters")
    entry.value = json.dumps({**json.loads(entry.value), field: "nowhere"})
    assert "nowhere" in refusal(ModelError, adopt, Ask.of(model))


# ----- arrays -----


def archive(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, data in entries.items():
            packed.writestr(f"{name}.npy", data)
    return path


def npy(array: np.ndarray, shape: str = "") -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    data = buffer.getvalue()
    old = str(array.shape).encode()
    return data if not shape else data.replace(old + b", }" + b" " * (len(shape) - len(old)), shape.encode() + b", }", 1)


def test_arrays_are_read_as_they_are(tmp_path: Path):
    x = np.arange(6.0).reshape(2, 3)
    np.savez_compressed(tmp_path / "a.npz", x=x, y=np.array("text"), z=np.zeros((0, 3)))
    found = read_arrays(tmp_path / "a.npz")
    np.testing.assert_array_equal(found["x"], x)
    assert (str(found["y"]), found["z"].shape) == ("text", (0, 3))
    for one in (x, np.zeros((0, 3)), np.float32(1)):
        np.save(tmp_path / "a.npy", one)
        np.testing.assert_array_equal(read_array(tmp_path / "a.npy"), one)


def test_an_array_never_takes_more_than_its_file_holds(tmp_path: Path):
    big = npy(np.zeros(4), "(99999999999,)")
    assert b"99999999999" in big
    assert "says it has 799,999,999,992 bytes" in refusal(InputError, read_arrays, archive(tmp_path / "a.npz", x=big))
    refusal(InputError, read_arrays, written(tmp_path / "a.npy", big))
    assert "Python objects" in refusal(
        InputError, read_arrays, archive(tmp_path / "o.npz", x=npy(np.zeros(4)).replace(b"'<f8'", b"'|O'  "))
    )


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The limits are lowered here: the file itself is then small and quick to make."""
    path = archive(tmp_path / "a.npz", x=npy(np.zeros(200_000)))
    assert read_arrays(path)["x"].shape == (200_000,)
    monkeypatch.setattr("onnxsal.runtime.arrays.SMALL", 2**20)
    assert "ONNXSAL_MAX_PACKING=N" in refusal(InputError, read_arrays, path)
    monkeypatch.setenv("ONNXSAL_MAX_PACKING", "2000")
    assert read_arrays(path)["x"].shape == (200_000,)
    monkeypatch.setenv("ONNXSAL_MAX_ARRAY_BYTES", "1000000")
    for read in (read_arrays, read_array, load_patterns, lambda p: open_dataset(p, Tensor("x", "", None, None))):
        assert "ONNXSAL_MAX_ARRAY_BYTES=N" in refusal(InputError, read, path)


@pytest.mark.parametrize("spoil", range(40))
def test_spoiled_archives(spoil: int, patterns: bytes, tmp_path: Path):
    rng = random.Random(spoil)
    data = bytearray(patterns)
    for _ in range(rng.choice([1, 4, 30])):
        data[rng.randrange(len(data))] = rng.randrange(256)
    file = written(tmp_path / "p.npz", bytes(data[: rng.randrange(len(data))] if spoil % 4 == 0 else data))
    for read in (load_patterns, read_arrays, lambda p: open_dataset(p, Tensor("x", "", None, None))):
        told = ending(read, file)
        assert not told or str(file) in told


@pytest.fixture(scope="module")
def patterns(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file of patterns, learned once."""
    x = np.random.default_rng(0).standard_normal((20, 3, 8, 8)).astype(np.float32)
    return onnxsal.fit_patterns(cnn(), x).save(tmp_path_factory.mktemp("patterns") / "p.npz").read_bytes()


def test_patterns_of_other_shapes_are_refused(patterns: bytes, tmp_path: Path):
    stored = dict(np.load(io.BytesIO(patterns)))
    for change in ({"positive/w1": np.zeros(3, np.float32)}, {"active/w1": np.zeros(99, np.int64)}, {"linear/w1": np.array(["x"])}):
        np.savez(tmp_path / "p.npz", **{**stored, **change})
        assert "layer 'w1'" in refusal(InputError, load_patterns, tmp_path / "p.npz")
    narrow = {f"{e}/w1": stored[f"{e}/w1"][:, :1] for e in ("linear", "positive", "negative")}
    np.savez(tmp_path / "p.npz", **{**stored, **narrow})
    assert "its weight" in refusal(MethodError, onnxsal.Explainer, cnn(), "patternnet", patterns=str(tmp_path / "p.npz"))


def test_damaged_parquet_is_refused(tmp_path: Path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file, x = tmp_path / "x.parquet", Tensor("x", "tensor(float)", np.dtype(np.float32), (None, 2))
    parquet.write_table(arrow.table({"x": [[1.0, 2.0], [1.0]]}), file)
    assert str(file) in refusal(InputError, lambda: list(open_data(file, [x]).batches(2)))
    for data in (b"PAR1", b"", file.read_bytes()[:-9]):
        assert str(file) in refusal(InputError, open_data, written(file, data), [x])


# ----- states of runs -----


@pytest.mark.parametrize("spoil", [{"done": -1}, {"done": "3"}, {"layers": 3}, {"model": None}, {"format": [2]}, {"data": 3}, None])
def test_the_state_of_a_fit(spoil: dict[str, Any] | None, tmp_path: Path):
    x, state = np.zeros((20, 3, 8, 8), np.float32), tmp_path / "s.npz"

    def stop(done: int, total: int | None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        onnxsal.fit_patterns(cnn(), x, state=state, progress=stop)
    stored = dict(np.load(state))
    meta = json.loads(str(stored["meta"]))
    first = next(k for k in stored if k.startswith("totals/"))
    change = {first: stored[first][:, :1]} if spoil is None else {"meta": np.asarray(json.dumps({**meta, **spoil}))}
    with state.open("wb") as file:
        np.savez(file, **{**stored, **change})
    told = refusal(InputError, onnxsal.fit_patterns, cnn(), x, state=state)
    assert f"state '{state}'" in told


def test_a_state_keeps_names_of_files_that_are_not_utf8(tmp_path: Path):
    name = "\udcff.png"
    line = {"key": "k", "sample": name, "digest": "d", "why": f"'{name}' is damaged."}
    state = Record(tmp_path / "s.jsonl", measured_or_damaged)
    with state.alone():
        state.put([line])
    again = Record(tmp_path / "s.jsonl", measured_or_damaged)
    with again.alone():
        assert again.get("k", name, "d") == line


# ----- limits -----


def test_every_limit_has_a_variable_that_raises_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name, default in vars(Limits()).items():
        assert limit(name) == default > 0
        monkeypatch.setenv(f"ONNXSAL_MAX_{name.upper()}", "7")
        assert limit(name) == 7
    assert "7 bytes" not in refusal(InputError, load_labels, written(tmp_path / "l.txt", "a\nb\nc\nd\ne\n"))
    for wrong in ("many", "-1", "", "9" * 30):
        monkeypatch.setenv("ONNXSAL_MAX_PIXELS", wrong)
        assert "ONNXSAL_MAX_PIXELS" in refusal(InputError, limit, "pixels")
    monkeypatch.setenv("ONNXSAL_MAX_PIXELS", str(2**28))
    assert Preprocess(1, resize=(16384, 16384)).size == (16384, 16384)


@pytest.mark.parametrize(
    ("name", "most"), [("p.toml", "TOML_BYTES"), ("p.json", "TEXT_BYTES"), ("l.txt", "TEXT_BYTES"), ("t.csv", "TABLE_BYTES")]
)
def test_files_read_whole_have_a_limit(name: str, most: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(f"ONNXSAL_MAX_{most}", "100")
    read = {"l.txt": load_labels, "t.csv": lambda p: open_dataset(p, Tensor("x", "", None, None))}.get(name, read_config)
    assert f"ONNXSAL_MAX_{most}=N" in refusal(InputError, read, written(tmp_path / name, "x" * 1000))


def test_a_thin_picture_is_not_blown_up():
    """The shorter side at 224 makes a line of 60,000 pixels 13 million long."""
    thin = Image.new("RGB", (60_000, 1))
    assert "ONNXSAL_MAX_PIXELS" in refusal(InputError, Preprocess(1, resize=224).display, thin)


def test_values_on_the_command_line_are_bounded_too():
    assert read_parameters(["x=[1, 2]", "y=true", "z=word"]) == {"x": [1, 2], "y": True, "z": "word"}
    deep = "[" * 5000
    assert read_parameters([f"x={deep}"]) == {"x": deep}


def test_numbers_and_texts_that_no_settings_hold():
    for text in ('{"a": 1e999}', '{"a": "\\ud800"}', '{"a": "\\u0000"}', '{"a": %s}' % ("9" * 50), '{"a": %s}' % ("9" * 5000)):
        refusal(InputError, parse_json, text, "f")
    assert parse_json('{"a": NaN}', "f", nan=True)["a"] != 0
    assert "64 bits" in refusal(InputError, parse_toml, "a = 0x" + "f" * 100, "f")


# ----- the command line -----


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.toml", toml({**OURS, "scale": "a"})),
        ("m.toml", "labels = '../secret.txt'"),
        ("preprocessor_config.json", json.dumps({**VIT, "do_resize": "false"})),
        ("config.json", '{"id2label": 3}'),
        ("manifest.toml", "models = 3"),
        ("labels.txt", b"\0"),
    ],
)
@pytest.mark.parametrize("verb", ["check", "convert"])
def test_a_damaged_file_beside_a_model_ends_in_status_2(verb: str, name: str, text: str | bytes, tmp_path: Path):
    onnx.save(cnn(), str(tmp_path / "m.onnx"))
    written(tmp_path / name, text)
    words = [verb, str(tmp_path / "m.onnx"), *([str(tmp_path / "o.onnx"), "-m", "gradient"] if verb == "convert" else [])]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 2, done.output
    assert name in done.stderr.replace("\n", "")
    assert not (tmp_path / "o.onnx").exists()


def test_rule_files_end_in_status_2_before_anything_is_written(tmp_path: Path):
    onnx.save(cnn(), str(tmp_path / "m.onnx"))
    rules = written(tmp_path / "r.toml", 'name = "m"\ntitle = "t"\nsource = "s"\naliases = 3\n[[rule]]\nuse = "gradient"\n')
    done = CliRunner().invoke(app, ["convert", str(tmp_path / "m.onnx"), str(tmp_path / "o.onnx"), "--rules", str(rules)])
    assert (done.exit_code, "aliases must be a list" in done.stderr.replace("\n", " ")) == (2, True), done.output


def test_pydantic_is_not_imported_until_a_file_is_read():
    code = "import sys, onnxsal, onnxsal.cli.app; print('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
