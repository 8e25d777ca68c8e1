"""The audit as one page that needs nothing but a browser, and as JSON."""

from __future__ import annotations

import base64
import importlib.resources
import io
import math
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from onnxsal.metrics.evaluation import Evaluation
from onnxsal.metrics.measures import axes_of_curves
from onnxsal.metrics.ranking import TIED_SHARE_LIMIT
from onnxsal.metrics.statistics import Summary
from onnxsal.report.artefacts import as_json
from onnxsal.report.audit.blocks import Cell
from onnxsal.report.audit.checking import checks
from onnxsal.report.audit.document import CheckReport, ClassName, Document, PictureCard
from onnxsal.report.audit.form import asked
from onnxsal.report.audit.run import Audit
from onnxsal.report.audit.verdict import Outcome, Severity
from onnxsal.report.charts import line_chart
from onnxsal.runtime.files import write_whole
from onnxsal.runtime.providers import as_text
from onnxsal.untrusted import printable

NONE = "\u2013"
"""What stands for a number that is not there."""

FIGURES = ("insertion", "deletion", "randomised_spearman")
"""Curves that the page shows."""


def save_audit(found: Audit, page: Path) -> dict[str, str]:
    """Write the page and, beside it, the JSON; returns both paths."""
    html = printable(render(found), keep="\n\t")
    text = as_json(found.facts) + "\n"
    return {
        "page": str(write_whole(page, html.encode())),
        "json": str(write_whole(page.with_suffix(".json"), text.encode())),
    }


def render(found: Audit) -> str:
    """The page. Everything that comes from files (names, labels, metadata) is escaped."""
    document = found.document
    environment = Environment(
        loader=PackageLoader("onnxsal.report.audit", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    glossary = tomllib.loads(_own("glossary.toml"))
    environment.filters |= {"number": number, "percent": percent, "called": called, "cell": cell, "verdicts": verdict_table}
    environment.filters["say"] = Explained(glossary)
    environment.tests["table"] = lambda block: hasattr(block, "rows")
    weight = sum(map(len, (*found.pictures.values(), *found.maps.values(), *found.other_maps.values())))
    return environment.get_template("page.html.j2").render(
        d=document,
        blocks=found.blocks,
        css=Markup(_own("page.css")),
        js=Markup(_own("page.js")),
        glossary=glossary,
        briefs=found.briefs,
        verdict=headline(document),
        overview=[overview_row(name, check) for name, check in document.checks.items()],
        shown=[m.name for m in document.methods if not m.refused],
        pictures=found.pictures,
        shown_at={p.name: i for i, p in enumerate(document.pictures)},
        maps=found.maps,
        other_maps=found.other_maps,
        figures=[f for e in found.evaluations for f in figures(e)],
        classes=predicted_classes(document.pictures),
        metrics=metric_table(document),
        seeks={check.name: check.seeks for check in checks()},
        tied=tied_methods(document),
        told_providers=as_text(document.model.providers, document.model.provider_options),
        forms=asked(document.form),
        weight=weight / max(len(found.pictures), 1) / 1024,
    )


def _own(name: str) -> str:
    return importlib.resources.files("onnxsal.report.audit").joinpath(name).read_text(encoding="utf-8")


def headline(document: Document) -> tuple[str, str]:
    """What stands first: how it is coloured ("bad", "doubt", "good"), and what was found in a few words.

    Good only where every check that applies was made and passed, and every limit holds.
    """
    findings, limits = document.findings, document.limits
    serious, broken = sum(f.severity is Severity.SERIOUS for f in findings), sum(limit.broken for limit in limits)
    outcomes = Counter(c.outcome for c in document.checks.values())
    unmade = sum(any(v.outcome is Outcome.TOO_FEW for v in c.verdicts) for c in document.checks.values())
    words = [f"{_several(len(findings), 'finding')}{f', {serious} serious' if serious else ''}" if findings else "No finding"]
    words += [f"{_several(unmade, 'check')} could not be decided"] if unmade else []
    words += [f"{broken} of {_several(len(limits), 'limit')} broken"] if limits else []
    words += [f"{_several(len(document.data.damaged), 'picture')} could not be read"] if document.data.damaged else []
    good = not (findings or unmade or broken)
    if good:
        words.append(f"{_several(outcomes[Outcome.PASSED], 'applicable check')} made and passed")
    return "bad" if serious or broken else "good" if good else "doubt", "; ".join(words) + "."


def _several(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


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


def number(value: Any) -> str:
    """A number as people read it."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def percent(value: float | None) -> str:
    """A share as people read it."""
    return NONE if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def called(entry: ClassName | None) -> str:
    """A class by its label, or by its number."""
    if entry is None:
        return NONE
    return entry.label.split(",")[0] if entry.label else f"class {entry.index}"


def cell(value: Any) -> Cell:
    """What stands in a cell, with what it is sorted by."""
    if isinstance(value, Cell):
        return value
    if isinstance(value, Summary):
        interval = "" if math.isnan(value.low) else f" [{number(value.low)}, {number(value.high)}]"
        return Cell(number(value.mean) + interval, value.mean)
    return Cell(number(value), value if isinstance(value, int | float) else None)


MARKS = {Outcome.FAILED: "bad", Outcome.TOO_FEW: "doubt", Outcome.PASSED: "good", Outcome.NOT_APPLICABLE: "faint"}


HEADS = ("Of", "Outcome", "#Number", "Passes with", "#Pictures", "#It takes", "Remark")


def verdict_table(check: CheckReport) -> tuple[list[str], list[list[Any]]]:
    """Heads and rows of the verdicts of a check; a column that says nothing is left out."""
    rows = [
        [v.method or "the model", Cell(v.outcome, mark=MARKS[v.outcome]), v.value, v.threshold, v.n or None, v.needs or None, v.words]
        for v in check.verdicts
    ]
    used = [i for i in range(len(HEADS)) if any(row[i] not in (None, "") for row in rows)]
    return [HEADS[i] for i in used], [[row[i] for i in used] for row in rows]


def overview_row(name: str, check: CheckReport) -> list[Any]:
    """One check as a row: what it ends with, and the numbers of the verdicts that end so."""
    deciding = [v for v in check.verdicts if v.outcome is check.outcome]
    values = [v.value for v in deciding if v.value is not None]
    text = " to ".join(dict.fromkeys(number(v) for v in (min(values), max(values)))) if values else NONE
    first = deciding[0] if deciding else None
    told = [first.threshold, min(v.n for v in deciding) or None, first.needs or None] if first else ["", None, None]
    head = [Cell(check.title, link=f"check-{name}"), Cell(check.outcome, mark=MARKS[check.outcome])]
    return [*head, Cell(text, max(values, default=None)), *told]


def figures(found: Evaluation) -> list[dict[str, str]]:
    """Curves as pictures, with the text that stands for each where it cannot be seen."""
    words, told = axes_of_curves(), []
    for name in (n for n in FIGURES if n in found.curves):
        curves = {w.name: c for w in found.ways if (c := found.curve(w.name, name)) is not None}
        if not curves:
            continue
        title = f"{name.replace('_', ' ')}, mean of {max(c[2] for c in curves.values())} pictures"
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


def predicted_classes(pictures: Sequence[PictureCard]) -> list[tuple[int, str, int]]:
    """Predicted classes: number, name, how many pictures."""
    counted = Counter((p.predicted[0].index, called(p.predicted[0])) for p in pictures)
    return sorted(((index, name, count) for (index, name), count in counted.items()), key=lambda row: (row[1], row[0]))


def tied_methods(document: Document) -> dict[str, float]:
    """Methods many of whose pixels are tied, with the mean share of them."""
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
