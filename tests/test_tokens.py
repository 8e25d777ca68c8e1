"""Tokens: where ids become vectors, what each of them adds, and that padding is nothing."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import pytest

import onnxsal
from onnxsal.engine.method import known_methods
from onnxsal.errors import MethodError, OnnxsalError, PlanError, TargetError
from onnxsal.explainer import Explainer
from onnxsal.facts.tokens import tokens_of, words_of
from onnxsal.graph import Model
from tests.oracle import run
from tests.token_nets import FEED, IDS, bert, padded, summed, two_texts

# ----- which table holds the words -----

SPELLINGS = {
    ("words",): "words",
    ("flat",): "flat",
    ("int8",): "int8",
    ("words", "types"): "words",
    ("types", "words", "places"): "words",
    ("words", "counted"): "words",
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
    for model in (two_texts(), summed("words", "fed"), summed("words", "types", words=15)):
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
    got = Explainer(bert(exporter, opset), "fullgrad").explain(FEED)
    assert got.attribution.shape == (*IDS.shape, 8)
    np.testing.assert_allclose(got.token_attribution, got.attribution.sum(-1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(got.attribution, reference().attribution, rtol=1e-4, atol=1e-6)
    assert got.residual.max() < 1e-5
    assert got.saliency_map is None


@cache
def reference():
    return Explainer(bert(), "fullgrad").explain(FEED)


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


@cache
def converted(method: str, mask: str) -> onnx.ModelProto | OnnxsalError:
    try:
        return onnxsal.convert(bert("legacy", 17, mask), method, target=1, target_input="fixed")
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
    if not isinstance(converted(method, "added"), onnx.ModelProto):
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


def test_methods_that_explain_texts():
    """The table above is not empty: these at least are in it."""
    for method in ("gradient", "input_x_gradient", "integrated_gradients", "fullgrad"):
        assert isinstance(converted(method, "added"), onnx.ModelProto)
