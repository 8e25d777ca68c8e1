"""Published procedures, stated anew from their description, and another library's: they agree on shared settings."""

from __future__ import annotations

import io
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import onnxsal
from onnxsal import metrics
from onnxsal.metrics.scorer import Scorer
from onnxsal.runtime.beside import beside

torch = pytest.importorskip("torch")
SIDE = 32
ROOT = Path(__file__).resolve().parent.parent


def small(channels: int) -> tuple[Any, Scorer]:
    """A network in PyTorch, and what it becomes as an ONNX model."""
    torch.manual_seed(0)
    nn = torch.nn
    net = nn.Sequential(
        *(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10)),
    ).eval()
    with torch.no_grad():
        net[-1].weight *= 8  # probabilities that move
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "N"}, "y": {0: "N"}}}
        torch.onnx.export(net, (torch.zeros(2, channels, SIDE, SIDE),), buffer, dynamo=False, **names)
    return net, Scorer(buffer.getvalue())


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    rng = np.random.default_rng(1)
    return np.stack([gaussian_filter(p, (0, 2, 2)) * 6 for p in rng.standard_normal((4, 3, SIDE, SIDE))]).astype(np.float32)


@pytest.fixture(scope="module")
def maps() -> np.ndarray:
    """Without ties."""
    return np.stack([np.random.default_rng(i).permutation(SIDE * SIDE) for i in range(4)]).reshape(4, SIDE, SIDE).astype(np.float32)


def probability(network: Any, pictures: list[np.ndarray], target: int) -> np.ndarray:
    with torch.no_grad():
        return torch.softmax(network(torch.tensor(np.stack(pictures))), 1)[:, target].numpy()


def rise(network: Any, picture: np.ndarray, saliency: np.ndarray, step: int, mode: str) -> float:
    """Petsiuk et al. 2018: pixels by falling saliency, `step` at a time, from nothing changed to all of them, n + 1 scores.

    Deletion puts zeros (after normalisation) in place of pixels; insertion starts from the picture convolved with an 11 x 11 kernel, which
    is what a Gaussian of sigma 5 leaves of a single one in the middle, borders padded with zeros. The class is that of the whole picture.
    """
    delta = np.zeros((11, 11))
    delta[5, 5] = 1
    kernel = torch.zeros(3, 3, 11, 11, dtype=torch.float64)
    for channel in range(3):
        kernel[channel, channel] = torch.tensor(gaussian_filter(delta, 5))
    blurred = torch.nn.functional.conv2d(torch.tensor(picture[None]).double(), kernel, padding=5)[0].float().numpy()
    with torch.no_grad():
        target = int(network(torch.tensor(picture[None])).argmax())
    start, end = (picture, np.zeros_like(picture)) if mode == "deletion" else (blurred, picture)
    order = np.flip(np.argsort(saliency.ravel()))
    steps = math.ceil(saliency.size / step)
    current, scores = start.copy(), []
    for i in range(steps + 1):
        scores.append(float(probability(network, [current], target)[0]))
        for pixel in order[step * i : step * (i + 1)]:
            row, column = divmod(int(pixel), saliency.shape[1])
            current[:, row, column] = end[:, row, column]
    return (sum(scores) - scores[0] / 2 - scores[-1] / 2) / steps


@pytest.mark.parametrize("step", [None, 8 * SIDE, 100])
def test_rise_as_published(x: np.ndarray, maps: np.ndarray, step: int | None):
    network, scorer = small(3)
    found = metrics.id_score(scorer, x, maps, step=step)
    step = step or math.ceil(SIDE * SIDE / 28)
    for i in range(len(x)):
        put, taken = (rise(network, x[i], maps[i], step, mode) for mode in ("insertion", "deletion"))
        assert found.insertion.auc[i] == pytest.approx(put, abs=1e-5)
        assert found.deletion.auc[i] == pytest.approx(taken, abs=1e-5)
        assert found.value[i] == pytest.approx(put - taken, abs=2e-5)
    assert np.ptp(found.deletion.auc) > 0.01


@pytest.mark.parametrize("step", [32, 64])
def test_quantus_flips_pixels_alike(x: np.ndarray, maps: np.ndarray, step: int):
    """Quantus' pixel flipping leaves out the point where nothing is changed; all others are those of deletion. One channel: it ranks
    the values of each channel by themselves, where we rank pixels.
    """
    quantus = pytest.importorskip("quantus")
    network, scorer = small(1)
    x = np.ascontiguousarray(x[:, :1])
    target = scorer.predict(x)
    flip = quantus.PixelFlipping(
        features_in_step=step, perturb_baseline=0.0, abs=False, normalise=False, return_aggregate=False, disable_warnings=True
    )
    asked = {"model": network, "x_batch": x, "y_batch": target, "a_batch": maps[:, None], "channel_first": True, "device": "cpu"}
    theirs = np.array(flip(**asked, softmax=True))
    ours = metrics.deletion(scorer, x, maps, target, substrate="zero_norm", step=step)
    assert theirs.shape == (len(x), SIDE * SIDE // step)
    np.testing.assert_allclose(ours.scores[:, 1:], theirs, atol=1e-5)
    assert np.ptp(theirs, axis=1).min() > 0.05


def test_guided_backprop_forgets_less_than_gradient_and_gradcam():
    """Adebayo et al. 2018 on Lite0, weights drawn anew from the top: gradient and Grad-CAM lose their rank correlation with the first
    layers; guided backpropagation keeps it until the layers next to the picture are gone.
    """
    files = sorted((ROOT / "models" / "pictures").iterdir())
    model = ROOT / "models" / "efficientnet_lite0.onnx"
    x = beside(model).preprocess.batch(files)
    found = {
        method: np.nanmean(metrics.model_randomization(onnxsal.Explainer(model, method), x, stages=4).measure("spearman_abs"), 1)
        for method in ("gradient", "gradcam", "guided_backprop")
    }
    assert found["gradient"].max() < 0.6
    assert found["gradient"][-1] < 0.2
    assert found["gradient"][-1] < found["gradient"][0]
    assert found["gradcam"].max() < 0.6
    assert found["guided_backprop"][:2].min() > 0.9
    for other in ("gradient", "gradcam"):
        assert (found["guided_backprop"][:3] > found[other][:3] + 0.2).all()
