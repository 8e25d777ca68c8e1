"""docs/which-method.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import onnxsal
from onnxsal.metrics.statistics import Summary
from onnxsal.runtime.files import write_whole
from tools.which.text import interval, table
from tools.which.words import Words

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "which-method.md"

COLUMNS = {
    "id_score": "ID (larger)",
    "insertion": "insertion (larger)",
    "deletion": "deletion (smaller)",
    "least_probability": "change, 25 % least salient (smaller)",
}
SHORT = {
    "lite0": "Lite0",
    "squeezenet": "SqueezeNet",
    "resnet56": "ResNet-56",
    "vgg9": "VGG, digits",
    "resnet10": "ResNet, digits",
    "vit": "ViT",
}


def of_pictures(one: Any) -> str:
    """The table of one network of pictures, best ID first; in brackets maps that know nothing of the model."""
    found, sanity = one.found, one.sanity
    shown = [w for w in found.ways if w.name not in found.refused]
    shown.sort(key=lambda w: -found.summary(w.name, "id_score").mean)
    best = shown[0].name
    rows = []
    for way in shown:
        cells = [interval(found.summary(way.name, column)) for column in COLUMNS]
        apart = found.difference(best, way.name, "id_score")
        tied = "best" if way.name == best else "not resolved" if apart.low <= 0 else interval(apart)
        alike = sanity.summary(way.name, "randomised_spearman") if sanity.has(way.name, "randomised_spearman") else None
        law = np.nanmax(found.values(way.name, "residual")) if found.has(way.name, "residual") else None
        cost = one.cost.get(way.name)
        name = f"({way.name})" if way.baseline else way.name
        rows.append(
            [
                name,
                *cells,
                tied,
                "" if alike is None else f"{alike.mean:.2f}",
                "" if law is None else f"{law:.0e}",
                "" if cost is None else f"{cost:.1f}",
            ]
        )
    text = table(
        ["method", *COLUMNS.values(), "ID less than the best's by", "alike with random weights", "law, worst residual", "cost"], rows
    )
    refused = "; ".join(f"`{name}`: {why.splitlines()[0]}" for name, why in found.refused.items())
    return text + (f"\n\nRefused: {refused}" if refused else "")


def of_words(words: Words) -> str:
    """The table of MiniLM, largest difference first."""
    rows = []
    for name, (most, least, apart) in sorted(words.curves.items(), key=lambda item: -item[1][2].mean):
        law, cost = words.law.get(name), words.cost.get(name)
        shown = f"({name})" if name == "random" else name
        rows.append(
            [
                shown,
                interval(apart),
                interval(most),
                interval(least),
                "" if law is None else f"{law:.0e}",
                "" if cost is None else f"{cost:.1f}",
            ]
        )
    text = table(["method", "LeRF - MoRF (larger)", "MoRF (smaller)", "LeRF (larger)", "law, worst residual", "cost"], rows)
    refused = "; ".join(f"`{name}`: {why.splitlines()[0]}" for name, why in words.refused.items())
    return text + (f"\n\nRefused: {refused}" if refused else "")


def write(pictures: Sequence[Any], words: Words | None, few: Mapping[str, Any]) -> None:
    """The whole page."""
    given = "; ".join(f"`{name}` " + ", ".join(f"{k}={v}" for k, v in values.items()) for name, values in few.items())
    text = [
        "# Which method",
        "Written by `tools/which_method.py`; every number is what came out. Means with 95 % bootstrap intervals over pictures or texts. "
        "The networks, and the pictures, are few: what holds on one need not hold on yours, and `onnxsal evaluate` measures yours.",
        "- **Insertion, deletion**: area under the probability of the predicted class while the most salient pixels are put back into the "
        "blurred picture, or replaced by the mean colour, in 28 steps. **ID** is their difference.\n"
        "- **Change**: of the probability, relative, when the 25 % least salient pixels are black.\n"
        "- **Not resolved**: sample by sample, the interval of the best method's lead in ID holds 0.\n"
        "- **Alike with random weights**: rank correlation of the map with that of the same network when every layer is drawn anew "
        "(smaller is better: a map that stays the same says little of the model).\n"
        "- **Law**: the largest relative error of the law that the method returns with its map.\n"
        "- **Cost**: processor time of an explanation in forward passes of the plain network, one picture, one core, least of several.\n"
        "- In brackets maps that know nothing of the model.",
        f"Settings are the defaults, but for: {given}.",
        "## In short",
        summary_table(pictures, words),
    ]
    for one in pictures:
        net = one.net
        text += [
            f"## {SHORT.get(net.name, net.name)}",
            f"{net.what}; accuracy on its pictures {net.accuracy:.0%}; n = {len(one.found.samples)} "
            f"that it recognises (photographs without a label too), {len(one.sanity.samples)} with random weights.",
            of_pictures(one),
        ]
    if words is not None:
        text += [
            "## MiniLM",
            "all-MiniLM-L6-v2 as a classifier: the mean of a text's vectors times (the vector of a heading less the mean of all headings). "
            "Texts are the second paragraphs, headings the first, of what scikit-learn says about its estimators; accuracy "
            f"{words.accuracy:.0%}, n = {words.n} texts whose own heading scores best. Words are replaced by [MASK] in ten steps, most "
            "salient first (MoRF) or least (LeRF); the score is 1 for the text and 0 for masks alone. Explained at the word embedding.",
            of_words(words),
        ]
    write_whole(PAGE, ("\n\n".join(text) + "\n").encode())


def summary_table(pictures: Sequence[Any], words: Words | None) -> str:
    """One row per method: ID on every network of pictures, LeRF - MoRF on MiniLM, in bold where not resolved from the best."""
    heads = ["method", *(f"ID, {SHORT.get(p.net.name, p.net.name)} (n={len(p.found.samples)})" for p in pictures)]
    heads += [] if words is None else [f"LeRF - MoRF, MiniLM (n={words.n})"]
    cost = [p for p in pictures if p.cost][:1]
    heads += ["law", "cost"]
    best = {
        p.net.name: max(
            (w.name for w in p.found.ways if w.name not in p.found.refused), key=lambda n, p=p: p.found.summary(n, "id_score").mean
        )
        for p in pictures
    }
    rows = []
    for name in [*onnxsal.methods(), "random"]:
        cells = []
        for p in pictures:
            if name in p.found.refused or not p.found.has(name, "id_score"):
                cells.append("refused")
                continue
            mean = p.found.summary(name, "id_score").mean
            tied = name == best[p.net.name] or p.found.difference(best[p.net.name], name, "id_score").low <= 0
            cells.append(f"**{mean:.2f}**" if tied else f"{mean:.2f}")
        if words is not None:
            cells.append(bold(words.curves.get(name), words))
        method = onnxsal.methods().get(name)
        law = (
            ""
            if method is None
            else "yes"
            if any(p.found.has(name, "residual") for p in pictures) or name in (words.law if words else {})
            else "no"
        )
        rows.append(
            [
                f"({name})" if method is None else f"`{name}`",
                *cells,
                law,
                f"{cost[0].cost[name]:.1f}" if cost and name in cost[0].cost else "",
            ]
        )
    return (
        table(heads, [r for r in rows if any(c not in ("refused", "yes", "no", "") for c in r[1:-2])])
        + "\n\nBold: not resolved from the best there (95 %). Law: the relative error of a law comes with the map. Cost: in forward passes"
        + (f" of {SHORT.get(cost[0].net.name, cost[0].net.name)}." if cost else ".")
    )


def bold(found: tuple[Summary, Summary, Summary] | None, words: Words) -> str:
    """LeRF - MoRF; bold where its interval meets that of the best."""
    if found is None:
        return "refused"
    best = max((c[2] for c in words.curves.values()), key=lambda s: s.mean)
    return f"**{found[2].mean:.2f}**" if found[2].high >= best.low else f"{found[2].mean:.2f}"
