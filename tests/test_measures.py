"""The metrics of ``evaluate`` as a table: what each states is found, is said on the command line, reaches it and is kept apart."""

from __future__ import annotations

import contextlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, get_type_hints

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from onnxsal.cli import app
from onnxsal.cli.metric_settings import takes_settings
from onnxsal.errors import InputError, MethodError
from onnxsal.facade.fit_patterns import fit_patterns
from onnxsal.metrics import evaluate, faithfulness, measure, occlusion, retrain
from onnxsal.metrics import measures as room
from onnxsal.metrics import signal as quality
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.measure import STATED, Column, CurveAxes, Measure, Plain
from onnxsal.metrics.measures import MEASURES, Settings, chosen_measures, columns_of, run_for, settings_of
from onnxsal.metrics.needs import NEEDS
from onnxsal.metrics.setting import Setting, SettingField, settings_in
from onnxsal.metrics.task import Measured
from onnxsal.runtime.preprocess import Preprocess

ROOT = Path(__file__).resolve().parent.parent
CNN = ROOT / "models" / "tiny" / "cnn.onnx"
HOW = Preprocess(scale=1 / 255, mean=(0.5,), std=(0.25,), resize=(16, 16))
SETTINGS = settings_of(list(MEASURES.values()))
BASE = {"step": 32, "percent": (5.0, 50.0), "stages": 2}


@pytest.fixture
def stated(monkeypatch: pytest.MonkeyPatch) -> dict[str, Measure]:
    """The table, which may be written to."""
    own = dict(STATED)
    monkeypatch.setattr(measure, "STATED", own)
    monkeypatch.setattr(room, "STATED", own)
    return own


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four labelled pictures with masks, which the largest value of a map misses narrowly or widely."""
    folder = tmp_path_factory.mktemp("measures")
    rng = np.random.default_rng(0)
    for number, place in enumerate(("0/a", "1/b", "2/c", "3/d")):
        for kind in ("images", "masks"):
            (folder / kind / place).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(folder / "images" / f"{place}.png")
        mask = np.zeros((16, 16), np.uint8)
        mask[4 * number : 4 * number + 3, 3:13] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{place}.png")
    return folder


# ----- what is stated -----


def test_every_file_of_the_room_states_a_metric() -> None:
    modules = {f"{room.__name__}.{m.name}" for m in pkgutil.iter_modules(room.__path__)}
    assert modules == {m.module for m in MEASURES.values()}
    assert [m.name for m in MEASURES.values() if m.of] == ["id_score"]
    assert list(MEASURES)[-1] == "id_score"  # what is made of others stands behind them


@pytest.mark.parametrize("m", MEASURES.values(), ids=lambda m: m.name)
def test_a_metric_says_what_it_is(m: Measure) -> None:
    assert m.columns
    assert all(re.match(r"\w[^{}]{10}", column.title) for column in m.columns.values())
    assert set(m.needing(Settings())) <= set(NEEDS)
    for axes in m.curves.values():
        assert axes.across
        assert re.fullmatch(r"[^{}]{4,}", axes.up.format(**vars(Settings())))
    assert (m.run is None) == bool(m.of)
    assert set(m.of) <= {c for other in MEASURES.values() if other is not m for c in other.columns}


def test_columns_curves_and_settings_are_of_one_metric() -> None:
    for kind in ("columns", "curves"):
        names = [name for m in MEASURES.values() for name in getattr(m, kind)]
        assert len(names) == len(set(names))
    for m in MEASURES.values():
        assert all(SETTINGS[name] == field for name, field in m.fields.items())
    assert list(SETTINGS)[-1] == "seed"
    assert vars(Settings()) == {name: field.default for name, field in SETTINGS.items()}


def nothing(task: object, settings: object) -> Measured:
    return Measured({}, ())


@dataclass(frozen=True)
class OtherSteps:
    step: Annotated[int, Setting("Something else.")] = 3


@dataclass(frozen=True)
class Vague:
    depth: Annotated[int | str, Setting("Of two types.")] = 3


@pytest.mark.parametrize(
    ("name", "columns", "settings", "more", "message"),
    [
        ("deletion", {"own": Column(True, "t")}, Plain, {}, "two metrics are called 'deletion': of .*insertion_deletion and of tests"),
        ("own", {"deletion": Column(True, "t")}, Plain, {}, "metrics 'deletion' and 'own' both give 'deletion' as one of their columns"),
        ("own", {}, Plain, {"curves": {"deletion": CurveAxes("a", "b")}}, "'deletion' as one of their curves"),
        ("own", {}, OtherSteps, {}, "metrics 'insertion' and 'own' state setting 'step' differently"),
        ("own", {}, Plain, {"needs": ("msak",)}, "metric 'own' needs 'msak' .did you mean 'mask'"),
    ],
)
def test_a_metric_that_contradicts_another_is_refused(stated: dict, name: str, columns: dict, settings: type, more: dict, message: str):
    with pytest.raises(MethodError, match=message):
        measure.measure(name, columns, settings, **more)(nothing)
    assert stated == STATED


@dataclass(frozen=True)
class Needy:
    depth: Annotated[int, Setting("Without a default.")]


def test_a_setting_has_one_type_and_a_default() -> None:
    for wrong, message in ((Vague, "Vague.depth: a setting is of one type"), (Needy, "Needy.depth: a setting has a default")):
        with pytest.raises(TypeError, match=message):
            settings_in(wrong)


@dataclass(frozen=True)
class Kinds:
    share: Annotated[float, Setting("A number.")] = 0.5
    smooth: Annotated[bool, Setting("A switch.")] = False
    most: Annotated[float | None, Setting("A number, or none.", shown="no limit")] = None
    sides: Annotated[tuple[int, ...], Setting("Whole numbers.")] = (1, 2)
    parts: Annotated[tuple[str, ...] | None, Setting("Words, or none.", option="of_parts", shown="all")] = None


@pytest.mark.parametrize(
    ("words", "changed"),
    [
        ([], {}),
        (["--share", "0.25", "--smooth", "--most", "3"], {"share": 0.25, "smooth": True, "most": 3.0}),
        (["--sides", "4,5,6", "--of-parts", "a,b"], {"sides": (4, 5, 6), "parts": ("a", "b")}),
    ],
)
def test_settings_of_every_kind_are_options(stated: dict, words: list[str], changed: dict) -> None:
    measure.measure("own", {}, Kinds)(nothing)
    seen = []

    @takes_settings
    def verb(settings: Settings) -> None:
        seen.append(MEASURES["own"].own(settings))

    own = typer.Typer()
    own.command()(verb)
    result = CliRunner().invoke(own, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert seen == [Kinds(**changed)]
    shown = {name: p.annotation.__metadata__[0].show_default for name, p in inspect.signature(verb).parameters.items()}
    assert [shown[name] for name in ("share", "smooth", "most", "sides", "of_parts")] == [True, True, "no limit", "1,2", "all"]


def test_what_a_metric_does_not_state_is_no_result(stated: dict, data: Path) -> None:
    def run(task: object, settings: object) -> Measured:
        return Measured({"other": np.zeros(len(task))}, ("",) * len(task))

    measure.measure("own", {"own": Column(True, "a column of its own")}, Plain)(run)
    with pytest.raises(MethodError, match="metric 'own' gives a column 'other', which it does not state"):
        evaluate(CNN, data, ["gradient"], ["own"], preprocess=HOW)


def test_a_metric_that_is_made_of_others_brings_them_and_comes_with_them(stated: dict) -> None:
    @measure.derived("twice", {"twice": Column(True, "two ID scores")}, ("id_score",))
    def twice(values: dict) -> dict:
        return {"twice": 2 * values["id_score"]}

    for asked in (["twice"], ["deletion", "insertion"]):
        assert [m.name for m in chosen_measures(asked)] == ["insertion", "deletion", "id_score", "twice"]
    assert list(columns_of([MEASURES["deletion"], MEASURES["insertion"]])) == ["deletion", "insertion", "id_score", "twice"]
    assert [m.name for m in chosen_measures(["deletion"])] == ["deletion"]
    assert [run_for(MEASURES[name]) for name in ("twice", "deletion")] == [("insertion", "deletion"), ("deletion",)]


# ----- settings -----


def other_values(name: str) -> list[object]:
    """Values that are not the default, and that every metric with the setting takes: of words, those out of the help text."""
    field, now = SETTINGS[name], {**vars(Settings()), **BASE}[name]
    found = []
    for value in [(now[0], 40.0)] if field.element else [now + 1] if field.kind is int else re.findall(r"\w+", field.setting.words):
        with contextlib.suppress(InputError):
            Settings(**{name: value})
            found += [value] * (value != now and value not in found)
    return found


def told(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@pytest.mark.parametrize("field", SETTINGS.values(), ids=lambda field: field.name)
def test_every_setting_is_an_option_and_reaches_its_metrics(field: SettingField) -> None:
    (command,) = [c.callback for c in app.registered_commands if c.callback.__name__ == "evaluate"]
    parameter = inspect.signature(command).parameters[field.option]
    (info,) = parameter.annotation.__metadata__
    assert (info.help, info.min) == (field.setting.words, field.setting.least)
    assert parameter.default == (None if field.element else field.default)
    seen: list[Settings] = []

    @takes_settings
    def verb(first: int = 3, *, settings: Settings) -> None:
        seen.append(settings)

    own = typer.Typer()
    own.command()(verb)
    value = other_values(field.name)[0]
    option = f"--{field.option.replace('_', '-')}"
    for words in ([], [option, told(value)]):
        result = CliRunner().invoke(own, words, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert seen == [Settings(), Settings(**{field.name: value})]
    if field.setting.least is not None:
        assert CliRunner().invoke(own, [option, str(field.setting.least - 1)]).exit_code == 2
    assert vars(seen[1]) == {**vars(Settings()), field.name: value}
    for m in MEASURES.values():
        assert (getattr(m.own(seen[1]), field.name) == value) if field.name in m.fields else (m.own(seen[1]) == m.own(Settings())), m.name


def test_numbers_that_are_none_are_refused() -> None:
    result = CliRunner().invoke(app, ["evaluate", str(CNN), str(CNN), "--percent", "5,many"])
    assert result.exit_code == 2
    assert "'5,many' are not numbers separated by commas" in re.sub(r"\s+", " ", result.output.replace("│", " "))


def lines(state: Path) -> Iterator[dict]:
    for text in state.read_text().splitlines():
        line = json.loads(text)
        if line.get("way") == "flat":
            yield line


def test_a_changed_setting_is_measured_anew_where_it_is_used_and_changes_the_numbers(data: Path, tmp_path: Path) -> None:
    """Resuming: the metrics without the setting are not measured again, those with it are, and the numbers depend on it."""
    state, names = tmp_path / "state.jsonl", [m.name for m in MEASURES.values() if not m.of]

    def run(**given: object) -> list[dict]:
        before = len(list(lines(state))) if state.exists() else 0
        flat = Way("flat", "lrp_epsilon", {"quantize": 4})  # of few levels, so that the order of ties matters
        evaluate(CNN, data, [flat], names, Settings(**BASE | given), preprocess=HOW, labels=None, state=state)
        return list(lines(state))[before:]

    first = run()
    assert {line["metric"] for line in first} == set(names)
    assert run() == []
    old = {(line["metric"], line["sample"]): (line["values"], line["curves"]) for line in first}
    for name in SETTINGS:
        users, moved = {m.name for m in MEASURES.values() if name in m.fields}, set()
        for value in other_values(name):
            again = run(**{name: value})
            assert {line["metric"] for line in again} == users, name
            moved |= {line["metric"] for line in again if old[line["metric"], line["sample"]] != (line["values"], line["curves"])}
        assert moved == users, name


def test_settings_do_not_change_and_know_each_other() -> None:
    settings = Settings(step=3)
    for change in (lambda: setattr(settings, "step", 4), lambda: delattr(settings, "step")):
        with pytest.raises(AttributeError, match="settings do not change"):
            change()
    assert len({settings, Settings(step=3), Settings()}) == 2
    assert Settings().changed(step=3) == settings
    with pytest.raises(TypeError, match=r"no metric has a setting 'stpe' .did you mean 'step'"):
        Settings(stpe=3)


def test_an_option_that_is_taken_is_named(stated: dict) -> None:
    """Another package's metric cannot take the place of an option; the command says so when it is used, not before."""

    @dataclass(frozen=True)
    class Clash:
        first: Annotated[int, Setting("Called like an option of the verb.")] = 1

    Clash.__module__, globals()["Clash"] = __name__, Clash
    measure.measure("own", {}, Clash)(nothing)

    @takes_settings
    def verb(first: int = 3, *, settings: Settings) -> None:
        raise AssertionError

    own = typer.Typer()
    own.command()(verb)
    with pytest.raises(MethodError, match="setting 'first' of a metric needs an option of another name: --first is taken"):
        CliRunner().invoke(own, [], catch_exceptions=False)


# ----- options of functions -----


@pytest.mark.parametrize(
    ("stated", "keywords"),
    [
        (faithfulness.PerturbationSettings, faithfulness.PerturbationOptions),
        (occlusion.OcclusionSettings, occlusion.OcclusionOptions),
        (retrain.RetrainSettings, retrain.RetrainOptions),
        (quality.SignalSettings, quality.SignalOptions),
    ],
)
def test_keywords_are_the_fields_of_the_settings(stated: type, keywords: type) -> None:
    of_request = get_type_hints(fit_patterns)  # how a model is run and fed is the request's, where a function takes that too
    told = {k: hint for k, hint in get_type_hints(keywords).items() if k not in ("preprocess", "batch_size", "providers")}
    assert told == {f.name: get_type_hints(stated)[f.name] for f in fields(stated)}
    assert all(hint == of_request[k] for k, hint in get_type_hints(keywords).items() if k not in told)


# ----- metrics of other packages -----

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "third-party-metrics"
version = "1"
[project.entry-points."onnxsal.metrics"]
third = "third_party_metrics"
[tool.setuptools]
py-modules = ["third_party_metrics"]
"""
METRIC = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8"), re.DOTALL)[1]
"""The example of the documentation."""


def installed(folder: Path, metric: str) -> Path:
    """A package that adds a metric, installed into a folder of its own."""
    source, target = folder / "source", folder / "site"
    source.mkdir(parents=True)
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "third_party_metrics.py").write_text(metric)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(target), str(source)]
    subprocess.run(pip, check=True, capture_output=True)
    return target


def onnxsal_with(target: Path, *words: object, first: str = "") -> subprocess.CompletedProcess[str]:
    """The command where another package is installed too."""
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(target)!r}]\n{first}\nfrom onnxsal.cli import main; main()"
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)


def test_another_package_adds_a_metric_with_a_setting(data: Path, tmp_path: Path) -> None:
    """One file: its column, its chart and its option are there, also where its module is imported before ours."""
    target, model = installed(tmp_path, METRIC), tmp_path / "cnn.onnx"
    model.write_bytes(CNN.read_bytes())
    (tmp_path / "cnn.toml").write_text("scale = 0.00392156862745098\nmean = 0.5\nstd = 0.25\nresize = [16, 16]\n")
    asked = ("evaluate", model, data, "-m", "gradient", "--metrics", "sparseness,relevance_mass", "--json", "-o")
    found = []
    for first, power in (("", 1), ("import third_party_metrics", 2)):
        out = tmp_path / f"out{power}"
        done = onnxsal_with(target, *asked, out, "--power", power, first=first)
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout)
        assert list(facts["metrics"]) == ["relevance_mass", "sparseness"]
        assert facts["settings"]["power"] == power
        assert (out / "lorenz.png").is_file()
        rows = {row["method"]: row["mean"] for row in facts["summary"] if row["metric"] == "sparseness"}
        assert (out / "samples.csv").read_text().startswith("method,sample,target,label,relevance_mass,sparseness,")
        found.append(rows["centre"])
    assert 0 < found[0] < found[1] < 1  # powers make few values larger


def test_a_metric_that_cannot_be_imported_ends_evaluate_alone(data: Path, tmp_path: Path) -> None:
    target = installed(tmp_path, METRIC + "\nimport no_such_module\n")
    for _ in range(2):
        done = onnxsal_with(target, "evaluate", CNN, data, "-o", tmp_path / "out")
        assert done.returncode == 2
        assert "package 'third-party-metrics' says that it adds to onnxsal" in done.stderr
        assert "No module named 'no_such_module'" in done.stderr
    assert onnxsal_with(target, "evaluate", "--help").returncode == 0
    assert onnxsal_with(target, "ops").returncode == 0
