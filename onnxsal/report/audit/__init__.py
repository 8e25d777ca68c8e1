"""The audit: a model is looked at on pictures or rows, its maps are measured, every check is made and judged; a page and a JSON tell it."""

from onnxsal.report.audit.call import audit
from onnxsal.report.audit.evidence import MEASURED, Request
from onnxsal.report.audit.gate import Limit, quantities, read_limits, refuse_idle_limits
from onnxsal.report.audit.population import ClassRow, Duplicates, MapCluster, Population, Reason, Statistic
from onnxsal.report.audit.run import DEFAULT_METHODS, OFFERED, Audit, audited, forget_work
from onnxsal.report.audit.schema import schema

__all__ = [
    "DEFAULT_METHODS",
    "MEASURED",
    "OFFERED",
    "Audit",
    "ClassRow",
    "Duplicates",
    "Limit",
    "MapCluster",
    "Population",
    "Reason",
    "Request",
    "Statistic",
    "audit",
    "audited",
    "forget_work",
    "quantities",
    "read_limits",
    "refuse_idle_limits",
    "schema",
]
