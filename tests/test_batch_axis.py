"""What counts samples: proved from the graph, seen in a run, or refused. Never assumed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import onnxsal
from onnxsal import Explainer
from onnxsal.ask import batch_axis
from onnxsal.ask.question import Question, ask
from onnxsal.errors import InputError, TargetError
from onnxsal.facts.axes import row_axes
from onnxsal.graph import Model
from onnxsal.runtime import rows
from onnxsal.runtime.feeds import accepted
from tests.nets import image_input, light
from tests.oracle import run
from tests.small_models import cnn, cnn_nhwc, draw, make, node, segmenter, tokens, two_inputs, unbatched
from tests.torch_nets import exported


def asked(model: onnx.ModelProto, **options: Any) -> Question:
    return ask(Model(model), **options)


@pytest.fixture
def no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph alone must prove it."""

    def fail(*_: Any) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(batch_axis, "watch_rows", fail)


def renamed(model: onnx.ModelProto, **dims: str) -> onnx.ModelProto:
    """The symbol of the first axis of outputs (or inputs) under another name; '' is no name."""
    for value in (*model.graph.input, *model.graph.output):
        if value.name in dims:
            value.type.tensor_type.shape.dim[0].Clear()
            if dims[value.name]:
                value.type.tensor_type.shape.dim[0].dim_param = dims[value.name]
    return model


# ----- ordinary models: proved without a run, whatever the axes are called -----


@pytest.mark.parametrize("make_model", [cnn, cnn_nhwc, segmenter])
@pytest.mark.parametrize(("x", "y"), [("N", "N"), ("unk__12", "unk__13"), ("batch", "s0"), ("", ""), ("N", ""), ("", "N")])
def test_names_of_the_first_axes_do_not_matter(no_run: None, make_model: Any, x: str, y: str):
    model = make_model()
    name = model.graph.input[0].name
    assert asked(renamed(model, **{name: x, "y": y})).samples == (name,)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("make_model", [cnn, cnn_nhwc, segmenter])
def test_fixed_batches(no_run: None, make_model: Any, batch: int):
    assert asked(make_model(batch)).batched


def test_a_wrong_number_of_rows_declared_for_the_scores(no_run: None):
    """Exporters leave the batch of the example in the outputs."""
    model = cnn(final="")
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert asked(model).samples == ("x",)
    assert Explainer(model, "gradient").explain(draw(3, 3, 8, 8), target=[0, 1, 2]).target.tolist() == [0, 1, 2]


def test_tokens_and_several_inputs(no_run: None):
    assert asked(tokens(), input="embedded").samples == ("ids",)
    assert asked(two_inputs(), input="b", output="y").samples == ("a", "b")


@pytest.mark.parametrize("name", ["resnet50", "densenet121", "squeezenet", "shufflenet"])
def test_known_networks_need_no_run(no_run: None, name: str):
    model = light(name)
    next(i for i in model.graph.input if i.name == image_input(model)).type.tensor_type.shape.dim[0].dim_param = "N"
    from onnxsal.ops.registry import known
    from onnxsal.passes import prepare

    assert asked(prepare(model, known).model.proto).batched


@pytest.mark.parametrize("name", ["vit", "mobilenet"])
@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_exported_networks_need_no_run(no_run: None, name: str, exporter: str):
    """torch's newer exporter calls the same axis differently in input and output."""
    assert asked(exported(name, exporter)).batched


# ----- sequences first, as torch.nn.LSTM has them -----


def sequence(x: list[Any], y: list[Any], keepdims: int = 0, batch: bool = True) -> onnx.ModelProto:
    """[T, N, 4] -> [N, 3]: tanh, the mean over time, a classifier. Without a batch [T, 4] -> [3] (or [1, 3])."""
    weights = {"w": draw(4, 5, seed=1), "v": draw(5, 3, seed=2), "axes": np.asarray([0], np.int64)}
    nodes = [
        node("MatMul", "x w", "h"),
        node("Tanh", "h", "t"),
        node("ReduceMean", "t axes", "m", keepdims=keepdims),
        node("MatMul", "m v", "y"),
    ]
    return make(nodes, {"x": x}, {"y": y}, weights)


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (["T", "N", 4], ["N", 3]),
        (["T", None, 4], ["N", 3]),
        ([None, None, 4], [None, 3]),
        ([7, 2, 4], [2, 3]),
        ([2, 2, 4], [2, 3]),
        (["N", 2, 4], [2, 3]),
        ([7, "N", 4], ["N", 3]),
    ],
)
def test_samples_on_another_axis_are_refused(x: list[Any], y: list[Any]):
    model = sequence(x, y)
    with pytest.raises(TargetError, match=r"'x' \[.*4\].*'y' \[.*3\].*batched=False.*--one-sample"):
        Explainer(model, "gradient")
    with pytest.raises(TargetError):
        Explainer(model, "gradient", batched=True)


def test_one_sequence_at_a_time():
    """40 steps are not cut up, and the map is the derivative."""
    x = draw(40, 1, 4)
    model = sequence(["T", "N", 4], ["N", 3])
    found = Explainer(model, "gradient", batched=False).explain(x, target=(0, 2))
    assert len(found) == 1
    assert found.outputs["y"].shape == (1, 3)
    h = np.tanh(x @ draw(4, 5, seed=1))
    by_hand = ((1 - h**2) * draw(5, 3, seed=2)[:, 2]) @ draw(4, 5, seed=1).T / 40
    np.testing.assert_allclose(found.attribution, by_hand, rtol=1e-4, atol=1e-7)
    again = Explainer(onnxsal.convert(model, "gradient", batched=False)).explain(x, target=(0, 2))
    np.testing.assert_array_equal(again.attribution, found.attribution)


@pytest.mark.parametrize(
    ("x", "y", "shape", "keepdims"),
    [
        (["T", 1, 4], [1, 3], (40, 1, 4), 0),
        (["T", 4], [3], (40, 4), 0),
        (["T", 4], [1, 3], (40, 4), 1),
        ([40, 1, 4], [1, 3], (40, 1, 4), 0),
    ],
)
def test_one_row_of_scores_is_one_sample(x: list[Any], y: list[Any], shape: tuple[int, ...], keepdims: int):
    found = Explainer(sequence(x, y, keepdims), "fullgrad").explain(draw(*shape), target=1)
    assert len(found) == len(found.residual) == 1
    assert found.attribution.shape == shape
    np.testing.assert_allclose(found.outputs["y"], run(sequence(x, y, keepdims), {"x": draw(*shape)})["y"], rtol=1e-5)
    assert found.warnings == []
    assert found[0].attribution.shape == shape


def test_an_lstm_as_torch_exports_it():
    torch = pytest.importorskip("torch")

    class Last(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.linear = torch.nn.LSTM(4, 6), torch.nn.Linear(6, 3)

        def forward(self, x: Any) -> Any:
            return self.linear(self.lstm(x)[0][-1])

    import io

    torch.manual_seed(0)
    last, buffer = Last().eval(), io.BytesIO()
    axes = {"x": {0: "T", 1: "N"}, "y": {0: "N"}}
    names: Any = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": axes, "dynamo": False, "opset_version": 17}
    torch.onnx.export(last, torch.zeros(40, 1, 4), buffer, **names)
    with pytest.raises(TargetError, match="one sample"):
        Explainer(buffer.getvalue(), "gradient")
    found = Explainer(buffer.getvalue(), "gradient", batched=False).explain(draw(40, 1, 4), target=(0, 1))
    x = torch.tensor(draw(40, 1, 4), requires_grad=True)
    last(x)[0, 1].backward()
    np.testing.assert_allclose(found.attribution, x.grad.numpy(), rtol=1e-3, atol=1e-6)


def test_a_picture_read_as_a_sequence():
    """CTC: [N, 1, 8, 26] -> [26, N, 5]."""
    nodes = [
        node("Squeeze", "x one", "s"),
        node("Transpose", "s", "t", perm=[2, 0, 1]),
        node("Tanh", "t", "u"),
        node("MatMul", "u w", "y"),
    ]
    weights = {"one": np.asarray([1], np.int64), "w": draw(8, 5)}
    model = make(nodes, {"x": ["N", 1, 8, 26]}, {"y": [26, "N", 5]}, weights)
    found = Explainer(model, "gradient").explain(draw(2, 1, 8, 26), target=(4, 2))
    assert found.attribution.shape == (2, 1, 8, 26)
    assert np.flatnonzero(np.abs(found.attribution).sum((0, 1, 2))).tolist() == [4]
    fixed = make(nodes, {"x": [1, 1, 8, 26]}, {"y": [26, 1, 5]}, weights)
    with pytest.raises(TargetError, match="axis 3 of the input"):
        onnxsal.convert(fixed)
    found = Explainer(fixed, "gradient", batched=False).explain(draw(1, 1, 8, 26), target=(4, 0, 2))
    assert np.flatnonzero(np.abs(found.attribution).sum((0, 1, 2))).tolist() == [4]


# ----- no batch axis -----


def test_channels_as_many_as_classes():
    """float[3, 8, 8] -> float[3]: one picture, not three."""
    weights = {"flat": np.asarray([1, 192], np.int64), "w": draw(192, 3, seed=1), "zero": np.asarray([0], np.int64)}
    nodes = [node("Reshape", "x flat", "f"), node("Tanh", "f", "t"), node("MatMul", "t w", "l"), node("Squeeze", "l zero", "y")]
    model = make(nodes, {"x": [3, 8, 8]}, {"y": [3]}, weights)
    x = draw(3, 8, 8, seed=2)
    found = Explainer(model, "gradient").explain(x)
    assert found.target.tolist() == [int(found.outputs["y"].argmax())]
    by_hand = (1 - np.tanh(x) ** 2) * draw(192, 3, seed=1)[:, found.target[0]].reshape(3, 8, 8)
    np.testing.assert_allclose(found.attribution, by_hand, rtol=1e-4, atol=1e-7)
    assert not asked(unbatched()).batched


def test_a_fixed_batch_with_one_score_each(no_run: None):
    """float[4, 5] -> float[4] by rows: here axis 0 does count samples."""
    nodes = [node("Mul", "x x", "s"), node("ReduceSum", "s one", "y", keepdims=0)]
    assert asked(make(nodes, {"x": [4, 5]}, {"y": [4]}, {"one": np.asarray([1], np.int64)})).samples == ("x",)


@pytest.mark.parametrize("size", ["N", 4])
def test_rows_that_depend_on_each_other_are_refused(size: Any):
    nodes = [node("Softmax", "x", "s", axis=0), node("MatMul", "s w", "y")]
    with pytest.raises(TargetError, match="when another row of the input does"):
        onnxsal.convert(make(nodes, {"x": [size, 5]}, {"y": [size, 3]}, {"w": draw(5, 3)}))


def test_what_the_graph_does_not_prove_is_seen_in_a_run(monkeypatch: pytest.MonkeyPatch):
    """The samples go through an axis of their own and come back."""
    seen = []
    watch = batch_axis.watch_rows
    monkeypatch.setattr(batch_axis, "watch_rows", lambda *a: seen.append(a) or watch(*a))
    weights = {
        "to": np.asarray([-1, 4], np.int64),
        "back": np.asarray([-1, 2, 3], np.int64),
        "w": draw(4, 3),
        "one": np.asarray([1], np.int64),
    }
    nodes = [
        node("Reshape", "x to", "f"),
        node("MatMul", "f w", "l"),
        node("Reshape", "l back", "r"),
        node("ReduceSum", "r one", "y", keepdims=0),
    ]
    model = make(nodes, {"x": ["batch", 2, 4]}, {"y": ["s0", 3]}, weights)
    assert asked(model).samples == ("x",)
    assert len(seen) == 1


# ----- several symbolic axes -----


def gallery(rows: str = "K") -> onnx.ModelProto:
    """x [N, 5] against c [K, 5]."""
    return make([node("Transpose", "c", "d", perm=[1, 0]), node("MatMul", "x d", "y")], {"x": ["N", 5], "c": [rows, 5]}, {"y": ["N", rows]})


@pytest.mark.parametrize(("count", "rows"), [(2, 3), (20, 20), (20, 3)])
def test_another_symbolic_axis_is_no_batch(count: int, rows: int):
    x, c = draw(count, 5), draw(rows, 5, seed=1)
    assert asked(gallery(), input="x").samples == ("x",)
    found = Explainer(gallery(), "gradient", input="x").explain({"x": x, "c": c}, target=np.asarray([1] * count))
    np.testing.assert_allclose(found.attribution, np.tile(c[1], (count, 1)), rtol=1e-6)
    assert found.outputs["y"].shape == (count, rows)


def test_a_second_input_under_another_name_that_holds_rows_all_the_same():
    model = make([node("Mul", "x m", "h"), node("MatMul", "h w", "y")], {"x": ["N", 4], "m": ["M", 4]}, {"y": ["N", 3]}, {"w": draw(4, 3)})
    assert asked(model, input="x").samples == ("x", "m")


def test_a_column_an_input_and_none_says_how_many_rows_it_has(monkeypatch: pytest.MonkeyPatch):
    """Thirty columns beside a memory that all rows read: one search for numbers that the model takes, then a run for each."""
    columns = [f"c{i}" for i in range(30)]
    nodes = [node("Concat", " ".join(columns), "x", axis=1), node("MatMul", "x w", "h"), node("Gemm", "h m", "y", transB=1)]
    model = make(nodes, {name: [None, 1] for name in columns} | {"m": [None, 4]}, {"y": [None, None]}, {"w": draw(30, 4)})
    searched: list[int] = []
    monkeypatch.setattr(rows, "accepted", lambda *given: (searched.append(1), accepted(*given))[1])
    assert asked(model, input="x").samples == tuple(columns)
    assert len(searched) <= 2


def test_an_output_without_rows_in_several_runs():
    """Another output, [2, N]: it is left out where the samples are run in parts."""
    nodes = [node("MatMul", "x w", "y"), node("Transpose", "y", "turned", perm=[1, 0])]
    model = make(nodes, {"x": ["N", 4]}, {"y": ["N", 3], "turned": [3, "N"]}, {"w": draw(4, 3)})
    explainer = Explainer(model, "gradient", output="y", batch_size=4)
    assert set(explainer.explain(draw(4, 4)).outputs) == {"y", "turned"}
    assert set(explainer.explain(draw(9, 4)).outputs) == {"y"}
    assert explainer.explain(draw(2, 4))[1].outputs["turned"].shape == (3, 2)


# ----- baselines and targets that hold rows -----


@pytest.mark.parametrize("baked", [True, False])
def test_a_baseline_of_the_wrong_length(baked: bool):
    x, baseline = draw(4, 3, 8, 8), draw(2, 3, 8, 8, seed=1)
    explainer = Explainer(cnn(), "ig", n_steps=3, batch_size=2, **({"baseline": baseline} if baked else {}))
    with pytest.raises(InputError, match="'baseline' has 2 rows for 4 sample"):
        explainer.explain(x, **({} if baked else {"baseline": baseline}))


def test_a_baseline_for_each_sample_in_parts():
    x, baseline = draw(4, 3, 8, 8), draw(4, 3, 8, 8, seed=1)
    whole = Explainer(cnn(), "ig", n_steps=3, batch_size=4).explain(x, target=1, baseline=baseline)
    for explainer in (Explainer(cnn(), "ig", n_steps=3, batch_size=2, baseline=baseline, target=[1, 1, 1, 1]),):
        found = explainer.explain(x)
        np.testing.assert_allclose(found.attribution, whole.attribution, rtol=1e-4, atol=1e-6)
        assert found.target.tolist() == [1] * 4


# ----- channels last -----


def spectral(first: bool = True) -> onnx.ModelProto:
    """Pictures of six channels, channels last."""
    nodes = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Conv", "t w", "c"), node("GlobalAveragePool", "c", "g")]
    if not first:
        nodes = [node("MatMul", "x m", "c"), node("Relu", "c", "r"), node("ReduceMean", "r places", "g")]
    weights = {"w": draw(4, 6, 3, 3)} if first else {"m": draw(6, 4), "places": np.asarray([1, 2], np.int64)}
    return make([*nodes, node("Flatten", "g", "y")], {"x": ["N", 16, 16, 6]}, {"y": ["N", 4]}, weights)


def test_channels_last_are_seen_at_the_first_convolution():
    x = draw(2, 16, 16, 6)
    found = Explainer(spectral(), "gradient").explain(x, target=1)
    assert found.saliency_map.shape == (2, 16, 16)
    np.testing.assert_allclose(found.saliency_map, np.abs(found.attribution).sum(3), rtol=1e-5)
    assert asked(cnn()).picture == (1, 2, 3)
    assert asked(cnn_nhwc()).picture == (3, 1, 2)


def test_the_layout_can_be_said():
    x = draw(2, 16, 16, 6)
    explainer = Explainer(spectral(first=False), "gradient", layout="NHWC")
    assert explainer.explain(x, target=1).saliency_map.shape == (2, 16, 16)
    again = Explainer(onnxsal.convert(spectral(first=False), "gradient", layout="NHWC"))
    assert again.conversion.question.picture == (3, 1, 2)
    with pytest.raises(TargetError, match=r"layout='NHCW' is unknown.*NHWC"):
        asked(spectral(), layout="NHCW")
    with pytest.raises(TargetError, match="pictures of 4 dimensions"):
        asked(gallery(), input="x", layout="NCHW")


# ----- rows through operators -----


def test_rows_through_a_recurrent_network(no_run: None):
    """Batch first outside, time first inside."""
    weights = {
        "w": draw(1, 24, 4),
        "r": draw(1, 24, 6),
        "v": draw(6, 3),
        "one": np.asarray([1], np.int64),
        "zero": np.asarray([0], np.int64),
    }
    nodes = [
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("LSTM", "t w r", "all last", hidden_size=6),
        node("Squeeze", "last zero", "s"),
        node("MatMul", "s v", "y"),
    ]
    model = make(nodes, {"x": ["N", 7, 4]}, {"y": ["N", 3]}, weights)
    found = row_axes(Model(model), ["x"])
    assert (found["t"], found["all"], found["last"], found["y"]) == (1, 2, 1, 0)
    assert asked(model).samples == ("x",)


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Softmax", "x", "y", axis=0)],
        [node("ReduceSum", "x zero", "y", keepdims=1)],
        [node("CumSum", "x axis", "y")],
        [node("Concat", "x x", "y", axis=0)],
        [node("Transpose", "x", "y", perm=[1, 0])],
        [node("Transpose", "x", "t", perm=[1, 0]), node("MatMul", "x t", "y")],
        [node("Transpose", "x", "t", perm=[1, 0]), node("Add", "x t", "y")],
        [node("Slice", "x zero one zero", "y")],
        [node("Gather", "x zero", "y", axis=0)],
        [node("Pad", "x pads", "y")],
        [node("Reshape", "x other", "y")],
        [node("LpNormalization", "x", "y", axis=0)],
    ],
    ids=lambda nodes: nodes[-1].op_type,
)
def test_what_mixes_rows_is_not_taken_for_proof(nodes: list[onnx.NodeProto]):
    weights = {"zero": [0], "one": [1], "axis": 0, "pads": [1, 0, 0, 0], "other": [2, 8]}
    model = make(nodes, {"x": [4, 4]}, {"y": None}, {k: np.asarray(v, np.int64) for k, v in weights.items()})
    assert row_axes(Model(model), ["x"])["y"] != 0


# ----- fixed sizes with as many steps as samples -----


def over_time(lookahead: int, steps: Any, width: int = 4) -> onnx.ModelProto:
    """[T, 4] -> [T, 3] where step t sees step t + lookahead too (the last ones see the first): an axis of time that looks like samples."""
    weights = {"w": draw(width, 3), "zero": np.asarray([0]), "far": np.asarray([2**31 - 1]), "k": np.asarray([lookahead])}
    nodes = [
        node("Slice", "x k far zero", "later"),
        node("Slice", "x zero k zero", "first"),
        node("Concat", "later first", "rolled", axis=0),
        node("Add", "x rolled", "both"),
        node("Tanh", "both", "t"),
        node("MatMul", "t w", "y"),
    ]
    return make(nodes, {"x": [steps, width]}, {"y": [steps, 3]}, weights)


@pytest.mark.parametrize("steps", [2, 3, 5, "T"])
@pytest.mark.parametrize("lookahead", [1, -1])
def test_steps_that_see_later_or_earlier_ones_are_no_samples(steps: Any, lookahead: int):
    """Changing the first row alone would show nothing of a model that looks back only."""
    with pytest.raises(TargetError, match="one sample"):
        Explainer(over_time(lookahead, steps), "fullgrad")


@pytest.mark.parametrize("weak", [1e-1, 1e-4])
def test_a_weak_link_between_rows_is_seen(weak: float):
    """Every row sees a ten-thousandth of the mean over all rows."""
    nodes = [
        node("ReduceMean", "x axes", "m", keepdims=1),
        node("Mul", "m weak", "s"),
        node("Add", "x s", "a"),
        node("Tanh", "a", "t"),
        node("MatMul", "t w", "y"),
    ]
    weights = {"axes": np.asarray([0]), "weak": np.float32(weak), "w": draw(4, 3)}
    with pytest.raises(TargetError, match="one sample"):
        Explainer(make(nodes, {"x": [4, 4]}, {"y": [4, 3]}, weights), "gradient")


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("every_step", [True, False])
def test_recurrent_layers_with_as_many_steps_as_samples(direction: str, every_step: bool):
    """torch's order [T, N, F] with T = N = 3: [T, N, H] out, or the last state [N, H]. Time is refused as samples, either way."""
    d = 2 if direction == "bidirectional" else 1
    weights = {"W": draw(d, 16, 4), "R": draw(d, 16, 4, seed=1), "one": np.asarray([1]), "zero": np.asarray([0])}
    nodes = [node("LSTM", "x W R", "Y h", direction=direction, hidden_size=4)]
    nodes += [node("ReduceSum", "Y one", "y", keepdims=0)] if every_step else [node("ReduceSum", "h zero", "y", keepdims=0)]
    shape = [3, 3, 4] if every_step else [3, 4]
    with pytest.raises(TargetError, match="one sample"):
        Explainer(make(nodes, {"x": [3, 3, 4]}, {"y": shape}, weights), "gradient")


def test_how_samples_are_known():
    """Proved, seen in a run, told."""
    proved, seen = asked(cnn()), asked(over_time(0, 4))
    told = asked(cnn(), batched=False)
    assert [q.found[0].ground.name for q in (proved, seen, told)] == ["PROVED", "SEEN", "TOLD"]
    assert "'x' counts samples" in str(proved.found[0])


# ----- samples that do not come first -----


@pytest.mark.parametrize("final", ["", "Softmax"])
def test_scores_with_the_steps_first_are_explained_sample_by_sample(no_run: None, final: str):
    """[steps, samples, classes], as recognisers of sequences answer: the score of a sample is that of the file, its map its own."""
    nodes = [
        node("Transpose", "x", "steps", perm=[2, 0, 1]),
        node("MatMul", "steps w", "z"),
        node("Tanh", "z", "logits"),
        *([node(final, "logits", "y", axis=-1)] if final else [node("Identity", "logits", "y")]),
    ]
    model = make(nodes, {"x": ["N", 3, 5]}, {"y": [5, "N", 4]}, {"w": draw(3, 4, seed=1)})
    x = draw(2, 3, 5, seed=2)
    told = Explainer(model, "gradient").explain(x, np.asarray([4 * 3 + 1, 4 * 2 + 3]))
    logits = np.tanh(np.einsum("nct,ck->tnk", x, draw(3, 4, seed=1)))
    expected = np.zeros_like(x)
    for sample, (step, label) in enumerate([(3, 1), (2, 3)]):
        expected[sample, :, step] = draw(3, 4, seed=1)[:, label] * (1 - logits[step, sample, label] ** 2)
        np.testing.assert_allclose(told.score[sample], logits[step, sample, label], rtol=1e-5)
    np.testing.assert_allclose(told.attribution, expected, rtol=1e-5, atol=1e-6)
    assert Explainer(model, "gradient").explain(x, (3, 1)).attribution[0, :, 3].any()
    whole = Explainer(model, "gradient", batched=False).explain(x, np.asarray([(3 * 2 + 1) * 4 + 1]))
    assert whole.attribution[1, :, 3].any()
    assert not whole.attribution[0].any()


def test_rows_of_another_input_are_no_samples():
    """Scores [N, K] against a table [K, D] that is fed: axis 1 is axis 0 of the table, which holds no samples."""
    model = make([node("Gemm", "x table", "y", transB=1)], {"x": ["N", 3], "table": ["K", 3]}, {"y": ["N", "K"]})
    found = Explainer(model, "gradient", input="x").conversion.question
    assert (found.samples, found.start.name) == (("x",), "y")
