"""An audit of a sample: the page tells of all data, says which numbers are of the sample, and shows no more samples than it can hold."""

from __future__ import annotations

import base64
import io
import json
import re
import time
from dataclasses import asdict, fields, replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from onnxsal.errors import InputError
from onnxsal.metrics.data_kind import ROWS
from onnxsal.metrics.record import packed
from onnxsal.report.audit import Audit, Population, Reason, Statistic, audited, schema
from onnxsal.report.audit.blocks import SampleLinks
from onnxsal.report.audit.checking import checks
from onnxsal.report.audit.document import headline
from onnxsal.report.audit.map_notes import centre_picture
from onnxsal.report.audit.page import render, save_audit
from onnxsal.report.audit.page_cards import MOST_BYTES, MOST_CARDS
from onnxsal.report.audit.page_population import MOST_CLASSES, MOST_LISTED, class_table
from onnxsal.report.audit.page_words import number, percent
from onnxsal.report.audit.population import grouped
from onnxsal.report.audit.verdict import Finding, Outcome, Severity
from tests.audit_populations import HOSTILE, WAYS, population_of, repeated, request, spot, with_population
from tests.audit_words import foreign, visible

ALL = "1\u202f234\u202f567"
"""How a page writes the number of all samples."""

MEASURED = ("0/digit000.png", "3/digit003.png", "4/digit019.png")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Audit:
    """An audit of a sample of a population, from the request on."""
    asked = request(tmp_path_factory.mktemp("drawn"))
    names = [p.relative_to(asked.data).as_posix() for p in sorted(asked.data.rglob("*.png"))]
    return audited(replace(asked, population=population_of(names, WAYS), measured_on=MEASURED))


@pytest.fixture(scope="module")
def plain(found: Audit) -> Audit:
    """The same as one of all data, without its curves, which take a second to draw."""
    document = replace(found.document, population=None)
    briefs = [re.sub(r" \(a sample: [^)]*\)", "", b) for b in found.briefs]
    return replace(found, document=document, facts=packed(asdict(document)), briefs=briefs, evaluations=())


@pytest.fixture(scope="module")
def page(found: Audit) -> str:
    return render(found)


def known(found: Audit) -> Population:
    assert found.document.population is not None
    return found.document.population


def section(page: str, name: str) -> str:
    """The text of a section of the page, blanks as one."""
    part = page[page.index(f'<section id="{name}"') :]
    return " ".join(visible(part[: part.index("</section>")]).split(" ")).replace("\n", " ")


def cards(page: str) -> list[str]:
    return [unescape(name) for name in re.findall(r'<article class="card"[^>]* data-name="([^"]*)"', page)]


def tables(part: str) -> list[tuple[list[str], list[list[str]]]]:
    """Heads and rows of every table that can be sorted."""

    def cells(row: str) -> list[str]:
        return [unescape(re.sub(r"<[^>]*>", " ", c)).strip() for c in re.findall(r"<t[hd]\b[^>]*>(.*?)</t[hd]>", row, re.DOTALL)]

    found = re.findall(r'<table class="sortable">.*?<thead>(.*?)</thead>\s*<tbody>(.*?)</tbody>', part, re.DOTALL)
    return [(cells(head), [cells(row) for row in re.findall(r"<tr[^>]*>(.*?)</tr>", body, re.DOTALL)]) for head, body in found]


# ----- what is told of all -----


def told_numbers(population: Population) -> list[str]:
    """Every number of a population, as the page must write it."""
    counts = [population.total, population.explained, population.damaged, population.duplicates.count, population.missing, population.seed]
    counts += [r.count for r in population.reasons] + [c.n for c in population.clusters]
    rows = sorted(population.classes, key=lambda c: -max(c.predicted, c.labelled))
    kept, rest = rows[:MOST_CLASSES], rows[MOST_CLASSES:]
    counts += [n for c in kept for n in (c.predicted, c.labelled, c.right or 0)]
    counts += [len(rest), *(sum(getattr(c, name) for c in rest) for name in ("predicted", "labelled", "right"))]
    shares = [population.duplicates.share, *(c.share for c in population.clusters)]
    numeric = [f.name for f in fields(Statistic) if f.name not in ("way", "name", "title", "minimum_id", "maximum_id")]
    values = [getattr(s, name) for s in population.statistics for name in numeric]
    return [*map(number, counts), *map(percent, shares), *map(number, values)]


def test_every_number_of_a_population_stands_on_the_page(found: Audit, page: str):
    text = section(page, "all")
    missing = [n for n in told_numbers(known(found)) if not re.search(rf"(?<![\d.\u202f]){re.escape(n)}(?![\d.\u202f]\d)", text)]
    assert missing == []


def test_every_name_of_a_population_stands_on_the_page(found: Audit, page: str):
    population, text = known(found), section(page, "all")
    names = [*population.stale, *(r.why for r in population.reasons), *(r.example for r in population.reasons), population.sample]
    names += [n for pair in population.duplicates.pairs for n in pair]
    names += [n for s in population.statistics for n in (s.title, s.minimum_id, s.maximum_id)]
    assert [n for n in names if n not in text] == []
    assert [c.picture for c in population.clusters if c.picture not in page] == []
    shown = page[page.index('<section id="all"') : page.index('<section id="findings"')]
    places = {card: re.search(rf'id="(p\d+)"[^>]*data-name="{re.escape(str(escape(card)))}"', page)[1] for card in cards(page)}  # type: ignore[index]
    assert [n for c in population.clusters for n in c.examples if f'href="#{places[n]}"' not in shown] == []


def test_nothing_missing_stale_or_damaged_is_told_as_none_and_not_in_red(plain: Audit):
    clean = with_population(plain, missing=0, stale=[], damaged=0, reasons=[], classes=[], clusters=[], statistics=[])
    part = render(clean)
    part = part[part.index('<section id="all"') : part.index('<section id="findings"')]
    assert 'class="wrong"' not in part
    for head in ("Statistics", "Classes", "Clusters", "Why "):
        assert f"<h3>{head}" not in part
    full = render(with_population(plain))
    full = full[full.index('<section id="all"') : full.index('<section id="findings"')]
    assert full.count('class="wrong"') == 2  # what is missing, and what is stale


def test_classes_are_the_largest_and_the_rest_is_said(found: Audit):
    heads, rows, rest = class_table(known(found))
    assert len(rows) == MOST_CLASSES
    assert [r[1] for r in rows] == sorted((r[1] for r in rows), reverse=True)
    assert rest.startswith("20 smaller classes")
    unlabelled = replace(known(found), classes=[replace(c, labelled=0, right=None) for c in known(found).classes])
    heads, rows, rest = class_table(unlabelled)
    assert len(heads) == len(rows[0]) == 3
    assert "label" not in rest


def test_many_reasons_and_shards_are_counted_and_not_all_listed(plain: Audit):
    reasons = [Reason(f"why-{i}-", 3, "a.png") for i in range(60)]
    page = render(with_population(plain, stale=[f"shard-{i}-" for i in range(60)], reasons=reasons))
    assert len(set(re.findall(r"shard-\d+-", page))) == len(set(re.findall(r"why-\d+-", page))) == MOST_LISTED
    assert page.count("and 40 more") == 2


# ----- what is of the sample -----


def test_the_first_screen_says_what_is_a_sample_of_what(found: Audit, page: str):
    count = len(found.document.pictures)
    first = visible(page[page.index("<header>") : page.index("<nav")])
    assert f"A sample of {count} drawn from {ALL} pictures, by seed 97: those with the smallest hashes, class by class." in first
    assert f"judged on a sample of {count} of {ALL} pictures" in first
    assert f"labelled pictures (a sample: {count} of {ALL})." in first
    assert '<a href="#all">' in page[page.index("<nav") : page.index("</nav>")]


def test_every_number_of_samples_is_one_of_all(found: Audit, page: str):
    """In every table of the page the column that counts samples says of how many."""
    counts = [row[heads.index("Pictures")] for heads, rows in tables(page) if "Pictures" in heads for row in rows]
    assert len(counts) > 20
    assert [c for c in counts if c != "\u2013" and not c.endswith(f" of {ALL}")] == []
    assert any(c.startswith("3 of") for c in counts)  # measured_on
    assert f"over 3 of {ALL} pictures, which were named" in section(page, "metrics")
    assert f"mean of 3 of {ALL} pictures" in section(page, "metrics")
    assert f"{len(found.document.pictures)} of {ALL} pictures" in section(page, "data")
    assert f"{len(found.document.pictures)} of {ALL} pictures" in section(page, "findings")


def test_metrics_are_measured_on_the_samples_that_were_named(found: Audit):
    assert found.document.settings.measured == len(MEASURED)
    assert found.document.settings.named
    assert {name for _, name in found.evaluations[0].rows} == set(MEASURED)
    measured = {p.name for p in found.document.pictures if any("deletion" in m.metrics for m in p.maps.values())}
    assert measured == set(MEASURED)


def test_a_name_that_is_not_audited_cannot_be_measured(tmp_path: Path):
    asked = replace(request(tmp_path, 8), measured_on=("0/digit000.png", "none.png"))
    with pytest.raises(InputError, match=r"'none\.png'"):
        audited(asked)


@pytest.mark.parametrize(
    ("more", "colour"), [({"missing": 3}, "doubt"), ({"stale": ["a"]}, "doubt"), ({}, "good"), ({"damaged": 3}, "good")]
)
def test_the_page_is_not_green_while_data_are_still_to_be_explained(plain: Audit, more: dict[str, Any], colour: str):
    whole = with_population(plain, **{"missing": 0, "stale": [], "damaged": 0, **more}).document
    passed = {
        name: replace(check, outcome=Outcome.PASSED, verdicts=[replace(v, outcome=Outcome.PASSED) for v in check.verdicts])
        for name, check in whole.checks.items()
    }
    told = headline(replace(whole, findings=[], checks=passed))
    assert told[0] == colour
    assert (f"3 of {ALL}" in told[1]) == bool(more.get("missing") or more.get("damaged"))


# ----- an audit of all data is told as ever -----


def test_without_a_population_the_page_has_the_sections_that_it_had(plain: Audit):
    page = render(plain)
    ids = re.findall(r'<section id="([^"]*)"', page)
    assert ids == ["findings", "checks", "pictures", "metrics", "card", "data", "glossary"]
    text = visible(page)
    assert "sample" not in text.replace("samples", "")
    assert "Cluster" not in text
    assert len(cards(page)) == len(plain.document.pictures)
    assert f"{len(plain.document.pictures)} pictures of" in section(page, "data")
    ids = re.findall(r'<section id="([^"]*)"', render(with_population(plain)))
    assert ids == ["all", "findings", "checks", "pictures", "metrics", "card", "data", "glossary"]


def test_the_json_has_the_population_and_keeps_its_schema(found: Audit, plain: Audit):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(schema())
    for audit in (found, plain):
        validator.validate(json.loads(json.dumps(audit.facts)))
    assert plain.facts["population"] is None
    assert found.facts["population"] == json.loads(json.dumps(asdict(known(found))))
    spoiled = json.loads(json.dumps(found.facts))
    spoiled["population"]["classes"][0]["predicted"] = "many"
    assert not validator.is_valid(spoiled)


def test_what_comes_from_the_data_is_escaped(page: str):
    assert HOSTILE not in page
    assert "alert(1)" in page
    assert page.count("<script>") == 1
    assert "a1b2c3 &lt;i&gt;" in page
    assert "no picture &lt;b&gt;" in page


# ----- a large audit -----


def large(found: Audit, count: int) -> Audit:
    """Its samples again and again; the last ones are named by a finding, and by a check."""
    many = repeated(found, count)
    names = [p.name for p in many.document.pictures]
    finding = Finding("x", Severity.WARNING, 1, "Something", "", "", names[-30:])
    links = [SampleLinks("Worst", [(n, "") for n in names[-300:-40]])]
    return replace(many, document=replace(many.document, findings=[finding]), blocks={**many.blocks, "answers": links})


def test_a_large_audit_shows_what_is_named_and_some_of_each_class_and_says_so(plain: Audit, tmp_path: Path):
    many = with_population(large(plain, 1000))
    begin = time.monotonic()
    written = save_audit(many, tmp_path / "audit.html")
    assert time.monotonic() - begin < 60
    page = Path(written["page"]).read_text(encoding="utf-8")
    shown, samples = set(cards(page)), many.document.pictures
    assert len(shown) == MOST_CARDS < len(samples)
    assert f"{MOST_CARDS} of {grouped(1000)} pictures of the sample are shown" in page
    assert f"All {grouped(1000)} are in the JSON" in page
    assert {n for c in known(many).clusters for n in c.examples} <= shown
    assert set(many.document.findings[0].pictures[:20]) <= shown
    assert {p.predicted[0].index for p in samples} == {p.predicted[0].index for p in samples if p.name in shown}
    named = {*(n for c in known(many).clusters for n in c.examples), *many.document.findings[0].pictures}
    named |= {n for n, _ in many.blocks["answers"][0].names}  # type: ignore[union-attr]
    assert len(named) > MOST_CARDS
    assert len(shown - named) >= MOST_CARDS / 5  # whatever was found
    assert [name for name in cards(page)] == [p.name for p in samples if p.name in shown]  # noqa: C416  as in the data
    links = set(re.findall(r'href="#(p\d+)"', page))
    assert links <= set(re.findall(r'<article class="card" id="(p\d+)"', page))
    assert len(json.loads(Path(written["json"]).read_text(encoding="utf-8"))["pictures"]) == 1000
    assert len(page.encode()) <= MOST_BYTES


@pytest.mark.parametrize("sampled", [False, True], ids=["all", "a sample"])
def test_a_page_of_heavy_pictures_is_no_larger_than_it_may_be(plain: Audit, sampled: bool):
    """So heavy that far fewer than 200 fit, and heavier on the page than was thought: a name that is told again and again."""
    many = large(plain, 400)
    picture = "data:image/jpeg;base64," + "A" * 40_000
    long = {p.name: p.name + "n" * 3000 for p in many.document.pictures}
    samples = [replace(p, name=long[p.name]) for p in many.document.pictures]
    maps = {(way, p.name): picture for way in WAYS for p in samples}
    heavy = replace(many, document=replace(many.document, pictures=samples), pictures={p.name: picture for p in samples}, maps=maps)
    page = render(with_population(heavy) if sampled else heavy)
    assert 0.8 * MOST_BYTES < len(page.encode()) <= MOST_BYTES
    count = len(cards(page))
    assert 20 < count < 100
    assert f"{count} of 400 pictures" in page


def test_few_samples_are_all_shown(plain: Audit):
    page = render(large(plain, MOST_CARDS))
    assert len(cards(page)) == MOST_CARDS
    assert "are in the JSON." not in page


# ----- small parts -----


def test_filters_are_those_of_the_clusters_that_are_shown(found: Audit, page: str):
    for i, way in enumerate(WAYS):
        numbers = known(found).cluster_of[way]
        select = re.search(rf'<select id="cluster{i}".*?</select>', page, re.DOTALL)
        assert select
        told = dict(re.findall(r'<option value="(\d+)">cluster \d+ \((\d+)\)', select[0]))
        assert told == {str(k): str(sum(v == k for v in numbers.values())) for k in set(numbers.values())}
        marked = dict(re.findall(rf'data-name="([^"]*)"[^>]* data-cluster{i}="(\d+)"', page))
        assert marked == {name: str(k) for name, k in numbers.items()}


def test_a_page_of_rows_speaks_of_no_pictures(plain: Audit):
    """Of all rows: clusters of attributions have no picture, and no map."""
    rows = replace(plain.document.data, kind=ROWS.many, columns=["a", "b"])
    cards = [
        replace(p, values=[1.0, 2.0], maps={w: replace(m, by_column=[0.5, -0.5]) for w, m in p.maps.items()})
        for p in plain.document.pictures
    ]
    names = [p.name for p in cards]
    blocks: dict[str, list[Any]] = {check.name: [] for check in checks()}
    bare = replace(plain, document=replace(plain.document, data=rows, pictures=cards), pictures={}, maps={}, blocks=blocks)
    clusters = [replace(c, picture="") for c in population_of(names, WAYS).clusters]
    named = {"reasons": [], "duplicates": replace(population_of(names, WAYS).duplicates, pairs=[]), "statistics": []}
    page = render(with_population(bare, clusters=clusters, **named))
    part = section(page, "all")
    assert "310\u202f000" in part
    assert [f for f in foreign(part, ROWS) if "digit" not in f] == []


@pytest.mark.parametrize(("signed", "palest"), [(False, False), (True, True)])
def test_the_centre_of_a_cluster_has_the_colours_of_a_map(signed: bool, palest: bool):
    """The strongest place is where it was; nothing is white where signs are told, and dark where they are not."""
    uri = centre_picture(spot(4, 4, signed))
    assert uri.startswith("data:image/png;base64,")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).convert("RGB"), float)
    assert pixels.shape == (96, 96, 3)
    zero = pixels[3, 93]  # far from both spots
    assert (zero.min() > 200) == palest
    far = np.abs(pixels - zero).sum(-1)
    assert np.argwhere(far[:48, :48] > 0.9 * far[:48, :48].max()).mean(0) == pytest.approx((26.5, 26.5), abs=4)


def test_a_centre_that_is_no_map_is_refused():
    with pytest.raises(InputError):
        centre_picture(np.full((16, 16), np.nan))
    with pytest.raises(InputError):
        centre_picture(np.zeros(256))


def test_so_many_of_all_are_written_in_groups_of_three(found: Audit):
    assert known(found).of_n(9_876) == f"9\u202f876 of {ALL}"
