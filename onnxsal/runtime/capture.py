"""CUDA graphs: runs of one shape whose kernels are sent to the card as one, on buffers whose addresses stay.

A graph replays what it saw, whatever is fed, so it sees device memory of our own: what is fed is copied there, results are copied out.
It holds kernels only: no control flow, no node on the CPU, and nothing of another size.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from onnxsal.protos import graphs_of
from onnxsal.runtime.on_device import OnDevice
from onnxsal.runtime.providers import CPU, CUDA, HOST, Device, Resolved

GRAPH_ID, PLAIN = "gpu_graph_id", -1
"""The option of a run that names its CUDA graph, and the number of a run that is none."""

ENABLED, ON = "enable_cuda_graph", ("1", "True", "true")
"""The option of the CUDA provider without which no run is captured, and what switches it on."""

MOST = 4
"""CUDA graphs that one session holds, each with its buffers: the class is fed or not, a baseline is fed or not."""

Fed = Mapping[str, Any]


class NotCaptured(Exception):
    """ONNX Runtime or CUDA refuses a graph; the text says why."""


def graphs(wanted: Resolved) -> bool:
    """Whether runs are to be CUDA graphs where they can be: on CUDA, unless the caller's own option says no."""
    return wanted[0][0] == CUDA and wanted[0][1].get(ENABLED, "1") in ON


def enabled(wanted: Resolved) -> Resolved:
    """The providers of a session whose runs are captured."""
    return [(name, {**options, ENABLED: "1"} if name == CUDA else options) for name, options in wanted]


def disabled(wanted: Resolved) -> Resolved:
    """The providers of a session whose runs are not: on, the option is of no use to it, and may keep it from opening."""
    return [(name, {k: v for k, v in options.items() if (k, v in ON) != (ENABLED, True)}) for name, options in wanted]


def control_flow(model: onnx.ModelProto) -> str:
    """Why no CUDA graph can hold this model, as its nodes show ('' = nothing of it)."""
    holding = Counter(n.op_type for n in model.graph.node if next(graphs_of(n), None) is not None)
    return f"no CUDA graph holds control flow, and the model has {_listed(holding)}" if holding else ""


def on_the_cpu(session: ort.InferenceSession) -> str:
    """Why no CUDA graph can hold the runs of this session, as ONNX Runtime placed its nodes ('' = all are on the card)."""
    parts = [part for part in session.get_provider_graph_assignment_info() if part.ep_name == CPU]
    nodes = [node for part in parts for node in part.get_nodes()]
    if not nodes:
        return ""
    return (
        f"ONNX Runtime runs {len(nodes)} node(s) on the CPU: {_listed(Counter(n.op_type for n in nodes))}; the first is '{nodes[0].name}'"
    )


def open_sizes(session: ort.InferenceSession) -> str:
    """Why no CUDA graph can hold the runs of this session, as its inputs and outputs are declared ('' = nothing of it)."""
    for kind, tensors in (("input", session.get_inputs()), ("output", session.get_outputs())):
        for tensor in tensors:
            if not tensor.type.startswith("tensor(") or "string" in tensor.type:
                return f"{kind} '{tensor.name}' is {tensor.type}, which has no place on a card"
            if kind == "input" and not all(isinstance(d, int) and d >= 0 for d in tensor.shape):
                return f"input '{tensor.name}' is of open size ({', '.join(map(str, tensor.shape))})"
    return ""


def _listed(counted: Counter[str]) -> str:
    return ", ".join(f"{many} {name}" for name, many in counted.most_common(4)) + (", ..." if len(counted) > 4 else "")


def refuses_graph(text: str) -> bool:
    """Whether ONNX Runtime refuses to open a session because it cannot capture its runs."""
    return re.search(r"graph capture|CUDA [Gg]raph", text) is not None


def plain(options: ort.RunOptions) -> ort.RunOptions:
    """A run that captures and replays nothing: a graph that was captured would be replayed whatever is fed."""
    options.add_run_config_entry(GRAPH_ID, str(PLAIN))
    return options


def run_bound(
    session: ort.InferenceSession, names: Sequence[str], arrays: Fed, options: ort.RunOptions, device: Device, staying: Collection[str]
) -> list[Any]:
    """A run that reads arrays where they lie, and leaves the outputs ``staying`` on the session's device (the others are numpy's)."""
    binding = session.io_binding()
    for name, array in arrays.items():
        if isinstance(array, OnDevice):
            binding.bind_ortvalue_input(name, array.value)
        else:
            binding.bind_cpu_input(name, np.ascontiguousarray(array))
    for name in names:
        binding.bind_output(name, *(device if name in staying else HOST))
    binding.synchronize_inputs()  # what another library still computes into them is waited for
    session.run_with_iobinding(binding, options)
    binding.synchronize_outputs()
    outputs = zip(names, binding.get_outputs(), strict=True)
    return [OnDevice(value) if name in staying else np.array(value.numpy()) for name, value in outputs]


class Bound:
    """The buffers of one set of names and shapes, and the graph that was captured on them."""

    def __init__(self, session: ort.InferenceSession, names: Sequence[str], arrays: Fed, device: Device, number: int) -> None:
        """Runs twice: as it is, which tells the shapes of the outputs and raises what a run raises; then captured.

        Raises ``NotCaptured``.
        """
        self._session, self._number = session, number
        self._inputs = {
            name: ort.OrtValue.ortvalue_from_shape_and_type(list(array.shape), array.dtype, *device) for name, array in arrays.items()
        }
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in names:
            self._binding.bind_output(name, *device)
        self._fill(arrays)
        self._run(PLAIN)
        self._outputs = dict(zip(names, self._binding.get_outputs(), strict=True))
        self._binding.clear_binding_outputs()
        for name, value in self._outputs.items():
            self._binding.bind_ortvalue_output(name, value)
        self._replay()

    def run(self, arrays: Fed, staying: Collection[str]) -> list[Any]:
        """The outputs, in their order, each in memory of its own. Raises ``NotCaptured``."""
        self._fill(arrays)
        self._replay()
        return self.results(staying)

    def results(self, staying: Collection[str]) -> list[Any]:
        """What the last run left in the buffers, copied."""
        return [OnDevice(v).copy() if name in staying else np.array(v.numpy()) for name, v in self._outputs.items()]

    def _fill(self, arrays: Fed) -> None:
        for name, value in self._inputs.items():
            array = arrays[name]
            value.update_inplace(array.value if isinstance(array, OnDevice) else np.ascontiguousarray(array))

    def _replay(self) -> None:
        try:
            self._run(self._number)
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise NotCaptured(f"its run could not be captured: {error}") from error

    def _run(self, number: int) -> None:
        options = ort.RunOptions()
        options.log_severity_level = 4
        options.add_run_config_entry(GRAPH_ID, str(number))
        self._binding.synchronize_inputs()
        self._session.run_with_iobinding(self._binding, options)
        self._binding.synchronize_outputs()


class Capture:
    """A session whose runs are CUDA graphs, one for each set of names and shapes that is fed."""

    def __init__(self, session: ort.InferenceSession, device: Device) -> None:
        self._session, self._device = session, device
        self._bound: dict[Any, Bound] = {}
        self._lock = threading.Lock()  # buffers are shared by all runs of one set

    def run(self, names: Sequence[str], arrays: Fed, staying: Collection[str]) -> list[Any] | None:
        """The outputs; ``None`` where as many graphs are held as may be. Raises ``NotCaptured``, and what a run raises."""
        key = tuple(names), tuple((name, tuple(array.shape)) for name, array in sorted(arrays.items()))
        with self._lock:
            if key in self._bound:
                return self._bound[key].run(arrays, staying)
            if len(self._bound) == MOST:
                return None
            bound = Bound(self._session, names, arrays, self._device, len(self._bound) + 1)
            self._bound[key] = bound
            return bound.results(staying)
