"""Bad input: one message that says node, wanted, known and what to do, one of our own exceptions, and nothing half written."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import onnxsal
from onnxsal import Explainer
from onnxsal.errors import (
    ExampleNeeded,
    InputError,
    MethodError,
    ModelError,
    OnnxsalError,
    OutputError,
    PlanError,
    ProviderError,
    TargetError,
)
from onnxsal.graph.load import load_model, save_model
from onnxsal.report.audit import read_limits
from tests.small_models import cnn, draw, make, node, tokens, two_inputs, unbatched

X = draw(2, 3, 8, 8)


def refusal(kind: type[OnnxsalError], call: Callable[[], object], *parts: str) -> str:
    """The message of the one error that the call must end in; every part must be in it, and no traceback or C++ source line."""
    with pytest.raises(OnnxsalError) as caught:
        call()
    text = str(caught.value)
    assert type(caught.value) is kind, text
    for part in parts:
        assert part in text, f"'{part}' is not in: {text}"
    assert "Traceback" not in text
    assert ".cc:" not in text.replace("/project/onnx/version_converter", "")
    assert text.rstrip().endswith((".", "?", "]", ")")) or "\n" in text
    return text


def convert(model: Any, **options: Any) -> onnx.ModelProto:
    return onnxsal.convert(model, "gradient", **options)


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = cnn()
    change(model)
    return model


# ----- files -----


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(cnn(), str(path))
    return path


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.9, 0.97, 0.999])
def test_a_truncated_file(whole: Path, share: float):
    data = whole.read_bytes()
    whole.write_bytes(data[: int(len(data) * share)])
    refusal(ModelError, lambda: convert(whole), str(whole), "cut short", "Export or download it again" if share else "0 nodes")
    refusal(ModelError, lambda: convert(whole.read_bytes()), "the bytes given", "cut short")


@pytest.mark.parametrize("content", [b"hello, this is not a model at all", b"<html>404</html>", b"\x89PNG\r\n\x1a\n" + bytes(99)])
def test_a_file_of_another_kind(whole: Path, content: bytes):
    whole.write_bytes(content)
    refusal(ModelError, lambda: convert(whole), "is not an ONNX model")


def test_a_file_that_is_not_there(tmp_path: Path):
    for call in (convert, onnxsal.plan, onnxsal.check, onnxsal.vjp, Explainer):
        refusal(
            ModelError, lambda call=call: call(tmp_path / "nowhere.onnx"), "nowhere.onnx", "No such file", "Give the path of an .onnx file"
        )
    refusal(ModelError, lambda: convert(tmp_path), "Is a directory")


def test_external_data_that_is_missing_or_cut_short(tmp_path: Path):
    path, data = tmp_path / "model.onnx", tmp_path / "weights.bin"
    onnx.save(load_model(cnn()), str(path), save_as_external_data=True, location="weights.bin", size_threshold=10)
    assert convert(path).graph.output
    data.write_bytes(data.read_bytes()[:200])
    refusal(ModelError, lambda: convert(path), "model.onnx", "weights in another file", "Put that file beside the model")
    data.unlink()
    refusal(ModelError, lambda: convert(path), "model.onnx", "weights.bin", "Put that file beside the model")


def test_weights_elsewhere_cannot_be_guessed(tmp_path: Path):
    """Bytes and messages do not say where their data file lies; a model made of them could not be opened."""
    path = tmp_path / "model.onnx"
    onnx.save(load_model(cnn()), str(path), save_as_external_data=True, location="weights.bin", size_threshold=10)
    unread = onnx.load(str(path), load_external_data=False)
    for source in (path.read_bytes(), unread):
        refusal(ModelError, lambda source=source: convert(source), "6 of its weights in another file ('w1'", "Give its path")


def test_damaged_files_never_end_in_another_exception():
    """Random bytes changed or cut off, 200 times: an explanation of what is left, or one of our messages."""
    data = cnn().SerializeToString()
    rng = random.Random(1)
    refused = 0
    for _ in range(200):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 4, 30))):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        try:
            convert(bytes(broken))
        except OnnxsalError:
            refused += 1
    assert refused > 50


# ----- models -----


def custom(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type, model.graph.node[1].domain = "Mystery", "com.example"
    model.opset_import.append(helper.make_opsetid("com.example", 3))


def test_an_unknown_custom_operator():
    text = refusal(PlanError, lambda: convert(changed(custom)), "node 'r1' (com.example.Mystery, opset 3)", "no gradient is known")
    assert "onnxsal ops" in text
    assert "--rules" in text


def test_an_operator_that_is_misspelt():
    def misspell(model: onnx.ModelProto) -> None:
        model.graph.node[1].op_type = "Reul"

    refusal(PlanError, lambda: convert(changed(misspell)), "node 'r1' (Reul, opset 18)", "did you mean 'Relu'")


def test_an_operator_of_a_domain_that_is_not_imported():
    def move(model: onnx.ModelProto) -> None:
        model.graph.node[1].domain = "com.example"

    refusal(ModelError, lambda: convert(changed(move)), "r1", "No opset import for domain com.example", "checker")


def test_a_custom_operator_off_the_path_does_no_harm():
    nodes = [node("Mystery", "x", "z", domain="com.example"), node("Relu", "x", "y")]
    model = make(nodes, {"x": ["N", 3]}, {"y": ["N", 3], "z": None}, domains={"com.example": 1})
    assert convert(model, output="y").graph.output[2].name == "attribution"


def test_integer_only_input():
    kinds = {"a": TensorProto.INT64, "b": TensorProto.INT64}
    nodes = [node("Cast", "a", "f", to=1), node("Cast", "b", "g", to=1), node("Add", "f g", "y"), node("Neg", "a", "less")]
    two = make(nodes, {"a": ["N", 3], "b": ["N", 3]}, {"y": ["N", 3]}, types=kinds)
    refusal(TargetError, lambda: convert(two), "a (int64), b (int64)", "an inner tensor, instead", "'f'", "'g'")
    refusal(TargetError, lambda: convert(two, input="less"), "tensor 'less' is int64", "'f'")
    assert convert(two, input="b").graph.output[1].name == "attribution"


def test_integer_only_output():
    steps = [node("Floor", "x", "f"), node("Cast", "f", "y", to=TensorProto.INT64)]
    model = make(steps, {"x": ["N", 3]}, {"y": ["N", 3]}, types={"y": TensorProto.INT64})
    refusal(TargetError, lambda: convert(model), "no floating-point output", "y")
    refusal(TargetError, lambda: convert(model, output="y"), "output 'y' is int64")
    best = make([node("ArgMax", "x", "y", axis=0)], {"x": ["N", 3]}, {"y": [1, 3]}, types={"y": TensorProto.INT64})
    refusal(TargetError, lambda: convert(best), "axis 0", "counts samples")


def test_no_differentiable_path():
    model = make([node("ArgMax", "x", "a"), node("Cast", "a", "c", to=1), node("Exp", "c", "y")], {"x": ["N", 3]}, {"y": ["N", 1]})
    refusal(
        PlanError, lambda: convert(model), "no differentiable path from ['x'] to ['y']", "node 'a' (ArgMax, opset 18)", "indices", "--input"
    )
    apart = make([node("Relu", "x", "z"), node("Relu", "c", "y")], {"x": ["N", 3]}, {"y": ["N", 3], "z": ["N", 3]}, {"c": draw(2, 3)})
    refusal(PlanError, lambda: convert(apart, output="y"), "no differentiable path", "no node connects them")
    assert convert(apart).graph.output[2].name == "attribution"


def test_a_name_that_the_model_does_not_have():
    refusal(TargetError, lambda: convert(two_inputs(), input="aa"), "no tensor 'aa'", "its inputs: a, b")
    refusal(TargetError, lambda: convert(two_inputs()), "2 floating-point inputs (a, b)", "--input")
    refusal(TargetError, lambda: convert(two_inputs(), input="a", output="sied"), "no output 'sied'", "did you mean 'side'", "y, side")
    refusal(TargetError, lambda: convert(cnn(), score="logits"), "unknown score 'logits'", "did you mean 'logit'", "probability, raw")
    refusal(TargetError, lambda: onnxsal.vjp(cnn(), wrt="logit"), "no tensor 'logit'", "did you mean 'logits'")
    refusal(TargetError, lambda: onnxsal.vjp(tokens(), wrt=["ids"]), "'ids' is INT64")


def test_a_value_of_the_wrong_kind():
    for size in (0, -1, 1.5, True):
        refusal(InputError, lambda size=size: Explainer(cnn(), "gradient", batch_size=size), f"batch_size={size}", "1 or more")
    for call in (convert, onnxsal.vjp, onnxsal.plan, Explainer):
        refusal(ModelError, lambda call=call: call(5), "a path, bytes or an onnx.ModelProto, not int")
    for option in ("input", "output"):
        refusal(TargetError, lambda option=option: convert(cnn(), **{option: ["y"]}), f"{option}=['y'] is no name")
    for pixel in ("foo", np.nan, [[1], [1, 2]]):
        refusal(MethodError, lambda pixel=pixel: onnxsal.convert(cnn(), "ig", baseline="black", black=pixel), "is no pixel")


def test_vjp_of_nothing_twice_or_a_converted_model():
    refusal(TargetError, lambda: onnxsal.vjp(cnn(), wrt=[]), "no input was named", "x")
    refusal(TargetError, lambda: onnxsal.vjp(cnn(), outputs=[]), "no output was named", "y")
    refusal(ModelError, lambda: onnxsal.vjp(convert(cnn())), "already converted", "'gradient'")
    assert [o.name for o in onnxsal.vjp(cnn(), wrt=["x", "w1", "x"], outputs=["y", "y"]).graph.output] == ["y", "vjp/x", "vjp/w1"]


@pytest.mark.parametrize("opset", [17, 18])
def test_an_operator_that_nobody_knows_is_told_whatever_the_opset(opset: int):
    """An older opset is raised and compared, for which the model cannot be run; that is not what is wrong with it."""
    model = make(
        [node("Foo", "x", "h", domain="my.ops"), node("Tanh", "h", "y")],
        {"x": ["N", 4]},
        {"y": ["N", 4]},
        opset=opset,
        domains={"my.ops": 1},
    )
    for call in (onnxsal.convert, onnxsal.vjp, lambda m: onnxsal.convert(m, "lrp_epsilon")):
        assert "opset 18 or higher" not in refusal(PlanError, lambda call=call: call(model), "node 'h' (my.ops.Foo, opset 1)")


def test_suggestions_end_like_sentences():
    """A near miss stands in brackets, so that whatever follows reads on; a word that is far from all is not guessed at."""
    text = refusal(MethodError, lambda: onnxsal.convert(cnn(), "gradiant"), "'gradiant' (did you mean 'gradient'?); known: ")
    assert "?;" not in text.replace("?);", "")
    assert "did you mean" not in refusal(MethodError, lambda: onnxsal.convert(cnn(), "nonsense"))
    refusal(InputError, lambda: read_limits("deletoin>1", [], False), "is measured (did you mean 'deletion'?). Known: ")


def test_an_unknown_method():
    for call in (onnxsal.convert, onnxsal.plan, Explainer):
        refusal(
            MethodError,
            lambda call=call: call(cnn(), "gradeint"),
            "unknown method 'gradeint'",
            "did you mean 'gradient'",
            "integrated_gradients",
        )
    refusal(MethodError, lambda: onnxsal.convert(cnn(), "nowhere.toml"), "nowhere.toml", "No such file")


def test_a_rule_file_that_is_no_text(tmp_path: Path):
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    refusal(MethodError, lambda: onnxsal.convert(cnn(), tmp_path / "mine.toml"), "mine.toml", "cannot be read")


def test_an_input_without_a_type():
    refusal(TargetError, lambda: convert(changed(lambda model: model.graph.input[0].ClearField("type"))), "undefined")


def test_an_input_without_a_shape():
    """A convolution proves how many axes there are; where nothing does, data of its kind are asked for."""
    model = changed(lambda model: model.graph.input[0].type.tensor_type.ClearField("shape"))
    x = draw(2, 3, 8, 8)
    assert np.array_equal(Explainer(model, "gradient").explain(x, 1).attribution, Explainer(cnn(), "gradient").explain(x, 1).attribution)
    bare = make([node("Tanh", "x", "y")], {"x": ["N", 3]}, {"y": None})
    bare.graph.input[0].type.tensor_type.ClearField("shape")
    refusal(ExampleNeeded, lambda: convert(bare), "number of axes", "example=", "--example")


def broken_models() -> dict[str, Callable[[onnx.ModelProto], object]]:
    return {
        "no nodes connect": lambda m: m.graph.node[1].input.__setitem__(0, "ghost"),
        "an output nobody makes": lambda m: setattr(m.graph.output[0], "name", "ghost"),
        "a weight is missing": lambda m: m.graph.initializer.pop(0),
        "an attribute is missing": lambda m: m.graph.node[2].attribute.pop(0),
        "no input": lambda m: m.graph.input.pop(),
        "no output": lambda m: m.graph.output.pop(),
        "no opset": lambda m: m.opset_import.pop(),
        "another opset": lambda m: setattr(m.opset_import[0], "domain", "ai.onnx.ml"),
        "opset 1": lambda m: setattr(m.opset_import[0], "version", 1),
        "opset 99": lambda m: setattr(m.opset_import[0], "version", 99),
        "a sequence": lambda m: m.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", 1, ["N"])),
    }


@pytest.mark.parametrize("fault", broken_models())
def test_a_model_that_is_no_model(fault: str):
    model = changed(broken_models()[fault])
    for call in (convert, onnxsal.vjp):
        with pytest.raises(OnnxsalError):
            call(model)


@pytest.mark.parametrize("fault", ["no opset", "another opset", "opset 99", "a weight is missing"])
def test_check_reports_instead_of_raising(fault: str):
    report = onnxsal.check(changed(broken_models()[fault]))
    assert not report.ok
    assert report.problem
    assert "cannot be explained" in str(report)
    assert not onnxsal.check(changed(custom)).ok
    assert onnxsal.check(cnn()).ok


# ----- targets -----


@pytest.mark.parametrize("target", [5, 99, -2, [0, 5], [-2], np.asarray([7])], ids=str)
def test_a_class_out_of_range(target: Any):
    refusal(TargetError, lambda: convert(cnn(), target=target), "out of range", "5 classes, 0 to 4", "-1 = predicted")
    explainer = Explainer(cnn(), "gradient")
    refusal(TargetError, lambda: explainer.explain(X, target=target), "out of range")


@pytest.mark.parametrize(
    "target", ["cat", 1.5, float("nan"), [], [[1, 2]], [[1], [1, 2]], True, [None, 1], {"a": 1}, np.asarray(["x"])], ids=str
)
def test_a_target_that_is_no_class(target: Any):
    refusal(TargetError, lambda: convert(cnn(), target=target), "is not a class", "a whole number, one per sample, or a tuple")


def test_a_tuple_that_does_not_fit():
    refusal(TargetError, lambda: convert(cnn(), target=(1, 2)), "(1, 2)", "'logits'", "[5]")
    refusal(TargetError, lambda: convert(cnn(), target=(5,)), "(5,)", "[5]")
    refusal(TargetError, lambda: convert(unbatched(), target=[0, 1]), "is not a class")


def test_labels():
    explainer = Explainer(cnn(), "gradient", labels=["cat", "dog", "tiger", "cow", "hen"])
    assert explainer.explain(X, target="Dog").target.tolist() == [1, 1]
    refusal(TargetError, lambda: explainer.explain(X, target="tigre"), "tigre")
    refusal(TargetError, lambda: Explainer(cnn(), "gradient").explain(X, target="dog"), "no labels were given", "labels=")


# ----- pictures and arrays -----


def test_nan_and_infinity_in_the_picture():
    explainer = Explainer(cnn(), "gradient")
    for value in (np.nan, np.inf, -np.inf):
        bad = X.copy()
        bad[1, 2, 3, 4] = value
        refusal(InputError, lambda bad=bad: explainer.explain(bad), "input 'x' has 1 value(s)", "NaN or infinite")


@pytest.mark.parametrize("bad", [X[0], X[:, :2], X[:, :, :7], X[:0], np.float32(1), draw(2, 3, 8, 8, 1)], ids=lambda b: str(np.shape(b)))
def test_a_wrong_shape(bad: np.ndarray):
    refusal(InputError, lambda: Explainer(cnn(), "gradient").explain(bad), "input 'x'", str(list(np.shape(bad))))


@pytest.mark.parametrize("kind", ["float64", "uint8", "int64"])
def test_a_wrong_type(kind: str):
    explainer = Explainer(cnn(), "gradient")
    refusal(InputError, lambda: explainer.explain(X.astype(kind)), "input 'x' takes float32", kind, ".astype('float32')")


def test_inputs_by_name():
    explainer = Explainer(two_inputs(), "gradient", input="a", output="y")
    a, b = draw(2, 4), draw(2, 3)
    refusal(InputError, lambda: explainer.explain(a), "2 inputs", "a float32[N,4]", "b float32[N,3]", "a dict")
    refusal(InputError, lambda: explainer.explain({"a": a}), "missing", "b float32[N,3]")
    refusal(InputError, lambda: explainer.explain({}), "missing", "a float32[N,4]")
    refusal(InputError, lambda: explainer.explain({"a": a, "b": b, "c": b}), "no input 'c'")
    refusal(InputError, lambda: explainer.explain({"a": a, "b": draw(3, 3)}), "different numbers of samples (a 2, b 3)")
    refusal(InputError, lambda: explainer.explain({"a": a, "b": b}, baseline=a), "no input 'baseline'")


def test_as_many_targets_as_samples():
    refusal(TargetError, lambda: Explainer(cnn(), "gradient").explain(X, target=[1, 2, 3]), "3 targets were given for 2 sample(s)")


def test_a_model_that_overflows():
    """exp of a large number: the map would hold NaN, and says so instead."""
    model = make([node("Exp", "x", "e"), node("Mul", "e e", "y")], {"x": ["N", 3]}, {"y": ["N", 3]})
    refusal(
        InputError,
        lambda: Explainer(model, "gradient").explain(np.full((1, 3), 80, np.float32)),
        "NaN or infinite",
        "node 'y' (Mul",
        "gives infinity",
    )


def test_a_provider_that_is_not_there():
    refusal(ProviderError, lambda: Explainer(cnn(), "gradient", providers="cudaa"), "cudaa", "did you mean 'cuda'")


# ----- results -----


def left(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_an_output_path_that_cannot_be_written(tmp_path: Path):
    converted = convert(cnn())
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    before = left(tmp_path)
    for path in ("file/out.onnx", "missing/out.onnx", "folder"):
        refusal(
            OutputError,
            lambda path=path: save_model(converted, tmp_path / path),
            path.split("/")[-1],
            "cannot be written",
            "Nothing was left behind",
        )
        assert left(tmp_path) == before


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(tmp_path: Path):
    tmp_path.chmod(0o500)
    refusal(OutputError, lambda: save_model(convert(cnn()), tmp_path / "out.onnx"), "Permission denied")


@pytest.mark.parametrize("limit", [2**31 - 1, 1000])
def test_a_full_disk_leaves_nothing_behind_and_the_old_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int):
    """Once with the weights in the file, once beside it."""
    path = tmp_path / "out.onnx"
    path.write_text("the old one")
    monkeypatch.setattr("onnxsal.large.LARGEST", limit)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    refusal(OutputError, lambda: save_model(convert(cnn()), path), "out.onnx", "No space left on device")
    assert left(tmp_path) == ["out.onnx"]
    assert path.read_text() == "the old one"


def test_a_refused_conversion_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for model, given in ((changed(custom), {}), (tokens(), {"input": "nothing"})):
        with pytest.raises(OnnxsalError):
            convert(model, **given)
    assert left(tmp_path) == []


# ----- names and conversions are in test_contract.py: clashes, prefix, already converted -----


def test_every_error_of_ours_is_one_kind():
    """So that a caller, and the command line, can tell them from faults."""
    from onnxsal import errors

    kinds = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(kinds) > 8
    assert all(issubclass(e, OnnxsalError) and e.__doc__ for e in kinds)
