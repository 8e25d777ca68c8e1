"""onnxsal explains deployed models: an ONNX file goes in, the same model with its explanation built in comes out."""

import logging
from typing import TYPE_CHECKING

from onnxsal.engine.method import Method
from onnxsal.engine.plan import Plan
from onnxsal.errors import OnnxsalError
from onnxsal.explainer import Explainer, explain
from onnxsal.explanation import Explanation
from onnxsal.facade.check import Report, check
from onnxsal.facade.convert import convert
from onnxsal.facade.fit_patterns import fit_patterns
from onnxsal.facade.inspect import methods, ops, plan
from onnxsal.facade.vjp import vjp
from onnxsal.methods.patterns.file import Patterns
from onnxsal.runtime.libraries import imported_later

if TYPE_CHECKING:
    from onnxsal.metrics import Evaluation, evaluate
    from onnxsal.report.audit import Audit, audit

__all__ = [
    "Audit",
    "Evaluation",
    "Explainer",
    "Explanation",
    "Method",
    "OnnxsalError",
    "Patterns",
    "Plan",
    "Report",
    "audit",
    "check",
    "convert",
    "evaluate",
    "explain",
    "fit_patterns",
    "methods",
    "ops",
    "plan",
    "vjp",
]

LATER = {"Evaluation": "onnxsal.metrics", "evaluate": "onnxsal.metrics", "Audit": "onnxsal.report.audit", "audit": "onnxsal.report.audit"}
"""What is imported when it is first asked for: who converts and explains needs no measures, pages and charts."""

logging.getLogger(__name__).addHandler(logging.NullHandler())

__getattr__, __dir__ = imported_later(__name__, globals(), LATER)
