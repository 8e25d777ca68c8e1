"""What people type into a notebook: any form of input gives the same map, and every object shows itself in a few lines."""

from __future__ import annotations

import base64
import inspect
import io
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from PIL import Image

import onnxsal
from onnxsal import Explainer
from onnxsal.ask.request import Ask
from onnxsal.display import LINES, WIDTH, Displayed, Panel, as_panel, as_text
from onnxsal.errors import InputError, OnnxsalError
from onnxsal.explanation import MOST, ROWS, TOLD_OF_EACH, Explanation
from onnxsal.given import gather as gathering
from onnxsal.given.from_files import Feeding
from onnxsal.given.gather import gather
from onnxsal.report.audit import Audit
from onnxsal.runtime import progress as bars
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.session import Tensor
from onnxsal.runtime.shown import ShownPicture, ShownRow
from tests.small_models import cnn, draw, make, node, segmenter, tokens, two_inputs, unbatched

WICKED = '<script>alert("x")</script>'
LABELS = ["cat, tabby", WICKED, "dog", "fox", "owl"]
PREPROCESS = 'layout = "NCHW"\nchannels = "RGB"\nresize = [8, 8]\nscale = 0.01\nmean = [0.5, 0.4, 0.3]\nstd = [2.0, 1.0, 0.5]\n'


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with what lies beside it, three pictures, and the same as arrays."""
    place = tmp_path_factory.mktemp("here")
    onnx.save(cnn(), place / "m.onnx")
    (place / "m.toml").write_text(PREPROCESS)
    (place / "m.labels.txt").write_text("\n".join(LABELS))
    (place / "pictures").mkdir()
    for number, size in enumerate([(20, 30), (8, 8), (16, 12)]):
        pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / "pictures" / f"{number}.png")
    x = HOW.batch(files(place))
    np.save(place / "x.npy", x)
    np.savez(place / "x.npz", x=x)
    return place


HOW = Preprocess(scale=0.01, mean=(0.5, 0.4, 0.3), std=(2.0, 1.0, 0.5), resize=(8, 8))


def files(place: Path) -> list[Path]:
    return sorted((place / "pictures").iterdir())


@pytest.fixture(scope="module")
def explainer(here: Path) -> Explainer:
    return Explainer(here / "m.onnx", "gradient", target=2)


@pytest.fixture(scope="module")
def expected(explainer: Explainer, here: Path) -> Explanation:
    """Of what the pictures are prepared to, as an array."""
    return explainer.explain(HOW.batch(files(here)))


# ----- what is given -----

GIVEN: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "folder": lambda here, x: here / "pictures",
    "words": lambda here, x: [str(file) for file in files(here)],
    "paths": lambda here, x: files(here),
    "a tuple": lambda here, x: tuple(files(here)),
    "pictures": lambda here, x: [Image.open(file) for file in files(here)],
    "npy": lambda here, x: here / "x.npy",
    "npz": lambda here, x: str(here / "x.npz"),
    "array": lambda here, x: x,
    "dict": lambda here, x: {"x": x},
    "torch": lambda here, x: torch.from_numpy(x),
    "numbers": lambda here, x: np.asarray(x.tolist(), np.float32),
    "samples": lambda here, x: list(x),
    "batches": lambda here, x: [x[:2], x[2:]],
    "tensors": lambda here, x: list(torch.from_numpy(x)),
    "dicts": lambda here, x: [{"x": x[:1]}, {"x": x[1:]}],
    "a mix": lambda here, x: [files(here)[0], {"x": x[1]}, Image.open(files(here)[2])],
    "another mix": lambda here, x: [here / "pictures" / "0.png", x[1:2], torch.from_numpy(x[2])],
}


@pytest.mark.parametrize("form", GIVEN)
def test_every_form_of_the_same_samples_has_the_same_map(form: str, here: Path, explainer: Explainer, expected: Explanation):
    found = explainer.explain(GIVEN[form](here, HOW.batch(files(here))))
    np.testing.assert_array_equal(found.attribution, expected.attribution)
    np.testing.assert_array_equal(found.saliency_map, expected.saliency_map)
    for i, shown in enumerate(found.shown):
        assert isinstance(shown, ShownPicture)
        np.testing.assert_allclose(shown.seen.astype(int), HOW.display(files(here)[i]), atol=0)
    assert len(found.shown) == 3
    named = {"folder", "words", "paths", "a tuple", "pictures"}
    assert (found.sources == ("0.png", "1.png", "2.png")) == (form in named)


def test_one_picture_in_one_call(here: Path, expected: Explanation):
    found = onnxsal.explain(here / "m.onnx", files(here)[1], "gradient", target="dog")
    np.testing.assert_array_equal(found.attribution, expected.attribution[1:2])
    assert found.names == ("dog (2)",)
    assert found.shown[0].original.size == (8, 8)
    several = onnxsal.explain(here / "m.onnx", here / "pictures", "gradient", target=[2, 0, 1], batch_size=2, progress=False)
    assert several.names == ("dog (2)", "cat, tabby (0)", f"{WICKED} (1)")


def test_what_lies_beside_the_model_is_found_once_for_all(here: Path):
    explainer = Explainer(here / "m.onnx", "gradient")
    assert explainer.labels == LABELS
    assert explainer.conversion.ask.preprocess == HOW
    own = Explainer(here / "m.onnx", "gradient", labels=["a", "b", "c", "d", "e"], preprocess=Preprocess(scale=1.0, resize=(8, 8)))
    assert own.labels == ["a", "b", "c", "d", "e"]
    np.testing.assert_array_equal(own.explain(files(here)[1], 0).shown[0].seen, HOW.display(files(here)[1]))
    assert Explainer(cnn(), "gradient").labels is None, "a model that is in no file has nothing beside it"
    with pytest.raises(InputError, match="no preprocessing is known"):
        Explainer(cnn(), "gradient").explain(files(here)[0])


def test_of_a_converted_file_it_is_in_the_metadata(here: Path, tmp_path: Path, expected: Explanation):
    from onnxsal.runtime.beside import as_metadata

    converted = onnxsal.convert(here / "m.onnx", "gradient")
    for key, value in as_metadata(HOW, LABELS).items():
        converted.metadata_props.add(key=key, value=value)
    onnx.save(converted, tmp_path / "alone.onnx")
    found = Explainer(tmp_path / "alone.onnx").explain(files(here), 2)
    np.testing.assert_array_equal(found.attribution, expected.attribution)
    assert found.names == ("dog (2)",) * 3


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "nothing": (lambda here: [], "needs a batch axis|takes"),
    "a missing file": (lambda here: here / "nowhere.png", r"nowhere.png' cannot be read: No such file"),
    "no picture": (lambda here: here / "m.toml", "is not a picture that Pillow can read"),
    "two sizes": (
        lambda here: [draw(3, 8, 8), {"x": draw(3, 9, 8)}],
        r"makes no batch: input 'x' is \[3, 8, 8\] of '\[0\]' and \[3, 9, 8\] of '\[1\]'",
    ),
    "a damaged one": (lambda here: [files(here)[0], here / "cut.png"], "cut.png' is damaged or cut short"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_batch_is_refused(case: str, here: Path, explainer: Explainer):
    (here / "cut.png").write_bytes(files(here)[0].read_bytes()[:300])
    given, words = REFUSED[case]
    with pytest.raises(InputError, match=words):
        explainer.explain(given(here))


def test_pictures_of_their_own_sizes_are_explained_one_by_one(here: Path):
    open_sizes = make([node("GlobalAveragePool", "x", "p"), node("Flatten", "p", "y")], {"x": ["N", 3, "H", "W"]}, {"y": ["N", 3]})
    explainer = Explainer(open_sizes, "gradient", preprocess=Preprocess(scale=1 / 255))
    with pytest.raises(InputError, match=r"\[3, 20, 30\] of '0.png' and \[3, 8, 8\] of '1.png'. Explain them one by one"):
        explainer.explain(here / "pictures")
    assert [explainer.explain(file).saliency_map.shape[1:] for file in files(here)] == [(20, 30), (8, 8), (16, 12)]


def test_an_input_that_all_samples_share_is_given_once():
    nodes = [node("Mul", "x mask", "m"), node("MatMul", "m w", "y")]
    model = make(nodes, {"x": ["N", 4], "mask": [4]}, {"y": ["N", 3]}, {"w": draw(4, 3)})
    explainer = Explainer(model, "gradient", input="x")
    x, mask = draw(2, 4), np.asarray([1, 0, 1, 1], np.float32)
    whole = explainer.explain({"x": x, "mask": mask}, 1)
    apart = explainer.explain([{"x": row, "mask": mask} for row in x], 1)
    np.testing.assert_array_equal(apart.attribution, whole.attribution)
    with pytest.raises(InputError, match="'mask' is no row of a sample but one for all"):
        explainer.explain([{"x": x[0], "mask": mask}, {"x": x[1], "mask": 1 - mask}], 1)
    for bare, words in ((list(x), "give a dict with an array for each"), ([{"x": x[0], "mask": mask}, x[1]], "give dicts")):
        with pytest.raises(InputError, match=words):
            explainer.explain(bare, 1)
    with pytest.raises(InputError, match="give the same of each"):
        explainer.explain([{"x": x[0], "mask": mask}, {"x": x[1]}], 1)


def test_words_are_no_paths_where_the_model_reads_words(explainer: Explainer):
    """Nor are arrays a list of samples where an input is a list."""
    texts = Feeding(explainer.fed.question, [Tensor("x", "tensor(string)", np.dtype(object), ("N",))])
    assert gather(["cat.jpg", "b"], explainer.conversion.ask, texts).feed["x"].tolist() == ["cat.jpg", "b"]
    listed = Feeding(explainer.fed.question, [Tensor("x", "seq(tensor(float))", None, None)])
    assert gather([draw(3), draw(3)], explainer.conversion.ask, listed).sources == ()


def without_rank() -> onnx.ModelProto:
    """y = x w of a picture laid flat, whose number of axes nothing in the file tells."""
    model = make([node("Flatten", "x", "f"), node("MatMul", "f w", "y")], {"x": ["N", 3, 8, 8]}, {"y": ["N", 4]}, {"w": draw(192, 4)})
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


FIRST: dict[str, Callable[[Path], Any]] = {
    "a path": lambda here: files(here)[0],
    "a folder": lambda here: here / "pictures",
    "a list": lambda here: [Image.open(files(here)[0]), files(here)[1]],
    "npy": lambda here: here / "x.npy",
    "array": lambda here: np.load(here / "x.npy"),
}


@pytest.mark.parametrize("form", FIRST)
def test_a_model_that_tells_no_rank_is_told_it_by_the_first_data(form: str, here: Path):
    explainer = Explainer(without_rank(), "gradient", preprocess=HOW, target=2)
    assert "first data" in repr(explainer)
    found = explainer.explain(FIRST[form](here))
    np.testing.assert_allclose(found.attribution, np.tile(draw(192, 4)[:, 2].reshape(1, 3, 8, 8), (len(found), 1, 1, 1)), rtol=1e-6)


def test_whole_pictures_are_kept_up_to_a_bound(here: Path, explainer: Explainer, monkeypatch: pytest.MonkeyPatch):
    assert all(shown.original is not None for shown in explainer.explain(files(here)).shown)
    monkeypatch.setattr(gathering, "WHOLE_PICTURES", 700)  # the first has 600 pixels, the second 64
    kept = [shown.original is not None for shown in explainer.explain(files(here)).shown]
    assert kept == [True, True, False]


def test_an_array_that_was_written_to_is_not_shown(explainer: Explainer, here: Path):
    x = HOW.batch(files(here))
    found = explainer.explain(x)
    assert found.shown[1:][0].seen.shape == (8, 8, 3)
    x[1] = 0
    with pytest.raises(InputError, match="was written to since"):
        _ = found.shown[0]
    assert "was written to since" in found._repr_html_(), "a notebook still shows the map, and says so"


# ----- names -----


def test_what_was_explained_in_words(here: Path):
    rather = Explainer(here / "m.onnx", "gradient", against=0).explain(files(here), 2)
    assert rather.names == ("dog (2) rather than cat, tabby (0)",) * 3
    assert rather[1].names == rather.names[1:2]
    bare = Explainer(cnn(), "gradient").explain(draw(1, 3, 8, 8), 3)
    assert bare.names == ("class 3",)
    assert Explainer(cnn(classes=1, final=""), "gradient").explain(draw(1, 3, 8, 8)).names == ("'y'",)
    assert Explainer(segmenter(), "gradient").explain(draw(2, 3, 6, 6), target=(1, 2, 3)).names == ("element (1, 2, 3)",) * 2
    mask = Explainer(segmenter(), "gradient", target="class:b@mask", labels=["a", "b"]).explain(draw(1, 3, 6, 6))
    assert mask.names == ("mask of b (1)",)
    point = Explainer(segmenter(), "gradient", target="point:2,3", labels=["a", "b"])
    assert re.fullmatch(r"point 2,3: [ab] \([01]\)", point.explain(draw(1, 3, 6, 6)).names[0])
    assert point.explain(draw(1, 3, 6, 6), ["point:2,3", "point:1,4"]).names[1].startswith("point 1,4: ")


def test_what_is_told_of_each_sample_is_cut_into_samples(explainer: Explainer, here: Path):
    found = explainer.explain(files(here), [0, 1, 2])
    for i, one in enumerate(found):
        assert {k: len(getattr(one, k)) for k in TOLD_OF_EACH} == dict.fromkeys(TOLD_OF_EACH, 1)
        assert (one.names[0], one.sources[0]) == (found.names[i], found.sources[i])


# ----- how objects show themselves -----


@pytest.fixture(scope="module")
def evaluation(here: Path) -> onnxsal.Evaluation:
    return onnxsal.evaluate(here / "m.onnx", here / "pictures", ["gradient", "deconvnet"], ["deletion"], samples=2, progress=False)


@pytest.fixture(scope="module")
def audit(here: Path, tmp_path_factory: pytest.TempPathFactory) -> Audit:
    out = tmp_path_factory.mktemp("audit")
    found = onnxsal.audit(here / "m.onnx", here / "pictures", ["gradient"], out=out, measured=2, progress=False)
    assert (out / "audit.html").is_file()
    assert (out / "audit.json").is_file()
    return found


@pytest.fixture(scope="module")
def objects(here: Path, expected: Explanation, evaluation: onnxsal.Evaluation, audit: Audit) -> dict[str, Displayed]:
    many = Explainer(here / "m.onnx", "gradient").explain(np.repeat(draw(1, 3, 8, 8), 40, 0), 1)
    known = onnxsal.methods()
    return {
        "explanation": expected,
        "many": many,
        "tokens": Explainer(tokens(), "ig").explain(np.arange(6).reshape(3, 2)),
        "rows": Explainer(two_inputs(), "gradient", input="a", output="y").explain({"a": draw(2, 4), "b": draw(2, 3)}, 1),
        "not batched": Explainer(unbatched(), "gradient").explain(draw(7, 4), target=1),
        "plan": onnxsal.plan(here / "m.onnx", "guided_backprop"),
        "forward plan": onnxsal.plan(cnn(), "rise"),
        "report": onnxsal.check(here / "m.onnx", "cpu", "gradcam"),
        "problem": onnxsal.check(make([node("Hardmax", "x", "y")], {"x": ["N", 4]}, {"y": ["N", 4]}), "cpu", "gradient"),
        "method": known["integrated_gradients"],
        "methods": known,
        "evaluation": evaluation,
        "audit": audit,
    }


SAID = {
    "explanation": ("3 samples by gradient", "dog (2)", "float32[3, 3, 8, 8]", "score"),
    "many": ("40 samples", "and 3"),
    "tokens": ("3 samples", "token_attribution float32[3, 2]"),
    "rows": ("2 samples", "class 1"),
    "not batched": ("1 sample by",),
    "plan": ("Plan of guided_backprop: logits -> x", "guided", "Conv"),
    "forward plan": ("run forward only",),
    "report": ("can be explained by gradcam", "target layer"),
    "problem": ("cannot be explained", "warning"),
    "method": ("integrated_gradients", "n_steps", "1703.01365"),
    "methods": ("39 methods" if len(onnxsal.methods()) == 39 else "methods", "gradcam", "fullgrad"),
    "evaluation": ("2 method(s)", "deletion", "(random)"),
    "audit": ("Audit of m.onnx on 3 picture(s)",),
}


class Safe(HTMLParser):
    """What a page made of HTML would do: the tags that it opens, and the addresses that it asks."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, "tags that are not closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in {"div", "b", "figure", "figcaption", "img", "table", "thead", "tbody", "tr", "th", "td"}
        given = dict(attrs)
        assert set(given) <= {"class", "style", "alt", "src"}
        assert (given.get("src") or "data:image/png;base64,").startswith("data:image/png;base64,"), "nothing is fetched"
        assert "url" not in (given.get("style") or "")
        if tag == "img":
            self.pictures.append(str(given["src"]).partition(",")[2])
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("name", SAID)
def test_every_object_shows_itself_in_a_few_lines(name: str, objects: dict[str, Displayed]):
    shown, kinds = DisplayFormatter().format(objects[name])[0], {"text/plain", "text/html"}
    assert set(shown) == kinds
    lines = shown["text/plain"].splitlines()
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= WIDTH
    assert shown["text/plain"] == repr(objects[name])
    for words in SAID[name]:
        assert words in shown["text/plain"]
    assert len(shown["text/html"]) < 60_000, "a notebook is kept in a file"
    Safe(shown["text/html"])


def test_every_object_that_is_returned_is_shown(objects: dict[str, Displayed]):
    """Whoever adds a public result shows it."""
    public = {kind for name in onnxsal.__all__ if inspect.isclass(kind := getattr(onnxsal, name))}
    shown = {kind for kind in public if issubclass(kind, Displayed)}
    assert shown == public - {Explainer, OnnxsalError, onnxsal.Patterns}
    assert {type(one) for one in objects.values()} >= shown


def test_pictures_are_in_the_page(expected: Explanation, objects: dict[str, Displayed]):
    pictures = Safe(expected._repr_html_()).pictures
    assert len(pictures) == 3
    for index, data in enumerate(pictures):
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.asarray(expected.plot(index)))
    many = objects["many"]._repr_html_()
    assert len(Safe(many).pictures) == MOST
    assert "and 32 more" in many


def test_what_others_wrote_is_shown_and_not_obeyed(here: Path, tmp_path: Path):
    found = Explainer(here / "m.onnx", "gradient").explain(files(here)[0], 1)
    assert WICKED in repr(found)
    html = found._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    panel = Panel("\x1b[31m\u202eabc", ("<b>",), ("<i>",), (('"&',),), ("</div>",))
    assert "\x1b" not in as_text(panel) + as_panel(panel)
    assert "\u202e" not in as_text(panel) + as_panel(panel)
    Safe(as_panel(panel))


def test_of_a_row_the_columns_are_told(objects: dict[str, Displayed]):
    from dataclasses import replace

    rows = objects["rows"]
    shown = ShownRow(("age", "town"), (40, "Rome"), {"a": {"age": (0,), "town": (1, 2, 3)}})
    told = replace(rows, shown=(shown, shown), parameters={"baseline": [0.5] * 30, "layer": ""})
    html = told._repr_html_()
    assert "baseline=&lt;30 numbers&gt;)" in html
    first, second = (np.asarray(told.plot(i)) for i in range(2))
    assert first.shape == second.shape
    assert (first != second).any(), "each its own bars"
    assert f"{rows.attribution[0, 1:].sum():+.4g}" in html
    assert "town = Rome" in html


def test_an_explainer_says_what_it_explains(explainer: Explainer):
    assert repr(explainer) == "Explainer of y at x of m.onnx by gradient, on CPUExecutionProvider"


def test_a_long_table_is_cut_and_says_so():
    panel = Panel("t", ["f"] * 20, ("a", "b"), [(str(i), "x" * 300) for i in range(100)], ["w"] * 5, more=7)
    text = as_text(panel)
    assert len(text.splitlines()) <= LINES
    assert "warnings" in text
    html = as_panel(panel)
    assert "and 47 more" in html, "40 rows of 100, and 7 that are not in it"
    alone = as_text(Panel("t", (), ("a",), [(str(i),) for i in range(100)], more=7))
    told = [line for line in alone.splitlines() if line.strip().isdecimal()]
    assert f"... and {107 - len(told)} more" in alone


def test_a_plot_lies_on_what_was_seen(here: Path, explainer: Explainer):
    """On the pixels of the picture, of its own or of the array; never on another sample's."""
    found, again = explainer.explain(files(here)), explainer.explain(HOW.batch(files(here)))
    for index in range(3):
        seen = HOW.display(files(here)[index])
        whole, over = found.plot(index), np.asarray(found.plot(index, picture=seen))
        assert whole.size == found.shown[index].original.size, "a picture from a file is shown whole"
        np.testing.assert_array_equal(again.plot(index), over)
    bare = Explainer(cnn(), "gradient").explain(HOW.batch(files(here)), 2)
    assert bare.shown == ()
    assert (np.asarray(bare.plot(0)) != np.asarray(found.plot(0, picture=HOW.display(files(here)[0])))).any()
    assert "image/png" in DisplayFormatter().format(found.plot(0))[0]
    with pytest.raises(IndexError):
        found.plot(3)


def test_a_plot_on_axes(expected: Explanation):
    from matplotlib.figure import Figure

    axes = Figure().subplots(1, 2)
    assert expected.plot(1, ax=axes[0]) is axes[0]
    assert axes[0].images
    assert "dog (2)" in axes[0].get_title()
    assert not axes[1].images


# ----- bars -----


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal instead of stderr. Not a fixture: pytest puts its own stream there between the two."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    return stream


def test_a_bar_is_shown_where_somebody_looks(monkeypatch: pytest.MonkeyPatch, explainer: Explainer):
    x, screen = draw(40, 3, 8, 8), terminal(monkeypatch)
    explainer.explain(x, progress=False)
    explainer.explain(x[:3])
    assert not screen.getvalue(), "neither where it is not wanted, nor for what is one run"
    explainer.explain(x)
    assert "40/40" in screen.getvalue()


def test_no_bar_goes_into_a_file(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, explainer: Explainer):
    monkeypatch.delitem(sys.modules, "IPython")
    explainer.explain(draw(40, 3, 8, 8))
    assert capsys.readouterr().err == ""
    explainer.explain(draw(40, 3, 8, 8), progress=True)
    assert "40/40" in capsys.readouterr().err


def test_a_bar_within_a_bar_is_none(monkeypatch: pytest.MonkeyPatch):
    screen = terminal(monkeypatch)
    with bars.progress("outer", 3) as step:
        step("one")
        with bars.counted("inner") as told:
            told(1, 2)
    assert "inner" not in screen.getvalue()
    with bars.counted("after") as told:
        told(1, 2)
    assert "after" in screen.getvalue()


def test_a_notebook_without_widgets_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    monkeypatch.setattr(bars.importlib.util, "find_spec", lambda name: None)
    with caplog.at_level(logging.INFO, "onnxsal"), bars.counted("x") as told:
        told(1, 2)
    assert "ipywidgets" in caplog.text
    with pytest.raises(bars.NoBarError, match=r"onnxsal\[notebook\]"), bars.counted("x", True):
        pass


def test_who_evaluates_is_told(here: Path):
    told: list[tuple[int, int | None]] = []
    onnxsal.evaluate(here / "m.onnx", here / "x.npy", ["gradient"], ["deletion"], progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1]


# ----- at the top -----


def test_what_is_at_the_top_is_imported_when_it_is_asked_for():
    code = """
import sys, onnxsal
heavy = {"onnxsal.metrics", "onnxsal.report", "onnxsal.cli", "rich", "jinja2", "IPython", "matplotlib", "scipy", "typer"}
print(sorted(heavy & set(sys.modules)))
print(sorted(set(onnxsal.__all__) - set(dir(onnxsal))))
from onnxsal import evaluate, audit
print(evaluate.__module__, audit.__module__)
try:
    onnxsal.evaluation
except AttributeError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120).stdout.splitlines()
    assert told == [
        "[]",
        "[]",
        "onnxsal.metrics.evaluate onnxsal.report.audit.call",
        "module 'onnxsal' has no attribute 'evaluation'",
    ]


def test_the_call_has_every_option(here: Path):
    """Those of the request, and those of a run."""
    own, of = inspect.signature(onnxsal.explain).parameters, inspect.signature(Ask.of).parameters
    assert list(own)[:3] == ["model", "given", "method"]
    run = set(inspect.signature(Explainer.explain).parameters) - {"self", "x", "target", "optional"}
    assert set(own) - set(of) == {"given", "text"} | run
    assert set(of) <= set(own)


def test_an_audit_refuses_what_means_nothing(here: Path):
    with pytest.raises(OnnxsalError, match="name them in methods"):
        onnxsal.audit(here / "m.onnx", here / "pictures", n_steps=3)
    with pytest.raises(OnnxsalError, match="has no use for target"):
        onnxsal.audit(here / "m.onnx", here / "pictures", target=3)


def test_an_audit_against_another_model(here: Path, tmp_path: Path):
    onnx.save(cnn(), tmp_path / "other.onnx")
    found = onnxsal.audit(
        here / "m.onnx", here / "pictures", ["gradient"], against=tmp_path / "other.onnx", limits="residual>1e9", measured=1, progress=False
    )
    assert found.document.against is not None
    assert all(picture.against.agrees for picture in found.document.pictures)


# ----- what is logged -----


def test_what_was_done_is_logged(here: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.DEBUG, "onnxsal"):
        Explainer(here / "m.onnx", "gradient").explain(draw(40, 3, 8, 8))
    assert {r.name.partition(".")[0] for r in caplog.records} == {"onnxsal"}
    told = [(r.levelname, r.getMessage()) for r in caplog.records]
    assert any(re.fullmatch(r"m.onnx: gradient built in in [\d.]+ s", text) for level, text in told if level == "INFO")
    assert ("INFO", "gradient runs on CPUExecutionProvider") in told
    assert [text for level, text in told if level == "DEBUG"] == [f"samples {i} to {j} of 40" for i, j in ((0, 16), (16, 32), (32, 40))]


def test_a_doubt_is_a_warning(caplog: pytest.LogCaptureFixture):
    """Of a layout that only the shape suggests: in the log, in the lines and on the page."""
    model = make([node("Flatten", "x", "f"), node("MatMul", "f w", "y")], {"x": ["N", 3, 4, 4]}, {"y": ["N", 2]}, {"w": draw(48, 2)})
    with caplog.at_level(logging.WARNING, "onnxsal"):
        explainer = Explainer(model, "gradient")
    (record,) = caplog.records
    assert "is not proved" in record.getMessage()
    found = explainer.explain(draw(1, 3, 4, 4))
    for shown in (found, onnxsal.plan(model, "gradient"), onnxsal.check(model, "cpu", "gradient")):
        assert "warning: " in repr(shown)
        assert "is not proved" in shown._repr_html_()


def test_nothing_is_said_unless_it_is_asked_for(here: Path):
    code = f"import onnxsal, numpy as np; onnxsal.explain(r'{here / 'm.onnx'}', np.ones((1, 3, 8, 8), np.float32), 'gradient')"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert (told.stdout, told.stderr) == ("", "")


# ----- memory -----


def test_tensors_go_in_and_come_out_without_a_copy(explainer: Explainer, here: Path, monkeypatch: pytest.MonkeyPatch):
    x = torch.from_numpy(HOW.batch(files(here)))
    fed: list[Any] = []
    run = explainer.session.run
    monkeypatch.setattr(explainer.session, "run", lambda feed, *rest, **more: (fed.append(feed["x"]), run(feed, *rest, **more))[1])
    found = explainer.explain(x)
    assert fed[0].ctypes.data == x.data_ptr()
    assert torch.from_dlpack(found.attribution).data_ptr() == found.attribution.ctypes.data
    parts = Explainer(here / "m.onnx", "gradient", batch_size=2)
    several = parts.session.run
    monkeypatch.setattr(parts.session, "run", lambda feed, *rest, **more: (fed.append(feed["x"]), several(feed, *rest, **more))[1])
    parts.explain(x)
    assert [array.ctypes.data - x.data_ptr() for array in fed[1:]] == [0, 2 * 3 * 8 * 8 * 4], "each run reads its rows where they lie"


def test_fields_of_rows_and_of_words_are_apart():
    assert not set(ROWS) & set(TOLD_OF_EACH)
