"""Put right what a model declares of its tensors where the graph computes something else; ONNX Runtime only warns of it."""

from __future__ import annotations

import onnx

from onnxsal.graph.infer import contradicted, shape_text
from onnxsal.passes.base import Pass, PassOutcome


def _run(proto: onnx.ModelProto) -> PassOutcome:
    wrong = contradicted(proto)
    for value in (*proto.graph.output, *proto.graph.value_info):
        if value.name in wrong:
            shape = wrong[value.name][1]
            declared = value.type.tensor_type.shape
            declared.Clear()
            for size in shape:
                declared.dim.add(**({"dim_value": size} if isinstance(size, int) else {"dim_param": size} if size else {}))
    told = [f"'{name}' was {shape_text(was)} and is {shape_text(now)}" for name, (was, now) in wrong.items()]
    more = f", and {len(told) - 3} more" if len(told) > 3 else ""
    return PassOutcome(len(wrong), f"declared shapes that the graph contradicts: {'; '.join(told[:3])}{more}" if wrong else "")


DECLARATIONS = Pass("put declarations right", _run)
"""Last, when everything stands in operators that shape inference knows."""
