"""Memory grows with the model and its tensors: sizes and ratios, measured in processes of their own or read off the graph."""

from __future__ import annotations

import cProfile
import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import onnx
import pytest
from google.protobuf.unknown_fields import UnknownFieldSet

import onnxsal
from onnxsal.ask.layers import Layers
from onnxsal.graph import Model
from onnxsal.graph.infer import Shape
from onnxsal.graph.load import load_model, size_on_disk
from onnxsal.graph.model import captured
from onnxsal.large import _prefix, pieces, serialised
from onnxsal.ops.registry import REGISTRY, OpSpec
from onnxsal.runtime.session import open_session
from tests.oracle import one_node_model
from tests.small_models import cnn, make, node
from tools.speed.nets import vit

STRETCH = 512
"""An axis of a few entries becomes one of about a thousand, whose square no tensor of the model comes near."""


def elements(shape: Shape | None) -> int:
    known = shape is not None and all(isinstance(d, int) for d in shape)
    return int(np.prod([d for d in shape or () if isinstance(d, int)])) if known else 0


def stretched(spec: OpSpec) -> list[float]:
    """Largest tensor of the gradient over largest tensor of the model, with the last axis of each input of each case made long."""
    ratios = []
    for test in spec.cases:
        for i, shape in enumerate(test.inputs):
            if not isinstance(shape, tuple) or not shape or test.straight_through:
                continue
            longer = (*test.inputs[:i], (*shape[:-1], shape[-1] * STRETCH), *test.inputs[i + 1 :])
            try:
                model, _, wrt = one_node_model(spec, dataclasses.replace(test, inputs=longer), dtype=np.float32)
                wrt = [w for w in wrt if int(w[1:]) not in spec.stops]
                derived = onnxsal.vjp(model, wrt=wrt, outputs=[o.name for o in model.graph.output] if spec.many else ["y0"])
            except Exception:  # the operands of most cases fit their own sizes only, and whoever looks at them says so in his own way
                continue
            sizes = [[elements(shape) for _, shape in Model(m).types.values()] for m in (model, derived)]
            ratios.append(max(sizes[1]) / max(1, *sizes[0]))
    return ratios


def test_no_tensor_of_a_gradient_is_the_square_of_an_axis():
    """Read off the shapes: a reflected frame around a sound of 44,100 samples once was a matrix of 7.7 GB."""
    found = {spec.op_type: ratios for spec in REGISTRY.values() if (ratios := stretched(spec))}
    assert len(found) > 100
    assert {"Pad", "Resize", "Conv", "MaxPool", "CumSum", "Softmax"} <= set(found)
    assert {name: max(ratios) for name, ratios in found.items() if max(ratios) > 20} == {}


# ----- peaks, each of a process that has only been started -----

PEAKS = '''
import os, resource, sys
import numpy as np
import onnx
import pydantic  # imported at the first use: what a library takes is no matter of a model
from onnx import TensorProto, helper, numpy_helper
import onnxsal
from onnxsal.graph.load import save_model

FLOAT = TensorProto.FLOAT


def model(nodes, x, y, weights, opset=18):
    inputs, outputs = ([helper.make_tensor_value_info(n, FLOAT, s)] for n, s in (("x", x), ("y", y)))
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in weights.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def heavy(opset, last="Identity"):
    """40 MB of weights: two Gemms and a convolution."""
    shapes = {"k": (64, 16, 3, 3), "w": (1024, 4096), "v": (4096, 1400)}
    weights = {n: np.full(s, 1e-3, np.float32) for n, s in shapes.items()} | {"f": np.array([0, -1])}
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Reshape", ["r", "f"], ["g"]),
        helper.make_node("Gemm", ["g", "w"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "v"], ["b"]),
        helper.make_node(last, ["b"], ["y"]),
    ]
    return model(nodes, ["N", 16, 4, 4], ["N", 1400], weights, opset)


def sound(mode):
    """A frame around 20,000 samples, then a resampled filter."""
    nodes = [
        helper.make_node("Pad", ["x", "p"], ["f"], mode=mode),
        helper.make_node("Conv", ["f", "k"], ["c"], strides=[16]),
        helper.make_node("Resize", ["c", "", "s"], ["z"], mode="linear"),
        helper.make_node("Relu", ["z"], ["r"]),
        helper.make_node("ReduceMean", ["r", "a"], ["y"], keepdims=0),
    ]
    weights = {"p": np.array([0, 0, 64, 0, 0, 64]), "k": np.full((4, 1, 32), 0.1, np.float32), "a": np.array([2])}
    return model(nodes, [1, 1, 20000], [1, 4], weights | {"s": np.array([1, 1, 8], np.float32)})


def explain(given, method):
    x = np.ones((1, 1, 20000), np.float32)
    assert np.isfinite(onnxsal.Explainer(given, method, providers="cpu").explain(x, 1).attribution).all()


def relu():
    return model([helper.make_node("Relu", ["x"], ["y"])], [1 << 22, 4], [1 << 22, 4], {})


def peak(task):
    """MB above what the process holds when the task begins: a fork, whose own peak it is."""
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0, task
        return
    begin = int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
    TASKS[task]()
    print(task, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - begin) / 1e6, flush=True)
    os._exit(0)


folder, TASKS = sys.argv[1], {}
for opset, last in ((18, "Identity"), (13, "Identity"), (18, "Cos")):  # opened only; compared; run to see what values it takes
    path = f"{folder}/{opset}{last}.onnx"
    onnx.save(heavy(opset, last), path)
    TASKS[f"convert {opset} {last}"] = lambda path=path: onnxsal.convert(path, "fullgrad")
    TASKS[f"convert and save {opset} {last}"] = lambda path=path: save_model(onnxsal.convert(path, "fullgrad"), f"{path}.out.onnx")
for mode, method in (("reflect", "gradient"), ("edge", "fullgrad")):
    TASKS[f"explain {mode} {method}"] = lambda mode=mode, method=method: explain(sound(mode), method)
TASKS["check"] = lambda: onnxsal.check(relu(), "cpu", "fullgrad")
for task in TASKS:
    peak(task)
'''


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from Linux")
def test_peaks(tmp_path):
    """A conversion takes at most 4 x the file, written or not; an explanation and a check take no more than the samples and a session."""
    done = subprocess.run([sys.executable, "-c", PEAKS, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300)
    peaks = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()}
    size = (tmp_path / "18Identity.onnx").stat().st_size / 1e6
    assert size > 35
    assert {task: value for task, value in peaks.items() if task.startswith("convert") and value > 4 * size} == {}
    assert {task: value for task, value in peaks.items() if not task.startswith("convert") and value > 150} == {}
    assert len(peaks) == 9


# ----- a model as bytes -----


def weighty() -> onnx.ModelProto:
    """A model with fields on both sides of its graph and of its weights."""
    model = load_model(cnn(size=12))
    model.metadata_props.add(key="before", value="and after")
    model.producer_name = "test"
    model.graph.doc_string = "behind the weights"
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.arange(5000, dtype=np.float32), "unread"))
    model.graph.initializer[-1].doc_string = "behind the data"
    model.graph.initializer.append(onnx.TensorProto(name="listed", data_type=1, dims=[2], float_data=[1, 2]))
    return model


def test_pieces_are_the_bytes_that_protobuf_writes():
    model = weighty()
    parts = list(pieces(model))
    assert b"".join(parts) == serialised(model) == model.SerializeToString()
    assert max(map(len, parts)) < 5000 * 4 + 100 < len(model.SerializeToString())


def test_pieces_hold_what_this_onnx_has_no_name_for():
    later = onnx.ModelProto.FromString(weighty().SerializeToString() + bytes([*_prefix(weighty(), "graph", 0)[:-1], 4, 0xF2, 0x7F, 1, 65]))
    assert len(UnknownFieldSet(later.graph)) == 1
    assert serialised(later) == later.SerializeToString()


def test_a_model_that_outgrows_one_message_has_no_pieces(monkeypatch: pytest.MonkeyPatch):
    size = len(weighty().SerializeToString())
    for limit in (size, size - 1):
        monkeypatch.setattr("onnxsal.large.LARGEST", limit)
        assert (pieces(weighty()) is None) == (limit < size)


def test_the_size_on_disk_counts_the_files_beside(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(weighty(), path)
    assert size_on_disk(path) == path.stat().st_size
    onnx.save(weighty(), path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    assert (tmp_path / "weights.bin").stat().st_size > 20_000
    assert size_on_disk(path) == sum(p.stat().st_size for p in tmp_path.iterdir())


# ----- many nodes -----


def chain(count: int) -> onnx.ModelProto:
    names = ["x", *(f"t{i}" for i in range(count - 1)), "y"]
    nodes = [node("Relu" if i % 2 else "Add", f"{a} {'' if i % 2 else 'w'}", b) for i, (a, b) in enumerate(itertools.pairwise(names))]
    return make(nodes, {"x": ["N", 4]}, {"y": ["N", 4]}, {"w": np.full(4, 0.1, np.float32)})


def calls(model: onnx.ModelProto) -> int:
    """How many functions a conversion calls."""
    profile = cProfile.Profile()
    profile.runcall(onnxsal.convert, model, "gradient")
    return sum(entry.callcount for entry in profile.getstats())


def test_a_conversion_takes_as_many_steps_for_each_node_of_a_long_model_as_of_a_short_one():
    calls(chain(10))
    short, long = calls(chain(200)), calls(chain(800))
    assert long < 4.1 * short


def waiting(graph: onnx.GraphProto) -> int:
    """How many nodes could run at most before their turn comes, when nodes run in their order."""
    made = {name: i for i, n in enumerate(graph.node) for name in n.output}
    ready = [max((made.get(name, -1) for name in n.input), default=-1) for n in graph.node]
    assert all(since < i for i, since in enumerate(ready)), "not in topological order"
    begun = np.bincount(np.array(ready) + 1, minlength=len(ready))
    return int((np.cumsum(begun) - np.arange(len(begun))).max())


def test_many_added_nodes_do_not_wait_until_the_forward_part_is_through(monkeypatch: pytest.MonkeyPatch):
    """ONNX Runtime's sorting takes time by the product of all nodes and those that wait. The same nodes say the same."""
    behind = onnxsal.convert(chain(60), "gradient")
    monkeypatch.setattr("onnxsal.graph.assemble.MANY", 0)
    between = onnxsal.convert(chain(60), "gradient")
    assert waiting(behind.graph) > 30
    assert waiting(between.graph) < 8
    assert sorted(n.SerializeToString() for n in between.graph.node) == sorted(n.SerializeToString() for n in behind.graph.node)
    own = [n.name for n in chain(60).graph.node]
    assert [n.name for n in between.graph.node if n.name in own] == own
    fed = {"x": np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4), "target": np.array([-1])}
    results = [open_session(model, "cpu").run(fed) for model in (behind, between)]
    for name, value in results[0].items():
        np.testing.assert_array_equal(value, results[1][name], err_msg=name)


def test_a_graph_inside_an_added_node_waits_for_what_it_reads(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("onnxsal.graph.assemble.MANY", 0)
    converted = onnxsal.convert(cnn(size=12), "integrated_gradients", n_steps=3)
    made: set[str] = {i.name for i in converted.graph.input} | {t.name for t in converted.graph.initializer}
    for one in converted.graph.node:
        assert {name for name in (*one.input, *captured(one)) if name} <= made, one.name
        made.update(one.output)


def test_a_signal_has_the_declared_shape_of_what_it_explains(monkeypatch: pytest.MonkeyPatch):
    """Sizes that a runtime does not know are time: it looks for memory to reuse, and opening a FullGrad file of NASNet took 10 s."""
    monkeypatch.setattr("onnxsal.graph.emit.MANY", 0)
    model = cnn(size=12)
    converted = Model(onnxsal.convert(model, "gradient"))
    own = {n.proto.output[0] for n in Model(model).nodes}
    lost = [
        n
        for n in converted.nodes
        if n.y.rank == 4 and n.proto.output[0] not in own and n.y.shape[0] != converted.value("x").shape[0] and n.y.shape[1:] != (1, 1, 1)
    ]
    assert [n.name for n in lost] == []
    assert sum(n.y.rank == 4 for n in converted.nodes) > 8


def test_the_last_layer_of_tokens_is_looked_for_from_the_end(monkeypatch: pytest.MonkeyPatch):
    """Each look is a walk through the whole model: as many for a deep transformer as for a shallow one, not one for each of its tensors."""
    looked: list[str] = []
    reaches = Layers._reaches
    monkeypatch.setattr(Layers, "_reaches", lambda self, name, without="": looked.append(name) or reaches(self, name, without))
    counts = []
    for depth in (2, 5):
        onnxsal.convert(vit(depth, 48, 3), "gradcam")
        counts.append(len(looked))
        looked.clear()
    assert counts[0] == counts[1] > 0
