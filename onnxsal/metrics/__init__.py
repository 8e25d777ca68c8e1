"""Can a map be trusted: each metric a function on arrays and an ``Explainer``."""

from onnxsal.metrics.axioms import WeakDependence, completeness, weak_dependence

__all__ = ["WeakDependence", "completeness", "weak_dependence"]
