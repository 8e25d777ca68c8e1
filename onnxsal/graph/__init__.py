"""The model as a graph: read it (``Model``), add to it (``Emit``), save it. The only folder that imports onnx_graphsurgeon."""

from onnxsal.graph.emit import Emit, Operand, compute_dtype
from onnxsal.graph.infer import Dim, Shape
from onnxsal.graph.model import FLOAT8, FLOATS, GRID, HALF, Model, NodeView, Signals, Value

__all__ = ["FLOAT8", "FLOATS", "GRID", "HALF", "Dim", "Emit", "Model", "NodeView", "Operand", "Shape", "Signals", "Value", "compute_dtype"]
