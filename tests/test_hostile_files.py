"""Files of people who are not trusted, over all commands: nothing is lost, nothing hangs, nothing acts on the terminal, nothing is left."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from onnxsal import litter
from onnxsal.cli import app
from onnxsal.cli.app import app as registered
from onnxsal.disk import guard, open_regular, reads, refuse_loss
from onnxsal.errors import InputError, OutputError
from onnxsal.limits import Limits, variable_of
from onnxsal.litter import Maker, is_left, temporary_folder
from onnxsal.runtime.files import write_whole
from onnxsal.runtime.pictures import load_picture
from onnxsal.untrusted import as_it_was, inert_cell, printable, whole_text
from tests.small_models import cnn

PIXELS_VARIABLE = variable_of("picture_pixels")
PREPROCESS = "scale = 0.00392156862745098\nresize = [8, 8]\n"
SECONDS = 120
"""A command that has not ended by then hangs."""

FAST = ("--metrics", "deletion", "-m", "gradient")

COMMANDS: dict[str, list[str]] = {
    "init": ["init", "{model}", "{data}", "-o", "{out}/made.toml", "--yes", "--pick", "1"],
    "convert": ["convert", "{model}", "{out}/made.onnx", "-m", "gradient"],
    "explain": ["explain", "{model}", "{data}", "-o", "{out}", "-m", "gradient"],
    "evaluate": ["evaluate", "{model}", "{data}", "-o", "{out}", *FAST],
    "audit": ["audit", "{model}", "{data}", "-o", "{out}", "-m", "gradient"],
    "fit-patterns": ["fit-patterns", "{model}", "{data}", "-o", "{out}/made.npz"],
    "plan": ["plan", "{model}", "-m", "gradient"],
    "check": ["check", "{model}", "--conservation", "--plot", "{out}/made.png"],
    "methods": ["methods", "{rules}"],
    "ops": ["ops"],
    "demo": ["demo", "{model}", "{data}", "-o", "{out}"],
}
"""Each command with its inputs and its output to be filled in."""

MEASURING = ("explain", "evaluate", "audit", "fit-patterns")


@pytest.fixture(autouse=True)
def soon() -> Iterator[None]:
    """A command that hangs fails."""

    def late(number: int, frame: object) -> None:
        raise AssertionError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def run(*words: object) -> Result:
    signal.alarm(SECONDS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = CliRunner().invoke(app, [str(w) for w in words])
    signal.alarm(0)
    return result


def command(name: str, here: Path, *more: object, **given: object) -> Result:
    places = {"model": here / "m.onnx", "data": here / "data", "out": here / "out", "rules": here / "own.toml", **given}
    (here / "out").mkdir(exist_ok=True)
    return run(*(w.format(**places) for w in COMMANDS[name]), *more)


def refused(result: Result, *words: str) -> None:
    """Status 2, one message of ours that holds the words, no traceback."""
    assert result.exit_code == 2, result.output
    assert "error: " in result.stderr or "Error" in result.stderr
    assert "Traceback" not in result.output
    assert "internal error" not in result.output
    for word in words:
        assert word in result.stderr


def picture(path: Path, seed: int = 0) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 24, 3), np.uint8)).save(path)
    return path


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A model with what lies beside it, two pictures, a rule file."""
    onnx.save(cnn(), tmp_path / "m.onnx")
    (tmp_path / "m.toml").write_text(PREPROCESS)
    (tmp_path / "data").mkdir()
    for i in range(2):
        picture(tmp_path / "data" / f"{i}.png", i)
    shutil.copy(Path(__file__).parent.parent / "rules" / "gradient.toml", tmp_path / "own.toml")
    (tmp_path / "own.toml").write_text((tmp_path / "own.toml").read_text().replace('name = "gradient"', 'name = "own"'))
    return tmp_path


def test_the_table_has_every_command():
    names = {c.name or str(getattr(c.callback, "__name__", "")).replace("_", "-") for c in registered.registered_commands}
    assert names == {*COMMANDS, "view", "merge"}, (
        "view needs a runtime for the browser: tests/test_view.py; merge a run: tests/test_fleet_run.py"
    )


# ----- only regular files are read -----


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def listening(path: Path) -> None:
    place = Path.cwd()
    os.chdir(path.parent)  # names of sockets are short
    try:
        socket.socket(socket.AF_UNIX).bind(path.name)
    finally:
        os.chdir(place)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


SPECIAL = {"fifo": fifo, "folder": folder, "socket": listening, "endless": endless}

INPUTS: dict[str, tuple[str, list[str]]] = {
    **{f"model of {name}": ("x.onnx", COMMANDS[name]) for name in COMMANDS if "{model}" in COMMANDS[name]},
    **{
        f"{end} of {name}": (f"x.{end}", [w.replace("{data}", "{x}") for w in COMMANDS[name]])
        for name in (*MEASURING, "demo")
        for end in ("png", "npy", "npz", *(("csv",) if name in ("evaluate", "audit") else ("parquet",) if name == "fit-patterns" else ()))
    },
    "labels": ("x.txt", ["plan", "{model}", "--labels", "{x}"]),
    "preprocessing": ("x.toml", ["plan", "{model}", "--preprocess", "{x}"]),
    "preprocessing as JSON": ("x.json", ["plan", "{model}", "--preprocess", "{x}"]),
    "rules": ("x.toml", ["plan", "{model}", "--rules", "{x}"]),
    "rules shown": ("x.toml", ["methods", "{x}"]),
    "rules measured": ("x.toml", ["evaluate", "{model}", "{data}", "-m", "{x}", "-o", "{out}"]),
    "example": ("x.npy", ["plan", "{model}", "--on", "{x}"]),
    "example picture": ("x.png", ["plan", "{model}", "--on", "{x}"]),
    "parameter": ("x.npy", ["plan", "{model}", "-m", "ig", "-p", "baseline={x}"]),
    "patterns": ("x.npz", ["convert", "{model}", "{out}/y.onnx", "-m", "patternnet", "-p", "patterns={x}"]),
    "form": ("x.toml", ["audit", "{model}", "{data}", "--form", "{x}", "-o", "{out}"]),
    "the other model": ("x.onnx", ["audit", "{model}", "{data}", "--against", "{x}", "-o", "{out}"]),
    "conserved": ("x.npy", ["check", "{model}", "--conservation", "--on", "{x}"]),
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("what", INPUTS)
def test_only_regular_files_are_read(here: Path, what: str, kind: str):
    name, words = INPUTS[what]
    x = here / name
    if what.startswith("model of"):
        words = [w.replace("{model}", "{x}") for w in words]
    if kind == "folder" and "png" in name:
        pytest.skip("a folder is a set of pictures")
    SPECIAL[kind](x)
    places = {"model": here / "m.onnx", "data": here / "data", "out": here / "out", "rules": here / "own.toml", "x": x}
    refused(run(*(w.format(**places) for w in words)), "x.")
    assert x.is_dir() if kind == "folder" else not x.is_file()


@pytest.mark.parametrize("kind", SPECIAL)
def test_samples_that_are_no_files_are_left_out(here: Path, kind: str):
    """In a table they are damaged samples; in a folder they are no pictures."""
    (here / "t.csv").write_text("file\ndata/0.png\nx.png\n")
    SPECIAL[kind](here / "x.png")
    result = command("evaluate", here, data=here / "t.csv")
    assert result.exit_code == 0, result.output
    assert "left out: x.png" in result.stderr
    SPECIAL[kind](here / "data" / "y.png")
    assert command("explain", here).exit_code == 0


def test_weights_in_what_is_no_file(here: Path):
    onnx.save(cnn(), here / "e.onnx", save_as_external_data=True, location="w.bin", size_threshold=16)
    os.remove(here / "w.bin")
    os.mkfifo(here / "w.bin")
    refused(command("plan", here, model=here / "e.onnx"), "another file")


# ----- nothing is lost -----


def same(path: Path, target: Path) -> Path:
    return target


def linked(path: Path, target: Path) -> Path:
    path.symlink_to(target)
    return path


def hard(path: Path, target: Path) -> Path:
    path.hardlink_to(target)
    return path


LINKS = {"itself": same, "symlink": linked, "hard link": hard}


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(
    ("words", "out", "victim"),
    [
        (["convert", "m.onnx", "{x}"], "x.onnx", "m.onnx"),
        (["convert", "m.onnx", "{x}", "--labels", "l.onnx"], "x.onnx", "l.onnx"),
        (["convert", "m.onnx", "{x}", "--preprocess", "own.toml"], "x.onnx", "m.onnx"),
        (["convert", "m.onnx", "{x}", "--rules", "own.toml"], "x.onnx", "own.toml"),
        (["convert", "m.onnx", "{x}"], "x.onnx", "m.toml"),
        (["convert", "m.onnx", "{x}", "-m", "ig", "-p", "baseline=b.npy"], "x.onnx", "b.npy"),
        (["convert", "e.onnx", "{x}"], "x.onnx", "w.bin"),
        (["convert", "m.onnx", "{x}", "--on", "data/0.png"], "x.onnx", "data/0.png"),
        (["check", "m.onnx", "--conservation", "--plot", "{x}"], "x.png", "m.onnx"),
        (["check", "m.onnx", "--conservation", "--on", "data/0.png", "--plot", "{x}"], "x.png", "data/0.png"),
        (["fit-patterns", "m.onnx", "a.npz", "-o", "{x}"], "x.npz", "a.npz"),
        (["audit", "m.onnx", "data", "-o", "{x}"], "x.html", "form.html"),
        (["init", "m.onnx", "data", "-o", "{x}", "--yes", "--pick", "1"], "x.toml", "m.onnx"),
        (["init", "m.onnx", "data", "-o", "{x}", "--yes", "--pick", "1"], "x.toml", "m.toml"),
    ],
    ids=lambda v: v if isinstance(v, str) else " ".join(v[:1]),
)
def test_no_command_writes_onto_its_inputs(here: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], out: str, victim: str, link: str):
    monkeypatch.chdir(here)
    if "own.toml" in words and "--preprocess" in words:
        (here / "own.toml").write_text(PREPROCESS)
    (here / "l.onnx").write_text("\n".join("abcde"))
    np.save("b.npy", np.zeros((1, 3, 8, 8), np.float32))
    np.savez("a.npz", input=np.random.default_rng(0).normal(size=(4, 3, 8, 8)).astype(np.float32))
    onnx.save(cnn(), "e.onnx", save_as_external_data=True, location="w.bin", size_threshold=16)
    if victim == "form.html":
        (here / victim).write_text('[model_card]\nuse = "none"\n')
        words = [*words, "--form", victim]
    before = (here / victim).read_bytes()
    target = LINKS[link](here / out, here / victim)
    if not (link == "itself" and target.suffix != Path(out).suffix and words[0] == "fit-patterns"):
        refused(run(*(w.format(x=target) for w in words)))
    assert (here / victim).read_bytes() == before
    assert not list(here.glob(".onnxsal-*"))


@pytest.mark.parametrize("name", [n for n in COMMANDS if "{out}" in " ".join(COMMANDS[n]) and n != "demo"])
def test_files_of_others_are_not_replaced_and_own_ones_are(here: Path, name: str):
    """What a first run writes, found there by looking: in its place a file of somebody else stays, each in turn."""
    assert command(name, here).exit_code == 0
    made = sorted(p.relative_to(here / "out") for p in (here / "out").rglob("*") if p.is_file())
    assert made
    again = command(name, here)
    assert again.exit_code == 0, again.output
    if name in ("evaluate", "fit-patterns", "audit"):
        assert command(name, here, "--fresh").exit_code == 0
    for file in made:
        shutil.rmtree(here / "out")
        (here / "out" / file.parent).mkdir(parents=True)
        (here / "out" / file).write_text("of somebody else\n")
        if any(word.endswith(f"{{out}}/{file}") for word in COMMANDS[name] if name in ("init", "convert", "check")):  # the user names it
            assert command(name, here).exit_code == 0
            assert (here / "out" / file).read_bytes() != b"of somebody else\n"
            continue
        refused(command(name, here), file.name)
        if name in ("evaluate", "fit-patterns", "audit"):
            refused(command(name, here, "--fresh"), file.name)
        assert (here / "out" / file).read_text() == "of somebody else\n"


def test_a_result_that_was_changed_is_not_replaced(here: Path):
    assert command("evaluate", here).exit_code == 0
    (here / "out" / "summary.csv").write_text("my notes\n")
    refused(command("evaluate", here), "summary.csv")
    assert (here / "out" / "summary.csv").read_text() == "my notes\n"
    assert command("explain", here, out=here / "why").exit_code == 0
    (here / "why" / "0.gradient.npy").write_bytes(b"mine")
    refused(command("explain", here, out=here / "why"), "0.gradient.npy")


def test_results_beside_inputs_whose_names_collide(here: Path):
    """A folder for results that holds the inputs: what has another name is written, an input never."""
    (here / "data" / "summary.csv").write_text("file\n0.png\n")
    refused(command("evaluate", here, out=here / "data", data=here / "data" / "summary.csv"), "summary.csv")
    (here / "data" / "summary.csv").unlink()
    picture(here / "data" / "0.gradient.map.png")
    before = (here / "data" / "0.gradient.map.png").read_bytes()
    refused(command("explain", here, out=here / "data"), "0.gradient.map.png")
    assert (here / "data" / "0.gradient.map.png").read_bytes() == before


def test_what_is_no_file_is_no_place_for_results(here: Path):
    (here / "x").symlink_to("/dev/null")
    os.mkfifo(here / "f")
    for place in ("x", "f"):
        refused(run("convert", here / "m.onnx", here / place), "cannot be written")
    assert stat.S_ISFIFO(os.stat(here / "f").st_mode)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_a_guard_ends_with_its_command(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"input")
    (tmp_path / "b").write_bytes(b"other")
    with guard():
        reads([tmp_path / "a"])
        with pytest.raises(OutputError, match="never overwritten"):
            write_whole(tmp_path / "a", b"x")
        with pytest.raises(OutputError, match="there already"):
            write_whole(tmp_path / "b", b"x")
        write_whole(tmp_path / "b", b"other")
        write_whole(tmp_path / "b", b"x")  # ours now
        (tmp_path / "c").touch()
        refuse_loss(tmp_path / "c")
    write_whole(tmp_path / "a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"


# ----- names -----


def strict(text: str, control: str = "\n") -> None:
    """No character acts, but those in ``control``; and it is Unicode."""
    text.encode()
    acting = {c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp") or 0x202A <= ord(c) <= 0x202E or 0x2066 <= ord(c) <= 0x2069}
    assert acting <= set(control), ascii(acting)


BYTES = b"a\xff\\xfe"


@pytest.mark.parametrize("name", [*MEASURING, "demo"])
def test_names_of_pictures_that_are_not_utf_8(here: Path, name: str):
    os.rename(here / "data" / "0.png", os.fsencode(here / "data") + b"/" + BYTES + b".png")
    if name == "demo":
        os.remove(here / "data" / "1.png")
    result = command(name, here, *(() if name == "fit-patterns" else ("--json",)))
    assert result.exit_code == 0, result.output
    assert result.stdout
    strict(result.output)
    if name == "fit-patterns":
        return
    told = json.loads(result.stdout)
    names = set()
    for file in (here / "out").rglob("*"):
        if file.suffix in (".json", ".csv", ".html"):
            text = file.read_text(encoding="utf-8")
            strict(text)
            names |= {
                as_it_was(word.split("/")[-1])
                for word in (text.replace("\\\\", "\\") if file.suffix == ".json" else text).replace('"', ",").split(",")
                if ".png" in word
            }
    assert names | {str(told)}
    assert any(os.fsencode(n) == BYTES + b".png" for n in names), names
    if name != "demo":  # it takes as long as the others together
        human = command(name, here)
        assert human.exit_code == 0
        strict(human.output)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_other_file_may_have_such_a_name(here: Path, name: str):
    odd = os.fsdecode(b"\xfe\x1b]0;pwn\x07")
    room = here / odd
    room.mkdir()
    shutil.copy(here / "m.onnx", room / f"{odd}.onnx")
    shutil.copy(here / "m.toml", room / f"{odd}.toml")
    shutil.copytree(here / "data", room / "data")
    (room / "data" / "1.png").unlink()
    (room / f"{odd}.labels.txt").write_text("\n".join(["a\x1b[2J", "[red]b", "=c", "\u202ed", "e"]))
    os.rename(here / "own.toml", room / "own.toml")
    places = {"model": room / f"{odd}.onnx", "data": room / "data", "rules": room / "own.toml", "out": room / "out"}
    (room / "out").mkdir()
    result = command(name, here, **places)
    assert result.exit_code == 0, result.output
    strict(result.output)
    places["model" if "{model}" in str(COMMANDS[name]) else "rules"] = room / "none\x9b2J.toml"
    refused(run("ops", "\x9b2J") if name == "ops" else command(name, here, **places))


def test_names_in_models_do_not_reach_the_terminal(here: Path):
    """Nodes, tensors, the graph, metadata and labels, in what every command says, its errors and its progress included."""
    evil = "\x1b]0;pwn\x07\x1b[2J\r\b\x9b31m\u202e[red]"
    proto = cnn()
    for node in proto.graph.node:
        node.name = node.name + evil
    new = {name: name + evil for node in proto.graph.node for name in (*node.input, *node.output) if name}
    for node in proto.graph.node:
        node.input[:] = [new.get(n, n) for n in node.input]
        node.output[:] = [new.get(n, n) for n in node.output]
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer, *proto.graph.value_info):
        value.name = new.get(value.name, value.name)
    proto.graph.name = evil
    proto.producer_name = evil
    proto.metadata_props.add(key=evil, value=evil)
    onnx.save(proto, here / "m.onnx")
    (here / "labels.txt").write_text("\n".join(f"{c}\x1b[2J\x9b[red]" for c in "abcde"))
    os.remove(here / "data" / "1.png")
    for name in COMMANDS:
        result = command(name, here)
        assert result.exit_code in (0, 2), result.output
        strict(result.output)
        if name != "demo":  # it says what the others say, and takes as long as they together
            strict(command(name, here, "--json", "--debug").output)
    proto.graph.node[1].op_type = "Unknown\x1b[2J"
    onnx.save(proto, here / "m.onnx")
    for name in COMMANDS:
        strict(command(name, here, "--debug").output)


@pytest.mark.parametrize(
    "words", [["\x1b]0;pwn\x07"], ["plan", "m", "--x\x1b[2J"], ["audit", "m", "d", "--measured", "[red]\x1b[2J"], ["plan", "-\x9b"]]
)
def test_words_of_the_command_line_are_inert_too(words: list[str]):
    result = run(*words)
    assert result.exit_code == 2
    strict(result.output)


def test_text_is_turned_back_into_what_it_was():
    names = [b"a\xff", b"a\\xff", b"a\\\\xff", b"\\\xff", b"C:\\new\\x", b"\xc3\xa9", b"\\x", b"\xff\\\\x41\xfe"]
    texts = [whole_text(os.fsdecode(n)) for n in names]
    assert len(set(texts)) == len(names)
    for name, text in zip(names, texts, strict=True):
        strict(text)
        assert os.fsencode(as_it_was(text)) == name
    assert texts[0] == "a\\xff"
    assert printable("a\x1b\x9b\r\n\u202e\u200d") == "a\\x1b\\x9b\\x0d\n\\u202e\u200d"


def test_cells_that_begin_like_formulas_are_inert(here: Path):
    names = ["=cmd|'calc'!A0.png", "+1.png", "-1.png", "@x.png", "'y.png", "z.png"]
    for i in range(2):
        os.remove(here / "data" / f"{i}.png")
    for i, name in enumerate(names):
        picture(here / "data" / name, i)
    result = command("evaluate", here, "--target", "predicted")
    assert result.exit_code == 0, result.output
    cells = {
        name: list(csv.DictReader((here / "out" / name).read_text().splitlines())) for name in ("samples.csv", "summary.csv", "curves.csv")
    }
    for rows in cells.values():
        for row in rows:
            for cell in row.values():
                if cell.startswith(("=", "+", "-", "@", "\t", "\r")):
                    float(cell)
    assert {row["sample"] for row in cells["samples.csv"]} == {*(f"'{n}" for n in names[:5]), "z.png"}
    assert float(cells["samples.csv"][0]["deletion"]) is not None
    assert [inert_cell(t) for t in ("\tx", "\rx", "x")] == ["'\tx", "'\rx", "x"]


# ----- pictures -----

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"


@pytest.mark.parametrize(
    "head", [EPS, b"8BPS\x00\x01" + b"\0" * 100, b"SIMPLE  =                    T" + b" " * 2850], ids=["EPS", "PSD", "FITS"]
)
def test_formats_that_are_not_opened(here: Path, monkeypatch: pytest.MonkeyPatch, head: bytes):
    for name in ("Popen", "run", "check_call"):
        monkeypatch.setattr(subprocess, name, lambda *a, **k: pytest.fail("a program was started"))
    (here / "data" / "x.jpg").write_bytes(head)
    (here / "data" / "x.eps").write_bytes(head)
    with pytest.raises(InputError, match="not a picture"):
        load_picture(here / "data" / "x.jpg")
    with pytest.raises(InputError, match="not a picture"):
        load_picture(head)
    result = command("explain", here)
    assert "x.jpg" in result.stderr
    assert "x.eps" not in result.stderr


@pytest.mark.parametrize(
    ("kind", "mode"), [("PNG", "RGB"), ("JPEG", "RGB"), ("WEBP", "RGB"), ("BMP", "RGB"), ("GIF", "P"), ("TIFF", "RGB"), ("PPM", "RGB")]
)
def test_formats_that_are_opened(tmp_path: Path, kind: str, mode: str):
    Image.new(mode, (5, 4)).save(tmp_path / "x.jpg", kind)
    assert load_picture(tmp_path / "x.jpg").size == (5, 4)
    assert load_picture((tmp_path / "x.jpg").read_bytes()).size == (5, 4)


def test_pictures_that_swell_are_bounded(here: Path, monkeypatch: pytest.MonkeyPatch):
    Image.new("1", (20_000, 20_000)).save(here / "data" / "bomb.png", optimize=True)
    assert (here / "data" / "bomb.png").stat().st_size < 100_000
    for what in ("explain", "evaluate"):
        result = command(what, here, out=here / what)
        assert PIXELS_VARIABLE in result.stderr
        assert "bomb.png" in result.stderr
    with pytest.raises(InputError, match="20000 x 20000"):
        load_picture((here / "data" / "bomb.png").read_bytes())
    before = Image.MAX_IMAGE_PIXELS
    monkeypatch.setenv(PIXELS_VARIABLE, "100")
    with pytest.raises(InputError, match="480 pixels are more than 100"):
        load_picture(here / "data" / "0.png")
    monkeypatch.setenv(PIXELS_VARIABLE, "1000")
    assert load_picture(here / "data" / "0.png").size == (24, 20)
    assert before == Image.MAX_IMAGE_PIXELS


# ----- what SECURITY.md says -----


def test_the_limits_are_told_as_they_are():
    text = (Path(__file__).parent.parent / "SECURITY.md").read_text(encoding="utf-8")
    told = {cells[1].strip(" `"): (cells[2].strip(), cells[3].strip()) for line in text.splitlines() if (cells := line.split("|"))[1:2]}
    for f in fields(Limits):
        default, words = told[variable_of(f.name)]
        if default != "the memory of the machine":
            assert default == f"{f.default:,} {f.metadata['unit']}"
        assert len(words) > 10


# ----- nothing to measure -----


def array(*shape: int, fill: float = 0.5) -> np.ndarray:
    return np.full(shape, fill, np.float32)


ARRAYS: dict[str, tuple[np.ndarray, str]] = {
    "empty": (array(0, 3, 8, 8), "sample"),
    "scalar": (array(), ""),
    "vector": (array(3), ""),
    "NaN": (array(2, 3, 8, 8, fill=np.nan), "NaN"),
    "infinite": (array(2, 3, 8, 8, fill=np.inf), "infinite"),
    "another size": (array(2, 3, 5), ""),
    "no channels": (array(2, 0, 8, 8), ""),
    "text": (np.array(["a", "b"]), ""),
    "complex": (np.zeros((2, 3, 8, 8), np.complex64), ""),
    "dates": (np.zeros(2, "M8[s]"), ""),
    "records": (np.zeros(2, [("a", "f4")]), ""),
}


@pytest.mark.parametrize("ending", ["npy", "npz"])
@pytest.mark.parametrize("what", ARRAYS)
@pytest.mark.parametrize("name", MEASURING)
def test_arrays_with_nothing_in_them(here: Path, name: str, what: str, ending: str):
    data, word = ARRAYS[what]
    (np.save if ending == "npy" else np.savez)(here / f"x.{ending}", data)
    refused(command(name, here, data=here / f"x.{ending}"), word)


def masks(here: Path, size: tuple[int, int], value: int) -> None:
    (here / "data" / "images").mkdir()
    (here / "data" / "masks").mkdir()
    for i in range(2):
        os.rename(here / "data" / f"{i}.png", here / "data" / "images" / f"{i}.png")
        Image.new("L", size, value).save(here / "data" / "masks" / f"{i}.png")


def unreadable(here: Path) -> None:
    for i in range(2):
        (here / "data" / f"{i}.png").write_text("no picture")


def cut(here: Path) -> None:
    for i in range(2):
        (here / "data" / f"{i}.png").write_bytes((here / "data" / f"{i}.png").read_bytes()[:200])


def gone(here: Path) -> None:
    (here / "data" / "t.csv").write_text("file,mask\nnone.png,\nmore.png,no.png\n")


def no_mask(here: Path) -> None:
    (here / "data" / "t.csv").write_text("file,mask\n0.png,none.png\n1.png,more.png\n")


def nul(here: Path) -> None:
    (here / "data" / "t.csv").write_text("file,mask\n0\0.png,\n1\0.png,\n")


def long(here: Path) -> None:
    (here / "data" / "t.csv").write_text(f"file\n{'a' * 5000}.png\n{'b/' * 3000}.png\n")


def itself(here: Path) -> None:
    (here / "data" / "t.csv").write_text("file\n.\n..\n")


NOTHING: dict[str, Callable[[Path], None]] = {
    **{f.__name__: f for f in (unreadable, cut, gone, no_mask, nul, long, itself)},
    "a mask of nothing": lambda here: masks(here, (24, 20), 0),
    "a mask of everything": lambda here: masks(here, (24, 20), 255),
}


@pytest.mark.parametrize("what", NOTHING)
@pytest.mark.parametrize("name", ["evaluate", "audit"])
def test_data_of_which_nothing_is_left(here: Path, name: str, what: str):
    """The reason is said for each sample."""
    NOTHING[what](here)
    result = command(name, here)
    refused(result, "none of the 2")
    assert result.stderr.count(": ") >= 3
    assert not list((here / "out").glob("*.csv"))


@pytest.mark.parametrize("name", ["evaluate", "audit"])
def test_the_rest_of_the_data_is_measured(here: Path, name: str):
    (here / "data" / "bad.png").write_text("no picture")
    (here / "data" / "t.csv").write_text("file,mask\n0.png,\n1.png,none.png\nbad.png,\n0\0.png,\n.,\ngone.png,\n")
    result = command(name, here)
    assert result.exit_code == 0, result.output
    assert result.stderr.count("left out") == 5


@pytest.mark.parametrize("text", ["", "\0", "\0\0\0", "file", "file\n", "file\n\n", "a,b\n1,2\n", '"', "\ufeff", "file\n" + '"' * 99])
def test_tables_without_samples(here: Path, text: str):
    (here / "t.csv").write_text(text)
    for name in ("evaluate", "audit"):
        refused(command(name, here, data=here / "t.csv"), "t.csv" if text[-1:] != '"' or text == '"' else "")


# ----- litter -----

SLOW = """
import sys, time
from pathlib import Path
from onnxsal.disk import replacing
with replacing(sys.argv[1]) as partial:
    partial.write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def writing(target: Path, seconds: float) -> subprocess.Popen[str]:
    child = subprocess.Popen([sys.executable, "-c", SLOW, str(target), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "writing\n"
    return child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(tmp_path: Path, number: int):
    child = writing(tmp_path / "x", 0.3)
    assert len(list(tmp_path.glob(".onnxsal-*"))) == 1
    child.send_signal(number)
    assert child.wait(10) == -number
    assert [p.name for p in tmp_path.iterdir()] in ([], ["x"])


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    child, other = writing(tmp_path / "x", 60), writing(tmp_path / "y", 60)
    try:
        child.kill()
        child.wait(10)
        for name in (".onnxsal-abc", ".onnxsal-00000000-0-0-1-1-abc", ".other-1"):
            (tmp_path / name).mkdir()
        (tmp_path / ".onnxsal-file").touch()
        (tmp_path / (".onnxsal-" + str(litter._own()).replace(str(os.getpid()), "4194305") + "-abc")).symlink_to(tmp_path / ".other-1")
        assert len(list(tmp_path.glob(".onnxsal-*"))) == 6
        monkeypatch.setattr(litter, "_SWEPT", set())
        write_whole(tmp_path / "z", b"z")
        left = list(tmp_path.glob(".onnxsal-*"))
        assert len(left) == 5  # that of the run that goes on, those of nobody knows whom
        assert any(f"-{other.pid}-" in p.name for p in left)
        assert not any(f"-{child.pid}-" in p.name for p in left)
        assert (tmp_path / ".other-1").is_dir()
    finally:
        other.kill()
        other.wait(10)


def test_whose_a_folder_is():
    own = litter._own()
    dead = own._replace(pid="4194305")
    now, long_ago = time.time(), 1.0

    def left(maker: Maker, changed: float = now) -> bool:
        return is_left(f".onnxsal-{maker}-x1", changed)

    assert left(dead)
    assert not left(own)
    assert left(own._replace(start="1"))  # the number was given to another process
    assert not left(dead._replace(host="0" * 8))
    assert not left(dead._replace(host="0" * 8), long_ago)
    assert not left(dead._replace(space="7"))
    assert not left(dead._replace(boot="0" * 8))
    assert left(dead._replace(boot="0" * 8), long_ago)  # from before this machine was started
    for name in (".onnxsal-x", ".onnxsal------", f".onnxsal-{own._replace(pid='x')}-y", "x"):
        assert not is_left(name, long_ago)


def test_a_temporary_folder_ends_with_its_block(tmp_path: Path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError), temporary_folder(tmp_path) as folder:  # noqa: PT012 what the block raises passes
        (folder / "x").touch()
        raise KeyError
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_regular_file_is_opened_once_and_noted(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with guard():
        with open_regular(tmp_path / "b") as file:
            assert file.read() == b"x"
        with pytest.raises(OutputError):
            write_whole(tmp_path / "a", b"y")
    for name in ("a\0b", "x" * 5000, ""):
        with pytest.raises(OSError):  # noqa: PT011
            open_regular(tmp_path / name)
