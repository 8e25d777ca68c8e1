"""Bars that tell how far a long piece of work is: in a terminal and in a notebook, by the same library; nowhere else unless asked for."""

from __future__ import annotations

import importlib.util
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

from onnxsal.errors import OnnxsalError
from onnxsal.untrusted import printable

if TYPE_CHECKING:
    from rich.console import Console

Bar: TypeAlias = bool | None
"""Whether a bar is shown: ``None`` where somebody looks, in a terminal or a notebook; ``True`` in a file of output too."""

ToldHow: TypeAlias = Callable[[int, int | None], None]
"""Is told how much is done, and of how much, if that is known."""

_SHOWN: ContextVar[bool] = ContextVar("onnxsal_progress", default=False)
"""Whether a bar is shown: what is done inside of that work shows none of its own."""

log = logging.getLogger(__name__)


class NoBarError(OnnxsalError):
    """A bar was asked for, and what shows it is not installed."""


def _console(wanted: Bar) -> Console | None:
    """Where the bar is drawn, or ``None`` where none is."""
    if wanted is False or _SHOWN.get() or (wanted is None and not _watched()):
        return None
    from rich.console import Console  # takes longer than many explanations

    console = Console(stderr=True)
    if console.is_jupyter and importlib.util.find_spec("ipywidgets") is None:
        missing = "a bar in a notebook needs ipywidgets: pip install 'onnxsal[notebook]'"
        if wanted:
            raise NoBarError(f"{missing}, or leave progress=True out.")
        log.info("%s", missing)
        return None
    if wanted and not (console.is_terminal or console.is_jupyter):
        return Console(stderr=True, force_terminal=False)
    return console if console.is_terminal or console.is_jupyter else None


def _watched() -> bool:
    """Whether somebody may look: what is no terminal may be a notebook where IPython runs, which rich tells."""
    return "IPython" in sys.modules or (sys.stderr is not None and sys.stderr.isatty())


@contextmanager
def progress(what: str, total: int | None = None, wanted: Bar = None) -> Iterator[Callable[[str], None]]:
    """A bar on stderr while the block runs. The function it gives is called before each piece of work, with what that is."""
    with _bar(what, total, wanted) as update:
        done = -1

        def step(text: str) -> None:
            nonlocal done
            done += 1
            if update is not None:
                update(description=_one_line(text), completed=done if total is not None else None)

        yield step


@contextmanager
def counted(what: str, wanted: Bar = None) -> Iterator[ToldHow]:
    """As ``progress``, for work that knows itself how far it is."""
    with _bar(what, None, wanted, count=True) as update:
        yield lambda done, total: None if update is None else update(completed=done, total=total)


@contextmanager
def _bar(what: str, total: int | None, wanted: Bar, count: bool = False) -> Iterator[Callable[..., Any] | None]:
    """How the bar is changed, while it is shown; ``None`` where there is none."""
    console = _console(wanted)
    if console is None:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns: list[ProgressColumn] = [SpinnerColumn(), BarColumn(24), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)]
    columns[2:2] = [MofNCompleteColumn()] if count or total is not None else []
    token = _SHOWN.set(True)
    try:
        with Progress(*columns, console=console, transient=console.is_terminal or console.is_jupyter) as bar:
            task = bar.add_task(_one_line(what), total=total)
            yield lambda **changed: bar.update(task, **changed)
    finally:
        _SHOWN.reset(token)


def _one_line(text: str) -> str:
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    return printable(text, keep="").encode(encoding, "backslashreplace").decode(encoding)
