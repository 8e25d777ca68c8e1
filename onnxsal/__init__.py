"""onnxsal explains deployed models: an ONNX file goes in, the same model with its explanation built in comes out."""

from onnxsal.engine.method import Method
from onnxsal.engine.plan import Plan
from onnxsal.errors import OnnxsalError
from onnxsal.explainer import Explainer
from onnxsal.explanation import Explanation
from onnxsal.facade.check import Report, check
from onnxsal.facade.convert import convert
from onnxsal.facade.fit_patterns import fit_patterns
from onnxsal.facade.inspect import methods, ops, plan
from onnxsal.facade.vjp import vjp
from onnxsal.methods.patterns.file import Patterns

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
