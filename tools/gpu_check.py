#!/usr/bin/env python3
"""Every shipped method on a GPU against the CPU: relative error of the attribution, ||gpu - cpu|| / ||cpu||, with TF32 off and on.

    tools/gpu_check.py [FILE.onnx ...] [--provider cuda] [--methods gradient,fullgrad] [--limit 1e-2]

Without files: models/tiny/cnn.onnx and models/efficientnet_lite0.onnx, on one random picture. Exit status 1 if a method fails, or with
TF32 off (as onnxsal opens CUDA sessions) is further off than the limit; the column with TF32 on says what ``--tf32`` costs.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import onnxsal  # noqa: E402
from onnxsal.engine.method import shipped_methods  # noqa: E402
from onnxsal.errors import MethodError, OnnxsalError, PlanError, ProviderError, UnsupportedError  # noqa: E402
from onnxsal.runtime.providers import CUDA, as_text, resolve  # noqa: E402

MODELS = ("models/tiny/cnn.onnx", "models/efficientnet_lite0.onnx")

QUICK: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 10},
    "smoothgrad": {"n_samples": 4},
    "smooth_fullgrad": {"n_samples": 4},
    "rise": {"n_masks": 50},
    "occlusion": {"window": 0.25, "stride": 0.25},
}
"""Coarser settings for methods that run the model many times."""


def settings(model: str, method: str, x: np.ndarray) -> dict[str, Any]:
    given: dict[str, Any] = {**QUICK.get(method, {}), "black": -1.0, "white": 1.0}
    if "patterns" in shipped_methods()[method].parameters:
        noise = np.random.default_rng(1).normal(size=(32, *x.shape[1:])).astype(np.float32)
        given["patterns"] = onnxsal.fit_patterns(model, noise, batch_size=8)
    return given


def errors(model: str, method: str, provider: str) -> list[float]:
    """With TF32 off, and on where the provider has it."""
    shape = onnxsal.Explainer(model, "gradient").conversion.question.x.shape or ()
    x = np.random.default_rng(0).normal(size=[d if isinstance(d, int) else 1 for d in shape]).astype(np.float32)
    given = settings(model, method, x)
    expected = onnxsal.Explainer(model, method, **given).explain(x)
    found = []
    for tf32 in (False, True) if CUDA in dict(resolve(provider)) else (False,):
        explained = onnxsal.Explainer(model, method, providers=provider, tf32=tf32, **given).explain(x, expected.target)
        gap = np.linalg.norm(explained.attribution.astype(np.float64) - expected.attribution)
        found.append(float(gap / np.linalg.norm(expected.attribution.astype(np.float64))))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[str(ROOT / name) for name in MODELS])
    parser.add_argument("--provider", default="cuda")
    parser.add_argument("--methods", default=",".join(shipped_methods()))
    parser.add_argument("--limit", type=float, default=1e-2)
    asked = parser.parse_args()
    print(f"on {as_text([name for name, _ in resolve(asked.provider)], dict(resolve(asked.provider)))}, limit {asked.limit:g}")
    far = 0
    for model in asked.models:
        print(f"\n{Path(model).name:32} {'TF32 off':>10} {'TF32 on':>10}")
        for method in asked.methods.split(","):
            try:
                found = errors(model, method, asked.provider)
            except ProviderError as error:
                sys.exit(str(error))
            except (PlanError, UnsupportedError, MethodError) as error:
                print(f"{method:32} refused: {error}")
                continue
            except OnnxsalError as error:
                far += 1
                print(f"{method:32} failed: {error}")
                continue
            wrong = not found[0] <= asked.limit
            far += wrong
            print(f"{method:32} {' '.join(f'{e:10.1e}' for e in found)}{'  too far' if wrong else ''}", flush=True)
    print(f"\n{far} method(s) failed or beyond the limit")
    return int(far > 0)


if __name__ == "__main__":
    sys.exit(main())
