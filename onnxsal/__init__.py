"""onnxsal explains deployed models: an ONNX file goes in, the same model with its explanation built in comes out."""

from onnxsal.methods.vjp import vjp

__all__ = ["vjp"]
