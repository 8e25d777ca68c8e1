"""Execution providers: what the caller asked for, what ONNX Runtime really gave, and why it did not."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from onnxsal.errors import ProviderError, near_miss

Choice = str | tuple[str, Mapping[str, Any]]
Providers = Choice | Sequence[Choice] | None
Resolved = list[tuple[str, dict[str, str]]]

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
SUFFIX = "ExecutionProvider"

OTHER_WORDS = {"gpu": CUDA, "trt": TENSORRT, "directml": "DmlExecutionProvider", "nv_tensorrt_rtx": "NvTensorRTRTXExecutionProvider"}
"""Usual words beside the official name without its suffix (``cpu``, ``cuda``, ``tensorrt``, ``openvino``, ...)."""


def resolve(providers: Providers) -> Resolved:
    """``"cuda"``, ``"cuda,cpu"``, ``["cuda", "cpu"]``, ``("cuda", {"device_id": 1})`` or official names as (official name, options).

    ``None`` is the CPU. The order is the order of preference; whatever follows the first is a fallback that the caller allows.
    """
    if providers is None:
        return [(CPU, {})]
    choices: list[Choice]
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
            resolved.append((name, options))
    return resolved


def _official(choice: Choice) -> tuple[str, dict[str, str]]:
    word, options = (choice, {}) if isinstance(choice, str) else choice
    known = {name.lower(): name for name in ort.get_all_providers()}
    known |= {name.removesuffix(SUFFIX).lower(): name for name in ort.get_all_providers()}
    known |= {short: name for short, name in OTHER_WORDS.items() if name in known.values()}
    name = known.get(word.lower())
    if name is None:
        words = sorted(short for short in known if not short.endswith(SUFFIX.lower()))
        raise ProviderError(f"execution provider '{word}' is none of {', '.join(words)}{near_miss(word.lower(), known)}.")
    return name, {str(key): str(value) for key, value in options.items()}


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
