"""The first try: preprocessing by name, what a model's own first nodes tell, ``onnxsal init``, and messages that lead on."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator
from PIL import Image

import onnxsal
from onnxsal.ask.picture_input import picture_input, preprocess_from
from onnxsal.engine.method import get_method, known_methods, parse_method
from onnxsal.engine.method_words import LRP, MEANINGS, SAID, plain
from onnxsal.errors import InputError, MethodError
from onnxsal.graph import Model
from onnxsal.metrics import preprocessings
from onnxsal.metrics.preprocessings import Candidate, Trial, Tried, candidates, in_parts, lead, looks, words
from onnxsal.metrics.scorer import Scorer
from onnxsal.ops.registry import near_operator
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.preprocess_files import as_toml, load_preprocess
from onnxsal.runtime.presets import PRESETS
from tests import squeezenet
from tests.small_models import cnn, draw, make, node
from tests.test_cli import answer, done, leftovers, mistake, run

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "models" / "pictures"
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def network(
    first: Sequence[onnx.NodeProto] = (),
    weights: dict[str, np.ndarray] | None = None,
    *,
    shape: Sequence[int | str] = ("N", 3, 8, 8),
    kind: int = TensorProto.FLOAT,
    depth: int = 3,
) -> onnx.ModelProto:
    """First nodes from ``x`` to ``z`` (none: ``x`` itself), then a convolution and a mean."""
    z = "z" if first else "x"
    nodes = [*first, node("Conv", f"{z} w", "c"), node("GlobalAveragePool", "c", "g"), node("Flatten", "g", "y")]
    return make(nodes, {"x": shape}, {"y": ["N", 4]}, {"w": draw(4, depth, 3, 3, scale=0.3), **(weights or {})}, types={"x": kind, "y": 1})


@pytest.fixture
def cat(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    return tmp_path / "cat.png"


# ----- presets -----

FORMULAS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "imagenet": lambda rgb: (rgb / 255 - MEAN) / STD,
    "tf": lambda rgb: rgb / 127.5 - 1,
    "caffe": lambda rgb: rgb[..., ::-1] - [103.939, 116.779, 123.68],
    "unit": lambda rgb: rgb / 255,
    "clip": lambda rgb: (rgb / 255 - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711],
    "rgb": lambda rgb: rgb,
    "bgr": lambda rgb: rgb[..., ::-1],
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_its_formula_in_the_layout_and_size_of_the_model(name: str):
    rgb = np.random.default_rng(1).integers(0, 256, (2, 8, 8, 3), np.uint8)
    wanted = FORMULAS[name](rgb.astype(np.float64))
    made = preprocess_from(name, network())
    assert (made.layout, made.size) == ("NCHW", (8, 8))
    np.testing.assert_allclose(made.normalise(rgb), wanted.transpose(0, 3, 1, 2), atol=1e-5)
    turned = [node("Transpose", "x", "z", perm=[0, 3, 1, 2])]
    last = preprocess_from(name, network(turned, shape=("N", 10, 6, 3)))
    assert (last.layout, last.size) == ("NHWC", (10, 6))
    np.testing.assert_allclose(last.normalise(rgb), wanted, atol=1e-5)


def test_which_part_of_a_picture_a_preset_sees(cat: Path):
    image = Image.open(cat).resize((300, 200))
    wide = preprocess_from("imagenet", network(shape=("N", 3, 224, 224)))
    by_hand = image.resize((384, 256), Image.Resampling.BILINEAR).crop((80, 16, 304, 240))
    np.testing.assert_array_equal(wide.display(image), np.asarray(by_hand))
    clip = preprocess_from("clip", network(shape=("N", 3, 224, 224)))
    by_hand = image.resize((336, 224), Image.Resampling.BICUBIC).crop((56, 0, 280, 224))
    np.testing.assert_array_equal(clip.display(image), np.asarray(by_hand))
    flat = preprocess_from("tf", network(shape=("N", 3, 224, 224)))
    assert flat.shown(image).box == (0, 0, 300, 200)
    oblong = preprocess_from("imagenet", network(shape=("N", 3, 100, 200)))
    left, top, right, bottom = oblong.shown(image).box or (0, 0, 0, 0)
    assert (right - left) / (bottom - top) == pytest.approx(2, rel=0.02)
    assert right - left == pytest.approx(0.875 * 300, abs=1)


GREY = network(shape=("N", 1, 8, 8), depth=1)
OPEN = network(shape=("N", 3, "H", "W"))
TWO = make([node("Add", "x z", "y")], {"x": ["N", 3, 8, 8], "z": ["N", 3, 8, 8]}, {"y": ["N", 3, 8, 8]})
UNSAID = make([node("Relu", "x", "y")], {"x": ["N", "A", "B", "C"]}, {"y": ["N", "A", "B", "C"]})
BYTES = network([node("Cast", "x", "z", to=TensorProto.FLOAT)], kind=TensorProto.UINT8)
OWN = network([node("Div", "x s", "z")], {"s": np.float32(255)})


@pytest.mark.parametrize(
    ("word", "model", "message"),
    [
        ("imagnet", network(), "neither a preset (imagenet, tf, .*nor a file that is there .did you mean 'imagenet'"),
        ("imagenet:big", network(), "'big' is no size; give imagenet:224"),
        ("imagenet:9", network(), "'x' takes 8x8 pixels, not 9x9"),
        ("imagenet", OPEN, "any size .*as imagenet:224"),
        ("imagenet", UNSAID, r"(?s)give --layout NCHW or NHWC.*any size"),
        ("imagenet", GREY, "for three channels, and 'x' has one; of those that fit there are tf, unit, rgb"),
        ("imagenet", network(shape=("N", 5, 8, 8), depth=5), "has 5 channels"),
        ("unit", TWO, "no one input of the model takes pictures"),
        ("unit", make([node("Relu", "x", "y")], {"x": ["N", 4]}, {"y": ["N", 4]}), r"takes pictures .*'x' \[N, ?4\]"),
        ("imagenet", BYTES, "takes pixels 0..255, as 'x' takes bytes; so give rgb or bgr"),
        ("imagenet", OWN, r"pixels 0..255, as its first nodes, 'z' \(Div\), make x / 255 of pixels 0..255; so give rgb or bgr"),
        (3, network(), "preprocess=3 is none; give a preset"),
    ],
)
def test_a_preset_that_does_not_fit_says_so(word: object, model: onnx.ModelProto, message: str):
    with pytest.raises(InputError, match=message.replace("(imagenet", r"\(imagenet")):
        preprocess_from(word, model)


def test_what_a_model_leaves_open_is_said_with_the_preset():
    assert preprocess_from("tf:16x24", OPEN).size == (16, 24)
    assert preprocess_from("tf:16", UNSAID, "NHWC").layout == "NHWC"
    assert preprocess_from("unit", GREY).channels == "GRAY"
    assert preprocess_from("bgr", BYTES).dtype == "uint8"
    half = network([node("Cast", "x", "z", to=TensorProto.FLOAT)], kind=TensorProto.FLOAT16)
    assert preprocess_from("unit", half).dtype == "float16"


def test_presets_in_python_and_files_beside_them(tmp_path: Path):
    explainer = onnxsal.Explainer(network(), "gradient", preprocess="caffe")
    black = explainer.conversion.ask.edges["black"]
    np.testing.assert_allclose(np.ravel(black), [-103.939, -116.779, -123.68], rtol=1e-6)  # type: ignore[arg-type]
    (tmp_path / "mine.toml").write_text("scale = 2\n")
    assert onnxsal.Explainer(network(), "gradient", preprocess=tmp_path / "mine.toml").conversion.ask.preprocess == Preprocess(2.0)
    with pytest.raises(InputError, match=r"none\.toml"):
        onnxsal.Explainer(network(), "gradient", preprocess="none.toml")


@pytest.mark.parametrize("name", PRESETS)
def test_a_preprocessing_survives_its_file(name: str, tmp_path: Path):
    made = preprocess_from(name, network())
    (tmp_path / "x.toml").write_text(as_toml(made))
    assert load_preprocess(tmp_path / "x.toml") == made


# ----- what the first nodes tell -----


def of(*shape: int, values: Any) -> np.ndarray:
    return np.asarray(values, np.float32).reshape(shape)


PER_CHANNEL = {"m": of(1, 3, 1, 1, values=MEAN), "s": of(1, 3, 1, 1, values=STD)}
LAST = {"m": of(3, values=[103.939, 116.779, 123.68])}

FIRST: dict[str, tuple[onnx.ModelProto, str, float | None, str | None]] = {
    "lite": (
        network([node("Sub", "x m", "a"), node("Div", "a s", "z")], {"m": of(values=127), "s": of(values=128)}),
        *("(x - 127) / 128", 255.0, None),
    ),
    "imagenet": (network([node("Sub", "x m", "a"), node("Div", "a s", "z")], PER_CHANNEL), "(x - [", 1.0, "RGB"),
    "imagenet from bytes": (
        network([node("Mul", "x k", "b"), node("Sub", "b m", "a"), node("Div", "a s", "z")], {"k": of(values=1 / 255), **PER_CHANNEL}),
        *("(x - [123.675, 116.28, 103.53]) / [58.395, 57.12, 57.375]", 255.0, "RGB"),
    ),
    "caffe, channels last": (
        network([node("Sub", "x m", "a"), node("Transpose", "a", "z", perm=[0, 3, 1, 2])], LAST, shape=("N", 8, 8, 3)),
        *("(x - [103.939, 116.779, 123.68])", 255.0, "BGR"),
    ),
    "turned first": (
        network(
            [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), node("Mul", "t k", "a"), node("Add", "a b", "z")],
            *({"k": of(1, 3, 1, 1, values=1 / STD), "b": of(3, 1, 1, values=-MEAN / STD)},),
            shape=("N", 8, 8, 3),
        ),
        *("(x - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]", 1.0, "RGB"),
    ),
    "bytes": (
        network(
            [node("Cast", "x", "f", to=TensorProto.FLOAT), node("Mul", "f k", "z")], {"k": of(values=1 / 127.5)}, kind=TensorProto.UINT8
        ),
        *("x / 127.5", 255.0, None),
    ),
    "constant first": (network([node("Sub", "m x", "z")], {"m": of(values=1)}), "(x - 1) / -1", 1.0, None),
    "one channel": (network([node("Div", "x s", "z")], {"s": of(values=255)}, shape=("N", 1, 8, 8), depth=1), "x / 255", 255.0, "GRAY"),
    "odd numbers": (network([node("Mul", "x k", "z")], {"k": of(values=0.1)}), "x / 10", None, None),
    "wide numbers": (network([node("Mul", "x k", "z")], {"k": of(values=3000)}), "x / 0.000333333", None, None),
    "mean beyond": (network([node("Sub", "x m", "z")], {"m": of(values=300)}), "(x - 300)", None, None),
}


@pytest.mark.parametrize("case", FIRST)
def test_the_normalisation_in_a_model_is_what_it_computes(case: str):
    model, formula, whole, channels = FIRST[case]
    found = picture_input(Model(model))
    assert found is not None
    assert found.normalised is not None
    told = found.normalised
    assert told.formula.startswith(formula)
    assert (told.whole, found.channels) == (whole, channels)
    assert bool(told.doubt) == (whole is None)
    shape = [d if isinstance(d, int) else 2 for d in (model.graph.input[0].type.tensor_type.shape.dim[i].dim_value or 2 for i in range(4))]
    fed = np.random.default_rng(0).integers(0, 256, shape)
    x = fed.astype(np.uint8 if found.dtype == "uint8" else np.float32)
    inner = onnx.ModelProto.FromString(model.SerializeToString())
    inner.graph.output.append(onnx.helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    z = ReferenceEvaluator(inner).run(["z"], {"x": x})[0]
    channel_last = found.layout == "NHWC"
    values = (fed if channel_last else fed.transpose(0, 2, 3, 1)).astype(np.float64)
    np.testing.assert_allclose(((values - told.mean) / told.std).transpose(0, 3, 1, 2), z, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("first", "weights"),
    [
        ([node("Relu", "x", "z")], {}),
        ([node("Sub", "x m", "z"), node("Relu", "x", "other")], {"m": of(values=127)}),
        ([node("BatchNormalization", "x a b c d", "z")], {k: np.ones(3, np.float32) for k in "abcd"}),
        ([node("Mul", "x x", "z")], {}),
    ],
)
def test_what_is_no_normalisation_by_constants_is_not_taken_for_one(first: list[onnx.NodeProto], weights: dict[str, np.ndarray]):
    found = picture_input(Model(network(first, weights)))
    assert found is not None
    assert found.normalised is None


def test_a_mean_picture_is_said_to_be_none_of_channels():
    found = picture_input(Model(network([node("Sub", "x m", "z")], {"m": draw(3, 8, 8)})))
    assert found is not None
    assert found.normalised is not None
    assert "not do the same to every pixel" in found.normalised.doubt
    assert found.whole is None


def test_a_model_that_tells_all_of_it_is_explained_without_a_word(tmp_path: Path, cat: Path):
    onnx.save(FIRST["imagenet from bytes"][0], tmp_path / "own.onnx")
    result = run("explain", tmp_path / "own.onnx", cat, "-o", tmp_path / "out", "-m", "gradient", "--json")
    assert result.exit_code == 0, result.output
    assert "So RGB pictures are fed as bytes 0..255, whole, stretched" in " ".join(result.stderr.split())
    assert "'b' (Mul), 'a' (Sub), 'z' (Div)" in result.stderr
    (record,) = json.loads(result.stdout)
    pixels = np.asarray(Image.open(cat).resize((8, 8), Image.Resampling.BILINEAR), np.float32).transpose(2, 0, 1)[None]
    found = onnxsal.Explainer(FIRST["imagenet from bytes"][0], "gradient").explain(pixels)
    assert record["score"] == pytest.approx(float(found.score[0]), rel=1e-4)


def test_a_model_that_tells_a_part_of_it_is_not_guessed(tmp_path: Path, cat: Path):
    onnx.save(FIRST["lite"][0], tmp_path / "half.onnx")
    message = " ".join(mistake("explain", tmp_path / "half.onnx", cat, "-o", tmp_path / "out").split())
    assert "its first nodes, 'a' (Sub), 'z' (Div), make (x - 127) / 128 of pixels 0..255" in message
    assert "does not say the order of the colours." in message
    assert f"onnxsal init {tmp_path / 'half.onnx'} {cat}" in message
    done("explain", tmp_path / "half.onnx", cat, "-o", tmp_path / "out", "-m", "gradient", "--preprocess", "rgb")


# ----- init -----

COLOURS = np.random.default_rng(3).integers(20, 236, (6, 3))


def colour_network(truth: Preprocess) -> onnx.ModelProto:
    """Classes 0 to 5 are colours as ``truth`` makes them, the others are the same as all other ways make them: the score of a class is the
    squared distance of the picture's mean to it.
    """
    ways = [truth, *(c.how for c in ALL if (c.how.scale, c.how.mean, c.how.channels) != (truth.scale, truth.mean, truth.channels))]
    made = np.concatenate([how.normalise(COLOURS[:, None, None].astype(np.uint8)).reshape(6, 3) for how in ways])
    nodes = [
        node("ReduceMean", "x axes", "m", keepdims=0),
        node("Unsqueeze", "m one", "u"),
        node("Sub", "u colours", "d"),
        node("Mul", "d d", "s"),
        node("ReduceSum", "s two", "e", keepdims=0),
        node("Mul", "e k", "logits"),
        node("Softmax", "logits", "y", axis=1),
    ]
    weights = {
        "axes": np.array([2, 3] if truth.layout == "NCHW" else [1, 2]),
        "one": np.array([1]),
        "two": np.array([2]),
        "colours": made[None].astype(np.float32),
        "k": np.float32(-500),
    }
    shape = ["N", 3, 8, 8] if truth.layout == "NCHW" else ["N", 8, 8, 3]
    return make(nodes, {"x": shape}, {"y": ["N", len(made)]}, weights)


def coloured(count: int) -> tuple[list[np.ndarray], list[int]]:
    """Noisy pictures of the colours, and the class of each."""
    draw_ = np.random.default_rng(4)
    classes = [i % 6 for i in range(count)]
    return [np.clip(COLOURS[c] + draw_.normal(0, 12, (20, 20, 3)), 0, 255).astype(np.uint8) for c in classes], classes


ALL = candidates(picture_input(Model(network())), [(8, 8)])  # type: ignore[arg-type]


@pytest.mark.parametrize("truth", [*ALL, Candidate(Preprocess(1 / 255, layout="NHWC", resize=(8, 8), crop_pct=1.0), "0..1")], ids=words)
def test_every_way_is_found_where_it_is_the_one_and_classes_are_known(truth: Candidate):
    model = colour_network(truth.how)
    found = picture_input(Model(model))
    assert found is not None
    pictures, classes = coloured(12)
    ranked = Trial(Scorer(model), pictures, classes).of(candidates(found, []))
    assert not ranked.open, ranked.open
    best = ranked.tried[0].candidate
    assert (best.values, best.how.channels, best.how.layout) == (truth.values, truth.how.channels, truth.how.layout)
    assert ranked.tried[0].accuracy == 1


def tried(evidence: np.ndarray, answers: np.ndarray) -> Tried:
    return Tried(ALL[0], evidence, answers, 0.5, 0.5, 0.5)


def test_a_lead_is_measured_on_the_same_looks():
    draw_ = np.random.default_rng(0)
    common, noise = draw_.normal(0, 5, (8, 4)), draw_.normal(0, 0.1, (8, 4))
    a, b = np.eye(8), np.roll(np.eye(8), 1, 0)
    found = lead(tried(common + 0.5, a), tried(common + noise, b))
    gaps = (0.5 - noise).mean(1)
    assert found.mean == pytest.approx(gaps.mean())
    assert found.error == pytest.approx(gaps.std(ddof=1) / np.sqrt(8))
    assert found.decides
    assert not lead(tried(common + 0.05, a), tried(common, b)).decides, "a small lead is none"
    few = np.full((8, 4), 0.01)
    few[:2] = [[9.0], [3.0]]
    assert lead(tried(few, a), tried(np.zeros((8, 4)), b)).mean > 0.1
    assert not lead(tried(few, a), tried(np.zeros((8, 4)), b)).decides, "within chance, though ahead everywhere"
    one = np.zeros((8, 4))
    one[0] = 40
    assert not lead(tried(one, a), tried(np.zeros((8, 4)), b)).decides, "one picture alone"
    assert lead(tried(common, a), tried(common, a * 0.97 + 0.03 / 8)).alike
    assert not found.alike


def test_without_classes_each_look_is_held_against_what_the_others_say():
    model, pictures = cnn(), coloured(3)[0]
    trial = Trial(Scorer(model), pictures)
    (found,) = trial.of([ALL[0]]).tried
    explainer = onnxsal.Explainer(model, "gradient")
    for number, picture in enumerate(pictures):
        fed = np.concatenate([ALL[0].how.apply(look) for look in looks(picture, trial.count, 0.35)])
        p = explainer.explain(fed).outputs["y"].astype(np.float64)
        for k in range(trial.count):
            others = np.delete(p, k, 0).mean(0)
            assert found.evidence[number, k] == pytest.approx((others * np.log(p[k])).sum(), rel=1e-4)
    assert found.accuracy is None


def test_few_pictures_and_one_answer_to_all_decide_nothing():
    found = picture_input(Model(network()))
    assert found is not None
    pictures, classes = coloured(12)
    truth = colour_network(ALL[0].how)
    few = Trial(Scorer(truth), pictures[:2], classes[:2]).of(candidates(found, []))
    assert "2 picture(s) decide nothing" in few.open
    same = Trial(Scorer(truth), [pictures[0]] * 4).of(candidates(found, []))
    assert "one and the same answer to every picture" in same.open
    blind = make(  # the same scores for every picture
        [node("GlobalAveragePool", "x", "m"), node("Flatten", "m", "f"), node("MatMul", "f none", "a"), node("Add", "a b", "y")],
        *({"x": ["N", 3, 8, 8]}, {"y": ["N", 4]}, {"none": np.zeros((3, 4), np.float32), "b": of(1, 4, values=[1, 2, 3, 4])}),
    )
    ranked = Trial(Scorer(blind), pictures, [c % 4 for c in classes]).of(candidates(found, []))
    assert all(ranked.lead(k).alike for k in range(1, len(ranked.tried))), "all mean the same to it"


def test_looks_are_the_same_for_all_and_part_of_the_picture():
    picture = coloured(1)[0][0]
    first, again = (list(looks(picture, 6, 0.35)) for _ in range(2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].size == (20, 20)
    assert all(0.33 * 400 <= one.width * one.height <= 400 for one in first)


def test_the_parts_that_are_tried_and_the_usual_one():
    assert [c.how.crop_pct for c in in_parts(ALL[0])] == [0.875, 1.0, None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model of colours, its labels, and pictures in folders of their classes."""
    truth = next(c for c in ALL if (c.values, c.how.channels) == ("imagenet", "BGR"))
    onnx.save(colour_network(truth.how), tmp_path / "colours.onnx")
    (tmp_path / "labels.txt").write_text("\n".join([*(f"colour {letter}" for letter in "abcdef"), *(f"none {i}" for i in range(54))]))
    for number, (pixels, label) in enumerate(zip(*coloured(12), strict=True)):
        place = tmp_path / "pictures" / f"colour_{'abcdef'[label]}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(place / f"{number}.png")
    return tmp_path


def test_init_shows_the_evidence_and_writes_when_told(folder: Path):
    shown = done("init", folder / "colours.onnx", folder / "pictures")
    assert "decided: BGR, imagenet" in shown.stdout
    assert "100%" in shown.stdout
    assert "nothing is written without --yes" in shown.stdout
    assert not (folder / "colours.toml").exists()
    written = done("init", folder / "colours.onnx", folder / "pictures", "--yes").stdout
    assert "colours.toml" in written.splitlines()[-1]
    made = load_preprocess(folder / "colours.toml")
    assert (made.channels, made.layout) == ("BGR", "NCHW")
    np.testing.assert_allclose(made.mean, MEAN[::-1])
    file = next((folder / "pictures").rglob("*.png"))
    result = run("explain", folder / "colours.onnx", file, "-o", folder / "out", "-m", "gradient", "--json")  # its map is flat, and says so
    (record,) = json.loads(result.stdout)
    assert record["top"][0]["label"].replace(" ", "_") == file.parent.name


def test_init_never_writes_over_a_file(folder: Path):
    (folder / "colours.toml").write_text("scale = 1  # mine\n")
    assert "is there already" in mistake("init", folder / "colours.onnx", folder / "pictures", "--yes")
    assert (folder / "colours.toml").read_text() == "scale = 1  # mine\n"
    answered = answer("init", folder / "colours.onnx", folder / "pictures", "--yes", "-o", folder / "other.toml")
    assert (answered["written"], answered["ambiguous"]) == (str(folder / "other.toml"), None)
    assert len(answered["tried"]) == len(ALL)
    assert "is a file that this command reads" in mistake(
        "init", folder / "colours.onnx", folder / "pictures", "--yes", "-o", folder / "labels.txt"
    )


def test_ambiguous_evidence_writes_nothing_unless_a_row_is_picked(folder: Path):
    one = next((folder / "pictures").rglob("*.png"))
    result = run("init", folder / "colours.onnx", one, "--yes")
    assert result.exit_code == 1
    assert "ambiguous, so nothing is written: 1 picture(s) decide nothing" in " ".join(result.stderr.split())
    assert not (folder / "colours.toml").exists()
    rows = answer("init", folder / "colours.onnx", one, "--yes", "--pick", 3)
    assert rows["written"]
    picked = rows["tried"][2]["preprocess"]
    assert load_preprocess(folder / "colours.toml").channels == picked["channels"]
    assert "Not decided by the evidence" in (folder / "colours.toml").read_text()


def test_a_row_against_the_evidence_is_said_to_be_picked(folder: Path):
    shown = done("init", folder / "colours.onnx", folder / "pictures", "--yes", "--pick", 2).stdout
    second = answer("init", folder / "colours.onnx", folder / "pictures", "-o", folder / "x.toml")["tried"][1]["preprocess"]
    assert "picked: " in shown
    assert load_preprocess(folder / "colours.toml").scale == second["scale"]
    assert "Picked by hand; the answers speak for BGR, imagenet" in (folder / "colours.toml").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--truth", "colour x"], "no class is labelled 'colour x'"),
        (["--truth", "0", "--truth", "1"], "2 times --truth for 12 pictures"),
        (["--pick", "99"], "--pick 99: there are 10 rows"),
        (["--size", "big"], "--size big is no size"),
    ],
)
def test_what_init_refuses(folder: Path, more: list[str], message: str):
    assert message in mistake("init", folder / "colours.onnx", folder / "pictures", *more)


def test_truth_is_told_by_name(folder: Path):
    files = sorted((folder / "pictures").rglob("*.png"))
    named = [w for f in files for w in ("--truth", f.parent.name.replace("_", " "))]
    assert answer("init", folder / "colours.onnx", *files, *named)["tried"][0]["accuracy"] == 1


def test_init_finds_how_efficientnet_lite0_was_fed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """(x - 127) / 128 of RGB, by models/manifest.toml, which does not lie beside this copy; on three pictures of unknown classes."""
    monkeypatch.setattr(preprocessings, "RUNS", 18)
    (tmp_path / "lite.onnx").write_bytes((ROOT / "models" / "efficientnet_lite0.onnx").read_bytes())
    answered = answer("init", tmp_path / "lite.onnx", PICTURES, "--yes")
    made = load_preprocess(tmp_path / "lite.toml")
    assert (made.channels, made.layout, made.size, answered["ambiguous"]) == ("RGB", "NCHW", (224, 224), None)
    rgb = np.random.default_rng(0).integers(0, 256, (1, 4, 4, 3), np.uint8)
    np.testing.assert_allclose(made.normalise(rgb), (rgb.transpose(0, 3, 1, 2) - 127.0) / 128, atol=0.01)


def test_init_finds_how_squeezenet_was_fed(monkeypatch: pytest.MonkeyPatch):
    """BGR minus ImageNet's means."""
    model = squeezenet.network(squeezenet.weights())
    monkeypatch.setattr(preprocessings, "RUNS", 12)
    found = picture_input(Model(model))
    assert found is not None
    pictures = [np.asarray(Image.open(file).convert("RGB")) for file in sorted(PICTURES.iterdir())]
    best = Trial(Scorer(model), pictures).of(candidates(found, [])).tried[0].candidate
    assert (best.values, best.how.channels) == ("minus mean", "BGR")


# ----- messages -----


@pytest.mark.parametrize(
    "words_",
    [
        ["explain", "none.onnx", "none.png"],
        ["explain", "none.onnx", "none.png", "--method", "a,b"],
        ["explain", "none.onnx", "none.png", "--preprocess", "none.toml", "--labels", "none.txt", "--target", "what"],
        ["convert", "none.onnx", "out.onnx", "--method", "nonsense"],
        ["plan", "none.onnx", "--rules", "none.toml"],
        ["check", "none.onnx", "--on", "none.png"],
        ["evaluate", "none.onnx", "nowhere", "--methods", "nonsense"],
        ["audit", "none.onnx", "nowhere", "--fail-if", "nonsense"],
        ["fit-patterns", "none.onnx", "nowhere", "-o", "p.npz"],
        ["init", "none.onnx", "nowhere"],
        ["demo", "none.onnx", "nowhere"],
    ],
    ids=lambda w: " ".join(w),
)
def test_a_missing_model_is_called_missing_before_all_else(words_: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert "model 'none.onnx' cannot be read: No such file or directory" in mistake(*words_)
    assert not leftovers(tmp_path)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("fullgrad,gradcam", ["names 2 methods, and one is meant", "--methods fullgrad,gradcam", "onnxsal explain", "onnxsal evaluate"]),
        ("a, b ,c", ["names 3 methods", "--methods a,b,c"]),
        ("cam", ["not one method", "gradcam", "layercam", "scorecam"]),
        ("Grad-CAM,LRP", ["names 2 methods"]),
        ("SHAP", ["shapley_sampling", "deeplift", "integrated_gradients"]),
        ("KernelShap", ["shapley_sampling"]),
        ("GradientShap", ["integrated_gradients"]),
        ("LIME", ["is not here", "feature_ablation"]),
        ("Attention", ["attention_rollout", "chefer"]),
    ],
)
def test_words_that_name_no_one_method(name: str, parts: list[str]):
    with pytest.raises(MethodError) as caught:
        get_method(name)
    for part in parts:
        assert part in str(caught.value)


def test_every_word_for_a_family_leads_to_methods_that_are_there():
    names = {plain(alias) for m in known_methods().values() for alias in (m.name, *m.aliases)}
    assert not names & set(MEANINGS)
    assert set(SAID) <= names
    for meaning in (*MEANINGS.values(), LRP):
        assert set(meaning.methods) <= set(known_methods())
    assert all(word == plain(word) for word in (*MEANINGS, *SAID))


def test_lrp_says_what_it_is_taken_for(tmp_path: Path):
    onnx.save(cnn(), tmp_path / "cnn.onnx")
    told = run("plan", tmp_path / "cnn.onnx", "--method", "LRP")
    assert told.exit_code == 0
    assert "'LRP' is taken as lrp_zero" in told.stderr
    assert "lrp_epsilon_plus" in told.stderr
    assert not run("plan", tmp_path / "cnn.onnx", "--method", "lrp_zero").stderr


@pytest.mark.parametrize(
    ("domain", "op_type", "hint"),
    [
        ("", "Reul", "'Relu'"),
        ("com.example", "Relue", "'Relu'"),
        ("ai.onnx.ml", "Scaler", ""),
        ("ai.onnx.ml", "Scalar", "'ai.onnx.ml.Scaler'"),
        ("ai.onnx.ml", "Relu", ""),
        ("", "Scaler", "'ai.onnx.ml.Scaler'"),
        ("com.microsoft", "FusedConvv", "'com.microsoft.FusedConv'"),
        ("", "Mystery", ""),
    ],
)
def test_an_operator_is_taken_for_a_slip_of_one_like_it_only(domain: str, op_type: str, hint: str):
    found = near_operator(domain, op_type)
    assert "ScatterND" not in found
    if (domain, op_type) != ("ai.onnx.ml", "Scaler"):  # known, and nearest to itself
        assert found == (f" (did you mean {hint}?)" if hint else "")


def test_an_operator_that_is_written_in_others_is_known():
    assert "written in standard operators" in done("ops", "ai.onnx.ml.Scaler").stdout


HEAD = 'name = "mine"\ntitle = "t"\nsource = "s"\n'


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (  # a wrong type does not hide the mistakes behind it
            HEAD.replace('"t"', "3") + 'wrap = "pth"\nwarp = 1\n[[rule]]\nuse = "gradeint"\n[[refuse]]\nop = 3\n[[refuse]]\nwy = "no"\n',
            ["title must be a text", "unknown wrap 'pth'", "unknown key 'warp'", "row 1: unknown rule 'gradeint'", "refuse[0].op", "row 2"],
        ),
        (  # nor does a base that is not there, whose parameters nobody knows
            'name = "mine"\nextends = "nothing"\n[fixed]\na = 1\n[[rule]]\nuse = "gamma"\ngamma = "$g"\n'
            '[[rule]]\nfamily = "liner"\nuse = "pass"\n',
            ["unknown method 'nothing'", "row 2: unknown family 'liner'"],
        ),
        (HEAD + "parameters = 3\nextends = 4\n", ["parameters must be a table", "extends must be a text"]),
        (
            HEAD + 'rule = "x"\n[parameters.n]\ndefault = 1\ndoc = 2\n[preset]\np = 1\n',
            ["rule must be a list", "parameter 'n': doc", "preset.p must be"],
        ),
    ],
)
def test_all_mistakes_of_a_rule_file_come_at_once(text: str, wanted: list[str]):
    with pytest.raises(MethodError) as caught:
        parse_method(text, "mine.toml", Path("mine.toml"))
    told = str(caught.value).splitlines()
    assert len(told) == len(wanted), told
    assert all(any(part in line for line in told) for part in wanted), told


def test_maps_of_probabilities_are_said_to_stop_elsewhere(tmp_path: Path):
    model = make(
        [
            node("Gemm", "x w", "g"),
            node("Softmax", "g", "p", axis=1),
            node("ZipMap", "p", "y", domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
        ],
        *({"x": ["N", 3]}, {}, {"w": draw(3, 2)}),
        domains={"ai.onnx.ml": 3},
    )
    kind = onnx.helper.make_sequence_type_proto(
        onnx.helper.make_map_type_proto(TensorProto.INT64, onnx.helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    model.graph.output.append(onnx.helper.make_value_info("y", kind))
    onnx.save(model, tmp_path / "zip.onnx")
    result = run("convert", tmp_path / "zip.onnx", tmp_path / "out.onnx", "-m", "gradient")
    assert result.exit_code == 0, result.output
    assert "output 'y' is no tensor but a list" in result.stderr
    assert "options={'zipmap': False}" in result.stderr
