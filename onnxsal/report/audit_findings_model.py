"""What is wrong with the model or its pictures: channels, marks, borders, backgrounds, labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from onnxsal.metrics.evaluation import Evaluation
from onnxsal.metrics.statistics import summarise
from onnxsal.report.audit_colours import ORDERS
from onnxsal.report.audit_finding import FEW, SERIOUS, WARNING, Facts, Finding, class_name, finding, percent, predicted

GAIN = 0.1
"""Nats by which the label's log-probability must rise, or without labels the entropy fall, when red and blue are exchanged."""

MANY = 10
"""Classes from which on certainty tells of the colours, where there are no labels."""

DECIDED = 0.5
"""Share of pictures that a place must turn into a class for the place to decide the class."""

RIM_DENSITY, RIM_LOW = 1.6, 1.3
"""Relevance at the border compared with its area: mean, and the interval's lower end."""


def channels(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    """Red and blue reach the model in an order that it was not trained on."""
    told = facts["checks"]["channels"]
    if told is None:
        return
    order = (facts["model"]["preprocessing"] or {}).get("channels")
    now = f"The preprocessing in use says {order}. " if order else ""
    other = {"RGB": "BGR", "BGR": "RGB"}.get(order or "", "the other order")
    advice = (
        f'{now}Check how the model was trained; if it was trained on {other}, set channels = "{other}" in the preprocessing '
        "and audit again."
    )
    labelled = told["labelled"]
    if labelled is not None and labelled["n"] >= FEW:
        gain = labelled["gain"]
        if gain["low"] > 0 and gain["mean"] > GAIN and labelled["right_exchanged"] >= labelled["right"]:
            yield finding(
                "channel-order",
                SERIOUS,
                90 + gain["mean"],
                "Red and blue reach the model exchanged, it seems",
                f"With red and blue exchanged, the model is right about {labelled['right_exchanged']} of {labelled['n']} labelled "
                "colour pictures "
                f"instead of {labelled['right']}, and its log-probability of the right class rises by {gain['mean']:.2f} on average "
                f"(99 % interval {gain['low']:.2f} to {gain['high']:.2f}). A model that is fed as it was trained gets worse by such "
                "an exchange.",
                advice,
            )
        return
    gain, orders = told["certainty_gain"], told["orders"]
    if told["classes"] < MANY:
        return  # two or three classes: a model may well be surer of a wrong answer
    if gain["n"] >= FEW and gain["low"] > 0 and gain["mean"] > GAIN and min(orders, key=orders.get) == ORDERS[-1]:
        yield finding(
            "channel-order",
            SERIOUS,
            80 + gain["mean"],
            "Red and blue reach the model exchanged, it seems",
            f"With red and blue exchanged, the model is surer of its answers on {gain['n']} colour pictures: the entropy of its "
            f"probabilities falls by {gain['mean']:.2f} nats on average (99 % interval {gain['low']:.2f} to {gain['high']:.2f}), and in "
            f"none of the six orders of the channels is it lower ({orders[ORDERS[0]]:.2f} as fed, {orders[ORDERS[-1]]:.2f} exchanged). A "
            "model that is fed as it was trained gets less sure.",
            advice + " Labels would make this sure: put the pictures into sub-folders named by their class.",
        )


def marks(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    """A place at the border decides a class."""
    for mark in facts["checks"]["marks"]:
        copied, left = mark["copied"] / mark["onto"], mark["left"] / mark["covered"]
        if copied < DECIDED:
            continue
        name = class_name(facts, mark["class"])
        lose = f" Covering it makes {mark['left']} of {mark['covered']} pictures lose the class." if left > 0 else ""
        yield finding(
            f"mark-{mark['class']}-{mark['cell'][0]}{mark['cell'][1]}",
            SERIOUS,
            85 + 5 * (copied + left),
            f"The {mark['place']} decides {name}: a watermark or another mark outside the object",
            f"Copying the {mark['place']} ({percent(mark['area'])} of the picture) of pictures of {name} into {mark['onto']} "
            "pictures of other classes turns "
            f"{mark['copied']} of them ({percent(copied)}) into it.{lose} {percent(mark['relevance'])} of the maps by "
            f"{mark['seen_by']} lie there.",
            "Look at that place in the pictures named here: what is there (a logo, a date, a frame) is not what the class means. "
            "Remove it from the "
            "training pictures, or put it into pictures of every class, and train again.",
            predicted(facts, mark["class"]),
        )


def rims(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    """The maps lie on the border."""
    for row in facts["checks"]["rim"]:
        density = row["density"]
        if density["n"] >= FEW and density["mean"] > RIM_DENSITY and density["low"] > RIM_LOW:
            yield finding(
                f"border-{row['method']}",
                WARNING,
                20 + density["mean"],
                f"Attention lies on the border of the pictures ({row['method']})",
                f"The outer {percent(row['width'])} of each side hold {density['mean']:.1f} times the relevance that their area "
                "would have by chance "
                f"(99 % interval {density['low']:.1f} to {density['high']:.1f}, {density['n']} pictures).",
                "Look whether frames, captions or watermarks are there. If not, the padding of the first layers may leave traces: "
                "compare with another method.",
            )


def background(facts: Facts, evaluations: Sequence[Evaluation]) -> Iterator[Finding]:
    """The maps lie beside the object."""
    measured = evaluations[0]
    for way in (w.name for w in measured.ways if not w.baseline):
        if not (measured.has(way, "relevance_mass") and measured.has(way, "pointing_chance")):
            continue
        gap = measured.values(way, "relevance_mass") - measured.values(way, "pointing_chance")
        told = summarise(gap, 0.99)
        if told.n >= FEW and told.high < 0:
            chance = float(np.nanmean(measured.values(way, "pointing_chance")))
            yield finding(
                f"background-{way}",
                SERIOUS,
                60 - 100 * told.mean,
                f"Attention lies on the background, not on the object ({way})",
                f"{percent(chance + told.mean)} of the relevance lie on the object, which covers {percent(chance)} of the picture "
                f"({told.n} pictures with masks): "
                "less than chance.",
                "The model may know the object by its surroundings. Test it on pictures of the object elsewhere.",
            )


def accuracy(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    """The answers have nothing to do with the labels."""
    told = facts["accuracy"]
    classes = facts["settings"].get("classes") or (told or {}).get("classes", 0)
    if told and told["n"] >= 20 and told["classes"] >= 3 and told["top1"] <= 1.5 / classes:
        yield finding(
            "labels",
            SERIOUS,
            95,
            "The model's answers have nothing to do with the labels",
            f"It is right about {percent(told['top1'])} of {told['n']} labelled pictures of {told['classes']} classes; guessing "
            "would do as well.",
            "Check the preprocessing, the file of labels, and whether the classes are in the same order.",
        )
