"""Which operators an execution provider has kernels for, as data read off a released ONNX Runtime."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

from onnxsal.errors import ProviderError, near_miss

PROVIDERS = ("cuda",)


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


def has_kernel(provider: str, domain: str, op_type: str, opset: int, types: set[str]) -> bool:
    """Whether the provider has a kernel for the operator at this opset that takes the element ``types`` (names as in "float").

    Raises ``ProviderError`` for a provider without a table.
    """
    rows = _table(provider)["kernels"].get(f"{domain or 'ai.onnx'}::{op_type}", [])
    fitting = [row for row in rows if _covers(row["opset"], opset)]
    return any(types <= {t for allowed in row["types"].values() for t in allowed} or not row["types"] for row in fitting)


def _covers(span: str, opset: int) -> bool:
    low, _, high = span.rstrip("+").partition("-")
    return int(low) <= opset and (span.endswith("+") or opset <= int(high or low))
