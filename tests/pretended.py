"""A session that claims to be on CUDA and runs on the CPU, where its tensors lie too: what stands in for a card."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import onnxruntime as ort
import pytest

from onnxsal.runtime import session
from onnxsal.runtime.providers import CPU, CUDA, HOST

REAL = ort.InferenceSession
PLACED = [SimpleNamespace(ep_name=CUDA, get_nodes=lambda: [SimpleNamespace(op_type="Conv", name="c1")])]


class Pretended:
    """As far as sessions are asked: the providers that were asked for, their options, which nodes are where, and runs."""

    refusal = ""
    """What ONNX Runtime says when it is asked for CUDA graphs ('' = it opens)."""
    failing: Callable[[str], str] = staticmethod(lambda number: "")
    """What CUDA says in a run of that graph ('' = it runs)."""
    placed: list[Any] = PLACED
    """Which provider has which nodes."""

    def __init__(self, source: Any, options: Any, providers: list[tuple[str, dict[str, str]]], **_: Any) -> None:
        self.asked, self.graphs = dict(providers), []
        if self.refusal and "enable_cuda_graph" in self.asked.get(CUDA, {}):
            raise RuntimeError(self.refusal)
        self.session = REAL(source, options, providers=[CPU])

    def get_providers(self) -> list[str]:
        return [*self.asked] if CPU in self.asked else [*self.asked, CPU]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return {}

    def get_provider_graph_assignment_info(self) -> list[Any]:
        return self.placed

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        number = options.get_run_config_entry("gpu_graph_id")
        self.graphs.append(number)
        if said := self.failing(number):
            raise RuntimeError(said)
        self.session.run_with_iobinding(binding, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> type[Pretended]:
    """Every session on "cuda" is pretended; the tensors of one lie in the host's memory."""

    class Card(Pretended):
        pass

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(ort, "InferenceSession", Card)
    monkeypatch.setattr(session, "device_of", lambda obtained: HOST)
    return Card
