"""What wraps or replaces a walk: paths, noise, class activation maps, perturbation. Importing this package registers every wrapper."""

import importlib
import pkgutil

from onnxsal.methods.build import WRAPPERS

for _module in pkgutil.walk_packages(__path__, f"{__name__}."):
    importlib.import_module(_module.name)

__all__ = ["WRAPPERS"]
