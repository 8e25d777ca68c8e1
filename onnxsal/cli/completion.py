"""What a shell offers while an option's word is typed: ``onnxsal --install-completion`` teaches it to ask.

A function takes what is typed so far and returns the words that could be meant. Where a file could be meant as well, the shell adds those.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnxsal.engine.method import known_methods
from onnxsal.metrics.measures import MEASURES
from onnxsal.runtime.kernels import PROVIDERS
from onnxsal.runtime.presets import PRESETS
from onnxsal.runtime.providers import built_in_words


def _begin(words: Iterable[str], typed: str) -> list[str]:
    return sorted(word for word in words if word.startswith(typed))


def _listed(words: Iterable[str], typed: str) -> list[str]:
    """The same for a list with commas, of which the last word is being typed; a word that stands there already is not offered."""
    before, comma, last = typed.rpartition(",")
    said = before.split(",")
    return [before + comma + word for word in _begin((w for w in words if w not in said), last)]


def one_method(incomplete: str) -> list[str]:
    """Names of methods."""
    return _begin(known_methods(), incomplete)


def several_methods(incomplete: str) -> list[str]:
    """Names of methods, separated by commas."""
    return _listed(known_methods(), incomplete)


def several_metrics(incomplete: str) -> list[str]:
    """Names of metrics, separated by commas."""
    return _listed(MEASURES, incomplete)


def one_preset(incomplete: str) -> list[str]:
    """Names of preprocessings."""
    return _begin(PRESETS, incomplete)


def several_providers(incomplete: str) -> list[str]:
    """Execution providers of this machine's ONNX Runtime, separated by commas."""
    return _listed(built_in_words(), incomplete)


def one_kernel_table(incomplete: str) -> list[str]:
    """Execution providers whose kernels are known."""
    return _begin(PROVIDERS, incomplete)
