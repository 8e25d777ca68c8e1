"""The terms of the page, in the words of a kind of data."""

from __future__ import annotations

import importlib.resources
import tomllib

from onnxsal.metrics.data_kind import DataKind


def glossary_of(kind: DataKind) -> dict[str, dict[str, str]]:
    """Term -> ``short`` and ``long``: those that a kind of data has, with its nouns."""
    every = tomllib.loads(importlib.resources.files("onnxsal.report.audit").joinpath("glossary.toml").read_text(encoding="utf-8"))
    own = {term: {**said, **said.get(kind.many, {})} for term, said in every.items() if said.get("only", kind.many) == kind.many}
    return {term: {"short": kind.say(said["short"]), "long": _begun(kind.say(said["long"]))} for term, said in own.items()}


def _begun(text: str) -> str:
    """With a capital, as a sentence begins."""
    return text[:1].upper() + text[1:]
