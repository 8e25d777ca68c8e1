"""The shell around every verb: method parameters as options, one message per error, tables and JSON."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand, TyperGroup

from onnxsal.cli.parameters import as_parameters
from onnxsal.disk import guard, reads
from onnxsal.engine.coverage import TableWarning
from onnxsal.errors import OnnxsalError
from onnxsal.report.artefacts import as_json
from onnxsal.untrusted import printable

CHECK_FAILED, UNUSABLE, BUG = 1, 2, 3
"""Exit statuses: a check failed; a usage error or an unusable model, picture or file; a fault of onnxsal itself."""


UsageError: Any = typer.BadParameter.__base__
"""The error of a command line that cannot be understood: of click, which typer brings along since 0.20 or so and needed before."""

COMMAND = "onnxsal.command"
"""Where a context keeps the command line as it was given."""


class Verb(TyperCommand):
    """A command that takes a method's parameters as options of their own, and ends every deliberate error as one message."""

    debug = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[COMMAND] = ["onnxsal", self.name, *args]
        try:
            return self._parsed(ctx, args)
        except UsageError as error:
            raise inert(error) from None

    def _parsed(self, ctx: Any, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        options, rest = args[:end], args[end:]
        self.debug = "--debug" in options or ctx.parent.params.get("debug", False)
        options = [a for a in options if a != "--debug"]
        if any("--param" in p.opts for p in self.params):
            known = {o: bool(getattr(p, "is_flag", False)) for p in self.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}
            with _warnings_said():
                options = as_parameters(options, {**known, "--help": True, "-h": True}, ctx.fail)
        left: list[str] = super().parse_args(ctx, [*options, *rest])
        return left

    def invoke(self, ctx: Any) -> Any:
        try:
            with _warnings_said(), guard():
                reads(_named_files(ctx.params))
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except UsageError as error:
            raise inert(error) from None
        except BrokenPipeError:
            raise
        except OnnxsalError as error:
            self._end(str(error), UNUSABLE)
        except MemoryError as error:
            self._end(f"memory does not suffice: {error}. Take a smaller model or fewer samples at a time, or a larger machine.", UNUSABLE)
        except Exception as error:
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self._end(f"internal error, a fault of onnxsal: {what}. --debug shows where.", BUG)

    def _end(self, message: str, status: int) -> None:
        if self.debug:
            _print(traceback.format_exc())
        say(message, "error")
        raise typer.Exit(status) from None


class Verbs(TyperGroup):
    """The command itself: what it says of words that it does not know is inert too."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except UsageError as error:
            raise inert(error) from None


WRITES = ("out", "plot")
"""Parameters of commands that name what is written; every other path is read."""


def _named_files(parameters: Mapping[str, Any]) -> Iterator[Path]:
    """The files that the words of a command name as inputs."""
    for name, value in parameters.items():
        if name not in WRITES:
            yield from (v for v in (value if isinstance(value, list | tuple) else [value]) if isinstance(v, Path))


def inert(error: Any) -> Any:
    """The error, with a message that a terminal does not obey."""
    error.message = printable(error.message)
    return error


@contextmanager
def _warnings_said() -> Iterator[None]:
    """Say the warnings about rule files as messages to people."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", TableWarning)
        warnings.showwarning = _say_warning
        yield


def _say_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning of onnxsal as one message to people, each once; those of libraries in Python's form."""
    if not issubclass(category, TableWarning):
        _print(warnings.formatwarning(message, category, *where[:2]))
    elif str(message) not in _SAID:
        _SAID.add(str(message))
        say(str(message), "warning")


_SAID: set[str] = set()


def say(message: str, kind: str = "") -> None:
    """One message to people, on stderr; ``kind`` is "error", "warning" or nothing."""
    styles = {"error": "bold red", "warning": "bold yellow"}
    words = _fit(printable(message), sys.stderr)
    text = Text.assemble((f"{kind}: ", styles[kind]), words) if kind else Text(words)
    Console(stderr=True).print(text, soft_wrap=True)


def show(text: str) -> None:
    """A result, on stdout."""
    typer.echo(_fit(printable(text), sys.stdout))


def _print(text: str) -> None:
    """Text of Python's own form, on stderr."""
    print(_fit(printable(text), sys.stderr), file=sys.stderr, end="")


def _fit(text: str, stream: Any) -> str:
    """Text that a stream of its encoding can write."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def show_json(data: Any) -> None:
    """A result for machines: the only thing on stdout."""
    typer.echo(as_json(data, ascii=True))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[str] = (), wrap: bool = False) -> None:
    """A table on stdout; columns named in ``numbers`` are set to the right. ``wrap`` fits the cells into the width of a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    console = Console()
    if not (wrap and console.is_terminal):
        console = Console(width=10_000)
    with console.capture() as captured:
        console.print(table)
    show("\n".join(line.rstrip() for line in captured.get().splitlines()))


def show_drawn(drawn: RenderableType) -> None:
    """What rich draws, on stdout: in colour on a terminal that has some (not with NO_COLOR), else as plain text."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(width=100, highlight=False)
    with console.capture() as captured:
        console.print(drawn)
    typer.echo(_fit("\n".join(line.rstrip() for line in captured.get().splitlines()), sys.stdout))
