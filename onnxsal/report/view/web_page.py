"""The page as one file, or as a folder of a page with the files beside it. Both open by a double click: nothing is fetched."""

from __future__ import annotations

import base64
import gzip
import importlib.resources
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from onnxsal.report.artefacts import Style
from onnxsal.report.view.web_model import WebModel
from onnxsal.report.view.web_runtime import WebRuntime
from onnxsal.runtime.files import write_whole
from onnxsal.runtime.heatmap import NOISE, Scaled, overlay
from onnxsal.untrusted import printable

PAGE, DATA_MARK = "index.html", "// onnxsal-data\n"
"""The page in a folder, and the first line of every file of data beside it, by which it is known as ours."""

STEPS = {"diverging": 511, "heat": 256}
"""How finely the colours of an overlay are told to the page, by palette."""

LICENCE = """\
Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the \
"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish, \
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to \
the following conditions: The above copyright notice and this permission notice shall be included in all copies or substantial portions of \
the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE \
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE \
LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN \
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE."""
"""The licence of ONNX Runtime, which the page carries with it."""


@dataclass(frozen=True)
class DataScript:
    """A script that hands one file to the page: beside the page under ``name``, or ``inside`` of it."""

    name: str
    text: str
    inside: Markup | None = None


def data_script(name: str, what: str, data: bytes) -> DataScript:
    """A file as a script that calls ``given(what, ...)``: a page that is opened as a file may run scripts, but fetch nothing."""
    packed = base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()
    return DataScript(name, f'{DATA_MARK}given("{what}", "{packed}");\n')


def overlay_table(palette: str) -> dict[str, Any]:
    """What an overlay adds to each channel (``ink`` [n, 3]) and how far it covers the picture (``cover`` [n]), for n evenly
    spaced values.

    Read off ``runtime.heatmap.overlay``, on black and on white: a pixel p becomes ``ink + (1 - cover) p``.
    """
    values = np.linspace(-1.0 if palette == "diverging" else 0.0, 1.0, STEPS[palette])[None]
    scaled = Scaled(values, palette, float(values[0, 0]), 1.0, False)
    on_black, on_white = (
        np.asarray(overlay(np.full((1, STEPS[palette], 3), grey, np.uint8), scaled, opacity=1.0), np.float64)[0] for grey in (0, 255)
    )
    return {"ink": on_black.tolist(), "cover": (1 - (on_white - on_black).mean(-1) / 255).clip(0, 1).tolist()}


def facts_of(models: Sequence[WebModel], webgpu: bool, picture: bool) -> dict[str, Any]:
    """All that the page is told, as JSON holds it."""
    return {
        "models": [{k: v for k, v in model.facts.items() if k not in ("data", "labels")} for model in models],
        "labels": next((list(model.labels) for model in models if model.labels), []),
        "percentile": Style().percentile,
        "noise": NOISE,
        "tables": {palette: overlay_table(palette) for palette in STEPS},
        "runtime": {"webgpu": webgpu},
        "picture": picture,
    }


def as_script_json(data: Mapping[str, Any]) -> Markup:
    """JSON for a ``script`` element: nothing in it ends the element, and nothing turns the direction of text."""
    text = json.dumps(data, ensure_ascii=True, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def render_page(models: Sequence[WebModel], runtime: WebRuntime, scripts: Sequence[DataScript], webgpu: bool, picture: bool) -> str:
    """The page. Everything that comes from files is escaped."""
    environment = Environment(
        loader=PackageLoader("onnxsal.report.view", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    css, pixels, view = (Markup(_own(name)) for name in ("view.css", "pixels.js", "view.js"))
    return environment.get_template("view.html.j2").render(
        version=version("onnxsal"),
        title=printable(" and ".join(dict.fromkeys(model.file for model in models)), keep=""),
        css=css,
        pixels=pixels,
        view=view,
        facts=as_script_json(facts_of(models, webgpu, picture)),
        runtime_version=runtime.version,
        licence=LICENCE,
        scripts=scripts,
    )


def _own(name: str) -> str:
    return importlib.resources.files("onnxsal.report.view").joinpath(name).read_text(encoding="utf-8")


def save_page(out: Path, models: Sequence[WebModel], runtime: WebRuntime, webgpu: bool = False, picture: bytes | None = None) -> Path:
    """Write one file, where ``out`` ends in .html, else a folder; returns the page. Raises ``OutputError``."""
    data = {"runtime.script": runtime.script, "runtime.binary": runtime.binary}
    data |= {f"model.{i}": model.data for i, model in enumerate(models)}
    data |= {} if picture is None else {"picture": picture}
    scripts = [data_script(f"{what}.js", what, content) for what, content in data.items()]
    if out.suffix.lower() == ".html":
        scripts = [DataScript(script.name, "", Markup(script.text)) for script in scripts]
    for script in scripts:
        if script.inside is None:
            write_whole(out / script.name, script.text.encode())
    page = out if out.suffix.lower() == ".html" else out / PAGE
    return write_whole(page, render_page(models, runtime, scripts, webgpu, picture is not None).encode())
