"""What explaining the rows of a table leaves behind: the attributions as one CSV, a summary as one figure, the numbers as one JSON."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.disk import WRITTEN, refuse_loss, sha256
from onnxsal.explanation import Explanation
from onnxsal.given.tables import TableRows
from onnxsal.report.artefacts import as_json
from onnxsal.report.evaluation_files import as_csv
from onnxsal.report.gathered import by_sample, gathered
from onnxsal.runtime.columns import by_column
from onnxsal.runtime.figures import image_of
from onnxsal.runtime.files import write_whole
from onnxsal.runtime.libraries import library
from onnxsal.runtime.pictures import save_picture
from onnxsal.runtime.row_figure import row_figure, summary_figure
from onnxsal.runtime.session import Array
from onnxsal.untrusted import whole_text

FEW = 3
"""So many rows get a chart each unasked."""


@dataclass(frozen=True)
class ExplainedRows:
    """Rows and what was said of them, in one batch. ``adds_up``: the method divides the score up, less that of a baseline, so that what
    the bars lack of the score is the baseline's.
    """

    rows: TableRows
    whole: Explanation
    labels: Sequence[str] | None = None
    adds_up: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns as they are shown."""
        return self.rows.shown[0].columns

    @cached_property
    def attributions(self) -> Array:
        """The attribution of each column, float64 [rows, columns]. Raises ``InputError`` where it is not known whose each element is."""
        return np.stack([by_column(s, a) for s, a in zip(self.rows.shown, self.whole.attribution, strict=True)])

    @property
    def names(self) -> list[str]:
        """What the rows are called."""
        return [f"row {i}" for i in range(1, len(self.rows) + 1)]

    def target(self, row: int) -> str:
        """The class that was explained of a row."""
        index = int(self.whole.target[row])
        return self.labels[index] if self.labels is not None and 0 <= index < len(self.labels) else str(index)

    @property
    def warnings(self) -> list[str]:
        """Reasons to read the attributions with care, each once."""
        found = gathered(by_sample(self.whole.warnings, self.names), len(self.rows))
        return [*filter(None, [self.rows.doubt]), *found]

    @property
    def means(self) -> dict[str, float]:
        """The mean size of the attribution of each column, the largest first."""
        sizes = np.abs(self.attributions).mean(0)
        return {self.columns[i]: float(sizes[i]) for i in np.argsort(-sizes, kind="stable")}

    def table(self) -> list[dict[str, Any]]:
        """A line for each row: its number, the columns that the model does not take, what was explained, and the attribution of each
        column.
        """
        laws = {"residual": self.whole.residual, "reached": self.whole.reached}
        lines = []
        for i in range(len(self.rows)):
            own: dict[str, Any] = {"row": i + 1, "explained class": self.target(i), "explained score": float(self.whole.score[i])}
            own |= {name: float(law[i]) for name, law in laws.items() if law is not None}
            own |= {f"attribution {c}": float(v) for c, v in zip(self.columns, self.attributions[i], strict=True)}
            beside = {(f"given {k}" if k in own else k): _plain(v[i]) for k, v in self.rows.beside.items()}
            lines.append({"row": own.pop("row"), **beside, **own})
        return lines


def _plain(cell: Any) -> Any:
    return cell.item() if isinstance(cell, np.generic) else cell


@dataclass(frozen=True)
class TableFiles:
    """What is written of a table: a chart of ``each`` row (otherwise of up to three), the table as ``parquet`` too."""

    each: bool = False
    parquet: bool = False

    def named(self, base: Path, count: int) -> dict[str, str]:
        """Every file by its kind."""
        files = {"attributions": f"{base}.csv", "record": f"{base}.json"}
        files |= {"parquet": f"{base}.parquet"} if self.parquet else {}
        files |= {"summary": f"{base}.summary.png"} if count > 1 else {}
        charts = {f"row {i}": f"{base}.row-{i}.png" for i in range(1, count + 1)} if self.each or count <= FEW else {}
        return files | charts


def refuse_taken_table(base: Path, files: TableFiles, count: int) -> None:
    """Say before the work, not after it, that ``save_rows`` would replace files of others. Raises ``OutputError``."""
    named = files.named(base, count)
    for kind, name in named.items():
        refuse_loss(name, named["record"] if kind in ("attributions", "parquet") else None)


def save_rows(base: Path, found: ExplainedRows, facts: Mapping[str, Any], files: TableFiles) -> dict[str, Any]:
    """Write the attributions, the summary and the charts; returns the record, which holds ``facts`` too."""
    named, table = files.named(base, len(found.rows)), found.table()
    contents = {"attributions": as_csv(table)} | ({"parquet": _parquet(table)} if files.parquet else {})
    for kind, content in contents.items():
        write_whole(named[kind], content, named["record"])
    head = f"{found.whole.method}: {len(found.rows)} rows of {found.rows.shown and facts.get('source', '')}"
    if "summary" in named:
        save_picture(image_of(summary_figure(found.rows.shown, found.attributions, head)), named["summary"])
    for i, row in enumerate(found.rows.shown):
        if f"row {i + 1}" in named:
            save_picture(image_of(_chart(found, i, row)), named[f"row {i + 1}"])
    record = {"onnxsal": version("onnxsal"), **facts, **_numbers(found), "files": named}
    record[WRITTEN] = {Path(named[kind]).name: sha256(content) for kind, content in contents.items()}
    write_whole(named["record"], (as_json(record) + "\n").encode())
    return record


def _chart(found: ExplainedRows, i: int, row: Any) -> Any:
    values, score = found.attributions[i], float(found.whole.score[i])
    base = {"score": score, "base": score - float(values.sum())} if found.adds_up else {}
    return row_figure(row, values, f"row {i + 1}: what speaks for {found.target(i)}, score {score:.4g} ({found.whole.method})", **base)


def _numbers(found: ExplainedRows) -> dict[str, Any]:
    """What is told of all rows together."""
    whole = found.whole
    worst = {name: float(np.nanmax(law)) for name, law in (("worst_residual", whole.residual),) if law is not None}
    return {
        "rows": len(found.rows),
        "columns": list(found.columns),
        "mean_size": found.means,
        "explained": _counted(found.target(i) for i in range(len(found.rows))),
        **worst,
        "method": whole.method,
        "parameters": whole.parameters,
        "providers": whole.providers,
        "provider_options": whole.provider_options,
        "seconds": whole.seconds,
        "notes": list(found.rows.notes),
        "warnings": found.warnings,
    }


def _counted(names: Iterable[str]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in names:
        found[name] = found.get(name, 0) + 1
    return found


def _parquet(table: Sequence[Mapping[str, Any]]) -> bytes:
    """The same as Parquet: texts and numbers as they are."""
    arrow, parquet = library("pyarrow"), library("pyarrow.parquet")
    columns = {name: arrow.array([whole_text(v) if isinstance(v, str) else v for v in (line[name] for line in table)]) for name in table[0]}
    buffer = io.BytesIO()
    parquet.write_table(arrow.table(columns), buffer)
    return buffer.getvalue()
