"""The audit as one page that needs nothing but a browser, and as JSON."""

from __future__ import annotations

import base64
import importlib.resources
import io
import math
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from markupsafe import Markup, escape
from PIL import Image

from onnxsal.metrics.data_kind import PICTURES, DataKind
from onnxsal.metrics.evaluation import Evaluation
from onnxsal.metrics.measures import axes_of_curves
from onnxsal.metrics.ranking import TIED_SHARE_LIMIT
from onnxsal.metrics.statistics import Summary
from onnxsal.report.artefacts import as_json
from onnxsal.report.audit.blocks import Cell
from onnxsal.report.audit.checking import checks
from onnxsal.report.audit.document import CheckReport, Document, SampleCard, headline
from onnxsal.report.audit.form import asked
from onnxsal.report.audit.glossary import glossary_of
from onnxsal.report.audit.page_cards import MOST_BYTES, cards_in_turn
from onnxsal.report.audit.page_population import Counted, cluster_filters, told_of_all
from onnxsal.report.audit.page_rows import bars_of, column_means, signed, summary_images
from onnxsal.report.audit.page_words import NONE, called, number, percent
from onnxsal.report.audit.run import Audit
from onnxsal.report.audit.verdict import Outcome
from onnxsal.report.charts import line_chart
from onnxsal.runtime.files import write_whole
from onnxsal.runtime.providers import as_text
from onnxsal.untrusted import printable

FIGURES = ("insertion", "deletion", "randomised_spearman")
"""Curves that the page shows."""


def save_audit(found: Audit, page: Path) -> dict[str, str]:
    """Write the page and, beside it, the JSON; returns both paths."""
    html = render(found)
    text = as_json(found.facts) + "\n"
    return {
        "page": str(write_whole(page, html.encode())),
        "json": str(write_whole(page.with_suffix(".json"), text.encode())),
    }


def render(found: Audit) -> str:
    """The page. Everything that comes from files (names, labels, metadata) is escaped, and none of it acts (``printable``).

    It shows as many samples as ``MOST_CARDS`` and ``MOST_BYTES`` allow, and says so where these are not all.
    """
    weigh, whole = partial(_weight, found), _of_everything(found)
    cards = cards_in_turn(found.document, found.blocks, weigh)
    page = _drawn(found, cards, whole)
    while cards and (excess := len(page.encode()) - MOST_BYTES) > 0:
        while cards and excess > 0:
            excess -= weigh(cards.pop())
        page = _drawn(found, cards, whole)
    return page


def _weight(found: Audit, card: SampleCard) -> int:
    """About how many bytes of the page a sample takes: under each map there is its picture."""
    under, weight = len(found.pictures.get(card.name, "")), 2000
    for maps in (found.maps, found.other_maps):
        weight += sum(under + len(maps[way, card.name]) + 600 for way in card.maps if (way, card.name) in maps)
    return weight + 3000 * len(card.maps) * bool(card.values)


def _drawn(found: Audit, cards: Sequence[SampleCard], whole: Mapping[str, Any]) -> str:
    """The page with these samples, which stand in the order of the data, and what is the same whichever they are."""
    document, kept = found.document, {card.name for card in cards}
    shown = [(i, p) for i, p in enumerate(document.pictures) if p.name in kept]
    shown_at = {p.name: i for i, p in shown}
    samples = [p for _, p in shown]
    told = told_of_all(document, shown_at)
    filters = {"classes": predicted_classes(samples), "clusters": cluster_filters(document, list(shown_at))}
    said = {"counted": Counted(document.of, document.population), "explained": Explained(glossary_of(document.of))}
    template = _environment().get_template("page.html.j2")
    return printable(template.render(d=document, cards=shown, shown_at=shown_at, **told, **filters, **said, **whole), keep="\n\t")


@cache
def _environment() -> Environment:
    """The templates, which are compiled once, with what they know beside the variables of a page."""
    environment = Environment(
        loader=PackageLoader("onnxsal.report.audit", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["bars"], environment.filters["signed"] = bars_of, signed
    environment.filters |= {"number": number, "percent": percent, "called": called, "verdicts": verdict_table}
    environment.filters["cell"] = pass_context(lambda page, value, head: cell(page["counted"].cell(value, head)))
    environment.filters["of_all"] = pass_context(lambda page, n: page["counted"].of_all(n))
    environment.filters["samples"] = pass_context(lambda page, n: page["counted"].samples(n))
    environment.filters["say"] = pass_context(lambda page, text: page["explained"](text))
    environment.tests["table"] = lambda block: hasattr(block, "rows")
    return environment


def _of_everything(found: Audit) -> dict[str, Any]:
    """What the page shows whichever samples have a card."""
    document, kind = found.document, found.document.of
    counted = Counted(kind, document.population)
    weight = sum(map(len, (*found.pictures.values(), *found.maps.values(), *found.other_maps.values())))
    return {
        "blocks": found.blocks,
        "css": Markup(_own("page.css")),
        "js": Markup(_own("page.js")),
        "glossary": glossary_of(kind),
        "briefs": found.briefs,
        "verdict": headline(document),
        "overview": [overview_row(name, check) for name, check in document.checks.items()],
        "shown": [m.name for m in document.methods if not m.refused],
        "pictures": found.pictures,
        "maps": found.maps,
        "other_maps": found.other_maps,
        "figures": [f for e in found.evaluations for f in figures(e, counted)],
        "metrics": metric_table(document),
        "seeks": {check.name: kind.say(check.seeks) for check in checks()},
        "idle_for": {check.name: check.idle(kind) for check in checks()},
        "k": kind,
        "w": tomllib.loads(_own("words.toml"))[kind.many],
        "summaries": summaries(document) if kind.named else [],
        "means": column_means(document),
        "tied": tied_methods(document),
        "told_providers": as_text(document.model.providers, document.model.provider_options),
        "forms": asked(document.form),
        "weight": weight / max(len(found.pictures), 1) / 1024,
    }


def _own(name: str) -> str:
    return importlib.resources.files("onnxsal.report.audit").joinpath(name).read_text(encoding="utf-8")


class Explained:
    """Text with each term of the glossary explained where it first stands on the page."""

    def __init__(self, glossary: dict[str, dict[str, str]]) -> None:
        self.left = {name.lower(): (name, entry["short"]) for name, entry in glossary.items()}

    def __call__(self, text: str) -> Markup:
        told = str(escape(text))
        if not self.left:
            return Markup(told)
        words = "|".join(sorted(map(re.escape, self.left), key=len, reverse=True))
        return Markup(re.sub(rf"(?<![\w-])({words})s?(?![\w-])", self._explain, told, flags=re.IGNORECASE))

    def _explain(self, match: re.Match[str]) -> str:
        found = self.left.pop(match[1].lower(), None)
        if found is None:
            return match[0]
        return f'<dfn><a href="#{anchor(found[0])}">{match[0]}</a></dfn> <small>({escape(found[1])})</small>'


def anchor(term: str) -> str:
    """Where a term stands in the glossary."""
    return "term-" + term.lower().replace(" ", "-")


def cell(value: Any) -> Cell:
    """What stands in a cell, with what it is sorted by."""
    if isinstance(value, Cell):
        return value
    if isinstance(value, Summary):
        interval = "" if math.isnan(value.low) else f" [{number(value.low)}, {number(value.high)}]"
        return Cell(number(value.mean) + interval, value.mean)
    return Cell(number(value), value if isinstance(value, int | float) else None)


MARKS = {Outcome.FAILED: "bad", Outcome.TOO_FEW: "doubt", Outcome.PASSED: "good", Outcome.NOT_APPLICABLE: "faint"}


def verdict_table(check: CheckReport, kind: DataKind = PICTURES) -> tuple[list[str], list[list[Any]]]:
    """Heads and rows of the verdicts of a check; a column that says nothing is left out."""
    rows = [
        [v.method or "the model", Cell(v.outcome, mark=MARKS[v.outcome]), v.value, v.threshold, v.n or None, v.needs or None, v.words]
        for v in check.verdicts
    ]
    heads = ("Of", "Outcome", "#Number", "Passes with", f"#{kind.heading}", "#It takes", "Remark")
    used = [i for i in range(len(heads)) if any(row[i] not in (None, "") for row in rows)]
    return [heads[i] for i in used], [[row[i] for i in used] for row in rows]


def overview_row(name: str, check: CheckReport) -> list[Any]:
    """One check as a row: what it ends with, and the numbers of the verdicts that end so."""
    deciding = [v for v in check.verdicts if v.outcome is check.outcome]
    values = [v.value for v in deciding if v.value is not None]
    text = " to ".join(dict.fromkeys(number(v) for v in (min(values), max(values)))) if values else NONE
    first = deciding[0] if deciding else None
    told = [first.threshold, min(v.n for v in deciding) or None, first.needs or None] if first else ["", None, None]
    head = [Cell(check.title, link=f"check-{name}"), Cell(check.outcome, mark=MARKS[check.outcome])]
    return [*head, Cell(text, max(values, default=None)), *told]


def figures(found: Evaluation, counted: Counted) -> list[dict[str, str]]:
    """Curves as pictures, with the text that stands for each where it cannot be seen."""
    words, told = axes_of_curves(found.kind), []
    for name in (n for n in FIGURES if n in found.curves):
        curves = {w.name: c for w in found.ways if (c := found.curve(w.name, name)) is not None}
        if not curves:
            continue
        title = f"{name.replace('_', ' ')}, mean of {counted.samples(max(c[2] for c in curves.values()))}"
        across, up = words[name].across, words[name].up.format(**found.facts["settings"])
        lines = {k: (axis, mean) for k, (axis, mean, _) in curves.items()}
        image = line_chart(lines, title, across, up, [w.name for w in found.ways if w.baseline], words[name].log)
        ends = "; ".join(f"{k} from {mean[0]:.2f} to {mean[-1]:.2f}" for k, (_, mean) in lines.items())
        size = {"width": str(image.width), "height": str(image.height)}
        told.append({"title": title, "uri": _uri(image), "alt": f"Lines over {across}: {ends}.", **size})
    return told


def _uri(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").quantize(64).save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def summaries(document: Document) -> list[dict[str, str]]:
    """All rows together, by each method, as pictures."""
    return [
        {"title": title, "uri": _uri(image), "alt": alt, "width": str(image.width), "height": str(image.height)}
        for title, alt, image in summary_images(document)
    ]


def predicted_classes(pictures: Sequence[SampleCard]) -> list[tuple[int, str, int]]:
    """Predicted classes: number, name, how many samples."""
    counted = Counter((p.predicted[0].index, called(p.predicted[0])) for p in pictures)
    return sorted(((index, name, count) for (index, name), count in counted.items()), key=lambda row: (row[1], row[0]))


def tied_methods(document: Document) -> dict[str, float]:
    """Methods many of whose places are tied, with the mean share of them."""
    shares: dict[str, list[float]] = {}
    for picture in document.pictures:
        for name, one in picture.maps.items():
            if one.tied is not None:
                shares.setdefault(name, []).append(one.tied)
    means = {name: sum(values) / len(values) for name, values in shares.items()}
    return {name: mean for name, mean in means.items() if mean > TIED_SHARE_LIMIT}


def metric_table(document: Document) -> dict[str, Any]:
    """Metrics as a table: columns, and for every method a cell each."""
    rows = [r for r in document.metrics if r.mean is not None and not math.isnan(r.mean)]
    own = {m.name for m in document.methods}
    cells: dict[str, dict[str, Any]] = {}
    for row in rows:
        cells.setdefault(row.method, {})[row.metric] = row
    heads = {r.metric: r for r in rows}
    return {"columns": list(heads.values()), "rows": [(method, method not in own, found) for method, found in cells.items()]}
