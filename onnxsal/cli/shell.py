"""The shell around every verb: method parameters as options, one message per error, progress, tables and JSON."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from onnxsal.cli.parameters import as_parameters
from onnxsal.engine.coverage import TableWarning
from onnxsal.errors import OnnxsalError
from onnxsal.report.artefacts import as_json

CHECK_FAILED, UNUSABLE, BUG = 1, 2, 3
"""Exit statuses: a check failed; a usage error or an unusable model, picture or file; a fault of onnxsal itself."""


COMMAND = "onnxsal.command"
"""Where a context keeps the command line as it was given."""


class Verb(TyperCommand):
    """A command that takes a method's parameters as options of their own, and ends every deliberate error as one message."""

    debug = False

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[COMMAND] = ["onnxsal", self.name, *args]
        end = args.index("--") if "--" in args else len(args)
        options, rest = args[:end], args[end:]
        self.debug = "--debug" in options or ctx.parent.params.get("debug", False)
        options = [a for a in options if a != "--debug"]
        if any("--param" in p.opts for p in self.params):
            known = {o: bool(getattr(p, "is_flag", False)) for p in self.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}
            with _warnings_said():
                options = as_parameters(options, {**known, "--help": True, "-h": True}, ctx.fail)
        return super().parse_args(ctx, [*options, *rest])

    def invoke(self, ctx: Any) -> Any:
        try:
            with _warnings_said():
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except BrokenPipeError:
            raise
        except OnnxsalError as error:
            self._end(str(error), UNUSABLE)
        except Exception as error:
            what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            self._end(f"internal error, a fault of onnxsal: {what}. --debug shows where.", BUG)

    def _end(self, message: str, status: int) -> None:
        if self.debug:
            traceback.print_exc()
        say(message, "error")
        raise typer.Exit(status) from None


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
        print(warnings.formatwarning(message, category, *where[:2]), file=sys.stderr, end="")
    elif str(message) not in _SAID:
        _SAID.add(str(message))
        say(str(message), "warning")


_SAID: set[str] = set()


def say(message: str, kind: str = "") -> None:
    """One message to people, on stderr; ``kind`` is "error", "warning" or nothing."""
    styles = {"error": "bold red", "warning": "bold yellow"}
    text = Text.assemble((f"{kind}: ", styles[kind]), message) if kind else Text(message)
    Console(stderr=True).print(text, soft_wrap=True)


def show(text: str) -> None:
    """A result, on stdout."""
    typer.echo(text)


def show_json(data: Any) -> None:
    """A result for machines: the only thing on stdout."""
    typer.echo(as_json(data, ascii=True))


def show_table(columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[str] = (), wrap: bool = False) -> None:
    """A table on stdout; columns named in ``numbers`` are set to the right. ``wrap`` fits the cells into the width of a terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, justify="right" if name in numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console = Console()
    if not (wrap and console.is_terminal):
        console = Console(width=10_000)
    with console.capture() as captured:
        console.print(table)
    show("\n".join(line.rstrip() for line in captured.get().splitlines()))


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[str], None]]:
    """A progress bar on stderr while the block runs, on a terminal only. The function it gives is called before each piece of work."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda text: None
        return
    columns: list[ProgressColumn] = [SpinnerColumn(), BarColumn(24), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)]
    columns[2:2] = [MofNCompleteColumn()] if total is not None else []
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        done = -1

        def step(text: str) -> None:
            nonlocal done
            done += 1
            bar.update(task, description=text, completed=done if total is not None else None)

        yield step


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """As ``progress``, for work that knows itself how far it is: the function takes what is done and, if known, how much there is."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    columns: list[ProgressColumn] = [SpinnerColumn(), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, TextColumn("{task.description}", markup=False), console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
