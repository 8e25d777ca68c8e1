"""The verbs put together, and the entry point of the ``onnxsal`` command."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

import typer

from onnxsal.cli.audit import audit
from onnxsal.cli.convert import convert
from onnxsal.cli.demo import demo
from onnxsal.cli.evaluate import evaluate
from onnxsal.cli.explain import explain
from onnxsal.cli.fit_patterns import fit_patterns
from onnxsal.cli.init import init
from onnxsal.cli.look import check, methods, ops, plan
from onnxsal.cli.merge import merge
from onnxsal.cli.shell import Verb, Verbs
from onnxsal.cli.view import view

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 1 a check failed, 2 wrong usage or an input that cannot be used, 3 a fault of onnxsal.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"onnxsal {version('onnxsal')}")
        raise typer.Exit


@app.callback()
def onnxsal(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error; also after a command.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Explains deployed models: an ONNX file goes in, the same model with its explanation built in comes out."""


for verb in (init, convert, explain, evaluate, audit, merge, fit_patterns, plan, check, methods, ops, demo, view):
    app.command(cls=Verb)(verb)


def main() -> None:
    """The entry point of the `onnxsal` command."""
    app(prog_name="onnxsal")
