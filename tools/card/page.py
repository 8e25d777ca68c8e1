"""The section on cards in docs/performance.md."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"
BEGIN, END = "<!-- a card: written by tools/gpu_check.py -->", "<!-- end of a card -->"


def table(head: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """A table; the first column has the names of the rows."""
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])


def write(page: Path, made: str) -> None:
    """Put the section in place of the one that is there, or behind all else; a page that is missing is begun."""
    text = page.read_text(encoding="utf-8") if page.exists() else "# Performance\n"
    section = f"{BEGIN}\n\n{made}\n\n{END}\n"
    if BEGIN in text:
        before, rest = text.split(BEGIN, 1)
        page.write_text(before + section + rest.split(END, 1)[1].lstrip("\n"), encoding="utf-8")
    else:
        page.write_text(f"{text.rstrip()}\n\n{section}", encoding="utf-8")


def card_name() -> str:
    """What the driver calls the first card ('' = there is none, or it does not tell)."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    asked = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    told = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip().splitlines()
    return told[0] if told else ""
