"""What is checked and measured on a card; each part returns a table, and says what is wrong by ``Report.wrong``."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import onnxsal
from onnxsal.engine.method import shipped_methods
from onnxsal.errors import MethodError, OnnxsalError, PlanError, UnsupportedError
from onnxsal.runtime.on_device import OnDevice
from onnxsal.runtime.providers import resolve
from onnxsal.runtime.session import open_session
from tools.card.clock import Clock
from tools.card.page import table

QUICK: dict[str, dict[str, Any]] = {
    "integrated_gradients": {"n_steps": 10},
    "smoothgrad": {"n_samples": 4},
    "smooth_fullgrad": {"n_samples": 4},
    "rise": {"n_masks": 50},
    "occlusion": {"window": 0.25, "stride": 0.25},
    "feature_ablation": {"window": 0.25},
    "shapley_sampling": {"n_samples": 2},
}
"""Coarser settings for methods that run the model many times."""

FIRST = (
    "gradient",
    "fullgrad",
    "lrp_epsilon_plus",
    "lrp_resnet",
    "deeplift",
    "gradcam",
    "attnlrp",
    "guided_backprop",
    "integrated_gradients",
)
"""Methods that are checked before the others."""

TIMED = ("gradient", "fullgrad", "lrp_epsilon_plus", "lrp_resnet", "deeplift", "gradcam", "attnlrp")
"""Methods that are timed, where they explain the network."""

REFUSED = (PlanError, UnsupportedError, MethodError)

Models = dict[str, onnx.ModelProto]


@dataclass
class Report:
    """What is asked, what was found, and what is wrong."""

    provider: str
    models: Models
    methods: list[str]
    limit: float
    clock: Clock
    tf32: bool = False
    wrong: list[str] = field(default_factory=list)

    @property
    def on_card(self) -> bool:
        return resolve(self.provider)[0][0] == "CUDAExecutionProvider"

    def gap(self, what: str, found: np.ndarray, expected: np.ndarray) -> float:
        """||found - expected|| / ||expected||, noted as wrong beyond the limit."""
        off, size = (float(np.linalg.norm(np.asarray(a, np.float64))) for a in (found - expected, expected))
        gap = off / size if size else off
        if not gap <= self.limit:
            self.wrong.append(f"{what}: {gap:.1e}")
        return gap


def pictures(model: onnx.ModelProto, count: int, seed: int = 0) -> np.ndarray:
    """Random ones; a fixed batch has as many as it takes."""
    first, *rest = model.graph.input[0].type.tensor_type.shape.dim
    return np.random.default_rng(seed).normal(size=[first.dim_value or count, *(d.dim_value or 1 for d in rest)]).astype(np.float32)


def settings(model: onnx.ModelProto, method: str) -> dict[str, Any]:
    known = shipped_methods()[method]
    given: dict[str, Any] = {**{k: v for k, v in QUICK.get(method, {}).items() if k in known.parameters}, "black": -1.0, "white": 1.0}
    if "patterns" in known.parameters:
        given["patterns"] = onnxsal.fit_patterns(model, pictures(model, 8, 1), batch_size=8)
    return given


# ----- agreement -----


def agreement(report: Report, share: float) -> str:
    """Every method on the card against the CPU, as one file: relative error of the attribution."""
    names = [m for m in FIRST if m in report.methods] + [m for m in report.methods if m not in FIRST]
    rows = {}
    for method in report.clock.within(share, names, "agreement"):
        rows[method] = [_agreement(report, name, model, method) for name, model in report.models.items()]
        print(f"{method:28} {'  '.join(f'{cell:>10}' for cell in rows[method])}", flush=True)
    return table(["method", *report.models], rows)


def _agreement(report: Report, name: str, model: onnx.ModelProto, method: str) -> str:
    """The cell of one method and network; with ``tf32`` also the error that it makes."""
    try:
        made = onnxsal.convert(model, method, target_input="optional", runs_on="cuda", **settings(model, method))
        x = pictures(model, 2)
        expected = onnxsal.Explainer(made).explain(x)
        found = onnxsal.Explainer(made, providers=report.provider).explain(x, expected.target)
        text = f"{report.gap(f'{method} on {name}', found.attribution, expected.attribution):.1e}"
        if report.tf32 and report.on_card:
            rounded = onnxsal.Explainer(made, providers=report.provider, tf32=True).explain(x, expected.target)
            gap = np.linalg.norm(rounded.attribution - expected.attribution) / np.linalg.norm(expected.attribution)
            text += f" (TF32 {gap:.1e})"
        return text
    except REFUSED:
        return "refused"
    except OnnxsalError as error:
        report.wrong.append(f"{method} on {name}: {error}")
        return "failed"


# ----- a class that does not exist -----


def out_of_range(report: Report, share: float) -> str:
    """A target that is no class must be told and leave no number, on every sample that asks for it, and on no other."""
    rows = {}
    for method in report.clock.within(share, [m for m in FIRST[:5] if m in report.methods], "a target out of range"):
        cells = []
        for name, model in report.models.items():
            try:
                session = onnxsal.Explainer(model, method, target_input="required", providers=report.provider).session
            except REFUSED:
                cells.append("refused")
                continue
            x = pictures(model, 2)
            feed = {session.inputs[0].name: x, "target": np.arange(len(x)) * 0 + np.where(np.arange(len(x)) == 0, 5000, 1)}
            found = session.run(feed)
            told = found["explained_class"][0] == -2 and all(np.isnan(found[k][0]).all() for k in ("attribution", "explained_score"))
            others = all(np.isfinite(found[k][1:]).all() for k in ("attribution", "explained_score"))
            cells.append("NaN" if told and others else "a number")
            if not (told and others):
                report.wrong.append(f"{method} on {name}: a target out of range is not told")
        rows[method] = cells
    return table(["target out of range", *report.models], rows)


# ----- graphs and sizes -----


def graphs(report: Report, share: float) -> str:
    """One sample: with an open batch, with a fixed one as a CUDA graph; milliseconds of a run, and whether the maps are the same."""
    rows = {}
    cases = [(n, m) for m in TIMED for n in report.models if m in report.methods]
    for name, method in report.clock.within(share, cases, "CUDA graphs"):
        model = report.models[name]
        x = pictures(model, 1)[:1]
        try:
            made = onnxsal.convert(model, method, target_input="optional", runs_on="cuda")
            explainers = [onnxsal.Explainer(made, providers=report.provider, fixed_batch=size) for size in (None, 1)]
        except (*REFUSED, onnxsal.errors.InputError):
            continue
        there = placed(report.provider, x)
        expected, found = (e.explain(x) for e in explainers)
        report.gap(f"{method} on {name} with a fixed batch", found.attribution, expected.attribution)
        again = explainers[1].explain(-x).attribution  # a graph that replays the first picture would show itself
        report.gap(f"{method} on {name}, another picture", again, explainers[0].explain(-x).attribution)
        times = [milliseconds(lambda e=e, x=there: e.explain(x, on_device=True)) for e in explainers]
        rows[f"{name}, {method}"] = [*(f"{ms:.2f}" for ms in times), explainers[1].how or "no card"]
        print(f"{name:14} {method:20} {times[0]:9.2f} {times[1]:9.2f} {explainers[1].how}", flush=True)
    return table(["one sample, ms", "open batch", "fixed batch", "how"], rows)


def last_batch(report: Report, share: float) -> str:
    """Seconds of a batch of 5 after one of 16: filled up, and as a size that was not run before."""
    rows = {}
    for name in report.clock.within(share, list(report.models), "the last batch"):
        model = report.models[name]
        explainer = onnxsal.Explainer(model, "gradient", providers=report.provider)
        explainer.explain(pictures(model, 16))
        few = pictures(model, 5, 3)
        filled = seconds(lambda explainer=explainer, few=few: explainer.explain(few))
        bare = seconds(lambda explainer=explainer, few=few: explainer.session.run({explainer.inputs[0].name: few}))
        rows[name] = [f"{filled:.3f}", f"{bare:.3f}"]
    return table(["5 samples after 16, s", "filled up", "of a new size"], rows)


# ----- memory -----


def memory(report: Report, share: float) -> str:
    """MB of the card per sample at a batch of 16, beside what the sizes of tensors say: as it is opened, and in two other ways."""
    free = free_bytes()
    if free is None or not report.on_card:
        report.clock.left_out.append("memory: no card tells how much is free")
        return ""
    rows = {}
    cases = [(n, m) for n in report.models for m in ("gradient", "lrp_resnet", "fullgrad") if m in report.methods]
    for name, method in report.clock.within(share, cases, "memory"):
        model = report.models[name]
        try:
            explainer = onnxsal.Explainer(model, method, providers=report.provider, batch_size=16)
        except REFUSED:
            continue
        x, cells = pictures(model, 16), []
        said, made = explainer.memory_per_sample, explainer.conversion.proto
        del explainer
        for pattern, strategy in ((False, "kNextPowerOfTwo"), (False, "kSameAsRequested"), (True, "kNextPowerOfTwo")):
            options = ort.SessionOptions()
            options.log_severity_level, options.enable_mem_pattern = 4, pattern
            provider, own = resolve(report.provider)[0]
            session = ort.InferenceSession(
                made.SerializeToString(), options, providers=[(provider, {**own, "arena_extend_strategy": strategy})]
            )
            before = free()
            for _ in range(2):
                session.run(None, {session.get_inputs()[0].name: x})
            cells.append(f"{(before - free()) / 16e6:.0f}")
            del session
        rows[f"{name}, {method}"] = ["" if said is None else f"{said / 1e6:.0f}", *cells]
    head = ["MB per sample", "sizes of tensors", "as opened", "arena as requested", "with a memory pattern"]
    return table(head, rows)


def free_bytes() -> Callable[[], int] | None:
    """Asks the driver how many bytes of the card are free; ``None`` where the CUDA runtime cannot be loaded."""
    import ctypes

    for name in ("libcudart.so.13", "libcudart.so.12", "libcudart.so"):
        try:
            runtime = ctypes.CDLL(name)
        except OSError:
            continue

        def asked(runtime: Any = runtime) -> int:
            free, total = ctypes.c_size_t(), ctypes.c_size_t()
            runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
            return free.value

        return asked
    return None


# ----- ratios -----


def ratios(report: Report, share: float, batches: tuple[int, ...]) -> str:
    """A method's time over that of plain inference on the same card, in turn, inputs and maps on the card."""
    rows = {}
    cases = [(n, b, m) for n in report.models for b in batches for m in TIMED if m in report.methods]
    for name, batch, method in report.clock.within(share, cases, "ratios"):
        model = report.models[name]
        plain = open_session(model, report.provider, spinning=False)
        try:
            made = onnxsal.convert(model, method, target_input="fixed", runs_on="cuda" if report.on_card else "cpu")
        except REFUSED:
            continue
        session, x = open_session(made, report.provider, spinning=False), placed(report.provider, pictures(model, batch))
        runs = [lambda s=s, x=x: s.run({s.inputs[0].name: x}, staying=[t.name for t in s.outputs]) for s in (plain, session)]
        first, second = (milliseconds(run) for run in runs)
        rows.setdefault(f"{name}, {method}", [""] * (3 * len(batches)))
        at = 3 * batches.index(batch)
        rows[f"{name}, {method}"][at : at + 3] = [f"{first:.2f}", f"{second:.2f}", f"{second / first:.2f}"]
        print(f"{name:14} batch {batch:<3} {method:20} {first:9.2f} {second:9.2f} {second / first:6.2f}", flush=True)
    return table(["", *(f"{what}, batch {b}" for b in batches for what in ("plain ms", "ms", "ratio"))], rows)


def peers(report: Report, share: float, batches: tuple[int, ...]) -> str:
    """PyTorch and its libraries on the same card and network, where they are installed."""
    wanted = [name for name, (needs, _) in PEERS.items() if all(importlib.util.find_spec(n) for n in needs)]
    if missing := [name for name in PEERS if name not in wanted]:
        report.clock.left_out.append(f"peers that are not installed: {', '.join(missing)}")
    networks, device = _twins(report) if wanted else {}, "cuda" if report.on_card else "cpu"
    rows: dict[str, list[str]] = {}
    for peer, name, batch in report.clock.within(share, [(p, n, b) for p in wanted for n in networks for b in batches], "peers"):
        import torch

        x = torch.from_numpy(pictures(report.models[name], batch)).to(device).requires_grad_()
        with torch.no_grad():
            target = networks[name](x).argmax(1)
        run = PEERS[peer][1](networks[name], x, target)
        took = milliseconds(lambda run=run: (run(), torch.cuda.synchronize() if device == "cuda" else None))
        rows.setdefault(f"{name}, {peer}", [""] * len(batches))[batches.index(batch)] = f"{took:.2f}"
        print(f"{name:14} batch {batch:<3} {peer:28} {took:9.2f}", flush=True)
    return table(["peers, ms", *(f"batch {b}" for b in batches)], rows)


def _twins(report: Report) -> dict[str, Any]:
    """The networks in PyTorch, on the card; those that cannot be had are left out."""
    import torch

    from tools.speed.twin import Twin

    if report.on_card and not torch.cuda.is_available():
        report.clock.left_out.append("peers: this PyTorch has no CUDA")
        return {}
    found = {}
    for name, model in report.models.items():
        try:
            found[name] = Twin(model).eval().to("cuda" if report.on_card else "cpu")
        except ValueError as error:
            report.clock.left_out.append(f"peers on {name}: {error}")
    return found


def _peer(maker: str, *given: Any) -> Callable[..., Callable[[], Any]]:
    def made(network: Any, x: Any, target: Any) -> Callable[[], Any]:
        from tools.speed import peers as library

        make = getattr(library, maker)
        return (make(*given) if given else make)(network, x, target)

    return made


def _compiled(network: Any, x: Any, target: Any) -> Callable[[], Any]:
    """The gradient of the class, compiled."""
    import torch

    compiled = torch.compile(network)

    def run() -> Any:
        return torch.autograd.grad(compiled(x).gather(1, target[:, None]).sum(), x)

    return run


PEERS: dict[str, tuple[tuple[str, ...], Callable[..., Callable[[], Any]]]] = {
    "PyTorch, forward": (("torch",), _peer("forward")),
    "Captum Saliency": (("torch", "captum"), _peer("captum", "Saliency")),
    "Captum DeepLift": (("torch", "captum"), _peer("captum", "DeepLift")),
    "Zennit EpsilonPlus": (("torch", "torchvision", "zennit"), _peer("epsilon_plus")),
    "torch.compile, gradient": (("torch", "triton"), _compiled),
}
"""Peer -> the packages that it needs, and what makes its run."""


# ----- time -----


def placed(provider: str, x: np.ndarray) -> np.ndarray | OnDevice:
    """The pictures on the card, where there is one."""
    name, options = resolve(provider)[0]
    if name != "CUDAExecutionProvider":
        return x
    return OnDevice(ort.OrtValue.ortvalue_from_numpy(x, "cuda", int(options.get("device_id", 0))))


def seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def milliseconds(run: Callable[[], Any], least: int = 5, most: int = 20, enough: float = 1.0) -> float:
    """The median of some runs, behind two that do not count: as many as fit into ``enough`` seconds."""
    seconds(run), seconds(run)
    times: list[float] = []
    while len(times) < least or (len(times) < most and sum(times) < enough):
        times.append(seconds(run))
    return 1e3 * float(np.median(times))
