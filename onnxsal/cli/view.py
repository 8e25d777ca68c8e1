"""``onnxsal view``: a page that runs converted models in a browser."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from onnxsal.cli import options as o
from onnxsal.cli.shell import show, show_json
from onnxsal.disk import read_bytes
from onnxsal.errors import InputError
from onnxsal.given.prepared import known_of
from onnxsal.report.view.serving import HOST, server
from onnxsal.report.view.web_model import WebModel, web_model
from onnxsal.report.view.web_page import save_page
from onnxsal.report.view.web_runtime import web_runtime
from onnxsal.runtime.pictures import load_picture
from onnxsal.runtime.progress import progress


def view(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Converted models of one classifier, by one method each.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Where the page is written: one file, if it ends in .html, else a folder.")
    ] = Path("view"),
    picture: Annotated[Path | None, typer.Option("--picture", help="A picture that is shown first.")] = None,
    runtime: Annotated[
        Path | None, typer.Option("--runtime", help="The folder of onnxruntime-web (or its dist).", show_default=False)
    ] = None,
    fetch: Annotated[bool, typer.Option("--fetch", help="Download onnxruntime-web, if it is nowhere found.")] = False,
    webgpu: Annotated[bool, typer.Option("--webgpu", help="Run on WebGPU where the browser has it (3 MB more).")] = False,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the page on this machine, with threads and camera, until Ctrl+C.")] = False,
    port: Annotated[int, typer.Option("--port", help="Where it is served; 0: any free port.")] = 0,
    labels: Annotated[Path | None, typer.Option("--labels", help="Names of the classes.", show_default=False)] = None,
    preprocess: Annotated[Path | None, typer.Option("--preprocess", help="How a picture becomes the input.", show_default=False)] = None,
    json: o.Json = False,
) -> None:
    """Write a page that runs converted models in the browser: drop a picture, see the map, move the target, compare methods."""
    begin = time.perf_counter()
    if serve and out.suffix.lower() == ".html":
        raise InputError(f"--serve serves a folder, and '{out}' is one file, which needs no server: open it, or name a folder.")
    with progress("writing the page"):
        found = web_runtime("webgpu" if webgpu else "wasm", runtime, fetch)
        read = [web_model(path, known_of(path, preprocess, labels)) for path in models]
        _refuse_mixture(read)
        shown = None
        if picture is not None:
            load_picture(picture)
            shown = read_bytes(picture)
        page = save_page(out, read, found, webgpu, shown)
    written = [page] if page == out else [*sorted(page.parent.glob("*.js")), page]
    size = sum(path.stat().st_size for path in written)
    facts = {
        "page": str(page),
        "models": [str(path) for path in models],
        "methods": [model.method for model in read],
        "runtime": f"onnxruntime-web {found.version or 'of an unstated version'}, from {found.folder}",
        "bytes": size,
        "seconds": time.perf_counter() - begin,
    }
    if json:
        show_json(facts)
    else:
        show(
            f"{page}\n  size     {size / 1e6:.1f} MB, {'one file' if page == out else 'with the files beside it'}; "
            f"opens by a double click\n  runtime  {facts['runtime']} (MIT licence, in the page)"
        )
    if serve:
        _serve(page.parent, port)


def _refuse_mixture(models: list[WebModel]) -> None:
    """Raise ``InputError`` where the files are not of one classifier, as far as their labels tell."""
    named = {model.labels for model in models if model.labels}
    if len(named) > 1:
        raise InputError("the models have different labels: a page compares methods on one classifier. Make a page for each.")


def _serve(folder: Path, port: int) -> None:
    with server(folder, port) as serving:
        show(f"serving {folder} at http://{HOST}:{serving.server_port}/ until Ctrl+C")
        try:
            serving.serve_forever()
        except KeyboardInterrupt:
            return
