"""Libraries that only metrics, charts and audits need (the extras ``evaluate`` and ``plot``), loaded when one is used."""

from __future__ import annotations

import importlib
from typing import Any

from onnxsal.errors import OnnxsalError


class MissingLibraryError(OnnxsalError):
    """A metric, a chart or an audit needs a library that is not installed."""


PACKAGES = {"matplotlib": "matplotlib", "scipy": "scipy", "skimage": "scikit-image"}
EXTRAS = {"matplotlib": "plot"}
"""Package -> the extra that brings it; others come with ``evaluate``."""


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
