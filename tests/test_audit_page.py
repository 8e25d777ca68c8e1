"""The audit's page and form: when it may be green, what its first screen says, that every term is explained once, what a form may hold."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape

from onnxsal.ask.request import Ask
from onnxsal.errors import InputError
from onnxsal.metrics.data_kind import PICTURES
from onnxsal.metrics.evaluation import Way
from onnxsal.report.audit import Audit, Request, audited
from onnxsal.report.audit.document import CheckReport, JudgedLimit, Why, headline
from onnxsal.report.audit.form import forms, read_form
from onnxsal.report.audit.page import Explained, overview_row, render, verdict_table
from onnxsal.report.audit.verdict import Finding, Outcome, Severity, Verdict
from onnxsal.runtime.preprocess_files import load_preprocess
from tests import audit_nets as nets
from tests.audit_words import foreign, texts, visible


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """A clean model on a few pictures, with a statement of its provider that would do harm unescaped."""
    folder = tmp_path_factory.mktemp("page")
    pictures, labels = nets.digits()
    model = nets.train(pictures[:1500], labels[:1500], folder / "good.onnx")
    nets.save_pictures(folder / "data", pictures[1500:1532], labels[1500:1532])
    form = {"annex_iv.provider": "<b>Example & Sons</b>"}
    how = load_preprocess(folder / "good.toml")
    ways = [Way(m, m) for m in ("fullgrad", "gradient")]
    command = ("onnxsal", "audit", "good.onnx", "<data>")
    return audited(Request(Ask(model, preprocess=how), folder / "data", ways, measured=4, form=form, command=command))


def verdict(outcome: Outcome, **more: Any) -> Verdict:
    return Verdict(outcome, **{"method": "m", "value": 0.1, "threshold": "below 1", "n": 3, "needs": 2, "words": "", "finding": "", **more})


def checked(*outcomes: Outcome) -> dict[str, CheckReport]:
    """A check for each of these outcomes, with one verdict that has it."""
    return {f"c{i}": CheckReport(f"Question {i}?", o, [verdict(o)], None) for i, o in enumerate(outcomes)}


WARNING = Finding("w", Severity.WARNING, 1, "something", "", "")
SERIOUS = Finding("s", Severity.SERIOUS, 1, "something", "", "")
BROKEN = JudgedLimit("a>1", "a", None, 2.0, True, "")

STATES = {
    "all passed": ((Outcome.PASSED, Outcome.PASSED), {}, "good", "No finding; 2 applicable checks made and passed."),
    "one does not apply": (
        (Outcome.PASSED, Outcome.NOT_APPLICABLE),
        {},
        "good",
        "No finding; 1 applicable check made and passed.",
    ),
    "one could not be made": ((Outcome.PASSED, Outcome.TOO_FEW), {}, "doubt", "No finding; 1 check could not be decided."),
    "a warning": ((Outcome.FAILED,), {"findings": [WARNING]}, "doubt", "1 finding."),
    "serious": ((Outcome.FAILED,), {"findings": [WARNING, SERIOUS]}, "bad", "2 findings, 1 serious."),
    "a limit": ((Outcome.PASSED,), {"limits": [BROKEN]}, "bad", "No finding; 1 of 1 limit broken."),
    "a limit holds": (
        (Outcome.PASSED,),
        {"limits": [replace(BROKEN, broken=False)]},
        "good",
        "No finding; 0 of 1 limit broken; 1 applicable check",
    ),
}


@pytest.mark.parametrize("state", STATES)
def test_the_page_is_green_only_where_every_check_that_applies_was_made_and_passed(found: Audit, state: str):
    outcomes, more, colour, words = STATES[state]
    clean = replace(found.document, findings=[], limits=[], data=replace(found.document.data, damaged=[]))
    told = headline(replace(clean, checks=checked(*outcomes), **more))
    assert told[0] == colour
    assert told[1].startswith(words)


def test_one_method_of_a_check_that_lacks_data_is_enough_not_to_be_green(found: Audit):
    """The worst outcome of a check may be a failure of another method, or (planted here) a mistaken one: each verdict counts."""
    check = CheckReport("Question?", Outcome.PASSED, [verdict(Outcome.PASSED), verdict(Outcome.TOO_FEW)], None)
    assert headline(replace(found.document, findings=[], checks={"c": check}))[0] == "doubt"


def test_a_picture_that_could_not_be_read_is_said_first(found: Audit):
    data = replace(found.document.data, damaged=[Why("a.png", "cut", None)])
    assert "1 picture could not be read" in headline(replace(found.document, data=data))[1]


def test_verdicts_have_their_number_threshold_and_pictures():
    check = CheckReport("Question?", Outcome.FAILED, [verdict(Outcome.FAILED, value=0.9), verdict(Outcome.FAILED, value=0.5, n=2)], None)
    heads, rows = verdict_table(check)
    assert heads == ["Of", "Outcome", "#Number", "Passes with", "#Pictures", "#It takes"]  # no remark: no column for remarks
    assert [rows[0][i] for i in (0, 2, 3, 4, 5)] == ["m", 0.9, "below 1", 3, 2]
    _, outcome, numbers, *rest = overview_row("c", check)
    assert (outcome.text, numbers.text, rest) == ("failed", "0.5 to 0.9", ["below 1", 2, 2])


def test_the_first_screen_says_what_was_examined_found_not_looked_for_and_cannot_be_shown(found: Audit):
    page = render(found)
    first = page[page.index('<div class="brief">') : page.index("<nav")]
    heads = re.findall(r"<h2[^>]*>([^<]*)</h2>", first)
    assert heads == ["What was examined", "What was found", "What was not looked for, or not decided", "What such maps cannot show"]
    document = found.document
    for text in (document.model.sha256, document.data.sha256, "onnxsal audit good.onnx &lt;data&gt;", document.created[:10], "onnxruntime"):
        assert text in first
    undecided = [v for c in document.checks.values() if c.outcome is Outcome.TOO_FEW for v in c.verdicts if v.outcome is c.outcome]
    assert undecided
    assert any(escape(v.words) in first for v in undecided)
    open_ones = [c.title for c in document.checks.values() if c.outcome in (Outcome.TOO_FEW, Outcome.NOT_APPLICABLE)]
    assert [title for title in open_ones if title not in first] == []


def test_every_check_stands_on_the_page_with_its_outcome(found: Audit):
    page = render(found)
    for name, check in found.document.checks.items():
        place = page.index(f'id="check-{name}"')
        assert f">{check.outcome}</span>" in page[place : place + 400]


def test_what_is_stated_in_a_form_is_printed_escaped_and_the_rest_is_said_to_be_missing(found: Audit):
    page = render(found)
    part = page[page.index('id="forms"') : page.index('id="glossary"')]
    assert "&lt;b&gt;Example &amp; Sons&lt;/b&gt;" in part
    assert "Nothing of this was checked" in part
    assert part.count("Not stated:") == 1
    assert "Intended purpose (1a)" in part  # the law asks for it, and nobody answered
    assert "Model card" not in part  # nothing of it was given
    assert 'id="forms"' not in render(replace(found, document=replace(found.document, form={})))


def test_a_term_is_explained_where_it_first_stands_and_only_there():
    say = Explained({"rank correlation": {"short": "alike <or> not"}, "map": {"short": "numbers"}})
    assert say("A bitmap, a rank correlation.") == (
        'A bitmap, a <dfn><a href="#term-rank-correlation">rank correlation</a></dfn> <small>(alike &lt;or&gt; not)</small>.'
    )
    assert say("Two maps & <b>") == 'Two <dfn><a href="#term-map">maps</a></dfn> <small>(numbers)</small> &amp; &lt;b&gt;'
    assert say("A map, a Rank correlation.") == "A map, a Rank correlation."


def test_every_explained_term_leads_to_the_glossary(found: Audit):
    page = render(found)
    links = re.findall(r'<dfn><a href="#([^"]+)"', page)
    assert len(links) == len(set(links)) > 5
    assert [link for link in links if f'id="{link}"' not in page] == []


def test_a_page_of_pictures_speaks_of_no_rows(found: Audit):
    assert foreign(visible(render(found)), PICTURES) == []
    assert [f for text in texts(found.facts) for f in foreign(text, PICTURES)] == []


# ----- forms -----


def test_a_form_is_read_as_it_stands(tmp_path: Path):
    file = tmp_path / "form.toml"
    file.write_text('[annex_iv]\nprovider = "A"\nstandards = ["ISO 1", "ISO 2"]\n[model_card]\nlicence = "MIT"\n', encoding="utf-8")
    assert read_form(file) == {"annex_iv.provider": "A", "annex_iv.standards": "ISO 1; ISO 2", "model_card.licence": "MIT"}


def test_every_mistake_of_a_form_is_told_at_once(tmp_path: Path):
    file = tmp_path / "form.toml"
    file.write_text(
        'top = "x"\n[annex_v]\na = "b"\n[annex_iv]\nprovidr = "A"\nhardware = 3\nforms = ""\nstandards = [1]\n', encoding="utf-8"
    )
    with pytest.raises(InputError) as error:
        read_form(file)
    for words in (
        "'top' is no table",
        "'annex_v' is no table",
        "no field 'providr'",
        "'provider'",
        "hardware = 3",
        "forms = ''",
        "standards = [1]",
    ):
        assert words in str(error.value)


@pytest.mark.parametrize("text", [b"[annex_iv", b"\xff\xfe"])
def test_a_form_that_cannot_be_read_is_an_error(tmp_path: Path, text: bytes):
    file = tmp_path / "form.toml"
    file.write_bytes(text)
    with pytest.raises(InputError, match=r"is not valid TOML|cannot be read: it is not UTF-8 text"):
        read_form(file)
    with pytest.raises(InputError, match="cannot be read"):
        read_form(tmp_path / "none.toml")


def test_forms_ask_for_what_annex_iv_and_model_cards_ask_for():
    assert list(forms()) == ["annex_iv", "model_card"]
    numbers = " ".join(forms()["annex_iv"]["fields"].values())
    assert [n for n in ("1a", "1b", "1c", "1d", "1e", "1g", "1h", *(f"2{c}" for c in "abcdefgh"), *"3456789") if n not in numbers] == []
