"""onnxsal explains deployed models: an ONNX file goes in, the same model with its explanation built in comes out."""

from onnxsal.engine.method import Method
from onnxsal.engine.plan import Plan
from onnxsal.errors import OnnxsalError
from onnxsal.explainer import Explainer, Explanation
from onnxsal.methods.convert import convert
from onnxsal.methods.inspect import Report, check, methods, ops, plan
from onnxsal.methods.patterns.file import Patterns
from onnxsal.methods.patterns.fit import fit_patterns
from onnxsal.methods.vjp import vjp

__all__ = [
    "Explainer",
    "Explanation",
    "Method",
    "OnnxsalError",
    "Patterns",
    "Plan",
    "Report",
    "check",
    "convert",
    "fit_patterns",
    "methods",
    "ops",
    "plan",
    "vjp",
]
