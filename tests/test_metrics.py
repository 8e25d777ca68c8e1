"""Metrics against slow twins, worked numbers, and the verdicts that any such metric must give."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d

import onnxsal
from onnxsal import metrics
from onnxsal.errors import InputError, ModelError, TargetError
from onnxsal.methods.region import region_model
from onnxsal.metrics.curve import CurveOptions, CurveSettings, curve_pixels
from onnxsal.metrics.faithfulness import auc
from onnxsal.metrics.input_places import places_of
from onnxsal.metrics.measures import MEASURES
from onnxsal.metrics.ranking import ranks, tied
from onnxsal.metrics.retrain import ConstantMapWarning
from onnxsal.metrics.scorer import Scorer, forward_model, scorer_of
from onnxsal.metrics.similarity import hog, pearson, spearman
from onnxsal.metrics.substrate import substrate
from onnxsal.metrics.weights import randomised, weighted_layers
from onnxsal.runtime.libraries import MissingLibraryError
from onnxsal.runtime.session import open_session
from tests.small_models import cnn, cnn_nhwc, draw, make, node

BLACK = np.array([-1.0, -2.0, 0.5], np.float32).reshape(1, 3, 1, 1)


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return cnn(size=12)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return draw(3, 3, 12, 12, seed=10)


@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    """Without ties."""
    return np.random.default_rng(11).permutation(3 * 144).reshape(3, 12, 12).astype(np.float32)


@pytest.fixture(scope="module")
def explainer(model: onnx.ModelProto) -> onnxsal.Explainer:
    return onnxsal.Explainer(model, "gradient")


def one_by_one(model: onnx.ModelProto, pictures: list[np.ndarray], target: int) -> list[float]:
    """The slow way to score: a picture at a time."""
    session = open_session(model)
    return [float(session.run({"x": p[None].astype(np.float32)})["y"][0, target]) for p in pictures]


def softmax(v: np.ndarray) -> np.ndarray:
    e = np.exp(v - v.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def weighing(weights: np.ndarray, final: str = "", bias: float = 0.0) -> onnx.ModelProto:
    """Scores (w . x + bias, 0) of pictures [N, *weights.shape]."""
    matrix = np.stack([weights.ravel(), 0 * weights.ravel()], 1).astype(np.float32)
    nodes = [node("Flatten", "x", "f"), node("Gemm", "f w b", "l" if final else "y")]
    nodes += [node(final, "l", "y")] if final else []
    stored = {"w": matrix, "b": np.array([bias, 0], np.float32)}
    return make(nodes, {"x": ["N", *weights.shape]}, {"y": ["N", 2]}, stored)


# ----- ranking -----


def test_ranks_say_what_the_first_k_pixels_are():
    maps = np.array([[0.5, 2.0, 0.5, 1.0, 0.5]])
    assert ranks(maps, "stable").tolist() == [[2, 0, 3, 1, 4]]
    assert ranks(maps, "stable", ascending=True).tolist() == [[0, 4, 1, 3, 2]]
    assert ranks(maps, "inclusive").tolist() == [[2, 0, 2, 1, 2]]
    assert ranks(maps, "inclusive", ascending=True).tolist() == [[0, 4, 0, 3, 0]]
    drawn = ranks(maps, "random")
    assert drawn[0, [1, 3]].tolist() == [0, 1]
    assert sorted(drawn[0]) == list(range(5))


def test_random_ties_are_fair_seeded_and_independent_of_batch_mates():
    flat = np.zeros((1, 4))
    places = np.stack([ranks(flat, "random", seed)[0] for seed in range(400)])
    assert np.abs(places.mean(0) - 1.5).max() < 0.25
    maps = np.random.default_rng(0).integers(0, 3, (5, 50))
    assert (ranks(maps, "random", 1) == ranks(maps, "random", 1)).all()
    assert (ranks(maps, "random", 1) != ranks(maps, "random", 2)).any()
    assert (ranks(maps[3:4], "random", 1) == ranks(maps, "random", 1)[3]).all()
    assert (ranks(-0.0 * np.ones((1, 9)), "random") == ranks(np.zeros((1, 9)), "random")).all()
    with pytest.raises(InputError, match="did you mean 'stable'"):
        ranks(maps, "stabel")


def test_ties_are_counted_and_warned_of():
    with pytest.warns(metrics.TieWarning, match=r"1 of 2 maps.*60%"):
        found = tied(np.array([[1.0, 1, 1, 2, 3], [1, 2, 3, 4, 5]]))
    assert found.distinct.tolist() == [3, 5]
    assert found.share.tolist() == [0.6, 0.0]


# ----- statistics -----


def test_summary_against_a_bootstrap_by_hand():
    values = np.random.default_rng(0).exponential(size=40)
    found = metrics.summarise(values)
    rng = np.random.default_rng(5)
    means = np.sort([rng.choice(values, 40).mean() for _ in range(20000)])
    assert found.mean == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((means[500], means[-501]), abs=0.02)
    assert metrics.summarise(values) == found


def test_samples_without_a_value_are_counted():
    found = metrics.summarise([1.0, np.nan, 3.0, 2.0])
    assert (found.mean, found.n, found.excluded) == (2.0, 3, 1)
    assert "1 without a value" in str(found)
    alone = metrics.summarise([1.0, np.nan])
    assert alone.mean == 1
    assert np.isnan(alone.low)
    assert metrics.summarise([2.0, 2.0]).low == 2
    assert np.isnan(metrics.summarise([np.nan]).mean)
    with pytest.raises(InputError, match="finite"):
        metrics.summarise([1.0, np.inf])


def test_paired_differences_are_narrower_than_unpaired_ones():
    rng = np.random.default_rng(0)
    common = rng.normal(size=50)
    a, b = common + 0.1 + 0.01 * rng.normal(size=50), common + 0.01 * rng.normal(size=50)
    difference = metrics.paired(a, b)
    assert difference.low < 0.1 < difference.high
    assert difference.low > 0.09
    assert metrics.paired(np.r_[a, np.nan], np.r_[b, 1]).excluded == 1
    with pytest.raises(InputError, match="same samples"):
        metrics.paired(a, b[1:])


# ----- the plain model -----


@pytest.mark.parametrize("final", ["Softmax", "LogSoftmax", "Sigmoid", ""])
def test_scores_are_those_of_the_model(final: str, x: np.ndarray):
    net = cnn(size=12, final=final)
    scorer = Scorer(net, batch_size=2)
    y = open_session(net).run({"x": x})["y"].astype(np.float64)
    wanted = {"Softmax": y, "Sigmoid": y, "LogSoftmax": np.exp(y), "": softmax(y)}[final]
    np.testing.assert_allclose(scorer.probabilities(x), wanted, rtol=1e-5, atol=1e-6)
    logits = open_session(cnn(size=12, final="")).run({"x": x})["y"]
    np.testing.assert_allclose(scorer.logits(x), logits, rtol=1e-5)
    assert (scorer.targets(x) == logits.argmax(1)).all()
    assert scorer.targets(x, [2, -1, 0])[[0, 2]].tolist() == [2, 0]


@pytest.mark.parametrize("opened", [Scorer, region_model])
def test_a_rewrite_that_changes_the_scores_is_refused(opened, monkeypatch: pytest.MonkeyPatch):
    """A planted fault of the opset pass: a model that had to be rewritten is compared before a number is taken from it."""
    net = cnn(size=12, opset=13)
    opened(net)

    def bent(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
        raised = convert_version(model, opset)
        for made in (n for n in raised.graph.node if n.op_type == "Relu"):
            made.op_type = "Abs"
        return raised

    convert_version = onnx.version_converter.convert_version
    monkeypatch.setattr(onnx.version_converter, "convert_version", bent)
    with pytest.raises(ModelError, match="changed its outputs"):
        opened(net)


@pytest.mark.parametrize("parts", [False, True])
def test_scores_behind_a_transpose_or_of_a_softmax_in_parts(parts: bool):
    """Classes last, as the output has them; where the logits are not found the probability is no logit, but is not squashed again."""
    softmaxed = (
        [node("Exp", "h", "e"), node("ReduceSum", "e one", "s"), node("Div", "e s", "p")] if parts else [node("Softmax", "h", "p", axis=1)]
    )
    nodes = [node("Conv", "x w", "h"), *softmaxed, node("Transpose", "p", "y", perm=[0, 2, 3, 1])]
    weights = {"w": draw(4, 3, 1, 1, seed=3), "one": np.asarray([1])}
    net, x = make(nodes, {"x": ["N", 3, 2, 2]}, {"y": ["N", 2, 2, 4]}, weights), draw(2, 3, 2, 2)
    y = open_session(net).run({"x": x})["y"].astype(np.float64)
    scorer = Scorer(net)
    np.testing.assert_allclose(scorer.probabilities(x), y.reshape(2, -1), rtol=1e-5)
    h = np.einsum("oc,nchw->nhwo", weights["w"][:, :, 0, 0], x)
    np.testing.assert_allclose(scorer.logits(x), (y if parts else h).reshape(2, -1), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(scorer_of(onnxsal.Explainer(net, "gradient")).logits(x), scorer.logits(x), rtol=1e-5)


def test_the_explained_model_is_found_in_the_converted_one(model: onnx.ModelProto, explainer: onnxsal.Explainer, x: np.ndarray):
    plain = forward_model(explainer)
    onnx.checker.check_model(plain, full_check=True)
    assert [n.op_type for n in plain.graph.node] == [n.op_type for n in model.graph.node]
    assert not [p for p in plain.metadata_props if p.key.startswith("onnxsal")]
    assert (open_session(plain).run({"x": x})["y"] == open_session(model).run({"x": x})["y"]).all()
    adopted = onnxsal.Explainer(explainer.conversion.proto)
    np.testing.assert_array_equal(scorer_of(adopted).logits(x), scorer_of(explainer).logits(x))
    assert scorer_of(explainer) is scorer_of(explainer)
    again = adopted.on(plain).explain(x)
    np.testing.assert_array_equal(again.attribution, explainer.explain(x).attribution)


def test_metrics_refuse_what_they_cannot_change():
    two = make([node("Add", "a b", "y")], {"a": ["N", 3], "b": ["N", 3]}, {"y": ["N", 3]})
    with pytest.raises(InputError, match="needs a, b"):
        Scorer(two, input="a")
    one = make([node("ReduceSum", "x", "y", keepdims=0)], {"x": ["N", 3]}, {"y": []})
    with pytest.raises(TargetError, match="no batch axis"):
        Scorer(one)


# ----- substrates -----


def test_substrates(x: np.ndarray):
    places = places_of(x)
    assert not substrate("zero_norm", x, places).any()
    np.testing.assert_array_equal(substrate("black", x, places, BLACK)[1, :, 4, 5], BLACK.ravel())
    np.testing.assert_allclose(substrate("mean", x, places)[1, 2], x[1, 2].mean(), rtol=1e-5)
    impulse = np.zeros((11, 11))
    impulse[5, 5] = 1
    kernel = gaussian_filter(impulse, 5)
    assert kernel.sum() == pytest.approx(1)
    twin = convolve2d(x[1, 2].astype(np.float64), kernel, mode="same")
    np.testing.assert_allclose(substrate("blur", x, places)[1, 2], twin, atol=1e-6)
    last = np.moveaxis(x, 1, -1)
    np.testing.assert_allclose(np.moveaxis(substrate("blur", last, places_of(last)), -1, 1), substrate("blur", x, places), atol=1e-6)
    with pytest.raises(InputError, match="did you mean 'black'"):
        substrate("blak", x, places)
    with pytest.raises(InputError, match=r"give its value, black=preprocess\.black\(\)"):
        substrate("black", x, places)
    with pytest.raises(InputError, match="for pictures"):
        substrate("blur", x.reshape(3, -1), places_of(x.reshape(3, -1)))


# ----- insertion and deletion -----


def test_area_of_the_worked_example():
    assert auc(np.array([0.9, 0.7, 0.5, 0.1])) == pytest.approx(0.566667, abs=1e-6)


def test_points_of_the_protocols():
    assert curve_pixels(224**2, "rise", 224)[[0, 1, -1]].tolist() == [0, 224, 224**2]
    rise = curve_pixels(224**2, "rise")
    assert len(rise) == 29
    assert rise[1] == 8 * 224
    keio = curve_pixels(224**2, "keio")
    assert len(keio) == 101
    assert keio[[0, -1]].tolist() == [501, 224**2]


def test_curve_settings_are_told_once(explainer: onnxsal.Explainer, x: np.ndarray, maps: np.ndarray):
    """The keywords are the fields, an evaluation hands on all of them, and a wrong value is refused before anything runs."""
    assert get_type_hints(CurveOptions) == {
        f.name: t for f, t in zip(fields(CurveSettings), get_type_hints(CurveSettings).values(), strict=True)
    }
    given = {"protocol": "keio", "substrate": "mean", "step": 9, "ties": "stable", "score": "logit", "seed": 4}
    assert [MEASURES[m].own(metrics.Settings(**given)) for m in ("insertion", "deletion")] == [CurveSettings(**given)] * 2
    for measure in (metrics.insertion, metrics.deletion):
        told = measure(explainer, x, maps, None, CurveSettings(**given))
        np.testing.assert_array_equal(told.scores, measure(explainer, x, maps, **given).scores)
        np.testing.assert_array_equal(told.scores, measure(explainer, x, maps, None, CurveSettings(), **given).scores)
    for name, wrong in (("protocol", "rize"), ("substrate", "grey"), ("ties", "none"), ("score", "raw"), ("step", 0)):
        for refusing in (CurveSettings, metrics.Settings, CurveSettings().changed):
            with pytest.raises(InputError, match=f"^{name}"):
                refusing(**{name: wrong})


@pytest.mark.parametrize(("inserting", "protocol"), [(True, "rise"), (False, "rise"), (True, "keio"), (False, "keio")])
def test_curves_against_a_slow_twin(
    inserting: bool, protocol: str, model: onnx.ModelProto, explainer: onnxsal.Explainer, x: np.ndarray, maps: np.ndarray
):
    metric = metrics.insertion if inserting else metrics.deletion
    given = [1, 3, -1]
    found = metric(explainer, x, maps, given, protocol=protocol, step=20, black=BLACK)
    for i in range(3):
        target = given[i] if given[i] >= 0 else int(np.argmax(open_session(model).run({"x": x[i : i + 1]})["y"]))
        pictures = []
        if protocol == "rise":
            places = places_of(x)
            start, end = (substrate("blur", x, places)[i], x[i]) if inserting else (x[i], 0 * x[i])
            order = sorted(np.ndindex(12, 12), key=lambda p: -maps[i][p])
            picture = start.copy()
            pictures.append(picture.copy())
            for begin in range(0, 144, 20):
                for row, column in order[begin : begin + 20]:
                    picture[:, row, column] = end[:, row, column]
                pictures.append(picture.copy())
        else:
            falling = np.sort(maps[i].ravel())[::-1]
            for point in range(8):
                mask = maps[i] >= falling[min(20 * (point + 1), 143)]
                kept = mask if inserting else ~mask
                pictures.append(np.where(kept, x[i], BLACK[0]))
        scores = one_by_one(model, pictures, target)
        assert len(found.pixels) == len(scores)
        np.testing.assert_allclose(found.scores[i], scores, rtol=1e-4)
        area = sum((a + b) / 2 for a, b in itertools.pairwise(scores)) / (len(scores) - 1)
        assert found.auc[i] == pytest.approx(area, rel=1e-4)
        assert found.target[i] == target
    assert not any(found.flags)
    assert (found.tied == 0).all()


def test_insertion_deletion_of_the_truth_and_of_chance():
    """Score = a softmax over the sum of an object's pixels: the object itself is the best map, its negative the worst."""
    rng = np.random.default_rng(0)
    truth = np.zeros((16, 16), np.float32)
    truth[3:9, 5:12] = 1
    scorer = Scorer(weighing(truth[None] * 0.5, bias=-8))
    x = np.ones((24, 1, 16, 16), np.float32)
    noise = rng.random((24, 16, 16)).astype(np.float32)
    score = {
        k: metrics.id_score(scorer, x, m, 0, substrate="zero_norm")
        for k, m in {"best": truth + 0.01 * noise, "worst": 0.01 * noise - truth, "chance": noise}.items()
    }
    best, worst, chance = (score[k].value for k in ("best", "worst", "chance"))
    assert best.min() > 0.8
    assert worst.max() < -0.8
    assert np.abs(chance.mean()) < 0.05
    assert chance.max() < best.min()


def heavy_tailed(rng: np.random.Generator, count: int, side: int) -> np.ndarray:
    return rng.standard_t(1.5, (count, side, side))


def quantised(maps: np.ndarray) -> np.ndarray:
    """Eight levels between each map's smallest and largest value."""
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    return low + np.floor((maps - low) / (high - low) * 7) / 7 * (high - low)


def test_the_tie_table():
    """Few levels and inclusive ties: noise scores like the truth. Ties broken at random or in raster order: it does not."""
    rng = np.random.default_rng(3)
    truth = np.zeros((56, 56))
    truth[14:42, 14:42] = 1
    scorer = Scorer(weighing(truth[None] * 12 / truth.sum(), bias=-6), batch_size=64)
    x = np.ones((8, 1, 56, 56), np.float32)
    noise = heavy_tailed(rng, 8, 56)
    good = np.abs(heavy_tailed(rng, 8, 56)) * (0.2 + truth)

    def value(maps: np.ndarray, ties: str) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", metrics.TieWarning)
            return float(metrics.id_score(scorer, x, maps, 0, substrate="zero_norm", ties=ties, step=100).value.mean())

    assert abs(value(noise, "random")) < 0.1
    assert value(quantised(noise), "inclusive") > 0.7
    assert abs(value(quantised(noise), "random")) < 0.1
    assert abs(value(quantised(noise), "stable")) < 0.1
    assert value(good, "random") > 0.4
    assert value(quantised(good), "inclusive") - value(quantised(noise), "inclusive") < 0.1
    assert value(quantised(good), "random") < 0.5 * value(good, "random")
    with pytest.warns(metrics.TieWarning):
        found = metrics.id_score(scorer, x, quantised(noise), 0, substrate="zero_norm", step=600)
    assert (found.insertion.distinct <= 8).all()
    assert (found.insertion.tied > 0.9).all()


def test_maps_that_say_nothing_are_flagged_or_refused(explainer: onnxsal.Explainer, x: np.ndarray, maps: np.ndarray):
    flat = maps.copy()
    flat[1] = 7
    with pytest.warns(metrics.TieWarning):
        found = metrics.id_score(explainer, x, flat, step=40)
    assert found.flags == ("", "the map is constant, so it ranks nothing", "")
    assert np.isnan(found.value).tolist() == [False, True, False]
    assert metrics.summarise(found.value).excluded == 1
    whole = metrics.id_score(explainer, x, maps, step=40)
    np.testing.assert_allclose(found.value[[0, 2]], whole.value[[0, 2]], rtol=1e-6)
    flat[1, 2, 2] = np.nan
    for metric in (metrics.insertion, metrics.deletion, metrics.id_score, metrics.occlusion_correlation):
        with pytest.raises(InputError, match=r"samples \[1\] hold NaN"):
            metric(explainer, x, flat)
    with pytest.raises(InputError, match="2 maps were given for 3"):
        metrics.insertion(explainer, x, maps[:2])
    with pytest.raises(InputError, match="do not fit"):
        metrics.insertion(explainer, x, maps.reshape(3, -1))
    with pytest.raises(InputError, match="give the maps"):
        metrics.insertion(scorer_of(explainer), x)
    with pytest.raises(TargetError, match="2 targets were given for 3"):
        metrics.insertion(explainer, x, maps, [1, 2])


def test_maps_of_another_size_are_resized_and_attributions_summed(explainer: onnxsal.Explainer, x: np.ndarray):
    small = np.random.default_rng(0).random((3, 3, 3))
    large = np.zeros((3, 12, 12))
    for row, column in np.ndindex(12, 12):  # bilinear, pixel centres keep their relative place
        r, c = (np.clip((v + 0.5) / 4 - 0.5, 0, 2) for v in (row, column))
        r0, c0 = min(int(r), 1), min(int(c), 1)
        a, b = r - r0, c - c0
        corners = small[:, r0, c0], small[:, r0, c0 + 1], small[:, r0 + 1, c0], small[:, r0 + 1, c0 + 1]
        large[:, row, column] = np.tensordot([(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b], corners, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", metrics.TieWarning)
        np.testing.assert_allclose(
            metrics.insertion(explainer, x, small, step=9).auc, metrics.insertion(explainer, x, large, step=9).auc, rtol=0.02
        )
    signed = draw(3, 3, 12, 12, seed=3)
    np.testing.assert_array_equal(metrics.deletion(explainer, x, signed).auc, metrics.deletion(explainer, x, signed.sum(1)).auc)
    np.testing.assert_array_equal(metrics.deletion(explainer, x).auc, metrics.deletion(explainer, x, explainer.explain(x)).auc)


def test_layouts_batches_and_progress_do_not_change_the_numbers(
    model: onnx.ModelProto, explainer: onnxsal.Explainer, x: np.ndarray, maps: np.ndarray
):
    whole = metrics.id_score(explainer, x, maps, black=BLACK)
    fixed = Scorer(cnn(batch=4, size=12))
    np.testing.assert_allclose(metrics.id_score(fixed, x, maps).value, whole.value, rtol=1e-5)
    seen: list[tuple[int, int]] = []
    single = metrics.id_score(Scorer(model, batch_size=7), x[1:2], maps[1:2], progress=lambda *p: seen.append(p))
    np.testing.assert_allclose(single.value, whole.value[1:2], rtol=1e-5)
    assert seen[-1] == (2 * single.insertion.scores.size,) * 2
    assert seen == sorted(seen)
    last = cnn_nhwc()
    size = last.graph.input[0].type.tensor_type.shape.dim[1].dim_value
    pictures = draw(2, size, size, 3, seed=5)
    shown = metrics.deletion(Scorer(last), pictures, np.arange(2 * size * size).reshape(2, size, size), 0, step=7)
    session = open_session(last)
    first = pictures[0].copy().reshape(-1, 3)
    first[::-1][:7] = 0
    y = session.run({session.inputs[0].name: first.reshape(1, size, size, 3)})
    logits = next(iter(y.values()))
    probability = logits if np.allclose(logits.sum(), 1) else softmax(logits)
    assert shown.scores[0, 1] == pytest.approx(float(probability[0, 0]), rel=1e-4)


def test_inputs_that_are_no_pictures():
    weights = np.array([3.0, -1, 0, 2], np.float32)
    scorer = Scorer(weighing(weights))
    x = np.ones((1, 4), np.float32)
    found = metrics.deletion(scorer, x, weights[None], 0, step=1, score="logit")
    assert found.scores.tolist() == [[4, 1, -1, -1, 0]]


# ----- pixel perturbation -----


def test_pixel_perturbation_against_a_slow_twin(model: onnx.ModelProto, explainer: onnxsal.Explainer, x: np.ndarray, maps: np.ndarray):
    found = metrics.pixel_perturbation(explainer, x, maps, [2, 0, 4], percent=(1, 10, 50), black=BLACK)
    assert found.target.tolist() == [2, 0, 4]
    assert found.pixels.tolist() == [1, 14, 72]
    session = open_session(cnn(size=12, final=""))
    for i in range(3):
        target = found.target[i]
        for k, count in enumerate(found.pixels):
            rising = sorted(np.ndindex(12, 12), key=lambda p: maps[i][p])
            for order, by_logit, by_probability in (
                (rising, found.least_logit, found.least_probability),
                (rising[::-1], found.most_logit, found.most_probability),
            ):
                picture = x[i].copy()
                for row, column in order[:count]:
                    picture[:, row, column] = BLACK[0, :, 0, 0]
                clean, changed = session.run({"x": np.stack([x[i], picture])})["y"].astype(np.float64)
                assert by_logit[i, k] == pytest.approx(abs(clean[target] - changed[target]) / abs(clean[target]), rel=1e-3)
                before, after = softmax(clean)[target], softmax(changed)[target]
                assert by_probability[i, k] == pytest.approx(abs(before - after) / before, rel=1e-3)


def test_pixel_perturbation_of_a_linear_score():
    """The share of the score that the removed pixels hold; a score of zero has no fractional change and is said so."""
    weights = np.arange(1, 101, dtype=np.float32).reshape(1, 10, 10)
    scorer = Scorer(weighing(weights))
    found = metrics.pixel_perturbation(
        scorer, np.stack([weights * 0 + 1, weights * 0]), np.concatenate([weights] * 2), 0, percent=(10, 50), black=0
    )
    np.testing.assert_allclose(found.least_logit[0], [55 / 5050, 1275 / 5050], rtol=1e-5)
    np.testing.assert_allclose(found.most_logit[0], [955 / 5050, 3775 / 5050], rtol=1e-5)
    assert found.near_zero.tolist() == [False, True]
    assert np.isnan(found.least_logit[1]).all()
    assert (found.least_probability[1] == 0).all()
    with pytest.raises(InputError, match="above 0 and up to 100"):
        metrics.pixel_perturbation(scorer, weights[None], weights, percent=(0, 5), black=0)
    with pytest.raises(InputError, match=r"black=preprocess\.black\(\)"):
        metrics.pixel_perturbation(scorer, weights[None], weights)


def test_raster_order_flatters_tied_maps():
    """Least salient first: with stable ties the first rows go first, wherever the object is; with random ones everything suffers."""
    truth = np.zeros((1, 20, 20), np.float32)
    truth[0, 12:] = 1
    tied_map = np.zeros((1, 20, 20))
    tied_map[0, 15, 15] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", metrics.TieWarning)
        change = [
            metrics.pixel_perturbation(Scorer(weighing(truth)), truth[None] + 1, tied_map, 0, percent=(50,), black=0, ties=t).least_logit[
                0, 0
            ]
            for t in ("stable", "random")
        ]
    assert change[0] == 0
    assert change[1] == pytest.approx(0.5, abs=0.1)


# ----- occlusion -----


def test_occlusion_correlation_of_the_exact_map_is_one():
    """For a linear score the drop of a window is the sum of w x over it."""
    weights = draw(2, 14, 14, seed=2)
    x = draw(3, 2, 14, 14, seed=3)
    scorer = Scorer(weighing(weights))
    exact = metrics.occlusion_correlation(scorer, x, weights * x, 0, window=3, stride=2, substrate="zero_norm")
    np.testing.assert_allclose(exact.pearson, 1, atol=1e-5)
    np.testing.assert_allclose(exact.spearman, 1, atol=1e-3)
    assert exact.corners[-1].tolist() == [11, 11]
    wrong = metrics.occlusion_correlation(scorer, x, -weights * x, 0, window=3, stride=2, substrate="zero_norm")
    np.testing.assert_allclose(wrong.pearson, -1, atol=1e-5)
    sizes = metrics.occlusion_correlation(scorer, x, -weights * x, 0, window=1, stride=1, substrate="zero_norm", absolute=True)
    np.testing.assert_allclose(sizes.pearson, 1, atol=1e-5)
    chance = metrics.occlusion_correlation(scorer, np.repeat(x, 8, 0), draw(24, 14, 14, seed=9), 0, window=2, stride=2)
    assert abs(chance.pearson.mean()) < 0.1


def test_occlusion_against_a_slow_twin(explainer: onnxsal.Explainer, x: np.ndarray):
    found = metrics.occlusion_correlation(explainer, x, window=3, stride=2, substrate="mean", score="probability")
    explanation = explainer.explain(x)
    session = open_session(cnn(size=12))
    for i in range(3):
        drops, means = [], []
        for row in (0, 2, 4, 6, 8, 9):
            for column in (0, 2, 4, 6, 8, 9):
                picture = x[i].copy()
                picture[:, row : row + 3, column : column + 3] = x[i].mean((1, 2), keepdims=True)
                clean, hidden = session.run({"x": np.stack([x[i], picture])})["y"][:, explanation.target[i]]
                drops.append(clean - hidden)
                means.append(explanation.attribution[i].sum(0)[row : row + 3, column : column + 3].mean())
        np.testing.assert_allclose(found.drop[i], drops, atol=1e-6)
        np.testing.assert_allclose(found.mapped[i], means, rtol=1e-4, atol=1e-6)
        assert found.pearson[i] == pytest.approx(np.corrcoef(drops, means)[0, 1], abs=1e-4)


def test_occlusion_that_ran_already_is_not_run_again(explainer: onnxsal.Explainer):
    """The falls of one map serve another; so do those that the method occlusion returns, windows of any height and width."""
    x = draw(2, 3, 12, 14, seed=8)
    hidden = onnxsal.Explainer(cnn(size="S"), "occlusion", window=[3, 2], stride=[2, 1], components=True).explain(x, 1)
    scorer, maps = Scorer(cnn(size="S")), draw(2, 12, 14, seed=9)
    wanted = metrics.occlusion_correlation(scorer, x, maps, 1, window=[3, 2], stride=[2, 1])
    np.testing.assert_allclose(hidden.components["occlusion/drop"].reshape(2, -1), wanted.drop, atol=1e-5)
    calls: list[int] = []
    options = {"window": (3, 2), "stride": (2, 1), "progress": lambda done, total: calls.append(done)}
    for drop in (wanted.drop, hidden.components["occlusion/drop"]):
        found = metrics.occlusion_correlation(scorer, x, maps, 1, drop=drop, **options)
        np.testing.assert_allclose([found.pearson, found.spearman], [wanted.pearson, wanted.spearman], atol=1e-3)
    assert not calls
    with pytest.raises(InputError, match="does not fit 2 picture"):
        metrics.occlusion_correlation(scorer, x, maps, 1, drop=wanted.drop[:, 1:], **options)


def test_correlations_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = draw(500, seed=1), np.round(draw(500, seed=1) + draw(500, seed=2), 1)  # with ties
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-6)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)
    assert spearman(a.reshape(20, 25), -a.reshape(20, 25)) == pytest.approx(-1)
    assert np.isnan(pearson(a, np.ones(500)))
    assert np.isnan(spearman(np.zeros(500), b))


def test_occlusion_takes_the_map_that_people_see(x: np.ndarray):
    """FullGrad's attribution is only its input term: the map is compared, and having no signs, with the size of the fall."""
    explainer = onnxsal.Explainer(cnn(size=12), "fullgrad")
    whole = explainer.explain(x)
    own = metrics.occlusion_correlation(explainer, x)
    np.testing.assert_allclose(metrics.occlusion_correlation(explainer, x, whole).mapped, own.mapped)
    np.testing.assert_allclose(metrics.occlusion_correlation(explainer, x, whole.saliency_map, absolute=True).pearson, own.pearson)
    assert (own.drop >= 0).all()
    assert not np.allclose(own.mapped, np.abs(metrics.occlusion_correlation(explainer, x, whole.attribution).mapped))


def test_occlusion_flags_and_refuses(x: np.ndarray):
    scorer = Scorer(weighing(np.zeros((3, 12, 12), np.float32), bias=1))
    found = metrics.occlusion_correlation(scorer, x, x, 0)
    assert np.isnan(found.pearson).all()
    assert set(found.flags) == {"every window changes the score alike"}
    with pytest.raises(InputError, match="9 windows"):
        metrics.occlusion_correlation(scorer, x, x, 0, window=4, stride=4)
    with pytest.raises(InputError, match="needs pictures"):
        metrics.occlusion_correlation(Scorer(weighing(np.ones(4))), np.ones((1, 4), np.float32), np.ones((1, 4)), 0)


# ----- localisation -----


def test_localisation_worked():
    mask = np.zeros((1, 4, 4))
    mask[0, :2, :2] = 1
    best = mask.copy()
    for metric in (metrics.pointing_game, metrics.relevance_mass, metrics.relevance_rank):
        assert metric(best, mask).value[0] == 1
        assert metric(1 - best, mask).value[0] == 0
        assert metric(best, mask).chance[0] == 0.25
    some = np.zeros((1, 4, 4))
    some[0, 0, 0], some[0, 3, 3], some[0, 2, 0] = 3, 5, -2
    assert metrics.relevance_mass(some, mask).value[0] == pytest.approx(3 / 8)
    assert metrics.relevance_mass(some, mask, part="absolute").value[0] == pytest.approx(3 / 10)
    # above zero: one hit, one miss; the two places left are drawn from 13 zeros, of which 3 are in the mask
    assert metrics.relevance_rank(some, mask).value[0] == pytest.approx((1 + 2 * 3 / 13) / 4)
    assert metrics.pointing_game(some, mask).value[0] == 0
    assert metrics.pointing_game(some, mask, tolerance=3).value[0] == 1
    some[0, 0, 0] = 5
    assert metrics.pointing_game(some, mask).value[0] == 0.5


def test_random_maps_localise_at_chance():
    rng = np.random.default_rng(0)
    masks = np.zeros((300, 12, 12))
    for mask in masks:
        row, column = rng.integers(0, 7, 2)
        mask[row : row + 5, column : column + 6] = 1
    noise = rng.random((300, 12, 12))
    for metric in (metrics.pointing_game, metrics.relevance_mass, metrics.relevance_rank):
        found = metric(noise, masks)
        assert found.chance.mean() == pytest.approx(30 / 144)
        assert found.value.mean() == pytest.approx(30 / 144, abs=0.05)


def test_localisation_flags():
    maps = np.stack([np.zeros((4, 4)), np.eye(4), -np.eye(4)])
    masks = np.stack([np.eye(4), np.zeros((4, 4)), np.eye(4)])
    found = metrics.relevance_mass(maps, masks)
    assert found.flags == ("the map is constant, so it ranks nothing", "the mask is empty", "nothing in the map is positive")
    assert np.isnan(found.value).all()
    assert np.isnan(metrics.relevance_rank(maps, masks).value).tolist() == [True, True, False]
    assert np.isnan(metrics.pointing_game(maps, masks, tolerance=1).value).tolist() == [True, True, False]
    with pytest.raises(InputError, match=r"\[N, H, W\]"):
        metrics.pointing_game(maps, masks[0])
    maps[2, 0, 0] = np.inf
    with pytest.raises(InputError, match=r"samples \[2\]"):
        metrics.pointing_game(maps, masks)


def two_objects(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Pictures with a bright square in channel 0 on the left or right and one in channel 1 on the other side; masks [N, 2, H, W]."""
    rng = np.random.default_rng(seed)
    pictures = 0.1 * rng.random((count, 2, 16, 24)).astype(np.float32)
    masks = np.zeros((count, 2, 16, 24))
    for picture, mask, left in zip(pictures, masks, rng.random(count) < 0.5, strict=True):
        for k, side in enumerate((0, 12) if left else (12, 0)):
            row, column = rng.integers(0, 9), side + rng.integers(0, 5)
            picture[k, row : row + 7, column : column + 7] += 0.5 + 0.5 * rng.random((7, 7))
            mask[k, row : row + 7, column : column + 7] = 1
    return pictures, masks


def test_two_object_pointing_game():
    """Each class is pointed at where its object is, not where the other one is; maps that ignore the class point at one of both."""
    weights = {"w": np.eye(2, dtype=np.float32)[..., None, None] * 2, "b": np.full(2, -0.5, np.float32)}
    nodes = [node("Conv", "x w b", "c"), node("Relu", "c", "r"), node("GlobalAveragePool", "r", "g"), node("Flatten", "g", "y")]
    net = make(nodes, {"x": ["N", 2, 16, 24]}, {"y": ["N", 2]}, weights)
    pictures, masks = two_objects(20)
    explainer = onnxsal.Explainer(net, "input_x_gradient")
    own = [metrics.pointing_game(explainer.explain(pictures, k), masks[:, k]).value for k in (0, 1)]
    other = [metrics.pointing_game(explainer.explain(pictures, k), masks[:, 1 - k]).value for k in (0, 1)]
    assert np.concatenate(own).min() == 1
    assert np.concatenate(other).max() == 0
    blind = pictures.sum(1)
    assert np.mean([metrics.pointing_game(blind, masks[:, k]).value for k in (0, 1)]) == pytest.approx(0.5)
    assert metrics.relevance_mass(explainer.explain(pictures, 1), masks[:, 1]).value.min() > 0.99


def test_attention_errors():
    mask = np.zeros((10, 10))
    mask[2:8, 2:8] = 1
    part, over, wrong = np.zeros((3, 10, 10))
    part[2:4, 2:8] = 1
    over[:, :] = 1
    over[0, 0] = 0
    wrong[8:, :] = 1
    flat = np.ones((10, 10))
    found = metrics.attention_errors(np.stack([mask, part, over, wrong, flat]), np.stack([mask] * 5))
    assert found.verdict == ("good", "insufficiently attended", "over-attended", "wrongly attended", "")
    assert found.counts == {"good": 1, "insufficiently attended": 1, "over-attended": 1, "wrongly attended": 1}
    np.testing.assert_allclose(found.precision[:4], [1, 1, 36 / 99, 0])
    np.testing.assert_allclose(found.recall[:4], [1, 1 / 3, 1, 0])
    assert np.isnan(found.precision[4])
    peaked = mask + 0.0
    peaked[3, 3] = 9  # 20 % of the relevance in one pixel; 80 % need most of the others, which tie
    assert metrics.attention_errors(peaked[None], mask[None]).recall[0] == 1


# ----- similarity -----


def slow_ranks(v: np.ndarray) -> np.ndarray:
    return np.array([np.mean([i for i, w in enumerate(sorted(v)) if w == u]) for u in v])


def test_spearman_against_a_slow_twin():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, 30).astype(float), rng.random(30)
    assert spearman(a, b) == pytest.approx(np.corrcoef(slow_ranks(a), slow_ranks(b))[0, 1])
    assert np.isnan(spearman(a, np.ones(30)))


def slow_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004 with an 11 x 11 window of sigma 1.5, sample covariances, over the pixels whose window fits."""
    g = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(g, g) / g.sum() ** 2
    unbiased = 121 / 120
    values = []
    for row, column in np.ndindex(a.shape[0] - 10, a.shape[1] - 10):
        p, q = a[row : row + 11, column : column + 11], b[row : row + 11, column : column + 11]
        mp, mq = (window * p).sum(), (window * q).sum()
        vp, vq, cov = (unbiased * ((window * u).sum() - m) for u, m in ((p * p, mp * mp), (q * q, mq * mq), (p * q, mp * mq)))
        values.append((2 * mp * mq + 1e-4) * (2 * cov + 9e-4) / ((mp * mp + mq * mq + 1e-4) * (vp + vq + 9e-4)))
    return float(np.mean(values))


def test_similarity():
    rng = np.random.default_rng(0)
    smooth = np.stack([gaussian_filter(m, 3) for m in rng.standard_normal((4, 48, 48))])[:, None]
    other = np.stack([gaussian_filter(m, 3) for m in rng.standard_normal((4, 48, 48))])[:, None]
    places = places_of(smooth)
    same = metrics.similarity(smooth, 2 * smooth, places)
    different = metrics.similarity(smooth, other, places)
    for name in ("spearman", "spearman_abs", "ssim", "hog_spearman", "hog_pearson"):
        np.testing.assert_allclose(getattr(same, name), 1, atol=1e-6)
        assert np.abs(getattr(different, name)).max() < 0.75
    negative = metrics.similarity(smooth, -smooth, places)
    np.testing.assert_allclose(negative.spearman, -1)
    np.testing.assert_allclose(negative.spearman_abs, 1)

    def picture(m: np.ndarray) -> np.ndarray:
        size = np.abs(m[0])
        high = np.percentile(size, 99)
        return (np.minimum(size, high) - size.min()) / (high - size.min())

    assert different.ssim[1] == pytest.approx(slow_ssim(picture(smooth[1]), picture(other[1])), abs=1e-6)
    edges = hog(picture(smooth[1])), hog(picture(other[1]))
    assert len(edges[0]) == 81
    assert different.hog_pearson[1] == pytest.approx(np.corrcoef(*edges)[0, 1])
    assert different.hog_spearman[1] == pytest.approx(np.corrcoef(*map(slow_ranks, edges))[0, 1])


def test_similarity_flags_constant_maps_and_small_ones():
    small = draw(2, 1, 8, 8)
    flat = small.copy()
    flat[1] = 3
    found = metrics.similarity(small, flat, places_of(small))
    assert found.flags == ("", "the second map is constant")
    assert np.isnan(found.spearman).tolist() == [False, True]
    assert np.isnan(found.ssim).all()
    assert not np.isnan(found.hog_pearson[0])


# ----- sanity -----


def test_layers_with_weights_from_the_output_down():
    weights = {"w": draw(4, 6), "b": draw(6), "g": draw(6), "c": draw(6), "m": draw(6), "v": np.abs(draw(6)), "k": draw(6, 3), "s": draw(6)}
    nodes = [
        node("MatMul", "x w", "a"),
        node("Add", "b a", "h"),
        node("BatchNormalization", "h g c m v", "n"),
        node("Mul", "n s", "q"),
        helper.make_node("Constant", [], ["stored"], value=numpy_helper.from_array(weights.pop("k"))),
        node("Identity", "stored", "k"),
        node("MatMul", "q k", "y"),
    ]
    net = make(nodes, {"x": ["N", 4]}, {"y": ["N", 3]}, weights)
    layers = weighted_layers(net)
    assert [(layer.name, layer.tensors) for layer in layers] == [("y", ("stored",)), ("n", ("g", "c")), ("a", ("w", "b"))]
    x = draw(2, 4, seed=3)

    def y(model: onnx.ModelProto) -> np.ndarray:
        return open_session(model).run({"x": x})["y"]

    assert not np.allclose(y(randomised(net, layers[:1])), y(net))
    assert (y(randomised(net, [])) == y(net)).all()
    with pytest.raises(InputError, match="did you mean 'normal'"):
        randomised(net, layers, "normall")


def test_how_weights_are_drawn():
    net = cnn()
    before = {t.name: numpy_helper.to_array(t) for t in net.graph.initializer}
    layers = weighted_layers(net)
    assert [layer.op_type for layer in layers] == ["Gemm", "Conv", "Conv"]
    for how in ("normal", "permute"):
        one, all_of_them = (
            {t.name: numpy_helper.to_array(t) for t in randomised(net, chosen, how).graph.initializer} for chosen in (layers[:1], layers)
        )
        assert (one["w3"] == all_of_them["w3"]).all()
        assert (one["w1"] == before["w1"]).all()
        for name, array in before.items():
            assert (all_of_them[name] != array).any()
            if how == "permute":
                assert (np.sort(all_of_them[name], None) == np.sort(array, None)).all()
    big = make([node("Gemm", "x w", "y")], {"x": ["N", 100]}, {"y": ["N", 100]}, {"w": 0.5 + 0.1 * draw(100, 100)})
    drawn = numpy_helper.to_array(randomised(big, weighted_layers(big)).graph.initializer[0])
    assert (drawn.mean(), drawn.std()) == pytest.approx((0.5, 0.1), abs=0.003)
    assert np.abs(drawn - 0.5).max() < 0.24
    assert {t.name: numpy_helper.to_array(t).tobytes() for t in net.graph.initializer} == {k: v.tobytes() for k, v in before.items()}


def test_model_randomization(x: np.ndarray):
    explainer = onnxsal.Explainer(cnn(size=12), "gradient")
    target = [1, 2, 3]
    seen: list[tuple[int, int]] = []
    found = metrics.model_randomization(explainer, x, target, progress=lambda *p: seen.append(p))
    assert found.stages == ("logits", "c2", "c1")
    assert found.layers == (1, 2, 3)
    assert found.target.tolist() == target
    assert found.kept == 0
    assert seen == [(1, 3), (2, 3), (3, 3)]
    plain = forward_model(explainer)
    original = explainer.explain(x, target).attribution
    for stage, similar in enumerate(found.similarities):  # the twin: each model drawn, converted and explained by hand
        net = randomised(plain, weighted_layers(plain)[: stage + 1])
        again = onnxsal.Explainer(net, "gradient").explain(x, target).attribution
        twin = [spearman(np.abs(a).sum(0), np.abs(b).sum(0)) for a, b in zip(original, again, strict=True)]
        np.testing.assert_allclose(similar.spearman_abs, twin)
    alone = metrics.model_randomization(explainer, x, target, mode="independent")
    assert alone.layers == (1, 1, 1)
    np.testing.assert_array_equal(alone.similarities[0].spearman, found.similarities[0].spearman)
    assert (alone.similarities[2].spearman != found.similarities[2].spearman).any()
    assert alone.passed is None
    assert metrics.model_randomization(explainer, x, stages=2).layers == (1, 3)
    assert metrics.model_randomization(explainer, x, stages=1).layers == (3,)
    with pytest.raises(InputError, match="did you mean 'cascading'"):
        metrics.model_randomization(explainer, x, mode="cascade")
    nothing = make([node("GlobalAveragePool", "x", "g"), node("Flatten", "g", "y")], {"x": ["N", 3, 12, 12]}, {"y": ["N", 3]})
    with pytest.raises(ModelError, match="no weights"):
        metrics.model_randomization(onnxsal.Explainer(nothing, "gradient"), x)


@pytest.mark.parametrize("given", [{}, {"quantize": 4}])
@pytest.mark.parametrize("method", ["fullgrad", "simple_fullgrad", "gradcam", "guided_gradcam", "gradient"])
def test_the_map_that_people_see_is_compared(x: np.ndarray, method: str, given: dict):
    """FullGrad's attribution is its input term, without the biases that the map shows; a floored map is not the attribution either."""
    explainer = onnxsal.Explainer(cnn(size=12), method, **given)
    plain = forward_model(explainer)
    drawn = randomised(plain, weighted_layers(plain))
    first = explainer.explain(x)
    second = explainer.on(drawn).explain(x, first.target)
    found = metrics.model_randomization(explainer, x, stages=1).similarities[0]
    trained = metrics.data_randomization(explainer, lambda *_: drawn, x, first.target, x).similarity

    def twin(maps: Callable[[onnxsal.Explanation], np.ndarray]) -> list[float]:
        return [spearman(a, b) for a, b in zip(maps(first), maps(second), strict=True)]

    seen, parts = twin(lambda e: np.abs(e.saliency_map)), twin(lambda e: np.abs(e.attribution).sum(1))
    signed = twin(lambda e: e.saliency_map if "fullgrad" in method else e.attribution.sum(1))
    own = method in ("fullgrad", "simple_fullgrad", "gradcam") or given
    for same in (found, trained):
        np.testing.assert_allclose(same.spearman_abs, seen if own else parts)
        np.testing.assert_allclose(same.spearman, signed)
    if method == "fullgrad":
        assert np.abs(np.subtract(seen, parts)).max() > 0.01  # the two are not the same question


def test_sanity_tells_maps_of_the_weights_from_maps_of_the_picture():
    """A score that is linear in learnt weights: its gradient forgets everything; the picture times a constant nothing."""
    weights = draw(1, 24, 24, seed=1)
    x = np.abs(draw(4, 1, 24, 24, seed=2)) + 0.1
    gradient = metrics.model_randomization(onnxsal.Explainer(weighing(weights), "gradient"), x, 0)
    assert abs(gradient.measure("spearman").mean()) < 0.1
    # one scale for all pixels is learnt: the map of input x gradient keeps its order, whatever the scale
    nodes = [node("Conv", "x k", "c"), node("GlobalAveragePool", "c", "g"), node("Flatten", "g", "y")]
    scaled = make(nodes, {"x": ["N", 1, 24, 24]}, {"y": ["N", 2]}, {"k": np.array([2.0, 1.0], np.float32).reshape(2, 1, 1, 1)})
    edges = metrics.model_randomization(onnxsal.Explainer(scaled, "input_x_gradient"), x, 0)
    np.testing.assert_allclose(edges.measure("spearman_abs"), 1)
    assert edges.passed is False
    assert gradient.passed


def least_squares(inputs: np.ndarray, labels: np.ndarray, seed: int, ridge: float = 30.0) -> onnx.ModelProto:
    """A linear classifier fitted in closed form; the seed draws what little noise keeps it from being the same each time."""
    rng = np.random.default_rng(seed)
    flat = inputs.reshape(len(inputs), -1).astype(np.float64)
    flat = np.c_[flat, np.ones(len(flat))]
    hot = np.eye(int(labels.max()) + 1)[labels] + 0.05 * rng.standard_normal((len(labels), int(labels.max()) + 1))
    fitted = np.linalg.solve(flat.T @ flat + ridge * np.eye(flat.shape[1]), flat.T @ hot).astype(np.float32)
    nodes = [node("Flatten", "x", "f"), node("Gemm", "f w b", "l"), node("Softmax", "l", "y", axis=1)]
    return make(nodes, {"x": ["N", *inputs.shape[1:]]}, {"y": ["N", fitted.shape[1]]}, {"w": fitted[:-1], "b": fitted[-1]})


def shapes(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy pictures of three classes, each with a bright bar of its own."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pictures = rng.standard_normal((count, 1, 12, 12)).astype(np.float32) * 0.5
    for picture, label in zip(pictures, labels, strict=True):
        picture[0, 1 + 4 * label : 3 + 4 * label, 3:9] += 1
    return pictures, labels


def test_data_randomization():
    inputs, labels = shapes(90, 0)
    explainer = onnxsal.Explainer(least_squares(inputs, labels, 0), "gradient")
    given = []

    def train(x: np.ndarray, y: np.ndarray, seed: int) -> onnx.ModelProto:
        given.append(y)
        return least_squares(x, y, seed, 1e-3)

    found = metrics.data_randomization(explainer, train, inputs, labels, inputs[:4])
    assert (given[0] != labels).any()
    assert sorted(given[0]) == sorted(labels)
    assert found.learnt
    assert found.train_accuracy > 0.95
    assert found.similarity.spearman.max() < 0.5
    same = metrics.data_randomization(explainer, lambda x, y, seed: least_squares(x, labels, 0), inputs, labels, inputs[:4])
    np.testing.assert_allclose(same.similarity.spearman, 1)
    assert not same.learnt


# ----- remove and retrain -----


@pytest.fixture(scope="module")
def digits() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Train and test set, and the truth: where each class's bar is."""
    truth = np.zeros((3, 12, 12))
    for k in range(3):
        truth[k, 1 + 4 * k : 3 + 4 * k, 3:9] = 1
    return shapes(150, 1), shapes(90, 2), truth


def test_roar_and_kar(digits: tuple):
    train_set, test_set, truth = digits
    explainer = onnxsal.Explainer(least_squares(*train_set, 0), "gradient")
    rng = np.random.default_rng(0)
    good = tuple(truth[s[1]] + 0.01 * rng.random((len(s[1]), 12, 12)) for s in (train_set, test_set))
    noise = tuple(rng.random((len(s[1]), 12, 12)) for s in (train_set, test_set))
    removed = {
        k: metrics.roar(explainer, least_squares, train_set, test_set, m, percent=(10,), seeds=(0, 1), replacement="black", black=0.25)
        for k, m in (("good", good), ("noise", noise))
    }
    kept = {
        k: metrics.kar(explainer, least_squares, train_set, test_set, m, percent=(8,), seeds=(0, 1))
        for k, m in (("good", good), ("noise", noise))
    }
    assert removed["good"].accuracy.shape == (1, 2)
    assert removed["good"].clean.min() > 0.9
    assert kept["good"].accuracy.min() > kept["noise"].accuracy.max()
    assert kept["good"].kept
    assert not removed["good"].kept


@pytest.mark.filterwarnings("ignore:6 of 6 maps")
def test_what_roar_trains_on(digits: tuple):
    """The twin: pictures changed pixel by pixel; labels, and the test pictures, treated alike."""
    train_set, test_set, _ = digits
    train_set, test_set = (train_set[0][:9], train_set[1][:9]), (test_set[0][:6], test_set[1][:6])
    explainer = onnxsal.Explainer(least_squares(*train_set, 0), "gradient")
    seen = []

    def train(inputs: np.ndarray, labels: np.ndarray, seed: int) -> onnx.ModelProto:
        seen.append((inputs, labels, seed))
        return least_squares(inputs, labels, seed)

    result = metrics.roar(explainer, train, train_set, test_set, percent=(25,), seeds=(5,))
    maps = explainer.explain(train_set[0], train_set[1]).saliency_map
    assert [s[2] for s in seen] == [5, 5]
    assert (seen[0][0] == train_set[0]).all()
    for i, picture in enumerate(train_set[0]):
        order = sorted(np.ndindex(12, 12), key=lambda p: -maps[i][p])
        twin = picture.copy()
        for row, column in order[:36]:
            twin[0, row, column] = train_set[0].mean()
        np.testing.assert_allclose(seen[1][0][i], twin, atol=1e-6)
    assert (seen[1][1] == train_set[1]).all()
    twin_accuracy = (Scorer(least_squares(*train_set, 5)).predict(test_set[0]) == test_set[1]).mean()
    assert result.clean[0] == twin_accuracy
    flat = (np.zeros((9, 12, 12)), np.zeros((6, 12, 12)))
    with pytest.warns(ConstantMapWarning, match="9 of 9 maps of the train set are constant"):
        assert metrics.roar(explainer, least_squares, train_set, test_set, flat, percent=(50,), seeds=(0,)).constant == (9, 6)


def test_an_interrupted_roar_goes_on_where_it_stopped(digits: tuple, tmp_path: Path):
    train_set, test_set, _ = digits
    explainer = onnxsal.Explainer(least_squares(*train_set, 0), "gradient")
    calls: list[int] = []

    def stops(after: int):
        def train(inputs: np.ndarray, labels: np.ndarray, seed: int) -> onnx.ModelProto:
            if len(calls) == after:
                raise KeyboardInterrupt
            calls.append(seed)
            return least_squares(inputs, labels, seed)

        return train

    whole = metrics.roar(explainer, stops(-1), train_set, test_set, percent=(20, 60))
    assert len(calls) == 9
    calls.clear()
    state = tmp_path / "roar.json"
    with pytest.raises(KeyboardInterrupt):
        metrics.roar(explainer, stops(4), train_set, test_set, percent=(20, 60), state=state)
    again = metrics.roar(explainer, stops(-1), train_set, test_set, percent=(20, 60), state=state)
    assert len(calls) == 9
    for name in ("accuracy", "clean"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    metrics.roar(explainer, stops(9), train_set, test_set, percent=(20, 60), state=state)
    with pytest.raises(InputError, match="another run"):
        metrics.kar(explainer, stops(-1), train_set, test_set, percent=(20,), state=state)
    state.write_text('{"run": ')
    with pytest.raises(InputError, match=r"is damaged.*Delete it"):
        metrics.roar(explainer, stops(-1), train_set, test_set, state=state)


ROAR = """
import sys, time
import numpy as np
import onnxsal
from onnxsal import metrics
from tests.test_metrics import least_squares, shapes

def train(inputs, labels, seed):
    with open(sys.argv[2], "a") as log:
        log.write(f"{seed}\\n")
    time.sleep(float(sys.argv[4]))
    return least_squares(inputs, labels, seed)

first, second = shapes(60, 1), shapes(30, 2)
explainer = onnxsal.Explainer(least_squares(*first, 0), "gradient")
found = metrics.roar(explainer, train, first, second, percent=(20, 60), state=sys.argv[1])
np.savez(sys.argv[3], accuracy=found.accuracy, clean=found.clean)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_a_killed_roar_goes_on_to_the_same_numbers(tmp_path: Path):
    """SIGKILL while the fourth of nine models is trained: the second run trains the rest, and nothing twice but that one."""

    def start(name: str, log: str, pause: float) -> subprocess.Popen:
        names = [f"{name}.json", log, f"{name}.npz"]
        command = [sys.executable, "-W", "ignore", "-c", ROAR, *(str(tmp_path / n) for n in names), str(pause)]
        return subprocess.Popen(command, cwd=Path(__file__).resolve().parent.parent, stdout=subprocess.DEVNULL)

    process, state = start("cut", "first.log", 0.5), tmp_path / "cut.json"
    deadline = time.monotonic() + 120
    while not (state.exists() and state.read_text().count("/") >= 3) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    assert not (tmp_path / "cut.npz").exists()
    done = state.read_text().count("/")
    assert 3 <= done < 9
    for name, log in (("cut", "second.log"), ("whole", "whole.log")):
        assert start(name, log, 0).wait() == 0
    trained = {log: len((tmp_path / f"{log}.log").read_text().splitlines()) for log in ("second", "whole")}
    assert trained == {"second": 9 - done, "whole": 9}
    with np.load(tmp_path / "cut.npz") as cut, np.load(tmp_path / "whole.npz") as whole:
        for key in ("accuracy", "clean"):
            np.testing.assert_array_equal(cut[key], whole[key])


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(MissingLibraryError, match=r"needs scipy.*pip install 'onnxsal\[evaluate\]'"):
        metrics.summarise([1.0, 2.0])


def test_everything_is_exported():
    assert set(metrics.__all__) <= set(dir(metrics))
