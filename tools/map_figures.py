#!/usr/bin/env python3
"""Figures behind choices about maps: docs/maps.md, exactly as they come out.

    tools/map_figures.py [--nets lite0,squeezenet,resnet56,vgg9,resnet10] [--large 40] [--small 150]

How FullGrad's layers are rescaled, what `focus` and `evidence` are worth on networks and pictures that they were not made on, whether the
sign of Guided Grad-CAM says anything, why maps of one name differ between libraries. What is done is kept in out/which: an interrupted
run goes on, a larger one adds to it. Needs the test extras (torch, captum, zennit, scikit-image, scikit-learn, mlxtend), ndf 0.1.4 and
Debian's tuxpaint-stamps-default.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from onnxsal.metrics.evaluate import evaluate  # noqa: E402
from onnxsal.metrics.evaluation import Evaluation, Way  # noqa: E402
from onnxsal.metrics.measures import Settings  # noqa: E402
from onnxsal.metrics.statistics import Summary  # noqa: E402
from onnxsal.runtime.files import write_whole  # noqa: E402
from tools.which import peers  # noqa: E402
from tools.which.nets import NETS, WORK, Net, names_of  # noqa: E402
from tools.which.text import interval, table  # noqa: E402

PAGE = ROOT / "docs" / "maps.md"
PEERS = 24
"""Pictures that are explained by Zennit and Captum, too."""

WAYS = (
    Way("fullgrad, layer", "fullgrad", {"rescale": "layer"}),
    Way("fullgrad, channel", "fullgrad", {"rescale": "channel"}),
    Way("focus", "focus"),
    Way("evidence", "evidence"),
    Way("gradcam", "gradcam"),
    Way("input_x_gradient", "input_x_gradient"),
    Way("guided_gradcam", "guided_gradcam"),
    Way("guided_gradcam, signed", "guided_gradcam", {"reduce": "sum"}),
)

COLUMNS = {"insertion": True, "deletion": False, "id_score": True, "least_probability": False}
HEADS = {
    "insertion": "insertion (larger)",
    "deletion": "deletion (smaller)",
    "id_score": "ID (larger)",
    "least_probability": "change, 25 % least salient (smaller)",
}


def measured(net: Net, count: int) -> Evaluation:
    """Every way on the first ``count`` pictures of a network."""
    data = WORK / f"{net.name}.npz"
    np.savez(data, **{names_of(net.path)[0]: net.x[:count], "names": [f"{i:03}" for i in range(min(count, len(net.x)))]})
    return evaluate(
        net.path,
        data,
        WAYS,
        ["insertion", "deletion", "pixel_perturbation"],
        Settings(percent=(25.0,)),
        black=net.black,
        state=WORK / f"maps-{net.name}.jsonl",
        progress=lambda done, total: print(f"\r{net.name}: {done}/{total}", end="", file=sys.stderr),
    )


def compared(found: Evaluation, first: str, second: str) -> list[str]:
    """The paired differences of two ways, column by column, and which is better."""
    cells = []
    for column, larger in COLUMNS.items():
        difference = found.difference(first, second, column)
        cells.append(f"{interval(difference)} {verdict(difference, larger)}")
    return cells


def verdict(difference: Summary, larger: bool) -> str:
    """Whether the first is better than the second."""
    if difference.low <= 0 <= difference.high:
        return "="
    return "better" if (difference.mean > 0) == larger else "worse"


def means(found: Evaluation, ways: Sequence[str]) -> list[list[str]]:
    """One row per way: means with intervals."""
    rows = []
    for name in ways:
        if name in found.refused:
            rows.append([name, *["refused"] * len(COLUMNS)])
        else:
            rows.append([name, *(interval(found.summary(name, column)) for column in COLUMNS)])
    return rows


def page(evaluations: dict[str, tuple[Net, Evaluation]]) -> str:
    """The whole page."""
    text = [
        "# Maps: figures behind choices",
        "Written by `tools/map_figures.py`; every number is what came out. Means, and differences sample by sample, with 95 % bootstrap "
        "intervals over pictures. Insertion and deletion as RISE has them (28 steps, probability of the predicted class); change: of the "
        "probability, relative, when the 25 % least salient pixels are black. `=`: the interval holds 0, so it is not told apart.",
    ]
    nets = [[net.name, net.what, f"{net.accuracy:.0%}", str(len(found.samples))] for net, found in evaluations.values()]
    text.append(table(["network", "what it is", "accuracy on its pictures", "n"], nets))
    text.append("## All of them")
    for net, found in evaluations.values():
        names = [w.name for w in (*WAYS, *(w for w in found.ways if w.baseline))]
        text += [f"### {net.name}, n = {len(found.samples)}", table(["map", *HEADS.values()], means(found, names))]
    for title, why, first, second in SECTIONS:
        rows = [
            [net.name, str(len(found.samples)), *compared(found, first, second)]
            for net, found in evaluations.values()
            if not {first, second} & set(found.refused)
        ]
        text += [
            f"## {title}",
            why,
            f"{first} minus {second}; better or worse is the first:",
            table(["network", "n", *HEADS.values()], rows),
        ]
    if "resnet56" in evaluations:
        text += peers.sections(evaluations["resnet56"][0], PEERS)
    return "\n\n".join(part for part in text if part) + "\n"


SECTIONS = (
    (
        "FullGrad: each channel by itself, or each layer",
        "The authors' code rescales a layer's bias maps jointly over its channels; pytorch-grad-cam, and the paper read literally, each "
        "channel by itself. Nowhere does the first rank better, so the second is the default; `preset=authors` is the first.",
        "fullgrad, channel",
        "fullgrad, layer",
    ),
    ("Focus against Grad-CAM", "`focus` sharpens Grad-CAM by what single places contribute.", "focus", "gradcam"),
    ("Focus against FullGrad", "", "focus", "fullgrad, channel"),
    (
        "Evidence against FullGrad",
        "`evidence` is signed and nothing in it is rescaled, which is why it has a law. Ranking is not what it is for: its least salient "
        "pixels are those that speak against the class, and to take these away changes the score most.",
        "evidence",
        "fullgrad, channel",
    ),
    (
        "Guided Grad-CAM: signed sums",
        "Its sign is that of guided backpropagation, which follows edges.",
        "guided_gradcam, signed",
        "guided_gradcam",
    ),
    ("Guided Grad-CAM: signed sums against chance", "", "guided_gradcam, signed", "random"),
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", default="resnet56,vgg9,resnet10,lite0,squeezenet")
    parser.add_argument("--large", type=int, default=40, help="pictures of networks for ImageNet")
    parser.add_argument("--small", type=int, default=150, help="pictures of the others")
    args = parser.parse_args()
    found = {}
    for name in args.nets.split(","):
        net = NETS[name]()
        found[name] = net, measured(net, args.large if net.x.shape[-1] > 100 else args.small)
    write_whole(PAGE, page(found).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
