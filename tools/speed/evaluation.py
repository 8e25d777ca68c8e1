"""The throughput of ``evaluate``."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]


def evaluation(pictures: int, rounds: int, steps: int = 100) -> None:
    """Pictures per minute of the deletion metric on Lite0, beside plain batched inference of the same number of masked pictures."""
    from onnxsal.metrics.baselines import baseline_maps
    from onnxsal.metrics.evaluate import evaluate
    from onnxsal.metrics.faithfulness import deletion
    from onnxsal.metrics.measures import Settings
    from onnxsal.metrics.scorer import Scorer
    from onnxsal.runtime.beside import beside

    path = ROOT / "models" / "efficientnet_lite0.onnx"
    known = beside(path)
    scorer = Scorer(path)
    files = sorted((ROOT / "models" / "pictures").iterdir())
    x = known.preprocess.batch([files[i % len(files)] for i in range(pictures)])
    step = -(-x[0, 0].size // steps)
    maps = baseline_maps("random", x, scorer.places(x))
    target, size = scorer.targets(x), scorer.batch_size
    count = pictures * (steps + 1)
    masked = np.where(np.random.default_rng(0).random((size, 1, *x.shape[2:])) < 0.5, 0, x[np.arange(size) % pictures]).astype(np.float32)
    sizes = [min(size, count - i) for i in range(0, count, size)]

    def plain() -> float:
        begin = time.perf_counter()
        for n in sizes:
            scorer.session.run({scorer.question.x.name: masked[:n]})
        return time.perf_counter() - begin

    def measured() -> float:
        begin = time.perf_counter()
        found = deletion(scorer, x, maps, target, step=step)
        assert found.scores.shape == (pictures, steps + 1)
        return time.perf_counter() - begin

    plain(), measured()
    pairs = [(plain(), measured()) for _ in range(rounds)]
    slow, fast = (float(np.median([p[i] for p in pairs])) for i in (1, 0))
    ratio = float(np.median([a / b for a, b in pairs]))
    print(f"\nevaluate, lite0: deletion with {steps} steps, {pictures} pictures, batches of {size}, medians of {rounds} pairs")
    print(f"{'plain inference of':34} {count} masked pictures {fast:8.2f} s  {count / fast:7.1f} a second")
    print(f"{'deletion, one session':34} {60 * pictures / slow:8.1f} pictures a minute, {ratio:.2f} of plain inference")
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/x.npy", x)
        begin = time.perf_counter()
        found = evaluate(path, f"{folder}/x.npy", ["gradient"], ["deletion"], Settings(step=step), state=f"{folder}/state.jsonl")
        seconds = time.perf_counter() - begin
    n = len(found.ways) * pictures
    print(f"{'evaluate: gradient and 3 baselines':34} {60 * n / seconds:8.1f} maps a minute, opening and converting included")
