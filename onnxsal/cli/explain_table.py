"""``onnxsal explain`` of a table: its rows in one batch, one CSV of attributions, one summary, one record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxsal.ask.request import Ask
from onnxsal.cli.shell import say, show, show_json, show_table
from onnxsal.errors import InputError
from onnxsal.explainer import Explainer
from onnxsal.given.tables import at_the_table, read_rows
from onnxsal.graph.load import read_metadata
from onnxsal.report.explained_rows import ExplainedRows, TableFiles, refuse_taken_table, save_rows
from onnxsal.runtime.columns import ToldColumns, columns_beside
from onnxsal.runtime.libraries import library
from onnxsal.runtime.progress import progress
from onnxsal.runtime.table_files import is_table, open_table

AT_ONCE = 64
"""Rows in one run, where nothing else is asked for."""

SHOWN_COLUMNS = 10
"""So many columns are listed, the largest first."""

Group = Annotated[
    list[str] | None,
    typer.Option(
        "--group",
        metavar="NAME[=COLUMNS]",
        help="Columns of a table that are one, such as the categories of a one-hot: colour (all that begin with colour=, colour_ and so "
        "on), or colour=red,blue (names or patterns, with commas).",
        show_default=False,
    ),
]
Each = Annotated[bool, typer.Option("--each", help="Of a table: a chart of every row, however many there are.")]
AsParquet = Annotated[bool, typer.Option("--parquet", help="Of a table: the attributions as Parquet too.")]


@dataclass(frozen=True)
class TableAsk:
    """What is asked of a table: columns that are one, and what is written."""

    groups: Sequence[str] = ()
    files: TableFiles = field(default_factory=TableFiles)
    labels: str | None = None


def only_table(files: Sequence[Path]) -> Path | None:
    """The table among the inputs, which is then the only one. Raises ``InputError`` where there are others beside it."""
    tables = [file for file in files if is_table(file)]
    if tables and len(files) > 1:
        raise InputError(f"'{tables[0]}' is a table, which is explained by itself; give it alone, without {len(files) - 1} other input(s).")
    return tables[0] if tables else None


def told_columns(model: Path, groups: Sequence[str]) -> ToldColumns:
    """What is known of a model's columns: beside it, in its metadata, and from the command line."""
    told = columns_beside(model, read_metadata(model) if model.is_file() else {})
    given = {name: tuple(p for p in columns.split(",") if p) for name, _, columns in (word.partition("=") for word in groups)}
    return replace(told, groups={**told.groups, **given})


def explain_table(ask: Ask, file: Path, out: Path, asked: TableAsk, json: bool) -> None:
    """Explain the rows of a table, and write and tell what was found."""
    library("matplotlib.figure")  # missing, it is said before the work, not after
    table, told = open_table(file), told_columns(Path(str(ask.model)), asked.groups)
    ask = at_the_table(replace(ask, batch_size=ask.batch_size or AT_ONCE), table, told)
    with progress(f"building the explanation into {ask.name}"):
        explainer = Explainer.of(replace(ask.on(ask.resolved), target=None))
        rows = read_rows(table, explainer.fed, told)
    base = out / f"{file.stem}.{explainer.method}"
    refuse_taken_table(base, asked.files, len(rows))
    with progress(f"explaining {len(rows)} rows"):
        law = explainer.conversion.method.law
        found = ExplainedRows(rows, explainer.explain(rows.feed, ask.target), explainer.labels, "f(x) -" in law)
        facts = save_rows(base, found, {"source": str(file), "model": str(ask.model)}, asked.files)
    for note in rows.notes:
        say(note)
    for warning in found.warnings:
        say(warning, "warning")
    if json:
        show_json(facts)
    else:
        _tell(found, facts)


def _tell(found: ExplainedRows, facts: Mapping[str, Any]) -> None:
    """The columns that count most: of one row their attributions, of several the mean sizes; and the files."""
    if len(found.rows) == 1:
        values = dict(zip(found.columns, found.attributions[0], strict=True))
        show(f"explained: {found.target(0)}, score {float(found.whole.score[0]):.4g}")
        given = dict(zip(found.columns, found.rows.shown[0].values, strict=True))
        rows = [(name, str(given[name]), f"{values[name]:+.4g}") for name in list(found.means)[:SHOWN_COLUMNS]]
        show_table(("column", "value", "attribution"), rows, ("attribution",))
    else:
        explained = ", ".join(f"{name} ({count})" for name, count in facts["explained"].items())
        show(f"{len(found.rows)} rows; explained: {explained}")
        means = list(found.means.items())[:SHOWN_COLUMNS]
        show_table(("column", "mean of |attribution|"), [(name, f"{mean:.4g}") for name, mean in means], ("mean of |attribution|",))
    if (more := len(found.columns) - SHOWN_COLUMNS) > 0:
        show(f"and {more} more columns")
    files = facts["files"]
    charts = [kind for kind in files if kind.startswith("row ")]
    show("\n".join(f"{kind}: {files[kind]}" for kind in files if kind not in charts[1:]))
    if len(charts) > 1:
        show(f"and {len(charts) - 1} more charts of rows")
