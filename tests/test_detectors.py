"""Boxes, pixels and masks as targets: the score that is meant, by autograd in float64 with the choice held."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import onnxsal
from onnxsal.errors import MethodError, TargetError
from onnxsal.explainer import Explainer
from tests.detector_nets import CANDIDATES, CLASSES, FORMS, RAW, SEGMENTERS, SIDES, WEIGHTS, detector, logits, masks, pictures, segmenter
from tests.oracle import run
from tests.small_models import draw, make, node
from tests.test_cli import done


@cache
def made(form: str, method: str = "gradient", target: str = "box:0") -> Explainer:
    return Explainer(detector(form), method, target=target)


def twin() -> tuple[Tensor, Tensor]:
    """The pictures, and the logits [N, candidates, classes] of all candidates."""
    x = torch.as_tensor(pictures()).double().requires_grad_(True)
    return x, logits(x)


def places_of(form: str, z: Tensor) -> list[list[tuple[int, int]]]:
    """(candidate, class) of every box that the model itself lists for each sample, found by its own score among those of all."""
    p = torch.sigmoid(z).detach().numpy()
    own = run(detector(form), {"x": pictures()})
    if form in ("rows",):
        return [[(int(a), int(c)) for n, c, a in own["rows"] if n == s] for s in (0, 1)]
    scores = own["scores"] if "scores" in own else own["out"][..., 4]
    rows: list[list[tuple[int, int]]] = [[], []]
    for position, score in np.ndenumerate(scores):
        sample, candidate, label = np.unravel_index(np.abs(p - score).argmin(), p.shape)
        assert abs(p[sample, candidate, label] - score) < 1e-6
        assert len(position) == 1 or position[0] == sample
        rows[sample].append((int(candidate), int(label)))
    return rows


CHOSEN = [form for form in FORMS if form not in RAW]


@pytest.mark.parametrize("form", CHOSEN)
def test_a_box_of_a_list_is_explained_by_the_score_it_was_chosen_by(form: str):
    """Of each picture of a batch its own box of that number; the logit of the candidate and class that the model chose it for."""
    x, z = twin()
    lists = places_of(form, z)
    assert min(map(len, lists)) >= 2
    for number in (0, 1):
        found = made(form).explain(pictures(), target=f"box:{number}")
        scores = [z[n, lists[n][number][0], lists[n][number][1]] for n in (0, 1)]
        (wanted,) = torch.autograd.grad(sum(scores), x, retain_graph=True)
        np.testing.assert_allclose(found.score, [float(s.detach()) for s in scores], rtol=1e-4)
        np.testing.assert_allclose(found.attribution, wanted.numpy(), rtol=1e-3, atol=1e-5)
        assert found.components["box_count"].tolist() == [len(boxes) for boxes in lists]


@pytest.mark.parametrize("form", RAW)
def test_a_box_of_a_raw_head_is_a_candidate(form: str):
    """Its best class, or the one that is named, before the sigmoid where one tensor holds the logits of all."""
    x, z = twin()
    probabilities = form == "scales joined last"  # three sigmoids, so no tensor holds the logits of all candidates
    z = torch.sigmoid(z) if probabilities else z
    for number, of in ((5, None), (CANDIDATES - 1, 2)):
        target = f"box:{number}" if of is None else f"class:{of}@box:{number}"
        maker = made(form, target=f"class:{of}@box:0" if of is not None else "box:0")
        found = maker.explain(pictures(), target=target)
        best = z[:, number].argmax(-1) if of is None else torch.full((2,), of)
        scores = z[[0, 1], number, best]
        (wanted,) = torch.autograd.grad(scores.sum(), x, retain_graph=True)
        np.testing.assert_allclose(found.score, scores.detach().numpy(), rtol=1e-4)
        np.testing.assert_allclose(found.attribution, wanted.numpy(), rtol=1e-3, atol=1e-6)
        assert found.components["explained_label"].tolist() == best.tolist()
        assert found.components["box_count"].tolist() == [CANDIDATES] * 2


@pytest.mark.parametrize("form", FORMS)
def test_a_box_that_is_not_there_is_refused_with_how_many_there_are(form: str):
    with pytest.raises(TargetError, match=r"it has \d+ box") as refused:
        made(form).explain(pictures(), target="box:9999")
    assert "box 9999" in str(refused.value)
    found = [fact for fact in made(form).conversion.question.found if fact.what == "boxes"]
    assert len(found) == 1


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion", "fullgrad", "lrp_epsilon", "smoothgrad"])
def test_the_choice_is_held_wherever_the_model_is_run(method: str):
    """Points of a path and hidden windows see the score of the same candidate, whatever would be chosen there."""
    small = {"smoothgrad": {"n_samples": 3}, "occlusion": {"window": 8, "stride": 8}}.get(method, {})
    _, z = twin()
    where = places_of("topk", z)
    found = Explainer(detector("topk"), method, target="box:1", **small).explain(pictures())
    for sample in (0, 1):
        candidate, label = where[sample][1]
        one = Explainer(detector("ssd"), method, output="conf", target=(candidate, label), **small).explain(pictures()[sample : sample + 1])
        if method == "smoothgrad":
            continue  # noise is drawn for each sample of a batch
        np.testing.assert_allclose(found.attribution[sample], one.attribution[0], rtol=1e-3, atol=1e-5)


# ----- segmenters -----


@cache
def segmented(form: str, method: str, target: str) -> Explainer:
    return Explainer(segmenter(form, ("H", "W") if form == "scores" else SIDES), method, target=target)


@pytest.mark.parametrize("form", SEGMENTERS)
@pytest.mark.parametrize("of", [None, 2])
def test_a_pixel_is_explained(form: str, of: int | None):
    """The place that covers the pixel in that row and column: its best class, or the one that is named."""
    x = torch.as_tensor(pictures()).double().requires_grad_(True)
    z = masks(x)
    row, column = 11, 17
    there = z[:, :, row * z.shape[2] // SIDES[0], column * z.shape[3] // SIDES[1]]
    best = there.argmax(1) if of is None else torch.full((2,), of)
    scores = there[[0, 1], best]
    (wanted,) = torch.autograd.grad(scores.sum(), x)
    target = f"point:{row},{column}" if of is None else f"class:{of}@point:{row},{column}"
    found = segmented(form, "gradient", target).explain(pictures())
    np.testing.assert_allclose(found.score, scores.detach().numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.attribution, wanted.numpy(), rtol=1e-3, atol=1e-6)
    assert found.components["explained_label"].tolist() == best.tolist()
    with pytest.raises(TargetError, match="does not lie"):
        segmented(form, "gradient", target).explain(pictures(), target=target.replace("11", "16"))


@pytest.mark.parametrize("form", SEGMENTERS)
@pytest.mark.parametrize("method", ["gradient", "integrated_gradients"])
def test_a_mask_is_explained_by_the_sum_of_its_scores(form: str, method: str):
    """Over the pixels that the model gives to the class on the picture itself, on every point of a path."""
    x = torch.as_tensor(pictures()).double().requires_grad_(True)
    z = masks(x)
    hits = (z.argmax(1) == 1).double().detach()
    scores = (z[:, 1] * hits).sum((1, 2))
    found = segmented(form, method, "class:1@mask").explain(pictures())
    np.testing.assert_allclose(found.score, scores.detach().numpy(), rtol=1e-4)
    assert found.target.tolist() == [1, 1]
    assert found.components["mask_pixels"].tolist() == hits.sum((1, 2)).int().tolist()
    if method == "gradient":
        (wanted,) = torch.autograd.grad(scores.sum(), x)
        np.testing.assert_allclose(found.attribution, wanted.numpy(), rtol=1e-3, atol=1e-5)
    else:
        gained = scores - (masks(torch.zeros_like(x))[:, 1] * hits).sum((1, 2))
        np.testing.assert_allclose(found.attribution.reshape(2, -1).sum(1), gained.detach().numpy(), rtol=1e-2)


def test_labels_alone_are_explained_by_the_scores_behind_them():
    """A file that ends in a choice of the best class: by its scores, which is told."""
    x = torch.as_tensor(pictures()).double().requires_grad_(True)
    z = masks(x)
    explainer = Explainer(segmenter("labels"), "gradient")
    found = explainer.explain(pictures(), target=(1, 3, 4))
    (wanted,) = torch.autograd.grad(z[:, 1, 3, 4].sum(), x)
    np.testing.assert_allclose(found.attribution, wanted.numpy(), rtol=1e-3, atol=1e-6)
    assert any("the best of them" in fact.why for fact in explainer.conversion.question.found)


@pytest.mark.parametrize("target", ["box:x", "point:3", "class:1@", "mask", "point:1,2,3", "class:dog@mask"])
def test_what_names_no_place_is_refused(target: str):
    with pytest.raises(TargetError):
        onnxsal.convert(segmenter("scores"), "gradient", target=target)


def test_a_place_has_none_to_compare_with():
    with pytest.raises(TargetError, match="against"):
        onnxsal.convert(segmenter("scores"), "gradient", target="point:1,2", against=1)
    with pytest.raises(MethodError, match="boxes or pixels"):
        onnxsal.convert(segmenter("scores"), "class_competition", target="point:1,2")


def test_a_class_of_labels_is_found_by_its_name():
    names = ["ant", "bee", "cat"]
    assert len(names) == CLASSES
    found = Explainer(segmenter("scores"), "gradient", target="class:bee@mask", labels=names).explain(pictures())
    assert found.target.tolist() == [1, 1]


def test_a_converted_file_keeps_its_place(tmp_path):
    path = tmp_path / "made.onnx"
    onnx.save(onnxsal.convert(detector("topk"), "gradient", target="box:1"), path)
    again = Explainer(path).explain(pictures())
    with pytest.raises(TargetError, match="cannot be explained"):
        Explainer(path).explain(pictures(), target="box:0")
    with pytest.raises(TargetError, match="converted for classes"):
        Explainer(detector("topk"), "gradient", output="scores").explain(pictures(), target="box:0")
    np.testing.assert_array_equal(again.attribution, made("topk").explain(pictures(), target="box:1").attribution)


def test_every_box_of_a_picture_has_a_map_of_its_own():
    """A list of boxes, or all that the model lists: one run, a row for each, as if each were asked for alone."""
    one, explainer = pictures()[:1], made("topk")
    every = explainer.explain(one, target="box:*")
    some = explainer.explain(one, target=["box:2", "box:0"])
    assert every.components["explained_place"].tolist() == [0, 1, 2, 3]
    assert some.components["explained_place"].tolist() == [2, 0]
    alone = [explainer.explain(one, target=f"box:{k}").attribution[0] for k in range(4)]
    np.testing.assert_array_equal(every.attribution, np.stack(alone))
    np.testing.assert_array_equal(some.attribution, every.attribution[[2, 0]])
    np.testing.assert_array_equal(Explainer(detector("topk"), "gradient", target="box:*").explain(one).attribution, every.attribution)
    with pytest.raises(TargetError, match="give one at a time"):
        explainer.explain(pictures(), target="box:*")
    with pytest.raises(TargetError, match="only a run tells"):
        onnxsal.convert(detector("topk"), "gradient", target="box:*")
    with pytest.raises(TargetError, match="2 targets"):
        explainer.explain(draw(3, 3, *SIDES, seed=1), target=["box:2", "box:0"])


def test_the_command_line_names_boxes_and_pixels(tmp_path: Path):
    """A file for each box, the label of its class where it is known, and what was understood in plan and check."""
    ours = "scale = 0.0039\nmean = 0.5\nstd = 0.25\nresize = [16, 24]\n"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)).save(tmp_path / "cat.png")
    (tmp_path / "labels.txt").write_text("ant\nbee\ncat\n")
    nets = {"chosen": detector("topk", 1), "raw": detector("yolov8", 1), "masks": segmenter("labels")}
    for name, net in nets.items():
        onnx.save(net, tmp_path / f"{name}.onnx")
        (tmp_path / f"{name}.toml").write_text(ours)

    def explained(name: str, target: str, *more: object) -> list[dict[str, Any]]:
        words = (tmp_path / f"{name}.onnx", tmp_path / "cat.png", "--method", "gradient", "--target", target, "--out", tmp_path / name)
        told: list[dict[str, Any]] = json.loads(done("explain", *words, "--labels", tmp_path / "labels.txt", "--json", *more).stdout)
        return told

    every = explained("chosen", "box:*")
    assert [Path(facts["files"]["overlay"]).name for facts in every] == [f"cat.box{k}.gradient.overlay.png" for k in range(4)]
    assert [facts["target"]["place"] for facts in every] == [f"box {k}" for k in range(4)]
    assert len(explained("chosen", "box:2,box:0")) == 2
    (raw,) = explained("raw", "class:cat@box:7")
    assert (raw["target"]["place"], raw["target"]["label"]) == ("box 7", "cat")
    (pixel,) = explained("masks", "point:3,4")
    assert pixel["target"]["place"] == "point 3,4"
    for verb in ("plan", "check"):
        assert "box k is entry k of 'scores'" in done(verb, tmp_path / "chosen.onnx", "--method", "gradient", "--target", "box:1").stdout


# ----- scales -----


def test_a_box_is_seen_at_every_scale_that_it_may_be_of():
    """The last layer of each scale, found unaided; a box is of one of them, and the others add nothing. Truth: Grad-CAM by autograd."""
    net = detector("yolov8")
    explainer = Explainer(net, "gradcam", target="box:0", components=True)
    assert explainer.conversion.settings["layer"] == ["t0", "t1", "t2"]
    for number, scale in ((5, 0), (8 * 12 + 3, 1), (CANDIDATES - 2, 2)):
        found = explainer.explain(pictures(), target=f"box:{number}")
        x = torch.as_tensor(pictures()).double()
        layers = []
        for i in range(3):
            x = torch.tanh(F.conv2d(x, torch.as_tensor(WEIGHTS[f"w{i}"]).double(), stride=2, padding=1)).requires_grad_(True)
            layers.append(x)
        z = torch.cat([F.conv2d(t, torch.as_tensor(WEIGHTS[f"k{i}"]).double()).flatten(2) for i, t in enumerate(layers)], 2)
        slopes = torch.autograd.grad(z[:, :, number].max(1).values.sum(), layers)
        wanted = torch.zeros(2, *SIDES, dtype=torch.float64)
        for i, (layer, slope) in enumerate(zip(layers, slopes, strict=True)):
            coarse = (slope.mean((2, 3), keepdim=True) * layer).sum(1).detach()
            np.testing.assert_allclose(found.components[f"layer{i}/gradcam/map"], coarse.numpy(), rtol=1e-3, atol=1e-6)
            assert bool(coarse.any()) == (i <= scale)  # a later scale is made from an earlier one, not the other way round
            kept = torch.relu(coarse)[:, None]
            wanted += F.interpolate(kept, SIDES, mode="bilinear", align_corners=False)[:, 0]
        np.testing.assert_allclose(found.saliency_map, wanted.numpy(), rtol=1e-3, atol=1e-6)


def test_layers_that_are_named_are_added():
    """Of any model: a list in Python, names with commas on the command line; a method of one layer refuses several."""
    two = Explainer(detector("ssd"), "gradcam", output="conf", target=(3, 1), layer=["t0", "t1"]).explain(pictures())
    words = Explainer(detector("ssd"), "gradcam", output="conf", target=(3, 1), layer="t0,t1").explain(pictures())
    alone = [Explainer(detector("ssd"), "gradcam", output="conf", target=(3, 1), layer=t).explain(pictures()) for t in ("t0", "t1")]
    np.testing.assert_allclose(two.attribution, alone[0].attribution + alone[1].attribution, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(two.saliency_map, alone[0].saliency_map + alone[1].saliency_map, rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(two.attribution, words.attribution)
    with pytest.raises(TargetError, match="2 target layers"):
        onnxsal.convert(detector("ssd"), "scorecam", output="conf", layer=["t0", "t1"])


# ----- what a file says -----


def test_labels_tell_where_a_raw_head_keeps_its_scores():
    """No joint to see: as many labels as numbers behind the first 4, or one more (whether there is anything at all); else refused."""
    own = detector("yolov8")
    nodes = [*own.graph.node, node("Mul", "out two_f", "half"), node("Identity", "half", "raw")]
    kept = {t.name: onnx.numpy_helper.to_array(t) for t in own.graph.initializer} | {"two_f": np.float32(0.5)}
    blunt = make(nodes, {"x": ["N", 3, *SIDES]}, {"raw": ["N", 4 + CLASSES, CANDIDATES]}, kept)
    with pytest.raises(TargetError, match="labels="):
        onnxsal.convert(blunt, "gradient", target="box:3")
    x, z = twin()
    for names, first in ((["ant", "bee", "cat"], 0), (["ant", "bee"], 1)):
        found = Explainer(blunt, "gradient", target="box:3", labels=names).explain(pictures())
        best = torch.sigmoid(z[:, 3, first:]).max(1).values / 2
        (wanted,) = torch.autograd.grad(best.sum(), x, retain_graph=True)
        np.testing.assert_allclose(found.score, best.detach().numpy(), rtol=1e-4)
        np.testing.assert_allclose(found.attribution, wanted.numpy(), rtol=1e-3, atol=1e-6)


def test_a_declared_shape_that_the_graph_contradicts_is_put_right():
    """[1, "seqlen"] is declared, [T, 1, C] computed: a target is an index into what is computed, and a batch cannot be said of it."""
    weight = draw(4, 5)
    nodes = [node("Transpose", "x", "t", perm=[2, 0, 1]), node("MatMul", "t w", "y")]
    model = make(nodes, {"x": [1, 4, "width"]}, {"y": [1, "seqlen"]}, {"w": weight})
    x = draw(1, 4, 3, seed=2)
    found = Explainer(model, "gradient").explain(x, target=(2, 0, 3))
    wanted = np.zeros_like(x)
    wanted[0, :, 2] = weight[:, 3]
    np.testing.assert_allclose(found.attribution, wanted, rtol=1e-6)
    assert found.outputs["y"].shape == (3, 1, 5)
    with pytest.raises(TargetError, match="out of range"):
        Explainer(model, "gradient").explain(x, target=(3, 0, 3))
    with pytest.raises(TargetError, match="what one sample is"):
        onnxsal.convert(model, "gradient", batched=True)
