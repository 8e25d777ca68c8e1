"""Audits of tables: numbers against scikit-learn's own, planted faults that are found and named, and the words of rows and columns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from skl2onnx import to_onnx
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

import onnxsal
import onnxsal.metrics.measures.model_randomization as random_weights
from onnxsal.ask.request import Ask
from onnxsal.cli.app import app
from onnxsal.errors import InputError, MethodError
from onnxsal.metrics.data_kind import PICTURES, ROWS
from onnxsal.metrics.evaluate import Work, evaluated
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.measures import Settings, axes_of_curves
from onnxsal.metrics.open_rows import open_rows
from onnxsal.metrics.scorer import forward_model
from onnxsal.metrics.weights import randomised, weighted_layers
from onnxsal.report.audit import Audit, Request, audited, schema
from onnxsal.report.audit.checking import checks
from onnxsal.report.audit.checks.operators import KnownOperator
from onnxsal.report.audit.page import render
from onnxsal.report.audit.page_rows import bars_of, column_means
from onnxsal.report.audit.verdict import Outcome, Severity
from onnxsal.runtime.preprocess import Preprocess
from tests.audit_words import foreign, texts, visible
from tests.tabular import frame, written

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

COLUMNS = ["age", "income", "debt", "rooms", "tenure"]
EXCHANGED = [2, 1, 0, 3, 4]
GRADED = ("integrated_gradients", "input_x_gradient")
QUICK = ("input_x_gradient", "feature_ablation")
COUNT = 40


def data(seed: int = 0, leak: bool = False) -> pd.DataFrame:
    """Rows of three classes that follow from three of the columns; ``leak``: of two, which one of the others tells."""
    rng = np.random.default_rng(seed)
    made = pd.DataFrame(rng.normal(0, 1, (300, 5)).astype(np.float32), columns=COLUMNS)
    made["label"] = np.digitize(made.age + made.income - made.debt + rng.normal(0, 3.0 if leak else 0.5, 300), [-0.7, 0.7])
    if leak:
        made["label"] = (made.label > 0).astype(int)
        made["tenure"] = (3 + 3 * made.label + rng.normal(0, 0.1, 300)).astype(np.float32)
    return made


def trained(leak: bool = False) -> Pipeline:
    given = data(leak=leak)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1e4 if leak else 1.0, max_iter=500))
    return model.fit(given[COLUMNS].to_numpy(), given.label)


def saved(folder: Path, pipeline: Pipeline, name: str = "credit") -> Path:
    path = folder / f"{name}.onnx"
    onnx.save(to_onnx(pipeline, data()[COLUMNS].to_numpy()[:1], options={"zipmap": False}), path)
    path.with_suffix(".toml").write_text(f"columns = {json.dumps(COLUMNS)}\n")
    return path


def table(folder: Path, given: pd.DataFrame, name: str = "rows") -> Path:
    path = folder / f"{name}.csv"
    given[:COUNT].to_csv(path, index=False)
    return path


def look(model: Path, rows: Any, methods: Sequence[str] = QUICK, **more: Any) -> Audit:
    """A quick audit, without a page."""
    return onnxsal.audit(model, rows, methods, measured=8, **more)


@pytest.fixture(scope="module", autouse=True)
def few_draws() -> Iterator[None]:
    """Each draw of weights is a conversion for every method."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(random_weights, "DRAWS", 2)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """credit.onnx, a model that is given what it was trained for, and rows.csv."""
    folder = tmp_path_factory.mktemp("tables")
    saved(folder, trained())
    table(folder, data(1))
    (folder / "how.toml").write_text('layout = "NCHW"\nchannels = "RGB"\nscale = 1.0\nmean = 0\nstd = 1\nresize = [8, 8]\n')
    return folder


@pytest.fixture(scope="module")
def found(place: Path) -> Audit:
    """The model against one in which the weights of age and debt are exchanged."""
    other = trained()
    other[1].coef_ = other[1].coef_[:, EXCHANGED]
    return look(place / "credit.onnx", place / "rows.csv", against=saved(place, other, "exchanged"))


# ----- numbers -----


def test_answers_and_attributions_are_scikit_learns(found: Audit):
    """Of a linear model, the attribution of a column is its weight times its value."""
    model, given = trained(), data(1)[:COUNT]
    scaler, last = model[0], model[1]
    chance = model.predict_proba(given[COLUMNS].to_numpy())
    assert found.document.data.columns == COLUMNS
    for i, row in enumerate(found.document.pictures):
        assert row.name == f"row {i + 1}"
        assert row.values == pytest.approx([float(str(v)) for v in given.loc[i, COLUMNS].astype(np.float32)])
        assert (row.predicted[0].index, row.label.index if row.label else None) == (chance[i].argmax(), given.label[i])
        assert row.predicted[0].probability == pytest.approx(chance[i].max(), abs=1e-5)
        wanted = last.coef_[chance[i].argmax()] / scaler.scale_ * given.loc[i, COLUMNS].to_numpy(float)
        np.testing.assert_allclose(row.maps["input_x_gradient"].by_column, wanted, rtol=1e-3, atol=1e-5)
    right = (chance.argmax(1) == given.label).mean()
    assert found.document.accuracy is not None
    assert found.document.accuracy.top1 == pytest.approx(right)


def test_the_summary_is_the_mean_of_sizes(found: Audit):
    heads, lines = column_means(found.document)
    assert heads == [f"#{m}" for m in QUICK]
    sizes = np.abs([p.maps["input_x_gradient"].by_column for p in found.document.pictures]).mean(0)
    assert {line[0]: line[1].value for line in lines} == pytest.approx(dict(zip(COLUMNS, sizes, strict=True)))


def test_bars_are_to_scale_and_on_their_side(found: Audit):
    row = found.document.pictures[0]
    bars = list(bars_of(row, COLUMNS, "input_x_gradient"))
    assert [b.size for b in bars] == sorted(row.maps["input_x_gradient"].by_column, key=lambda v: -abs(v))
    for bar in bars:
        assert bar.wide == pytest.approx(50 * abs(bar.size) / abs(bars[0].size))
        assert bar.left == pytest.approx(50 if bar.size > 0 else 50 - bar.wide)
    many = replace(row, values=[0.0] * 20, maps={"m": replace(row.maps["input_x_gradient"], by_column=[float(i) for i in range(20)])})
    bars = list(bars_of(many, [f"c{i}" for i in range(20)], "m"))
    assert (len(bars), bars[-1].text, bars[-1].size) == (12, "9 others", sum(range(9)))


def test_two_models_are_compared_by_their_answers_and_by_the_order_of_columns(found: Audit):
    """Exchanged weights give other answers for other reasons; likeness is the rank correlation of weight times value in both."""
    document = found.document
    told = {name: check.outcome for name, check in document.checks.items()}
    assert (told["agreement"], told["reasons"]) == (Outcome.FAILED, Outcome.FAILED)
    findings = {f.id: f for f in document.findings}
    assert findings["disagreement"].pictures[0].startswith("row ")
    assert "attributions of the same class is low" in findings["reasons"].text
    given, model = data(1), trained()
    weights, swapped = model[1].coef_ / model[0].scale_, model[1].coef_[:, EXCHANGED] / model[0].scale_
    for i, row in enumerate(document.pictures[:10]):
        target, x = row.predicted[0].index, given.loc[i, COLUMNS].to_numpy(float)
        ranks = [pd.Series(w[target] * x).rank() for w in (weights, swapped)]
        assert row.against is not None
        assert row.against.likeness["input_x_gradient"] == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-6)
    assert "exchanged.onnx" in findings["disagreement"].advice


def test_random_weights_of_rows_are_drawn_several_times(place: Path, monkeypatch: pytest.MonkeyPatch):
    """The number of a row is the mean over draws; of a draw it is the rank correlation of weight times value, signs and all."""
    kept = trained()
    work = open_rows(Ask(place / "credit.onnx"), place / "rows.csv")

    def told(draws: int, seed: int) -> np.ndarray:
        monkeypatch.setattr(random_weights, "DRAWS", draws)
        done = Work(work.data.some(4), QUICK[:1], ["model_randomization"], Settings(seed=seed), columns=work.places)
        return evaluated(work.ask, done).values(QUICK[0], "randomised_spearman")

    first, second, both = told(1, 0), told(1, 1), told(2, 0)
    np.testing.assert_allclose(both, (first + second) / 2)
    explainer = onnxsal.Explainer(work.ask.model, QUICK[0])
    x = np.concatenate([s.x for s in work.data.some(4).samples()])
    plain = forward_model(explainer)
    target = kept.predict_proba(x).argmax(1)
    drawn = explainer.on(randomised(plain, weighted_layers(plain), "normal", 0)).explain(x, target).attribution
    own = kept[1].coef_[target] / kept[0].scale_ * x
    wanted = [np.corrcoef(pd.Series(a).rank(), pd.Series(b).rank())[0, 1] for a, b in zip(own, drawn, strict=True)]
    np.testing.assert_allclose(first, wanted)


# ----- planted faults -----


def test_a_leak_is_found(tmp_path: Path):
    found = look(saved(tmp_path, trained(leak=True)), table(tmp_path, data(1, leak=True)))
    (finding,) = [f for f in found.document.findings if f.id.startswith("one-column")]
    assert finding.severity is Severity.SERIOUS
    assert finding.title == "The column 'tenure' decides the answers"
    assert all(f"{method} " in finding.text for method in QUICK)


def test_a_column_without_weight_is_found_and_shuffled_labels(tmp_path: Path):
    pipeline, given = trained(), data(1)
    pipeline[1].coef_[:, 3] = 0
    given["label"] = np.random.default_rng(0).permutation(given.label)
    document = look(saved(tmp_path, pipeline), table(tmp_path, given), QUICK[:1]).document
    findings = {f.id: f for f in document.findings}
    assert set(findings) == {"idle-columns", "labels"}
    assert "of 'rooms' is exactly 0 in all 40 rows" in findings["idle-columns"].text
    assert findings["labels"].severity is Severity.SERIOUS
    assert document.checks["idle_columns"].facts.columns == ["rooms"]


def test_few_rows_decide_nothing(place: Path):
    document = look(place / "credit.onnx", place / "rows.csv", ["input_x_gradient"], samples=5).document
    told = {name: check.outcome for name, check in document.checks.items()}
    for name in ("labels", "faithful", "one_column", "idle_columns"):
        assert told[name] is Outcome.TOO_FEW, name
    assert len(document.pictures) == 5
    assert "5 of 40 rows, drawn by seed 0" in document.data.notes


# ----- checks of another kind, methods, and what is refused -----


def test_checks_of_pictures_are_no_question_to_rows_and_none_runs(found: Audit, monkeypatch: pytest.MonkeyPatch):
    idle = {c.name for c in checks() if c.of is PICTURES}
    assert idle == {"background", "border", "channels", "marks"}
    for name in idle:
        report = found.document.checks[name]
        assert (report.outcome, report.facts, name in found.blocks) == (Outcome.NOT_APPLICABLE, None, False)
        assert report.verdicts[0].words.startswith("columns ")


def test_trees_are_explained_by_the_methods_that_run_the_model(tmp_path: Path):
    """Of the methods that nobody asked for, those that trees have no derivative for are left out, and it is no fault of the model."""
    path = written(tmp_path, trees=True)
    rows = tmp_path / "rows.csv"
    frame(24).to_csv(rows, index=False)
    document = onnxsal.audit(path, rows, measured=8, limits="findings>0,deletion>0.99").document
    assert [m.name for m in document.methods if not m.refused] == ["feature_ablation", "shapley_sampling"]
    assert not [f for f in document.findings if f.id.startswith("refused")]
    assert document.checks["randomisation"].outcome is Outcome.NOT_APPLICABLE
    assert "stores no weights" in document.checks["randomisation"].verdicts[0].words
    assert [limit.broken for limit in document.limits if limit.name == "deletion"] == [False]
    assert document.data.columns == ["age", "income", "colour", "city"]
    asked = look(path, frame(24), ["integrated_gradients", "feature_ablation"], limits="deletion>0.99").document
    assert asked.data.source == "a table in memory"
    assert [f.id for f in asked.findings if f.id.startswith("refused")] == ["refused-integrated_gradients"]
    assert asked.limits[0].broken
    assert asked.model.file == "credit.onnx"
    assert asked.model.inputs[0].startswith("age ")


def test_a_run_that_was_cut_short_goes_on_to_the_same_numbers(place: Path, found: Audit, tmp_path: Path):
    class Stopped(Exception):
        pass

    def request() -> Request:
        ask = Ask(place / "credit.onnx")
        ways = [Way(m, m) for m in QUICK]
        return Request(ask, place / "rows.csv", ways, against=replace(ask, model=place / "exchanged.onnx"), measured=8)

    def stop(text: str) -> None:
        if text.startswith("measuring the attributions: 8"):
            raise Stopped

    with pytest.raises(Stopped):
        audited(request(), (), tmp_path, stop)
    kept = (tmp_path / "samples.jsonl").read_text()
    again = audited(request(), (), tmp_path)
    assert kept.count("\n") > 16
    made = {"created": "", "command": ""}
    assert {**again.facts, **made} == {**found.facts, **made}


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["audit", *(str(w) for w in words)])


def test_the_command_writes_a_page_and_a_json_of_the_schema(place: Path, tmp_path: Path):
    """A model with which nothing is wrong has no finding."""
    jsonschema = pytest.importorskip("jsonschema")
    words = ("-m", ",".join(GRADED), "--fail-if", "accuracy<0.99")
    done = run(place / "credit.onnx", place / "rows.csv", "-o", tmp_path, *words)
    assert done.exit_code == 1, done.output
    assert "the limit is accuracy<0.99" in done.output
    facts = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema()).validate(facts)
    assert [m["name"] for m in facts["methods"]] == list(GRADED)
    assert facts["findings"] == []
    made = ("answers", "labels", "law", "flat", "faithful", "one_column", "idle_columns", "randomisation", "operators")
    assert {name: facts["checks"][name]["outcome"] for name in made} == dict.fromkeys(made, "passed")
    assert (facts["data"]["kind"], facts["data"]["pictures"], facts["data"]["labelled"]) == ("rows", COUNT, COUNT)
    page = (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert page.count('<table class="bars">') == COUNT * len(GRADED)
    assert page.count("data:image/png") >= len(GRADED) + 2  # all rows together by each, and the curves


REFUSED = {
    "masks": (["--masks", "alpha"], "rows of a table have no places where an object could lie"),
    "preprocessing": (["--preprocess", "how.toml"], "says how pictures are prepared, and these data are rows of a table"),
    "preprocessing of the other": (["--against", "credit.onnx", "--against-preprocess", "unit"], "says how pictures are prepared"),
    "a limit on pictures": (["--fail-if", "border>2"], "border is nothing that rows have, for columns have no border"),
    "a limit on masks": (["--fail-if", "relevance_mass<0.5"], "relevance_mass is nothing that rows have, for columns lie nowhere"),
    "a column": (["--labels-column", "truth"], "has no column 'truth'"),
    "classes": (["--labels-column", "age"], "one that the model takes"),
}


@pytest.mark.parametrize(("words", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_meaning_for_rows_is_refused(place: Path, tmp_path: Path, words: list[str], message: str):
    given = [place / w if w.endswith((".onnx", ".toml")) else w for w in words]
    done = run(place / "credit.onnx", place / "rows.csv", "-o", tmp_path, "-m", "input_x_gradient", *given)
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.output.split())


def test_models_of_other_columns_are_not_compared(place: Path, tmp_path: Path):
    path = saved(tmp_path, trained(), "other")
    path.with_suffix(".toml").write_text('columns = ["age", "income", "debt", "rooms", "size"]\n')
    rows = table(tmp_path, data(1).assign(size=1.0))
    with pytest.raises(InputError, match=r"one of them alone takes 'size', 'tenure'"):
        look(place / "credit.onnx", rows, ["input_x_gradient"], against=path)
    with pytest.raises(InputError, match="border is nothing that rows have"):
        look(place / "credit.onnx", rows, limits="border>2")
    with pytest.raises(InputError, match="says how pictures are prepared"):
        look(place / "credit.onnx", rows, preprocess=Preprocess(1.0))
    with pytest.raises(MethodError, match="several methods"):
        look(place / "credit.onnx", rows, method="gradient")


# ----- words -----


def test_a_page_of_rows_speaks_of_rows_and_columns(found: Audit):
    """The methods' own formulas are quoted as they stand."""
    page = visible(render(found))
    quoted = [text for m in found.document.methods for text in (m.title, m.formula, m.source)]
    for text in [*quoted, str(found.document.data.source)]:
        page = page.replace(text, "")
    assert foreign(page, ROWS) == []
    told = [t for t in texts({k: v for k, v in found.facts.items() if k != "methods"}) if t != found.document.data.source]
    assert [f for t in told for f in foreign(t, ROWS)] == []
    assert "row 17" in page


def test_curves_of_rows_are_over_columns():
    for name, axes in axes_of_curves(ROWS).items():
        assert foreign(axes.across, ROWS) == [], name
    assert axes_of_curves(ROWS)["insertion"].across == "share of the columns put back, most salient first"
    assert axes_of_curves()["insertion"].across == "share of the pixels put back, most salient first"


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("ai.onnx.ml.Scaler", "rewritten"),
        ("QLinearConv", "rewritten"),
        ("Relu", "differentiable"),
        ("ArgMax", "no derivative"),
        ("Rleu", "unknown"),
    ],
)
def test_what_is_known_of_an_operator(operator: str, kind: str):
    assert KnownOperator.of(operator, 1).kind == kind
