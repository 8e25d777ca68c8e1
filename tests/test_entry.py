"""Integer inputs: where they become floating point is found, and a map is about the input. Truth is autograd in float64."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import TensorProto as T
from PIL import Image
from torch import Tensor

import onnxsal
from onnxsal.errors import MethodError, TargetError
from onnxsal.explainer import Explainer
from tests.small_models import draw, make, node
from tests.test_cli import done, run
from tests.token_nets import summed

KINDS = {"uint8": T.UINT8, "int8": T.INT8, "int16": T.INT16, "uint16": T.UINT16, "int32": T.INT32, "int64": T.INT64}
W1, W2, W3 = draw(4, 3, 3, 3, seed=1, scale=0.4), draw(5, 4, 3, 3, seed=2, scale=0.4), draw(4, 12, 3, 3, seed=3, scale=0.2)


def classified(pixels: Tensor, first: np.ndarray = W1) -> Tensor:
    """The network behind every entry, in float64: pixels [N, C, H, W] as numbers."""
    y = F.conv2d((pixels - 100) * 0.02, torch.as_tensor(first, dtype=torch.float64), padding=1)
    return F.conv2d(torch.tanh(y), torch.as_tensor(W2, dtype=torch.float64), stride=2).mean((2, 3))


def focused(x: Tensor) -> Tensor:
    """Every second pixel, four times, as more channels."""
    return torch.cat([x[:, :, i::2, j::2] for i in (0, 1) for j in (0, 1)], 1)


FOCUS = [
    *(node("Slice", f"image from{i}{j} to axes step", f"s{i}{j}") for i in (0, 1) for j in (0, 1)),
    node("Concat", "s00 s01 s10 s11", "joined", axis=1),
    node("Cast", "joined", "pixels", to=T.FLOAT),
]

FORMS: dict[str, tuple[list[onnx.NodeProto], bool, Callable[[Tensor], Tensor]]] = {
    "cast": ([node("Cast", "image", "pixels", to=T.FLOAT)], False, classified),
    "cast, turned": (
        [node("Cast", "image", "wide", to=T.FLOAT), node("Transpose", "wide", "pixels", perm=[0, 3, 1, 2])],
        True,
        lambda x: classified(x.permute(0, 3, 1, 2)),
    ),
    "turned, cast": (
        [node("Transpose", "image", "turned", perm=[0, 3, 1, 2]), node("Cast", "turned", "pixels", to=T.FLOAT)],
        True,
        lambda x: classified(x.permute(0, 3, 1, 2)),
    ),
    "two casts": (
        [node("Cast", "image", "wider", to=T.INT32), node("Cast", "wider", "pixels", to=T.FLOAT)],
        False,
        classified,
    ),
    "less, as integers": (
        [node("Cast", "image", "i", to=T.INT32), node("Sub", "i shift", "less", name="less"), node("Cast", "less", "pixels", to=T.FLOAT)],
        False,
        lambda x: classified(x - 7),
    ),
    "cut and joined": (FOCUS, False, lambda x: classified(focused(x), W3)),
}
"""How a picture of integers enters -> the nodes, whether channels come last, and the network in float64."""


@cache
def picture(form: str, kind: str = "uint8") -> onnx.ModelProto:
    nodes, last, _ = FORMS[form]
    weights = {"w1": W3 if form == "cut and joined" else W1, "w2": W2, "hundred": np.float32(100), "share": np.float32(0.02)}
    weights |= {"shift": np.int32(7), "to": np.asarray([8, 10]), "axes": np.asarray([2, 3]), "step": np.asarray([2, 2])}
    weights |= {f"from{i}{j}": np.asarray([i, j]) for i in (0, 1) for j in (0, 1)}
    tail = [
        node("Sub", "pixels hundred", "shifted"),
        node("Mul", "shifted share", "scaled"),
        node("Conv", "scaled w1", "c1", pads=[1, 1, 1, 1]),
        node("Tanh", "c1", "t1"),
        node("Conv", "t1 w2", "c2", strides=[2, 2]),
        node("GlobalAveragePool", "c2", "g"),
        node("Flatten", "g", "y"),
    ]
    shape = ["N", 8, 10, 3] if last else ["N", 3, 8, 10]
    used = {i for n in (*nodes, *tail) for i in n.input}
    kept = {k: v for k, v in weights.items() if k in used}
    return make([*nodes, *tail], {"image": shape}, {"y": ["N", 5]}, kept, types={"image": KINDS[kind]})


def pixels(form: str, kind: str = "uint8", seed: int = 0) -> np.ndarray:
    shape = (2, 8, 10, 3) if FORMS[form][1] else (2, 3, 8, 10)
    return np.random.default_rng(seed).integers(0, 120, shape).astype(kind)


@pytest.mark.parametrize(("form", "kind"), [*((form, "uint8") for form in FORMS), *(("turned, cast", kind) for kind in KINDS)])
def test_a_picture_of_integers_has_a_map_in_its_own_shape(form: str, kind: str):
    """The derivative per unit of the integer; own outputs stay as they are."""
    x, truth = pixels(form, kind), FORMS[form][2]
    made = Explainer(picture(form, kind), "gradient")
    found = made.explain(x)
    twin = torch.as_tensor(x.astype(np.float64), dtype=torch.float64).requires_grad_(True)
    scores = truth(twin)
    chosen = scores.argmax(1)
    (wanted,) = torch.autograd.grad(scores[[0, 1], chosen].sum(), twin)
    assert found.target.tolist() == chosen.tolist()
    np.testing.assert_allclose(found.attribution, wanted.numpy(), atol=1e-6 * float(wanted.abs().max()) * 10)
    assert found.saliency_map.shape == (2, 8, 10)
    np.testing.assert_allclose(found.outputs["y"], scores.detach().numpy(), rtol=1e-4, atol=1e-5)
    facts = [fact for fact in made.conversion.question.found if fact.what == "input"]
    assert len(facts) == 1
    assert "'image'" in facts[0].value


@pytest.mark.parametrize("form", ["cast", "turned, cast", "less, as integers"])
def test_black_is_a_black_pixel_of_the_input(form: str):
    """Also where what is explained is shifted: the sum of attributions is the difference to the score of a picture of that pixel."""
    x, truth = pixels(form), FORMS[form][2]
    black = np.full((1, 1, 1, 1), 9, np.uint8)
    found = Explainer(picture(form), "integrated_gradients", n_steps=30, baseline="black", black=black).explain(x)
    wide = torch.as_tensor(x.astype(np.float64))
    gained = (truth(wide) - truth(torch.full_like(wide, 9)))[[0, 1], found.target]
    np.testing.assert_allclose(found.attribution.reshape(2, -1).sum(1), gained.numpy(), rtol=2e-3)
    assert found.residual.max() < 1e-2


@pytest.mark.parametrize("method", ["fullgrad", "gradcam", "occlusion", "rise", "smoothgrad", "lrp_epsilon", "deeplift"])
def test_methods_take_integer_pictures(method: str):
    """What they say of the integers is what they say of the same numbers in floating point."""
    own, nodes = picture("cast"), FORMS["cast"][0]
    twin = onnx.ModelProto.FromString(own.SerializeToString())
    twin.graph.input[0].type.tensor_type.elem_type = T.FLOAT
    twin.graph.node.remove(nodes[0])
    twin.graph.node.insert(0, node("Identity", "image", "pixels"))
    small = {"rise": {"n_masks": 4}, "smoothgrad": {"n_samples": 3}, "occlusion": {"window": 4, "stride": 4}}.get(method, {})
    x = pixels("cast")
    one = Explainer(own, method, **small).explain(x)
    other = Explainer(twin, method, **small).explain(x.astype(np.float32))
    np.testing.assert_allclose(one.attribution, other.attribution, rtol=1e-4, atol=1e-5 * np.abs(other.attribution).max())
    np.testing.assert_allclose(one.saliency_map, other.saliency_map, rtol=1e-4, atol=1e-5 * np.abs(other.saliency_map).max())


def test_a_stored_grid_is_explained_behind_its_scale():
    """A quantised input: what is explained is in the units of its scale, and a black pixel goes through it."""
    model = make(
        [node("DequantizeLinear", "x scale zero", "real"), node("MatMul", "real w", "y")],
        {"x": ["N", 6]},
        {"y": ["N", 3]},
        {"w": draw(6, 3), "scale": np.float32(0.1), "zero": np.uint8(20)},
        types={"x": T.UINT8},
    )
    x = np.arange(12, dtype=np.uint8).reshape(2, 6) * 9
    found = Explainer(model, "gradient").explain(x, target=1)
    np.testing.assert_allclose(found.attribution, np.broadcast_to(draw(6, 3)[:, 1], (2, 6)), rtol=1e-6)


# ----- ids, bytes and characters -----


def texts(form: str, kind: str = "int32") -> tuple[onnx.ModelProto, Callable[[np.ndarray], np.ndarray]]:
    """A network on ids [N, 6], and the tensor [N, 6, D] that it is explained at, from the ids."""
    one, two, table = draw(9, 4, seed=1), draw(7, 4, seed=2), draw(9, seed=5)
    weights = {"one": one, "two": two, "table": table, "seven": np.asarray(7, np.int32), "classes": np.arange(9, dtype=np.int32)}
    weights |= {
        "depth": np.asarray([9], np.int32),
        "ends": np.asarray([0, 1], np.float32),
        "last": np.asarray([-1]),
        "axis": np.asarray([1]),
    }
    forms: dict[str, tuple[list[onnx.NodeProto], int, Callable[[np.ndarray], np.ndarray]]] = {
        "one-hot": ([node("OneHot", "ids depth ends", "v", axis=-1)], 9, lambda i: np.eye(9)[i]),
        "compared": (
            [node("Unsqueeze", "ids last", "u"), node("Equal", "u classes", "e"), node("Cast", "e", "v", to=T.FLOAT)],
            9,
            lambda i: np.eye(9)[i],
        ),
        "table": ([node("Gather", "one ids", "v")], 4, lambda i: one[i]),
        "two tables summed": (
            [node("Gather", "one ids", "a"), node("Mod", "ids seven", "r"), node("Gather", "two r", "b"), node("Add", "a b", "v")],
            4,
            lambda i: one[i] + two[i % 7],
        ),
        "two tables joined": (
            [
                node("Gather", "one ids", "a"),
                node("Mod", "ids seven", "r"),
                node("Gather", "two r", "b"),
                node("Concat", "a b", "v", axis=2),
            ],
            8,
            lambda i: np.concatenate([one[i], two[i % 7]], -1),
        ),
        "a weight for each": ([node("Gather", "table ids", "n"), node("Unsqueeze", "n last", "v")], 1, lambda i: table[i][..., None]),
        "as numbers": (
            [node("Cast", "ids", "n", to=T.FLOAT), node("Unsqueeze", "n last", "v")],
            1,
            lambda i: i.astype(np.float64)[..., None],
        ),
    }
    nodes, width, value = forms[form]
    weights["w1"], weights["w2"] = draw(width, 5, seed=3), draw(5, 3, seed=4)
    tail = [node("MatMul", "v w1", "h"), node("Tanh", "h", "t"), node("ReduceMean", "t axis", "m", keepdims=0), node("MatMul", "m w2", "y")]
    used = {i for n in (*nodes, *tail) for i in n.input}
    model = make(
        [*nodes, *tail], {"ids": ["N", 6]}, {"y": ["N", 3]}, {k: v for k, v in weights.items() if k in used}, types={"ids": KINDS[kind]}
    )
    return model, value


IDS = np.asarray([[1, 5, 7, 2, 0, 8], [3, 8, 8, 7, 6, 2]], np.int32)
TEXTS = ["one-hot", "compared", "table", "two tables summed", "two tables joined", "a weight for each", "as numbers"]


@pytest.mark.parametrize("form", TEXTS)
def test_ids_have_a_number_for_each(form: str):
    """[N, L], the shape of the ids: the gradient times the input, summed over the vector of each."""
    model, value = texts(form)
    made = Explainer(model, "gradient_x_input")
    found = made.explain(IDS, target=1)
    v = torch.as_tensor(value(IDS), dtype=torch.float64).requires_grad_(True)
    w1, w2 = (torch.as_tensor(draw(*s, seed=k), dtype=torch.float64) for s, k in (((v.shape[-1], 5), 3), ((5, 3), 4)))
    (g,) = torch.autograd.grad((torch.tanh(v @ w1).mean(1) @ w2)[:, 1].sum(), v)
    wanted = (g * v).sum(-1).detach().numpy()
    numbers = found.attribution if found.token_attribution is None else found.token_attribution
    assert numbers.shape == IDS.shape
    np.testing.assert_allclose(numbers, wanted, rtol=1e-4, atol=1e-6)
    assert made.conversion.question.source == "ids"
    assert any(fact.what == "input" and "'ids' int32" in fact.value for fact in made.conversion.question.found)


# ----- which of several -----


def several(*parts: str) -> onnx.ModelProto:
    """A picture (``image``, uint8), its size (``size``), a text (``ids``), flags (``mask``), numbers (``floats``), each of which adds."""
    spelled = {
        "image": (
            [
                node("Cast", "image", "p", to=T.FLOAT),
                node("Conv", "p w1", "c"),
                node("GlobalAveragePool", "c", "g"),
                node("Flatten", "g", "a_image"),
            ],
            ["N", 3, 8, 10],
            T.UINT8,
        ),
        "size": ([node("Cast", "size", "s", to=T.FLOAT), node("MatMul", "s w_size", "a_size")], ["N", 2], T.INT64),
        "ids": ([node("Gather", "table ids", "v"), node("ReduceMean", "v axis", "a_ids", keepdims=0)], ["N", 6], T.INT64),
        "mask": ([node("Cast", "mask", "f", to=T.FLOAT), node("MatMul", "f w_mask", "a_mask")], ["N", 6], T.INT64),
        "floats": ([node("MatMul", "floats w_size", "a_floats")], ["N", 2], T.FLOAT),
    }
    weights = {"w1": W1, "w_size": draw(2, 4), "w_mask": draw(6, 4), "table": draw(9, 4), "axis": np.asarray([1])}
    nodes = [n for part in parts for n in spelled[part][0]]
    nodes.append(node("Sum", " ".join(f"a_{part}" for part in parts), "y"))
    used = {i for n in nodes for i in n.input}
    inputs = {part: spelled[part][1] for part in parts}
    kept = {k: v for k, v in weights.items() if k in used}
    return make(nodes, inputs, {"y": ["N", 4]}, kept, types={part: spelled[part][2] for part in parts})


CHOSEN = {
    ("image", "size"): "image",
    ("ids", "mask"): "ids",
    ("ids", "size", "mask"): "ids",
    ("image", "floats"): "floats",
    ("ids", "mask", "floats"): "floats",
    ("mask",): "mask",
}
"""Inputs that add to the scores -> the one that is explained."""


@pytest.mark.parametrize("parts", CHOSEN, ids="+".join)
def test_one_of_several_inputs_is_explained_by_what_is_proved(parts: tuple[str, ...]):
    assert Explainer(several(*parts), "gradient").conversion.question.source == CHOSEN[parts]


@pytest.mark.parametrize("parts", [("image", "ids"), ("mask", "size"), ("image", "ids", "mask")], ids="+".join)
def test_what_is_not_proved_is_refused_with_all_that_could_be_meant(parts: tuple[str, ...]):
    model = several(*parts)
    with pytest.raises(TargetError, match="no floating-point input") as refused:
        onnxsal.convert(model)
    for part in parts:
        assert f"'{part}'" in str(refused.value)
        assert Explainer(model, "gradient", input=part).conversion.question.source == part


def test_a_mixed_model_is_explained_at_either():
    """The picture and the words of the same sample: derivatives of the same score."""
    model = several("image", "ids")
    feed = {"image": pixels("cast"), "ids": IDS.astype(np.int64)}
    seen = Explainer(model, "gradient", input="image").explain(feed, target=2)
    read = Explainer(model, "gradient", input="ids").explain(feed, target=2)
    assert seen.attribution.shape == (2, 3, 8, 10)
    assert read.token_attribution.shape == (2, 6)
    assert np.allclose(read.attribution[:, :, 2], 1 / 6)


def test_models_of_words_stay_as_they_were():
    """An attention mask that is moved and then cast is none of a picture: no node of such a model is moved."""
    model = summed("words", "types")
    before = [n.SerializeToString() for n in model.graph.node]
    made = onnxsal.convert(model, "gradient")
    assert [n.SerializeToString() for n in made.graph.node][: len(before)] == before


# ----- files -----


def test_a_picture_is_explained_by_the_command_line(tmp_path: Path):
    """Pixels as they are go in, whatever integer the model takes; what is scaled is refused; the file tells what is explained."""
    net, cat, out = tmp_path / "net.onnx", tmp_path / "cat.png", tmp_path / "out"
    onnx.save(picture("turned, cast"), net)
    Image.fromarray(pixels("cast, turned")[0]).resize((20, 16)).save(cat)
    ours = 'layout = "NHWC"\nresize = [8, 10]\nscale = {}\n'
    (tmp_path / "net.toml").write_text(ours.format(1.0))
    words = ("explain", net, cat, "--method", "integrated_gradients", "--baseline", "black", "--out", out)
    (told,) = json.loads(done(*words, "--show-path", "--json").stdout)
    assert np.load(told["files"]["attribution"]).shape == (1, 8, 10, 3)
    assert Path(told["files"]["overlay"]).exists()
    (tmp_path / "net.toml").write_text(ours.format(0.3))
    refused = run(*words)
    assert refused.exit_code
    assert "whole numbers" in refused.stderr
    for verb in ("plan", "check"):
        assert "'image' uint8" in done(verb, net, "--method", "gradient").stdout
    done("convert", net, tmp_path / "made.onnx", "--method", "gradient")
    facts = json.loads(next(p.value for p in onnx.load(tmp_path / "made.onnx").metadata_props if p.key == "onnxsal.facts"))
    assert any(fact["what"] == "input" for fact in facts)
    again = Explainer(tmp_path / "made.onnx", input="image").explain(pixels("turned, cast"))
    assert again.attribution.shape == (2, 8, 10, 3)


def test_black_is_not_guessed_where_the_file_does_not_say_it():
    with pytest.raises(MethodError, match="black"):
        onnxsal.convert(picture("cast"), "integrated_gradients", baseline="black")
