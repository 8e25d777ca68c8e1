"""Texts: words put together again, padding that is nothing, inputs by their roles, pages that nothing in a text acts in; and likeness."""

from __future__ import annotations

import json
import os
import re
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from rich.console import Console
from typer.testing import CliRunner, Result

import onnxsal
from onnxsal.ask.question import ask
from onnxsal.ask.request import Ask
from onnxsal.ask.text_inputs import Role, text_inputs
from onnxsal.cli.app import app
from onnxsal.errors import InputError, TargetError
from onnxsal.explainer import Explainer
from onnxsal.facade.convert import decide
from onnxsal.facts.grounds import Ground
from onnxsal.given.text import TextReader, texts_of
from onnxsal.given.text_words import shown_text
from onnxsal.given.tokenizer import load_tokenizer
from onnxsal.graph import Model
from onnxsal.report.text_terminal import text_in_terminal
from onnxsal.runtime.libraries import MissingLibraryError
from onnxsal.runtime.session import Tensor
from onnxsal.runtime.shown import ShownText
from onnxsal.runtime.text_colours import _contrast, ground_of, ink_on
from onnxsal.runtime.text_figure import draw_text
from onnxsal.runtime.text_html import text_html
from onnxsal.runtime.text_pieces import PieceKind, text_pieces, words_in
from tests.token_nets import bert, bert_net, summed
from tests.tokenizer_files import KINDS, all_bytes, saved, word_piece

# ----- words -----

CUT = {
    ("WordPiece", "The cats, playing."): ["The", "cats", ",", "playing", "."],
    ("WordPiece", "a  猫犬 sat"): ["a", "猫", "犬", "sat"],
    ("BPE", "the cat plays."): ["the", "cat", "plays", "."],
    ("Unigram", "the cat  playing."): ["the", "cat", "playing."],
    ("Unigram, unsplit", "the cat  playing. 好猫"): ["the", "cat", "playing.", "好", "猫"],
}


@pytest.mark.parametrize(("kind", "text"), CUT)
def test_words_are_put_together_again(kind: str, text: str):
    shown = shown_text([text], KINDS[kind]().encode(text))
    words = words_in(text_pieces(shown, np.zeros(len(shown.tokens))))
    assert [word.text for word in words] == CUT[kind, text]
    assert [text[word.start : word.end] for word in words] == CUT[kind, text]
    for word in words:
        assert {shown.words[i] for i in word.tokens} == {shown.words[word.tokens[0]]}


def test_the_words_of_a_pair_are_counted_through_both():
    shown = shown_text(("the cat", "a dog"), word_piece().encode("the cat", "a dog"))
    assert shown.words == (None, 0, 1, None, 2, 3, None)
    assert shown.spans == (None, (0, 0, 3), (0, 4, 7), None, (1, 0, 1), (1, 2, 5), None)
    pieces = text_pieces(shown, np.arange(7.0))
    assert [(p.kind.value, p.text, p.part) for p in pieces] == [
        ("special", "[CLS]", 0), ("word", "the", 0), ("gap", " ", 0), ("word", "cat", 0), ("special", "[SEP]", 0),
        ("word", "a", 1), ("gap", " ", 1), ("word", "dog", 1), ("special", "[SEP]", 1),
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1, max_size=12).filter(str.strip), st.integers(0, 1000))
def test_pieces_are_the_text_and_their_values_the_tokens(text: str, seed: int):
    """Every character once and in order, whatever the script; a word has the sum of its tokens; letters in pieces are one word."""
    shown = shown_text([text], all_bytes().encode(text))
    values = np.random.default_rng(seed).standard_normal(len(shown.tokens))
    pieces = text_pieces(shown, values)
    assert "".join(piece.text for piece in pieces) == text
    np.testing.assert_allclose(sum(piece.value for piece in pieces), values.sum(), atol=1e-9)
    assert sorted(i for piece in pieces for i in piece.tokens) == list(range(len(values)))


def test_values_that_do_not_fit_are_refused():
    shown = shown_text(["the cat"], word_piece().encode("the cat"))
    with pytest.raises(InputError, match="4 tokens are shown with values of shape"):
        text_pieces(shown, np.zeros(3))
    with pytest.raises(InputError, match="NaN or infinite"):
        text_pieces(shown, np.asarray([0, np.nan, 0, 0]))


# ----- a model that reads texts -----

LONG, SHORT = "The cats sat on a mat .", "dog playing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model beside its tokenizer."""
    place = tmp_path_factory.mktemp("text")
    onnx.save(bert("legacy"), place / "bert.onnx")
    onnx.save(bert("legacy", mask="causal"), place / "encoder.onnx")
    onnx.save(summed("words"), place / "words.onnx")
    saved(word_piece(), place)
    (place / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 16}))
    return place


@pytest.fixture(scope="module")
def explainer(folder: Path) -> Explainer:
    return Explainer(folder / "bert.onnx", "fullgrad")


def test_a_batch_has_the_maps_of_each_text_and_padding_has_none(explainer: Explainer):
    whole = explainer.explain(text=[LONG, (SHORT, "a cat")])
    tokens = whole.token_attribution
    assert tokens is not None
    for i, text in enumerate([LONG, (SHORT, "a cat")]):
        shown = whole.shown[i]
        assert isinstance(shown, ShownText)
        alone = explainer.explain(text=text)
        real = ~np.asarray(shown.padding)
        np.testing.assert_allclose(tokens[i][real], alone.token_attribution[0], rtol=1e-4, atol=1e-6)
        assert not tokens[i][~real].any(), "exactly 0"
        np.testing.assert_allclose(whole.score[i], alone.score[0], rtol=1e-5)
        rest = sum(part[i] for name, part in whole.parts.items() if name != "input")
        pieces = text_pieces(shown, tokens[i])
        np.testing.assert_allclose(sum(piece.value for piece in pieces) + rest, whole.score[i], rtol=1e-4)
    assert sum(whole.shown[0].padding) == 0
    assert sum(whole.shown[1].padding) == 2


def test_what_is_fed_is_what_the_tokenizer_says(explainer: Explainer):
    feed, _ = explainer.texts.reader().batch([("the cat", "a dog"), "the"])
    encoded = word_piece().encode("the cat", "a dog")
    assert feed["input_ids"].tolist() == [encoded.ids, [2, 4, 3, 0, 0, 0, 0]]
    assert feed["attention_mask"].tolist() == [[1] * 7, [1, 1, 1, 0, 0, 0, 0]]
    assert feed["token_type_ids"].tolist() == [encoded.type_ids, [0] * 7]


def test_too_long_a_text_is_refused_or_cut_off(explainer: Explainer):
    with pytest.raises(InputError, match=r"has 22 tokens, and at most 16 are taken \(model_max_length in .*--truncate"):
        explainer.explain(text="cat " * 20)
    cut = explainer.explain(text="cat " * 20, truncate=True)
    pieces = text_pieces(cut.shown[0], cut.token_attribution[0])
    assert len(cut.shown[0].tokens) == 16
    assert len(words_in(pieces)) == 14
    assert "".join(piece.text for piece in pieces if piece.kind is not PieceKind.SPECIAL) == "cat " * 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a text is empty"), (" \n", "a text is empty"), ([], "no text"), (3, "is no text"), ([("a", "b", "c")], "no pair of texts"),
        ("a\udcff", "no Unicode"), ([None], "no pair of texts"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused(text: Any, message: str):
    with pytest.raises(InputError, match=message):
        texts_of(text)


def test_beside_the_model_above_it_or_named(folder: Path, tmp_path: Path):
    (tmp_path / "onnx").mkdir()
    onnx.save(summed("words"), tmp_path / "onnx" / "model.onnx")
    made = Explainer(tmp_path / "onnx" / "model.onnx", "gradient")
    with pytest.raises(InputError, match=r"none beside the model.*and.*--tokenizer FILE"):
        made.explain(text="the cat")
    assert made.explain(text="the cat", tokenizer=folder).shown[0].texts == ("the cat",)
    saved(word_piece(), tmp_path)
    assert made.explain(text="the cat").shown[0].texts == ("the cat",)
    with pytest.raises(InputError, match="no mask to hide"):
        made.explain(text=["the cat", "the"])
    with pytest.raises(InputError, match="no file that one could lie beside"):
        Explainer(summed("words"), "gradient").explain(text="the")


def test_a_fixed_length_is_filled_up(tmp_path: Path):
    onnx.save(summed("words", "added"), tmp_path / "model.onnx")
    saved(KINDS["BPE"](), tmp_path)
    made = Explainer(tmp_path / "model.onnx", "gradient")
    with pytest.raises(InputError, match="filled up to 6 tokens, and no file beside"):
        made.explain(text="the cat")
    (tmp_path / "config.json").write_text(json.dumps({"pad_token_id": 1}))
    found = Explainer(tmp_path / "model.onnx", "gradient").explain(text="the cat")
    assert found.shown[0].padding == (False, False, True, True, True, True)
    with pytest.raises(InputError, match=r"at most 6 are taken .the model's input 'ids'"):
        made.explain(text="the cat the cat the cat the cat")


@pytest.mark.parametrize("broken", ["", "{}", "[]", '{"model": {"type": "WordPiece"}}', "\0", '{"version": "1.0", "model": null}'])
def test_a_damaged_tokenizer_is_named(tmp_path: Path, broken: str):
    file = tmp_path / "tokenizer.json"
    file.write_text(broken)
    with pytest.raises(InputError, match=r"tokenizer.json"):
        load_tokenizer(file)


@pytest.mark.parametrize("key", ["model_max_length", "padding_side"])
def test_damaged_settings_beside_it_are_named(tmp_path: Path, key: str):
    file = saved(word_piece(), tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({key: "many"}))
    with pytest.raises(InputError, match=key):
        load_tokenizer(file)


def test_without_the_library_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'onnxsal\[text\]'"):
        load_tokenizer(tmp_path / "tokenizer.json")


# ----- which input is what -----


def renamed(model: onnx.ModelProto, names: dict[str, str], inverted: str = "") -> onnx.ModelProto:
    """The model with other names of its inputs; ``inverted`` is a mask that is then 1 where a token is hidden."""
    made = onnx.ModelProto.FromString(model.SerializeToString())
    for one in made.graph.input:
        one.name = names[one.name]
    before = [helper.make_node("Identity", [new], [old], name=f"was/{old}") for old, new in names.items() if old != inverted]
    if inverted:
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(1, np.int64), "one"))
        before.append(helper.make_node("Sub", ["one", names[inverted]], [inverted], name="was/inverted"))
    nodes = [*before, *made.graph.node]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def roles_in(model: onnx.ModelProto, told: dict[str, str] | None = None):
    question = ask(Model(model), score="raw", batched=True)
    values = [question.model.value(n) for n in question.model.input_names]
    inputs = [Tensor(v.name, "", np.dtype(helper.tensor_dtype_to_np_dtype(v.dtype)), v.shape) for v in values]
    return text_inputs(question, inputs, told)


ODD = {"input_ids": "c", "attention_mask": "a", "token_type_ids": "b"}


@pytest.mark.parametrize(("inverted", "role"), [("", Role.MASK), ("attention_mask", Role.HIDDEN)])
@pytest.mark.parametrize("mask", ["added", "causal"])
def test_inputs_are_known_by_what_they_do(mask: str, inverted: str, role: Role):
    found = roles_in(renamed(bert("legacy", mask=mask), ODD, inverted))
    assert {r: t.name for r, t in found.names.items()} == {Role.IDS: "c", role: "a", Role.TYPES: "b"}
    grounds = {fact.value.split("'")[1]: fact.ground for fact in found.found}
    assert grounds == {"c": Ground.PROVED, "a": Ground.SEEN, "b": Ground.PROVED}


def test_a_mask_that_is_one_where_hidden_is_fed_so(folder: Path, tmp_path: Path):
    onnx.save(renamed(bert("legacy"), ODD, "attention_mask"), tmp_path / "model.onnx")
    turned = Explainer(tmp_path / "model.onnx", "fullgrad").explain(text=[LONG, SHORT], tokenizer=folder)
    plain = Explainer(folder / "bert.onnx", "fullgrad").explain(text=[LONG, SHORT])
    np.testing.assert_allclose(turned.token_attribution, plain.token_attribution, rtol=1e-4, atol=1e-6)


def test_what_nothing_tells_is_refused_until_it_is_said():
    model = summed("words", "fed", places=5)
    assert roles_in(model).names[Role.POSITIONS].name == "position_ids"  # by its name
    odd = renamed(model, {"ids": "ids", "position_ids": "where"})
    with pytest.raises(InputError, match=r"'where' holds is not known.*ids int64\[N,L\] \(the ids\).*of 5 rows.*--roles"):
        roles_in(odd)
    assert roles_in(odd, {"positions": "where"}).names[Role.POSITIONS].name == "where"
    for told, message in {"place": "no role of an input", "mask": "no input 'there'"}.items():
        with pytest.raises(InputError, match=message):
            roles_in(odd, {told: "there"})


# ----- likeness -----


@cache
def torch_gradient(pooling: str, reference: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cosine, its gradient by the words' vectors, and the unit embedding, by torch; the formula of sentence-transformers."""
    net, kept = bert_net("causal"), []
    net.word.register_forward_hook(lambda module, args, out: kept.append(out) or out.retain_grad())
    ids, mask, types = (
        torch.tensor([[2, 4, 6, 7, 3], [2, 5, 3, 0, 0]]),
        torch.tensor([[1] * 5, [1, 1, 1, 0, 0]]),
        torch.zeros(2, 5, dtype=torch.long),
    )
    states, weights = net(ids, mask, types), mask[..., None].float()
    vectors = (states * weights).sum(1) / weights.sum(1) if pooling == "mean" else states[:, 0]
    score = F.cosine_similarity(vectors, torch.tensor([reference]))
    score.sum().backward()
    return score.detach().numpy(), kept[0].grad.numpy(), F.normalize(vectors).detach().numpy()


@pytest.mark.parametrize("built_in", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_the_cosine_is_that_of_torch(pooling: str, built_in: bool):
    reference = (0.3, -1.2, 0.7)
    options: dict[str, Any] = {"reference": np.asarray(reference)} if built_in else {}
    made = Explainer(bert("legacy", mask="causal"), "gradient", score="cosine", pooling=pooling, **options)
    ids, mask = np.asarray([[2, 4, 6, 7, 3], [2, 5, 3, 0, 0]]), np.asarray([[1] * 5, [1, 1, 1, 0, 0]])
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    found = made.explain(feed if built_in else {**feed, "reference": np.asarray([reference] * 2, np.float32)})
    score, gradient, unit = torch_gradient(pooling, reference)
    np.testing.assert_allclose(found.score, score, rtol=1e-5)
    np.testing.assert_allclose(found.attribution, gradient, rtol=1e-3, atol=2e-6)
    np.testing.assert_allclose(found.outputs["unit_embedding"], unit, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.outputs["similarity"][:, 0], score, rtol=1e-5)


@pytest.mark.parametrize("method", ["fullgrad", "attnlrp", "integrated_gradients"])
def test_the_laws_hold_for_a_cosine(folder: Path, method: str):
    found = Explainer(folder / "encoder.onnx", method, score="cosine", pooling="mean").explain(text=[LONG, SHORT], like="the cat sat")
    assert found.residual.max() < (2e-2 if method == "integrated_gradients" else 1e-5)
    if found.parts:
        np.testing.assert_allclose(sum(found.parts.values()), found.score, rtol=1e-4, atol=1e-6)
    assert not found.token_attribution[1][np.asarray(found.shown[1].padding)].any()


def test_a_text_is_like_itself(folder: Path):
    made = Explainer(folder / "encoder.onnx", "gradient", score="cosine", pooling="mean")
    found = made.explain(text=[LONG, SHORT], like=[LONG, SHORT])
    np.testing.assert_allclose(found.score, 1, rtol=1e-6)
    other = made.explain(text=[LONG, SHORT], like=SHORT)
    np.testing.assert_allclose(other.score[1], 1, rtol=1e-6)
    assert other.score[0] < 1 - 1e-3
    assert np.abs(found.attribution).max() < 1e-3 * np.abs(other.attribution[0]).max(), "the top of a hill"


def test_a_vector_for_each_text_needs_no_pooling():
    made = decide(Ask.of(bert("legacy"), "gradient", score="cosine", reference=np.asarray([1.0, 0, 0])))
    assert made.question.likeness.pooling == ""
    with pytest.raises(TargetError, match="one vector for each sample already"):
        decide(Ask.of(bert("legacy"), "gradient", score="cosine", pooling="mean"))


def test_pooling_is_read_beside_the_model_and_never_guessed(folder: Path, tmp_path: Path):
    onnx.save(bert("legacy", mask="causal"), tmp_path / "model.onnx")
    with pytest.raises(TargetError, match="how they become one is not in the file"):
        onnxsal.convert(tmp_path / "model.onnx", score="cosine")
    (tmp_path / "1_Pooling").mkdir()
    for way, pooling in {"cls_token": "first", "mean_tokens": "mean"}.items():
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({f"pooling_mode_{way}": True, "word_embedding_dimension": 3}))
        assert decide(Ask.of(tmp_path / "model.onnx", score="cosine")).question.likeness.pooling == pooling
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(TargetError, match="how they become one"):
        onnxsal.convert(tmp_path / "model.onnx", score="cosine")


@pytest.mark.parametrize(
    ("reference", "message"),
    [(np.zeros(3), "zero everywhere"), (np.ones(4), "has 4 numbers, and the model's embedding 3"), (np.ones((2, 3)), "is no embedding")],
)
def test_a_reference_that_points_nowhere_is_refused(reference: np.ndarray, message: str):
    with pytest.raises(TargetError, match=message):
        onnxsal.convert(bert("legacy"), score="cosine", reference=reference)


def test_a_converted_file_compares_and_says_so(folder: Path, tmp_path: Path):
    made = onnxsal.convert(folder / "encoder.onnx", "fullgrad", score="cosine", pooling="mean")
    assert [o.name for o in made.graph.output][:3] == [bert("legacy", mask="causal").graph.output[0].name, "unit_embedding", "similarity"]
    assert "reference" in [i.name for i in made.graph.input]
    onnx.save(made, tmp_path / "explained.onnx")
    saved(word_piece(), tmp_path)
    again = Explainer(tmp_path / "explained.onnx").explain(text=LONG, like=SHORT)
    first = Explainer(folder / "encoder.onnx", "fullgrad", score="cosine", pooling="mean").explain(text=LONG, like=SHORT)
    np.testing.assert_allclose(again.attribution, first.attribution, rtol=1e-4, atol=1e-7)


def test_the_first_token_is_no_padding(folder: Path, tmp_path: Path):
    tokenizer = word_piece()
    tokenizer.enable_padding(direction="left", pad_id=0, pad_token="[PAD]")
    made = Explainer(folder / "encoder.onnx", "gradient", score="cosine", pooling="first")
    with pytest.raises(InputError, match="fills up on the left"):
        made.explain(text=[LONG, SHORT], like=SHORT, tokenizer=saved(tokenizer, tmp_path))


def test_like_without_a_cosine_is_refused(explainer: Explainer):
    with pytest.raises(TargetError, match="--score cosine"):
        explainer.explain(text=LONG, like=SHORT)


# ----- shown -----

HOSTILE = "<script>alert(1)</script> cat\x1b[31m & \u202egnp.exe\u202c \"'>\u200b sat 👩\u200d👩\u200d👧 שלום 猫好\x00\n$x^2$"
ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069]")


class Seen(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags, self.words, self.titles = list[str](), "", list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.titles += [value or "" for name, value in attrs if name == "title"]
        assert not [name for name, _ in attrs if name.startswith("on") or name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words += data


def hostile() -> tuple[ShownText, np.ndarray]:
    shown = shown_text([HOSTILE], all_bytes().encode(HOSTILE))
    return shown, np.random.default_rng(0).standard_normal(len(shown.tokens))


def test_nothing_in_a_text_acts_in_a_page():
    shown, values = hostile()
    page = text_html(shown, values)
    assert not ACTING.search(page)
    seen = Seen(page)
    assert set(seen.tags) == {"div", "p", "span"}
    for kept in ("<script>alert(1)</script>", "👩", "שלום", "猫好", "\\x1b[31m", "\\u202egnp.exe"):
        assert kept in seen.words
    words = words_in(text_pieces(shown, values))
    told = [float(title.split(" = ")[0].rsplit(" ", 1)[1]) for title in seen.titles]
    assert told == [float(f"{word.value:+.4g}") for word in words]


def drawn(colour: bool) -> str:
    shown, values = hostile()
    console = Console(force_terminal=colour, color_system="truecolor" if colour else None, width=100, highlight=False)
    with console.capture() as captured:
        console.print(text_in_terminal(shown, values))
    return captured.get()


def test_nothing_in_a_text_acts_in_a_terminal():
    plain = drawn(False)
    assert not ACTING.search(plain)
    assert "\\x1b[31m" in plain
    coloured = drawn(True)
    assert not ACTING.search(re.sub(r"\x1b\[[0-9;]*m", "", coloured)), "colours are all that is not text"
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured).split() == plain.split(), "what colours say is said without them"


def test_the_strongest_words_are_numbers_without_colour(explainer: Explainer):
    found = explainer.explain(text=LONG)
    shown, values = found.shown[0], found.token_attribution[0]
    console = Console(width=100, color_system=None)
    with console.capture() as captured:
        console.print(text_in_terminal(shown, values))
    lines = captured.get()
    words = sorted(words_in(text_pieces(shown, values)), key=lambda word: -abs(word.value))
    told = re.findall(r"^([+-]*) +([+-]\S+) +(\S+) *$", lines, re.M)
    assert [(word, float(number)) for _, number, word in told] == [(w.text, float(f"{w.value:+.4g}")) for w in words]
    assert all({*bar} <= {number[0]} for bar, number, _ in told)
    assert max(len(bar) for bar, _, _ in told) == 12 == len(told[0][0])


def test_letters_can_be_read_on_every_colour():
    for value in np.linspace(-1, 1, 41):
        ground = ground_of(float(value), 1.0)
        assert _contrast(ink_on(ground), ground) >= 4.5
    assert ground_of(0.0, 1.0) == (255, 255, 255)
    blue, red = ground_of(-1.0, 1.0), ground_of(1.0, 1.0)
    assert blue[2] > blue[0]
    assert red[0] > red[2]


def test_a_figure_has_every_word_within_its_width():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 3))
    FigureCanvasAgg(figure)
    text = "the cat sat on the mat $x^2$\n" * 3
    shown = shown_text([text], all_bytes().encode(text))
    values = np.linspace(-1, 1, len(shown.tokens))
    ax = draw_text(figure.add_subplot(), shown, values)
    figure.canvas.draw()
    inside = ax.get_window_extent()
    words = [one for one in ax.texts if one.get_text().strip()]
    assert "".join(one.get_text() for one in words) == "".join(text.split())
    for one in words:
        box = one.get_window_extent()
        assert box.x0 >= inside.x0 - 1
        assert box.x1 <= inside.x1 + 1
    rows = {round(one.get_position()[1], 6) for one in words}
    assert len(rows) >= 3


def test_a_plot_without_axes_is_the_figure(explainer: Explainer):
    """The strongest word on the darkest ground, and white paper around."""
    found = explainer.explain(text=["the cat", LONG])
    pixels = np.asarray(found.plot(1))
    own = found.by_token[1]
    ground = ground_of(float(own[np.argmax(np.abs(own))]), float(np.abs(own).max()))
    assert (np.abs(pixels.astype(int) - ground).max(-1) < 3).any()
    assert (pixels[0, 0] == 255).all()
    assert (np.asarray(found.plot(0)) != pixels).any()


# ----- the command -----


def run(*words: object, **environment: str) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words], env={"NO_COLOR": "1", **environment})


def test_the_command_explains_texts(folder: Path, tmp_path: Path):
    (tmp_path / "more.txt").write_text("the dog sat\n\na mat .\n")
    result = run("explain", folder / "bert.onnx", tmp_path / "more.txt", "--text", LONG, "--text", "a <b>cat</b>", "-o", tmp_path / "out")
    assert result.exit_code == 0, result.output
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"text-0.fullgrad.html", "text-1.fullgrad.html", "more-0.fullgrad.html", "more-1.fullgrad.html"} <= names
    assert "7 words" in result.stdout
    assert "\x1b" not in result.stdout
    record = json.loads((tmp_path / "out" / "text-0.fullgrad.json").read_text())
    told = record["text"]
    assert told["texts"] == [LONG]
    assert [word["word"] for word in told["words"]] == LONG.split()
    assert [LONG[word["start"] : word["end"]] for word in told["words"]] == LONG.split()
    for word in told["words"]:
        assert word["value"] == pytest.approx(sum(told["tokens"][i]["value"] for i in word["tokens"]))
    assert [token["token"] for token in told["tokens"] if token["special"]] == ["[CLS]", "[SEP]"]
    rest = sum(part for name, part in record["parts"].items() if name != "input")
    assert sum(token["value"] for token in told["tokens"]) + rest == pytest.approx(record["score"], rel=1e-4)
    page = Seen((tmp_path / "out" / "text-1.fullgrad.html").read_text())
    assert "b" not in page.tags
    assert "a <b>cat</b>" in page.words
    again = run("explain", folder / "bert.onnx", "--text", LONG, "--text", SHORT, "-o", tmp_path / "out")
    assert again.exit_code == 0, "its own pages are written again"


def test_the_command_explains_pairs_and_likeness(folder: Path, tmp_path: Path):
    pair = run("explain", folder / "bert.onnx", "--text", LONG, "--text-pair", SHORT, "-o", tmp_path, "--json")
    assert json.loads(pair.stdout)[0]["text"]["texts"] == [LONG, SHORT]
    words = ["explain", folder / "encoder.onnx", "--text", LONG, "--like", SHORT, "--pooling", "mean", "-o", tmp_path, "--json"]
    (like,) = json.loads(run(*words).stdout)
    found = Explainer(folder / "encoder.onnx", "attnlrp", score="cosine", pooling="mean").explain(text=LONG, like=SHORT)
    assert like["score"] == pytest.approx(float(found.score[0]), rel=1e-6)
    assert (like["method"], like["like"], like["target"]["label"]) == ("attnlrp", SHORT, "similarity")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing to explain"),
        (["--text", "a", "--text", "b", "--text-pair", "c"], "a pair takes one of each"),
        (["--like", "a"], "give --text"),
        (["--text", "a", "--like", "b", "--score", "raw"], "no other score"),
        (["--text", "a", "--roles", "mask"], "give ROLE=NAME"),
        (["--text", "a " * 20], "--truncate"),
        (["--text", "a", "--tokenizer", "nowhere.json"], "'nowhere.json' cannot be read"),
    ],
)
def test_mistakes_are_told(folder: Path, tmp_path: Path, words: list[str], message: str):
    result = run("explain", folder / "words.onnx", *words, "-o", tmp_path)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.stderr.split())
    assert not os.listdir(tmp_path)


def test_a_reader_may_be_shared(explainer: Explainer):
    assert explainer.texts.reader() is explainer.texts.reader()
    assert isinstance(explainer.texts.reader(), TextReader)
