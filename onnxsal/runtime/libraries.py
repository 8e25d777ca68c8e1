"""Libraries that come with an extra (``plot``, ``evaluate`` and others), and names of our own packages, loaded where one is used."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from onnxsal.errors import OnnxsalError


class MissingLibraryError(OnnxsalError):
    """What was asked for needs a library that is not installed."""


PACKAGES = {
    "fsspec": "fsspec",
    "matplotlib": "matplotlib",
    "pyarrow": "pyarrow",
    "ray": "ray",
    "scipy": "scipy",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "tokenizers": "tokenizers",
}
EXTRAS = {"fsspec": "ray", "matplotlib": "plot", "pyarrow": "table", "ray": "ray", "scikit-learn": "fleet", "tokenizers": "text"}
"""Package -> the extra that brings it; others come with ``evaluate``."""


def has(module: str) -> bool:
    """Whether a library is there, without loading it; one that is put out of reach counts as missing."""
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # sys.modules holds None for it
        return False


def library(module: str) -> Any:
    """The module, or an error that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = PACKAGES[module.partition(".")[0]]
        extra = EXTRAS.get(package, "evaluate")
        raise MissingLibraryError(
            f"this needs {package}, which cannot be imported ({error}). Install it: pip install 'onnxsal[{extra}]'."
        ) from error


def imported_later(package: str, own: Mapping[str, Any], places: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a ``package`` with its ``own`` names and those that lie at ``places`` (name -> module).

    ``__getattr__`` raises ``AttributeError`` for others.
    """

    def found(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(places[name]), name)

    return found, lambda: sorted({*own, *places})
