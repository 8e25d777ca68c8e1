"""How a signal crosses a node, per operator family. Importing this package registers every rule."""

from onnxsal.backward import deeplift as _deeplift  # noqa: F401
from onnxsal.backward import gradient as _gradient  # noqa: F401
from onnxsal.backward import lrp as _lrp  # noqa: F401
from onnxsal.backward import meeting as _meeting  # noqa: F401
from onnxsal.backward import modified as _modified  # noqa: F401
from onnxsal.backward import pattern as _pattern  # noqa: F401
from onnxsal.backward import residual as _residual  # noqa: F401
from onnxsal.backward.registry import RULES, Rule, rule

__all__ = ["RULES", "Rule", "rule"]
