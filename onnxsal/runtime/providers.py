"""Execution providers: what the caller asked for, what ONNX Runtime really gave, and why it did not."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from onnxsal.errors import ProviderError, near_miss

ProviderChoice = str | tuple[str, Mapping[str, Any]]
Providers = ProviderChoice | Sequence[ProviderChoice] | None
Resolved = list[tuple[str, dict[str, str]]]
Device = tuple[str, int]
"""A device as ONNX Runtime names it, and its number."""

HOST: Device = ("cpu", 0)

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"
SUFFIX = "ExecutionProvider"

OTHER_WORDS = {"gpu": CUDA, "trt": TENSORRT, "directml": "DmlExecutionProvider", "nv_tensorrt_rtx": "NvTensorRTRTXExecutionProvider"}
"""Usual words beside the official name without its suffix (``cpu``, ``cuda``, ``tensorrt``, ``openvino``, ...)."""


def resolve(providers: Providers, tf32: bool = False) -> Resolved:
    """``"cuda"``, ``"cuda,cpu"``, ``["cuda", "cpu"]``, ``("cuda", {"device_id": 1})`` or official names as (official name, options).

    ``None`` is the CPU. The order is the order of preference; whatever follows the first is a fallback that the caller allows. Where a
    provider would round float32 to fewer bits by itself, the option that forbids it is added (``exactness``), and one that shortens its
    search for kernels (``search``); an option that the caller gives always stands. ``tf32`` lets CUDA round; it is an error where no CUDA
    is named.
    """
    if providers is None:
        providers = CPU
    choices: list[ProviderChoice]
    if isinstance(providers, str):
        choices = [word.strip() for word in providers.split(",") if word.strip()]
    elif isinstance(providers, tuple) and len(providers) == 2 and isinstance(providers[1], Mapping):
        choices = [providers]
    else:
        choices = list(providers)
    if not choices:
        raise ProviderError("no execution provider is named: give one, such as 'cpu' or 'cuda', or leave the argument out for the CPU.")
    resolved: Resolved = []
    for choice in choices:
        name, options = _official(choice)
        if name not in [known for known, _ in resolved]:
            resolved.append((name, {**exactness(name, options, tf32), **search(name), **options}))
    if tf32 and CUDA not in [name for name, _ in resolved]:
        names = ", ".join(name for name, _ in resolved)
        raise ProviderError(f"tf32 is a way in which {CUDA} rounds, and only {names} was asked for: leave it out, or ask for cuda.")
    return resolved


def exactness(name: str, options: Mapping[str, str], tf32: bool = False) -> dict[str, str]:
    """The options with which a provider computes float32 as float32, where its own default is less.

    CUDA multiplies in TF32 (10 bits of mantissa) by default: the gradient of a MobileNetV2 is then 39 % off. OpenVINO takes bfloat16 on
    some CPUs and float16 on GPUs; an NPU has no float32, there it is asked for the best it has.
    """
    if name == CUDA:
        return {"use_tf32": "1" if tf32 else "0"}
    device = options.get("device_type", "")
    if name == OPENVINO and "load_config" not in options and "_FP" not in device:
        return {"precision": "ACCURACY" if "NPU" in device else "FP32"}
    return {}


def search(name: str) -> dict[str, str]:
    """How a provider looks for the kernels of a shape that it meets for the first time.

    CUDA tries all that cuDNN has by default. Its heuristic finds some that are as fast, and shortens the stall (gradient of a ResNet-50:
    .27 s instead of 1.4).
    """
    return {"cudnn_conv_algo_search": "HEURISTIC"} if name == CUDA else {}


def device_of(obtained: Resolved) -> Device:
    """Where the tensors of a session lie: the card of its first provider, or the host's memory."""
    name, options = obtained[0]
    return ("cuda", int(options.get("device_id", 0))) if name in (CUDA, TENSORRT) else HOST


def runs_on(wanted: Resolved) -> str:
    """The place whose forms of nodes suit the first of the providers that this ONNX Runtime has: "cpu", "cuda", or "any" of the others."""
    built_in = ort.get_available_providers()
    first = next((name for name, _ in wanted if name in built_in), "")
    return {CPU: "cpu", CUDA: "cuda", TENSORRT: "cuda"}.get(first, "any")


def rounds(obtained: Resolved) -> str:
    """Why results are less exact than float32 although nobody asked for it: what no option of ONNX Runtime can forbid ('' = nothing)."""
    if obtained[0][0] == TENSORRT and os.environ.get("NVIDIA_TF32_OVERRIDE") != "0":
        return (
            f"{TENSORRT} rounds float32 to TF32 (10 bits of mantissa), and ONNX Runtime has no option against it: "
            "set the environment variable NVIDIA_TF32_OVERRIDE=0 before the process starts, or take cuda"
        )
    return ""


def as_text(providers: Sequence[str], options: Mapping[str, Mapping[str, str]]) -> str:
    """Providers with the options that were set, as in ``CUDAExecutionProvider (use_tf32=0), CPUExecutionProvider``."""
    told = {name: ", ".join(f"{k}={v}" for k, v in options.get(name, {}).items()) for name in providers}
    return ", ".join(f"{name} ({text})" if text else name for name, text in told.items())


def _official(choice: ProviderChoice) -> tuple[str, dict[str, str]]:
    word, options = (choice, {}) if isinstance(choice, str) else choice
    known = {name.lower(): name for name in ort.get_all_providers()}
    known |= {name.removesuffix(SUFFIX).lower(): name for name in ort.get_all_providers()}
    known |= {short: name for short, name in OTHER_WORDS.items() if name in known.values()}
    name = known.get(word.lower())
    if name is None:
        words = sorted(short for short in known if not short.endswith(SUFFIX.lower()))
        raise ProviderError(f"execution provider '{word}' is none of {', '.join(words)}{near_miss(word.lower(), known)}.")
    return name, {str(key): str(value) for key, value in options.items()}


def built_in_words() -> list[str]:
    """The short words of the providers that this machine's ONNX Runtime has, such as "cpu" and "cuda"."""
    return [name.removesuffix(SUFFIX).lower() for name in ort.get_available_providers()]


@contextlib.contextmanager
def silent_loading(wanted: Resolved) -> Iterator[None]:
    """Keep ONNX Runtime's own log lines about a provider's missing libraries away: our error says it, once."""
    if all(name == CPU for name, _ in wanted):
        yield
        return
    ort.set_default_logger_severity(4)
    try:
        if {CUDA, TENSORRT} & {name for name, _ in wanted}:
            _preload_cuda()
        yield
    finally:
        ort.set_default_logger_severity(2)  # ONNX Runtime's default; it cannot be asked for the level that was set


@functools.cache
def _preload_cuda() -> None:
    """Load the CUDA libraries that Python packages bring (``nvidia-*``, torch); what is missing shows when the session is made."""
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None and CUDA in ort.get_available_providers():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(OSError, RuntimeError):
            preload()


def not_obtained(wanted: Resolved, detail: str = "") -> ProviderError:
    """The one error for "asked for and not obtained": which, why, and what to do."""
    first = wanted[0][0]
    names = " or ".join(name for name, _ in wanted)
    return ProviderError(
        f"{names} was asked for and not obtained: {_why_not(first, detail)} To accept the CPU instead, list it as a fallback: "
        f"'{first.removesuffix(SUFFIX).lower()},cpu'."
    )


def _why_not(name: str, detail: str) -> str:
    built_in = ort.get_available_providers()
    if name not in built_in:
        text = f"this onnxruntime {ort.__version__} was built with {', '.join(built_in)} only."
        if name in (CUDA, TENSORRT):
            text += " Install onnxruntime-gpu (where onnxruntime is installed as well, uninstall both first: they share one folder)."
        return text
    for reason in (_library_problem(name), _driver_problem(name), detail):
        if reason:
            return reason
    return "ONNX Runtime fell back to the CPU without a reason; its log (onnxruntime.set_default_logger_severity(0)) may give one."


def _library_problem(name: str) -> str:
    """What the provider's shared library lacks. Only ever asked after ONNX Runtime failed to load it: loading it first would upset it."""
    folder = Path(ort.__file__).parent / "capi"
    pattern = f"*onnxruntime_providers_{name.removesuffix(SUFFIX).lower()}.{'dll' if sys.platform == 'win32' else 'so'}"
    for library in folder.glob(pattern):
        try:
            ctypes.CDLL(str(library))
        except OSError as error:
            return (
                f"{library.name} cannot be loaded ({error}). onnxruntime-gpu {ort.__version__} needs the CUDA "
                f"{_cuda_version()} libraries and cuDNN 9: pip install 'onnxruntime-gpu[cuda,cudnn]'."
            )
    return ""


def _cuda_version() -> str:
    return str(getattr(ort, "cuda_version", "") or "")


def _driver_problem(name: str) -> str:
    if name not in (CUDA, TENSORRT):
        return ""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "this machine has no NVIDIA driver (libcuda.so.1 is missing), or this process cannot see it."
    return ""
