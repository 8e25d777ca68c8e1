"""Tokens: where ids become vectors, what each of them adds, and that padding is nothing."""

from __future__ import annotations

import copy
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import onnxsal
from onnxsal.engine.method import known_methods
from onnxsal.errors import MethodError, ModelError, OnnxsalError, PlanError, TargetError
from onnxsal.explainer import Explainer
from onnxsal.facts.tokens import tokens_of, words_of
from onnxsal.graph import Model
from onnxsal.methods.build import wrapper_of
from onnxsal.metrics.input_places import chosen_map
from onnxsal.metrics.scorer import scorer_of
from tests.oracle import run
from tests.small_models import cnn, draw, make, node
from tests.token_nets import FEED, IDS, bert, padded, summed, two_texts
from tests.torch_nets import exported, images, net

# ----- which table holds the words -----

SPELLINGS = {
    ("words",): "words",
    ("flat",): "flat",
    ("int8",): "int8",
    ("words", "types"): "words",
    ("types", "words", "places"): "words",
    ("words", "counted"): "words",
    ("words", "hidden"): "words",
    ("int8", "types", "counted"): "int8",
    ("words", "same", "places"): "words",
    ("words", "added"): "words",
}
"""Tables that are summed -> the tensor that holds the vectors of the words."""


@pytest.mark.parametrize("tables", SPELLINGS, ids="+".join)
def test_the_words_are_found(tables: tuple[str, ...]):
    found, why = words_of(Model(summed(*tables)))
    assert found is not None
    assert (found.value.name, found.ids) == (SPELLINGS[tables], "ids")
    assert why


def test_of_several_tables_none_is_guessed():
    """Two texts; tables of about as many rows; and other tables that meet the words elsewhere than in their sum."""
    for model in (two_texts(), two_texts(("word", "type")), summed("words", "fed"), summed("words", "types", words=15)):
        with pytest.raises(TargetError, match="no floating-point input") as refused:
            onnxsal.convert(model)
        named = {n.output[0] for n in model.graph.node if n.op_type == "Gather"}
        assert all(f"'{name}'" in str(refused.value) for name in named)
    for other in ("va", "vb"):
        assert Explainer(two_texts(), "gradient", input=other).conversion.question.tokens.ids == other[1]


@pytest.mark.parametrize("exporter", ["dynamo", "legacy"])
def test_tokens_stay_tokens_until_they_are_mixed(exporter: str):
    """Vectors that are summed and normalised token by token belong to the same ids; behind the attention nobody's do."""
    model = Model(bert(exporter))
    known = [v.name for n in model.nodes for v in n.outputs if v is not None and v.dtype == 1 and (t := tokens_of(model, v)) and t.ids]
    norms = [n.y.name for n in model.nodes if n.op_type == "LayerNormalization"]
    assert words_of(model)[0].value.name in known
    assert norms[0] in known
    assert not set(norms[1:]) & set(known)


# ----- what each token adds -----

EXPORTS = [("legacy", 14), ("legacy", 17), ("legacy", 18), ("dynamo", 18), ("dynamo", 23)]


@pytest.mark.parametrize(("exporter", "opset"), EXPORTS)
def test_one_network_by_every_exporter(exporter: str, opset: int):
    """Found without a word; the signed sum over each token's vector; the same numbers from every file."""
    got = by_fullgrad(exporter, opset)
    assert got.attribution.shape == (*IDS.shape, 8)
    np.testing.assert_allclose(got.token_attribution, got.attribution.sum(-1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.attribution, reference().attribution, rtol=1e-4, atol=1e-6)
    assert got.residual.max() < 1e-5
    assert got.saliency_map is None


@cache
def by_fullgrad(exporter: str, opset: int):
    return Explainer(bert(exporter, opset), "fullgrad").explain(FEED)


def reference():
    return by_fullgrad("dynamo", 18)


# ----- what the rest adds, by name -----


@pytest.mark.parametrize(
    ("exporter", "opset", "score"),
    [*((*export, "logit") for export in EXPORTS), ("legacy", 14, "probability"), ("dynamo", 23, "probability")],
)
def test_parts_sum_to_the_score_and_have_the_same_names_in_every_file(exporter: str, opset: int, score: str):
    logits = score == "logit"
    got = by_fullgrad(exporter, opset) if logits else Explainer(bert(exporter, opset), "fullgrad", score=score).explain(FEED)
    names = ["input", "position", "token type", "softmax", "biases", "functions", "input 'attention_mask'"]
    assert list(got.parts) == names
    np.testing.assert_allclose(sum(got.parts.values()), got.score, rtol=1e-5)
    np.testing.assert_allclose(got.parts["input"], got.token_attribution.sum(-1), rtol=1e-4, atol=1e-6)
    assert np.abs(got.parts["input 'attention_mask'"]).max() < 1e-6, "what is hidden adds nothing"
    if logits:
        for name, part in reference().parts.items():
            np.testing.assert_allclose(got.parts[name], part, rtol=1e-3, atol=1e-6)


def test_parts_are_what_their_names_say():
    """A constant's part is its value times its gradient: what input x gradient says of it where that is explained instead."""
    model, parts = bert("legacy", 17), reference().parts
    for name, tensor in (("position", "/place/Gather_output_0"), ("token type", "/kind/Gather_output_0")):
        alone = Explainer(model, "ixg", input=tensor, batched=False)
        for i, best in enumerate(reference().target):
            own = alone.explain({k: v[i : i + 1] for k, v in FEED.items()}, target=(0, int(best)))
            np.testing.assert_allclose(own.attribution.sum(), parts[name][i], rtol=1e-4, atol=1e-6)


NAMED = {
    ("words", "types"): {"types": "token type"},
    ("types", "words", "places"): {"types": "token type", "places": "position"},
    ("words", "counted"): {"counted": "position"},
    ("words", "hidden"): {"hidden": "position"},
    ("words", "bbox"): {"bbox": "lookup of 'bbox_ids'"},
    ("words", "same", "places"): {"same": "token type", "places": "position"},
    ("words", "types", "same"): {"types": "token type", "same": "token type"},
    ("words", "added"): {"added": "position"},
    ("places", "types", "words"): {"types": "token type", "places": "position"},
}
"""Tables that are summed -> the part of each but the words."""


@pytest.mark.parametrize("tables", NAMED, ids="+".join)
def test_constants_are_named_by_what_they_are_made_of(tables: tuple[str, ...]):
    """Also where constants are summed before the words come to them."""
    model = summed(*tables, words=200)
    feed = {i.name: IDS if i.name == "ids" else FEED["token_type_ids"] for i in model.graph.input}
    got = Explainer(model, "fullgrad").explain(feed, target=1)
    wanted: dict[str, np.ndarray] = {}
    for tensor, name in NAMED[tables].items():
        alone = Explainer(once_per_text(model, tensor), "ixg", input=tensor).explain(feed, target=1)
        wanted[name] = wanted.get(name, 0) + alone.attribution.sum((1, 2))
    assert set(got.parts) == {"input", "functions", *wanted}
    for name, part in wanted.items():
        np.testing.assert_allclose(got.parts[name], part, rtol=1e-4, atol=1e-6)
    assert all(np.abs(part).max() > 1e-4 for part in got.parts.values())


def once_per_text(model: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """The model with a constant repeated for each text, so that it can be explained in the words' place."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    (made,) = (n for n in changed.graph.node if n.output[0] == tensor)
    made.output[0] = f"{tensor} once"
    zero = [node("Gather", "word ids", "repeated"), node("Mul", "repeated nothing", "zero")]
    zero[0].input[0] = "word"
    changed.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0), "nothing"))
    added = onnx.helper.make_node("Add", [f"{tensor} once", "zero"], [tensor])
    place = list(changed.graph.node).index(made) + 1
    rest = list(changed.graph.node)
    del changed.graph.node[:]
    changed.graph.node.extend([*rest[:place], *zero, added, *rest[place:]])
    return changed


def test_a_class_token_and_positions_of_pictures():
    """A parameter joined to the patches, and one added to them: their parts are value times gradient, by torch."""
    net_ = net("vit")
    got = Explainer(exported("vit"), "fullgrad", components=True).explain(images(2).numpy())
    double = copy.deepcopy(net_).double().requires_grad_()
    for name, parameter in (("class token", double.token), ("position", double.positions)):
        by_torch = []
        for x in images(2).double():
            (slope,) = torch.autograd.grad(double(x[None]).max(), parameter)
            by_torch.append(float((slope * parameter).sum().detach()))
        np.testing.assert_allclose(got.parts[name], by_torch, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(sum(got.parts.values()), got.score, rtol=1e-4)
    assert not Explainer(exported("vit"), "fullgrad").explain(images(2).numpy()).parts, "an output more than is asked for"


def test_parts_by_hand():
    """An added number is part of a function, a vector a bias, an input that is not explained bears its name."""
    nodes = [
        node("Add", "x v", "a"),
        node("Add", "a one", "b"),
        node("Add", "b other", "c"),
        node("Add", "c square", "d"),
        node("ReduceSum", "d axes", "y", keepdims=0),
    ]
    weights = {"v": draw(4), "one": np.float32(1), "square": draw(3, 4, seed=1), "axes": np.asarray([1], np.int64)}
    model = make(nodes, {"x": ["N", 3, 4], "other": ["N", 3, 4]}, {"y": ["N", 4]}, weights)
    x, other = draw(2, 3, 4, seed=2), draw(2, 3, 4, seed=3)
    got = Explainer(model, "fullgrad", input="x", components=True).explain({"x": x, "other": other}, target=2)
    wanted = {
        "input": x[:, :, 2].sum(1),
        "biases": np.full(2, 3 * weights["v"][2]),
        "functions": np.full(2, 3.0),
        "other constants": np.full(2, weights["square"][:, 2].sum()),
        "input 'other'": other[:, :, 2].sum(1),
    }
    assert list(got.parts) == list(wanted)
    for name, part in wanted.items():
        np.testing.assert_allclose(got.parts[name], part, rtol=1e-5)


def test_parts_are_kept_in_a_converted_file(tmp_path: Path):
    """The names are in the metadata; one sample's parts are its own; they are saved."""
    again = Explainer(onnxsal.convert(bert(), "fullgrad"))
    got = again.explain(FEED)
    assert list(got.parts) == list(reference().parts)
    for name, part in reference().parts.items():
        np.testing.assert_allclose(got.parts[name], part, rtol=1e-4, atol=1e-6)
        np.testing.assert_array_equal(got[1].parts[name], got.parts[name][1:])
    assert json.loads(got.save(tmp_path / "text").with_suffix(".json").read_text())["parts"]["position"] == got.parts["position"].tolist()


@pytest.mark.parametrize("names", ['["input"]', "[]", "{", '["input", 3]', None])
def test_parts_whose_names_are_damaged_are_refused(names: str | None):
    converted_ = onnxsal.convert(summed("words"), "fullgrad")
    (entry,) = (e for e in converted_.metadata_props if e.key == "onnxsal.parts")
    if names is None:
        converted_.metadata_props.remove(entry)
    else:
        entry.value = names
    with pytest.raises(ModelError, match="metadata is damaged"):
        Explainer(converted_)


def test_an_output_of_the_model_is_not_taken_for_one_of_ours():
    """Where the method adds no output of that name, the model may have one."""
    names = ("parts", "reached", "residual", "token_attribution")
    model = make(
        [node("MatMul", "x w", "y"), *(node("Neg", "y", name) for name in names)], {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": draw(4, 3)}
    )
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, ["N", 3]) for name in names)
    for explainer in (Explainer(model, "gradient", output="y"), Explainer(onnxsal.convert(model, "gradient", output="y"))):
        got = explainer.explain(draw(2, 4))
        assert not got.parts
        assert got.reached is got.residual is got.token_attribution is None
        assert set(got.outputs) == {"y", *names}


# ----- the tokens of pictures -----


@cache
def patches(exporter: str, **options: str):
    return Explainer(exported("vit", exporter), "ixg", tokens=True, **options)


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
def test_patches_are_explained_in_the_pixels_place(exporter: str):
    """At the embedding with its positions: the same as torch's gradient there, the map the signed sums of the grid, resized."""
    x = images(2)
    got = patches(exporter).explain(x.numpy())
    by_torch = torch.stack([of_patches_by_torch(one[None]) for one in x])
    np.testing.assert_allclose(got.attribution, by_torch, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(got.token_attribution, by_torch.sum(-1), rtol=1e-3, atol=1e-5)
    laid = by_torch.sum(-1)[:, None, 1:].reshape(2, 1, 4, 4)
    wanted = torch.nn.functional.interpolate(laid, size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
    np.testing.assert_allclose(got.saliency_map, wanted, rtol=1e-3, atol=1e-5)
    absolute = patches(exporter, reduce="sum_abs").explain(x.numpy()).saliency_map
    laid = by_torch.abs().sum(-1)[:, None, 1:].reshape(2, 1, 4, 4)
    wanted = torch.nn.functional.interpolate(laid, size=(32, 32), mode="bilinear", align_corners=False)[:, 0]
    np.testing.assert_allclose(absolute, wanted, rtol=1e-3, atol=1e-5)


def of_patches_by_torch(x: torch.Tensor) -> torch.Tensor:
    """Embedding times gradient [T, D] of one picture's best class, in double precision."""
    double = copy.deepcopy(net("vit")).double()
    held: list[torch.Tensor] = []

    def hold(module: torch.nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        held.append(given[0].detach().requires_grad_())
        return (held[0],)

    with double.blocks[0].register_forward_pre_hook(hold):
        score = double(x.double()).max()
    (slope,) = torch.autograd.grad(score, held[0])
    return (slope * held[0]).detach()[0]


def test_class_tokens_stand_apart_from_the_patches():
    """The class token's own vector is no part of what the picture adds."""
    got = Explainer(exported("vit"), "fullgrad", tokens=True).explain(images(2).numpy())
    np.testing.assert_allclose(got.parts["class token"], got.token_attribution[:, 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.parts["input"], got.token_attribution[:, 1:].sum(1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(sum(got.parts.values()), got.score, rtol=1e-4)


def test_maps_of_patches_are_measured_like_maps_of_pixels():
    """Metrics change the picture; the map that they rank its pixels by is the resized one, signed."""
    for explainer in (patches("legacy"), Explainer(onnxsal.convert(exported("vit"), "ixg", tokens=True))):
        got = explainer.explain(images(2).numpy())
        np.testing.assert_array_equal(chosen_map(got, signed=True), got.saliency_map)
        assert explainer.conversion.question.shown[1] == (1, 2, 3)
    assert scorer_of(patches("legacy")).question.x.name == "input"


def test_converted_patches_are_known_again():
    again = Explainer(onnxsal.convert(exported("vit"), "ixg", tokens=True))
    first, second = patches("legacy").explain(images(2).numpy()), again.explain(images(2).numpy())
    np.testing.assert_array_equal(first.saliency_map, second.saliency_map)
    assert again.conversion.question.tokens is not None
    assert again.on(exported("vit")).conversion.question.x.name == patches("legacy").conversion.question.x.name
    with pytest.raises(MethodError, match="tokens"):
        Explainer(onnxsal.convert(exported("vit"), "ixg"), tokens=True)


def test_what_has_no_tokens_is_refused():
    with pytest.raises(TargetError, match="the picture is not cut into tokens"):
        onnxsal.convert(cnn(), "ixg", tokens=True)
    vector = make([node("MatMul", "x w", "y")], {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": draw(4, 3)})
    with pytest.raises(TargetError, match="neither tokens nor a picture"):
        onnxsal.convert(vector, "ixg", tokens=True)
    assert Explainer(summed("words"), "ixg", tokens=True).conversion.question.tokens.ids == "ids"


# ----- files -----


def test_the_converted_file_says_it_too():
    """``token_attribution`` [N, L] is an output, and a converted file that is opened again still knows its tokens."""
    converted = onnxsal.convert(bert(), "ixg", target=1)
    got = run(converted, FEED)
    np.testing.assert_allclose(got["token_attribution"], got["attribution"].sum(-1), rtol=1e-4, atol=1e-6)
    again = Explainer(converted)
    assert again.conversion.question.tokens.ids == "input_ids"
    np.testing.assert_array_equal(again.explain(FEED)[1].token_attribution, got["token_attribution"][1:])
    shape = {o.name: o.type.tensor_type.shape for o in converted.graph.output}["token_attribution"]
    assert [d.dim_param for d in shape.dim] == ["N", "L"]


def test_one_sample_without_a_batch():
    """All that is fed is one sample: a number per token all the same."""
    got = Explainer(summed("words", "types"), "ixg", batched=False).explain({"ids": IDS, "type_ids": FEED["token_type_ids"]}, target=(1, 2))
    assert got.token_attribution.shape == IDS.shape
    assert got.token_attribution[1].all()
    assert not got.token_attribution[0].any()


# ----- padding -----

ELSEWHERE = {
    "explains pictures": MethodError,
    "would be the plain gradient under another name": PlanError,
    "have no rule": PlanError,
}
"""Why a method has no place in a text model; any other refusal is a fault."""

SEEN = {"rise": "it tells the mean score where a token is seen, which is not 0 of a token that makes no difference"}
"""Methods whose map is not 0 where nothing depends on the input, and why."""


def vectors(method: str) -> dict[str, Any]:
    """What is asked of methods that would else replace ids: the vectors of words, each all of which are replaced."""
    found = Explainer(bert("legacy", 17, "added"), "gradient").conversion.question.x.name
    return {"input": found} if wrapper_of(known_methods()[method]).integers else {}


@cache
def converted(method: str, mask: str) -> onnx.ModelProto | OnnxsalError:
    try:
        return onnxsal.convert(bert("legacy", 17, mask), method, target=1, target_input="fixed", **vectors(method))
    except OnnxsalError as error:
        return error


@pytest.mark.parametrize("method", known_methods())
def test_a_method_explains_texts_or_has_no_place_there(method: str):
    found = converted(method, "added")
    for words, kind in ELSEWHERE.items():
        assert isinstance(found, onnx.ModelProto) or (words in str(found)) <= isinstance(found, kind)
    assert isinstance(found, onnx.ModelProto) or any(words in str(found) for words in ELSEWHERE), found


@pytest.mark.parametrize("mask", ["added", "smallest", "chosen"])
@pytest.mark.parametrize("method", known_methods())
def test_padding_is_nothing(method: str, mask: str):
    """Tokens of padding get exactly 0, and how many there are changes nothing for the others (noise is drawn for all of them)."""
    if not isinstance(converted(method, "added"), onnx.ModelProto) or method in SEEN:
        return
    model = converted(method, mask)
    assert isinstance(model, onnx.ModelProto), model
    got, more = run(model, FEED), run(model, padded(FEED, 3))
    assert np.abs(got["token_attribution"][FEED["attention_mask"] > 0]).max() > 0
    for found, feed in ((got, FEED), (more, padded(FEED, 3))):
        assert not found["attribution"][feed["attention_mask"] == 0].any()
        assert not found["token_attribution"][feed["attention_mask"] == 0].any()
    if "seed" not in known_methods()[method].parameters:
        np.testing.assert_allclose(more["attribution"][:, :6], got["attribution"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", known_methods())
def test_later_tokens_are_nothing(method: str):
    """Of a decoder the score of one place depends on the tokens up to it: the later ones get exactly 0, or where scores of several turns
    are compared, their rounding, as a product of more rows may add in another order.
    """
    slack = 1e-5 if "chunk" in known_methods()[method].parameters else 0.0
    if not isinstance(converted(method, "added"), onnx.ModelProto) or method in SEEN:
        return
    if method == "class_competition":  # how many classes only the run tells
        return
    explainer = Explainer(bert("legacy", 17, "causal"), method, **vectors(method))
    for place in (1, 4):
        got = explainer.explain(FEED, target=np.asarray([place * 3 + 2]))
        assert np.abs(got.token_attribution[:, : place + 1]).max() > 0
        assert np.abs(got.attribution[:, place + 1 :]).max(initial=0) <= slack * np.abs(got.attribution).max()


def test_methods_that_explain_texts():
    """The table above is not empty: these at least are in it."""
    for method in ("gradient", "input_x_gradient", "integrated_gradients", "fullgrad"):
        assert isinstance(converted(method, "added"), onnx.ModelProto)
