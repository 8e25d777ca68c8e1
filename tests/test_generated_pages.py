"""The generated pages say what the registries say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "gen_tables.py", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_costs_on_the_page_for_choosing_are_those_that_were_measured() -> None:
    """docs/choose.md tells the cost of a method as docs/which-method.md does, rounded."""
    choose, measured = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("choose.md", "which-method.md"))
    short = measured.split("## In short")[1].split("\n## ")[0]
    known = {row[1].strip(" `"): row[-2].strip() for row in (line.split("|") for line in short.splitlines()) if len(row) > 3}
    rows = [[cell.strip(" `") for cell in line.split("|")[2:4]] for line in choose.splitlines() if line.startswith("| ") and "`" in line]
    assert len(rows) > 8
    for method, cost in rows:
        assert cost == (f"{float(known[method]):.0f}" if known.get(method) else ""), method
