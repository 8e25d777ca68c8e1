"""Where one operator lives: gradient, family, implicit bias and cases. Importing this package registers every operator."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
