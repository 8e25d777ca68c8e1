"""The checks of an audit: four outcomes, each with its number, its threshold and the pictures that it needs; none is green by default."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import numpy as np
import onnx
import pytest
from PIL import Image

import onnxsal
from onnxsal.ask.request import Ask
from onnxsal.engine.method import get_method, parse_method, shipped_methods
from onnxsal.explainer import Explainer
from onnxsal.methods.build import WRAPPERS, keeps_law, refined_by
from onnxsal.methods.fullgrad import PARTS
from onnxsal.metrics.baselines import BASELINES, CALLED
from onnxsal.metrics.conservation import conservation
from onnxsal.metrics.data_kind import PICTURES, ROWS, DataKind
from onnxsal.metrics.evaluation import Way
from onnxsal.report.audit import Audit, Request, audited, page
from onnxsal.report.audit.blocks import Cell, Table
from onnxsal.report.audit.checking import CHECKS, Check, checks
from onnxsal.report.audit.checks.border import Border
from onnxsal.report.audit.checks.faithful import Faithful
from onnxsal.report.audit.checks.flow import Passage, Passed, ScoreFlow
from onnxsal.report.audit.checks.law import Law
from onnxsal.report.audit.checks.operators import OnModel, Operators
from onnxsal.report.audit.checks.randomisation import Randomisation
from onnxsal.report.audit.evidence import Evidence
from onnxsal.report.audit.notes import MAP
from onnxsal.report.audit.verdict import FEW, NAMED, Finding, Judgement, Outcome, Severity
from onnxsal.runtime.preprocess_files import load_preprocess
from tests.audit_evidence import AREA, LAWFUL, LAWLESS, METHOD, SUMMED, planted
from tests.audit_words import foreign
from tests.small_models import make, node

PASSED, FAILED, TOO_FEW, NOT_APPLICABLE = Outcome.PASSED, Outcome.FAILED, Outcome.TOO_FEW, Outcome.NOT_APPLICABLE
ROOM = Path(onnxsal.__file__).parent / "report" / "audit" / "checks"


# ----- what a check is -----


def test_every_file_of_the_room_is_a_check_under_its_name():
    assert {c.name for c in checks()} == {p.stem for p in ROOM.glob("*.py")} - {"__init__"}


def test_the_check_of_the_documentation_runs():
    """The page tells how a check is written, and its example is one: measured, judged, and a quantity of the gate."""
    text = (Path(onnxsal.__file__).parent.parent / "docs" / "audit.md").read_text(encoding="utf-8")
    found: dict[str, Any] = {"__name__": __name__}
    try:
        exec(compile(text.partition("```python\n")[2].partition("```")[0], "docs/audit.md", "exec"), found)
        evidence = planted()
        made = found["Certainty"].measure(evidence)
        (judgement,) = made.judge(evidence)
        assert judgement.verdict.outcome is TOO_FEW  # two pictures are planted
        assert made.value("certainty", evidence) == {"": made.mean}
        assert [j.verdict.outcome for n in (0.995, 0.99) for j in found["Certainty"](n, 8).judge(evidence)] == [FAILED, PASSED]
    finally:
        CHECKS.pop("certainty", None)


@pytest.mark.parametrize("check", checks(), ids=lambda c: c.name)
def test_a_check_says_what_it_asks_and_seeks(check: type[Check]):
    assert check.title.endswith("?")
    for kind in (PICTURES, ROWS):
        assert "{" not in kind.say(check.title + check.seeks)
        assert kind.say(check.seeks)[0].islower()
        assert bool(check.idle(kind)) == (check.of not in (None, kind))
    assert "." not in check.seeks
    assert check.__doc__
    assert "measure" in check.__dict__
    assert "judge" in check.__dict__
    assert bool(check.limits) == ("value" in check.__dict__)
    assert is_dataclass(check)
    assert check.__dataclass_params__.frozen  # type: ignore[attr-defined]


@pytest.mark.parametrize("check", checks(), ids=lambda c: c.name)
def test_facts_are_typed_to_the_leaf(check: type[Check]):
    def loose(kind: Any) -> list[str]:
        if kind is Any or kind is object or kind in (dict, list, tuple):
            return [str(kind)]
        inner = [t for f in fields(kind) for t in loose(get_type_hints(kind)[f.name])] if is_dataclass(kind) else []
        return [*inner, *(t for part in getattr(kind, "__args__", ()) if not isinstance(part, str) for t in loose(part))]

    assert loose(check) == []


def test_two_checks_of_one_name_are_refused():
    with pytest.raises(TypeError, match="two checks are called 'border'"):
        type("Another", (Check,), {}, name="border", title="?", seeks="", order=0)
    assert CHECKS["border"] is Border


# ----- what every judgement keeps to -----


def keeps_to_the_form(check: Check, judgements: Sequence[Judgement]) -> None:
    """Failed with a finding and only then; a number and its threshold, or words why there is none; nothing passes on too few pictures."""
    found = [j.finding for j in judgements if j.finding is not None]
    assert len({f.id for f in found}) == len(found), check.name
    assert {j.verdict.finding for j in judgements} - {""} == {f.id for f in found}, check.name
    for v in (j.verdict for j in judgements):
        assert (v.outcome is FAILED) == bool(v.finding), v
        assert v.value is None or math.isfinite(v.value), v
        assert v.n >= v.needs or v.outcome is TOO_FEW, v
        if v.outcome is NOT_APPLICABLE:
            assert v.words, v
        else:
            assert v.threshold, v
        if v.outcome is PASSED:
            assert v.value is not None, v
    assert all(f.title and f.text and f.advice and len(f.pictures) <= NAMED for f in found), check.name


ZERO, NAN = (
    {"maps": [{"residual": 0.0, "reached": 1.0, "rim": [0.0, AREA], "columns": [0.0] * 4}]},
    {"maps": [{"residual": math.nan, "reached": math.nan}]},
)
ODD: dict[str, dict[str, Any]] = {
    "good": {"count": 24},
    "two pictures": {"count": 2},
    "one picture": {"count": 1},
    "nothing given": {"count": 24, "labelled": False, "compared": False, "masked": False, "curves": {}},
    "no law": {"count": 24, "method": LAWLESS},
    "zeros": {"count": 24, **ZERO},
    "NaN": {"count": 24, **NAN},
    "no map": {"count": 2, "lost": {(MAP, METHOD, f"p{i}"): "NaN" for i in range(2)}},
    "no answer": {"count": 8, "failed": 3},
    "refused": {"count": 8, "refused": "no convolution"},
    "flat": {"count": 24, "maps": [{"empty": "there is one value everywhere", "columns": [0.0] * 4}]},
}


ASKED = [(c, k) for c in checks() if not c.costly for k in (PICTURES, ROWS) if not c.idle(k)]


@pytest.mark.parametrize("given", ODD.values(), ids=ODD)
@pytest.mark.parametrize(("check", "kind"), ASKED, ids=[f"{c.name}-{k.many}" for c, k in ASKED])
def test_every_judgement_keeps_to_the_form(check: type[Check], kind: DataKind, given: dict[str, Any]):
    evidence = planted(**given, kind=kind)
    made = check.measure(evidence)
    keeps_to_the_form(made, list(made.judge(evidence)))
    list(made.show(evidence))


def sentences(check: Check, evidence: Evidence) -> Iterator[str]:
    """All that a check says: its question, verdicts, findings, numbers of the gate that are missing, blocks and the first screen."""
    yield from (evidence.kind.say(check.title), evidence.kind.say(check.seeks), check.tell(evidence))
    for judgement in check.judge(evidence):
        yield from (judgement.verdict.words, judgement.verdict.threshold)
        if (found := judgement.finding) is not None:
            yield from (found.title, found.text, found.advice)
    for block in check.show(evidence):
        yield from (str(value) for value in vars(block).values())
    for name, quantity in check.limits.items():
        yield evidence.kind.say(quantity.words)
        yield from (v for v in check.value(name, evidence).values() if isinstance(v, str))


WORSE: dict[str, dict[str, Any]] = {
    **ODD,
    "unfaithful": {"count": 24, "metrics": {("m", "insertion"): np.linspace(0.1, 0.2, 24), ("m", "deletion"): np.linspace(0.8, 0.9, 24)}},
    "not its law": {"count": 24, "maps": [{"residual": 0.5, "likeness": 0.1}]},
    "one value": {"count": 24, "curves": {}},
    "weights": {"count": 24, "curves": {"spearman": [0.9, 0.9], "ssim": [0.9, 0.9]}},
}


@pytest.mark.parametrize("kind", [PICTURES, ROWS], ids=lambda k: k.many)
@pytest.mark.parametrize("given", WORSE.values(), ids=WORSE)
def test_every_sentence_has_the_nouns_of_the_data(kind: DataKind, given: dict[str, Any]):
    evidence, told = planted(**given, kind=kind), []
    for check in (c for c in checks() if not c.costly and not c.idle(kind)):
        told += [f"{check.name}: {found}" for text in sentences(check.measure(evidence), evidence) for found in foreign(text, kind)]
    told += [found for row in evidence.lost for found in foreign(evidence.gap(row.method, [row.what]), kind)]
    assert told == []


def test_a_verdict_by_its_number():
    wrong = Finding("f", Severity.WARNING, 1, "title", "text", "advice", [str(i) for i in range(99)])
    assert len(wrong.pictures) == NAMED
    for value, n, given, outcome in (
        (0.5, FEW, {}, PASSED),
        (0.5, FEW - 1, {}, TOO_FEW),
        (None, FEW, {}, TOO_FEW),
        (math.nan, FEW, {}, TOO_FEW),
        (0.5, FEW, {"undecided": True}, TOO_FEW),
        (0.5, FEW, {"wrong": wrong}, FAILED),
        (math.inf, FEW, {"wrong": wrong}, FAILED),  # a number that is none is no excuse
        (0.5, FEW - 1, {"wrong": wrong}, TOO_FEW),
    ):
        told = Judgement.of(value, "threshold", n, **given)
        assert told.verdict.outcome is outcome
        assert (told.finding is not None) == (outcome is FAILED)


# ----- each check of the maps, on both sides of its threshold -----


def many(count: int = FEW, **of_maps: Any) -> Callable[[], Evidence]:
    return lambda: planted(count, maps=[of_maps])


def some(bad: int, count: int, **of_maps: Any) -> Callable[[], Evidence]:
    """The first ``bad`` of ``count`` pictures have such maps."""
    return lambda: planted(count, maps=[*[of_maps] * bad, {}])


def curves(spearman: Sequence[float], ssim: Sequence[float], count: int = FEW, curved: int | None = None) -> Callable[[], Evidence]:
    return lambda: planted(count, curves={"spearman": spearman, "ssim": ssim}, curved=curved)


def gaps(insertion: float, deletion: float, count: int = FEW, against: str = "random", spread: float = 0.0) -> Callable[[], Evidence]:
    """A method is so much larger than one baseline, and clearly better than the others."""
    ripple = spread * (-1) ** np.arange(count)
    metrics = {("m", "insertion"): 0.8 + ripple, ("m", "deletion"): 0.2 + ripple}
    metrics |= {(against, "insertion"): np.full(count, 0.8 - insertion), (against, "deletion"): np.full(count, 0.2 - deletion)}
    return lambda: planted(count, metrics=metrics)


def on_object(over: float, count: int = FEW, masked: bool = True) -> Callable[[], Evidence]:
    metrics = {("m", "relevance_mass"): 0.5 + over, ("m", "pointing_chance"): 0.5}
    return lambda: planted(count, metrics=metrics, masked=masked)


def of_method(method: str, **of_maps: Any) -> Callable[[], Evidence]:
    return lambda: planted(method=method, maps=[of_maps])


NO_MAP = {(MAP, METHOD, f"p{i}"): "NaN" for i in range(2)}

CASES: list[tuple[str, str, Callable[[], Evidence], Outcome, str]] = [
    ("law", "just below", many(1, residual=0.99e-3), PASSED, ""),
    ("law", "just above", many(1, residual=1.01e-3), FAILED, "residual-m"),
    ("law", "one picture of many", some(1, 50, residual=0.1), FAILED, "residual-m"),
    ("law", "no number on one of many", some(1, 50, residual=None), FAILED, "residual-m"),
    ("law", "NaN on one of many", some(1, 50, residual=math.nan), FAILED, "residual-m"),
    ("law", "infinite", many(1, residual=math.inf), FAILED, "residual-m"),
    ("law", "a sum, just below", of_method(SUMMED, residual=0.49), PASSED, ""),
    ("law", "a sum, just above", of_method(SUMMED, residual=0.51), FAILED, "residual-m"),
    ("law", "no law", of_method(LAWLESS, residual=None, reached=None), NOT_APPLICABLE, ""),
    ("law", "no map", lambda: planted(lost=NO_MAP), TOO_FEW, ""),
    ("flat", "a tenth", some(2, 20, empty="flat"), PASSED, ""),
    ("flat", "more than a tenth", some(3, 20, empty="flat"), FAILED, "flat-m"),
    ("flat", "no map", lambda: planted(lost=NO_MAP), TOO_FEW, ""),
    ("border", "just below", many(rim=[1.59 * AREA, AREA]), PASSED, ""),
    ("border", "just above", many(rim=[1.61 * AREA, AREA]), FAILED, "border-m"),
    ("border", "too few", many(FEW - 1, rim=[1.61 * AREA, AREA]), TOO_FEW, ""),
    ("randomisation", "hardly changes", curves([0.9, 0.85], [0.9, 0.9]), FAILED, "randomisation-m"),
    ("randomisation", "too small for SSIM", curves([0.9, 0.85], []), FAILED, "randomisation-m"),
    ("randomisation", "changes in part", curves([0.9, 0.6], [0.9, 0.6]), FAILED, "randomisation-m"),
    ("randomisation", "just above", curves([0.9, 0.51], [0.9, 0.51]), FAILED, "randomisation-m"),
    ("randomisation", "flat grounds: zeros tie, whatever the weights are", curves([0.9, 0.75], [0.5, 0.28]), PASSED, ""),
    ("randomisation", "other values of the same order", curves([0.9, 0.1], [0.9, 0.7]), PASSED, ""),
    ("randomisation", "the first stage changed all there is", curves([0.1, 0.3], [0.2, 0.4]), PASSED, ""),
    ("randomisation", "just below", curves([0.9, 0.49], [0.9, 0.51]), PASSED, ""),
    ("randomisation", "enough", curves([0.9, 0.85], [], curved=4), FAILED, "randomisation-m"),
    ("randomisation", "too few", curves([0.9, 0.85], [], curved=3), TOO_FEW, ""),
    ("randomisation", "nothing to compare", curves([], []), TOO_FEW, ""),
    ("faithful", "better than noise", gaps(0.01, -0.01), PASSED, ""),
    ("faithful", "worse than noise", gaps(-0.01, 0.01), FAILED, "unfaithful-m"),
    ("faithful", "worse than noise, too few", gaps(-0.01, 0.01, FEW - 1), TOO_FEW, ""),
    ("faithful", "better by one", gaps(0.01, 0.0), PASSED, ""),
    ("faithful", "not told apart", gaps(0.0, 0.0), TOO_FEW, ""),
    ("faithful", "worse by one", gaps(-0.01, 0.0), TOO_FEW, ""),
    ("faithful", "they contradict each other", gaps(0.01, 0.01), TOO_FEW, ""),
    ("faithful", "worse by less than the interval", gaps(-0.01, 0.01, spread=0.2), TOO_FEW, ""),
    ("faithful", "worse than a blob", gaps(-0.01, 0.01, against="centre"), FAILED, "uninformed-m-centre"),
    ("faithful", "worse than edges", gaps(-0.01, 0.01, against="edges"), FAILED, "uninformed-m-edges"),
    ("faithful", "like a blob", gaps(0.0, 0.0, against="centre"), TOO_FEW, ""),
    ("background", "on the object", on_object(0.01), PASSED, ""),
    ("background", "as by chance", on_object(0.0), PASSED, ""),
    ("background", "beside it", on_object(-0.01), FAILED, "background-m"),
    ("background", "too few", on_object(-0.01, FEW - 1), TOO_FEW, ""),
    ("background", "no masks", on_object(-0.01, masked=False), NOT_APPLICABLE, ""),
]


@pytest.mark.parametrize(
    ("name", "given", "outcome", "finding"), [(n, g, o, f) for n, _, g, o, f in CASES], ids=[f"{n}: {i}" for n, i, *_ in CASES]
)
def test_where_a_check_of_the_maps_draws_the_line(name: str, given: Callable[[], Evidence], outcome: Outcome, finding: str):
    evidence = given()
    check = next(c for c in checks() if c.name == name)
    made = check.measure(evidence)
    told = list(made.judge(evidence))
    keeps_to_the_form(made, told)
    worst = min((j.verdict.outcome for j in told), key=tuple(Outcome).index)
    assert (worst, [j.finding.id for j in told if j.finding]) == (outcome, [finding] if finding else [])
    assert all(j.verdict.method == METHOD for j in told) or outcome is NOT_APPLICABLE


def test_a_map_that_hardly_changes_is_serious_and_one_that_changes_in_part_a_warning():
    for last, severity in ((0.81, Severity.SERIOUS), (0.79, Severity.WARNING)):
        evidence = curves([0.9, last], [0.9, last])()
        ((wrong,),) = ([j.finding for j in Randomisation.measure(evidence).judge(evidence)],)
        assert wrong is not None
        assert wrong.severity is severity
        assert f"of {last:.2f} with the original ones" in wrong.text


def test_what_is_said_of_a_law():
    evidence = some(2, 9, residual=0.25, reached=0.4)()
    (told,) = Law.measure(evidence).judge(evidence)
    assert told.finding is not None
    assert "On 2 of 9 pictures the sum misses by more than 0.001 of the score (worst: 0.25, 'p0', where 40 % of the" in told.finding.text
    assert told.finding.severity is Severity.SERIOUS
    assert list(told.finding.pictures) == ["p0", "p1"]
    summed = of_method(SUMMED, residual=0.6, reached=None)()
    (told,) = Law.measure(summed).judge(summed)
    assert told.finding is not None
    assert (told.finding.severity, told.finding.advice) == (Severity.WARNING, "Raise n_steps.")


def test_which_laws_a_sum_only_comes_near():
    for method in shipped_methods().values():
        assert keeps_law(method) == bool(method.law)
        assert (refined_by(method) or "n_steps") in method.parameters or not refined_by(method)
        assert not refined_by(method) or keeps_law(method)
    assert {m.name for m in shipped_methods().values() if refined_by(m)} == {SUMMED}
    whole = 'name = "whole"\ntitle = "t"\nsource = "s"\nformula = "f"\nwrap = "sum"\n'
    for parts, law, parameter in (
        ([SUMMED, LAWLESS], True, "n_steps"),
        ([LAWFUL, "gradcam"], True, ""),
        ([LAWLESS, "gradcam"], False, ""),
    ):
        made = parse_method(f"{whole}of = {parts}\n".replace("'", '"'), "whole.toml")
        assert (keeps_law(made), refined_by(made)) == (law, parameter)
    assert all(w.keeps for w in WRAPPERS.values() if w.refined_by)


def test_every_baseline_stands_on_the_page_with_a_word_for_each_metric():
    evidence = gaps(-0.01, 0.01, against="centre")()
    made = Faithful.measure(evidence)
    assert set(CALLED) == set(BASELINES)
    assert [(r.method, r.baseline, r.insertion_is, r.deletion_is) for r in made.rows] == [
        ("m", "random", "better", "better"),
        ("m", "centre", "worse", "worse"),
        ("m", "edges", "better", "better"),
    ]
    (table,) = [b for b in made.show(evidence) if isinstance(b, Table)]
    assert [[c.text for c in row if isinstance(c, Cell)] for row in table.rows] == [["better"] * 2, ["worse"] * 2, ["better"] * 2]
    assert [c.mark == "wrong" for c in table.rows[1] if isinstance(c, Cell)] == [True, True]
    assert made.rows[1].insertion.mean == pytest.approx(-0.01)
    assert made.rows[1].insertion.confidence == 0.95


def test_tied_maps_are_named():
    maps = [{k: SimpleNamespace(tied=t) for k, t in (("flat", tied), ("fine", 0.01), ("unmeasured", None))} for tied in (0.2, 0.4)]
    document: Any = SimpleNamespace(pictures=[SimpleNamespace(maps=one) for one in maps])
    assert page.tied_methods(document) == {"flat": pytest.approx(0.3)}


# ----- those that run the model -----


def way(bias: float, warnings: Sequence[str] = (), books: bool = True, n: int = 8) -> Passed:
    rows = [Passage("y", 1.0, 0.0, 0.0, 0.0), Passage("a", 1 - bias / 4, bias / 4, 0.0, 0.0), Passage("x", 1 - bias, bias, 0.0, 0.1)]
    return Passed("m", books, n, rows if n else [], list(warnings))


@pytest.mark.parametrize(
    ("row", "outcomes", "ids"),
    [
        (way(0.49), [PASSED, PASSED], []),
        (way(0.51), [FAILED, PASSED], ["biases-m"]),
        (way(-0.51), [FAILED, PASSED], ["biases-m"]),
        (way(0.1, ["it grows", "it cancels"]), [PASSED, FAILED], ["flow-m"]),
        (way(0.51, n=1), [FAILED, PASSED], ["biases-m"]),
        (way(0.0, n=0), [TOO_FEW, TOO_FEW], []),
        (way(0.9, books=False), [NOT_APPLICABLE], []),
    ],
)
def test_where_the_score_goes(row: Passed, outcomes: list[Outcome], ids: list[str]):
    made, evidence = ScoreFlow([row]), planted()
    told = list(made.judge(evidence))
    keeps_to_the_form(made, told)
    assert [j.verdict.outcome for j in told] == outcomes
    found = [j.finding for j in told if j.finding]
    assert [f.id for f in found] == ids
    if ids == ["biases-m"]:
        assert "most of it just before 'x' (38 %)" in found[0].text
    if ids == ["flow-m"]:
        assert found[0].text == "It grows. It cancels."


def test_a_method_that_cannot_explain_the_model_is_found():
    made, evidence = Operators("cuda", [], [OnModel("a", "", 9, (), {"Foo": 2}), OnModel("b", "no convolution")]), planted()
    told = list(made.judge(evidence))
    keeps_to_the_form(made, told)
    assert [j.verdict.outcome for j in told] == [PASSED, FAILED]
    assert told[0].verdict.words == "2 nodes have no kernel on cuda, and would run on the CPU"
    assert [j.finding.id for j in told if j.finding] == ["refused-b"]


METHODS = ("lrp_epsilon", "fullgrad", "integrated_gradients", "gradient", "gradcam")


def negative() -> onnx.ModelProto:
    """A network with biases whose best score is -3 or so: everything is a share of a score below zero."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 3, 3, 3)), "b": rng.standard_normal(4), "v": rng.standard_normal((4, 3)) / 4, "c": [-3, -4, -5]}
    nodes = [
        node("Conv", "x w b", "conv", pads=[1, 1, 1, 1]),
        node("Relu", "conv", "relu"),
        node("GlobalAveragePool", "relu", "mean"),
        node("Flatten", "mean", "flat"),
        node("Gemm", "flat v c", "y"),
    ]
    return make(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 3]}, {k: np.float32(v) for k, v in weights.items()})


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """An audit of eight pictures."""
    folder, rng = tmp_path_factory.mktemp("checks"), np.random.default_rng(0)
    (folder / "data").mkdir()
    for i in range(8):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / "data" / f"{i}.png")
    onnx.save(negative(), str(folder / "m.onnx"))
    (folder / "m.toml").write_text('layout="NCHW"\nchannels="RGB"\nresize=[8,8]\nscale=0.00392156862745098\n')
    how = load_preprocess(folder / "m.toml")
    ways = [*(Way(n, n) for n in METHODS), Way("black", "integrated_gradients", {"baseline": "black"})]
    return audited(Request(Ask(folder / "m.onnx", preprocess=how), folder / "data", ways, measured=2))


def test_every_check_of_a_real_audit_keeps_to_the_form(real: Audit):
    ids = {f.id for f in real.document.findings}
    assert set(real.document.checks) == {c.name for c in checks()}
    for name, report in real.document.checks.items():
        for v in report.verdicts:
            assert (v.outcome is FAILED) == bool(v.finding), (name, v)
            assert v.finding in {"", *ids}
            assert v.threshold or v.outcome is NOT_APPLICABLE, (name, v)
        assert report.outcome is min((v.outcome for v in report.verdicts), key=tuple(Outcome).index), name


def test_the_flow_is_that_of_the_score_whatever_its_sign(real: Audit):
    """Shares are of the score: of one below zero too, 1 is all of it."""
    flow = real.facts["checks"]["flow"]["facts"]["rows"]
    rows = {row["method"]: row for row in flow}
    assert all(p.score is not None and p.score < 0 for pic in real.document.pictures for k, p in pic.maps.items() if k == "gradient")
    assert [row["books"] for row in flow] == [True, False, False, False, False, False]
    for cut in rows["lrp_epsilon"]["rows"]:
        assert cut["share"] + cut["bias"] + cut["leak"] == pytest.approx(1, abs=1e-4)
    *parts, whole = rows["fullgrad"]["rows"]
    assert [p["place"] for p in parts] == list(PARTS)
    assert sum(p["share"] for p in parts) == pytest.approx(1, abs=1e-4)
    assert whole["share"] == pytest.approx(1, abs=1e-4)
    assert whole["error"] < 1e-4
    x = np.random.default_rng(1).random((4, 3, 8, 8), np.float32)
    found = conservation(Explainer(negative(), "lrp_epsilon", components=True), x)
    assert found.share(found.sums)[:, 0] == pytest.approx(1, abs=1e-5)
    assert rows["gradient"] == {"method": "gradient", "books": False, "n": 0, "rows": [], "warnings": []}


def test_methods_are_asked_as_they_were_used(real: Audit):
    """A baseline that only the preprocessing knows is no reason to say that the method cannot explain the model."""
    told = {row["method"]: row for row in real.facts["checks"]["operators"]["facts"]["methods"]}
    assert [k for k, row in told.items() if row["problem"]] == []
    assert all(row["nodes"] > 5 for row in told.values())
    counted = {row["operator"]: row["count"] for row in real.facts["checks"]["operators"]["facts"]["operators"]}
    assert counted == {"Conv": 1, "Relu": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
    assert get_method("integrated_gradients").name == SUMMED
