"""MiniLM as a classifier of texts, and what happens to its score when words are masked in the order of a method's map."""

from __future__ import annotations

import inspect
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import onnxsal  # noqa: E402
from onnxsal.engine.method import Method  # noqa: E402
from onnxsal.errors import OnnxsalError  # noqa: E402
from onnxsal.methods.build import keeps_law  # noqa: E402
from onnxsal.metrics.statistics import Summary, summarise  # noqa: E402
from onnxsal.runtime.files import write_whole  # noqa: E402
from onnxsal.runtime.session import Session, open_session  # noqa: E402
from tools.models.networks import MINILM, TEXT, embedding, minilm_bert, text_feed  # noqa: E402
from tools.models.sources import Cache, export  # noqa: E402
from tools.which.nets import WORK, kept  # noqa: E402

MASK, STEPS, LONGEST = 103, 10, 34
"""The id of [MASK]; steps of a curve; the most tokens of a text."""

FEW: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 20},
    "smoothgrad": {"n_samples": 20},
    "smooth_fullgrad": {"n_samples": 20},
}


@dataclass(frozen=True)
class Words:
    """What masking words did: per method the score's area with the most, and with the least salient words masked first, and LeRF - MoRF."""

    n: int
    accuracy: float
    curves: dict[str, tuple[Summary, Summary, Summary]]
    refused: dict[str, str]
    cost: dict[str, float]
    law: dict[str, float]


def cache() -> Cache:
    """Where the weights and the libraries are kept."""
    return Cache(WORK / "cache")


def texts() -> tuple[list[str], list[str]]:
    """The second paragraphs of what scikit-learn says about its estimators, and the first ones: a text and its heading."""
    from sklearn.utils import all_estimators

    found: dict[str, str] = {}
    for _, kind in sorted(all_estimators()):
        heading, text, *_ = [" ".join(part.split()) for part in (inspect.getdoc(kind) or "").split("\n\n")] + ["", ""]
        if len(text.split()) > 12 and heading and not text.startswith((".. ", "Parameters", "Read more")):
            found.setdefault(text, heading)
    return list(found), list(found.values())


def tokenised(lines: Sequence[str]) -> list[np.ndarray]:
    """Ids [T] of each line."""
    cache().libraries()
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(cache().read(MINILM, "model/tokenizer.json").decode())
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    return [np.array(tokenizer.encode(line).ids, np.int64) for line in lines]


def classifier(headings: Sequence[str]) -> onnx.ModelProto:
    """Scores [N, K]: the mean of a text's vectors times (the vector of heading k - the mean of all headings')."""
    import torch

    bert = minilm_bert(cache())

    def pooled(ids: Any, mask: Any) -> Any:
        states = bert(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask[:, :, None].to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1)

    with torch.no_grad():
        one = [pooled(torch.from_numpy(i[None]), torch.ones(1, len(i), dtype=torch.int64))[0] for i in tokenised(headings)]
    vectors = torch.nn.functional.normalize(torch.stack(one), dim=1)

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = bert
            self.register_buffer("heads", (vectors - vectors.mean(0)).T.contiguous())

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return pooled(input_ids, attention_mask) @ self.heads

    return export(Classifier().eval(), text_feed(), ["scores"], False, TEXT)


def token_map(method: Method, found: onnxsal.Explanation) -> np.ndarray:
    """[L]: the signed sum of what is attributed to a token; of sensitivities (no law, no product with the input) of absolute values."""
    if found.attribution.ndim == 2:
        return found.attribution[0]
    signed = method.times_input or keeps_law(method) or method.wrap in ("path", "fullgrad")
    return found.attribution[0].sum(-1) if signed else np.abs(found.attribution[0]).sum(-1)


def areas(score: Any, ids: np.ndarray, map_: np.ndarray) -> tuple[float, float]:
    """The mean score, 1 for the text and 0 for masks alone, while more and more words are masked: most salient first, and least."""
    inner = np.arange(1, len(ids) - 1)
    order = inner[np.argsort(-map_[inner], kind="stable")]
    counts = np.rint(np.linspace(0, len(inner), STEPS + 1)).astype(int)
    found = []
    for ranked in (order, order[::-1]):
        rows = np.repeat(ids[None], len(counts), 0)
        for row, count in zip(rows, counts, strict=True):
            row[ranked[:count]] = MASK
        curve = score(rows)
        curve = (curve - curve[-1]) / (curve[0] - curve[-1])
        found.append(float(np.trapezoid(curve, dx=1 / STEPS)))
    return found[0], found[1]


def measured(most: int) -> Words:
    """Every method on the texts whose own heading scores best."""
    lines, headings = texts()
    path = kept("minilm.onnx", lambda: classifier(headings))
    session = open_session(path)

    def scores(rows: np.ndarray) -> np.ndarray:
        return session.run({"input_ids": rows, "attention_mask": np.ones_like(rows)})["scores"]

    asked = []
    hits = []
    for label, ids in enumerate(tokenised(lines)):
        known = scores(np.stack([ids, np.r_[ids[0], np.full(len(ids) - 2, MASK), ids[-1]]]))
        hits.append(int(known[0].argmax()) == label)
        if known[0].argmax() == label and known[0, label] > known[1, label] + 0.05:
            asked.append((ids, label))
    asked = asked[:most]
    found = {}
    for name, method in [*onnxsal.methods().items(), ("random", None)]:
        done = WORK / "words" / f"{name}-{len(asked)}-{method.sha256[:12] if method else ''}.json"
        if not done.exists():
            done.parent.mkdir(parents=True, exist_ok=True)
            write_whole(done, json.dumps(of_method(onnx.load(str(path)), name, method, asked, session)).encode())
        found[name] = json.loads(done.read_text(encoding="utf-8"))
    curves = {}
    for name, known in found.items():
        if "pairs" in known:
            first, last = np.array(known["pairs"]).T
            curves[name] = summarise(first), summarise(last), summarise(last - first)
    told = {key: {n: k[key] for n, k in found.items() if k.get(key) is not None} for key in ("refused", "cost", "law")}
    return Words(len(asked), float(np.mean(hits)), curves, told["refused"], told["cost"], told["law"])


def of_method(
    model: onnx.ModelProto, name: str, method: Method | None, asked: Sequence[tuple[np.ndarray, int]], session: Session
) -> dict[str, Any]:
    """The areas of each text by one method (``None``: noise), its cost and its worst residual; or why it explains none."""
    rng = np.random.default_rng(0)
    pairs: list[tuple[float, float]] = []
    residuals: list[float] = []
    feed: dict[str, np.ndarray] = {}

    def scores(rows: np.ndarray) -> np.ndarray:
        return session.run({"input_ids": rows, "attention_mask": np.ones_like(rows)})["scores"]

    try:
        explainer = None if method is None else onnxsal.Explainer(model, name, input=embedding(model), **FEW.get(name, {}))
        for ids, label in asked:
            feed = {"input_ids": ids[None], "attention_mask": np.ones((1, len(ids)), np.int64)}
            told = None if explainer is None else explainer.explain(feed, label)
            map_ = rng.standard_normal(len(ids)) if told is None or method is None else token_map(method, told)
            if told is not None and told.residual is not None:
                residuals.append(float(told.residual.max()))
            pairs.append(areas(lambda rows, k=label: scores(rows)[:, k], ids, map_))
    except OnnxsalError as error:
        return {"refused": str(error)}
    cost = None if explainer is None else least(lambda: explainer.explain(feed, 0)) / least(lambda: session.run(feed))
    return {"pairs": pairs, "cost": cost, "law": max(residuals, default=None)}


def least(run: Any, count: int = 5) -> float:
    """The least time of several runs, after one that does not count."""
    run()
    times = []
    for _ in range(count):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return min(times)
