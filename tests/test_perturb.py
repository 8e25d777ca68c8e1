"""Occlusion and RISE against slow twins that run the model once per window or mask."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

import onnxsal
from onnxsal.cli import app
from onnxsal.errors import MethodError
from onnxsal.graph import Emit, Model
from onnxsal.methods.perturb import _smooth_masks
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.session import open_session
from tests.nets import light
from tests.small_models import cnn, draw, make, node
from tests.token_nets import IDS, summed
from tests.torch_nets import Vit, export, images, net, randomise

MODELS = Path(__file__).resolve().parent.parent / "models"


def close(got: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-4) -> None:
    wanted = np.asarray(wanted)
    assert got.shape == wanted.shape
    scale = np.abs(wanted).max()
    assert scale > 0
    assert np.abs(got - wanted).max() <= tolerance * scale


def logits(model: onnx.ModelProto) -> Callable[[np.ndarray], np.ndarray]:
    session = open_session(model)
    return lambda x: next(iter(session.run({session.inputs[0].name: x}).values()))


def places(size: int, window: int, stride: int) -> list[int]:
    """Every stride, then once more where the window touches the border."""
    last = max(size - window, 0)
    return [p for p in range(0, size, stride) if p < last] + [last]


# ----- occlusion -----


def occlusion_twin(
    run: Callable, x: np.ndarray, target: int, window: tuple, stride: tuple, fill: Callable
) -> tuple[np.ndarray, np.ndarray]:
    """(drop at each position, mean drop over the windows that cover each pixel) of one picture [1, C, H, W]."""
    height, width = x.shape[2:]
    rows, columns = places(height, window[0], stride[0]), places(width, window[1], stride[1])
    drop = np.zeros((len(rows), len(columns)))
    total, cover = np.zeros((height, width)), np.zeros((height, width))
    other = fill(x)
    clean = run(x)[0, target]
    for i, r in enumerate(rows):
        for j, c in enumerate(columns):
            hidden = x.copy()
            here = (..., slice(r, r + window[0]), slice(c, c + window[1]))
            hidden[here] = np.broadcast_to(other, x.shape)[here]
            drop[i, j] = clean - run(hidden)[0, target]
            total[here[1:]] += drop[i, j]
            cover[here[1:]] += 1
    return drop, total / np.maximum(cover, 1)


def mean(x: np.ndarray) -> np.ndarray:
    return x.mean((2, 3), keepdims=True)


def constant(value: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: np.full((1, 1, 1, 1), value, np.float32)


@pytest.mark.parametrize(
    ("settings", "window", "stride", "fill"),
    [
        ({}, (15, 15), (8, 8), mean),
        ({"window": 7, "stride": 5, "value": 0.25}, (7, 7), (5, 5), constant(0.25)),
        ({"window": [5, 9], "strides": [6, 4], "value": "mean"}, (5, 9), (6, 4), mean),
        ({"window": [0.2, 9], "stride": [6, 0.1]}, (6, 9), (6, 3), mean),
        ({"window": 40, "stride": 3, "baselines": 0}, (40, 40), (3, 3), constant(0)),
        ({"window": 3, "stride": 10, "chunk": 100}, (3, 3), (10, 10), mean),
    ],
    ids=["default", "number", "rectangles", "shares", "whole_picture", "gaps"],
)
@pytest.mark.parametrize("batch", [None, 1])
def test_occlusion_equals_the_loop(settings: dict, window: tuple, stride: tuple, fill: Callable, batch: int | None) -> None:
    model, x = export(net("vgg"), batch=batch), images(2).numpy()
    run = logits(export(net("vgg")))
    found = onnxsal.Explainer(model, "occlusion", components=True, **settings).explain(x, 3)
    for i in range(2):
        drop, pixels = occlusion_twin(run, x[i : i + 1], 3, window, stride, fill)
        close(found.components["occlusion/drop"][i], drop)
        close(found.saliency_map[i], pixels)
        close(found.attribution[i].sum(0), pixels)
        close(found.components["occlusion/score"][i], run(x[i : i + 1])[0, 3] - drop)


def test_what_zeiler_and_fergus_show() -> None:
    """By position: the class that is then predicted, and the sum over the feature map that is strongest on the whole picture."""
    model, x = net("vgg"), images(2)
    found = onnxsal.Explainer(export(model), "occlusion", components=True).explain(x.numpy())
    features = model[:10]
    for i in range(2):
        strongest = features(x[i : i + 1]).sum((2, 3)).argmax()
        classes, sums = np.zeros((4, 4)), np.zeros((4, 4))
        for r, row in enumerate(places(32, 15, 8)):
            for c, column in enumerate(places(32, 15, 8)):
                hidden = x[i : i + 1].clone()
                hidden[..., row : row + 15, column : column + 15] = hidden.mean((2, 3), keepdim=True)
                classes[r, c] = model(hidden).argmax()
                sums[r, c] = features(hidden)[0, strongest].sum()
        np.testing.assert_array_equal(found.components["occlusion/class"][i], classes)
        close(found.components["occlusion/activation"][i], sums)
    assert found.parameters["layer"] == "/9/Relu_output_0"


def test_class_map_where_there_is_no_layer() -> None:
    dense = make([node("Flatten", "x", "f"), node("MatMul", "f w", "y")], {"x": ["N", 3, 4, 4]}, {"y": ["N", 3]}, {"w": draw(48, 3)})
    found = onnxsal.Explainer(dense, "occlusion", window=2, stride=2, components=True).explain(draw(2, 3, 4, 4, seed=1))
    assert list(found.components) == ["occlusion/drop", "occlusion/score", "occlusion/class"]
    # of a linear model the drop is w (x - mean), whatever else is in the picture
    x = draw(2, 3, 4, 4, seed=1)
    weight = draw(48, 3).reshape(3, 4, 4, 3)
    share = np.stack([(x[i] - x[i].mean((1, 2), keepdims=True)) * weight[..., c] for i, c in enumerate(found.target)]).sum(1)
    close(found.components["occlusion/drop"], share.reshape(2, 2, 2, 2, 2).sum((2, 4)))


def test_replacement_by_blur_and_black() -> None:
    model, x = export(net("vgg")), images(1).numpy()
    black = np.array([-0.5, 0.1, 0.3], np.float32).reshape(3, 1, 1)
    with pytest.raises(MethodError, match="black"):
        onnxsal.convert(model, "occlusion", value="black")
    found = onnxsal.Explainer(model, "occlusion", value="black", black=black, components=True).explain(x, 0)
    close(found.components["occlusion/drop"][0], occlusion_twin(logits(model), x, 0, (15, 15), (8, 8), lambda x: black[None])[0])
    white = found.components["occlusion/drop"]
    again = onnxsal.Explainer(model, "occlusion", value="black", black=black, components=True).explain(x, 0, baseline=-black[None])
    assert np.abs(again.components["occlusion/drop"] - white).max() > 1e-3

    def blurred(x: np.ndarray) -> np.ndarray:
        t = torch.from_numpy(x)
        for _ in range(2):
            t = F.avg_pool2d(t, 15, 1, 7, count_include_pad=False)
        return t.numpy()

    found = onnxsal.Explainer(model, "occlusion", value="blur", components=True).explain(x, 0)
    close(found.components["occlusion/drop"][0], occlusion_twin(logits(model), x, 0, (15, 15), (8, 8), blurred)[0])


def test_occlusion_settings_that_cannot_be() -> None:
    model = export(net("vgg"))
    for given in ({"window": 0}, {"stride": [1, 2, 3]}, {"window": 2.5}, {"stride": "a"}):
        with pytest.raises(MethodError, match="is neither a number of pixels nor a share"):
            onnxsal.convert(model, "occlusion", **given)
    with pytest.raises(MethodError, match="baseline 'grey' is unknown"):
        onnxsal.convert(model, "occlusion", value="grey")


def test_no_gradient_is_needed() -> None:
    """Perturbation runs the model forward only: a node without any gradient does not matter."""
    step = make(
        [node("Flatten", "x", "f"), node("MatMul", "f w", "z"), node("Round", "z", "q"), node("Mod", "q m", "y", fmod=1)],
        {"x": ["N", 3, 4, 4]},
        {"y": ["N", 3]},
        {"w": draw(48, 3) * 5, "m": np.float32([100.0])},
    )
    x = draw(1, 3, 4, 4, seed=1)
    for method in ("occlusion", "rise"):
        assert onnxsal.Explainer(step, method).explain(x).attribution.any()
    planned = onnxsal.plan(step, "occlusion")
    assert not planned.steps
    assert "runs forward 1 times, once for each window" in str(planned)


def test_tokens_of_a_transformer() -> None:
    model, x = randomise(Vit()), images(1)
    found = onnxsal.Explainer(export(model), "occlusion", components=True).explain(x.numpy(), 2)
    run = logits(export(model))
    close(found.components["occlusion/drop"][0], occlusion_twin(run, x.numpy(), 2, (15, 15), (8, 8), mean)[0])
    assert "occlusion/activation" in found.components


def test_peak_lies_on_the_cat() -> None:
    """The cat as a third of an otherwise grey picture, where the map could peak anywhere else."""
    how = Preprocess(1, (127,), (128,))
    cat = Image.open(MODELS / "pictures" / "chelsea.png").convert("RGB").resize((135, 90))
    canvas = Image.new("RGB", (224, 224), (127, 127, 127))
    canvas.paste(cat, (80, 110))
    x = how.normalise(np.asarray(canvas)[None])
    found = onnxsal.Explainer(MODELS / "efficientnet_lite0.onnx", "occlusion", window=45, stride=30).explain(x)
    assert int(found.target[0]) in (281, 282, 285)
    row, column = np.unravel_index(int(found.saliency_map[0].argmax()), (224, 224))
    assert 110 <= row < 200
    assert 80 <= column < 215


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("scorecam", {}),
        ("scorecam", {"variant": "cic_softmax"}),
        ("occlusion", {"window": 9, "stride": 6}),
        ("rise", {"n_masks": 20}),
    ],
    ids=["scorecam", "scorecam_cic", "occlusion", "rise"],
)
@pytest.mark.parametrize("batch", [None, 1])
def test_the_loop_is_in_the_one_file(method: str, settings: dict, batch: int | None, tmp_path: Path) -> None:
    """Converted on the command line, the file runs in a bare ONNX Runtime and gives what the Explainer gives."""
    model, x = export(net("vgg"), batch=batch), images(batch or 2).numpy()
    onnx.save(model, str(tmp_path / "plain.onnx"))
    given = [v for key, value in settings.items() for v in (f"--{key.replace('_', '-')}", str(value))]
    arguments = ["convert", str(tmp_path / "plain.onnx"), str(tmp_path / "alone" / "explained.onnx"), "--method", method, *given]
    (tmp_path / "alone").mkdir()
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert [f.name for f in (tmp_path / "alone").iterdir()] == ["explained.onnx"]
    made = onnx.load(str(tmp_path / "alone" / "explained.onnx"))
    assert [n.op_type for n in made.graph.node].count("Loop") == 1
    assert not [o.domain for o in made.opset_import if o.domain not in ("", "ai.onnx")]
    session = ort.InferenceSession(str(tmp_path / "alone" / "explained.onnx"), providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: x, "target": np.asarray([-1], np.int64)}
    found = dict(zip((o.name for o in session.get_outputs()), session.run(None, feed), strict=True))
    wanted = onnxsal.Explainer(model, method, **settings).explain(x)
    close(found["saliency_map"], wanted.saliency_map, 1e-5)
    close(found["attribution"], wanted.attribution, 1e-5)
    np.testing.assert_array_equal(found["explained_class"], wanted.target)


# ----- RISE -----

PRIME = 2**31 - 1


def mixed(s: np.ndarray, a: int, b: int) -> np.ndarray:
    s = s % PRIME
    return (s * (s + a) % PRIME * 48_271 + b) % PRIME


def uniform(number: int, count: int, seed: int) -> np.ndarray:
    """Uniform noise in (0, 1] of one sample, as the graph makes it."""
    a, b, c, d = 1_407_677_000, 950_706_376, 742_938_285, 1_226_874_159
    s = np.array([((number + 1) * 69_621 + seed * 630_360_016) % PRIME], np.int64)
    s = mixed(mixed(s, a, d) + np.arange(count), b, a)
    s = mixed(mixed(s, c, b), d, c)
    return (s + 1) / PRIME


def mask(number: int, size: tuple[int, int], grid: int, density: float, seed: int) -> np.ndarray:
    """Draw cells, upsample them, crop: as the paper says it."""
    noise = uniform(number, grid * grid + 2, seed)
    cells = torch.from_numpy((noise[:-2] <= density).astype(np.float64).reshape(1, 1, grid, grid))
    cell = [-(-s // grid) for s in size]
    big = F.interpolate(cells, [(grid + 1) * c for c in cell], mode="bilinear", align_corners=False)[0, 0].numpy()
    top, left = (min(int(n * c), c - 1) for n, c in zip(noise[-2:], cell, strict=True))
    return big[top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize(
    ("settings", "batch"),
    [({"n_masks": 30}, None), ({"n_masks": 9, "grid": 5, "density": 0.3, "seed": 7, "chunk": 4}, None), ({"n_masks": 5}, 1)],
)
def test_rise_equals_the_loop(settings: dict, batch: int | None) -> None:
    model, x = net("vgg"), images(2)
    found = onnxsal.Explainer(export(model, batch=batch), "rise", **settings).explain(x.numpy(), 3)
    count, density = settings["n_masks"], settings.get("density", 0.5)
    wanted = np.zeros((2, 32, 32))
    for i in range(count):
        m = mask(i, (32, 32), settings.get("grid", 8), density, settings.get("seed", 0))
        p = model(x * torch.from_numpy(m.astype(np.float32))).softmax(1)[:, 3].numpy()
        wanted += p[:, None, None] * m
    close(found.saliency_map, wanted / (count * density))
    close(found.attribution.sum(1), wanted / (count * density))


def test_masks_are_what_they_should_be() -> None:
    """The twin's masks, which the test above compares with: mean, spread and offsets as drawn."""
    masks = np.stack([mask(i, (30, 30), 6, 0.3, 0) for i in range(400)])
    assert masks.min() >= 0
    assert masks.max() <= 1 + 1e-9
    assert abs(masks.mean() - 0.3) < 0.02
    assert np.abs(masks.mean(0) - 0.3).max() < 0.12
    assert len({m.tobytes() for m in masks}) == 400
    offsets = {int(n * 5) for i in range(400) for n in uniform(i, 38, 0)[-2:]}
    assert offsets == set(range(5))


def test_seeds_differ_and_repeat() -> None:
    model, x = export(net("vgg")), images(1).numpy()
    maps = [onnxsal.Explainer(model, "rise", n_masks=20, seed=s).explain(x).saliency_map for s in (0, 0, 1)]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert np.abs(maps[0] - maps[2]).max() > 1e-3


def test_rise_refuses_an_impossible_density() -> None:
    for density in (0, 1.5):
        with pytest.raises(MethodError, match="not a share between 0 and 1"):
            onnxsal.convert(export(net("vgg")), "rise", density=density)


def test_fixed_batch_of_a_real_architecture() -> None:
    """opset 9, batch fixed at 1, AveragePool in place of a global mean."""
    x = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    found = onnxsal.Explainer(light("squeezenet"), "occlusion", window=112, stride=112).explain(x)
    assert found.attribution.shape == x.shape
    assert np.isfinite(found.attribution).all()
    assert np.abs(found.attribution[0] - found.attribution[1]).max() > 0


# ----- inputs that are no pictures -----


def hidden_twin(run: Callable, x: np.ndarray, target: int, axes: tuple, window: tuple, stride: tuple, value: float) -> np.ndarray:
    """The mean drop over the windows that cover each place of one sample [1, ...], whatever its axes: [sizes of the axes]."""
    sizes = [x.shape[a] for a in axes]
    total, cover, clean = np.zeros(sizes), np.zeros(sizes), run(x)[0, target]
    for corner in itertools.product(*(places(s, w, t) for s, w, t in zip(sizes, window, stride, strict=True))):
        here = tuple(slice(c, c + w) for c, w in zip(corner, window, strict=True))
        other, at = x.copy(), [slice(None)] * x.ndim
        for axis, part in zip(axes, here, strict=True):
            at[axis] = part
        other[tuple(at)] = value
        total[here] += clean - run(other)[0, target]
        cover[here] += 1
    return total / np.maximum(cover, 1)


def blind(axes: int, channels: int = 2, open_sizes: bool = False) -> onnx.ModelProto:
    """Two convolutions over so many axes of places, and a mean."""
    weights = {"w": draw(3, channels, *[3] * axes), "v": draw(2, 3, *[2] * axes, seed=1), "a": np.arange(2, 2 + axes)}
    nodes = [node("Conv", "x w", "c"), node("Relu", "c", "r"), node("Conv", "r v", "d"), node("ReduceMean", "d a", "y", keepdims=0)]
    sizes = ["A", "B", "C"] if open_sizes else [9, 8, 7]
    return make(nodes, {"x": ["N", channels, *sizes[:axes]]}, {"y": ["N", 2]}, weights)


@pytest.mark.parametrize("open_sizes", [False, True], ids=["known", "open"])
@pytest.mark.parametrize(
    ("axes", "window", "stride"), [(1, (4,), (2,)), (3, (4, 3, 3), (3, 2, 4)), (2, (5, 3), (4, 2))], ids=["series", "volume", "spectrogram"]
)
def test_windows_along_any_number_of_axes(axes: int, window: tuple, stride: tuple, open_sizes: bool) -> None:
    model, x = blind(axes, open_sizes=open_sizes), draw(2, 2, *(9, 8, 7)[:axes], seed=2)
    along = tuple(range(2, 2 + axes))
    settings = {"window": list(window), "stride": list(stride), "value": 0.25, "places": list(along), "chunk": 5}
    found = onnxsal.Explainer(model, "occlusion", components=True, **settings).explain(x, 1)
    for i in range(2):
        wanted = hidden_twin(logits(model), x[i : i + 1], 1, along, window, stride, 0.25)
        close(found.attribution[i].sum(0), wanted)
        close(found.attribution[i][0], wanted / 2)
    counts = [len(places(x.shape[a], w, t)) for a, w, t in zip(along, window, stride, strict=True)]
    assert found.components["occlusion/drop"].shape == (2, *counts)


@pytest.mark.parametrize("axes", [1, 3])
def test_windows_over_channels_too(axes: int) -> None:
    """All axes of a sample, one of them named from the end."""
    model, x = blind(axes), draw(1, 2, *(9, 8, 7)[:axes], seed=2)
    named = [*range(1, 1 + axes), -1]
    found = onnxsal.Explainer(model, "occlusion", places=named, window=3, stride=4, value=0).explain(x, 0)
    every = tuple(range(1, x.ndim))
    close(found.attribution[0], hidden_twin(logits(model), x, 0, every, (3,) * len(every), (4,) * len(every), 0.0))


def table(features: int = 6) -> onnx.ModelProto:
    weights = {"w": draw(features, 5, seed=3), "v": draw(5, 2, seed=4)}
    return make(
        [node("MatMul", "x w", "h"), node("Tanh", "h", "t"), node("MatMul", "t v", "y")], {"x": ["N", features]}, {"y": ["N", 2]}, weights
    )


def test_columns_of_a_table() -> None:
    """Single columns by default, or windows of them; of whole pictures at once where only slices are named."""
    x = draw(3, 6, seed=5)
    for settings, window, stride, value in (({}, 1, 1, 0.0), ({"window": 3, "stride": 2, "baseline": 0.5}, 3, 2, 0.5)):
        found = onnxsal.Explainer(table(), "occlusion", **settings).explain(x, 1)
        assert found.saliency_map is None
        assert found.parameters["window"] == window
        for i in range(3):
            close(found.attribution[i], hidden_twin(logits(table()), x[i : i + 1], 1, (1,), (window,), (stride,), value))
    pictures = draw(1, 3, 8, 8, seed=1)
    rows = onnxsal.Explainer(cnn(), "occlusion", places=2, window=2, stride=2, value=0, score="raw").explain(pictures, 1)
    wanted = hidden_twin(logits(cnn()), pictures, 1, (2,), (2,), (2,), 0.0)
    close(rows.attribution[0].sum((0, 2)), wanted)
    close(rows.attribution[0][0, :, 5], wanted / 24)


def test_tokens_one_after_the_other() -> None:
    """Ids by a padding id, vectors of words by zeros: a number for each of any number of tokens, those of a window together."""
    model, length = summed("words"), 6
    run = logits(model)
    for settings, window, stride in (({}, (1,), (1,)), ({"window": 3, "stride": 2}, (3,), (2,))):
        found = onnxsal.Explainer(model, "occlusion", value=3, **settings).explain(IDS, 2)
        for i in range(2):
            close(found.attribution[i], hidden_twin(run, IDS[i : i + 1], 2, (1,), window, stride, 3))
    vectors = onnxsal.Explainer(model, "occlusion", input="words").explain(IDS, 2)
    assert vectors.attribution.shape == (2, length, 8)
    assert vectors.token_attribution is not None
    assert vectors.token_attribution.shape == (2, length)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"places": 0}, "names no axes of a sample"),
        ({"places": [2, 2]}, "names no axes of a sample"),
        ({"places": [4]}, "names no axes of a sample"),
        ({"places": "width"}, "names no axes of a sample"),
        ({"places": [2], "window": [2, 2]}, "list of 1 of them"),
        ({"places": [1, 2, 3], "value": "blur"}, "made of pictures in floating point"),
    ],
)
def test_places_that_cannot_be(given: dict, words: str) -> None:
    with pytest.raises(MethodError, match=words):
        onnxsal.convert(cnn(), "occlusion", **given)


def test_masks_of_columns_and_tokens() -> None:
    """Each is seen with probability p, by itself, and is replaced by what is named where it is not."""
    x, ids = draw(2, 6, seed=5), IDS
    for model, feed, settings, value in ((table(), x, {}, 0.0), (table(), x, {"value": 0.5}, 0.5), (summed("words"), ids, {"value": 3}, 3)):
        found = onnxsal.Explainer(model, "rise", n_masks=9, density=0.4, seed=2, chunk=4, score="raw", **settings).explain(feed, 1)
        wanted, run = np.zeros((2, 6)), logits(model)
        for i in range(9):
            seen = uniform(i, 6, 2) <= 0.4
            wanted += run(np.where(seen, feed, value).astype(feed.dtype))[:, 1, None] * seen
        close(found.attribution, wanted / (9 * 0.4))


def cells(number: int, size: tuple[int, ...], grid: int, density: float, seed: int) -> np.ndarray:
    """As ``mask``, of any number of axes: the cells upsampled linearly along one axis after the other."""
    noise = uniform(number, grid ** len(size) + len(size), seed)
    found = (noise[: grid ** len(size)] <= density).astype(np.float64).reshape([grid] * len(size))
    for axis, side in enumerate(size):
        cell = -(-side // grid)
        offset = min(int(noise[grid ** len(size) + axis] * cell), cell - 1)
        place = np.clip((np.arange(side) + offset + 0.5) * grid / ((grid + 1) * cell) - 0.5, 0, grid - 1)
        rows = np.stack([np.interp(place, np.arange(grid), line) for line in np.moveaxis(found, axis, -1).reshape(-1, grid)])
        found = np.moveaxis(rows.reshape(*np.moveaxis(found, axis, -1).shape[:-1], side), -1, axis)
    return found


def test_the_cells_of_any_number_of_axes_are_those_of_pictures() -> None:
    close(cells(3, (30, 20), 6, 0.3, 1), mask(3, (30, 20), 6, 0.3, 1), 1e-6)


@pytest.mark.parametrize("axes", [1, 3])
def test_smooth_masks_along_any_number_of_axes(axes: int) -> None:
    """What ``rise`` multiplies series and volumes by, made in a graph of its own."""
    sizes = (9, 8, 7)[:axes]
    op = Emit(Model(blind(axes)))
    made = op.Identity(_smooth_masks(op, op.const([0, 5]), sizes, 4, 0.5, op.const(3)), name="masks")
    nodes, weights = op.finish([made])
    graph = onnx.helper.make_graph(nodes, "g", [], [onnx.helper.make_tensor_value_info("masks", 1, None)], weights)
    found = open_session(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)).run({})["masks"]
    for i, number in enumerate((0, 5)):
        close(found[i], cells(number, sizes, 4, 0.5, 3), 1e-5)
