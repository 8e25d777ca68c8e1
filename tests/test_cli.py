"""The command line: every verb, its exit status, what goes to stdout and stderr, and one message for every mistake."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper
from PIL import Image
from typer.testing import CliRunner, Result

import onnxsal
from onnxsal.ask.request import Ask
from onnxsal.cli import app, look
from onnxsal.cli.parameters import as_parameters, read_parameters
from onnxsal.errors import MethodError
from onnxsal.given.from_files import file_names
from onnxsal.metrics import occlusion_correlation
from onnxsal.runtime.preprocess_files import load_preprocess
from onnxsal.runtime.quiet import _without_noise
from tests.small_models import cnn, draw, make, node

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "models" / "tiny"
CNN, NHWC, TOKENS = (str(TINY / name) for name in ("cnn.onnx", "cnn_nhwc.onnx", "tokens.onnx"))
CLASSES = ("ant", "bee", "cat, house cat", "dog", "eel")
PREPROCESS = "scale = 0.00392156862745098\nmean = 0.5\nstd = 0.25\nresize = [16, 16]\n"


def run(*args: object) -> Result:
    return CliRunner().invoke(app, [str(a) for a in args])


def done(*args: object) -> Result:
    result = run(*args)
    assert result.exit_code == 0, result.stderr
    assert not result.stderr
    return result


def answer(*args: object):
    """What a verb prints with --json: JSON, and nothing else."""
    return json.loads(done(*args, "--json").stdout)


def mistake(*args: object, status: int = 2) -> str:
    """The one message of a mistake: on stderr, no traceback, nothing on stdout."""
    result = run(*args)
    assert result.exit_code == status, result.output
    assert not result.stdout
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error: ") == 1
    return result.stderr


def usage(*args: object) -> str:
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert not result.stdout
    return " ".join(result.stderr.replace("│", " ").split())


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a model, its preprocessing and labels beside it, and two pictures."""
    (tmp_path / "cnn.onnx").write_bytes(Path(CNN).read_bytes())
    (tmp_path / "cnn.toml").write_text(PREPROCESS)
    (tmp_path / "labels.txt").write_text("\n".join(CLASSES))
    (tmp_path / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (20, 24, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "pictures" / "one.png")
    Image.fromarray(pixels[::-1]).save(tmp_path / "pictures" / "two.png")
    return tmp_path


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".toml" and p.name not in ("cnn.onnx", "labels.txt"))


# ----- convert -----


def test_convert_writes_a_model_and_says_what_was_done(here: Path) -> None:
    out = here / "explained.onnx"
    told = done("convert", here / "cnn.onnx", out, "--method", "ig", "--n-steps", 7).stdout
    for word in ("explained.onnx", "integrated_gradients", "n_steps=7", "attribution", "residual", "input 'target'", "MB"):
        assert word in told
    model = onnx.load(out)
    assert model.graph.output[0].name == "probabilities"
    assert json.loads({p.key: p.value for p in model.metadata_props}["onnxsal.parameters"])["n_steps"] == 7


def test_convert_facts_for_machines(here: Path) -> None:
    facts = answer("convert", here / "cnn.onnx", here / "out.onnx", "-m", "gradient", "--prefix", "why/", "--target", "cat")
    assert facts["added_outputs"] == ["why/attribution", "why/saliency_map", "why/explained_class", "why/explained_score"]
    assert (facts["target_input"], facts["optional_inputs"]) == ("fixed", [])
    assert facts["converted_bytes"] == (here / "out.onnx").stat().st_size
    default = next(i for i in onnx.load(here / "out.onnx").graph.initializer if i.name == "why/target")
    assert onnx.numpy_helper.to_array(default).tolist() == [2]


@pytest.mark.parametrize(
    "words",
    [
        ["--n-steps", "9"],
        ["--n-steps=9"],
        ["--n_steps", "9"],
        ["--steps", "9"],
        ["-p", "n_steps=9"],
        ["-pn_steps=9"],
        ["--param", "n-steps = 9"],
        ["-p", "steps=9"],
    ],
)
def test_every_spelling_of_a_parameter(here: Path, words: list[str]) -> None:
    facts = answer("convert", here / "cnn.onnx", here / "out.onnx", *words, "--method=integrated_gradients")
    assert facts["parameters"]["n_steps"] == 9


def test_a_rule_file_brings_its_own_parameters(here: Path) -> None:
    text = (ROOT / "rules" / "gradient.toml").read_text().replace('name = "gradient"', 'name = "mine"')
    (here / "mine.toml").write_text(
        text.replace("[parameters.reduce]", '[parameters.my_own]\ndefault = 1\ndoc = "mine"\n[parameters.reduce]')
    )
    facts = answer("convert", here / "cnn.onnx", here / "out.onnx", "--rules", here / "mine.toml", "--my-own", 3)
    assert (facts["method"], facts["parameters"]["my_own"]) == ("mine", 3)
    assert "both given" in mistake("convert", CNN, here / "x.onnx", "--rules", here / "mine.toml", "--method", "ig")


def test_parameter_words() -> None:
    given = read_parameters(
        ["n_steps=25", "rule=trapezoid", "baseline=[[0.5]]", 'layers=["a"]', "rescale=true", "text='x=y'", "odd=1\nb=2"]
    )
    assert given == {
        "n_steps": 25,
        "rule": "trapezoid",
        "baseline": [[0.5]],
        "layers": ["a"],
        "rescale": True,
        "text": "x=y",
        "odd": "1\nb=2",
    }
    with pytest.raises(MethodError, match="name=value"):
        read_parameters(["n_steps"])


def test_an_array_as_a_parameter(here: Path) -> None:
    np.save(here / "start.npy", np.full((3, 1, 1), 0.5, np.float32))
    done("convert", here / "cnn.onnx", here / "out.onnx", "-m", "ig", "--baseline", here / "start.npy")
    start = next(i for i in onnx.load(here / "out.onnx").graph.initializer if i.name == "baseline")
    assert onnx.numpy_helper.to_array(start).tolist() == np.full((1, 3, 1, 1), 0.5).tolist()
    assert "cannot be read" in mistake("convert", CNN, here / "x.onnx", "-m", "ig", "--baseline", here / "none.npy")


def test_options_of_the_command_and_numbers_pass_through() -> None:
    options = {"--target": False, "-o": False, "--json": True, "--param": False}

    def fail(message: str) -> None:
        raise MethodError(message)

    words = ["m.onnx", "--target", "-1", "-oout", "--json", "--rescale", "--n-steps", "3", "-5"]
    expected = ["m.onnx", "--target", "-1", "-oout", "--json", "--param", "rescale=true", "--param", "n_steps=3", "-5"]
    assert as_parameters(["--method", "ig", *words], {**options, "--method": False}, fail)[2:] == expected


# ----- explain -----


def test_explain_writes_five_files_a_picture_and_a_contact_sheet(here: Path) -> None:
    told = done("explain", here / "cnn.onnx", here / "pictures", "-o", here / "out", "--method", "input_x_gradient").stdout
    assert "one.png" in told
    assert "two.input_x_gradient.overlay.png" in told
    kinds = ("json", "map.png", "npy", "overlay.png", "slide.png")
    names = [f"{name}.input_x_gradient.{kind}" for name in ("one", "two") for kind in kinds]
    assert sorted(p.name for p in (here / "out").iterdir()) == ["contact_sheet.html", "contact_sheet.png", *names]
    assert Image.open(here / "out" / "one.input_x_gradient.slide.png").size == (1920, 1080)
    facts = json.loads((here / "out" / "one.input_x_gradient.json").read_text())
    assert facts["method"] == "input_x_gradient"
    assert facts["parameters"] == {"reduce": "sum_abs", "score": "logit"}
    assert facts["providers"] == ["CPUExecutionProvider"]
    assert [entry["label"] for entry in facts["top"]] == [CLASSES[entry["index"]] for entry in facts["top"]]
    assert len(facts["top"]) == 5
    assert sum(entry["output"] for entry in facts["top"]) == pytest.approx(1, abs=1e-5)
    assert facts["target"] == {key: facts["top"][0][key] for key in ("index", "label")}
    array = np.load(here / "out" / "one.input_x_gradient.npy")
    assert array.shape == (1, 3, 16, 16)
    assert array.min() < 0 < array.max()
    assert Image.open(here / "out" / "one.input_x_gradient.overlay.png").size == (24, 20)


def test_explain_agrees_with_python(here: Path) -> None:
    (one,) = answer(
        "explain", here / "cnn.onnx", here / "pictures" / "one.png", "-o", here / "out", "-m", "ig", "-t", "house cat", "--n-steps", 5
    )
    from onnxsal.runtime.beside import beside

    preprocess = beside(here / "cnn.onnx").preprocess
    assert preprocess is not None
    direct = onnxsal.Explainer(here / "cnn.onnx", "ig", n_steps=5).explain(preprocess.apply(here / "pictures" / "one.png"), target=2)
    np.testing.assert_array_equal(np.load(one["files"]["attribution"]), direct.attribution)
    assert one["score"] == pytest.approx(float(direct.score[0]))
    assert one["residual"] == pytest.approx(float(direct.residual[0]))  # type: ignore[index]
    assert one["target"] == {"index": 2, "label": "cat, house cat"}


@pytest.mark.parametrize("size", [1, 2, 3])
def test_batches_give_the_same_as_single_pictures(here: Path, size: int) -> None:
    records = answer("explain", here / "cnn.onnx", here / "pictures", "-o", here / f"out{size}", "--batch-size", size)
    single = answer("explain", here / "cnn.onnx", here / "pictures", "-o", here / "single")
    for got, expected in zip(records, single, strict=True):
        np.testing.assert_allclose(np.load(got["files"]["attribution"]), np.load(expected["files"]["attribution"]), rtol=1e-4, atol=1e-6)


def test_a_converted_model_is_run_as_it_is(here: Path) -> None:
    words = ("-m", "ig", "--n-steps", 6, "-t", 3, "--prefix", "x_", "--target-input", "optional")
    done("convert", here / "cnn.onnx", here / "explained.onnx", *words)
    picture, preprocess = here / "pictures" / "one.png", here / "cnn.toml"
    common = ("explain", here / "explained.onnx", picture, "--preprocess", preprocess, "-o", here / "out")
    (built_in,) = answer(*common)
    assert (built_in["method"], built_in["parameters"]["n_steps"], built_in["target"]["label"]) == ("integrated_gradients", 6, "dog")
    (same,) = answer(*common, "--method", "IntegratedGradients", "--steps", 6, "--target", "ant")
    assert same["target"]["index"] == 0
    (plain,) = answer("explain", here / "cnn.onnx", picture, "-o", here / "plain", "-m", "ig", "--n-steps", 6, "-t", 3)
    np.testing.assert_allclose(np.load(built_in["files"]["attribution"]).shape, np.load(plain["files"]["attribution"]).shape)
    assert built_in["score"] == pytest.approx(plain["score"])
    assert "was converted with method 'integrated_gradients'" in mistake(*common, "--method", "gradient")
    assert "n_steps=7 cannot be changed" in mistake(*common, "--n-steps", 7)
    assert "already converted" in mistake("convert", here / "explained.onnx", here / "twice.onnx")
    assert not (here / "twice.onnx").exists()


def test_a_converted_model_carries_its_preprocessing_and_labels(here: Path) -> None:
    """Alone in another folder it reads pictures and names classes as the original does; what lies beside it counts more."""
    (here / "away").mkdir()
    alone = here / "away" / "explained.onnx"
    done("convert", here / "cnn.onnx", alone, "-m", "gradient")
    words = (here / "pictures" / "one.png", "--target", "house cat", "-o", here / "out")
    (first,) = answer("explain", here / "cnn.onnx", *words, "-m", "gradient")
    (second,) = answer("explain", alone, *words)
    assert second["target"] == first["target"] == {"index": 2, "label": "cat, house cat"}
    assert second["score"] == pytest.approx(first["score"], rel=1e-5)
    (here / "away" / "labels.txt").write_text("\n".join("vwxyz"))
    assert answer("explain", alone, here / "pictures" / "one.png", "-t", 2, "-o", here / "out")[0]["target"]["label"] == "x"
    (here / "cnn.toml").unlink()
    (here / "labels.txt").unlink()
    bare = here / "away" / "bare.onnx"
    done("convert", here / "cnn.onnx", bare, "-m", "gradient")
    assert not {p.key for p in onnx.load(bare).metadata_props} & {"onnxsal.preprocess", "onnxsal.labels"}
    assert "no preprocessing is known" in mistake("explain", bare, words[0], "-o", here / "out")


def test_show_path_tiles_every_point(here: Path) -> None:
    common = ("explain", here / "cnn.onnx", here / "pictures" / "one.png", "-o", here / "out", "--show-path")
    (one,) = answer(*common, "-m", "ig", "--preset", "matlab")
    sheet = np.asarray(Image.open(one["files"]["path"]).convert("RGB"))
    assert one["parameters"]["n_steps"] == 25
    dark = (sheet.reshape(-1, 3).max(1) == 0).sum()
    assert dark >= 16 * 16  # the black baseline comes first
    shown = np.asarray(Image.open(one["files"]["map"]).convert("RGB"))
    assert shown.max() == 255
    assert (shown[..., 0] == shown[..., 1]).all()  # white to black, as on the page
    assert "no path" in mistake(*common, "-m", "gradient")


def test_arrays_need_no_preprocessing(tmp_path: Path) -> None:
    batch = np.random.default_rng(1).standard_normal((3, 16, 16, 3))
    np.save(tmp_path / "batch.npy", batch)
    np.save(tmp_path / "one.npy", batch[0])
    np.savez(tmp_path / "named.npz", image=batch[:1].astype(np.float32))
    records = answer("explain", NHWC, tmp_path, "-o", tmp_path / "out", "-m", "gradient")
    assert [Path(r["files"]["attribution"]).name for r in records] == [
        *(f"batch-{i}.gradient.npy" for i in range(3)),
        "named.gradient.npy",
        "one.gradient.npy",
    ]
    assert len({tuple(np.load(records[i]["files"]["attribution"]).ravel()) for i in (0, 3, 4)}) == 1
    assert "overlay" not in records[0]["files"]
    assert records[0]["top"][0]["label"] is None


def test_tokens_are_explained_at_their_vectors(tmp_path: Path) -> None:
    """Ids go in, from a .npz or a .npy; the vectors are found, and each token's attribution is told beside its id."""
    ids = np.array([[1, 2, 3, 4], [9, 8, 7, 6]])
    np.savez(tmp_path / "text.npz", ids=ids)
    np.save(tmp_path / "one.npy", ids[0])
    records = answer("explain", TOKENS, tmp_path / "text.npz", tmp_path / "one.npy", "-o", tmp_path / "out", "-m", "ixg")
    assert [r["tokens"]["ids"] for r in records] == [*ids.tolist(), ids[0].tolist()]
    for one in records:
        attribution, tokens = (np.load(one["files"][kind]) for kind in ("attribution", "tokens"))
        assert attribution.shape[:2] == (1, 4)
        np.testing.assert_allclose(tokens, attribution.sum(-1), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose([one["tokens"]["attribution"]], tokens, rtol=1e-6)
        assert one["tokens"]["input"] == "ids"
        assert "map" not in one["files"]
    shown = done("explain", TOKENS, tmp_path / "one.npy", "-o", tmp_path / "out", "-m", "ixg").stdout
    assert f"{records[2]['tokens']['attribution'][3]:+.4g}" in shown
    (one,) = answer("explain", TOKENS, tmp_path / "one.npy", "-o", tmp_path / "out", "-m", "fullgrad", "--prefix", "added.")
    assert "--prefix" in mistake("explain", TOKENS, tmp_path / "one.npy", "-o", tmp_path / "out", "-m", "fullgrad")
    shown = done("explain", TOKENS, tmp_path / "one.npy", "-o", tmp_path / "out", "-m", "fullgrad", "--prefix", "added.").stdout
    assert all(name in shown and f"{part:+.4g}" in shown for name, part in one["parts"].items())
    assert "looked up in" in done("plan", TOKENS, "-m", "ixg").stdout
    assert "belongs to an entry of 'ids'" in done("check", TOKENS, "--provider", "cpu", "-m", "ixg").stdout


def test_a_model_without_a_batch_axis(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "flat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [onnx.numpy_helper.from_array(np.arange(12, dtype=np.float32).reshape(4, 3), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "flat.onnx")
    np.save(tmp_path / "x.npy", np.ones(4, np.float32))
    (one,) = answer("explain", tmp_path / "flat.onnx", tmp_path / "x.npy", "-o", tmp_path / "out")
    assert one["target"]["index"] == 2
    np.testing.assert_allclose(np.load(one["files"]["attribution"]), [2, 5, 8, 11])
    assert len(one["top"]) == 3


def test_file_names_stay_apart(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a/cat.jpg", "b/cat.jpg", "b/cat.png", "dog.jpg")]
    assert file_names(files) == ["a/cat", "b/cat.jpg", "b/cat.png", "dog"]
    assert file_names([tmp_path / "a/cat.jpg"]) == ["cat"]


def test_folders_may_mix_pictures_and_arrays(here: Path) -> None:
    np.save(here / "pictures" / "array.npy", np.zeros((1, 3, 16, 16), np.float32))
    records = answer("explain", here / "cnn.onnx", here / "pictures", here / "pictures" / "one.png", "-o", here / "out", "-m", "gradient")
    assert [Path(r["source"]).name for r in records] == ["array.npy", "one.png", "two.png"]


def test_a_flat_map_is_said_to_be_one(here: Path) -> None:
    Image.new("RGB", (16, 16), "black").save(here / "pictures" / "black.png")
    (here / "cnn.toml").write_text("scale = 1\nresize = [16, 16]\n")
    result = run("explain", here / "cnn.onnx", here / "pictures" / "black.png", "-o", here / "out", "-m", "ixg", "--json")
    assert result.exit_code == 0
    assert "warning: " in result.stderr
    assert "every pixel is 0" in json.loads(result.stdout)[0]["warnings"][0]


# ----- plan, check, methods, ops, demo -----


def test_plan() -> None:
    told = done("plan", CNN, "--method", "guided").stdout
    assert told.startswith("method guided_backprop: ")
    facts = answer("plan", CNN, "--method", "guided")
    assert {s["rule"] for s in facts["steps"]} == {"gradient", "guided"}
    assert facts["steps"][0].keys() == {"node", "operator", "family", "rule", "parameters", "why"}
    assert "unknown method 'guidet' (did you mean 'guided" in mistake("plan", CNN, "--method", "guidet")


def test_check(tmp_path: Path) -> None:
    assert "can be explained by 'gradient'" in done("check", CNN, "--method", "gradient").stdout
    assert answer("check", CNN)["ok"] is True
    graph = helper.make_graph(
        [helper.make_node("Round", ["x"], ["y"], name="step")],
        "rounded",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), tmp_path / "round.onnx")
    failed = run("check", tmp_path / "round.onnx", "--json")
    assert failed.exit_code == 1
    facts = json.loads(failed.stdout)
    assert facts["ok"] is False
    assert "step" in facts["problem"]
    assert "cannot be explained" in run("check", tmp_path / "round.onnx").stdout
    assert "no kernel table for provider 'tpu' (did you mean 'cpu'?); known: cpu, cuda." in mistake("check", CNN, "--provider", "tpu")
    assert "every node has a kernel on cpu" in done("check", CNN, "--provider", "cpu").stdout
    half = onnxsal.check(cnn(dtype=np.float16), "cpu", "gradient")
    assert half.forward_missing["Conv(float16)"] == 2
    assert "Conv(float16): 2 node(s) need a cast to float32" in str(half)
    assert "no parameter 'n_steps'" in mistake("check", CNN, "--n-steps", 3)


def test_methods() -> None:
    told = done("methods").stdout
    known = answer("methods")
    assert set(known) == set(onnxsal.methods())
    assert all(name in told for name in known)
    assert known["integrated_gradients"]["parameters"]["n_steps"]["default"] == 50
    one = done("methods", "ig").stdout
    assert "--n-steps" in one
    assert "1703.01365" in one
    assert list(answer("methods", "ig")) == ["integrated_gradients"]
    assert "did you mean 'smoothgrad'" in mistake("methods", "smothgrad")


def test_ops() -> None:
    known = answer("ops")
    assert set(known) == set(onnxsal.ops())
    assert known["Relu"]["differentiable"]
    assert known["ArgMax"]["reason"]
    assert list(answer("ops", "Conv", "Relu")) == ["Conv", "Relu"]
    assert "Relu" in done("ops", "Relu").stdout
    assert "did you mean 'Conv'" in mistake("ops", "Cnov")


def test_demo_on_any_model(here: Path) -> None:
    common = ("demo", here / "cnn.onnx", here / "pictures", "-o", here / "out")
    facts = answer(*common)
    assert {r["method"] for r in facts["explained"]} | {r["method"] for r in facts["refused"]} == set(onnxsal.methods())
    assert Image.open(facts["contact_sheet"]).size == (1753, 1240)
    assert len([name for name in facts if name.startswith("contact_sheet")]) <= 2, "pages"
    told = run(*common).stdout
    lines = [line for line in told.splitlines() if not line.startswith("layers of ")]
    for name in ("one", "two"):
        explained = [r["method"] for r in facts["explained"] if f"{name}.png" in r["source"]]
        assert sum(line.startswith(f"{name}.png") for line in lines) == len(explained) > 5
        assert f"layers of {name}.png by fullgrad" in told
    assert "contact sheet: " in told


def test_demo_holds_every_map_against_occlusion(here: Path) -> None:
    """The metric's own numbers, though the windows are hidden only once per picture; in the table, the records and the JSON."""
    common = ("demo", here / "cnn.onnx", here / "pictures", "-o", here / "out")
    facts = answer(*common)
    lines = run(*common).stdout.splitlines()
    assert "occlusion r" in lines[1]
    for name in ("gradient", "gradcam", "fullgrad", "occlusion"):
        found = next(r for r in facts["explained"] if r["method"] == name and "two.png" in r["source"])
        settings = {"window": 2, "stride": 1} if name == "occlusion" else {}
        explainer = onnxsal.Explainer(here / "cnn.onnx", name, **settings)
        x = load_preprocess(here / "cnn.toml").batch([found["source"]])
        wanted = occlusion_correlation(explainer, x, window=2, stride=1)
        assert found["occlusion_correlation"]["pearson"] == pytest.approx(wanted.pearson[0], abs=1e-4), name
        assert found["occlusion_correlation"]["spearman"] == pytest.approx(wanted.spearman[0], abs=1e-3), name
        assert json.loads(Path(found["files"]["record"]).read_text())["occlusion_correlation"] == found["occlusion_correlation"]
        (line,) = [v for v in lines if v.startswith("two.png") and v.split()[1] == name]
        assert f"{wanted.pearson[0]:.2f}" in line.split()


def test_demo_without_names_takes_the_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from onnxsal.cli import demo

    model = demo.shipped_model(None)
    pictures = demo.pictures_of(Ask.of(model), [])
    assert model.name == "efficientnet_lite0.onnx"
    assert len(pictures) >= 2
    monkeypatch.setattr(demo.onnxsal, "__file__", str(tmp_path / "site-packages" / "onnxsal" / "__init__.py"))
    monkeypatch.chdir(tmp_path)
    assert "onnxsal demo MODEL PICTURE" in mistake("demo")
    assert "name pictures" in mistake("demo", CNN)


# ----- mistakes -----


def test_models_that_cannot_be_read(here: Path) -> None:
    (here / "cut.onnx").write_bytes(Path(CNN).read_bytes()[:3000])
    (here / "text.onnx").write_text("this is no model")
    before = leftovers(here)
    for verb in (("convert",), ("plan",), ("check",), ("explain",)):
        tail = {"convert": [here / "x.onnx"], "explain": [here / "pictures" / "one.png", "--preprocess", here / "cnn.toml"]}.get(
            verb[0], []
        )
        assert "cannot be read" in mistake(*verb, here / "none.onnx", *tail)
        assert "cut short" in mistake(*verb, here / "cut.onnx", *tail)
        assert "not an ONNX model" in mistake(*verb, here / "text.onnx", *tail)
    assert leftovers(here) == before


def external_model(folder: Path) -> onnx.ModelProto:
    """A model whose weights are in a file that is not there."""
    onnx.save(onnx.load(CNN), folder / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").unlink()
    return onnx.load(folder / "model.onnx", load_external_data=False)


BROKEN = {
    "external": (external_model, ["another file", "weights.bin", "Put that file beside the model"]),
    "custom": (
        lambda _: make([node("Magic", "x", "y", domain="my.ops")], {"x": ["N", 4]}, {"y": ["N", 4]}, domains={"my.ops": 1}),
        ["my.ops", "Magic", "node 'y'"],
    ),
    "no path": (
        lambda _: make([node("Sign", "x", "s"), node("Relu", "s", "y")], {"x": ["N", 4]}, {"y": ["N", 4]}),
        ["no differentiable path", "node 's' (Sign"],
    ),
    "clash": (
        lambda _: make([node("Relu", "x", "attribution")], {"x": ["N", 4]}, {"attribution": ["N", 4]}),
        ["'attribution'", "--prefix"],
    ),
    "integers": (
        lambda _: make([node("Neg", "x", "y")], {"x": ["N", 4]}, {"y": ["N", 4]}, types={"x": TensorProto.INT64, "y": TensorProto.INT64}),
        ["no floating-point input", "int64"],
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_models_that_cannot_be_explained(tmp_path: Path, name: str) -> None:
    make_broken, words = BROKEN[name]
    proto = make_broken(tmp_path)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    message = mistake("convert", tmp_path / "model.onnx", tmp_path / "out.onnx", "--method", "gradient")
    for word in words:
        assert word in message
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


def test_an_unsorted_model_just_works(here: Path) -> None:
    proto = onnx.load(here / "cnn.onnx")
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    (here / "cnn.onnx").write_bytes(proto.SerializeToString())
    (unsorted,) = answer("explain", here / "cnn.onnx", here / "pictures" / "one.png", "-o", here / "out")
    (plain,) = answer("explain", CNN, here / "pictures" / "one.png", "--preprocess", here / "cnn.toml", "-o", here / "plain")
    np.testing.assert_array_equal(np.load(unsorted["files"]["attribution"]), np.load(plain["files"]["attribution"]))


def test_wrong_words(here: Path) -> None:
    out = here / "x.onnx"
    assert "did you mean 'gradient'" in mistake("convert", CNN, out, "--method", "gradiant")
    assert "5 classes, 0 to 4" in mistake("convert", CNN, out, "--target", 5)
    assert "no labels are known" in mistake("convert", CNN, out, "--target", "cat")
    assert "did you mean 'dog'" in mistake("convert", here / "cnn.onnx", out, "--target", "dgo")
    assert "unknown score" in mistake("convert", CNN, out, "--score", "prob")
    assert "no tensor 'imag' (did you mean 'image'" in mistake("convert", CNN, out, "--input", "imag")
    assert "no output" in mistake("convert", CNN, out, "--output", "logit")
    assert "n_steps='many' is not a whole number" in mistake("convert", CNN, out, "-m", "ig", "--n-steps", "many")
    assert "n_steps=0 is not 1 or more" in mistake("convert", CNN, out, "-m", "ig", "--n-steps", 0)
    assert "did you mean 'trapezoid'" in mistake("convert", CNN, out, "-m", "ig", "--rule", "trapezoids")
    assert "'black' is a black pixel" in mistake("convert", CNN, out, "-m", "ig", "--baseline", "black")
    assert not out.exists()


def test_wrong_usage(here: Path) -> None:
    assert "No such option: --n-stepz (did you mean '--n-steps'?)" in usage("convert", CNN, here / "x.onnx", "--n-stepz", 3)
    assert "--n-steps needs a value" in usage("convert", CNN, here / "x.onnx", "--n-steps")
    assert "Missing argument" in usage("convert", CNN)
    assert "Missing argument" in usage("convert")
    assert "Usage" in done("convert", "-h").stdout
    assert "No such command" in usage("konvert", CNN)
    assert usage("explain", CNN, here, "--batch-size", 0)


def test_pictures_and_arrays_that_cannot_be_used(here: Path) -> None:
    (here / "bad.png").write_bytes((here / "pictures" / "one.png").read_bytes()[:200])
    (here / "text.jpg").write_text("no picture")
    (here / "empty").mkdir()
    common = ("explain", here / "cnn.onnx")
    assert "damaged or cut short" in mistake(*common, here / "bad.png", "-o", here / "out")
    assert "not a picture" in mistake(*common, here / "text.jpg", "-o", here / "out")
    assert "cannot be read" in mistake(*common, here / "none.png", "-o", here / "out")
    assert "no picture was found" in mistake(*common, here / "empty", "-o", here / "out")
    for name, array in {
        "nan": np.full((1, 3, 16, 16), np.nan),
        "shape": np.zeros((1, 3, 8, 8)),
        "whole": np.zeros((1, 3, 16, 16), int),
    }.items():
        np.save(here / f"{name}.npy", array)
    (here / "cut.npy").write_bytes((here / "nan.npy").read_bytes()[:100])
    assert "NaN" in mistake(*common, here / "nan.npy", "-o", here / "out")
    assert "not an array of shape [1, 3, 8, 8]" in mistake(*common, here / "shape.npy", "-o", here / "out")
    assert "takes float32, not int64" in mistake(*common, here / "whole.npy", "-o", here / "out")
    assert "damaged" in mistake(*common, here / "cut.npy", "-o", here / "out")
    assert not (here / "out").exists()


@pytest.mark.parametrize("size", [1, 4])
def test_a_damaged_input_among_others_is_listed_and_the_others_are_explained(here: Path, size: int) -> None:
    (here / "pictures" / "bad.png").write_bytes((here / "pictures" / "one.png").read_bytes()[:200])
    good = np.zeros((1, 3, 16, 16), np.float32)
    np.save(here / "pictures" / "nan.npy", good + np.nan)
    np.save(here / "pictures" / "good.npy", good)
    result = run("explain", here / "cnn.onnx", here / "pictures", "-m", "ig", "-o", here / "out", "--batch-size", size, "--json")
    assert result.exit_code == 2
    assert {Path(r["source"]).name for r in json.loads(result.stdout)} == {"good.npy", "one.png", "two.png"}
    assert "bad.png: picture " in result.stderr
    assert "nan.npy: input 'image' has 768 value(s) that are NaN" in result.stderr
    assert "2 of 5 inputs could not be explained" in result.stderr
    assert (here / "out" / "two.integrated_gradients.overlay.png").exists()
    both = (here / "pictures" / "bad.png", here / "pictures" / "nan.npy")
    assert "2 of 2 inputs" in mistake("explain", here / "cnn.onnx", *both, "-o", here / "none")
    assert not (here / "none").exists()


def test_a_file_that_is_not_there_is_told_before_all_else(here: Path) -> None:
    (here / "cnn.toml").unlink()
    for words in (("explain", here / "cnn.onnx"), ("check", here / "cnn.onnx", "--conservation", "--on")):
        message = mistake(*words, here / "none.png")
        assert "none.png' cannot be read: No such file" in message
        assert "preprocessing" not in message


def test_preprocessing_is_never_guessed(here: Path) -> None:
    (here / "cnn.toml").unlink()
    message = mistake("explain", here / "cnn.onnx", here / "pictures", "-o", here / "out")
    assert "never guessed" in message
    for word in ("--preprocess", "preprocessor_config.json", "cnn.toml", "onnxsal init", "one.png", "imagenet"):
        assert word in message
    assert "0.485" not in message  # numbers of another model are no example
    (here / "cnn.toml").write_text("mean = 0.5\n")
    assert "'scale' is missing" in mistake("explain", here / "cnn.onnx", here / "pictures", "-o", here / "out")


def test_labels_must_fit(here: Path) -> None:
    (here / "labels.txt").write_text("\n".join(CLASSES[:4]))
    assert "4 labels, but output 'probabilities' has 5 classes" in mistake(
        "explain", here / "cnn.onnx", here / "pictures", "-o", here / "out"
    )


def test_places_that_cannot_be_written(here: Path) -> None:
    (here / "file").write_text("in the way")
    (here / "folder").mkdir()
    before = leftovers(here)
    assert "cannot be written" in mistake("convert", here / "cnn.onnx", here / "none" / "x.onnx")
    assert "cannot be written" in mistake("convert", here / "cnn.onnx", here / "folder")
    assert "never overwritten" in mistake("convert", here / "cnn.onnx", here / "cnn.onnx")
    assert "cannot be written" in mistake("explain", here / "cnn.onnx", here / "pictures", "-o", here / "file")
    assert leftovers(here) == before


def test_an_ending_that_means_text_is_refused_and_a_model_may_have_any(here: Path) -> None:
    out = here / "explained.json"
    assert "read as json" in mistake("convert", here / "cnn.onnx", out, "-m", "gradient")
    assert not out.exists()
    shutil.copy(here / "cnn.onnx", here / "cnn.json")
    done("convert", here / "cnn.json", here / "explained.onnx", "-m", "gradient")


def test_a_provider_that_is_not_there(here: Path) -> None:
    common = ("explain", here / "cnn.onnx", here / "pictures", "-o", here / "out", "--provider")
    assert "none of" in mistake(*common, "cudda")
    if onnxruntime.get_available_providers()[-1:] == ["CPUExecutionProvider"] and not Path("/dev/nvidia0").exists():
        assert "CUDAExecutionProvider was asked for and not obtained" in mistake(*common, "cuda")
        assert answer(*common, "cuda,cpu")[0]["providers"] == ["CPUExecutionProvider"]


def test_faults_of_our_own_are_told_apart(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError("what a pity")

    monkeypatch.setattr(look.inspect, "planned", broken)
    assert "internal error, a fault of onnxsal: ZeroDivisionError: what a pity" in mistake("plan", CNN, status=3)
    assert "Traceback" in run("plan", CNN, "--debug").stderr


# ----- the real entry point, and the two scripts -----


def command(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    entry = [sys.executable, "-c", "from onnxsal.cli import main; main()"]
    return subprocess.run([*entry, *map(str, args)], cwd=cwd, capture_output=True, text=True, check=False)


def test_the_entry_point(here: Path) -> None:
    good = command("explain", "cnn.onnx", "pictures", "--json", cwd=here)
    assert (good.returncode, good.stderr) == (0, "")
    assert len(json.loads(good.stdout)) == 2
    bad = command("explain", "cnn.onnx", "pictures", "--provider", "cuda" if not Path("/dev/nvidia0").exists() else "cda", cwd=here)
    assert bad.returncode == 2
    assert not bad.stdout
    assert bad.stderr.startswith("error: ")
    assert len(bad.stderr.splitlines()) == 1
    traced = command("--debug", "convert", "none.onnx", "x.onnx", cwd=here)
    assert traced.returncode == 2
    assert traced.stderr.startswith("Traceback")
    assert command("--version", cwd=here).stdout.startswith("onnxsal ")
    assert "Usage" in command("explain", "--help", cwd=here).stdout


def test_noise_of_device_discovery_is_dropped_and_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    with _without_noise():
        os.write(2, b"[W:onnxruntime:Default, device_discovery.cc:322 GetGpuDevices] Failed to detect devices\nsomething else\n")
    assert capfd.readouterr().err == "something else\n"


@pytest.mark.skipif(sys.platform == "win32", reason="the scripts are for bash")
class TestScripts:
    """tools/demo and tools/test on a copy of the checkout, without the network."""

    @pytest.fixture
    def checkout(self, tmp_path: Path) -> Path:
        root = tmp_path / "my checkout"
        shutil.copytree(ROOT / "tools", root / "tools", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", root)
        return root

    def script(self, file: Path, *args: str, cwd: Path, path: str) -> subprocess.CompletedProcess[str]:
        bash = shutil.which("bash") or "bash"
        return subprocess.run([bash, str(file), *args], cwd=cwd, env={"PATH": path}, capture_output=True, text=True, check=False)

    def stub(self, file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!{shutil.which('bash')}\n{text}\n")
        file.chmod(0o755)

    def test_no_python_is_one_clear_message(self, checkout: Path, tmp_path: Path) -> None:
        for name in ("basename", "dirname", "cat", "cksum", "rm"):
            (tmp_path / "bin").mkdir(exist_ok=True)
            (tmp_path / "bin" / name).symlink_to(shutil.which(name) or name)
        self.stub(tmp_path / "bin" / "python3", "exit 1")  # too old
        result = self.script(checkout / "tools" / "demo", cwd=tmp_path, path=str(tmp_path / "bin"))
        assert result.returncode == 2
        assert "no Python 3.11 or newer" in result.stderr
        assert not result.stdout
        assert not (checkout / ".venv").exists()

    def test_the_second_run_installs_nothing(self, checkout: Path, tmp_path: Path) -> None:
        log = tmp_path / "log"
        self.stub(checkout / ".venv" / "bin" / "python", f'echo "$@" >>"{log}"')
        self.stub(checkout / ".venv" / "bin" / "onnxsal", 'echo "onnxsal $*"')
        for installs in (1, 1, 2):
            result = self.script(checkout / "tools" / "demo", "--provider", "cuda", cwd=tmp_path, path=os.environ["PATH"])
            assert result.stdout == f"onnxsal demo --out {checkout}/out/demo --provider cuda\n"
            assert log.read_text().count("pip install") == installs
            if log.read_text().count("-c import") == 2:
                with (checkout / "pyproject.toml").open("a") as file:
                    file.write("# changed\n")


def test_a_sequence_is_one_sample_when_that_is_said(tmp_path: Path) -> None:
    weights = {"w": draw(4, 3), "axes": np.asarray([0], np.int64)}
    nodes = [node("Tanh", "x", "t"), node("ReduceMean", "t axes", "m", keepdims=0), node("MatMul", "m w", "y")]
    onnx.save(make(nodes, {"x": ["T", "N", 4]}, {"y": ["N", 3]}, weights), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", draw(6, 1, 4))
    words = ("explain", tmp_path / "m.onnx", tmp_path / "x.npy", "-m", "gradient", "-o", tmp_path / "out")
    said = " ".join(mistake(*words).split())
    assert "[T, N, 4]" in said
    assert "--one-sample" in said
    (record,) = answer(*words, "--one-sample", "--target", "0,2")
    assert record["target"]["index"] == 2
    assert np.load(record["files"]["attribution"]).shape == (6, 1, 4)


def test_a_method_made_of_others_is_explained(tmp_path: Path):
    """Its parts return residuals of their own, which are no maps to be shown."""
    (tmp_path / "gated.toml").write_text('name = "gated"\nwrap = "product"\nof = ["lrp_resnet", "gradcam"]\n', encoding="utf-8")
    onnx.save(cnn(size=8), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((1, 3, 8, 8), np.float32))
    result = run("explain", tmp_path / "m.onnx", tmp_path / "x.npy", "--rules", tmp_path / "gated.toml", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert list((tmp_path / "out").glob("*.overlay.png")) or list((tmp_path / "out").glob("*.map.png"))
