"""Sessions, providers, pictures: the only folder that imports onnxruntime."""
