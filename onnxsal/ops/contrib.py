"""Activations, products and convolutions that ONNX Runtime's optimisers fuse (com.microsoft), each written in standard operators."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxsal.ops.expansion import END, Writer, expansion

ACTIVATIONS = {
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh", "Softplus", "Softsign"), ()),
    **dict.fromkeys(("LeakyRelu", "Elu", "Celu", "ThresholdedRelu"), ("alpha",)),
    **{"HardSigmoid": ("alpha", "beta"), "Selu": ("alpha", "gamma")},
}
"""Activations of the standard that a fused operator may end in -> their attributes, none of which may be left out."""

INNER = {"ScaledTanh": "Tanh", "ParametricSoftplus": "Softplus"}
"""Those that are alpha f(beta x)."""


EXPERIMENTAL = 10
"""From this opset on ONNX Runtime refuses what was once tried out in the standard domain."""


def activate(w: Writer, x: str, given: Mapping[str, float]) -> None:
    """The activation that FusedConv, FusedGemm and FusedMatMulActivation end in, writing the fused node's output."""
    kind, out = w.text("activation"), w.node.output[0]
    missing = [name for name in ACTIVATIONS.get(kind, ("alpha", "beta")) if name not in given]
    if kind and kind not in {*ACTIVATIONS, *INNER, "Clip"}:
        raise w.refuse(f"ends in activation '{kind}'")
    if kind and missing:
        raise w.refuse(f"ends in activation '{kind}' without its {' and '.join(missing)}")
    if not kind:
        w.add("Identity", x, output=out)
    elif kind == "Clip":
        w.add(kind, x, w.const(given["alpha"]), w.const(given["beta"]), output=out)
    elif kind in INNER:
        w.add("Mul", w.add(INNER[kind], w.add("Mul", x, w.const(given["beta"]))), w.const(given["alpha"]), output=out)
    else:
        w.add(kind, x, output=out, **{name: given[name] for name in ACTIVATIONS[kind]})


def _named(w: Writer) -> dict[str, float]:
    """The attributes of the activation, each by its name."""
    return {name: w.number(f"activation_{name}") for name in ("alpha", "beta", "gamma") if f"activation_{name}" in w.attributes}


@expansion("FusedConv")
def _fused_conv(w: Writer) -> None:
    """An activation of a convolution, to which a tensor may be added before."""
    kept = {k: v for k, v in w.attributes.items() if k not in ("activation", "activation_params")}
    y = w.add("Conv", *[n for n in (w.input(0), w.input(1), w.input(2)) if n], **kept)
    given = dict(zip(("alpha", "beta"), map(float, w.attributes.get("activation_params", [])), strict=False))
    activate(w, w.add("Add", y, w.input(3)) if w.input(3) else y, given)


@expansion("NhwcConv")
def _channels_last_conv(w: Writer) -> None:
    """A convolution of [N, H, W, C] with weights [M, kH, kW, C / group]."""
    x, weight = (w.add("Transpose", w.input(i), perm=[0, 3, 1, 2]) for i in (0, 1))
    y = w.add("Conv", x, weight, *([w.input(2)] if w.input(2) else []), **w.attributes)
    w.add("Transpose", y, perm=[0, 2, 3, 1], output=w.node.output[0])


@expansion("ConvTransposeWithDynamicPads")
def _conv_transpose(w: Writer) -> None:
    """A transposed convolution whose pads are an input: a constant, or the whole output cut to size."""
    x, weight, pads, bias = (w.input(i) for i in range(4))
    given = w.array(2)
    if pads and given is None:
        raise w.refuse("has pads that are computed", "Export it with pads that are constants.")
    kept = w.attributes | ({} if given is None else {"pads": [int(p) for p in given]})
    w.add("ConvTranspose", x, weight, *([bias] if bias else []), output=w.node.output[0], **kept)


@expansion("FusedGemm")
def _fused_gemm(w: Writer) -> None:
    """An activation of alpha A B + beta C."""
    kept = {k: w.attributes[k] for k in ("alpha", "beta", "transA", "transB") if k in w.attributes}
    y = w.add("Gemm", *[n for n in (w.input(0), w.input(1), w.input(2)) if n], **kept)
    activate(w, y, _named(w))


@expansion("FusedMatMul", "TransposeMatMul")
def _fused_matmul(w: Writer) -> None:
    """alpha A B, either one with its last two axes swapped, or with its first axis moved before the last."""
    if _alpha(w) == 1.0:
        _matmul(w, w.node.output[0])
    else:
        _scaled(w, _matmul(w), w.node.output[0])


@expansion("FusedMatMulActivation")
def _fused_matmul_activation(w: Writer) -> None:
    """An activation of alpha A B."""
    y = _matmul(w)
    activate(w, y if _alpha(w) == 1.0 else _scaled(w, y), _named(w))


def _alpha(w: Writer) -> float:
    return w.number("alpha", 1.0)


def _scaled(w: Writer, x: str, output: str = "") -> str:
    return w.add("Mul", x, w.const(_alpha(w)), output=output)


def _matmul(w: Writer, output: str = "") -> str:
    sides = [_turned(w, w.input(i), w.whole_number(f"trans{side}"), side) for i, side in enumerate("AB")]
    return w.add("MatMul", *sides, output=output)


def _turned(w: Writer, x: str, swap: int, side: str) -> str:
    """A side of a product: its first axis moved before the last (``transBatch``), its last two swapped (``trans``)."""
    if w.whole_number(f"transBatch{side}"):
        rank = w.rank(x)
        x = w.add("Transpose", x, perm=[*range(1, rank - 1), 0, rank - 1])
    return w.add("Einsum", x, equation="...ij->...ji") if swap else x  # Einsum says it without knowing the rank


# ----- activations -----


def _biased(w: Writer, i: int = 1) -> str:
    """The first input, with the bias that may be input i."""
    return w.add("Add", w.input(0), w.input(i)) if w.input(i) else w.input(0)


def gelu(w: Writer, x: str, output: str) -> str:
    """x * (1 + erf(x / sqrt 2)) / 2."""
    erf = w.add("Erf", w.add("Mul", x, w.const(float(np.sqrt(0.5)))))
    return w.add("Mul", w.add("Mul", x, w.const(0.5)), w.add("Add", erf, w.const(1.0)), output=output)


def fast_gelu(w: Writer, x: str, output: str = "") -> str:
    """x * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    cube = w.add("Mul", w.add("Mul", x, x), x)
    inner = w.add("Mul", w.add("Add", x, w.add("Mul", cube, w.const(0.044715))), w.const(float(np.sqrt(2 / np.pi))))
    return w.add("Mul", w.add("Mul", x, w.const(0.5)), w.add("Add", w.add("Tanh", inner), w.const(1.0)), output=output)


def silu(w: Writer, x: str, output: str = "") -> str:
    """x * sigmoid(x)."""
    return w.add("Mul", x, w.add("Sigmoid", x), output=output)


@expansion("Gelu", "BiasGelu")
def _gelu(w: Writer) -> None:
    """x * (1 + erf(x / sqrt 2)) / 2, x with a bias if there is one."""
    gelu(w, _biased(w), w.node.output[0])


@expansion("FastGelu")
def _fast_gelu(w: Writer) -> None:
    """x * (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, x with a bias if there is one."""
    fast_gelu(w, _biased(w), w.node.output[0])


@expansion("GemmFastGelu")
def _gemm_fast_gelu(w: Writer) -> None:
    """FastGelu of a matrix product with a bias."""
    product = w.add("MatMul", w.input(0), w.input(1))
    fast_gelu(w, w.add("Add", product, w.input(2)) if w.input(2) else product, w.node.output[0])


@expansion("QuickGelu")
def _quick_gelu(w: Writer) -> None:
    """x * sigmoid(alpha x)."""
    gate = w.add("Sigmoid", w.add("Mul", w.input(0), w.const(w.number("alpha", 1.702))))
    w.add("Mul", w.input(0), gate, output=w.node.output[0])


@expansion("BiasSplitGelu")
def _bias_split_gelu(w: Writer) -> None:
    """Of x + bias, the first half of the last axis times gelu of the second."""
    left, right = w.several("Split", [_biased(w)], 2, axis=-1, num_outputs=2)
    w.add("Mul", left, gelu(w, right, ""), output=w.node.output[0])


@expansion("BiasAdd")
def _bias_add(w: Writer) -> None:
    """x + bias + skip."""
    w.add("Add", _biased(w), w.input(2), output=w.node.output[0])


@expansion("BiasSoftmax")
def _bias_softmax(w: Writer) -> None:
    """Softmax of x + bias over all axes from ``axis`` on."""
    axis, x = w.whole_number("axis", 1), w.input(0)
    rank = w.rank(x)
    axis += rank if axis < 0 else 0
    if w.rank(w.input(1)) < rank and not w.whole_number("is_inner_broadcast", 1):
        raise w.refuse("repeats its bias along the first axes")
    total = w.add("Add", x, w.input(1))
    if axis == rank - 1:
        w.add("Softmax", total, axis=-1, output=w.node.output[0])
    else:
        flat = w.add("Softmax", w.add("Flatten", total, axis=axis), axis=-1)
        w.add("Reshape", flat, w.add("Shape", x), output=w.node.output[0])


@expansion("BiasDropout")
def _bias_dropout(w: Writer) -> None:
    """x + bias + residual: nothing is dropped outside of training."""
    training = w.array(4)
    if w.input(4) and (training is None or bool(training)):
        raise w.refuse("drops elements at random (training_mode)", "Export the model for inference.")
    if w.output(1):
        raise w.refuse("also returns its mask", "Export the model for inference.")
    x = _biased(w)
    if w.input(2):
        w.add("Add", x, w.input(2), output=w.node.output[0])
    else:
        w.add("Identity", x, output=w.node.output[0])


@expansion("Affine", unsaid=EXPERIMENTAL)
def _affine(w: Writer) -> None:
    """alpha x + beta."""
    scaled = w.add("Mul", w.input(0), w.const(w.number("alpha", 1.0)))
    w.add("Add", scaled, w.const(w.number("beta")), output=w.node.output[0])


@expansion("ScaledTanh", unsaid=EXPERIMENTAL)
def _scaled_tanh(w: Writer) -> None:
    """alpha tanh(beta x)."""
    tanh = w.add("Tanh", w.add("Mul", w.input(0), w.const(w.number("beta"))))
    w.add("Mul", tanh, w.const(w.number("alpha")), output=w.node.output[0])


@expansion("ParametricSoftplus", unsaid=EXPERIMENTAL)
def _parametric_softplus(w: Writer) -> None:
    """alpha softplus(beta x)."""
    softplus = w.add("Softplus", w.add("Mul", w.input(0), w.const(w.number("beta"))))
    w.add("Mul", softplus, w.const(w.number("alpha")), output=w.node.output[0])


@expansion("Scale", unsaid=EXPERIMENTAL)
def _scale(w: Writer) -> None:
    """scale x."""
    w.add("Mul", w.input(0), w.const(w.number("scale", 1.0)), output=w.node.output[0])


@expansion("ImageScaler", unsaid=EXPERIMENTAL)
def _image_scaler(w: Writer) -> None:
    """scale x + bias of the channel."""
    bias = w.stored(np.asarray(w.attributes["bias"], np.float32).reshape(1, -1, 1, 1))
    scaled = w.add("Mul", w.input(0), w.const(w.number("scale", 1.0)))
    w.add("Add", scaled, w.add("CastLike", bias, w.input(0)), output=w.node.output[0])


@expansion("Crop", unsaid=EXPERIMENTAL)
def _crop(w: Writer) -> None:
    """[N, C, H, W] without its borders (left, top, right, bottom), or ``scale`` (height, width) from the first two on."""
    left, top, right, bottom = (int(v) for v in w.attributes["border"])
    size = [int(v) for v in w.attributes.get("scale", [])]
    ends = [top + size[0], left + size[1]] if size else [-bottom or END, -right or END]
    w.add("Slice", w.input(0), w.ints([top, left]), w.ints(ends), w.ints([2, 3]), output=w.node.output[0])


@expansion("DynamicSlice", unsaid=EXPERIMENTAL)
def _dynamic_slice(w: Writer) -> None:
    """x between begins and ends, along all axes or those given."""
    inputs = [w.input(0), *(w.whole(w.input(i)) for i in range(1, 4) if w.input(i))]
    w.add("Slice", *inputs, output=w.node.output[0])


@expansion("SampleOp")
def _sample(w: Writer) -> None:
    """x."""
    w.add("Identity", w.input(0), output=w.node.output[0])
