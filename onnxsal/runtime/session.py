"""Open a model in ONNX Runtime and run it; every refusal is one of our errors, one message each."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from onnxsal.disk import regular
from onnxsal.errors import InputError, ModelError, TargetError, near_miss
from onnxsal.large import Apart, serialised, write_in_two
from onnxsal.limits import limit, refuse_over
from onnxsal.litter import temporary_folder
from onnxsal.protos import graphs_of
from onnxsal.runtime import capture
from onnxsal.runtime.on_device import DTYPES, OnDevice
from onnxsal.runtime.providers import CUDA, Device, Providers, Resolved, device_of, not_obtained, resolve, rounds, silent_loading
from onnxsal.runtime.refusals import open_error, run_error
from onnxsal.untrusted import library_text

Source: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto
Array = np.ndarray[Any, np.dtype[Any]]
Feed = Mapping[str, Any]

_RAISED: tuple[type[Exception], ...] = (
    *(RuntimeError, ValueError, TypeError),
    *(e for e in vars(state).values() if isinstance(e, type) and issubclass(e, Exception)),
)
"""Everything ONNX Runtime raises; its own exceptions share no base class."""

_SILENT = 4  # log severity "fatal": what goes wrong is raised, never printed


@dataclass(frozen=True)
class Tensor:
    """An input or output as the session declares it; ``dtype`` is None where numpy has no such type, ``shape`` where the rank is open."""

    name: str
    type: str
    dtype: np.dtype[Any] | None
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        dims = "?" if self.shape is None else ",".join("?" if d is None else str(d) for d in self.shape)
        return f"{self.name} {self.dtype or self.type}[{dims}]"


class Session:
    """A model that is open and ready to run; made by ``open_session``.

    ``providers`` are those it really has, ``provider_options`` what was set for them, as ONNX Runtime reports it; ``obtained`` is both, as
    ``open_session`` takes it for a session like this one; ``weights`` are fed to it in every run. ``rounds`` says why results may be less
    exact than float32 ('' = they are not). ``device`` is the one that its tensors lie on. ``hindered`` says why runs that were to be CUDA
    graphs are none ('' = nothing hinders, or nobody asked).
    """

    def __init__(self, session: ort.InferenceSession, wanted: Resolved, weights: Mapping[str, Array] | None = None) -> None:
        self._session = session
        self._weights = dict(weights or {})
        self.hindered = ""
        self._capture: capture.Capture | None = None
        self._reopen: Callable[[], ort.InferenceSession] | None = None
        self.providers: list[str] = session.get_providers()
        asked, told = dict(wanted), session.get_provider_options()
        options = {name: {k: told.get(name, {}).get(k, v) for k, v in asked.get(name, {}).items()} for name in self.providers}
        self.provider_options: dict[str, dict[str, str]] = {name: set_ for name, set_ in options.items() if set_}
        self.obtained: Resolved = list(options.items())
        self.device = device_of(self.obtained)
        self.rounds = rounds(self.obtained)
        self.inputs = tuple(t for t in map(_tensor, session.get_inputs()) if t.name not in self._weights)
        self.optional = tuple(map(_tensor, session.get_overridable_initializers()))
        self.outputs = tuple(map(_tensor, session.get_outputs()))
        self.metadata: dict[str, str] = dict(session.get_modelmeta().custom_metadata_map)
        self._accepted = {t.name: t for t in (*self.inputs, *self.optional)}
        self._bound, self._spent = "", 0.0

    def fed_with(self, weights: Mapping[str, Array]) -> Session:
        """The same session, whose inputs ``weights`` are fed in every run."""
        return Session(self._session, self.obtained, weights)

    def bounded(self, model: onnx.ModelProto | Apart) -> Session:
        """The same session of ``model``, for a look at it: where its runs together take longer than the limit, they are stopped, and raise
        ``ModelError``."""
        self._bound = "loop_seconds" if has_loop(model.light if isinstance(model, Apart) else model) else "probe_seconds"
        return self

    def captured(self, reopen: Callable[[], ort.InferenceSession]) -> Session:
        """The same session, whose runs are CUDA graphs; where one cannot be captured, it goes on as what ``reopen`` returns, without."""
        self._capture, self._reopen = capture.Capture(self._session, self.device), reopen
        return self

    @property
    def how(self) -> str:
        """How runs are sent to the card, where that was to be a CUDA graph ('' = it was not)."""
        return f"without a CUDA graph: {self.hindered}" if self.hindered else "as a CUDA graph" if self._capture else ""

    def run(self, feed: Feed, outputs: Sequence[str] | None = None, staying: Collection[str] = ()) -> dict[str, Any]:
        """The named outputs (all, in the model's order, where none are named); arrays must have the declared types and shapes.

        Outputs that are ``staying`` are left on the session's device.
        """
        names = [t.name for t in self.outputs] if outputs is None else list(outputs)
        self._check_outputs(names)
        arrays = self._check_feed(feed)
        options, begin = capture.plain(ort.RunOptions()), time.monotonic()
        options.log_severity_level = _SILENT
        if self._bound:
            refuse_over(self._bound, self._spent, "runs on random data", ModelError)
        try:
            with _stopped(options, limit(self._bound) - self._spent if self._bound else None):
                values = self._values(names, arrays, options, staying)
        except _RAISED as error:
            self._spent += time.monotonic() - begin
            if options.terminate:
                refuse_over(self._bound, self._spent, "runs on random data", ModelError)
            raise run_error(error, arrays) from error
        self._spent += time.monotonic() - begin
        return dict(zip(names, values, strict=True))

    def _values(self, names: Sequence[str], arrays: dict[str, Any], options: ort.RunOptions, staying: Collection[str]) -> Sequence[Any]:
        """The outputs, by the first way that is open to this run: a CUDA graph, bound to where its arrays lie, or copied both ways."""
        try:
            if self._capture is not None and (values := self._capture.run(names, arrays, staying)) is not None:
                return values
        except capture.NotCaptured as refused:
            assert self._reopen is not None
            self._capture, self.hindered, self._session = None, library_text(refused), self._reopen()
        if staying or any(isinstance(array, OnDevice) for array in arrays.values()):
            return capture.run_bound(self._session, names, self._weights | arrays, options, self.device, staying)
        return self._session.run(names, self._weights | arrays, options)

    def _check_outputs(self, names: Iterable[str]) -> None:
        known = {t.name: t for t in self.outputs}
        for name in names:
            if name not in known:
                raise TargetError(f"the model has no output '{name}', only {', '.join(map(str, self.outputs))}{near_miss(name, known)}.")
            if known[name].dtype is None and known[name].type.startswith("tensor("):
                kind = known[name].type
                raise ModelError(
                    f"output '{name}' is {kind}, which numpy cannot hold; append a Cast to float32 to the model, or leave it out."
                )

    def _check_feed(self, feed: Feed) -> dict[str, Any]:
        for name, value in feed.items():
            if name not in self._accepted:
                listing = ", ".join(map(str, self._accepted.values()))
                raise InputError(f"the model has no input '{name}', only {listing}{near_miss(name, self._accepted)}.")
            if isinstance(value, OnDevice) and value.device != self.device:
                raise InputError(f"input '{name}' lies on {_at(value.device)}, and the session runs on {_at(self.device)}: move it there.")
        missing = [str(t) for t in self.inputs if t.name not in feed]
        if missing:
            raise InputError(f"inputs are missing: {', '.join(missing)}. Given: {', '.join(feed) or 'none'}.")
        return {name: _checked(self._accepted[name], value) for name, value in feed.items()}


def _at(device: Device) -> str:
    return ":".join(map(str, device))


def has_loop(model: onnx.ModelProto) -> bool:
    """Whether a node runs a graph again and again, in the model or its functions: such a graph has inputs, and nothing says how often."""
    return any(map(_loops, (model.graph.node, *(f.node for f in model.functions))))


def _loops(nodes: Iterable[onnx.NodeProto]) -> bool:
    return any(graph.input or _loops(graph.node) for node in nodes for graph in graphs_of(node))


@contextlib.contextmanager
def _stopped(options: ort.RunOptions, seconds: float | None) -> Iterator[None]:
    """Stop the run with these ``options`` after so many seconds (``None`` = never)."""
    if seconds is None:
        yield
        return
    clock = threading.Timer(seconds, setattr, (options, "terminate", True))
    clock.daemon = True
    clock.start()
    try:
        yield
    finally:
        clock.cancel()


def open_session(
    model: Source | Apart,
    providers: Providers = None,
    optimise: bool = True,
    threads: int | None = None,
    spinning: bool = True,
    planned: bool = True,
    sizes: Mapping[str, int] | None = None,
    graph: bool = False,
) -> Session:
    """Open a path, bytes, ``ModelProto`` or ``Apart`` on the first provider that can be had (``providers.resolve`` says what may be named).

    A provider asked for and not obtained is an error unless a fallback was listed after it. ``optimise=False`` runs the graph as it is
    written; ``threads`` limits the threads of one operator (default: one per core). ``spinning=False`` lets threads without work
    sleep: sessions that take turns, as in a timing, then do not slow each other. ``planned=False`` leaves out the plan of which tensors
    share memory, most of the time of opening a large graph, for a session that hardly runs. ``sizes`` gives dimensions that have a name one
    size for good: what is computed of them is computed at opening. ``graph`` lets runs on CUDA be CUDA graphs, where the model allows it;
    ``Session.hindered`` says why they are not.

    A model whose weights are ``Apart`` is opened without them and fed with them in every run: quick to open and nothing is copied, for a
    session that runs a few times. What is refused so is opened as a whole, which tells whether the model itself is at fault.
    """
    if isinstance(model, Apart):
        try:
            opened = open_session(model.fed(), providers, optimise, threads, spinning, planned)
        except ModelError:
            return open_session(model.whole(), providers, optimise, threads, spinning, planned)
        return opened.fed_with(model.arrays())
    wanted = resolve(providers)
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    options.enable_mem_reuse = planned
    # a pattern lays all tensors of a run into one block from the second run on, beside what the first one took: twice the memory, no time
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = threads
    if not spinning:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, size in (sizes or {}).items():
        options.add_free_dimension_override_by_name(name, size)
    if graph and isinstance(model, onnx.ModelProto):
        return _open_captured(model, options, wanted)
    wanted = capture.disabled(wanted)
    return Session(_create(model, options, wanted), wanted)


def _open_captured(model: onnx.ModelProto, options: ort.SessionOptions, wanted: Resolved) -> Session:
    """A session whose runs are CUDA graphs where it is on CUDA and nothing hinders; else a plain one, which says what does."""
    asked, wanted = capture.graphs(wanted), capture.disabled(wanted)

    def opened() -> ort.InferenceSession:
        return _create(model, options, wanted)

    if not asked:
        return Session(opened(), wanted)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    why = capture.control_flow(model)
    if not why:
        try:
            session = _create(model, options, capture.enabled(wanted))
            if session.get_providers()[0] != CUDA:  # what was asked for first is not to be had here, and the caller allowed another
                return Session(session, wanted)
            why = capture.open_sizes(session) or capture.on_the_cpu(session)
            if not why:
                return Session(session, wanted).captured(opened)
        except capture.NotCaptured as refused:
            why = library_text(refused)
    found = Session(opened(), wanted)
    found.hindered = why if found.providers[0] == CUDA else ""
    return found


def optimised(model: Source) -> onnx.ModelProto:
    """The graph that ONNX Runtime's default optimisation makes of a model for the CPU of this machine, and no other."""
    with temporary_folder() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = _SILENT
        options.enable_mem_pattern = options.enable_mem_reuse = False
        options.optimized_model_filepath = str(Path(folder) / "model.onnx")
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "model.data")
        _create(model, options, resolve(None))
        return onnx.load(options.optimized_model_filepath)


def _create(model: Source, options: ort.SessionOptions, wanted: Resolved) -> ort.InferenceSession:
    """What ONNX Runtime makes of a model. Raises ``ModelError``, ``ProviderError``, and ``NotCaptured`` where it is asked for graphs."""
    with _openable(model) as (what, source), silent_loading(wanted):
        return _first_obtained(what, source, options, wanted)


def _first_obtained(what: str, source: str | bytes, options: ort.SessionOptions, wanted: Resolved) -> ort.InferenceSession:
    """Try the providers in order. ``get_providers()`` of the finished session is the only true answer: ONNX Runtime falls back silently."""
    built_in = ort.get_available_providers()
    left = [choice for choice in wanted if choice[0] in built_in]
    detail = ""
    while left:
        try:
            session = ort.InferenceSession(source, options, providers=left, enable_fallback=0)
        except _RAISED as error:
            if capture.refuses_graph(str(error)):
                raise capture.NotCaptured(library_text(error)) from error
            if left[0][0] == "CPUExecutionProvider" or _is_about_the_model(error):
                raise open_error(error, what) from error
            detail = library_text(error)  # the provider itself failed: go on with what the caller listed after it
            left = left[1:]
            continue
        if {name for name, _ in wanted} & set(session.get_providers()):
            return session
        break
    raise not_obtained(wanted, detail)


@contextlib.contextmanager
def _openable(model: Source) -> Iterator[tuple[str, str | bytes]]:
    """How to call the model in a message, and the model as ONNX Runtime takes it; over 2 GB that is a temporary file and its data."""
    if isinstance(model, bytes):
        yield "the bytes given", model
    elif not isinstance(model, onnx.ModelProto):
        try:
            path = regular(model)
        except OSError as error:
            why = (
                "it is a folder" if Path(model).is_dir() else "it is not there" if error.errno == errno.ENOENT else error.strerror or error
            )
            raise ModelError(f"model '{model}' cannot be read: {why}. Give an .onnx file.") from error
        yield f"'{path}'", str(path)
    else:
        what = f"model '{model.graph.name}'" if model.graph.name else "the model given"
        data = serialised(model)
        if data is not None:
            yield what, data
            return
        with temporary_folder() as folder:
            yield what, str(write_in_two(model, Path(folder) / "model.onnx"))


def _tensor(arg: Any) -> Tensor:
    shape = arg.shape
    sizes = None if shape is None else tuple(None if isinstance(d, int) and d < 0 else d for d in shape)
    return Tensor(arg.name, arg.type, DTYPES.get(arg.type), sizes)


def _checked(tensor: Tensor, value: Any) -> Any:
    """``value`` as an array of the declared type and shape, or an error; nothing is converted behind the caller's back but plain lists."""
    if not tensor.type.startswith("tensor("):
        return value  # a sequence or map: ONNX Runtime's to judge
    array = value if isinstance(value, np.ndarray | OnDevice) else _from_list(tensor, value)
    if tensor.dtype is None:
        raise InputError(
            f"input '{tensor.name}' is {tensor.type}, which numpy cannot hold; put a Cast from float32 before it in the model."
        )
    strings = tensor.dtype == object and isinstance(array, np.ndarray) and array.dtype.kind in "OUS"
    if array.dtype != tensor.dtype and not strings:
        raise InputError(f"input '{tensor.name}' takes {tensor.dtype}, not {array.dtype}: convert it with .astype('{tensor.dtype}').")
    declared = tensor.shape
    if not declared:
        return array  # ONNX Runtime reports an open rank as it reports no axes at all, and judges both itself
    wrong = array.ndim != len(declared) or any(isinstance(d, int) and d != size for d, size in zip(declared, array.shape, strict=True))
    if wrong:
        raise InputError(f"input '{tensor.name}' takes {tensor}, not an array of shape {list(array.shape)}.")
    return array


def _from_list(tensor: Tensor, value: Any) -> Array:
    try:
        return np.asarray(value, dtype=tensor.dtype)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"input '{tensor.name}' takes {tensor}, and the {type(value).__name__} given does not convert: {error}."
        ) from error


def _is_about_the_model(error: BaseException) -> bool:
    kinds = (state.InvalidProtobuf, state.InvalidGraph, state.NoSuchFile, state.NotImplemented, state.InvalidArgument, state.Fail)
    return isinstance(error, kinds) and "ExecutionProvider" not in str(error)
