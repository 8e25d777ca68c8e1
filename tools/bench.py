#!/usr/bin/env python3
"""Time of every method as a ratio to plain inference in the same run, peak memory, conversion time and file size.

    tools/bench.py [resnet50|lite0|FILE.onnx ...] [--methods gradient,guided_backprop] [--rounds 15] [--threads 2]
    tools/bench.py --evaluate [--pictures 4] [--rounds 3]      # deletion with 100 steps on lite0, beside plain inference
    tools/bench.py --admission [resnet50|transformer|FILE.onnx ...]  # what the checks of a model's structure take of its conversion

Each method runs in a process of its own (so that its peak memory is its own), in turn with plain inference of the same model:
plain, method, plain, method ... The ratio is the median of the pairs' ratios; IG and SmoothGrad are also given per step.
``best`` is the ratio of the fastest runs: other processes only ever add time, so it is the steadier one on a machine that is shared.
Threads without work sleep: those of a session that waits its turn would spin and take the cores from the other one, which slows
the short run more than the long one and so flatters the ratio (1.9 for 2.5).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

STEPS = {"integrated_gradients": "n_steps", "smoothgrad": "n_samples", "smooth_fullgrad": "n_samples"}


def source(name: str) -> bytes:
    """The model's bytes: ResNet-50 with random weights, the shipped EfficientNet-Lite0, or a file."""
    if name == "resnet50":
        from tests.nets import light

        return light("resnet50").SerializeToString()
    path = ROOT / "models" / "efficientnet_lite0.onnx" if name == "lite0" else Path(name)
    return path.read_bytes()


def transformer(layers: int = 39) -> bytes:
    """Blocks of attention with two products behind them, 26 nodes each: 1,016 nodes, some 0.2 M numbers of weights."""
    from tests.small_models import draw, make, node

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
    return make(nodes, {"x": ["N", 16, 64]}, {"y": ["N", 10]}, given, opset=17).SerializeToString()


def admission(name: str, rounds: int) -> None:
    """The share of a conversion that the admission of the model takes, in processor time of the same run, and the ratio of conversions with
    and without it, in turn."""
    import onnxsal
    from onnxsal.graph import load

    data = transformer() if name == "transformer" else source(name)
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


def measure(path: str, method: str, rounds: int, threads: int) -> dict[str, float]:
    """One method on one model, in this process."""
    import onnxsal
    from onnxsal.runtime.session import open_session

    data = Path(path).read_bytes()
    begin = time.perf_counter()
    converted = onnxsal.convert(data, method) if method != "plain" else None
    seconds = time.perf_counter() - begin
    converting = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    plain = open_session(data, threads=threads, spinning=False)
    x = {t.name: picture(t.shape, np.random.default_rng(0)) for t in plain.inputs}
    result = {"conversion_s": seconds, "conversion_peak_MB": converting, "size": 1.0}
    if converted is None:
        result["ms"] = 1e3 * float(np.median([timed(plain, x) for _ in range(rounds + 3)][3:]))
    else:
        blob = converted.SerializeToString()
        result["size"] = len(blob) / len(data)
        session = open_session(blob, threads=threads, spinning=False)
        fed = x | {"target": np.full(1, -1)}
        pairs = [(timed(plain, x), timed(session, fed)) for _ in range(rounds + 3)][3:]
        result["ms"] = 1e3 * float(np.median([b for _, b in pairs]))
        result["ratio"] = float(np.median([b / a for a, b in pairs]))
        result["best"] = min(b for _, b in pairs) / min(a for a, _ in pairs)
    result["peak_MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return result


def picture(shape: tuple, rng: np.random.Generator) -> np.ndarray:
    """A random batch of one."""
    return rng.standard_normal([d if isinstance(d, int) else 1 for d in shape]).astype(np.float32)


def timed(session, feed: dict[str, np.ndarray]) -> float:
    begin = time.perf_counter()
    session.run(feed)
    return time.perf_counter() - begin


def table(name: str, methods: list[str], rounds: int, threads: int) -> None:
    import onnxsal

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(source(name))
        print(f"\n{name}: {file.stat().st_size / 1e6:.1f} MB, {threads} threads, medians of {rounds} pairs")
        print(
            f"{'method':24} {'ms':>9} {'ratio':>7} {'best':>7} {'per step':>8} {'peak MB':>8} "
            f"{'convert s':>9} {'convert MB':>10} {'size':>7}"
        )
        for method in ["plain", *methods]:
            n = rounds if method not in STEPS else max(2, rounds // 7)
            command = [sys.executable, __file__, "--one", str(file), method, "--rounds", str(n), "--threads", str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{method:24} failed: {done.stderr.strip().splitlines()[-1]}")
                continue
            r = json.loads(done.stdout)
            steps = onnxsal.methods()[method].parameters[STEPS[method]].default if method in STEPS else 0
            per_step = f"{r['ratio'] / steps:8.2f}" if steps else " " * 8
            ratio = f"{r.get('ratio', 1):7.2f} {r.get('best', 1):7.2f}"
            print(
                f"{method:24} {r['ms']:9.1f} {ratio} {per_step} {r['peak_MB']:8.0f} "
                f"{r['conversion_s']:9.2f} {r['conversion_peak_MB']:10.0f} {r['size']:7.4f}",
                flush=True,
            )


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


def main() -> None:
    import onnxsal

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["resnet50", "lite0"])
    parser.add_argument("--methods", default=",".join(onnxsal.methods()))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--evaluate", action="store_true", help="only the throughput of evaluate")
    parser.add_argument("--admission", action="store_true", help="only what the checks of a model's structure take of its conversion")
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--one", nargs=2, metavar=("FILE", "METHOD"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(*args.one, args.rounds, args.threads)))
        return
    if args.admission:
        for name in args.models if args.models != ["resnet50", "lite0"] else ["resnet50", "transformer"]:
            admission(name, min(args.rounds, 9))
        return
    if args.evaluate:
        evaluation(args.pictures, min(args.rounds, 3))
        return
    for name in args.models:
        table(name, args.methods.split(","), args.rounds, args.threads)
    evaluation(args.pictures, min(args.rounds, 3))


if __name__ == "__main__":
    main()
