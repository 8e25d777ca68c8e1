"""``plan`` and ``check`` say what ``convert`` would do: the same options, the same refusals, the facts and how each is known."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import typer.main
from typer.testing import CliRunner

import onnxsal
from onnxsal.ask.request import Ask
from onnxsal.cli.app import app
from onnxsal.engine.method import shipped_methods
from onnxsal.errors import MethodError, ModelError, OnnxsalError
from onnxsal.facade.convert import conversion
from onnxsal.facts.axes import layout_text
from onnxsal.facts.grounds import Found, Ground
from onnxsal.graph.load import read_metadata
from onnxsal.runtime.probe import first_run, relative_difference
from tests.small_models import cnn, cnn_nhwc, draw, make, node

REAL = "models/efficientnet_lite0.onnx"


def refusal(call: Callable[[], Any]) -> str:
    """Kind and words of a refusal ('' = accepted)."""
    try:
        call()
    except OnnxsalError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def told_alike(model: onnx.ModelProto, method: str, **options: Any) -> str:
    """What ``convert`` refuses; ``plan`` and ``check`` must say the same."""
    said = refusal(lambda: onnxsal.convert(model, method, **options))
    planned = refusal(lambda: onnxsal.plan(model, method, **options))
    assert planned == said, options
    try:
        problem = onnxsal.check(model, "cpu", method, compare=False, **options).problem
    except MethodError as error:
        problem = str(error)
    assert problem == said.partition(": ")[2], options
    return said


# ----- the options of convert -----


@pytest.mark.parametrize("method", list(shipped_methods()))
def test_every_parameter_of_every_method_is_told_alike(method: str):
    """A word, a negative number and each of its choices, by name and by alias: accepted by all three, or refused in the same words."""
    model, refused = cnn(size=6, classes=3), bool(told_alike(cnn(), method))
    known = shipped_methods()[method]
    for name, parameter in known.parameters.items():
        values = ["nonsense", -7, *parameter.choices]
        for given in [{name: v} for v in values] + [{alias: "nonsense"} for alias in parameter.aliases[:1]]:
            refused += bool(told_alike(model, method, **given))
    for preset in (*known.presets, "nonsense"):
        refused += bool(told_alike(model, method, preset=preset))
    assert "has no parameter 'nonsense'" in told_alike(model, method, nonsense=1)
    assert refused


OPTIONS: dict[str, list[Any]] = {
    "input": ["x", "c1", "nonsense", "w1"],
    "output": ["y", "nonsense", "r2"],
    "target": [1, (1,), 99, "nonsense", (1, 2)],
    "target_input": ["required", "fixed", "optional", "nonsense", 3],
    "score": ["probability", "raw", "nonsense"],
    "layer": ["r1", "nonsense", "x"],
    "prefix": ["why/"],
    "black": [np.float32(-1), "nonsense"],
    "white": [np.float32(1), np.nan],
    "quantize": [4, 1],
    "components": [True],
    "batched": [True, False],
    "layout": ["NCHW", "NHWC", "nonsense"],
}


@pytest.mark.parametrize("method", ["gradient", "gradcam", "occlusion", "lrp_epsilon"])
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_convert_is_told_alike(method: str, option: str):
    for value in OPTIONS[option]:
        told_alike(cnn(), method, **{option: value})
    assert option != "target_input" or "never be explained" in told_alike(cnn(), method, target_input="required", target=1)


def test_what_a_model_lacks_is_told_alike():
    stopped = make([node("Round", "x", "h"), node("Relu", "h", "y")], {"x": ["N", 4]}, {"y": ["N", 4]})
    flat = make([node("MatMul", "x w", "y")], {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": draw(4, 3)})
    several = make([node("Relu", "x", "y"), node("Tanh", "x", "z")], {"x": ["N", 4]}, {"y": ["N", 4], "z": ["N", 4]})
    for model, part in ((stopped, "no differentiable path"), (several, "name the one to explain")):
        assert part in told_alike(model, "gradient")
    for method in ("gradcam", "guided_gradcam", "scorecam"):
        assert told_alike(flat, method)
    assert not told_alike(flat, "occlusion")
    assert "already converted" in told_alike(onnxsal.convert(cnn(), "gradient"), "gradient")


def test_a_plan_is_the_one_that_is_walked():
    """With a named layer the head begins there; of guided Grad-CAM's two walks the plan is that to the input."""
    assert onnxsal.plan(cnn(), "gradcam").wrt == ("r2",)
    assert onnxsal.plan(cnn(), "gradcam", layer="r1").wrt == ("r1",)
    assert onnxsal.plan(cnn(), "deconvnet", layer="r1").starts == ("r1",)
    assert onnxsal.plan(cnn(), "guided_gradcam").wrt == ("x",)
    assert onnxsal.plan(cnn(), "gradient", score="raw").starts == ("y",)
    for method, known in shipped_methods().items():
        made = conversion(Ask.of(cnn(), method)) if refusal(lambda method=method: onnxsal.convert(cnn(), method)) == "" else None
        assert made is None or bool(made.plans) == bool(known.rules or known.of), method


def options_of(verb: str) -> set[str]:
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts) if name.startswith("-")}


def test_the_verbs_share_their_options():
    assert options_of("convert") <= options_of("plan")
    assert options_of("convert") <= options_of("check")
    assert options_of("check") - options_of("convert") == {"--provider", "--conservation", "--plot"}


# ----- what was found, and how it is known -----


def shape_only(shape: list[int | str]) -> onnx.ModelProto:
    """A network of rank 4 without any operator on pictures: Flatten and a matrix."""
    size = int(np.prod([d for d in shape[1:] if isinstance(d, int)]))
    return make([node("Flatten", "x", "f"), node("MatMul", "f w", "y")], {"x": shape}, {"y": ["N", 3]}, {"w": draw(size, 3)})


def found(model: onnx.ModelProto, what: str, **options: Any) -> tuple[Found, ...]:
    return tuple(fact for fact in onnxsal.check(model, "cpu", "gradient", **options).found if fact.what == what)


NCHW, NHWC = layout_text((1, 2, 3)), layout_text((3, 1, 2))


def test_a_layout_is_proved_by_the_first_operator_on_pictures():
    (first,) = found(cnn(), "layout")
    assert (first.value, first.ground) == (NCHW, Ground.PROVED)
    assert "node 'c1' (Conv, opset 18) reads it" in first.why
    (last,) = found(cnn_nhwc(), "layout")
    assert (last.value, last.ground) == (NHWC, Ground.PROVED)


@pytest.mark.parametrize("perm", [(0, 2, 1, 3), (0, 3, 1, 2), (0, 3, 2, 1), (0, 1, 3, 2), (0, 2, 3, 1)])
def test_a_layout_is_proved_through_any_transpose(perm: tuple[int, ...]):
    """The axes by the definition of Transpose: axis a of what the pool reads is axis perm[a] of x; maps are in the order of x."""
    nodes = [node("Relu", "x", "r"), node("Transpose", "r", "t", perm=perm), node("GlobalAveragePool", "t", "g"), node("Flatten", "g", "y")]
    sizes = ["N", 3, 4, 5]
    (fact,) = found(make(nodes, {"x": sizes}, {"y": ["N", sizes[perm[1]]]}), "layout")
    assert (fact.value, fact.ground) == (layout_text((perm[1], *sorted(perm[2:]))), Ground.PROVED)


def test_a_layout_can_be_told():
    (fact,) = found(shape_only(["N", 3, 4, 4]), "layout", layout="NHWC")
    assert (fact.value, fact.ground, fact.why) == (NHWC, Ground.TOLD, "")
    (against,) = found(cnn(), "layout", layout="NHWC")
    assert (against.value, against.ground) == (NHWC, Ground.TOLD)
    assert f"reads it otherwise ({NCHW})" in against.why


@pytest.mark.parametrize("shape", [["N", 3, 4, 4], ["N", 4, 4, 3], ["N", 1, 4, 4], ["N", 3, 5, 3], ["N", 7, 6, 5]], ids=str)
def test_a_layout_that_only_the_shape_suggests_is_a_doubt(shape: list[int | str]):
    model = shape_only(shape)
    assert not found(model, "layout")
    report = onnxsal.check(model, "cpu", "gradient")
    assert "is not proved" in report.doubt
    assert "--layout" in str(report)
    converted = onnxsal.convert(model, "gradient")
    assert "is not proved" in read_metadata(converted)["onnxsal.doubt"]
    x = draw(1, *shape[1:])  # type: ignore[arg-type]
    assert any("is not proved" in warning for warning in onnxsal.Explainer(converted).explain(x).warnings)
    assert not onnxsal.check(model, "cpu", "gradient", layout="NCHW").doubt


def test_what_is_no_picture_has_no_layout():
    flat = make([node("MatMul", "x w", "y")], {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": draw(4, 3)})
    report = onnxsal.check(flat, "cpu", "gradient")
    assert not report.doubt
    assert "layout" not in {fact.what for fact in report.found}


def test_a_layer_is_told_or_found():
    by_graph = [f for f in onnxsal.check(cnn(), "cpu", "gradcam").found if f.what == "layer"]
    by_user = [f for f in onnxsal.check(cnn(), "cpu", "gradcam", layer="r1").found if f.what == "layer"]
    assert [f.ground for f in by_graph] == [Ground.PROVED]
    assert [f.ground for f in by_user] == [Ground.TOLD]
    assert by_graph[0].value.startswith("'r2'")
    assert by_user[0].value.startswith("'r1'")
    assert onnxsal.check(cnn(), "cpu", "gradcam", layer="r1").layers[0].startswith("'r1'")


# ----- where it is told -----


@pytest.mark.parametrize("method", ["gradcam", "fullgrad", "deconvnet"])
def test_facts_travel_with_the_converted_file(method: str):
    made = conversion(Ask.of(cnn(), method))
    assert made.question.found
    assert onnxsal.Explainer(made.proto).conversion.question.found == made.question.found
    assert onnxsal.check(cnn(), "cpu", method).found == made.question.found == conversion(Ask.of(cnn(), method)).question.found
    assert not made.plans or onnxsal.plan(cnn(), method).found == made.question.found


@pytest.mark.parametrize("text", ["{", "[1]", "[{}]", '[{"what": "layout", "value": "", "ground": "guessed", "why": ""}]'])
def test_damaged_facts_are_refused(text: str):
    model = onnxsal.convert(cnn(), "gradient")
    next(p for p in model.metadata_props if p.key == "onnxsal.facts").value = text
    with pytest.raises(ModelError, match="metadata is damaged"):
        onnxsal.Explainer(model)


def test_a_refusal_comes_with_what_was_found():
    """The layer is refused after the question was answered, so what was found out until then is told."""
    report = onnxsal.check(cnn(), "cpu", "gradcam", layer="nonsense")
    assert not report.ok
    assert "layout" in {fact.what for fact in report.found}
    assert NCHW in str(report)


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("method", ["gradcam", "fullgrad"])
def test_a_real_model_is_told_in_a_few_lines(method: str):
    lines = run("check", REAL, "--method", method).splitlines()
    assert len(lines) < 20
    assert any(line.startswith("layout ") and NCHW in line and "proved from the graph" in line for line in lines)
    assert any(line.startswith("layer ") for line in lines) == (method == "gradcam")
    facts = json.loads(run("check", REAL, "--method", method, "--json"))
    assert {tuple(fact) for fact in facts["found"]} == {("what", "value", "ground", "why")}
    assert facts["doubt"] == ""


def test_a_plan_tells_the_facts_above_its_table():
    words = ("plan", REAL, "--method", "ig", "--n-steps", "3", "--target", "1", "--prefix", "p/", "--components", "--quantize", "4")
    head, *rest = run(*words).splitlines()
    assert head.startswith("method integrated_gradients")
    table = next(i for i, line in enumerate(rest) if line.startswith("node "))
    assert any(line.startswith("layout ") for line in rest[:table])
    told = json.loads(run(*words, "--json"))
    assert [fact["what"] for fact in told["found"]].count("layout") == 1
    assert {fact["ground"] for fact in told["found"]} <= {str(ground) for ground in Ground}


# ----- how far the model's own outputs move -----


def own_outputs(model: onnx.ModelProto, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(names, feed)


@pytest.mark.parametrize("method", ["gradient", "lrp_epsilon", "rise"])
def test_how_far_own_outputs_move_is_what_a_user_sees(method: str):
    """The figure is that of two plain sessions, though the part that was added is not run for it."""
    model = cnn()
    found = onnxsal.check(model, "cpu", method).drift
    assert found is not None
    feed, _ = first_run(model)
    names = [o.name for o in model.graph.output]
    before, after = (own_outputs(m, names, dict(feed)) for m in (model, onnxsal.convert(model, method, target_input="fixed")))
    assert found.converted == max(relative_difference(a, b) for a, b in zip(before, after, strict=True))
    assert found.converted < 1e-5
    assert found.optimisation is not None
    assert found.optimisation < 1e-5


def test_a_fusion_that_the_explanation_breaks_is_seen():
    """ONNX Runtime multiplies in integers where nobody reads the sums; the file as written, and so the converted one, in float32."""
    w = draw(16, 8, seed=2)
    stored = {"s": np.float32(0.02), "z": np.uint8(128), "w": w, "ws": np.float32(np.abs(w).max() / 3)}
    stored |= {"wz": np.int8(0), "wq": np.clip(np.rint(w / stored["ws"]), -128, 127).astype(np.int8)}
    nodes = [
        node("QuantizeLinear", "x s z", "q"),
        node("DequantizeLinear", "q s z", "d"),
        node("DequantizeLinear", "wq ws wz", "wd"),
        node("MatMul", "d wd", "m"),
        node("QuantizeLinear", "m big z", "mq"),
        node("DequantizeLinear", "mq big z", "y"),
    ]
    model = make(nodes, {"x": ["N", 16]}, {"y": ["N", 8]}, {**stored, "big": np.float32(0.1)})
    found = onnxsal.check(model, "cpu", "gradient")
    assert found.ok
    assert found.drift is not None
    assert found.as_dict()["drift"] == {"converted": found.drift.converted, "optimisation": found.drift.optimisation, "why": ""}
    assert "own outputs, as ONNX Runtime optimises by default" in str(found)
    told = CliRunner().invoke(app, ["check", REAL, "-m", "gradient", "--json"])
    assert json.loads(told.stdout)["drift"]["converted"] < 1e-5


def test_what_cannot_be_run_is_told_and_is_no_problem():
    model = make(
        [node("MatMul", "x w", "h"), node("Tanh", "h", "y"), node("F", "h", "z", domain="d")],
        {"x": ["N", 3]},
        {"y": ["N", 4]},
        {"w": draw(3, 4)},
        domains={"d": 1},
    )
    model.graph.output.append(onnx.helper.make_tensor_value_info("z", 1, ["N", 4]))
    found = onnxsal.check(model, "cpu", "gradient", output="y")
    assert found.ok
    assert found.drift is not None
    assert "not compared: " in str(found.drift)
    assert onnxsal.check(model, "cpu", "gradient", compare=False, output="y").drift is None
