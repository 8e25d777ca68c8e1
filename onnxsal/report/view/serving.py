"""A page served on this machine only: for cameras and threads, which browsers do not give to a page that is opened as a file."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from onnxsal.errors import InputError

HOST = "127.0.0.1"

ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}
"""With these a browser lets a page share memory between threads."""


class Handler(SimpleHTTPRequestHandler):
    """Files of one folder, and nothing in the log."""

    extensions_map = {**SimpleHTTPRequestHandler.extensions_map, ".js": "text/javascript", ".html": "text/html; charset=utf-8"}  # noqa: RUF012

    def end_headers(self) -> None:
        for name, value in {**ISOLATED, "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: whoever serves has told the address."""


def server(folder: Path, port: int = 0) -> ThreadingHTTPServer:
    """A server of a folder at ``port`` (0: any free one). Raises ``InputError`` where the port is taken."""
    try:
        return ThreadingHTTPServer((HOST, port), partial(Handler, directory=str(folder)))
    except OSError as error:
        raise InputError(f"port {port} cannot be served on: {error.strerror or error}. Name another one with --port.") from error
