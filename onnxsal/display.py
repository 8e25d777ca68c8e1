"""How objects show themselves where people work: a few lines in a terminal, a panel in a notebook. Both are made of one description."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxsal.untrusted import printable

LINES = 10
"""A ``repr`` has so many lines at most."""

WIDTH = 140
"""And so many characters in each of them."""

ROWS = 60
"""A table in a notebook has so many rows at most."""


@dataclass(frozen=True)
class Panel:
    """What is told of an object: a ``title``, ``facts`` of one line each, a table of ``columns`` and ``rows`` (the title of which, if it
    has one, is its ``caption``), and ``warnings``. ``more``: what the rows stand for has so many others, which are not listed.
    """

    title: str
    facts: Sequence[str] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    warnings: Sequence[str] = ()
    more: int = 0


@dataclass(frozen=True)
class Figure:
    """A picture of a part of an object, as HTML that is safe to be shown: what it says was escaped where it was made."""

    caption: str
    html: str


class Displayed:
    """An object that tells a ``Panel`` of itself, shown as text by ``repr`` and as HTML in a notebook."""

    def _panel(self) -> Panel:
        raise NotImplementedError

    def _figures(self) -> tuple[list[Figure], int]:
        """What is drawn in a notebook, and how many others are not."""
        return [], 0

    def __repr__(self) -> str:
        return as_text(self._panel())

    def _repr_html_(self) -> str:
        figures, more = self._figures()
        return as_panel(self._panel(), figures, more)


def as_text(panel: Panel) -> str:
    """The panel in ``LINES`` lines at most, the table cut first, then the facts."""
    warned = [f"warning: {text}" for text in panel.warnings]
    warned = warned if len(warned) <= 2 else [*warned[:1], f"and {len(warned) - 1} more warnings"]
    facts = [f"  {fact}" for fact in panel.facts[: LINES - 2 - len(warned)]]
    room = LINES - 1 - len(facts) - len(warned)
    table = _aligned([panel.columns, *panel.rows] if panel.columns and panel.rows else panel.rows)
    hidden = panel.more
    if len(table) + bool(hidden) > room:
        hidden += len(table) - max(room - 1, 0)
        table = table[: max(room - 1, 0)]
    rest = [f"  ... and {hidden} more"] if hidden and room > 0 else []
    return "\n".join(_cut(line) for line in (panel.title, *facts, *table, *rest, *warned))


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [[printable(cell, keep="") for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)] if cells else []
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _cut(line: str) -> str:
    whole = printable(line, keep="")
    return whole if len(whole) <= WIDTH else f"{whole[: WIDTH - 3]}..."


TEMPLATE = """\
<div class="onnxsal" style="font-size: 13px; line-height: 1.4; max-width: 64em">
<div style="font-weight: 600">{{ panel.title | fit }}</div>
{% for fact in panel.facts %}<div style="opacity: .8">{{ fact | fit }}</div>
{% endfor %}
{% for warning in panel.warnings[:5] %}<div style="border-left: 3px solid #c77700; padding-left: .6em; margin: .3em 0">\
<b>warning</b> {{ warning | fit }}</div>
{% endfor %}
{% if panel.warnings | length > 5 %}<div>and {{ panel.warnings | length - 5 }} more warnings</div>{% endif %}
{% if figures %}<div style="display: flex; flex-wrap: wrap; gap: 1em; margin: .5em 0">
{% for figure in figures %}<figure style="margin: 0; max-width: 100%">{{ figure.html | safe }}\
<figcaption style="max-width: 24em">{{ figure.caption | fit }}</figcaption></figure>
{% endfor %}</div>
{% if more %}<div>and {{ more }} more</div>{% endif %}
{% endif %}
{% if panel.rows %}<table style="margin: .5em 0; border-collapse: collapse; font-size: inherit">
{% if panel.columns %}<thead><tr>{% for column in panel.columns %}<th style="text-align: left; padding: .1em .8em .1em 0">\
{{ column | fit }}</th>{% endfor %}</tr></thead>{% endif %}
<tbody>{% for row in panel.rows[:most] %}<tr>{% for cell in row %}<td style="text-align: left; padding: .1em .8em .1em 0; \
vertical-align: top">{{ cell | fit }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table>
{% if hidden %}<div>and {{ hidden }} more</div>{% endif %}
{% endif %}
</div>"""


def as_panel(panel: Panel, figures: Iterable[Figure] = (), more: int = 0) -> str:
    """The panel as HTML that needs nothing else, its ``figures`` in it. What it says is escaped, and acts on no page that it lies in."""
    from jinja2 import Environment, StrictUndefined  # not needed by who looks at nothing, and half as long to import as all of numpy

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["fit"] = printable
    hidden = panel.more + max(len(panel.rows) - ROWS, 0)
    return environment.from_string(TEMPLATE).render(panel=panel, figures=list(figures), more=more, most=ROWS, hidden=hidden)
