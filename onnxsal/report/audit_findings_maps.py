"""What is wrong with the maps: they do not depend on the weights, do not account for the score, show nothing, say less than noise."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from onnxsal.metrics.evaluation import Evaluation
from onnxsal.report.audit_finding import FEW, SERIOUS, WARNING, Facts, Finding, finding, percent

RESIDUAL, APPROXIMATE = 1e-3, 0.5
"""Relative error of a law that holds exactly; and of one that a sum approximates, such as integrated gradients."""

SAME = 0.8
"""Rank correlation with the maps of a model with random weights from which on a map hardly depends on them.

Below it, a map that changes only in part is told in the table of checks: that is about its method, and no fault of the model.
"""

SUMMED = ("integrated_gradients",)

ESCAPED = 0.5
"""Share of the score that leaves through biases."""

FLAT = 0.1
"""Share of pictures whose map may show nothing."""


def _structure(row: Facts) -> str:
    return f" and an SSIM of {row['ssim'][-1]:.2f}" if row["ssim"] else ""


def _better(facts: Facts) -> str:
    """Which methods do better, in words."""
    good = [row["method"] for row in facts["sanity"] if row["passed"]]
    return f"those of {' and '.join(good)} pass this check" if good else "use a method that passes this check"


def sanity(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    """The map stays what it is when the weights are drawn anew."""
    for row in facts["sanity"]:
        if row["passed"] is False and row["spearman"][-1] >= SAME:
            first, last = row["spearman"][0], row["spearman"][-1]
            yield finding(
                f"randomisation-{row['method']}",
                SERIOUS,
                70 + 10 * last,
                f"The map of {row['method']} hardly changes when the weights are randomised",
                f"With every layer's weights drawn anew, the maps still have a rank correlation of {last:.2f} with the original "
                f"ones ({first:.2f} after the layers nearest the output; {row['n']} pictures){_structure(row)}: "
                "what they show comes from the picture and from how the network is built, not from what it has learnt. "
                "This is about the method's maps, not about the model.",
                f"Do not judge the model by the maps of {row['method']}; {_better(facts)}.",
            )


def laws(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    """The map does not account for the score, though its method promises so."""
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
        yield finding(
            f"residual-{name}",
            WARNING if summed else SERIOUS,
            50 + min(bad[0][0], 10),
            f"The map of {name} does not account for the score",
            f"{name} promises: {method['law'] or 'its parts sum to the score'}. On {len(bad)} of {len(pairs)} pictures the sum "
            f"misses by more than {limit:g} of the "
            f"score (worst: {bad[0][0]:.3g}, '{bad[0][1]}'{_reached(facts, name, bad[0][1])}).",
            "Raise n_steps."
            if summed
            else "Do not rely on these maps; report the model to the authors of onnxsal if it computes in float32.",
            [n for _, n in bad],
        )


def _reached(facts: Facts, method: str, picture: str) -> str:
    """Of a relevance method: how much of the score arrives in that map."""
    (share,) = (p["maps"][method]["reached"] for p in facts["pictures"] if p["name"] == picture)
    return "" if share is None else f", where {percent(share)} of the score reaches the input"


def biases(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    """Relevance leaves through biases, or is not conserved."""
    for flow in facts["flow"]:
        if flow["kind"] != "relevance" or not flow["rows"]:
            continue
        last = flow["rows"][-1]
        if abs(last["bias"]) > ESCAPED:
            steps = [(abs(b["bias"] - a["bias"]), b["layer"]) for a, b in zip(flow["rows"], flow["rows"][1:], strict=False)]
            most = max(steps, default=(0.0, last["layer"]))
            yield finding(
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
            yield finding(
                f"flow-{flow['method']}",
                WARNING,
                25,
                f"Relevance is not conserved ({flow['method']})",
                words[:1].upper() + words[1:] + ".",
                "Use another rule.",
            )


def flat(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    """The maps show nothing."""
    for method in facts["methods"]:
        name = method["name"]
        flat = [p["name"] for p in facts["pictures"] if name in p["maps"] and p["maps"][name]["warnings"]]
        if len(flat) > FLAT * len(facts["pictures"]):
            example = next(p["maps"][name]["warnings"][0] for p in facts["pictures"] if p["name"] == flat[0])
            yield finding(
                f"flat-{name}",
                WARNING,
                40 + len(flat) / len(facts["pictures"]),
                f"Maps of {name} show nothing on {len(flat)} of {len(facts['pictures'])} pictures",
                example[:1].upper() + example[1:] + ".",
                "Use another method, or another layer.",
                flat,
            )


def faithful(facts: Facts, evaluations: Sequence[Evaluation]) -> Iterator[Finding]:
    """The maps say less about the answer than noise does."""
    measured = evaluations[0]
    for way in (w.name for w in measured.ways if not w.baseline):
        if not (measured.has(way, "id_score") and measured.has("random", "id_score")):
            continue
        worse = {c: measured.difference(way, "random", c) for c in ("insertion", "deletion")}
        if worse["insertion"].n >= FEW and worse["insertion"].high < 0 and worse["deletion"].low > 0:
            yield finding(
                f"unfaithful-{way}",
                WARNING,
                35,
                f"The maps of {way} say less about the answer than noise does",
                f"Taking away what they call important lowers the score less than taking away random pixels (area "
                f"{worse['deletion'].mean:+.3f}), and putting it back "
                f"raises it less (area {worse['insertion'].mean:+.3f}; {worse['insertion'].n} pictures).",
                "Do not rely on these maps.",
            )


def refused(facts: Facts, _: Sequence[Evaluation]) -> Iterator[Finding]:
    """A method cannot explain the model."""
    for method in facts["methods"]:
        if method["refused"]:
            yield finding(
                f"refused-{method['name']}",
                WARNING,
                10,
                f"{method['name']} cannot explain this model",
                method["refused"],
                "Leave the method out, or follow what the message says.",
            )
