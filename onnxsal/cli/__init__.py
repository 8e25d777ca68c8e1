"""The command line: one verb per command, the same words as in Python."""

from onnxsal.cli.app import app, main

__all__ = ["app", "main"]
