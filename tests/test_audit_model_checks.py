"""What the audit's checks of the model, and of two models, say of planted facts: on both sides of a threshold, with too few, with none."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from onnxsal.ask.request import Ask
from onnxsal.errors import InputError
from onnxsal.metrics.data_kind import PICTURES
from onnxsal.metrics.dataset import Sample
from onnxsal.metrics.exchanged import ORDERS, ColourExchange, LabelledColours, PlaceExchange, coloured, exchange_place
from onnxsal.metrics.statistics import Summary
from onnxsal.metrics.two_models import ComparedLayer, at_fault
from onnxsal.report.audit.checking import Check
from onnxsal.report.audit.checks.agreement import Agreement
from onnxsal.report.audit.checks.answers import Answers
from onnxsal.report.audit.checks.channels import Channels
from onnxsal.report.audit.checks.labels import Labels
from onnxsal.report.audit.checks.layers import LayerComparison
from onnxsal.report.audit.checks.marks import Mark, Marks
from onnxsal.report.audit.checks.reasons import Likeness, Reasons
from onnxsal.report.audit.document import Accuracy
from onnxsal.report.audit.evidence import Evidence, Lost
from onnxsal.report.audit.verdict import Severity
from onnxsal.runtime.preprocess import Preprocess

FAILED, TOO_FEW, PASSED, NOT_APPLICABLE = "failed", "not enough data", "passed", "not applicable"
OTHER: Any = SimpleNamespace(name="b.onnx")


def evidence(other: Any = OTHER) -> Any:
    """Twelve pictures, as far as these checks look at them again when they judge."""
    seen = SimpleNamespace(names=[f"{i}.png" for i in range(10)], failed={n: {"label": 1, "why": "NaN"} for n in ("10.png", "11.png")})
    against = SimpleNamespace(agrees=False, mean_likeness=0.1)
    pictures = [SimpleNamespace(name=n, against=against if other else None, predicted=[SimpleNamespace(index=7)]) for n in seen.names]
    own = SimpleNamespace(preprocess=Preprocess(1.0), rows=None)
    made = SimpleNamespace(own=own, other=other, seen=seen, pictures=pictures, read=12, kind=PICTURES, request=SimpleNamespace(ask=Ask("")))
    made.class_name, made.predicted = (lambda index: Evidence.class_name(made, index)), (lambda index: Evidence.predicted(made, index))
    return made


def mean(value: float, low: float | None = None, high: float | None = None, n: int = 8) -> Summary:
    return Summary(value, value if low is None else low, value if high is None else high, n, 0, 0.99)


def colours(
    gain: Summary, classes: int = 10, best: str = "BGR", labelled: LabelledColours | None = None, lost: tuple[Lost, ...] = ()
) -> Channels:
    orders = dict.fromkeys(ORDERS, 2.0) | {best: 1.0}
    return Channels(ColourExchange(gain.n, classes, gain, orders, 0, labelled), lost)


def by_labels(gain: Summary, right: int = 4, exchanged: int = 4) -> Channels:
    """With labels, certainty does not count."""
    return colours(mean(9.0), labelled=LabelledColours(gain.n, right, exchanged, gain))


def marks(copied: int, onto: int = 16, failed: int = 0) -> Marks:
    return Marks(10, [7], [Mark(7, (3, 3), "lower right corner", "gradient", 0.4, PlaceExchange(copied, onto, 0, 4, failed, 0.06))])


def layer(broken: bool, weights: float | None = 0.5) -> ComparedLayer:
    return ComparedLayer("conv", "Conv", weights, 2.0, None, None, 0.0, broken)


MAPS, SCORES = Lost("map", "gradient", ["1.png"], "NaN"), Lost("deletion", "gradient", ["1.png"], "NaN")
AFTER = Lost("colours", "", ["1.png", "2.png"], "NaN")

TABLE: dict[str, tuple[Check, list[tuple[str, str]]]] = {
    "answers: all": (Answers(12, 0, []), [(PASSED, "")]),
    "answers: two without": (Answers(12, 2, []), [(FAILED, "no-answer")]),
    "answers: a map is lost": (Answers(12, 0, [MAPS]), [(PASSED, ""), (FAILED, "lost-map")]),
    "answers: a metric is lost": (Answers(12, 0, [MAPS, SCORES]), [(PASSED, ""), (FAILED, "lost-map"), (FAILED, "lost-deletion")]),
    "labels: none": (Labels(None, None), [(TOO_FEW, "")]),
    "labels: 19": (Labels(Accuracy(19, 3, 0.1, 0.1, 0.5), None), [(TOO_FEW, "")]),
    "labels: two classes": (Labels(Accuracy(20, 2, 0.1, 0.1, 0.5), None), [(TOO_FEW, "")]),
    "labels: two classes, right": (Labels(Accuracy(100, 2, 0.8, 1.0, 0.6), None), [(PASSED, "")]),
    "labels: two classes, as the most frequent": (Labels(Accuracy(100, 2, 0.7, 1.0, 0.6), None), [(TOO_FEW, "")]),
    "labels: two classes, few": (Labels(Accuracy(19, 2, 1.0, 1.0, 0.6), None), [(TOO_FEW, "")]),
    "labels: guessed": (Labels(Accuracy(20, 3, 0.5, 1.0, 0.5), None), [(FAILED, "labels")]),
    "labels: better": (Labels(Accuracy(20, 3, 0.51, 1.0, 0.5), None), [(PASSED, "")]),
    "channels: no colours": (Channels(None, []), [(NOT_APPLICABLE, "")]),
    "channels: all lost": (Channels(None, [AFTER]), [(TOO_FEW, ""), (FAILED, "lost-colours")]),
    "channels: some lost": (colours(mean(0.09), lost=(AFTER,)), [(PASSED, ""), (FAILED, "lost-colours")]),
    "channels: surer": (colours(mean(0.11)), [(FAILED, "channel-order")]),
    "channels: hardly surer": (colours(mean(0.10)), [(PASSED, "")]),
    "channels: perhaps surer": (colours(mean(0.5, low=0.0)), [(PASSED, "")]),
    "channels: another order is surer": (colours(mean(0.11), best="GRB"), [(PASSED, "")]),
    "channels: seven": (colours(mean(0.11, n=7)), [(TOO_FEW, "")]),
    "channels: nine classes": (colours(mean(0.11), classes=9), [(TOO_FEW, "")]),
    "channels: label surer": (by_labels(mean(0.11)), [(FAILED, "channel-order")]),
    "channels: label hardly surer": (by_labels(mean(0.10)), [(PASSED, "")]),
    "channels: label perhaps surer": (by_labels(mean(0.5, low=0.0)), [(PASSED, "")]),
    "channels: label surer, more often wrong": (by_labels(mean(0.11), exchanged=3), [(PASSED, "")]),
    "channels: seven labels, certainty tells": (by_labels(mean(-1.0, n=7)), [(FAILED, "channel-order")]),
    "marks: no class": (Marks(7, [], []), [(TOO_FEW, "")]),
    "marks: no place": (Marks(7, [1], []), [(PASSED, "")]),
    "marks: half": (marks(8), [(FAILED, "mark-7-33")]),
    "marks: less": (marks(7), [(PASSED, "")]),
    "marks: less, some lost": (marks(7, failed=1), [(PASSED, ""), (FAILED, "lost-marks")]),
    "agreement: nine of ten": (Agreement(9, 10, mean(0.0)), [(PASSED, "")]),
    "agreement: eight of nine": (Agreement(8, 9, mean(0.0)), [(FAILED, "disagreement")]),
    "agreement: six of seven": (Agreement(6, 7, mean(0.0)), [(TOO_FEW, "")]),
    "reasons: low": (Reasons([Likeness("gradient", None, mean(0.3, high=0.49))]), [(FAILED, "reasons")]),
    "reasons: perhaps low": (Reasons([Likeness("gradient", None, mean(0.3, high=0.50))]), [(PASSED, "")]),
    "reasons: seven": (Reasons([Likeness("gradient", None, mean(0.3, n=7))]), [(TOO_FEW, "")]),
    "reasons: no map": (Reasons([Likeness("gradient", None, None)]), [(TOO_FEW, "")]),
    "reasons: refused": (Reasons([Likeness("gradient", "no rule", None)]), [(NOT_APPLICABLE, "")]),
    "reasons: low twice": (Reasons([Likeness(m, None, mean(0.3)) for m in ("gradient", "ig")]), [(FAILED, "reasons"), (FAILED, "reasons")]),
    "layers: broken": (LayerComparison([layer(False), layer(True)], 6, ""), [(FAILED, "layer-conv")]),
    "layers: no number": (LayerComparison([layer(True, float("nan"))], 6, ""), [(FAILED, "layer-conv")]),
    "layers: whole": (LayerComparison([layer(False)], 6, ""), [(PASSED, "")]),
    "layers: none in common": (LayerComparison([], 6, "no layers"), [(NOT_APPLICABLE, "")]),
}


@pytest.mark.parametrize("case", TABLE)
def test_what_a_check_says_of_planted_facts(case: str):
    check, expected = TABLE[case]
    judgements = list(check.judge(evidence()))
    verdicts = [j.verdict for j in judgements]
    assert [(v.outcome, v.finding) for v in verdicts] == expected
    assert {v.finding for v in verdicts if v.finding} == {j.finding.id for j in judgements if j.finding is not None}
    for v in verdicts:
        assert (v.outcome == FAILED) == bool(v.finding)
        assert v.outcome == NOT_APPLICABLE or v.threshold
        if v.outcome in (TOO_FEW, NOT_APPLICABLE):
            assert v.words or v.n < v.needs
        if v.outcome in (PASSED, FAILED):
            assert v.n >= v.needs >= 1
            assert v.value is not None or case == "marks: no place"


@pytest.mark.parametrize(("check", "name"), [(Agreement(0, 0, None), "agreement"), (Reasons([]), "reasons")])
def test_without_another_model_two_cannot_be_compared(check: Check, name: str):
    (judgement,) = check.judge(evidence(None))
    assert (judgement.verdict.outcome, judgement.finding) == (NOT_APPLICABLE, None)
    assert "--against" in judgement.verdict.words
    assert not any(isinstance(v, float) for v in check.value(*check.limits, evidence(None)).values())


def test_a_finding_names_the_pictures_and_the_other_model():
    found = {j.finding.id: j.finding for check, _ in TABLE.values() for j in check.judge(evidence()) if j.finding is not None}
    assert found["no-answer"].pictures == ("10.png", "11.png")
    assert "The 2 with a label count as wrong answers" in found["no-answer"].text
    assert found["lost-colours"].title == "The model fails when the colours of 2 of 12 pictures are exchanged"
    assert found["lost-map"].severity == Severity.SERIOUS
    assert found["lost-deletion"].severity == Severity.WARNING
    assert "'b.onnx'" in found["layer-conv"].title
    assert "'b.onnx'" in found["disagreement"].advice
    assert found["mark-7-33"].title.startswith("The lower right corner decides class 7: a watermark")
    assert "gradient 0.30, ig 0.30" in found["reasons"].text


# ----- what is measured of models -----


@pytest.mark.parametrize(
    ("weights", "values", "before", "broken"),
    [
        (0.25, None, 0.0, False),
        (0.26, None, 0.0, True),
        (float("nan"), None, 0.0, True),
        (None, 0.25, 0.0, False),
        (None, 0.26, 0.0, True),
        (None, 0.6, 0.2, False),  # three times what it reads: the fault came before
        (None, 0.61, 0.2, True),
        (None, float("inf"), 0.2, True),
        (None, None, 9.0, False),
    ],
)
def test_a_layer_is_at_fault_for_its_own_error_only(weights: float | None, values: float | None, before: float, broken: bool):
    assert at_fault(weights, values, before) == broken


def picture(red: int, name: str = "a") -> Sample:
    pixels = np.full((4, 4, 3), 100, np.uint8)
    pixels[..., 0] = red
    return Sample(name, "", np.moveaxis(pixels, -1, 0)[None].astype(np.float32), pixels)


ASKED: Any = SimpleNamespace(question=SimpleNamespace(picture=None))


@pytest.mark.parametrize("how", [Preprocess(1.0), None], ids=["pictures", "arrays"])
def test_pictures_with_colours_are_those_whose_red_and_blue_differ(how: Preprocess | None):
    samples = [picture(100, "grey"), picture(200, "red")]
    assert [s.name for s in coloured(samples, ASKED, how)] == ["red"]
    grey = Preprocess(1.0, channels="GRAY")
    assert coloured(samples, ASKED, grey) == []
    unknown = [replace(s, picture=None) for s in samples]
    assert len(coloured(unknown, ASKED, how)) == (0 if how else 1)


class Colours:
    """Answers where no first channel is above 240, which breaks it."""

    question = SimpleNamespace(picture=None)

    def probabilities(self, x: np.ndarray) -> np.ndarray:
        if (x[:, 0] > 240).any():
            raise InputError("too bright")
        return np.tile([0.9, 0.1], (len(x), 1))


@pytest.mark.parametrize("how", [Preprocess(1.0), None], ids=["pictures", "arrays"])
def test_pictures_on_which_the_model_fails_with_exchanged_colours_are_told(how: Preprocess | None):
    samples = [replace(picture(200, str(i)), label=0) for i in range(7)] + [picture(100, "grey")]
    pixels = np.full((4, 4, 3), 100, np.uint8)
    pixels[..., 2] = 250
    samples.insert(3, Sample("blue", "", np.moveaxis(pixels, -1, 0)[None].astype(np.float32), pixels))
    made = evidence()
    made.own = SimpleNamespace(scorer=Colours(), preprocess=how)
    made.data = SimpleNamespace(batches=lambda size, names: [samples])
    found = Channels.measure(made)
    assert found.colours is not None
    assert (found.colours.pictures, found.colours.changed, found.lost) == (7, 0, [Lost("colours", "", ["blue"], "too bright")])
    assert found.colours.labelled is not None
    assert (found.colours.labelled.n, found.colours.labelled.right_exchanged) == (7, 7)


@pytest.mark.parametrize(("own", "rest", "mapped", "tested"), [(3, 3, True, [1, 2]), (2, 3, True, []), (3, 3, False, [])])
def test_a_class_is_tested_with_three_pictures_and_three_of_others(own: int, rest: int, mapped: bool, tested: list[int]):
    """Their maps are dense nowhere: there is nothing to read."""
    made = evidence()
    made.pictures = [SimpleNamespace(name=str(i), predicted=[SimpleNamespace(index=1 + (i >= own))]) for i in range(own + rest)]
    made.seen = SimpleNamespace(names=[p.name for p in made.pictures], maps={})
    made.ways = [SimpleNamespace(name="gradient")]
    if mapped:
        made.seen.maps = {("gradient", n): {"cells": [1 / 16] * 16} for n in made.seen.names}
    assert Marks.measure(made) == Marks(2, tested, [])


class Places:
    """Says class 1 where the upper left pixel is bright, and fails where the lower right one is."""

    def places(self, x: np.ndarray) -> Any:
        return SimpleNamespace(axes=lambda array: (2, 3))

    def answers(self, x: np.ndarray) -> np.ndarray:
        return np.where(x[:, 0, 3, 3] > 0, -1, x[:, 0, 0, 0])


def test_a_place_is_exchanged_both_ways():
    own, others = np.zeros((2, 1, 4, 4), np.int64), np.zeros((3, 1, 4, 4), np.int64)
    own[:, 0, 0, 0] = 1
    others[2, 0, 3, 3] = 1
    scorer: Any = Places()
    before = own.copy(), others.copy()
    assert exchange_place(own, others, [(0, 2), (0, 1)], 1, scorer) == PlaceExchange(2, 3, 2, 2, 1, 2 / 16)
    assert exchange_place(own, others, [(2, 4), (2, 4)], 1, scorer) == PlaceExchange(0, 3, 0, 2, 0, 4 / 16)
    assert np.array_equal(own, before[0])
    assert np.array_equal(others, before[1])


def test_models_that_cannot_be_compared_are_refused_before_anything_is_looked_at():
    def model(classes: int) -> Any:
        return SimpleNamespace(scorer=SimpleNamespace(question=SimpleNamespace(class_shape=(classes,), score="logit", link="", found=())))

    Agreement.admit(model(2), None)
    Agreement.admit(model(2), model(2))
    with pytest.raises(InputError, match="one has 2 classes, the other 3"):
        Agreement.admit(model(2), model(3))
