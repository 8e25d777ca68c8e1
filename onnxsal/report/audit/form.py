"""What an auditor's form asks the provider of a model for: read from a TOML, printed as it stands, and never made up."""

from __future__ import annotations

import importlib.resources
import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from onnxsal.errors import InputError, near_miss
from onnxsal.settings import Phrases, checked, parse_toml, read_text, shown, validated


@cache
def forms() -> dict[str, Any]:
    """Form -> its ``title`` and ``fields`` (name -> what is asked)."""
    return tomllib.loads(importlib.resources.files("onnxsal.report.audit").joinpath("form.toml").read_text(encoding="utf-8"))


def read_form(path: Path) -> dict[str, str]:
    """The statements of a TOML file with a table for each form, as "form.field" -> text.

    Raises ``InputError`` with every mistake at once: unknown forms and fields, statements that are no text (or lists of texts).
    """
    what = f"form '{path}'"
    given = parse_toml(read_text(path, what, "toml_bytes"), what)
    if mistakes := list(_mistakes(given)):
        raise InputError(f"{what}:\n" + "\n".join(mistakes))
    return {f"{form}.{name}": "; ".join(checked(Phrases, text, what)) for form, own in given.items() for name, text in own.items()}


def _mistakes(given: Mapping[str, Any]) -> Iterator[str]:
    for form, own in given.items():
        if form not in forms() or not isinstance(own, dict):
            yield f"'{form}' is no table of a form{near_miss(form, forms())}; there are [{'], ['.join(forms())}]."
            continue
        for name, text in own.items():
            known = forms()[form]["fields"]
            if name not in known:
                yield f"[{form}] has no field '{name}'{near_miss(name, known)}; it has {', '.join(known)}."
            elif not "".join(validated(Phrases, text)[0] or ()).strip():
                yield f"[{form}] {name} = {shown(text)} is no text, nor a list of texts."


def asked(given: Mapping[str, str]) -> list[tuple[str, list[tuple[str, str]], list[str]]]:
    """For each form that anything is stated of: its title, what was asked and stated, and what was not stated."""
    told = []
    for form, about in forms().items():
        stated = [(words, given[f"{form}.{name}"]) for name, words in about["fields"].items() if f"{form}.{name}" in given]
        if stated:
            told.append((about["title"], stated, [words for name, words in about["fields"].items() if f"{form}.{name}" not in given]))
    return told
