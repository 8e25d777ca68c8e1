"""The signatures that functions have, not those that they are written with: verbs are written as functions of an ``Ask``, and called with
every field of it as a keyword (``onnxsal.ask.request.Spelled``).
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import griffe

KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: griffe.ParameterKind.positional_only,
    inspect.Parameter.POSITIONAL_OR_KEYWORD: griffe.ParameterKind.positional_or_keyword,
    inspect.Parameter.VAR_POSITIONAL: griffe.ParameterKind.var_positional,
    inspect.Parameter.KEYWORD_ONLY: griffe.ParameterKind.keyword_only,
    inspect.Parameter.VAR_KEYWORD: griffe.ParameterKind.var_keyword,
}


class Spelled(griffe.Extension):
    """Gives functions that state a signature of their own that one, without types: these are in the docstring, in words."""

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        """Called by griffe for every function that it reads."""
        if not func.decorators:
            return
        own: Any = importlib.import_module(func.module.path)
        for name in func.path.removeprefix(func.module.path + ".").split("."):
            own = getattr(own, name)
        stated = getattr(own, "__signature__", None)
        if stated is not None:
            func.parameters = griffe.Parameters(*(_parameter(one) for one in stated.parameters.values()))


def _parameter(one: inspect.Parameter) -> griffe.Parameter:
    default = None if one.default is inspect.Parameter.empty else repr(one.default)
    return griffe.Parameter(one.name, kind=KINDS[one.kind], default=default)
