#!/usr/bin/env python3
"""Time of every method as a ratio to plain inference in the same run, with its floor, peak memory, conversion and file size.

    tools/bench.py [resnet50 lite0 mobilenet_v3 vit_s16 minilm FILE.onnx ...] [--methods gradient,fullgrad] [--batch 8] [--threads 2]
    tools/bench.py lite0 --for cpu,any --kernels     # the plain forms beside those for the CPU, and which kernels take the time
    tools/bench.py --write                           # the tables of docs/performance.md
    tools/bench.py --evaluate [--pictures 4] [--rounds 3]      # deletion with 100 steps on lite0, beside plain inference
    tools/bench.py --admission [resnet50|transformer|FILE.onnx ...]  # what the checks of a model's structure take of its conversion

``ratio``: process time on one thread, the median of pairs of runs that took turns (``best``: of the fastest runs). ``floor``: what the
convolutions and matrix products of the converted file take alone, in the same unit; in the row of plain inference, its share of them.
``wall``: time on the wall with ``--threads``. ``a step``: the ratio divided by the steps or samples of the method. ``peak``: what a
session of the file takes, opened and run once. ``convert``: seconds and peak MB of the conversion. ``size``: of the file, relative to the
model's. ``reorders``: how often the optimised graph enters or leaves the blocked layout. What is measured how stands in tools/speed/.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.speed import page  # noqa: E402
from tools.speed.measure import alone  # noqa: E402
from tools.speed.nets import NETS  # noqa: E402
from tools.speed.peers import PEERS, peers_of  # noqa: E402

METHODS = {
    "resnet50": "gradient guided_backprop fullgrad lrp_epsilon_plus lrp_resnet deeplift integrated_gradients smoothgrad gradcam",
    "lite0": "gradient guided_backprop fullgrad lrp_epsilon_plus lrp_resnet deeplift integrated_gradients smoothgrad gradcam",
    "mobilenet_v3": "gradient fullgrad lrp_epsilon_plus deeplift integrated_gradients gradcam",
    "vit_s16": "gradient fullgrad attnlrp integrated_gradients gradcam attention_rollout",
    "minilm": "gradient fullgrad attnlrp integrated_gradients",
}
"""The methods that are timed on a network where none are named."""

COUNTS = ("n_steps", "n_samples", "n_masks")
"""Parameters that say how often a method runs the model."""

PLAIN = "plain inference"


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", help=f"{', '.join(NETS)} (all where none is named), or files")
    parser.add_argument("--methods", default="", help="names with commas between them (else those of METHODS)")
    parser.add_argument("--for", dest="places", default="cpu", help="where the files will run: cpu, any, or both with a comma")
    parser.add_argument("--rounds", type=int, default=15, help="pairs of runs")
    parser.add_argument("--seconds", type=float, default=20.0, help="for the pairs of one method; slow ones have fewer pairs, at least 3")
    parser.add_argument("--threads", type=int, default=2, help="for the time on the wall; 1 leaves it out")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, help="steps, samples or masks of the methods that have such, instead of their defaults")
    parser.add_argument("--kernels", action="store_true", help="also which kernels take the time, in units of plain inference")
    parser.add_argument("--no-peers", action="store_true", help="without PyTorch and its libraries")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    parser.add_argument("--evaluate", action="store_true", help="only the throughput of evaluate")
    parser.add_argument("--admission", action="store_true", help="only what the checks of a model's structure take of its conversion")
    parser.add_argument("--pictures", type=int, default=4)
    return parser


def counted(method: str, steps: int | None) -> tuple[dict[str, int], int]:
    """The setting that says how often a method runs the model, and how often that is (0: it has none)."""
    import onnxsal

    known = onnxsal.methods()[method].parameters
    name = next((n for n in COUNTS if n in known), None)
    if name is None:
        return {}, 0
    return ({name: steps} if steps else {}), steps or int(known[name].default)


def measured(file: Path, method: str, place: str, asked: argparse.Namespace) -> dict[str, Any]:
    """All that is found of one method on one model (of plain inference where none is named), or why there is nothing."""
    rounds, out = {"rounds": asked.rounds, "seconds": asked.seconds}, ""
    try:
        found: dict[str, Any] = {}
        settings, count = counted(method, asked.steps) if method else ({}, 0)
        if method:
            out = str(file.with_suffix(".converted"))
            found |= alone("conversion", file=str(file), method=method, place=place, out=out, settings=settings)
        found |= alone("memory", path=out or str(file), batch=asked.batch)
        found |= alone("timing", file=str(file), converted=out, threads=asked.threads, batch=asked.batch, **rounds)
        found |= in_units_of_plain(alone("shares", path=out or str(file), batch=asked.batch, **rounds), found["ratio"])
    except RuntimeError as error:
        return {"failed": told(error)}
    return found | ({"per_step": found["ratio"] / count} if count else {})


def in_units_of_plain(shares: dict[str, Any], ratio: float) -> dict[str, Any]:
    """Shares of a run that takes ``ratio`` times plain inference."""
    kernels = {name: share * ratio for name, share in shares["kernels"].items()}
    return {"floor": shares["floor"] * ratio, "kernels": kernels}


def told(error: RuntimeError) -> str:
    """A complaint without the class that it was raised as."""
    return str(error).partition(": ")[2] or str(error)


def beside(file: Path, methods: list[str], asked: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """What is found of the peers of these methods; no more of them where the network itself cannot be had in PyTorch."""
    for name in peers_of(methods):
        steps = counted(PEERS[name][0], asked.steps)[1] if PEERS[name][0] else 0
        given = {"threads": asked.threads, "batch": asked.batch, "rounds": asked.rounds, "seconds": asked.seconds}
        try:
            yield name, alone("peer", name=name, file=str(file), steps=steps, **given)
        except RuntimeError as error:
            yield name, {"failed": told(error)}
            if name == peers_of([])[0]:
                return


def rows_of(file: Path, methods: list[str], asked: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Plain inference, each method for each place, the peers."""
    places = asked.places.split(",")
    yield PLAIN, measured(file, "", "", asked)
    for method in methods:
        for place in places:
            yield method if len(places) == 1 else f"{method} ({place})", measured(file, method, place, asked)
    yield from () if asked.no_peers else beside(file, methods, asked)


def table(name: str, asked: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The rows of one model, printed as they come."""
    methods = asked.methods.split(",") if asked.methods else METHODS.get(name, METHODS["resnet50"]).split()
    rows = dict[str, dict[str, Any]]()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(NETS[name][1]().SerializeToString() if name in NETS else Path(name).read_bytes())
        size = file.stat().st_size / 1e6
        print(f"\n{title(name)}: {size:.1f} MB, batch {asked.batch}, wall time on {asked.threads} threads\n{page.head()}")
        for label, found in rows_of(file, methods, asked):
            rows[label] = found
            print(page.line(label, found), flush=True)
            if asked.kernels and "kernels" in found:
                print("    " + ", ".join(f"{k} {v:.2f}" for k, v in found["kernels"].items() if v >= 0.01), flush=True)
    return rows


def title(name: str) -> str:
    return NETS[name][0] if name in NETS else Path(name).name


def written(names: list[str], asked: argparse.Namespace) -> str:
    """The part of the page that holds the tables."""
    told = page.versions(("onnxruntime", "onnxruntime-gpu", "onnx", "torch", "captum", "zennit", "grad-cam"))
    command = " ".join(["tools/bench.py", *sys.argv[1:]])
    parts = [f"Measured on {page.machine()} with {told}, by `{command}`."]
    for name in names:
        parts += [f"### {title(name)}", page.markdown(table(name, asked))]
    return "\n\n".join(parts)


def main() -> None:
    asked = options().parse_args()
    names = asked.models or list(NETS)
    if asked.admission:
        import onnx

        from tools.speed.admission import admission, transformer

        for name in asked.models or ["resnet50", "transformer"]:
            model = transformer() if name == "transformer" else NETS[name][1]() if name in NETS else onnx.load(name)
            admission(name, model, min(asked.rounds, 9))
        return
    if asked.evaluate:
        from tools.speed.evaluation import evaluation

        evaluation(asked.pictures, min(asked.rounds, 3))
        return
    if asked.write:
        page.write("tables" if asked.batch == 1 else f"tables of batch {asked.batch}", written(names, asked))
        return
    for name in names:
        table(name, asked)


if __name__ == "__main__":
    main()
