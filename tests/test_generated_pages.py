"""The generated pages say what the registries say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "gen_tables.py", "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
