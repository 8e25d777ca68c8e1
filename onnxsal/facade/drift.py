"""How far a model's own outputs move: by ONNX Runtime's optimisation alone, and by what reads beside them in the converted file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from onnxsal.errors import ModelError, OnnxsalError
from onnxsal.facts.part import part_of
from onnxsal.graph import Model
from onnxsal.graph.load import Source
from onnxsal.limits import refuse_over
from onnxsal.runtime.feeds import fed_inputs
from onnxsal.runtime.probe import first_run, relative_difference
from onnxsal.runtime.session import open_session, optimised

MOST = 2**22
"""Random numbers that a model is fed with to be compared, at most: the pictures of 224 x 224 of a batch of 27."""


@dataclass(frozen=True)
class Drift:
    """Largest difference of an output, relative to its largest value, on one example on this machine's CPU.

    ``converted``: the converted file's from the original's, both as ONNX Runtime optimises by default; ``optimisation``: the original's as
    optimised from the original's as written. ``why``: why there are no figures ('' = there are).
    """

    converted: float | None
    optimisation: float | None
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        if self.why:
            return f"the model's own outputs were not compared: {self.why}"
        return (
            f"own outputs, as ONNX Runtime optimises by default: {self.converted:.1e} from the original's, "
            f"which optimisation alone moves by {self.optimisation:.1e}"
        )


def drift(model: Source, before: onnx.ModelProto, after: onnx.ModelProto, example: Mapping[str, np.ndarray]) -> Drift:
    """Run ``model`` (``before`` is its proto) as written and optimised, and ``after`` optimised, once each.

    Of ``after`` only what its own outputs need is run, as optimisation left it: what the explanation adds may take minutes.
    """
    names = [o.name for o in before.graph.output]
    drawn = sum(_elements(value) for value in fed_inputs(before) if value.name not in example)
    if drawn > MOST:
        return Drift(None, None, f"random input would be {drawn:,} numbers; give data (--example FILE, example=)")
    try:
        refuse_over("optimised_nodes", len(after.graph.node), "the converted model", ModelError)
        feed, written = first_run(before, example)
        own = open_session(model).bounded(before).run(feed, names)
        part = open_session(part_of(Model(optimised(after)), names).whole(), optimise=False).bounded(before)
        ours = part.run({t.name: feed[t.name] for t in part.inputs}, names)
    except OnnxsalError as error:
        return Drift(None, None, str(error))
    return Drift(_gap(own, ours), _gap(written, own))


def _elements(value: onnx.ValueInfoProto) -> int:
    """The elements of an input, its open sizes taken as 1."""
    return math.prod(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)


def _gap(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    return max((relative_difference(a[name], b[name]) for name in a), default=0.0)
