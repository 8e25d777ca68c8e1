"""Linear and support vector machines (ai.onnx.ml), written in standard operators: on x [N, C] in float32, as ONNX Runtime has it."""

from __future__ import annotations

import itertools

import numpy as np
from onnx import TensorProto

from onnxsal.ops.classical import CLASSICAL, number, numbers, table
from onnxsal.ops.expansion import Partly, Writer, expansion

_SCORES = Partly(output=1)
"""The scores of a classifier are written anew; the node stays for the names of the classes."""


# ----- what becomes of scores -----


def _finish(w: Writer, scores: str, count: int, out: str) -> None:
    """``post_transform`` of the scores [N, ``count``]; one score alone is changed by PROBIT only."""
    kind = w.text("post_transform") or "NONE"
    if kind == "PROBIT":
        _probit(w, scores, out)
    elif count == 1 or kind == "NONE":
        w.add("Identity", scores, output=out)
    elif kind == "LOGISTIC":
        w.add("Sigmoid", scores, output=out)
    elif kind == "SOFTMAX":
        w.add("Softmax", scores, axis=-1, output=out)
    elif kind == "SOFTMAX_ZERO":
        _softmax_zero(w, scores, out)
    else:
        raise w.refuse(f"ends in '{kind}'")


def _probit(w: Writer, p: str, out: str) -> None:
    """sqrt 2 erfinv u with u = 2p - 1: erfinv u = +-sqrt(sqrt(v^2 - l / a) - v), l = log(1 - u^2), v = 2 / (pi a) + l / 2, a = 0.147.

    The last difference leaves little near p = 1/2, so every step is rounded as the kernel rounds it: l once, out of float64.
    """
    a = np.float32(0.147)
    u = w.add("Sub", w.add("Mul", p, number(w, 2)), number(w, 1))
    rest, wide = (w.add("Cast", t, to=TensorProto.DOUBLE) for t in (w.add("Sub", number(w, 1), u), u))
    inside = w.add("Cast", w.add("Add", rest, w.add("Mul", rest, wide)), to=TensorProto.FLOAT)
    log = w.add("Cast", w.add("Log", w.add("Cast", inside, to=TensorProto.DOUBLE)), to=TensorProto.FLOAT)
    v = w.add("Add", number(w, np.float32(2) / (np.float32(np.pi) * a)), w.add("Mul", log, number(w, 0.5)))
    root = w.add("Sqrt", w.add("Sub", w.add("Mul", v, v), w.add("Mul", log, number(w, np.float32(1) / a))))
    sign = w.add("Where", w.add("Less", u, number(w, 0)), number(w, -np.sqrt(2)), number(w, np.sqrt(2)))
    w.add("Mul", sign, w.add("Sqrt", w.add("Sub", root, v)), output=out)


def _softmax_zero(w: Writer, scores: str, out: str) -> None:
    """A softmax over the scores that are not 0 (within 1e-7); those that are stay next to 0."""
    largest = w.add("ReduceMax", scores, w.ints([-1]))
    counts = w.add("Greater", w.add("Abs", scores), number(w, 1e-7))
    exp = w.add("Exp", w.add("Sub", scores, largest))
    total = w.add("ReduceSum", w.add("Where", counts, exp, number(w, 0)), w.ints([-1]))
    rest = w.add("Mul", scores, w.add("Exp", w.add("Neg", largest)))
    w.add("Div", w.add("Where", counts, exp, rest), total, output=out)


def _two_classes(w: Writer, score: str, out: str, plain: bool) -> None:
    """One score s as two classes: [sigmoid -s, sigmoid s], or without a transform [-s, s] (``plain``), else [1 - s, s]."""
    kind = w.text("post_transform") or "NONE"
    if kind == "PROBIT":
        raise w.refuse("makes two classes of one score and ends in PROBIT")
    if kind == "LOGISTIC":
        w.add("Sigmoid", w.add("Concat", w.add("Neg", score), score, axis=1), output=out)
    else:
        other = w.add("Neg", score) if plain and kind == "NONE" else w.add("Sub", number(w, 1), score)
        w.add("Concat", other, score, axis=1, output=out)


def _labels(w: Writer) -> int:
    """How many classes are named."""
    return len(w.attributes.get("classlabels_strings", [])) or len(w.attributes.get("classlabels_ints", []))


# ----- linear models -----


def _linear(w: Writer, x: str, rows: int, bias: np.ndarray | None, name: str = "coefficients") -> str:
    """x W^T + b, with W [``rows``, C] in attribute ``name``."""
    weight = w.stored(numbers(w, name).reshape(rows, -1))
    return w.add("Gemm", x, weight, *([] if bias is None else [w.stored(bias)]), transB=1)


@expansion("LinearRegressor", domain=CLASSICAL)
def _linear_regressor(w: Writer) -> None:
    """x W^T + b, and the transform of it."""
    targets, bias = int(w.attributes.get("targets", 1)), numbers(w, "intercepts")
    scores = _linear(w, table(w)[0], targets, bias if len(bias) == targets else None)
    _finish(w, scores, targets, w.node.output[0])


@expansion("LinearClassifier", domain=CLASSICAL, partly=_SCORES)
def _linear_classifier(w: Writer) -> None:
    """x W^T + b, and the transform of it; one score of two classes is that of the second."""
    bias = numbers(w, "intercepts")
    if not len(bias):
        raise w.refuse("has no intercepts, by which ONNX Runtime counts the classes")
    scores = _linear(w, table(w)[0], len(bias), bias)
    if len(bias) == 1 and _labels(w) == 2:
        _two_classes(w, scores, w.node.output[1], plain=False)
    else:
        _finish(w, scores, len(bias), w.node.output[1])


# ----- support vector machines -----


def _kernel(w: Writer, x: str, count: int) -> str:
    """k(x, v) [N, ``count``] for every support vector v: x.v, (gamma x.v + c)^d, exp(-gamma |x - v|^2) or tanh(gamma x.v + c)."""
    vectors = numbers(w, "support_vectors").reshape(count, -1)
    kind, given = w.text("kernel_type") or "LINEAR", numbers(w, "kernel_params")
    gamma, offset, degree = (float(v) for v in (given if len(given) >= 3 else np.zeros(3)))
    if kind == "LINEAR":
        return w.add("Gemm", x, w.stored(vectors), transB=1)
    if kind == "RBF":
        gap = w.add("Sub", w.add("Unsqueeze", x, w.ints([1])), w.stored(vectors))
        square = w.add("ReduceSum", w.add("Mul", gap, gap), w.ints([-1]), keepdims=0)
        return w.add("Exp", w.add("Mul", square, number(w, -gamma)))
    inner = w.add("Gemm", x, w.stored(vectors), number(w, offset), alpha=gamma, transB=1)
    if kind == "POLY":
        return w.add("Pow", inner, number(w, degree))
    if kind == "SIGMOID":
        return w.add("Tanh", inner)
    raise w.refuse(f"has a kernel '{kind}'")


@expansion("SVMRegressor", domain=CLASSICAL)
def _svm_regressor(w: Writer) -> None:
    """sum_v a_v k(x, v) + rho, or x.w + rho without support vectors; of one class its sign, 1 above 0 and -1 elsewhere."""
    x, count, rho, out = table(w)[0], int(w.attributes.get("n_supports", 0)), numbers(w, "rho")[:1], w.node.output[0]
    one_class = bool(w.attributes.get("one_class", 0))
    score = _linear(w, _kernel(w, x, count) if count > 0 else x, 1, rho)
    if one_class:
        w.add("Where", w.add("Greater", score, number(w, 0)), number(w, 1), number(w, -1), output=out)
    else:
        w.add("Identity", score, output=out)


@expansion("SVMClassifier", domain=CLASSICAL, partly=_SCORES)
def _svm_classifier(w: Writer) -> None:
    """Decision values of each pair of classes, or their probabilities (Platt 1999; Wu, Lin and Weng 2004), and the transform of them.

    Without support vectors: x W^T + rho, a row for each class.
    """
    x, classes, out = table(w)[0], _labels(w), w.node.output[1]
    per_class, rho = numbers(w, "vectors_per_class", np.int64), numbers(w, "rho")
    if not per_class.sum():
        _finish(w, _linear(w, x, classes, rho[:1]), classes, out)
        return
    if classes < 2:
        raise w.refuse("has support vectors of one class only")
    pairs = list(itertools.combinations(range(classes), 2))
    decision = _decisions(w, _kernel(w, x, int(per_class.sum())), per_class, pairs, rho)
    if "prob_a" in w.attributes:
        _finish(w, _coupled(w, _pairwise(w, decision, len(pairs)), pairs, classes), classes, out)
    elif classes == 2:
        _two_classes(w, decision, out, plain=True)
    else:
        _finish(w, decision, len(pairs), out)


def _decisions(w: Writer, kernel: str, per_class: np.ndarray, pairs: list[tuple[int, int]], rho: np.ndarray) -> str:
    """One decision value for each pair (i, j): the vectors of class i weighted by row j - 1 of the coefficients, those of j by row i."""
    given = numbers(w, "coefficients").reshape(len(per_class) - 1, -1)
    ends = np.cumsum(per_class)
    weight = np.zeros((len(pairs), int(ends[-1])), np.float32)
    for row, (i, j) in enumerate(pairs):
        for own, other in ((i, j - 1), (j, i)):
            part = slice(int(ends[own] - per_class[own]), int(ends[own]))
            weight[row, part] = given[other, part]
    return w.add("Gemm", kernel, w.stored(weight), w.stored(rho[: len(pairs)]), transB=1)


def _pairwise(w: Writer, decision: str, pairs: int) -> str:
    """P(i | i or j) = sigmoid(-(a s + b)), kept 1e-7 away from 0 and 1."""
    a, b = (w.stored(numbers(w, name)[:pairs]) for name in ("prob_a", "prob_b"))
    p = w.add("Sigmoid", w.add("Neg", w.add("Add", w.add("Mul", decision, a), b)))
    return w.add("Clip", p, number(w, 1e-7), number(w, np.float32(1) - np.float32(1e-7)))


def sweeps(classes: int) -> int:
    """How many sweeps are written out. ONNX Runtime makes up to 100 and stops when nothing moves; twice as many as any of 20 000 random
    problems needed: two of two classes, four of up to ten, five of twenty.
    """
    return 4 if classes == 2 else 8 if classes <= 10 else 12


def _coupled(w: Writer, pairwise: str, pairs: list[tuple[int, int]], classes: int) -> str:
    """Probabilities p of the classes out of those r of the pairs: the p that minimise p^T Q p with sum p = 1.

    Q_ii = sum_j r_ji^2 and Q_ij = -r_ji r_ij. From p = 1 / k each sweep sets p_i to p_i + (p^T Q p - (Q p)_i) / Q_ii and divides by the
    sum, class by class; a sample stays as it is from the sweep on before which |(Q p)_i - p^T Q p| < 0.005 / k for all i.
    """
    scatter, rest = np.zeros((len(pairs), classes * classes), np.float32), np.zeros(classes * classes, np.float32)
    for row, (i, j) in enumerate(pairs):  # r_ij is p, r_ji is 1 - p
        scatter[row, [i * classes + j, j * classes + i]] = 1, -1
        rest[j * classes + i] = 1
    r = w.add("Add", w.add("MatMul", pairwise, w.stored(scatter)), w.stored(rest))
    r = w.add("Reshape", r, w.ints([-1, classes, classes]))
    turned = w.add("Transpose", r, perm=[0, 2, 1])
    eye = np.eye(classes, dtype=np.float32)
    sums = w.add("ReduceSum", w.add("Mul", turned, turned), w.ints([2]))
    q = w.add("Sub", w.add("Mul", sums, w.stored(eye)), w.add("Mul", r, turned))
    p = w.add("Expand", number(w, 1 / classes), w.add("Shape", sums))
    diagonal = [w.add("Gather", sums, w.ints([i]), axis=1) for i in range(classes)]
    moving = ""
    for _ in range(sweeps(classes)):
        swept, gaps = p, w.add("Sub", *_moments(w, q, p))
        far = w.add("ReduceMax", w.add("Abs", gaps), w.ints([1]))
        open_ = w.add("GreaterOrEqual", far, number(w, 0.005 / classes))
        moving = w.add("And", moving, open_) if moving else open_
        for i in range(classes):
            product, level = _moments(w, q, swept)
            own = w.add("Gather", product, w.ints([i]), axis=1)
            step = w.add("Div", w.add("Sub", level, own), diagonal[i])
            moved = w.add("Add", swept, w.add("Mul", step, w.stored(eye[i][:, None])))
            swept = w.add("Div", moved, w.add("Add", step, number(w, 1)))
        p = w.add("Where", moving, swept, p)
    return w.add("Squeeze", p, w.ints([2]))


def _moments(w: Writer, q: str, p: str) -> tuple[str, str]:
    """Q p [N, k, 1] and p^T Q p [N, 1, 1]."""
    product = w.add("MatMul", q, p)
    return product, w.add("ReduceSum", w.add("Mul", product, p), w.ints([1]))
