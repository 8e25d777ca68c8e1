#!/usr/bin/env python3
"""Is this card right, and how fast is it? Every shipped method on a GPU against the CPU, CUDA graphs, memory, ratios to plain inference.

    tools/gpu_check.py                                # ten minutes at most; writes the section on cards of docs/performance.md
    tools/gpu_check.py FILE.onnx ... [--methods gradient,fullgrad] [--limit 1e-2] [--seconds 300] [--tf32]
    tools/gpu_check.py --provider cpu --tiny          # the same without a card, in moments: is the check itself in order?

Without files: ResNet-50, MobileNetV2 and ViT-S/16 with random weights. Agreement is ||gpu - cpu|| / ||cpu|| of the attribution, with TF32
off, as onnxsal opens CUDA sessions (``--tf32``: on too). Exit status 1 if a method fails, is further off than the limit, gives a number
for a class that does not exist, or another map as a CUDA graph. What does not fit into the time is left out, and said so.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import onnx
import onnxruntime as ort

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from onnxsal.engine.method import shipped_methods  # noqa: E402
from onnxsal.errors import ProviderError  # noqa: E402
from onnxsal.runtime.providers import as_text, resolve  # noqa: E402
from onnxsal.runtime.session import open_session  # noqa: E402
from tools.card import page, parts  # noqa: E402
from tools.card.clock import Clock  # noqa: E402
from tools.card.nets import networks  # noqa: E402


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help="files (else three networks with random weights)")
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--methods", default=",".join(shipped_methods()))
    parser.add_argument("--limit", type=float, default=1e-2, help="relative error beyond which a method is wrong")
    parser.add_argument("--seconds", type=float, default=540.0, help="the time that all of it may take")
    parser.add_argument("--tiny", action="store_true", help="small networks, and batches of 1 and 2")
    parser.add_argument("--tf32", action="store_true", help="also how far TF32 is off")
    parser.add_argument("--page", type=Path, help="where the result is written (docs/performance.md, if it is a card's)")
    return parser


def measured(report: parts.Report, tiny: bool) -> list[str]:
    """The tables, in the order of what matters most; each part may take a share of the time."""
    batches = (1, 2) if tiny else (1, 32)
    made = [
        parts.out_of_range(report, 0.08),
        parts.graphs(report, 0.22),
        parts.agreement(report, 0.4),
        parts.last_batch(report, 0.05),
        parts.ratios(report, 0.2, batches),
        parts.memory(report, 0.1),
        parts.peers(report, 0.2, batches),
    ]
    return [one for one in made if one.count("\n") > 1]


def told(report: parts.Report, tables: list[str]) -> str:
    """The section of the page."""
    name = page.card_name() or "a CPU"
    lines = [
        "## On a card",
        f"{name}; onnxruntime {ort.__version__}; {as_text([n for n, _ in resolve(report.provider)], dict(resolve(report.provider)))}.",
        *tables,
        f"Wrong: {'; '.join(report.wrong) or 'nothing'}.",
        f"Left out for lack of time or of what it needs: {'; '.join(report.clock.left_out) or 'nothing'}.",
    ]
    return "\n\n".join(lines)


def main() -> int:
    asked = options().parse_args()
    clock = Clock(asked.seconds)
    models = {Path(m).name: onnx.load(m) for m in asked.models} or networks(asked.tiny)
    try:
        open_session(next(iter(models.values())), asked.provider)
    except ProviderError as error:
        sys.exit(str(error))
    report = parts.Report(asked.provider, models, asked.methods.split(","), asked.limit, clock, asked.tf32)
    section = told(report, measured(report, asked.tiny))
    print(f"\n{section}\n\n{clock.spent:.0f} s; {len(report.wrong)} method(s) failed or beyond the limit")
    where = asked.page or (page.PAGE if report.on_card else None)
    if where is not None:
        page.write(where, section)
    return int(bool(report.wrong))


if __name__ == "__main__":
    sys.exit(main())
