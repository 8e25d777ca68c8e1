"""Sessions and providers: what is asked for is obtained or refused, and every refusal is one clear message of ours."""

from __future__ import annotations

import tempfile

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxsal.errors import InputError, ModelError, OutputError, ProviderError, TargetError
from onnxsal.large import write_in_two
from onnxsal.runtime import session as session_module
from onnxsal.runtime.feeds import random_feed
from onnxsal.runtime.files import write_whole
from onnxsal.runtime.probe import compare_models, relative_difference
from onnxsal.runtime.providers import CPU, CUDA, resolve
from onnxsal.runtime.session import open_session

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
tensor = helper.make_tensor_value_info


def model(nodes, inputs, outputs, weights=(), opset=18, ir=10, domains=()) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in dict(weights).items()])
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir)


def one_node(op="Relu", kind=FLOAT, shape=("N", 3), name="n", **options) -> onnx.ModelProto:
    return model([helper.make_node(op, ["x"], ["y"], name=name)], [tensor("x", kind, shape)], [tensor("y", kind, None)], **options)


def scaled(by: float, extra: bool = False) -> onnx.ModelProto:
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])] + ([helper.make_node("Neg", ["y"], ["z"])] if extra else [])
    outputs = [tensor("y", FLOAT, ("N", 3))] + ([tensor("z", FLOAT, ("N", 3))] if extra else [])
    return model(nodes, [tensor("x", FLOAT, ("N", 3))], outputs, {"w": np.full(3, by, np.float32)})


X = np.arange(-3, 3, dtype=np.float32).reshape(2, 3)

# ----- providers -----

EXACT = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, [(CPU, {})]),
        ("cpu", [(CPU, {})]),
        ("cuda,cpu", [(CUDA, EXACT), (CPU, {})]),
        ([CUDA, "cpu"], [(CUDA, EXACT), (CPU, {})]),
        (("cuda", {"device_id": 1}), [(CUDA, {"device_id": "1"} | EXACT)]),
        ([("CUDAExecutionProvider", {"device_id": 0}), "cpu"], [(CUDA, {"device_id": "0"} | EXACT), (CPU, {})]),
        ("TRT, gpu", [("TensorrtExecutionProvider", {}), (CUDA, EXACT)]),
        (["cpu", CPU], [(CPU, {})]),
    ],
)
def test_providers_are_named_by_word_or_official_name(given, expected):
    assert resolve(given) == expected


@pytest.mark.parametrize("given", ["cude", "", [], ["cpu", "nonsense"]])
def test_an_unknown_provider_is_an_error(given):
    with pytest.raises(ProviderError, match="cpu"):
        resolve(given)


def test_a_provider_that_this_build_lacks_is_refused_unless_a_fallback_is_listed(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CPU])
    with pytest.raises(ProviderError, match=r"not obtained.*built with CPUExecutionProvider only.*'cuda,cpu'"):
        open_session(one_node(), "cuda")
    assert open_session(one_node(), "cuda,cpu").providers == [CPU]


def providers_or_refusal(providers) -> list[str] | str:
    try:
        return open_session(one_node(), providers).providers
    except ProviderError as error:
        return str(error)


@pytest.mark.parametrize("word", ["cuda", "tensorrt"])
def test_a_gpu_is_obtained_or_refused_in_one_message_without_noise(word, capfd):
    ort.set_default_logger_severity(2)
    (name, _), *_ = resolve(word)
    alone, with_fallback = providers_or_refusal(word), providers_or_refusal([word, "cpu"])
    if isinstance(alone, str):
        assert alone.startswith(f"{name} was asked for and not obtained: ")
        assert with_fallback == [CPU]
    else:
        assert alone[0] == with_fallback[0] == name
    assert capfd.readouterr() == ("", "")


def test_a_silent_fallback_of_the_runtime_is_noticed(monkeypatch):
    """``get_available_providers`` claims CUDA; the finished session only has the CPU."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    real = ort.InferenceSession
    monkeypatch.setattr(ort, "InferenceSession", lambda source, options, **_: real(source, options, providers=[CPU]))
    with pytest.raises(ProviderError):
        open_session(one_node(), "cuda")
    assert open_session(one_node(), "cuda,cpu").providers == [CPU]


# ----- sessions -----


@pytest.mark.parametrize("form", ["proto", "bytes", "path"])
@pytest.mark.parametrize("optimise", [True, False])
def test_a_model_opens_in_every_form(form, optimise, tmp_path):
    proto = one_node()
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    source = {"proto": proto, "bytes": proto.SerializeToString(), "path": tmp_path / "m.onnx"}[form]
    opened = open_session(source, optimise=optimise, threads=1)
    assert [str(t) for t in opened.inputs] == ["x float32[N,3]"]
    assert opened.providers == [CPU]
    np.testing.assert_array_equal(opened.run({"x": X})["y"], np.maximum(X, 0))
    np.testing.assert_array_equal(opened.run({"x": X.tolist()}, ["y"])["y"], np.maximum(X, 0))


def test_an_input_with_a_default_is_optional():
    proto = scaled(2.0)
    proto.graph.input.append(tensor("w", FLOAT, (3,)))
    opened = open_session(proto)
    assert [t.name for t in opened.inputs] == ["x"]
    assert [t.name for t in opened.optional] == ["w"]
    np.testing.assert_array_equal(opened.run({"x": X})["y"], 2 * X)
    np.testing.assert_array_equal(opened.run({"x": X, "w": np.full(3, 5, np.float32)})["y"], 5 * X)


def external() -> onnx.ModelProto:
    proto = scaled(1.0)
    weight = proto.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="gone.bin")
    return proto


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"not a model" * 9, "not an ONNX model, or is cut short"),
        (b"", "not an ONNX model, or is cut short"),
        (one_node().SerializeToString()[:-20], "not an ONNX model, or is cut short"),
        ("nowhere/model.onnx", "'nowhere/model.onnx' cannot be read: it is not there"),
        (tempfile.gettempdir(), "it is a folder"),
        (one_node(ir=99), "IR version is 99 and this onnxruntime reads up to"),
        (one_node(opset=999), "it uses opset 999 of ai.onnx and this onnxruntime knows up to"),
        (one_node("Foo"), "No Op registered for Foo.*Custom operators cannot be run"),
        (
            model([helper.make_node("Foo", ["x"], ["y"], domain="acme")], [tensor("x", 1, (1,))], [tensor("y", 1, (1,))], domains=["acme"]),
            "acme:Foo.*Custom",
        ),
        (one_node("Celu", TensorProto.DOUBLE), "Celu.*check_model"),
        (
            model([helper.make_node("Conv", ["x", "x"], ["y"], name="c")], [tensor("x", 11, (1, 3, 3, 3))], [tensor("y", 11, None)]),
            "Conv.*'c'.*float32",
        ),
        (external(), "gone.bin.*weights are in another file"),
    ],
)
def test_a_model_that_cannot_be_opened(source, message, capfd):
    with pytest.raises(ModelError, match=f"(?s){message}") as caught:
        open_session(source)
    assert "onnxruntime_src" not in str(caught.value)
    assert "[ONNXRuntimeError]" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("feed", "outputs", "kind", "message"),
    [
        ({}, None, InputError, r"missing: x float32\[N,3\]"),
        ({"xx": X}, None, InputError, "no input 'xx'.*did you mean 'x'"),
        ({"x": X.astype(np.float64)}, None, InputError, r"takes float32, not float64.*astype\('float32'\)"),
        ({"x": X[0]}, None, InputError, r"not an array of shape \[3\]"),
        ({"x": X[:, :2]}, None, InputError, r"not an array of shape \[2, 2\]"),
        ({"x": [["a", "b", "c"]]}, None, InputError, "does not convert"),
        ({"x": X}, ["yy"], TargetError, "no output 'yy'.*did you mean 'y'"),
    ],
)
def test_a_feed_that_does_not_fit(feed, outputs, kind, message):
    with pytest.raises(kind, match=message):
        open_session(one_node()).run(feed, outputs)


def test_failures_inside_a_run_name_the_node_and_the_inputs(capfd):
    two = [tensor("x", FLOAT, ("N",)), tensor("z", FLOAT, ("M",))]
    add = model([helper.make_node("Add", ["x", "z"], ["y"], name="sum")], two, [tensor("y", FLOAT, ("N",))])
    with pytest.raises(ModelError, match=r"Add 'sum' failed on inputs x float32\[2\], z float32\[3\]: .*broadcast.* 2 by 3"):
        open_session(add).run({"x": X[0, :2], "z": X[0]})
    ends = [tensor("x", FLOAT, (1,)), tensor("s", INT64, (1,))], [tensor("y", FLOAT, None)]
    expand = model([helper.make_node("Expand", ["x", "s"], ["y"])], *ends)
    with pytest.raises(InputError, match=r"not enough memory.*smaller batch"):
        open_session(expand).run({"x": X[0, :1], "s": np.array([1 << 46])})
    assert capfd.readouterr() == ("", "")


def test_a_type_that_numpy_lacks_is_refused_by_name():
    cast = model(
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)], [tensor("x", 1, (1,))], [tensor("y", TensorProto.BFLOAT16, (1,))]
    )
    with pytest.raises(ModelError, match=r"output 'y' is tensor.bfloat16.*Cast to float32"):
        open_session(cast).run({"x": X[0, :1]})


def test_a_model_over_two_gigabytes_goes_through_a_data_file(monkeypatch, tmp_path):
    monkeypatch.setattr(session_module, "serialised", lambda model: None)
    monkeypatch.setattr("onnxsal.large.SMALLEST", 8)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    proto = scaled(3.0)
    before = proto.SerializeToString()
    np.testing.assert_array_equal(open_session(proto).run({"x": X})["y"], 3 * X)
    assert proto.SerializeToString() == before
    assert list(tmp_path.iterdir()) == []


def test_writing_in_two_keeps_everything(monkeypatch, tmp_path):
    monkeypatch.setattr("onnxsal.large.SMALLEST", 8)
    proto = scaled(3.0)
    proto.graph.initializer.append(helper.make_tensor("unpacked", FLOAT, [4], [1.0, 2.0, 3.0, 4.0]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(7, np.int32), "small"))
    proto.metadata_props.add(key="k", value="v")
    proto.graph.doc_string = "doc"
    read = onnx.load(write_in_two(proto, tmp_path / "m.onnx"))
    for tensor_before, tensor_after in zip(proto.graph.initializer, read.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(tensor_before), numpy_helper.to_array(tensor_after))
    del read.graph.initializer[:], proto.graph.initializer[:]
    assert read == proto
    assert (tmp_path / "m.onnx.data").stat().st_size > 4096


# ----- comparing -----


def test_equal_models_do_not_differ():
    assert compare_models(scaled(2.0), scaled(2.0, extra=True)) == 0.0


def test_the_difference_is_relative_to_the_largest_value():
    assert compare_models(scaled(2.0), scaled(2.002), {"x": X}) == pytest.approx(1e-3, rel=1e-3)
    assert compare_models(scaled(2.0), scaled(2.002), [{"x": X}, {"x": -X}]) == pytest.approx(1e-3, rel=1e-3)
    with pytest.raises(ModelError, match="lost outputs: z"):
        compare_models(scaled(2.0, extra=True), scaled(2.0))


def test_an_old_model_is_compared_in_the_reference_evaluator():
    old = model([helper.make_node("Add", ["x", "x"], ["y"])], [tensor("x", FLOAT, ("N", 3))], [tensor("y", FLOAT, ("N", 3))], opset=6)
    assert compare_models(old, scaled(2.0)) == 0.0


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, 2.0], [1.0, 2.2], 0.1),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([np.nan, 4.0], [np.nan, 5.0], 0.25),
        ([np.nan, 1.0], [1.0, 1.0], np.inf),
        ([1.0, 1.0], [np.nan, 1.0], np.inf),
        ([np.inf, 1.0], [-np.inf, 1.0], np.inf),
        ([1.0, 2.0], [1.0], np.inf),
        ([], [], 0.0),
    ],
)
def test_relative_difference(a, b, expected):
    assert relative_difference(np.array(a), np.array(b)) == pytest.approx(expected)


def test_relative_difference_of_other_types():
    assert relative_difference(np.array([1, 2]), np.array([1, 2])) == 0
    assert relative_difference(np.array([1, 2], np.int32), np.array([1, 2])) == np.inf
    assert relative_difference(np.array(["a"]), np.array(["b"])) == np.inf
    assert relative_difference([np.ones(2)], [np.ones(2)]) == 0


def test_random_feeds_fit_the_model_and_repeat():
    nodes = [helper.make_node("Cast", ["ids"], ["i"], to=INT64), helper.make_node("Gather", ["table", "i"], ["y"])]
    inputs = [
        tensor("ids", TensorProto.INT32, ("N", "T")),
        tensor("image", FLOAT, ("N", 3, "H", "H")),
        tensor("mask", TensorProto.BOOL, (None, "T")),
    ]
    proto = model(nodes, [*inputs, tensor("table", FLOAT, (40, 2))], [tensor("y", FLOAT, None)], {"table": np.zeros((40, 2), np.float32)})
    feed = random_feed(proto, seed=3)
    assert {n: (a.shape, a.dtype) for n, a in feed.items()} == {
        "ids": ((2, 8), np.int32),
        "image": ((2, 3, 64, 64), np.float32),
        "mask": ((2, 8), np.bool_),
    }
    assert 2 < feed["ids"].max() < 40
    assert all(np.array_equal(a, b) for a, b in zip(feed.values(), random_feed(proto, seed=3).values(), strict=True))
    assert random_feed(proto, dims={"T": 5, "H": 7}, batch=1)["image"].shape == (1, 3, 7, 7)


def test_a_model_that_takes_one_sample_only_is_compared_with_one():
    reshape = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    proto = model(reshape, [tensor("x", FLOAT, ("N", 3))], [tensor("y", FLOAT, None)], {"shape": np.array([1, 3])})
    assert compare_models(proto, proto) == 0.0


# ----- files -----


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    target = write_whole(tmp_path / "deep" / "file.bin", b"abc")
    assert target.read_bytes() == b"abc"
    with pytest.raises(OutputError, match="cannot be written"):
        write_whole(target / "below-a-file", b"abc")
    assert [p.name for p in target.parent.iterdir()] == ["file.bin"]
