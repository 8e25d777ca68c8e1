"""Several methods on the command line: ``--methods fullgrad,ig:n_steps=20,mine.toml``."""

from __future__ import annotations

from pathlib import Path

from onnxsal.cli.parameters import read_parameters
from onnxsal.engine.method import get_method, shipped_methods
from onnxsal.errors import MethodError
from onnxsal.metrics.evaluation import Way

OF_ONE = ("preset", "quantize", "layer", "grid", "score")
"""What one method may have for itself beside its parameters."""


def chosen_ways(text: str) -> list[Way]:
    """The methods of ``--methods``: names or rule files, each with its parameters behind colons."""
    words = [w.strip() for w in text.split(",") if w.strip()]
    if words == ["all"]:
        return [Way(name, name) for name in shipped_methods()]
    ways = []
    for word in words:
        name, *given = word.split(":")
        parameters = read_parameters(given)
        method = get_method(Path(name) if name.endswith(".toml") else name)
        known = [*dict.fromkeys([*method.parameters, *sorted(method.names), *OF_ONE])]
        wrong = [p for p in parameters if p not in known]
        if wrong:
            raise MethodError(f"method '{method.name}' has no parameter '{wrong[0]}'; it has {', '.join(known)}.")
        ways.append(Way(":".join([method.name, *given]), method, parameters))
    if not ways:
        raise MethodError("no method was named; `onnxsal methods` lists them.")
    return ways
