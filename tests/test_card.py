"""On a card: runs that are filled up, CUDA graphs, arrays that stay where they are. A session that only claims to be there stands in."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from onnxsal import Explainer
from onnxsal.errors import InputError
from onnxsal.runtime import on_device
from onnxsal.runtime.batches import Batches
from onnxsal.runtime.capture import MOST, control_flow, disabled, enabled, graphs, on_the_cpu
from onnxsal.runtime.finite import all_finite
from onnxsal.runtime.on_device import OnDevice, rows_at, where_it_lies
from onnxsal.runtime.providers import CPU, CUDA, TENSORRT, device_of, resolve
from onnxsal.runtime.session import open_session
from tests.pretended import Pretended, card
from tests.small_models import cnn, draw, make, node, segmenter, two_inputs, unbatched

__all__ = ["card"]

Card = type[Pretended]
X = draw(7, 3, 8, 8, seed=21)
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-6}


def graphs_run(explainer: Explainer) -> list[str]:
    """The numbers of the graphs of the bound runs so far; -1 is none."""
    return explainer.session._session.graphs


# ----- how many rows -----


@pytest.mark.parametrize(
    ("fixed", "fills", "counts", "rows"),
    [
        (None, False, [7, 2], [4, 3, 2]),
        (None, True, [7, 2], [4, 4, 4]),  # the last batch has the size of the one before it, a smaller one that of those before
        (None, True, [2, 7, 3, 1], [2, 4, 4, 4, 2]),  # a larger one is run as it is, and the smallest that holds is taken
        (None, True, [1, 1], [1, 1]),
        (3, True, [7, 2], [3, 3, 3, 3]),
        (3, False, [7], [3, 3, 3]),
    ],
)
def test_how_many_rows_a_run_has(fixed: int | None, fills: bool, counts: list[int], rows: list[int]):
    batches = Batches(4, fixed, fills)
    assert [batches.rows(end - begin, "shape") for count in counts for begin, end in batches.cut(count)] == rows


def test_sizes_are_known_for_the_shape_they_were_run_with():
    batches = Batches(4, None, True)
    assert [batches.rows(4, "small"), batches.rows(2, "large"), batches.rows(2, "small")] == [4, 2, 4]


@pytest.mark.parametrize("method", ["fullgrad", "lrp_epsilon", "ig"])
@pytest.mark.usefixtures("card")
def test_what_a_run_is_filled_up_with_is_dropped(method: str, monkeypatch: pytest.MonkeyPatch):
    plain = Explainer(cnn(), method, batch_size=3, providers="cpu").explain(X, np.arange(7) % 5)
    explainer = Explainer(cnn(), method, batch_size=3, providers="cuda")
    seen, run = [], explainer.session.run
    monkeypatch.setattr(explainer.session, "run", lambda feed: seen.append(len(feed["x"])) or run(feed))
    found = explainer.explain(X, np.arange(7) % 5)
    assert seen == [3, 3, 3]
    assert len(found) == 7
    np.testing.assert_allclose(found.attribution, plain.attribution, **CLOSE)
    np.testing.assert_allclose(found.outputs["y"], plain.outputs["y"], **CLOSE)
    again = explainer.explain(X[6:], 2)
    assert seen[3:] == [3]
    np.testing.assert_allclose(again.attribution, explainer.explain(X, 2).attribution[6:], **CLOSE)


@pytest.mark.usefixtures("card")
def test_rows_that_are_built_in_are_not_filled_up():
    """A baseline of its own for each of seven samples has no eighth row."""
    each = draw(7, 3, 8, 8, seed=3)
    given: dict[str, Any] = {"n_steps": 3, "baseline": each, "target_input": "required", "batch_size": 7}
    explainer = Explainer(cnn(), "ig", providers="cuda", **given)
    np.testing.assert_allclose(explainer.explain(X).attribution, Explainer(cnn(), "ig", **given).explain(X).attribution, **CLOSE)


# ----- a batch that is fixed -----


@pytest.mark.parametrize("method", ["fullgrad", "ig", "lrp_epsilon_plus", "gradcam"])
@pytest.mark.parametrize("target_input", [None, "required"])
@pytest.mark.parametrize("target", [None, 3, [4, 0, -1, 2, 1, 3, -1]])
def test_an_open_batch_is_fixed(method: str, target_input: str | None, target: Any):
    """Also the classes that are fed have the fixed size; so on the CPU as on a card."""
    plain = Explainer(cnn(), method, target_input=target_input).explain(X, target)
    explainer = Explainer(cnn(), method, target_input=target_input, fixed_batch=4)
    assert explainer.batch_size == 4
    assert [t.shape[0] for t in explainer.session.inputs] == [4] * len(explainer.session.inputs)
    found = explainer.explain(X, target)
    assert found.target.tolist() == plain.target.tolist()
    np.testing.assert_allclose(found.attribution, plain.attribution, **CLOSE)
    np.testing.assert_allclose(found.saliency_map, plain.saliency_map, **CLOSE)


def test_every_input_with_samples_is_fixed():
    a, b = draw(7, 4, seed=1), draw(7, 3, seed=2)
    asked: dict[str, Any] = {"input": "a", "output": "y"}
    found = Explainer(two_inputs(), "gradient", fixed_batch=3, **asked).explain({"a": a, "b": b}, 1)
    np.testing.assert_allclose(found.attribution, Explainer(two_inputs(), "gradient", **asked).explain({"a": a, "b": b}, 1).attribution)


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        (cnn(2), {}, r"fixed_batch=4 cannot be: the model takes 2 sample\(s\) at once"),
        (unbatched(), {}, "fixed_batch=4 cannot be: the model takes one sample"),
        (cnn(), {"batch_size": 3}, "batch_size=3 and fixed_batch=4 differ"),
    ],
)
def test_a_batch_that_cannot_be_fixed(model: onnx.ModelProto, given: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        Explainer(model, "gradient", fixed_batch=4, **given)


def test_a_batch_without_a_name_cannot_be_fixed():
    model = cnn()
    model.graph.input[0].type.tensor_type.shape.dim[0].Clear()
    model.graph.output[0].type.tensor_type.shape.dim[0].Clear()
    with pytest.raises(InputError, match="the batch of input 'x' has no name in the file"):
        Explainer(model, "gradient", fixed_batch=4)


@pytest.mark.parametrize("size", [0, True, 2.5, "8"])
def test_a_fixed_batch_is_a_number_of_samples(size: Any):
    with pytest.raises(InputError, match="is not a number of samples"):
        Explainer(cnn(), "gradient", fixed_batch=size)


# ----- CUDA graphs -----


@pytest.mark.parametrize(("model", "fixed"), [(cnn(), 4), (cnn(4), None)], ids=["open", "fixed"])
@pytest.mark.usefixtures("card")
def test_runs_of_a_fixed_size_are_cuda_graphs(model: onnx.ModelProto, fixed: int | None):
    """The first run tells the shapes of the outputs, the second is captured; results stay when the next run writes its own."""
    plain = Explainer(cnn(), "fullgrad").explain(X)
    explainer = Explainer(model, "fullgrad", providers="cuda", fixed_batch=fixed)
    first = explainer.explain(X)
    assert graphs_run(explainer) == ["-1", "1", "1"]
    second = explainer.explain(X[::-1].copy())
    assert graphs_run(explainer)[3:] == ["1", "1"]
    for found, expected in ((first, plain.attribution), (second, plain.attribution[::-1])):
        np.testing.assert_allclose(found.attribution, expected, **CLOSE)
        assert found.how == found.summary["how"] == explainer.how == "as a CUDA graph"


@pytest.mark.usefixtures("card")
def test_every_set_of_inputs_has_its_graph_up_to_a_number():
    explainer, plain = Explainer(cnn(4), "deeplift", providers="cuda"), Explainer(cnn(), "deeplift")
    rows = [{}, {"target": 1}, {"baseline": draw(1, 1, 1, 1)}, {"target": 1, "baseline": draw(1, 3, 8, 8)}, {"baseline": draw(1, 3, 1, 1)}]
    for given in rows * 2:
        np.testing.assert_allclose(explainer.explain(X, **given).attribution, plain.explain(X, **given).attribution, **CLOSE)
    assert len(explainer.session._capture._bound) == MOST == 4
    assert {*graphs_run(explainer)} == {"-1", "1", "2", "3", "4"}


def test_nodes_on_the_cpu_hinder_a_graph(card: Card):
    card.placed = [*Pretended.placed, *_placed_on_the_cpu("Concat", "Concat", "Reshape")]
    explainer = Explainer(cnn(), "gradient", providers="cuda", fixed_batch=4)
    why = "ONNX Runtime runs 3 node(s) on the CPU: 2 Concat, 1 Reshape; the first is 'n0'"
    found = explainer.explain(X)
    assert explainer.how == found.how == f"without a CUDA graph: {why}"
    assert graphs_run(explainer) == []
    np.testing.assert_allclose(found.attribution, Explainer(cnn(), "gradient").explain(X).attribution, **CLOSE)


def _placed_on_the_cpu(*operators: str) -> list[Any]:
    nodes = [SimpleNamespace(op_type=name, name=f"n{i}") for i, name in enumerate(operators)]
    return [SimpleNamespace(ep_name=CPU, get_nodes=lambda: nodes)]


def test_where_nodes_are_is_what_onnx_runtime_says():
    """The real record of a session on the CPU: every node of it."""
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(cnn().SerializeToString(), options, providers=[CPU])
    assert "node(s) on the CPU: 2 Conv" in on_the_cpu(session)


def test_onnx_runtime_refuses_a_graph(card: Card):
    card.refusal = "This session cannot use the graph capture feature as requested by the user as the model has control flow nodes"
    explainer = Explainer(cnn(4), "gradient", providers="cuda")
    assert explainer.how == f"without a CUDA graph: {card.refusal}"
    np.testing.assert_allclose(explainer.explain(X).attribution, Explainer(cnn(), "gradient").explain(X).attribution, **CLOSE)


@pytest.mark.parametrize("failing", ["1", "2"])
def test_a_capture_that_fails_is_told_and_done_without(card: Card, failing: str):
    """In the first run, or in that of another set of inputs: the session is opened again, and goes on."""
    card.failing = staticmethod(lambda number: "CudaCall error: operation not permitted when stream is capturing" * (number == failing))
    explainer = Explainer(cnn(4), "gradient", providers="cuda")
    plain = Explainer(cnn(), "gradient")
    for target in (None, 2, None):
        np.testing.assert_allclose(explainer.explain(X, target).attribution, plain.explain(X, target).attribution, **CLOSE)
    assert explainer.how.startswith("without a CUDA graph: its run could not be captured: CudaCall error")


def test_a_run_that_fails_is_no_capture_that_fails(card: Card):
    card.failing = staticmethod(lambda number: "Failed to allocate memory" * (number == "-1"))
    explainer = Explainer(cnn(4), "gradient", providers="cuda")
    with pytest.raises(InputError, match="not enough memory"):
        explainer.explain(X)
    assert explainer.how == "as a CUDA graph"


@pytest.mark.parametrize(
    ("model", "method", "message"),
    [
        (cnn(4), "rise", "no CUDA graph holds control flow, and the model has 1 Loop"),
        (cnn(4, size="S"), "gradient", r"input 'x' is of open size \(4, 3, S, S\)"),
    ],
)
@pytest.mark.usefixtures("card")
def test_what_a_model_has_that_no_graph_holds(model: onnx.ModelProto, method: str, message: str):
    explainer = Explainer(model, method, providers="cuda", **({"n_masks": 4} if method == "rise" else {}))
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(explainer.how)


@pytest.mark.parametrize("given", [("cuda", {"enable_cuda_graph": 0}), "cuda,cpu", "cpu"])
@pytest.mark.usefixtures("card")
def test_who_gets_graphs(given: Any):
    explainer = Explainer(cnn(4), "gradient", providers=given)
    assert explainer.how == ("as a CUDA graph" if given == "cuda,cpu" else "")
    assert Explainer(cnn(), "gradient", providers=given).how == ""  # the batch is open, and nobody asked


def test_the_option_is_for_captured_sessions_only(card: Card):
    """A plain session with the option would replay the first run for ever."""
    wanted = resolve(("cuda", {"enable_cuda_graph": True}))
    assert graphs(wanted)
    assert not graphs(resolve("tensorrt,cuda"))
    assert not graphs(resolve(("cuda", {"enable_cuda_graph": "0"})))
    assert "enable_cuda_graph" not in dict(disabled(wanted))[CUDA]
    assert dict(enabled(resolve("cuda")))[CUDA]["enable_cuda_graph"] == "1"
    explainer = Explainer(cnn(4), "gradient", providers="cuda")
    explainer.explain(X)
    assert "enable_cuda_graph" in explainer.session._session.asked[CUDA]
    plain = open_session(cnn(4), wanted)
    assert "enable_cuda_graph" not in plain._session.asked[CUDA]
    assert "enable_cuda_graph" not in str(explainer.session.obtained)  # other sessions are opened with these


def test_control_flow_is_seen_before_anything_is_opened():
    branch = onnx.helper.make_graph([node("Identity", "x", "a")], "b", [], [onnx.helper.make_tensor_value_info("a", 1, None)])
    model = make([node("If", "c", "y", then_branch=branch, else_branch=branch)], {"x": [1], "c": []}, {"y": [1]}, types={"c": 9})
    assert control_flow(model) == "no CUDA graph holds control flow, and the model has 1 If"
    assert control_flow(cnn()) == ""


@pytest.mark.parametrize(
    ("given", "place"),
    [("cpu", ("cpu", 0)), ("cuda", ("cuda", 0)), (("cuda", {"device_id": 2}), ("cuda", 2)), ([TENSORRT, "cpu"], ("cuda", 0))],
)
def test_where_the_tensors_of_a_session_lie(given: Any, place: tuple[str, int]):
    assert device_of(resolve(given)) == place


# ----- arrays that stay -----


class Elsewhere:
    """A tensor that says it lies on a card."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __dlpack__(self, **asked: Any) -> Any:
        return self.tensor.__dlpack__(**asked)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 0)

    def __getitem__(self, index: Any) -> Elsewhere:
        return Elsewhere(self.tensor[index])


def test_a_tensor_is_not_copied():
    tensor = torch.from_numpy(X.copy())
    assert where_it_lies(tensor, "x").ctypes.data == tensor.data_ptr()
    there = where_it_lies(Elsewhere(tensor), "x")
    assert there.value.data_ptr() == tensor.data_ptr()
    assert (there.shape, there.dtype, there.ndim, there.size, len(there)) == (X.shape, X.dtype, 4, X.size, 7)
    assert there.rows(np.arange(2, 5)).value.data_ptr() == tensor[2:].data_ptr()
    assert rows_at(there, np.arange(7)) is there
    np.testing.assert_array_equal(rows_at(there, np.array([5, 6, 6])), X[[5, 6, 6]])
    np.testing.assert_array_equal(there[3], X[3])
    assert there.copy().value.data_ptr() != tensor.data_ptr()


@pytest.mark.parametrize("method", ["fullgrad", "lrp_epsilon"])
@pytest.mark.parametrize("of", [torch.from_numpy, lambda x: Elsewhere(torch.from_numpy(x))], ids=["host", "elsewhere"])
@pytest.mark.parametrize("given", [{}, {"batch_size": 3}, {"fixed_batch": 3}])
def test_tensors_go_in(method: str, of: Any, given: dict[str, Any]):
    found = Explainer(cnn(), method, **given).explain(of(X))
    np.testing.assert_allclose(found.attribution, Explainer(cnn(), method).explain(X).attribution, **CLOSE)


@pytest.mark.parametrize("of", [np.asarray, torch.from_numpy, lambda x: Elsewhere(torch.from_numpy(x))], ids=["numpy", "host", "elsewhere"])
@pytest.mark.parametrize("fixed", [None, 7])
def test_maps_stay_on_the_device(of: Any, fixed: int | None):
    explainer = Explainer(cnn(), "lrp_epsilon", fixed_batch=fixed, components=True)
    expected = explainer.explain(X)
    found = explainer.explain(of(X), on_device=True)
    for name in ("attribution", "saliency_map"):
        there = getattr(found, name)
        assert isinstance(there, OnDevice)
        assert torch.from_dlpack(there).data_ptr() == there.value.data_ptr()
        np.testing.assert_allclose(torch.from_dlpack(there).numpy(), getattr(expected, name), **CLOSE)
    for name in ("score", "target", "residual", "reached"):
        assert isinstance(getattr(found, name), np.ndarray)
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-3, atol=1e-5)
    assert isinstance(found.outputs["y"], OnDevice)
    np.testing.assert_allclose(found[2].attribution, expected[2].attribution, **CLOSE)
    assert found.warnings == expected.warnings


def test_maps_outlive_the_explainer_and_the_next_run():
    explainer = Explainer(cnn(), "gradient")
    expected = explainer.explain(X).attribution
    kept = torch.from_dlpack(explainer.explain(X, on_device=True).attribution)
    explainer.explain(100 * X, on_device=True)
    del explainer
    np.testing.assert_allclose(kept.numpy(), expected, **CLOSE)


@pytest.mark.usefixtures("card")
def test_maps_of_a_cuda_graph_are_copies_on_the_device():
    explainer = Explainer(cnn(7), "gradient", providers="cuda")
    expected = Explainer(cnn(), "gradient").explain(X).attribution
    kept = explainer.explain(Elsewhere(torch.from_numpy(X)), on_device=True).attribution
    explainer.explain(100 * X, on_device=True)
    assert graphs_run(explainer) == ["-1", "1", "1"]
    np.testing.assert_allclose(np.asarray(kept), expected, **CLOSE)


@pytest.mark.parametrize(
    ("given", "message"),
    [({"batch_size": 3}, r"takes at most 3 sample\(s\), and 7 were given"), ({"fixed_batch": 8}, r"takes exactly 8 sample\(s\), and 7")],
)
def test_maps_that_stay_need_one_run(given: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        Explainer(cnn(), "gradient", **given).explain(X, on_device=True)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(2, 3, 8, 8, requires_grad=True), "requires grad|require gradient.*detached"),
        (Elsewhere(torch.zeros(2, 8, 8, 3).permute(0, 3, 1, 2)), r"cannot be handed on: .*[Cc]ontiguous"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.bfloat16), "a torch.Tensor, cannot be handed on"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.float64), "takes float32, not float64"),
        (Elsewhere(torch.zeros(2, 3, 9, 8)), r"takes x float32\[N,3,8,8\], not an array of shape \[2, 3, 9, 8\]"),
        (Elsewhere(torch.full((2, 3, 8, 8), torch.nan)), "384 value.s. that are NaN or infinite"),
        (Elsewhere(torch.full((1, 3, 8, 8), torch.inf)), "192 value.s. that are NaN or infinite"),
    ],
)
def test_a_tensor_that_does_not_fit(tensor: Any, message: str):
    with pytest.raises(InputError, match=message):
        Explainer(cnn(), "gradient").explain(tensor)


def test_a_tensor_on_another_device_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(on_device.OnDevice, "device", ("cuda", 1))
    with pytest.raises(InputError, match="input 'x' lies on cuda:1, and the session runs on cpu:0: move it there"):
        Explainer(cnn(), "gradient").explain(Elsewhere(torch.from_numpy(X)))


def test_an_ort_value_is_taken_whole_and_not_cut():
    whole = where_it_lies(Elsewhere(torch.from_numpy(X)), "x").value
    there = OnDevice(whole)
    assert len(Explainer(cnn(), "gradient").explain(there)) == 7
    with pytest.raises(InputError, match="cannot be cut into batches"):
        Explainer(cnn(), "gradient", batch_size=3).explain(there)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_numbers_are_checked_where_they_lie(bad: float, dtype: torch.dtype):
    tensor = torch.from_numpy(draw(3, 4, 5)).to(dtype)
    assert all_finite(OnDevice.of(tensor), resolve("cpu"))
    tensor[2, 3, 1] = bad
    assert not all_finite(OnDevice.of(tensor), resolve("cpu"))
    assert not all_finite(tensor.numpy(), resolve("cpu"))
    assert all_finite(OnDevice.of(torch.arange(3)), resolve("cpu"))


def test_a_map_that_is_not_finite_is_refused_on_the_device():
    model = make(
        [node("Mul", "x large", "scaled"), node("ReduceSum", "scaled axes", "y", keepdims=0)],
        {"x": ["N", 3, 4, 4]},
        {"y": ["N"]},
        {"large": np.full((1, 3, 1, 1), 3e38, np.float32), "axes": np.array([1, 2, 3])},
    )
    with pytest.raises(InputError, match="saliency map of method 'gradient'"):
        Explainer(model, "gradient", score="raw", target=0).explain(np.zeros((1, 3, 4, 4), np.float32), on_device=True)


def test_a_target_out_of_range_is_refused_on_the_device():
    with pytest.raises(Exception, match=r"target .* is out of range"):
        Explainer(segmenter(), "gradient").explain(draw(2, 3, 6, 6), np.array([10**6, 0]), on_device=True)


def test_an_explanation_on_the_device_is_saved(tmp_path: Path):
    found = Explainer(cnn(), "gradient").explain(X, on_device=True)
    path = found.save(tmp_path / "there")
    np.testing.assert_array_equal(np.load(path)["attribution"], np.asarray(found.attribution))
    assert json.loads(path.with_suffix(".json").read_text())["how"] == ""
