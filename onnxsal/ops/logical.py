"""Operators whose outputs have no derivative, each with the reason: a signal that reaches one ends there, by definition."""

from __future__ import annotations

import numpy as np

from onnxsal.ops import edges
from onnxsal.ops.axes import aligned, along, reduced
from onnxsal.ops.ranges import NOT_NEGATIVE, UNIT, growing
from onnxsal.ops.registry import not_differentiable

not_differentiable("it returns sizes, which do not depend on the values", "Shape", "Size", range=NOT_NEGATIVE, of_sizes=True)
_INDICES = "it returns indices, which are piecewise constant"
not_differentiable(_INDICES, "ArgMax", "ArgMin", range=NOT_NEGATIVE, axes=reduced, compares=0)
not_differentiable(_INDICES, "NonZero", range=NOT_NEGATIVE, compares=0)
not_differentiable(_INDICES, "NonMaxSuppression", range=NOT_NEGATIVE, compares=1)
not_differentiable(
    "it returns a truth value, which is piecewise constant",
    "And",
    "Equal",
    "Greater",
    "GreaterOrEqual",
    "IsInf",
    "IsNaN",
    "Less",
    "LessOrEqual",
    "Not",
    "Or",
    "Xor",
    range=UNIT,
    axes=aligned,
)
_FLAT = "it is piecewise constant: its derivative is 0 almost everywhere"
not_differentiable(_FLAT, "Ceil", range=growing(np.ceil), axes=aligned)
not_differentiable(_FLAT, "Floor", range=growing(np.floor), axes=aligned)
not_differentiable(_FLAT, "Hardmax", range=UNIT, axes=along(first=13))
not_differentiable(_FLAT, "Round", range=growing(np.rint), axes=aligned)
not_differentiable(_FLAT, "Sign", range=growing(np.sign), axes=aligned)
not_differentiable("it works on the bits of integers", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "BitCast")
not_differentiable(
    "it makes a constant; its inputs are sizes or settings",
    "BlackmanWindow",
    "Constant",
    "EyeLike",
    "HammingWindow",
    "HannWindow",
    "MelWeightMatrix",
)
not_differentiable("it makes a constant; its inputs are sizes or settings", "ConstantOfShape", edge=edges.filled)
not_differentiable(
    "it draws random numbers that do not depend on the values", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"
)
not_differentiable("it draws samples, which are piecewise constant in the probabilities", "Bernoulli", "Multinomial")
not_differentiable(
    "it works on strings or counts them",
    "RegexFullMatch",
    "StringConcat",
    "StringNormalizer",
    "StringSplit",
    "TfIdfVectorizer",
)
not_differentiable("it decodes bytes, which are not floating point", "ImageDecoder")
not_differentiable("it tells what a sequence or an optional holds, not its values", "OptionalHasElement", "SequenceEmpty", "SequenceLength")
