"""Libraries that only the metrics need (the extra ``evaluate``), loaded when one is used."""

from __future__ import annotations

import importlib
from typing import Any

from onnxsal.errors import OnnxsalError


class MissingLibraryError(OnnxsalError):
    """A metric needs a library that is not installed."""


PACKAGES = {"scipy": "scipy", "skimage": "scikit-image"}


def library(module: str) -> Any:
    """The module, or an error that says what to install."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = PACKAGES[module.partition(".")[0]]
        raise MissingLibraryError(
            f"this metric needs {package}, which cannot be imported ({error}). Install it: pip install 'onnxsal[evaluate]'."
        ) from error
