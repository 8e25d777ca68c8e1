"""One request: what can be asked is spelled once, and every verb, its types and its commands follow; what is given has an effect, or is
refused.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import onnx
import pytest
import typer
from mypy import api
from typer.testing import CliRunner, Result

import onnxsal
from onnxsal.ask.request import DEFAULTS, RUN, Ask, Said
from onnxsal.cli.app import app
from onnxsal.errors import InputError, MethodError, TargetError
from onnxsal.facade.fit_patterns import Fitting, fitted
from onnxsal.metrics.evaluate import IDLE, Work, evaluated
from onnxsal.metrics.scorer import Scorer
from onnxsal.runtime.preprocess import Preprocess
from tests.small_models import cnn, draw, make, node, two_inputs

ROOT = Path(__file__).parent.parent
SPELLED = [onnxsal.convert, onnxsal.plan, onnxsal.Explainer, Scorer]


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(w) for w in words])


def answer(*words: object) -> Any:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def mistake(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 2, result.output
    return result.stderr


def saved(path: Path, model: onnx.ModelProto) -> Path:
    onnx.save(model, path)
    return path


# ----- spelled once -----


def test_every_field_is_a_keyword_of_the_one_signature():
    spelled, types = inspect.signature(Ask.of).parameters, get_type_hints(Ask.of)
    kinds = get_type_hints(Ask)
    assert [f.name for f in dataclasses.fields(Ask)] == list(spelled)
    for f in dataclasses.fields(Ask):
        if f.name == "parameters":
            assert spelled[f.name].kind is inspect.Parameter.VAR_KEYWORD
            continue
        if f.name == "preprocess":  # a word or a file may be given for it, and is read at once
            assert set(get_args(kinds[f.name])) < set(get_args(types[f.name]))
            continue
        assert kinds[f.name] == types[f.name], f.name
        assert f.default is dataclasses.MISSING or f.default == spelled[f.name].default


@pytest.mark.parametrize("verb", SPELLED, ids=lambda v: v.__name__)
def test_every_verb_has_the_one_signature(verb: Any):
    assert list(inspect.signature(verb).parameters.values()) == list(inspect.signature(Ask.of).parameters.values())


def test_documentation_and_name_stay():
    assert onnxsal.convert.__name__ == "convert"
    assert "self-contained ONNX model" in onnxsal.convert.__doc__
    assert "Raises ``ModelError``" in onnxsal.convert.__doc__
    assert str(inspect.signature(onnxsal.convert)).endswith("-> 'onnx.ModelProto'")


def options_of(verb: str) -> set[str]:
    """The options of a command that are fields of ``Ask``, by field."""
    return {p.name for p in typer.main.get_command(app).commands[verb].params if p.name in SAID}  # type: ignore[attr-defined]


SAID = {name for name, hint in get_type_hints(Ask, include_extras=True).items() if any(isinstance(a, Said) for a in get_args(hint))}

LEFT_OUT = {
    "convert": RUN,
    "plan": RUN,
    "check": (*RUN, "example"),
    "explain": ("target_input", "runs_on"),
    "evaluate": ("method", "parameters", *set(IDLE) - {"target"}),
    "audit": ("method", "parameters", "batch_size", *set(IDLE) - {"against"}),
    "fit-patterns": tuple(SAID - {"model", "preprocess", *RUN}),
    "demo": tuple(SAID - {"model", "preprocess", "labels", "providers", "tf32"}),
}
"""Fields that are no options of a command, as they mean nothing there (``check`` reads several --example itself)."""

OWN = {("evaluate", "target"), ("audit", "against"), ("explain", "target")}
"""Options with the name of a field that are the command's own: the class of every map, another model, and several classes."""


def test_what_has_no_option():
    """Colours, which preprocessing gives, a batch that is fixed, for those who hold an explainer open, and a vector to compare with."""
    assert set(DEFAULTS) | {"model", "method", "parameters"} == SAID | {"black", "white", "fixed_batch", "reference"}


@pytest.mark.parametrize("verb", LEFT_OUT)
def test_every_command_has_the_fields_as_options(verb: str):
    assert options_of(verb) == SAID - set(LEFT_OUT[verb])


def test_options_say_what_the_fields_say():
    words = {n: a for n, h in get_type_hints(Ask, include_extras=True).items() if get_origin(h) for a in get_args(h) if isinstance(a, Said)}
    for verb in LEFT_OUT:
        for p in typer.main.get_command(app).commands[verb].params:  # type: ignore[attr-defined]
            if p.name in options_of(verb) - {"model"} and (verb, p.name) not in OWN:
                assert p.help == words[p.name].words, (verb, p.name)


# ----- typed -----

SNIPPET = """\
import onnxsal
right = onnxsal.convert("a.onnx", "ig", input="x", target=(1, 2), grid="2x2", n_steps=3, batched=True)
onnxsal.plan("a.onnx", layout="NHWC", rule="any")
onnxsal.Explainer("a.onnx", providers=["cuda", "cpu"], tf32=True, batch_size=4, labels=["a"], n_steps=3)
reveal_type(onnxsal.plan("a.onnx"))
reveal_type(onnxsal.Explainer("a.onnx"))
reveal_type(onnxsal.Explainer("a.onnx").explain({}))
onnxsal.convert("a.onnx", input=3)
onnxsal.plan("a.onnx", layout=7)
onnxsal.Explainer("a.onnx", batch_size="many")
onnxsal.convert()
onnxsal.convert("a.onnx", "ig", "x")
onnxsal.explain("a.onnx", "cat.jpg", "ig", target=3, text="words", progress=False, n_steps=5)
reveal_type(onnxsal.explain("a.onnx", ["cat.jpg"], layout="NCHW"))
onnxsal.explain("a.onnx", "cat.jpg", layout=7)
reveal_type(onnxsal.evaluate("a.onnx", "data"))
reveal_type(onnxsal.audit("a.onnx", "data"))
onnxsal.audit("a.onnx", "data", measured="many")
"""


def test_a_type_checker_sees_every_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "user.py").write_text(SNIPPET)
    monkeypatch.setenv("MYPYPATH", str(ROOT))
    words = ["--strict", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path / "cache"), "--no-error-summary"]
    words += ["--follow-imports", "silent"]  # what is strict beyond our own settings is a matter of the snippet only
    told, trouble, _ = api.run([*words, str(tmp_path / "user.py")])
    assert not trouble
    lines = [line.split(":", 3) for line in told.splitlines() if ': note: "' not in line]
    found = {int(number): text.strip() for _, number, _, text in lines}
    assert found.pop(5) == 'Revealed type is "onnxsal.engine.plan.Plan"'
    assert found.pop(6) == 'Revealed type is "onnxsal.explainer.Explainer"'
    assert found.pop(7) == 'Revealed type is "onnxsal.explanation.Explanation"'
    assert found.pop(14) == 'Revealed type is "onnxsal.explanation.Explanation"'
    assert found.pop(16) == 'Revealed type is "onnxsal.metrics.evaluation.Evaluation"'
    assert found.pop(17) == 'Revealed type is "onnxsal.report.audit.run.Audit"'
    assert list(found) == [8, 9, 10, 11, 12, 15, 18]
    assert 'Argument "input" to "convert" has incompatible type "int"' in found[8]
    assert 'Argument "layout" to "plan" has incompatible type "int"' in found[9]
    assert 'Argument "batch_size" to "Explainer" has incompatible type "str"' in found[10]
    assert 'Missing positional argument "model"' in found[11]
    assert "Too many positional arguments" in found[12]
    assert 'Argument "layout" to "__call__" of "OfGiven" has incompatible type "int"' in found[15]
    assert 'Argument "measured" to "audit" has incompatible type "str"' in found[18]


# ----- given and not given -----


def test_what_has_no_use_is_refused():
    for verb in (onnxsal.convert, onnxsal.plan, lambda m, **k: onnxsal.check(m, "cpu", **k)):
        with pytest.raises(MethodError, match="has no use for batch_size=4"):
            verb(cnn(), batch_size=4)
    with pytest.raises(MethodError, match="a Scorer has no use for target=1, score='raw'"):
        Scorer(cnn(), score="raw", target=1)
    with pytest.raises(MethodError, match="fit_patterns has no use for input='x'"):
        fitted(Ask.of(cnn(), input="x"), Fitting(draw(2, 3, 8, 8)))
    with pytest.raises(MethodError, match="evaluate has no use for prefix='p_'"):
        onnxsal_evaluate(cnn(), prefix="p_")
    with pytest.raises(MethodError, match="name gradient in methods"):
        onnxsal_evaluate(cnn(), method="gradient")
    with pytest.raises(InputError, match="batch_size=0 is not a number of samples"):
        Scorer(cnn(), batch_size=0)


def onnxsal_evaluate(model: Any, **options: Any) -> Any:
    return evaluated(Ask.of(model, **options), Work("nowhere"))


def test_a_field_that_the_method_has_a_parameter_for_is_the_methods():
    """Captum's batch_size is the masks that Score-CAM computes at once; of the Explainer it is the samples."""
    assert onnxsal.convert(cnn(), "scorecam", batch_size=2) == onnxsal.convert(cnn(), "scorecam", chunk=2)
    assert onnxsal.Explainer(cnn(), "scorecam", batch_size=2).batch_size == 2


def test_preprocessing_tells_black_and_white():
    how = Preprocess(scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.5, 0.5, 0.5))
    by_hand = onnxsal.convert(cnn(), "ig", baseline="black", n_steps=2, black=how.black())
    assert onnxsal.convert(cnn(), "ig", baseline="black", n_steps=2, preprocess=how) == by_hand
    own = onnxsal.convert(cnn(), "ig", baseline="black", n_steps=2, preprocess=how, black=np.zeros(1, np.float32))
    assert own != by_hand


def test_one_of_several_methods_is_asked_what_it_has_a_use_for():
    ask = Ask.of("m.onnx", layer="r1", grid=(2, 2), score="raw", n_steps=3)
    assert ask.by("gradient", {}).given == {"score": "raw"}
    assert ask.by("gradcam", {}).given == {"score": "raw", "layer": "r1", "grid": (2, 2)}
    assert ask.by("rise", {}).given == {"score": "raw", "grid": (2, 2)}
    own = ask.by("ig", {"quantize": 4, "score": "probability", "rule": "trapezoid"})
    assert (own.given, own.parameters) == ({"score": "probability", "quantize": 4}, {"n_steps": 3, "rule": "trapezoid"})
    assert ask.by(None, {}).given == ask.given


def test_a_converted_model_is_asked_the_same_of_another():
    """``on`` keeps what is built in: also the layout that was told, which the metadata holds."""
    plain = flat_pictures()
    adopted = onnxsal.Explainer(onnxsal.convert(plain, "gradient", layout="NHWC", score="raw", prefix="p_"))
    again = adopted.on(plain)
    assert again.conversion.question.picture == adopted.conversion.question.picture == (3, 1, 2)
    assert (again.conversion.question.score, again.conversion.prefix) == ("raw", "p_")
    x = draw(2, 3, 4, 4)
    np.testing.assert_array_equal(again.explain(x, 1).saliency_map, adopted.explain(x, 1).saliency_map)


# ----- the command line: options that evaluate and audit have with all others -----


def flat_pictures() -> onnx.ModelProto:
    """Reads pictures as rows of numbers: only their sender knows which axis holds the colours."""
    return make([node("Flatten", "x", "f"), node("MatMul", "f w", "y")], {"x": ["N", 3, 4, 4]}, {"y": ["N", 3]}, {"w": draw(48, 3)})


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    np.save(tmp_path / "x.npy", draw(4, 3, 4, 4, seed=5))
    return tmp_path / "x.npy"


def evaluation(model: Path, data: Path, *words: object, methods: str = "gradient") -> Any:
    return answer("evaluate", model, data, "-m", methods, "--metrics", "deletion", "-o", model.parent / "out", *words)


def places(out: Path) -> set[int]:
    """How many pixels the maps have: no two of these random ones are tied."""
    rows = [line.split(",") for line in (out / "samples.csv").read_text().splitlines()]
    return {int(row[rows[0].index("distinct")]) for row in rows[1:] if row[0] == "gradient"}


def test_evaluate_measures_the_pixels_of_the_layout_that_is_told(tmp_path: Path, pictures: Path):
    model = saved(tmp_path / "flat.onnx", flat_pictures())
    told = evaluation(model, pictures, "--layout", "NHWC")
    assert (told["asked"], told["measured_now"]) == ({"layout": "NHWC"}, 16)
    assert places(tmp_path / "out") == {3 * 4}
    assert evaluation(model, pictures, "--layout", "NHWC")["measured_now"] == 0
    other = evaluation(model, pictures)  # taken from the shape, which is a doubt: other pixels, so nothing of that run counts
    assert (other["asked"], other["measured_now"]) == ({}, 16)
    assert places(tmp_path / "out") == {4 * 4}


def test_audit_and_evaluate_refuse_a_wrong_layout(tmp_path: Path, pictures: Path):
    model = saved(tmp_path / "flat.onnx", flat_pictures())
    for verb in ("evaluate", "audit"):
        assert "layout='NHCW' is unknown (did you mean 'NHWC'?)" in mistake(verb, model, pictures, "--layout", "NHCW", "-o", tmp_path / "o")


def test_an_audit_shows_the_pictures_of_the_layout_that_is_told(tmp_path: Path, pictures: Path):
    model = saved(tmp_path / "flat.onnx", flat_pictures())
    for words, size in ((("--layout", "NHWC"), [3, 4]), ((), [4, 4])):
        told = answer("audit", model, pictures, "-m", "gradient", "-o", tmp_path / f"audit{len(words)}", *words)
        facts = json.loads(Path(told["files"]["json"]).read_text())
        assert {tuple(p["size"]) for p in facts["pictures"]} == {tuple(size)}


def turned() -> onnx.ModelProto:
    """Time first, as LSTMs have it: samples, if there are any, are axis 1 of the input and axis 0 of the scores."""
    nodes = [node("ReduceMean", "x first", "m", keepdims=0), node("MatMul", "m w", "y")]
    return make(nodes, {"x": ["T", "N", 4]}, {"y": ["N", 3]}, {"first": np.array([0]), "w": draw(4, 3)})


@pytest.mark.parametrize("verb", ["evaluate", "audit"])
def test_scores_that_belong_to_no_sample_are_refused(tmp_path: Path, verb: str):
    """What leaves its samples open is refused; told that all is one sample there is an explanation, but nothing to compare samples by."""
    model = saved(tmp_path / "turned.onnx", turned())
    np.save(tmp_path / "x.npy", draw(2, 5, 4))
    words = (verb, model, tmp_path / "x.npy", "-m", "gradient", "-o", tmp_path / "out")
    assert "the samples 'N' are axis 1 of the input and axis 0 of the scores" in mistake(*words)
    assert "has no batch axis, so its scores do not belong to samples one by one" in mistake(*words, "--one-sample")


def test_samples_that_only_the_user_knows_of_are_measured(tmp_path: Path):
    """Weights that mix no rows, but in a way that the graph does not show: a run on random input decides, or --batched."""
    model = saved(tmp_path / "flat.onnx", flat_pictures())
    np.save(tmp_path / "x.npy", draw(4, 3, 4, 4))
    assert evaluation(model, tmp_path / "x.npy", "--batched")["asked"] == {"batched": True}


def several() -> onnx.ModelProto:
    """Two heads, and two inputs of which one need not be fed."""
    nodes = [node("Mul", "x scale", "h"), node("MatMul", "h u", "first"), node("MatMul", "h v", "second")]
    weights = {"scale": np.ones(6, np.float32), "u": draw(6, 3), "v": draw(6, 4, seed=1)}
    return make(nodes, {"x": ["N", 6], "scale": [6]}, {"first": ["N", 3], "second": ["N", 4]}, weights)


def test_input_and_output_choose_among_several(tmp_path: Path):
    model, data = saved(tmp_path / "several.onnx", several()), tmp_path / "x.npy"
    np.save(data, draw(4, 6))
    words = ("evaluate", model, data, "-m", "gradient", "--metrics", "deletion", "-o", tmp_path / "out")
    assert "name the one to explain: --output" in mistake(*words, "--input", "x")
    for name in ("first", "second"):
        found = evaluation(model, data, "--input", "x", "--output", name)
        assert (found["output"], found["asked"], found["measured_now"]) == (name, {"input": "x", "output": name}, 8)
    two = saved(tmp_path / "two.onnx", two_inputs())
    assert "metrics change one input, 'a', but the model needs a, b" in mistake(
        "evaluate", two, data, "--input", "a", "--output", "y", "-o", tmp_path / "o"
    )


def test_a_converted_model_is_refused_where_methods_are_compared(tmp_path: Path, pictures: Path):
    model = saved(tmp_path / "made.onnx", onnxsal.convert(flat_pictures(), "gradient"))
    for verb in ("evaluate", "audit", "fit-patterns"):
        assert "was already converted (method 'gradient'" in mistake(verb, model, pictures, "-o", tmp_path / "o.npz")


def test_a_layer_goes_to_the_methods_that_have_one(tmp_path: Path):
    model, data = saved(tmp_path / "cnn.onnx", cnn()), tmp_path / "x.npy"
    np.save(data, draw(4, 3, 8, 8))
    found = evaluation(model, data, "--layer", "r1", methods="gradient,gradcam")
    assert (found["refused"], found["asked"]) == ({}, {"layer": "r1"})
    at_last = evaluation(model, data, methods="gradient,gradcam")
    means = [{row["method"]: row["mean"] for row in told["summary"]} for told in (found, at_last)]
    assert means[0]["gradient"] == means[1]["gradient"]
    assert means[0]["gradcam"] != means[1]["gradcam"]
    words = ("evaluate", model, data, "-m", "gradient,ig", "--layer", "r1", "-o", tmp_path / "o")
    assert "none of gradient, integrated_gradients has a target layer; layer= has no use" in mistake(*words)


def test_data_is_given_to_the_scorer_too(tmp_path: Path):
    """A model that does not tell the axes of its input has pictures once it is seen on data of its kind."""
    plain = make([node("Flatten", "x", "f"), node("MatMul", "f w", "y")], {"x": None}, {"y": ["N", 3]}, {"w": draw(48, 3)})
    model, data = saved(tmp_path / "open.onnx", plain), tmp_path / "x.npy"
    np.save(data, draw(4, 3, 4, 4))
    words = ("evaluate", model, data, "-m", "gradient", "--metrics", "deletion", "-o", tmp_path / "out")
    assert answer(*words)["measured_now"] == 4 * (1 + 1)  # one method, and the one baseline that is not for pictures
    told = answer(*words, "--example", data)
    assert (told["measured_now"], told["asked"]) == (4 * (1 + 3), {})


def test_a_class_that_only_the_run_knows_not_to_exist(tmp_path: Path):
    """The number of classes is that of the rows of an input of the graph: no shape tells it."""
    nodes = [node("Flatten", "x", "f"), node("MatMul", "f w", "z"), node("Compress", "z all", "y", axis=1)]
    model = make(nodes, {"x": ["N", 3, 4, 4]}, {"y": ["N", "C"]}, {"w": draw(48, 3), "all": np.array([True, False, True])})
    scorer, x = Scorer(model), draw(2, 3, 4, 4)
    assert scorer.question.class_count is None
    with pytest.raises(TargetError, match=r"target 2 is out of range: the scores 'y' have 2 classes, 0 to 1"):
        scorer.evaluate(lambda samples, steps: x[samples], np.arange(2), 1, scorer.targets(x, [0, 2]))
    path, data = saved(tmp_path / "open.onnx", model), tmp_path / "x.npy"
    np.save(data, x)
    words = ("evaluate", path, data, "-m", "gradient", "--metrics", "deletion", "--removal", "mean", "-o", tmp_path / "out", "-t")
    assert "target [2] is out of range: the scores 'y' have 2 classes, 0 to 1" in run(*words, 2).stderr
    known = saved(tmp_path / "flat.onnx", flat_pictures())
    assert "target 3 is out of range: the scores 'y' have 3 classes, 0 to 2" in mistake(words[0], known, *words[2:], 3)
