"""What an audit found, in plain words, worst first. Every finding has a number behind it that is in the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from onnxsal.metrics.evaluation import Evaluation
from onnxsal.metrics.statistics import summarise

Facts: TypeAlias = Mapping[str, Any]
Finding: TypeAlias = dict[str, Any]

SERIOUS, WARNING = "serious", "warning"

GAIN = 0.1
"""Nats by which the label's log-probability must rise when red and blue are exchanged."""

CONFIDENCE_GAIN = 0.1
"""The same of the best class's, where there are no labels."""

FEW = 8
"""Pictures below which no mean is judged."""

DECIDED = 0.5
"""Share of pictures that a place must turn into a class for the place to decide the class."""

RIM_DENSITY, RIM_LOW = 1.6, 1.3
"""Relevance at the border compared with its area: mean, and the interval's lower end."""

ALIKE = 0.5
"""Rank correlation of two models' maps below which they answer for different reasons."""

AGREEMENT = 0.9

RESIDUAL, APPROXIMATE = 1e-3, 0.5
"""Relative error of a law that holds exactly; and of one that a sum approximates, such as integrated gradients."""

SUMMED = ("integrated_gradients",)

ESCAPED = 0.5
"""Share of the score that leaves through biases."""

FLAT = 0.1
"""Share of pictures whose map may show nothing."""

MOST = 20
"""Pictures that a finding names."""


def find(facts: Facts, evaluations: Sequence[Evaluation]) -> list[Finding]:
    """Every finding, worst first."""
    found = [f for judge in JUDGES for f in judge(facts, evaluations)]
    return sorted(found, key=lambda f: (f["severity"] != SERIOUS, -f["weight"]))


def _finding(id: str, severity: str, weight: float, title: str, text: str, advice: str, pictures: Sequence[str] = ()) -> Finding:
    return {
        "id": id,
        "severity": severity,
        "weight": float(weight),
        "title": title,
        "text": text,
        "advice": advice,
        "pictures": list(pictures)[:MOST],
    }


def percent(share: float) -> str:
    """A share in words."""
    return f"{100 * share:.0f} %"


def _class(facts: Facts, index: int) -> str:
    """A class as people call it."""
    for picture in facts["pictures"]:
        for answer in picture["predicted"]:
            if answer["class"] == index and answer["label"]:
                return f"'{answer['label'].split(',')[0]}' (class {index})"
    return f"class {index}"


def _predicted(facts: Facts, index: int) -> list[str]:
    return [p["name"] for p in facts["pictures"] if p["predicted"][0]["class"] == index]


# ----- the model and its pictures -----


def _channels(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
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
            yield _finding(
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
    gain = told["confidence_gain"]
    if gain["n"] >= FEW and gain["low"] > 0 and gain["mean"] > CONFIDENCE_GAIN:
        yield _finding(
            "channel-order",
            SERIOUS,
            80 + gain["mean"],
            "Red and blue reach the model exchanged, it seems",
            f"With red and blue exchanged, the model is surer of its answers on {gain['n']} colour pictures: the log-probability of "
            "its best class rises by "
            f"{gain['mean']:.2f} on average (99 % interval {gain['low']:.2f} to {gain['high']:.2f}). A model that is fed as it was "
            "trained gets less sure.",
            advice + " Labels would make this sure: put the pictures into sub-folders named by their class.",
        )


def _marks(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    for mark in facts["checks"]["marks"]:
        copied, left = mark["copied"] / mark["onto"], mark["left"] / mark["covered"]
        if copied < DECIDED:
            continue
        name = _class(facts, mark["class"])
        lose = f" Covering it makes {mark['left']} of {mark['covered']} pictures lose the class." if left > 0 else ""
        yield _finding(
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
            _predicted(facts, mark["class"]),
        )


def _rims(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    for row in facts["checks"]["rim"]:
        density = row["density"]
        if density["n"] >= FEW and density["mean"] > RIM_DENSITY and density["low"] > RIM_LOW:
            yield _finding(
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


def _background(facts: Facts, evaluations: Sequence[Evaluation]) -> Iterator[Finding]:
    measured = evaluations[0]
    for way in (w.name for w in measured.ways if not w.baseline):
        if not (measured.has(way, "relevance_mass") and measured.has(way, "pointing_chance")):
            continue
        gap = measured.values(way, "relevance_mass") - measured.values(way, "pointing_chance")
        told = summarise(gap, 0.99)
        if told.n >= FEW and told.high < 0:
            chance = float(np.nanmean(measured.values(way, "pointing_chance")))
            yield _finding(
                f"background-{way}",
                SERIOUS,
                60 - 100 * told.mean,
                f"Attention lies on the background, not on the object ({way})",
                f"{percent(chance + told.mean)} of the relevance lie on the object, which covers {percent(chance)} of the picture "
                f"({told.n} pictures with masks): "
                "less than chance.",
                "The model may know the object by its surroundings. Test it on pictures of the object elsewhere.",
            )


def _accuracy(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    told = facts["accuracy"]
    classes = facts["settings"].get("classes") or (told or {}).get("classes", 0)
    if told and told["n"] >= 20 and told["classes"] >= 3 and told["top1"] <= 1.5 / classes:
        yield _finding(
            "labels",
            SERIOUS,
            95,
            "The model's answers have nothing to do with the labels",
            f"It is right about {percent(told['top1'])} of {told['n']} labelled pictures of {told['classes']} classes; guessing "
            "would do as well.",
            "Check the preprocessing, the file of labels, and whether the classes are in the same order.",
        )


# ----- the maps -----


def _sanity(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    for row in facts["sanity"]:
        if row["passed"] is False:
            first, last = row["spearman"][0], row["spearman"][-1]
            yield _finding(
                f"randomisation-{row['method']}",
                SERIOUS,
                70 + 10 * last,
                f"The map of {row['method']} hardly changes when the weights are randomised",
                f"With every layer's weights drawn anew, the maps still have a rank correlation of {last:.2f} with the original "
                f"ones ({first:.2f} after the layers "
                f"nearest the output; {row['n']} pictures). Such a map shows the picture's edges rather than what the model has learnt.",
                "Do not use this method's maps to judge the model; use one that passes this check.",
            )


def _laws(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    for method in facts["methods"]:
        name = method["name"]
        pairs = [
            (p["maps"][name]["residual"], p["name"])
            for p in facts["pictures"]
            if name in p["maps"] and p["maps"][name]["residual"] is not None
        ]
        limit = APPROXIMATE if name.split(":")[0] in SUMMED else RESIDUAL
        bad = sorted(((r, n) for r, n in pairs if not r <= limit), reverse=True)
        if not bad:
            continue
        summed = limit == APPROXIMATE
        yield _finding(
            f"residual-{name}",
            WARNING if summed else SERIOUS,
            50 + min(bad[0][0], 10),
            f"The map of {name} does not account for the score",
            f"{name} promises: {method['law'] or 'its parts sum to the score'}. On {len(bad)} of {len(pairs)} pictures the sum "
            f"misses by more than {limit:g} of the "
            f"score (worst: {bad[0][0]:.3g}, '{bad[0][1]}').",
            "Raise n_steps."
            if summed
            else "Do not rely on these maps; report the model to the authors of onnxsal if it computes in float32.",
            [n for _, n in bad],
        )


def _biases(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    for flow in facts["flow"]:
        if flow["kind"] != "relevance" or not flow["rows"]:
            continue
        last = flow["rows"][-1]
        if abs(last["bias"]) > ESCAPED:
            steps = [(abs(b["bias"] - a["bias"]), b["layer"]) for a, b in zip(flow["rows"], flow["rows"][1:], strict=False)]
            most = max(steps, default=(0.0, last["layer"]))
            yield _finding(
                f"biases-{flow['method']}",
                WARNING,
                30 + abs(last["bias"]),
                f"Relevance leaves through biases ({flow['method']})",
                f"{percent(abs(last['bias']))} of the score never reaches a pixel: biases take it, most of it just before "
                f"'{most[1]}' ({percent(most[0])}). "
                f"The pixels of the map stand for {percent(last['sum'])} of the score.",
                "Read the map as a part of the answer only, use a rule that leaves biases out, or FullGrad, which shows them.",
            )
        for words in flow["warnings"]:
            yield _finding(
                f"flow-{flow['method']}",
                WARNING,
                25,
                f"Relevance is not conserved ({flow['method']})",
                words[:1].upper() + words[1:] + ".",
                "Use another rule.",
            )


def _flat(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    for method in facts["methods"]:
        name = method["name"]
        flat = [p["name"] for p in facts["pictures"] if name in p["maps"] and p["maps"][name]["warnings"]]
        if len(flat) > FLAT * len(facts["pictures"]):
            example = next(p["maps"][name]["warnings"][0] for p in facts["pictures"] if p["name"] == flat[0])
            yield _finding(
                f"flat-{name}",
                WARNING,
                40 + len(flat) / len(facts["pictures"]),
                f"Maps of {name} show nothing on {len(flat)} of {len(facts['pictures'])} pictures",
                example[:1].upper() + example[1:] + ".",
                "Use another method, or another layer.",
                flat,
            )


def _faithful(facts: Facts, evaluations: Sequence[Evaluation]) -> Iterator[Finding]:
    measured = evaluations[0]
    for way in (w.name for w in measured.ways if not w.baseline):
        if not (measured.has(way, "id_score") and measured.has("random", "id_score")):
            continue
        worse = {c: measured.difference(way, "random", c) for c in ("insertion", "deletion")}
        if worse["insertion"].n >= FEW and worse["insertion"].high < 0 and worse["deletion"].low > 0:
            yield _finding(
                f"unfaithful-{way}",
                WARNING,
                35,
                f"The maps of {way} say less about the answer than noise does",
                f"Taking away what they call important lowers the score less than taking away random pixels (area "
                f"{worse['deletion'].mean:+.3f}), and putting it back "
                f"raises it less (area {worse['insertion'].mean:+.3f}; {worse['insertion'].n} pictures).",
                "Do not rely on these maps.",
            )


def _refused(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    for method in facts["methods"]:
        if method["refused"]:
            yield _finding(
                f"refused-{method['name']}",
                WARNING,
                10,
                f"{method['name']} cannot explain this model",
                method["refused"],
                "Leave the method out, or follow what the message says.",
            )


# ----- two models -----


def _against(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    told = facts["against"]
    if told is None:
        return
    other = f"'{told['model']['file'] or 'the other model'}'"
    broken = [x for x in told["layers"] if x["broken"]]
    if broken:
        yield _broken(broken, other)
    agreement = told["agree"] / told["n"]
    missed = [p["name"] for p in facts["pictures"] if p["against"] and not p["against"]["agrees"]]
    if agreement < AGREEMENT and told["n"] >= FEW:
        yield _finding(
            "disagreement",
            SERIOUS,
            75 + 10 * (1 - agreement),
            "The two models give different answers",
            f"They agree on {told['agree']} of {told['n']} pictures ({percent(agreement)}).",
            f"Do not put {other} in place of the audited model before these pictures are explained.",
            missed,
        )
    doubtful = [r for r in told["methods"] if r["likeness"] and r["likeness"]["n"] >= FEW and r["likeness"]["high"] < ALIKE]
    if doubtful:
        worst = sorted(
            (p for p in facts["pictures"] if p["against"] and p["against"]["mean_likeness"] is not None),
            key=lambda p: p["against"]["mean_likeness"],
        )
        listing = ", ".join(f"{r['method']} {r['likeness']['mean']:.2f}" for r in doubtful)
        yield _finding(
            "reasons",
            WARNING,
            45 + 10 * (1 - min(r["likeness"]["mean"] for r in doubtful)),
            "The two models answer for different reasons",
            f"The rank correlation of their maps of the same class is low: {listing} (1 is the same map, 0 no relation).",
            "Look at the pictures whose reasons changed most; they are named here, worst first.",
            [p["name"] for p in worst],
        )


def _broken(layers: Sequence[Facts], other: str) -> Finding:
    """The layers at fault, the one with the clearest fault first; what follows it is not named."""
    first = max(layers, key=lambda x: max(x["weights"] or 0, x["values"] or 0))
    words = []
    if first["weights"] is not None and first["weights"] > 0.25:
        words.append(
            f"its weights are {_times(first['weights_factor'])} those of the audited model (relative error {first['weights']:.2g})"
        )
    if first["values"] is not None:
        words.append(
            f"what it computes is {_times(first['values_factor'])} what it should be (relative error {first['values']:.2g}, while "
            f"the error of what it reads is {first['before']:.2g})"
        )
    more = f" The same holds for {', '.join(x['name'] for x in layers if x is not first)}." if len(layers) > 1 else ""
    return _finding(
        f"layer-{first['name']}",
        SERIOUS,
        92,
        f"Layer '{first['name']}' is broken in {other}",
        f"In layer '{first['name']}' ({first['op_type']}) of {other} " + ", and ".join(words) + f".{more}",
        "If this is a quantised model, the layer's scale or zero point is wrong: quantise it again and compare the scale with its "
        "neighbours'.",
    )


def _times(factor: float | None) -> str:
    return "unlike" if factor is None or not np.isfinite(factor) else f"{factor:.2g} times"


Judge: TypeAlias = Callable[[Facts, Sequence[Evaluation]], Iterator[Finding]]

JUDGES: tuple[Judge, ...] = (
    *(_channels, _marks, _rims, _background, _accuracy),
    *(_sanity, _laws, _biases, _flat, _faithful, _refused),
    _against,
)
