"""Which operators an execution provider has kernels for, as data read off a released ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from onnxsal.errors import ProviderError, near_miss

PROVIDERS = ("cpu", "cuda")


@cache
def _table(provider: str) -> dict[str, Any]:
    if provider not in PROVIDERS:
        raise ProviderError(f"no kernel table for provider '{provider}'{near_miss(provider, PROVIDERS)}; known: {', '.join(PROVIDERS)}.")
    text = files("onnxsal.runtime.kernels").joinpath(f"{provider}.json").read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text)
    return table


def release(provider: str) -> str:
    """The ONNX Runtime release whose kernels the table lists."""
    return str(_table(provider)["onnxruntime"])


def has_kernel(provider: str, domain: str, op_type: str, opset: int, types: Mapping[str, set[str]]) -> bool:
    """Whether the provider has a kernel for the operator at this opset that takes these element types (names as in "float").

    ``types`` maps the operator's type parameters to them, '' to those of an operator whose parameters are not known; a parameter that
    a kernel does not list is not restricted. Raises ``ProviderError`` for a provider without a table.
    """
    rows = _table(provider)["kernels"].get(f"{domain or 'ai.onnx'}::{op_type}", [])
    return any(_covers(row["opset"], opset) and _takes(row["types"], types) for row in rows)


def _takes(allowed: Mapping[str, list[str]], types: Mapping[str, set[str]]) -> bool:
    every = {t for listed in allowed.values() for t in listed}
    return not allowed or all(found <= set(allowed.get(name, found if name else every)) for name, found in types.items())


def _covers(span: str, opset: int) -> bool:
    low, _, high = span.rstrip("+").partition("-")
    return int(low) <= opset and (span.endswith("+") or opset <= int(high or low))
