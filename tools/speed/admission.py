"""What the checks of a model's structure take of its conversion."""

from __future__ import annotations

import time

import numpy as np
import onnx

from tests.small_models import draw, make, node


def transformer(layers: int = 39) -> onnx.ModelProto:
    """Blocks of attention with two products behind them, 26 nodes each: 1,016 nodes, some 0.2 M numbers of weights."""
    weights = {
        "sh": np.array([0, 0, 4, 16]),
        "back": np.array([0, 0, 64]),
        "sc": np.float32(4),
        "g": draw(64),
        "b": draw(64),
        "wc": draw(64, 10),
    }
    nodes, x = [], "x"
    for n in range(layers):
        for q, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
            weights |= {f"w{q}{n}": draw(64, 64, scale=0.1), f"b{q}{n}": draw(64)}
            nodes += [node("MatMul", f"{x} w{q}{n}", f"{q}{n}_0"), node("Add", f"{q}{n}_0 b{q}{n}", f"{q}{n}_1")]
            nodes += [node("Reshape", f"{q}{n}_1 sh", f"{q}{n}_2"), node("Transpose", f"{q}{n}_2", f"{q}{n}", perm=perm)]
        weights |= {f"wo{n}": draw(64, 64, scale=0.1), f"w1{n}": draw(64, 128, scale=0.1), f"w2{n}": draw(128, 64, scale=0.1)}
        nodes += [node("MatMul", f"q{n} k{n}", f"s{n}"), node("Div", f"s{n} sc", f"d{n}"), node("Softmax", f"d{n}", f"a{n}", axis=-1)]
        nodes += [node("MatMul", f"a{n} v{n}", f"o{n}"), node("Transpose", f"o{n}", f"p{n}", perm=[0, 2, 1, 3])]
        nodes += [node("Reshape", f"p{n} back", f"r{n}"), node("MatMul", f"r{n} wo{n}", f"t{n}"), node("Add", f"t{n} {x}", f"u{n}")]
        nodes += [node("LayerNormalization", f"u{n} g b", f"l{n}", axis=-1), node("MatMul", f"l{n} w1{n}", f"h{n}")]
        nodes += [node("Relu", f"h{n}", f"i{n}"), node("MatMul", f"i{n} w2{n}", f"j{n}"), node("Add", f"j{n} l{n}", f"m{n}")]
        nodes, x = [*nodes, node("LayerNormalization", f"m{n} g b", f"x{n}", axis=-1)], f"x{n}"
    nodes += [node("ReduceMean", x, "mean", axes=[1], keepdims=0), node("MatMul", "mean wc", "y")]
    given = {k: np.asarray(v) for k, v in weights.items()}
    return make(nodes, {"x": ["N", 16, 64]}, {"y": ["N", 10]}, given, opset=17)


def admission(name: str, model: onnx.ModelProto, rounds: int) -> None:
    """The share of a conversion that the admission of the model takes, in processor time of the same run, and the ratio of conversions with
    and without it, in turn."""
    import onnxsal
    from onnxsal.graph import load

    data = model.SerializeToString()
    checks, spent = (load.admit, load.refuse_negative_sizes), [0.0]

    def watched(check):
        def run(proto) -> None:
            begin = time.process_time()
            check(proto)
            spent[0] += time.process_time() - begin

        return run

    def converted(*own) -> float:
        (load.admit, load.refuse_negative_sizes), spent[0], begin = own, 0.0, time.process_time()
        onnxsal.convert(data, "gradient")
        return time.process_time() - begin

    shares, ratios = [], []
    for _ in range(rounds + 1):
        seconds = converted(*map(watched, checks))
        shares.append(spent[0] / seconds)
        ratios.append(seconds / converted(lambda proto: None, lambda proto: None))
    load.admit, load.refuse_negative_sizes = checks
    share, ratio = (float(np.median(values[1:])) for values in (shares, ratios))
    print(f"{name:24} admission takes {100 * share:.2f} % of a conversion; with it / without it: {ratio:.3f} (medians of {rounds})")
