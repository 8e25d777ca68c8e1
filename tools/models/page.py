"""docs/models.md from the records of ``numbers.measured``."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from tools.models.numbers import FEW_STEPS, KINKS, METHODS
from tools.models.table import TABLE, Entry

HEADER = "<!-- written by tools/real_models.py; do not edit -->\n"
RESIDUAL = 1e-4
"""What the residual of FullGrad has to stay below in float32."""
SHORT = {"integrated_gradients": "IG", "lrp_epsilon": "LRP", "deeplift": "DeepLIFT", "fullgrad": "FullGrad", "gradcam": "Grad-CAM",
         "attnlrp": "AttnLRP", "feature_ablation": "ablation"}  # fmt: skip

INTRO = """# Real models

{tried} models were tried; {had} could be had, {gradients} of them have a gradient, {fullgrads} a FullGrad. `tools/real_models.py`
makes this page again: it downloads the packages named here, builds the networks of random weights, and measures each model in a process
of its own. `tools/real_models.py --only NAME --write DIR` writes one of them, and what it is fed, to try by hand.{earlier}

- **gradient error**: rms(g.v - d) / rms(d) over three random directions v, where g is the gradient of the explained score and d its finite
  difference along v, computed from the original model. "64" means in float64 (by ONNX Runtime, or by the reference evaluator where it
  lacks the kernel), "32" in float32, where rounding is in the figure. One ReLU of millions that float32 puts on the other side of its kink
  is 1e-3: where the error is above {kinks:.0e}, the second figure is that of the gradient in float64. A model in half precision or int8 is
  a staircase and has no finite differences: "twin" is |g - g'| / |g'| against the gradient g' of the same model in float32, whose own
  error stands behind it. Rounded activations switch other ReLUs than exact ones do, so this is not the error of a gradient.
- **residual**: of FullGrad, asked to stay below {residual:.0e} in float32.
- **zeros**: the share of the gradient that is exactly 0: padding that a mask hides, tokens that a causal mask cuts off, units that are off.
- A method: "yes" (finite, and not zero everywhere in any sample), "no" with the number of the reason below, or what is wrong.

All settings are the defaults, but integrated gradients has {steps} steps. Versions:
{versions}.
"""


def versions() -> dict[str, str]:
    """Of what the figures depend on beside the models."""
    found = {}
    for name in ("onnxruntime-gpu", "onnxruntime", "onnx", "torch", "tf2onnx", "keras", "numpy"):
        with contextlib.suppress(PackageNotFoundError):  # one of the two builds of ONNX Runtime
            found[name] = version(name)
    return found


def page(records: Mapping[str, dict[str, Any]], earlier: int = 0) -> str:
    reasons: dict[str, list[str]] = {}
    rows = [row(entry, records[entry.name], reasons) for entry in TABLE]
    had = [r for r in records.values() if "absent" not in r]
    works = {m: sum(r.get("methods", {}).get(m) == "works" for r in had) for m in METHODS}
    intro = INTRO.format(
        tried=len(TABLE), earlier=f" {earlier} were measured by an earlier state of the code." if earlier else "",
        had=len(had), gradients=works["gradient"], fullgrads=works["fullgrad"], residual=RESIDUAL, kinks=KINKS,
        steps=FEW_STEPS["integrated_gradients"]["n_steps"], versions=", ".join(f"{name} {number}" for name, number in versions().items()),
    )  # fmt: skip
    heads = [
        "model",
        "source, licence",
        "opset, nodes",
        "explained",
        "gradient error",
        "residual",
        "zeros",
        *(SHORT.get(m, m) for m in METHODS),
    ]
    lines = [HEADER, intro, f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}", *rows]
    if reasons:
        lines += ["\n## Why not\n"]
        lines += [f"{i}. {escaped(why)}  \n   {', '.join(dict.fromkeys(who))}" for i, (why, who) in enumerate(reasons.items(), 1)]
    return "\n".join(lines) + "\n"


def row(entry: Entry, record: dict[str, Any], reasons: dict[str, list[str]]) -> str:
    cells = [f"**{entry.name}**: {entry.what}", f"{entry.source}; {entry.licence}"]
    if "absent" in record:
        cells += ["", f"not available: {record['absent']}", *[""] * (3 + len(METHODS))]
        return f"| {' | '.join(map(escaped, cells))} |"
    methods = record.get("methods", {})
    cells += [f"{record.get('opset', '?')}, {record.get('nodes', '?')}", explained(record), error(record), residual(record), zeros(record)]
    cells += [cell(entry, methods.get(m, f"failed: {record.get('failed', 'not reached')}"), reasons) for m in METHODS]
    return f"| {' | '.join(map(escaped, cells))} |"


def cell(entry: Entry, verdict: str, reasons: dict[str, list[str]]) -> str:
    if verdict == "works":
        return "yes"
    kind, _, why = verdict.partition(": ")
    if kind == "wrong":
        return f"**{verdict}**"
    reasons.setdefault(general(why), []).append(entry.name)
    number = list(reasons).index(general(why)) + 1
    return f"no ({number})" if kind == "refused" else f"**{kind}** ({number})"


def general(why: str) -> str:
    """A reason without what is special to one model, so that models share it."""
    quoted = re.sub(r"(?<!\w)'([^']*)'(?!\w)", lambda found: found[0] if found[1] in METHODS else "'...'", why)
    return re.sub(r"\b\d+ (node|value|score)", r"some \1", re.sub(r"\[[^\]]*\]", "[...]", quoted))


def explained(record: dict[str, Any]) -> str:
    if "x" not in record:
        return record.get("note", "")
    ends = f"{short(record['x'])} {record['shape']} -> {short(record['y'])}"
    return f"{ends} ({record['note']})" if record.get("note") else ends


def short(name: str) -> str:
    return name if len(name) <= 28 else f"...{name[-26:]}"


def error(record: dict[str, Any]) -> str:
    if record.get("error") is None:
        return record.get("against", "")
    against = record["against"].replace("float64 ONNX Runtime", "64").replace("float64 reference", "64")
    exact = f"; {record['exact']:.0e} if g is too" if "exact" in record else ""
    text = f"{record['error']:.0e} ({against.replace('float32 steps', '32').replace('float32 twin', 'twin')}{exact}"
    return text + (f", {record['twin_error']:.0e})" if record.get("twin_error") is not None else ")")


def residual(record: dict[str, Any]) -> str:
    value = record.get("residual")
    if value is None:
        return ""
    return f"{value:.0e}" if value < RESIDUAL else f"**{value:.0e}**"


def zeros(record: dict[str, Any]) -> str:
    return "" if "zeros" not in record else f"{record['zeros']:.0%}"


def escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def summary(entry: Entry, record: dict[str, Any]) -> str:
    """One line for the terminal."""
    if "absent" in record:
        return f"{entry.name}: not available: {record['absent']}"
    methods = record.get("methods", {})
    flaws = [f"{m} {v}" for m, v in methods.items() if v != "works"]
    head = f"{entry.name}: gradient error {error(record) or '?'}, residual {residual(record) or '-'}, zeros {zeros(record) or '-'}"
    failed = [f"FAILED {record['failed']}"] if "failed" in record else []
    return "\n    ".join([f"{head}, works: {', '.join(m for m, v in methods.items() if v == 'works') or 'nothing'}", *flaws, *failed])
