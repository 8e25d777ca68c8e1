"""One command of onnxsal in a child process with limits on time and memory: how it ended and what it left."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS, BYTES = 10, 2 << 30
"""What a command on a small file may take, of processor time and memory."""
PATIENCE = 6
"""How much longer it may take by the clock: the machine has other work."""


@dataclass(frozen=True)
class End:
    """How a command ended: its exit status (negative: the signal that killed it), what it wrote, left and took."""

    status: int
    out: str
    err: str
    left: tuple[str, ...]
    seconds: float
    megabytes: float


def run(arguments: Sequence[str], folder: Path, seconds: float = SECONDS, check: Callable[[], None] | None = None) -> End:
    """``onnxsal ARGUMENTS`` in ``folder``, by a fork of this process, which has loaded the libraries already.

    ``check`` runs in the child after a command with status 0; what it raises is printed as a traceback.
    """
    import onnxsal.cli.app  # noqa: F401  loaded before the fork, so that no child loads it again

    before = set(os.listdir(folder))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        gc.freeze()  # the child must not collect sessions of this process, whose threads it does not have
        child = os.fork()
        if child == 0:
            _command(arguments, folder, (out.fileno(), err.fileno()), seconds, check)
        gc.unfreeze()
        clock = threading.Timer(PATIENCE * seconds, _kill, [child])  # what sleeps; what works ends by the limit on its processor time
        clock.start()
        _, status, used = os.wait4(child, 0)
        clock.cancel()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="backslashreplace"))
    left = tuple(sorted(set(os.listdir(folder)) - before))
    return End(os.waitstatus_to_exitcode(status), *texts, left, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)  # type: ignore[arg-type]


def _kill(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def _command(arguments: Sequence[str], folder: Path, files: tuple[int, int], seconds: float, check: Callable[[], None] | None) -> None:
    """The child: it never returns."""
    status = 70
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(files[0], 1)
        os.dup2(files[1], 2)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", errors="backslashreplace") for number in (1, 2))  # not what a test put there
        os.chdir(folder)
        own = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (own + BYTES, own + BYTES))  # beside what the parent of the fork holds
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds)))
        status = _status(arguments)
        if status == 0 and check is not None:
            check()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _status(arguments: Sequence[str]) -> int:
    from onnxsal.cli.app import app

    try:
        app(list(arguments), prog_name="onnxsal")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    return 0


def strict(text: str) -> None:
    """Raise ``ValueError`` where the text is not one JSON value as the standard has it (NaN and Infinity are not)."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    json.loads(text, parse_constant=refuse)
