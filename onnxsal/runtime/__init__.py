"""Sessions, providers, pictures: the only folder that imports onnxruntime."""

from onnxsal.runtime.quiet import import_quietly

import_quietly("onnxruntime")
