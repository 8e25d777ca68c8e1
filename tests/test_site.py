"""The documentation's site: it is built without a warning, its notebooks run, and it asks no other host for anything."""

from __future__ import annotations

import functools
import http.server
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests.browser import CHROMIUM, DRIVER, SOCKETS, chromium, logged, requested

pytestmark = pytest.mark.site
nbformat = pytest.importorskip("nbformat", reason="needs the extra docs")
pytest.importorskip("mkdocs", reason="needs the extra docs")

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
NOTEBOOKS = sorted(path.stem for path in (DOCS / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="session")
def site() -> Path:
    """The site as it is built in CI, left in out/site."""
    folder = ROOT / "out" / "site"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


# ----- notebooks -----


def test_there_are_five_notebooks():
    assert NOTEBOOKS == ["audit", "own_rule", "picture", "table", "text"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_lies_here_without_results(name: str):
    path = DOCS / "notebooks" / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    assert path.stat().st_size < 20_000
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_on_the_site_was_run_whole(site: Path, name: str):
    """Every cell in its order, without an error, within a minute on a machine that does other things too; and something is to be seen."""
    notebook = nbformat.read(site / "notebooks" / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert any({"image/png", "image/svg+xml", "text/html"} & set(output.get("data", {})) for output in outputs)
    page = (site / "notebooks" / f"{name}.html").read_text(encoding="utf-8")
    assert f'href="{name}.ipynb"' in page


def test_the_audit_in_the_pipeline_stops_the_bad_model_only(site: Path):
    notebook = nbformat.read(site / "notebooks" / "audit.ipynb", as_version=4)
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert re.findall(r"exit status (\d)", printed) == ["1", "0"]


# ----- nothing from elsewhere -----


FOLLOWED = {"canonical", "next", "prev", "alternate", "author", "license"}
"""Relations of links that a browser does not load."""


class Loads(HTMLParser):
    """The addresses that a page loads by itself: not those that a reader may follow."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.style = tag == "style"
        self.found += addresses_of_style(given.get("style", ""))
        if tag == "link" and not set(given.get("rel", "").split()) & FOLLOWED:
            self.found.append(given.get("href", ""))
        elif tag not in ("a", "area", "link"):
            self.found += [given[name] for name in ("src", "data", "poster", "href", "xlink:href") if name in given]
            self.found += [part.split()[0] for part in given.get("srcset", "").split(",") if part.split()]

    def handle_data(self, data: str) -> None:
        if self.style:
            self.found += addresses_of_style(data)


def addresses_of_style(text: str) -> list[str]:
    return [a or b for a, b in re.findall(r"url\(\s*['\"]?([^)'\"]+)|@import\s+['\"]([^'\"]+)", text)]


def loaded(page: str) -> list[str]:
    reader = Loads()
    reader.feed(page)
    return reader.found


def elsewhere(addresses: list[str]) -> list[str]:
    return [address for address in addresses if re.match(r"(https?:|wss?:|ftp:)?//", address.strip(), re.IGNORECASE)]


@pytest.mark.parametrize(
    "page",
    [
        '<script src="https://far/x.js"></script>',
        '<link rel="stylesheet" href="//far/x.css">',
        '<link rel="preconnect" href="https://far">',
        '<img srcset="a.png 1x, https://far/b.png 2x">',
        "<style>@font-face { src: url('http://far/x.woff2') }</style>",
        '<p style="background: url(https://far/x.png)">',
        '<svg><image xlink:href="https://far/x.png"/></svg>',
    ],
)
def test_what_comes_from_elsewhere_is_seen(page: str):
    assert len(elsewhere(loaded(page))) == 1
    assert not elsewhere(loaded('<a href="https://far">x</a><img src="near.png"><link rel="canonical" href="https://far">'))


def test_no_page_loads_anything_from_elsewhere(site: Path):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 35
    for page in pages:
        assert not elsewhere(loaded(page.read_text(encoding="utf-8"))), page
    styles = list(site.rglob("*.css"))
    for style in styles:
        assert not elsewhere(addresses_of_style(style.read_text(encoding="utf-8"))), style


# ----- in a browser -----


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site behind a server of this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *said: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    with chromium(tmp_path / "profile") as driver:
        yield driver


def test_pages_ask_their_own_server_only_and_fit_a_phone(browser: Any, address: str):
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    for page in ("index.html", "architecture.html", "api/index.html", *(f"notebooks/{name}.html" for name in NOTEBOOKS)):
        browser.get(address + page)
        time.sleep(0.5)
        events = logged(browser)
        asked = {url for url in requested(events) if not url.startswith(("data:", "blob:"))}
        assert address + page in asked
        assert {url for url in asked if not url.startswith(address)} == set(), page
        assert not [e for e in events if e["method"] in SOCKETS]
        assert browser.execute_script("return document.documentElement.scrollWidth") <= 390, page
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_search_finds_a_page(browser: Any, address: str):
    browser.get(address + "index.html")
    browser.execute_script(
        "document.querySelector('[data-md-toggle=search]').checked = true; const q = document.querySelector('[name=query]');"
        "q.focus(); q.value = 'residual'; q.dispatchEvent(new Event('input', {bubbles: true})); q.dispatchEvent(new Event('keyup'))"
    )
    for _ in range(60):
        time.sleep(0.5)
        found = browser.execute_script("return [...document.querySelectorAll('.md-search-result__link')].map(a => a.href)")
        if found:
            break
    assert any(link.startswith(address) and "glossary" in link for link in found), found
    assert {url for url in requested(logged(browser)) if not url.startswith((address, "data:", "blob:"))} == set()
