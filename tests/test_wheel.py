"""The source archive, and the wheel that is built from it, hold everything the package needs: installed into an empty environment it
finds its methods and its tables, and its command runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

import onnxsal

ROOT = Path(__file__).resolve().parent.parent


pytestmark = pytest.mark.site

BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "onnxsal", "rules")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive of a copy of the sources, and the wheel that is built from that archive alone."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    source.mkdir()
    for name in BUILT_FROM:
        (source / name).symlink_to(ROOT / name)
    recent = importlib.util.find_spec("setuptools") and int(importlib.import_module("setuptools").__version__.split(".")[0]) >= 77
    isolation = (
        ["--no-isolation"] if recent else []
    )  # with the setuptools at hand if it knows the licence field, else with one that pip fetches
    command = [sys.executable, "-m", "build", *isolation, "--outdir", str(folder), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a new environment with the wheel in it; the libraries it depends on are lent to it, our own sources are not."""
    home = tmp_path_factory.mktemp("clean")
    venv.create(home, with_pip=False, symlinks=True)
    places = sysconfig.get_paths(vars={"base": str(home), "platbase": str(home)})
    site = Path(places["purelib"])
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
        "--target",
        str(site),
        str(wheel),
    ]
    subprocess.run(command, check=True)
    lent = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    # A .pth line adds the folder without reading the .pth files in it, so an editable install of ours stays out of sight.
    (site / "lent.pth").write_text("\n".join(lent) + "\n")
    return Path(places["scripts"]) / Path(sys.executable).name


def ask(python: Path, code: str, folder: Path) -> str:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run([str(python), "-c", code], cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_sources_rules_and_tables(wheel: Path):
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {f"onnxsal/{p.relative_to(ROOT / 'onnxsal')}" for p in (ROOT / "onnxsal").rglob("*.py")}
    assert sources <= names
    assert {f"onnxsal/rules/{p.name}" for p in (ROOT / "rules").glob("*.toml")} <= names
    assert {"onnxsal/runtime/kernels/cpu.json", "onnxsal/runtime/kernels/cuda.json", "onnxsal/rules/__init__.py"} <= names
    data = {str(p.relative_to(ROOT)) for p in (ROOT / "onnxsal").rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc")}
    assert data <= names, "package data that the wheel leaves out"
    assert not [n for n in names if n.startswith(("tests/", "tools/", "models/", "rules/"))]
    for name in ("LICENSE", "NOTICE"):
        assert any(n.endswith(f"dist-info/licenses/{name}") for n in names)
    (points,) = [n for n in names if n.endswith("entry_points.txt")]
    assert "onnxsal = onnxsal.cli:main" in zipfile.ZipFile(wheel).read(points).decode()


def test_the_installed_wheel_knows_its_methods(installed: Path, tmp_path: Path):
    code = "import onnxsal, json; print(json.dumps([onnxsal.__file__, list(onnxsal.methods()), len(onnxsal.ops())]))"
    file, methods, operators = json.loads(ask(installed, code, tmp_path))
    assert not Path(file).is_relative_to(ROOT), "the checkout was imported, not the wheel"
    assert methods == list(onnxsal.methods())
    assert operators == len(onnxsal.ops())


def test_the_installed_wheel_explains_a_model(installed: Path, tmp_path: Path):
    code = """
import numpy as np, onnxsal
from onnx import helper
graph = helper.make_graph([helper.make_node("Mul", ["x", "x"], ["y"], name="square")], "g",
                          [helper.make_tensor_value_info("x", 1, ["N", 2])], [helper.make_tensor_value_info("y", 1, ["N", 2])])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
print(onnxsal.Explainer(model, "gradient", providers="cpu").explain(np.asarray([[3, 5]], np.float32), target=1).attribution.tolist())
print(onnxsal.check(model).ok)
"""
    assert ask(installed, code, tmp_path).split("\n")[:2] == ["[[0.0, 10.0]]", "True"]


def test_the_source_archive_holds_what_the_wheel_is_built_from(built: Path):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    files = [ROOT / name for name in BUILT_FROM if (ROOT / name).is_file()]
    files += [p for name in ("onnxsal", "rules") for p in (ROOT / name).rglob("*") if p.is_file() and p.suffix != ".pyc"]
    assert {str(p.relative_to(ROOT)) for p in files} <= names


def test_the_installed_command_runs(installed: Path, tmp_path: Path):
    listed = ask(installed, "from onnxsal.cli import main; import sys; sys.argv = ['onnxsal', 'methods']; main()", tmp_path)
    assert "integrated_gradients" in listed


def test_the_package_is_its_command(installed: Path, tmp_path: Path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run([installed, "-m", "onnxsal", "--version"], cwd=tmp_path, env=clean, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, f"onnxsal {version('onnxsal')}\n"), done.stderr


def test_a_type_checker_is_told_that_there_are_types(installed: Path, tmp_path: Path):
    code = "from importlib.resources import files; print((files('onnxsal') / 'py.typed').is_file())"
    assert ask(installed, code, tmp_path) == "True\n"


def test_the_editable_install_finds_its_rules(tmp_path: Path):
    """The tests themselves run in one; from another folder it must be the same."""
    names = ask(Path(sys.executable), "import onnxsal; print(' '.join(onnxsal.methods()))", tmp_path).split()
    assert names == list(onnxsal.methods())
