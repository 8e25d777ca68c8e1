"""What a long run has done, in an append-only file: killed at any moment, it loses what was in the making and nothing else."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from onnxsal.disk import keeps, refuse_input
from onnxsal.errors import InputError, OutputError
from onnxsal.settings import FileName, Number, Phrase, Whole, as_text, checked, open_schema, parse_json, read_bytes

Line: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str]
"""What was done (settings, model, method and metric, as a hash) and on which sample."""


@open_schema
class KeptLine:
    """What every line has."""

    key: Phrase
    sample: FileName
    digest: Phrase


@open_schema
class DamagedLine(KeptLine):
    """A sample that could not be read, and why."""

    why: FileName


@open_schema
class MeasuredLine(KeptLine):
    """A metric of one map; a number that is not finite is null."""

    target: Whole
    distinct: Whole
    tied: Number | None
    values: dict[Phrase, Number | None]
    curves: dict[Phrase, tuple[list[Number], list[Number | None]]]
    flag: FileName


def measured_or_damaged(line: Mapping[str, Any]) -> type[KeptLine]:
    """The schema of a line of an evaluation."""
    return DamagedLine if "why" in line else MeasuredLine


class Record:
    """Lines of JSON by ``key`` and ``sample``, each with the ``digest`` of the sample it is about; a later line replaces an earlier one.

    Without a ``path`` it lives in memory. A line that a killed run left half written is dropped. ``kind`` gives the schema of a line.
    """

    def __init__(self, path: Path | None = None, kind: Callable[[Mapping[str, Any]], type[KeptLine]] = lambda line: KeptLine) -> None:
        self.path = path
        self.kind = kind
        self._lines: dict[Key, Line] = {}

    def __len__(self) -> int:
        return len(self._lines)

    def lines(self) -> list[Line]:
        """Everything that is kept, in the order in which it was noted."""
        return list(self._lines.values())

    def get(self, key: str, sample: str, digest: str) -> Line | None:
        """What was found on this sample, if it is still the same one."""
        line = self._lines.get((key, sample))
        return line if line is not None and line["digest"] == digest else None

    def put(self, lines: Iterable[Mapping[str, Any]]) -> None:
        """Keep lines, together; they are on the disk when this returns."""
        new = [{k: packed(v) for k, v in line.items()} for line in lines]
        if self.path is not None and new:
            text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in new)
            try:
                with self.path.open("ab", buffering=0) as file:  # one write, which a kill does not cut
                    file.write(text.encode())
                    os.fsync(file.fileno())
            except OSError as error:
                raise OutputError(f"state '{self.path}' cannot be written: {error.strerror or error}. What is in it stays.") from error
        for line in new:
            self._lines[line["key"], line["sample"]] = line

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Read the file and hold it, for one run at a time (where the system can)."""
        if self.path is None:
            yield
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            refuse_input(self.path)
            file = self.path.open("ab")
            keeps(self.path)
        except OSError as error:
            raise OutputError(f"state '{self.path}' cannot be written: {error.strerror or error}.") from error
        with file:
            _lock(file, self.path)
            self._lines = {(line["key"], line["sample"]): line for line in _whole_lines(self.path, self.kind)}
            yield


def _lock(file: Any, path: Path) -> None:
    try:
        fcntl = importlib.import_module("fcntl")
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InputError(f"another run is writing '{path}': wait for it, or name another folder.") from error


def _whole_lines(path: Path, kind: Callable[[Mapping[str, Any]], type[KeptLine]]) -> list[Line]:
    """The lines of a file; what stands behind its last line break is cut off, for the next line to begin there."""
    data = read_bytes(path, f"state '{path}'", "table_bytes")
    end, found = data.rfind(b"\n") + 1, list[Line]()
    for number, text in enumerate(data[:end].splitlines(), 1):
        try:
            line = parse_json(as_text(text, "it"), "it", names=True)
            checked(kind(line) if isinstance(line, dict) else KeptLine, line, "it")
        except InputError as error:
            raise InputError(
                f"state '{path}', line {number} is damaged ({error}): delete that line, or the file to begin again."
            ) from error
        found.append(line)
    if not end and data and not data.startswith(FIRST):
        raise InputError(f"'{path}' is no state of a run: remove it, or name another folder.")
    if end < len(data):
        try:
            with path.open("r+b") as file:
                file.truncate(end)
        except OSError as error:
            raise OutputError(f"state '{path}' cannot be written: {error.strerror or error}.") from error
    return found


FIRST = b'{"'
"""What a line begins with, even one that was cut short."""


def forget(path: Path) -> None:
    """Remove the state that an earlier run left, if it is there; it may be damaged behind its first line.

    Raises ``OutputError`` where it is an input of the command, and ``InputError`` where it is no state.
    """
    if refuse_input(path) is None:
        return
    try:
        with path.open("rb") as file:
            first = file.readline()
        if first.endswith(b"\n"):
            line = json.loads(first)
            _ = line["key"], line["sample"], line["digest"]
        elif first and not first.startswith(FIRST):
            raise ValueError("it does not begin as one")
        path.unlink()
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"'{path}' is no state of a run ({error}): remove it, or name another folder.") from error
    except OSError as error:
        raise OutputError(f"state '{path}' cannot be removed: {error.strerror or error}.") from error


def packed(value: Any) -> Any:
    """For JSON, so that reading it gives the same numbers: NaN becomes null."""
    if isinstance(value, Mapping):
        return {str(k): packed(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return packed(value.tolist())
    if isinstance(value, list | tuple):
        return [packed(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def unpacked(value: float | None) -> float:
    """A number out of a line."""
    return math.nan if value is None else float(value)
