"""The generated pages say what the registries say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "gen_tables.py", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_table_of_methods_is_that_of_its_page() -> None:
    """README.md's table of methods is the short one of docs/which-method.md, to the letter."""
    readme, page = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/which-method.md"))
    begin, end = "<!-- taken from docs/which-method.md by tools/which_method.py -->\n\n", "\n\n<!-- end of the table -->"
    taken = readme.split(begin)[1].split(end)[0]
    assert taken.startswith("| method |")
    assert f"## In short\n\n{taken}\n\n## " in page
