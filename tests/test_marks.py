"""The place that was asked about is marked on the picture: the box of that number, the pixel, the pixels of the mask."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxsal.ask.place import ROW, Place, places_of
from onnxsal.errors import InputError
from onnxsal.explainer import Explainer
from onnxsal.report.asked_place import AskedPlace, asked_place
from onnxsal.runtime.heatmap import overlay_on
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.shown import ShownMark, ShownPicture
from tests.detector_nets import FORMS, SEGMENTERS, SIDES, detector, pictures, segmenter
from tests.oracle import run

SHOWN = ShownPicture(np.zeros((*SIDES, 3), np.uint8))


@pytest.mark.parametrize("form", FORMS)
def test_the_box_of_that_number_is_marked(form: str) -> None:
    """The numbers of the model's own list, whatever output they are in; where it lists none, none is made up."""
    explainer = Explainer(detector(form), "gradient", target="box:1")
    one = explainer.explain(pictures()[:1], target="box:1")
    found = asked_place(one, explainer.conversion.question, SHOWN, "xyxy")
    boxes = next((one.outputs[name] for name in ("boxes", "loc", "out") if name in one.outputs), None)
    if boxes is None:
        assert found.mark is None
        return
    rows = boxes.reshape(-1, boxes.shape[-1]) if boxes.ndim < 3 else boxes[0]
    many = int(one.components["box_count"][0])
    rows = rows if len(rows) == many else rows.T
    sides = np.array([SIDES[1], SIDES[0]] * 2) if np.abs(rows[:, :4]).max() <= 1.5 else 1
    if (rows[1, 2:4] <= rows[1, :2]).any():
        assert found.mark is None
        assert "has no area" in found.told
        return
    assert found.mark is not None
    np.testing.assert_allclose(found.mark.box, rows[1, :4] * sides, rtol=1e-5)
    assert "as you say" in found.told


def box_of(rows: list[list[float]], number: int, how: str | None = None, size: tuple[int, int] = (100, 200)) -> Any:
    one = SimpleNamespace(
        outputs={"boxes": np.asarray([rows], np.float32)},
        components={"box_count": np.array([len(rows)]), "explained_place": np.array([number])},
        target=np.array([number]),
    )
    question: Any = SimpleNamespace(reading=SimpleNamespace(kind="box", picked=None, first=0, within=""), output="scores")
    return asked_place(one, question, ShownPicture(np.zeros((*size, 3), np.uint8)), how)  # type: ignore[arg-type]


def test_how_four_numbers_say_where_a_box_is() -> None:
    """Pixels and shares; corners, or the centre where a box would end before it begins; what is said counts more. It is told every time."""
    assert box_of([[10, 20, 50, 60], [5, 5, 150, 90]], 0).mark.box == (10, 20, 50, 60)
    assert box_of([[0.1, 0.2, 0.5, 0.6]], 0).mark.box == pytest.approx((20, 20, 100, 60))
    assert box_of([[100, 50, 20, 10], [60, 60, 80, 80]], 0).mark.box == (90, 45, 110, 55)
    assert box_of([[10, 20, 50, 60]], 0, "yxyx").mark.box == (20, 10, 60, 50)
    assert box_of([[0.1, 0.2, 0.5, 0.6]], 0, "yxyx").mark.box == pytest.approx((40, 10, 120, 50))
    for how, told in ((None, "--boxes says otherwise"), ("yxyx", "as you say")):
        assert told in box_of([[10, 20, 50, 60]], 0, how).told
    with pytest.raises(InputError, match="--boxes xyyx is none of xyxy"):
        box_of([[10, 20, 50, 60]], 0, "xyyx")
    assert box_of([[np.nan, 20, 50, 60]], 0).mark is None


def test_numbers_that_make_no_boxes_are_not_drawn() -> None:
    """Distances from anchors have sizes below 0 in every reading, though the one that is asked about may look like a box."""
    assert box_of([[0.5, 0.1, 0.3, 0.2], [0.4, 0.4, 0.1, -0.2]], 0) == AskedPlace()
    assert box_of([[0.5, 0.1, 0.6, 0.2], [0.4, 0.4, 0.1, -0.2]], 0, "xyxy").mark is not None


def test_scores_are_no_boxes() -> None:
    one = SimpleNamespace(
        outputs={"scores": np.ones((1, 7, 9), np.float32)},
        components={"box_count": np.array([7]), "explained_place": np.array([2])},
        target=np.array([2]),
    )
    question: Any = SimpleNamespace(reading=SimpleNamespace(kind="box", picked=None, first=0, within=""), output="scores")
    assert asked_place(one, question, SHOWN).mark is None  # type: ignore[arg-type]


@pytest.mark.parametrize("form", SEGMENTERS)
def test_the_pixels_of_a_mask_are_marked(form: str) -> None:
    """Where the model's own output has the class as the best; the number of places is that of the score."""
    net = segmenter(form)
    own = run(net, {"x": pictures()[:1]})["y"][0]
    best = own if own.ndim == 2 else own.argmax(-1 if form == "last" else 0)
    explainer = Explainer(net, "gradient", target="class:0@mask")
    for label in np.unique(best).tolist():
        one = explainer.explain(pictures()[:1], target=f"class:{label}@mask")
        mark = asked_place(one, explainer.conversion.question, SHOWN).mark
        assert mark is not None
        assert mark.mask is not None
        np.testing.assert_array_equal(mark.mask, best == label)
        assert mark.mask.sum() == one.components["mask_pixels"][0]


def test_the_pixel_that_was_asked_about_is_marked() -> None:
    explainer = Explainer(segmenter("scores"), "gradient", target="point:3,4")
    one = explainer.explain(pictures()[:1], target="point:3,9")
    assert asked_place(one, explainer.conversion.question, SHOWN).mark == ShownMark(point=(9.5, 3.5))


@pytest.mark.parametrize(
    ("mark", "on", "off"),
    [
        (ShownMark(box=(10, 5, 20, 15)), (15, 5), (15, 10)),
        (ShownMark(point=(20.5, 10.5)), (26, 10), (10, 15)),
        (ShownMark(mask=np.pad(np.ones((10, 20), bool), ((5, 5), (10, 10)))), (20, 5), (20, 10)),
    ],
)
def test_a_mark_lies_on_the_original_where_the_model_saw_it(mark: ShownMark, on: tuple[int, int], off: tuple[int, int]) -> None:
    """A crop of 20 x 40 pixels out of a larger picture: what is at (x, y) for the model is at its place in the original."""
    shown = replace(Preprocess(scale=1, crop=(20, 40)).shown(Image.new("RGB", (80, 60), (90, 90, 90))), mark=mark)
    plain = np.asarray(overlay_on(replace(shown, mark=None), np.zeros((20, 40)))).astype(int)
    drawn = np.abs(np.asarray(overlay_on(shown, np.zeros((20, 40)))).astype(int) - plain).sum(-1)
    assert shown.box == (20, 20, 60, 40)
    assert drawn[20 + on[1] - 1 : 20 + on[1] + 2, 20 + on[0] - 1 : 20 + on[0] + 2].max() > 100
    assert drawn[20 + off[1], 20 + off[0]] == 0


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("box 3", Place("box", 3)),
        ("point 3,4", Place("point", 3 * ROW + 4)),
        ("dog@mask", Place("mask", 1, 1)),
        ("dog@box:3", Place("box", 3, 1)),
        ("class:dog@box 3", Place("box", 3, 1)),
    ],
)
def test_shorter_words_for_places(words: str, place: Place) -> None:
    assert places_of(words, ["cat", "dog"]) == (place,)
    assert places_of("dog", ["cat", "dog"]) == ()
