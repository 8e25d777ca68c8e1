"""A method's parameters on the command line: ``-p n_steps=25``, or ``--n-steps 25`` as if it were an option of the command."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxsal.engine.method import get_method, known_methods
from onnxsal.engine.table_rows import Parameter
from onnxsal.errors import InputError, MethodError, OnnxsalError, near_miss
from onnxsal.runtime.arrays import read_array
from onnxsal.settings import parse_toml

PRESET = "preset"


def as_parameters(args: Sequence[str], options: Mapping[str, bool], fail: Callable[[str], object]) -> list[str]:
    """Rewrite long options that are parameters of a method as ``--param name=value``.

    ``options`` are the command's own, each with whether it is a flag. What is neither is handed to ``fail`` with the near miss.
    """
    known = _parameters(args)
    written: list[str] = []
    left = list(args)
    while left:
        word = left.pop(0)
        option, equals, value = word.partition("=")
        if not option.startswith("-") or option == "-" or option in options or _short(option, options):
            written.append(word)
            if options.get(option) is False and not equals and left:
                written.append(left.pop(0))
            continue
        name = option.lstrip("-").replace("-", "_")
        if not option.startswith("--") or name not in known:
            if _is_number(word):
                written.append(word)
                continue
            names = [*options, *("--" + n.replace("_", "-") for n in known)]
            fail(f"No such option: {option}{near_miss(option, names)}.")
        if not equals:
            flag = isinstance(known[name], bool) and (not left or left[0] not in ("true", "false"))
            if not flag and not left:
                fail(f"Option {option} needs a value.")
            value = "true" if flag else left.pop(0)
        written += ["--param", f"{name}={value}"]
    return written


def _short(option: str, options: Mapping[str, bool]) -> bool:
    """``-pname=1`` and ``-oout``: a short option with its value behind it."""
    return not option.startswith("--") and option[:2] in options


def _is_number(word: str) -> bool:
    with contextlib.suppress(ValueError):
        float(word)
        return True
    return False


def _parameters(args: Sequence[str]) -> dict[str, Any]:
    """Every parameter name and alias of the shipped methods with its default; the method or rule file named in ``args`` comes first."""
    methods = list(known_methods().values())
    for word, following in zip(args, [*args, ""][1:], strict=True):
        option, equals, value = word.partition("=")
        if option in ("--rules", "--method", "-m"):
            with contextlib.suppress(OnnxsalError):  # the command itself will say what is wrong with it
                methods.append(get_method(value if equals else following))
    tables: list[tuple[str, Parameter]] = [item for method in methods for item in method.parameters.items()]
    return {PRESET: ""} | {name: p.default for key, p in tables for name in (key, *p.aliases)}


def read_parameters(given: Sequence[str]) -> dict[str, Any]:
    """``name=value`` words as a dict. A value is a TOML literal, the path of a .npy array or of a .npz (one array, or a table of several),
    or plain text.
    """
    found: dict[str, Any] = {}
    for word in given:
        name, equals, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise MethodError(f"parameter '{word}' is not of the form name=value, such as n_steps=25.")
        found[name] = _value(text.strip())
    return found


def _value(text: str) -> Any:
    if text.endswith((".npy", ".npz")):
        found = read_array(Path(text))
        return next(iter(found.values())) if isinstance(found, dict) and len(found) == 1 else found
    try:
        table = parse_toml(f"value = {text}", "the value")
    except InputError:
        return text
    return table["value"] if list(table) == ["value"] else text
