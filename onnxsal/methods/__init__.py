"""What wraps or replaces a walk: paths, noise, class activation maps, perturbation. Importing this package registers every wrapper."""

from onnxsal.methods import cam as _cam  # noqa: F401
from onnxsal.methods import deeplift as _deeplift  # noqa: F401
from onnxsal.methods import fullgrad as _fullgrad  # noqa: F401
from onnxsal.methods import path as _path  # noqa: F401
from onnxsal.methods import perturb as _perturb  # noqa: F401
from onnxsal.methods import projection as _projection  # noqa: F401
from onnxsal.methods import relevance as _relevance  # noqa: F401
from onnxsal.methods import smooth as _smooth  # noqa: F401
from onnxsal.methods.build import WRAPPERS
from onnxsal.methods.patterns import explain as _patterns  # noqa: F401

__all__ = ["WRAPPERS"]
