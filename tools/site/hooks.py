"""What the site makes of its sources while it is built: notebooks are run and become pages, the drawing of the house becomes a list, and
the glossary takes in the terms of the audit's page.

A page is always what came out at this build: a notebook whose cells fail, or that runs longer than it may, ends the build.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import nbformat
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbconvert import MarkdownExporter

from onnxsal.metrics.data_kind import PICTURES
from onnxsal.report.audit.glossary import glossary_of

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL, CAT = "models/efficientnet_lite0.onnx", "models/pictures/chelsea.png"
SECONDS = 120
"""How long a cell may run; on an idle machine all cells of a notebook together take less than 20."""

_RUN: dict[bytes, nbformat.NotebookNode] = {}
"""Notebooks by their source, for `mkdocs serve`, which builds again and again."""


def run(path: Path) -> nbformat.NotebookNode:
    """The notebook with what its cells print and draw, run in its own folder. Raises ``PluginError`` where a cell fails."""
    source = path.read_bytes()
    if source not in _RUN:
        notebook = nbformat.reads(source.decode(), as_version=4)
        client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}})
        try:
            _RUN[source] = client.execute()
        except CellExecutionError as error:
            raise PluginError(f"a cell of {path.name} fails: {error.ename}: {error.evalue}\n{without_colours(error.traceback)}") from None
        except CellTimeoutError as error:
            raise PluginError(f"{path.name}: {error}") from None
    return _RUN[source]


def without_colours(text: str) -> str:
    """Text that a terminal was to show in colours, plain."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def as_page(notebook: nbformat.NotebookNode, name: str) -> tuple[str, dict[str, bytes]]:
    """The notebook as Markdown, and its pictures by their place beside the page."""
    resources: dict[str, Any] = {"unique_key": name, "output_files_dir": f"{name}_files"}
    text, made = MarkdownExporter().from_notebook_node(notebook, resources=resources)
    note = f'!!! note ""\n    This page is a notebook, run when the site was built: [take it with you]({name}.ipynb).\n'
    title, _, rest = text.strip().partition("\n")
    wide = "---\nhide: [toc]\n---\n"  # lines of code want the room
    return f"{wide}\n{title}\n\n{note}\n{rest}", made["outputs"]


def onnxsal(*words: str) -> None:
    """Run a command. Raises ``PluginError`` where it fails."""
    done = subprocess.run([sys.executable, "-m", "onnxsal", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PluginError(f"onnxsal {' '.join(words)}: {done.stderr}")


@cache
def first_picture() -> bytes:
    """What the command on the first page writes for the cat."""
    with tempfile.TemporaryDirectory() as folder:
        onnxsal("explain", MODEL, CAT, "-o", folder)
        (overlay,) = Path(folder).glob("*.overlay.png")
        return overlay.read_bytes()


def has_web_runtime() -> bool:
    """Whether the demo can be made: onnxruntime-web is no package of Python, so it may be missing where the site is built."""
    return (Path(sys.prefix) / "node" / "node_modules" / "onnxruntime-web").is_dir()


def make_demo(folder: Path) -> None:
    """The viewer's page of EfficientNet-Lite0, explained by Grad-CAM, in a folder."""
    with tempfile.TemporaryDirectory() as work:
        explained = str(Path(work) / "gradcam.onnx")
        onnxsal("convert", MODEL, explained, "--method", "gradcam")
        onnxsal("view", explained, "--picture", CAT, "-o", str(Path(work) / "demo"))
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(Path(work) / "demo", folder)


def on_post_build(*, config: MkDocsConfig) -> None:
    """The demo, beside the pages."""
    if has_web_runtime():
        make_demo(Path(config.site_dir) / "demo")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """A page, its pictures and the notebook with its results, for every notebook; the picture of the first page."""
    files.append(File.generated(config, "assets/first.png", content=first_picture()))
    for source in [file for file in files if file.src_uri.endswith(".ipynb")]:
        path = Path(str(source.abs_src_path))
        notebook = run(path)
        folder = source.src_uri.rpartition("/")[0]
        text, pictures = as_page(notebook, path.stem)
        files.remove(source)
        files.append(File.generated(config, source.src_uri, content=nbformat.writes(notebook)))
        files.append(File.generated(config, f"{folder}/{path.stem}.md", content=text))
        for name, content in pictures.items():
            files.append(File.generated(config, f"{folder}/{name}", content=content))
    return files


DEMO = "<!-- the demo -->"
BUTTON = '<a class="md-button md-button--primary" href="demo/index.html">Open the demo</a> (28 MB)'
MISSING = "*This copy of the site was built where onnxruntime-web was not installed, so it has no demo.*"

DRAWING = re.compile(r"```mermaid\nsequenceDiagram\n(.*?)```\n", re.DOTALL)
ARROW = re.compile(r"(\w+)->>(\w+): (.*)")


def as_list(drawing: re.Match[str]) -> str:
    """A sequence diagram as a list of its calls: the script that would draw it is larger than the site."""
    lines, condition = [], ""
    for line in drawing[1].splitlines():
        word, _, rest = line.strip().partition(" ")
        if word in ("opt", "end"):
            condition = f" *({rest})*" if word == "opt" else ""
        elif arrow := ARROW.fullmatch(line.strip()):
            lines.append(f"1. **{arrow[1]}** calls **{arrow[2]}**: `{arrow[3]}`{condition}")
        else:
            raise PluginError(f"a line of a drawing that is not understood: {line}")
    return "\n".join(lines) + "\n"


def with_audit_terms(text: str) -> str:
    """The glossary with the terms of the audit's page, which are written there, in the order of the alphabet."""
    head, *entries = re.split(r"\n(?=\S[^\n]*\n: )", text)
    terms = {entry.partition("\n")[0].strip(): entry.partition("\n: ")[2].strip() for entry in entries}
    for term, said in glossary_of(PICTURES).items():
        if term in terms:
            raise PluginError(f"'{term}' stands in docs/glossary.md and among the terms of the audit's page; once is enough.")
        terms[term] = said["long"]
    return f"{head.strip()}\n\n" + "\n\n".join(f"{term}\n:   {terms[term]}" for term in sorted(terms, key=str.lower)) + "\n"


def with_files(text: str, folder: Path) -> str:
    """Links to folders beside a page, which GitHub shows and a site does not, as links to the files in them."""

    def files(link: re.Match[str]) -> str:
        inside = sorted(path for path in (folder / link[2]).glob("*") if path.is_file() and not path.name.startswith("."))
        return ", ".join(f"[{path.name}]({link[2].rstrip('/')}/{path.name})" for path in inside) or link[0]

    return re.sub(r"\[([\w./-]+)\]\(([\w-]+/?)\)", files, text)


def on_page_markdown(markdown: str, *, page: Any, config: MkDocsConfig, files: Files) -> str:
    """Drawings as lists; the glossary whole; links to notebooks lead to their pages, which only the site has."""
    if page.file.src_uri == "glossary.md":
        markdown = with_audit_terms(markdown)
    if page.file.generated_by is None:
        markdown = re.sub(r"(\]\([\w./]*)\.ipynb([)#])", r"\1.md\2", markdown)
        markdown = with_files(markdown, Path(str(page.file.abs_src_path)).parent)
    if page.file.src_uri == "demo.md":
        markdown = markdown.replace(DEMO, BUTTON if has_web_runtime() else MISSING)
    return DRAWING.sub(as_list, markdown)
