"""Networks for tests and benchmarks: the architectures that the onnx package ships, with random weights in place of its constant ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"


def light(name: str, seed: int = 0) -> onnx.ModelProto:
    """``light_<name>.onnx`` of the onnx package, opset 9, its ConstantOfShape weights replaced by seeded random ones.

    He-initialised kernels, small biases, batch-norm scales and variances around 1: signals keep their size through the depth.
    """
    model = onnx.load(str(LIGHT / f"light_{name}.onnx"))
    rng = np.random.default_rng(seed)
    shapes = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    made = {n.output[0]: shapes[n.input[0]] for n in model.graph.node if n.op_type == "ConstantOfShape"}
    laid_out = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Unsqueeze"}  # a factor of each channel
    read = [(laid_out.get(name, name), node.op_type, i) for node in model.graph.node for i, name in enumerate(node.input)]
    roles = {name: (op_type, i) for name, op_type, i in read if name in made and op_type != "Unsqueeze"}
    used_as_shape = {n.input[0] for n in model.graph.node if n.op_type == "ConstantOfShape"}
    _keep(model.graph.node, [n for n in model.graph.node if n.op_type != "ConstantOfShape"])
    _keep(model.graph.initializer, [t for t in model.graph.initializer if t.name not in used_as_shape])
    _keep(model.graph.input, [i for i in model.graph.input if i.name not in used_as_shape])
    declared = {i.name for i in model.graph.input}
    for tensor, shape in made.items():
        array = _draw(rng, tuple(int(d) for d in shape), *roles.get(tensor, ("", 0)))
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), tensor))
        if tensor not in declared:  # IR 3 lists every initialiser as an input
            model.graph.input.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, list(array.shape)))
    return model


def _keep(field: object, entries: list) -> None:
    copies = [type(e).FromString(e.SerializeToString()) for e in entries]
    del field[:]  # type: ignore[attr-defined]
    field.extend(copies)  # type: ignore[attr-defined]


def _draw(rng: np.random.Generator, shape: tuple[int, ...], op_type: str, position: int) -> np.ndarray:
    """Random values for the role a tensor plays: input ``position`` of an operator."""
    if op_type == "BatchNormalization":
        low, high = {1: (0.5, 1.0), 2: (-0.3, 0.3), 3: (-0.3, 0.3), 4: (0.6, 1.4)}[position]
        return rng.uniform(low, high, shape)
    if op_type == "Mul":
        return rng.uniform(1.2, 2.4, shape)  # behind a batch-norm whose scales are 0.75 on average
    if op_type in ("Conv", "Gemm") and position == 1:
        fan_in = int(np.prod(shape[1:])) if op_type == "Conv" else shape[-1]
        return rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)
    return rng.uniform(-0.1, 0.1, shape)


def image_input(model: onnx.ModelProto) -> str:
    """Name of the one input that is no initialiser."""
    weights = {t.name for t in model.graph.initializer}
    (name,) = [i.name for i in model.graph.input if i.name not in weights]
    return name
