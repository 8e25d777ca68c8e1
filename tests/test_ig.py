"""Integrated gradients and SmoothGrad: against Captum, the formulas, worked numbers, and an independent copy of the noise."""

from __future__ import annotations

import copy
import math
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from torch import Tensor

import onnxsal
from onnxsal.graph import Emit, Model
from onnxsal.graph.assemble import Port, assemble
from onnxsal.methods.smooth import normal_noise
from tests.noise import normal
from tests.oracle import run
from tests.small_models import cnn, draw, make, node, tokens
from tests.torch_nets import exported, images, net, torch_gradient

RULES = ["gausslegendre", "riemann_left", "riemann_middle", "riemann_right"]


def explain(
    model: onnx.ModelProto, x: np.ndarray | Tensor, target: object = None, method: str = "ig", **options: object
) -> onnxsal.Explanation:
    return onnxsal.Explainer(model, method, **options).explain(np.asarray(x), target)  # type: ignore[arg-type]


def assert_close(got: np.ndarray, wanted: np.ndarray | Tensor, tolerance: float = 1e-4) -> None:
    wanted = np.asarray(wanted)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


# ----- integrated gradients -----


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["vgg_bn", "mobilenet", "vit"])
def test_equals_captum(name: str, rule: str) -> None:
    model, x = net(name), images(2)
    baseline = images(1, seed=9) * 0.3
    classes = model(x).argmax(1)
    exact = IntegratedGradients(copy.deepcopy(model).double())
    wanted = exact.attribute(x.double(), baseline.double(), target=classes, n_steps=20, method=rule)
    found = explain(exported(name), x, rule=rule, n_steps=20, baseline=baseline.numpy())
    assert_close(found.attribution, wanted.detach())
    np.testing.assert_array_equal(found.target, classes)


def by_the_formula(name: str, x: Tensor, baseline: Tensor, alphas: np.ndarray, weights: np.ndarray, score: str = "logit") -> Tensor:
    """(x - x0) sum_k w_k grad f_c(x0 + alpha_k (x - x0)), for the class of x."""
    model, classes = net(name), net(name)(x).argmax(1)
    gradients = [w * torch_gradient(model, baseline + a * (x - baseline), classes, score)[0] for a, w in zip(alphas, weights, strict=True)]
    return (x - baseline) * torch.stack(gradients).sum(0)


def test_trapezoid() -> None:
    """n intervals with both ends at half weight; Captum's has n points and weights that sum to (n - 1) / n."""
    x, baseline = images(2), images(1, seed=9) * 0.3
    weights = np.full(13, 1 / 12)
    weights[[0, -1]] /= 2
    found = explain(exported("vgg_bn"), x, rule="trapezoid", n_steps=12, baseline=baseline.numpy())
    assert_close(found.attribution, by_the_formula("vgg_bn", x, baseline, np.linspace(0, 1, 13), weights))
    model = net("vgg_bn")
    classes = model(x).argmax(1)
    biased = IntegratedGradients(model).attribute(x, baseline, target=classes, n_steps=13, method="riemann_trapezoid").detach()
    assert_close(found.attribution * 12 / 13, biased)


def test_matlab_preset() -> None:
    """25 gradients of the probability with both ends, summed and not divided; black baseline; map of absolute values in [0, 1]."""
    x = images(2) * 0.5
    black = np.float32([-0.9, -0.8, -0.7]).reshape(3, 1, 1)
    found = explain(exported("mobilenet"), x, preset="matlab", black=black)
    baseline = torch.tensor(black)[None].expand(1, 3, 32, 32)
    wanted = by_the_formula("mobilenet", x, baseline, np.linspace(0, 1, 25), np.ones(25), "probability")
    assert_close(found.attribution, wanted)
    pixels = wanted.abs().sum(1)
    low, high = pixels.amin((1, 2), keepdim=True), pixels.amax((1, 2), keepdim=True)
    assert_close(found.saliency_map, (pixels - low) / (high - low))
    model = net("mobilenet")
    p = F.softmax(model(x), 1).amax(1)
    p0 = F.softmax(model(baseline), 1)[0, model(x).argmax(1)]
    np.testing.assert_allclose(found.score, p, rtol=1e-4)
    np.testing.assert_allclose(found.residual, (wanted.sum((1, 2, 3)) / 25 - (p - p0)).abs() / (p - p0).abs(), rtol=1e-2, atol=1e-4)
    with pytest.raises(onnxsal.OnnxsalError, match="black"):
        explain(exported("mobilenet"), x, preset="matlab")


@pytest.mark.parametrize("rule", [*RULES, "trapezoid"])
def test_residual_is_the_completeness_error(rule: str) -> None:
    x, baseline = images(3), images(1, seed=5) * 0.5
    model = net("mobilenet")
    found = explain(exported("mobilenet"), x, rule=rule, n_steps=6, baseline=baseline.numpy())
    logits, at_baseline = model(x), model(baseline)
    classes = logits.argmax(1)
    gained = (logits.gather(1, classes[:, None])[:, 0] - at_baseline[0, classes]).numpy()
    error = np.abs(found.attribution.sum((1, 2, 3)) - gained) / np.abs(gained)
    np.testing.assert_allclose(found.residual, error, rtol=1e-3, atol=1e-5)
    assert found.residual.max() > 1e-3, "six steps are too few for a law that would hold anyway"
    finer = explain(exported("mobilenet"), x, rule=rule, n_steps=150, baseline=baseline.numpy(), chunk=15)
    assert finer.residual.max() < 0.3 * found.residual.max()


def test_baseline_given_at_run_time() -> None:
    """One for all, one per sample, a number: the optional input replaces the default that was converted in."""
    x = draw(3, 3, 8, 8)
    per_sample = draw(3, 3, 8, 8, seed=1)
    explainer = onnxsal.Explainer(cnn(), "ig", n_steps=8)
    together = explainer.explain(x, baseline=per_sample)
    for i in range(3):
        alone = explainer.explain(x[i : i + 1], baseline=per_sample[i : i + 1])
        assert_close(together.attribution[i : i + 1], alone.attribution, 1e-5)
        assert_close(explain(cnn(), x[i : i + 1], n_steps=8, baseline=per_sample[i]).attribution, alone.attribution, 1e-5)
    number = explainer.explain(x, baseline=np.full((1, 1, 1, 1), 0.5, np.float32))
    assert_close(explain(cnn(), x, n_steps=8, baseline=0.5).attribution, number.attribution, 1e-6)
    itself = explainer.explain(x, baseline=x)
    assert not itself.attribution.any()


def test_class_is_that_of_the_clean_input() -> None:
    """Along the path, and among the noise, other classes win; the explained one stays."""
    x, model = draw(4, 3, 8, 8, seed=3) * 2, cnn()
    halfway = onnxsal.Explainer(model, "gradient").explain(x * 0.1).target
    for method in ("ig", "smoothgrad"):
        free, told = explain(model, x, method=method), explain(model, x, explain(model, x, method="gradient").target, method)
        assert (free.target != halfway).any()
        np.testing.assert_array_equal(free.attribution, told.attribution)


@pytest.mark.parametrize("method", ["ig", "smoothgrad", "smooth_fullgrad"])
def test_chunks_do_not_matter(method: str) -> None:
    """Sizes that divide the number of samples, that do not, and that exceed it."""
    x = draw(2, 3, 8, 8)
    count = {"n_steps" if method == "ig" else "n_samples": 10}
    found = [explain(cnn(), x, method=method, chunk=size, **count) for size in (1, 3, 5, 10, 64)]
    for other in found[1:]:
        np.testing.assert_allclose(other.attribution, found[0].attribution, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(other.saliency_map, found[0].saliency_map, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["ig", "smoothgrad", "smooth_fullgrad"])
@pytest.mark.parametrize("batch", [1, 2])
def test_fixed_batch(method: str, batch: int) -> None:
    """A model that takes one batch size only, as a Reshape to fixed sizes would demand, gives what the free one gives."""
    x = draw(3, 3, 8, 8)
    free = explain(cnn(), x, method=method)
    fixed = cnn(batch)
    (flatten,) = [n for n in fixed.graph.node if n.op_type == "Flatten"]
    flatten.CopyFrom(node("Reshape", "g sizes", "f"))
    fixed.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray([batch, 6]), "sizes"))
    found = explain(fixed, x, method=method)
    np.testing.assert_allclose(found.attribution, free.attribution, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.saliency_map, free.saliency_map, rtol=1e-3, atol=1e-5)


def test_token_model_at_its_embedding() -> None:
    """Replayed from an inner tensor, beside an integer input."""
    ids = np.asarray([[1, 2, 3], [4, 5, 6]])
    found = onnxsal.Explainer(tokens(), "ig", input="embedded", rule="riemann_middle", n_steps=10).explain(ids, 1)
    table, w1, w2 = (torch.tensor(onnx.numpy_helper.to_array(t)) for t in tokens().graph.initializer[:3])
    x = table[torch.tensor(ids)].double()
    total = torch.zeros_like(x)
    for alpha in (np.arange(10) + 0.5) / 10:
        point = (alpha * x).requires_grad_()
        (gradient,) = torch.autograd.grad((torch.tanh(point @ w1.double()).mean(1) @ w2.double())[:, 1].sum(), point)
        total += gradient / 10
    assert_close(found.attribution, x * total)


# ----- worked numbers -----


def two_pieces() -> onnx.ModelProto:
    """f = x1 + 3 x2 where x <= 1, 3 x1 + x2 beyond; at 1 itself the first piece."""
    weights = {"one": np.float32(1), "near": np.float32([[1, 3]]), "far": np.float32([[3, 1]]), "axes": np.asarray([1])}
    nodes = [
        node("ReduceMax", "x axes", "largest", keepdims=1),
        node("LessOrEqual", "largest one", "below"),
        node("Where", "below near far", "slopes"),
        node("Mul", "slopes x", "products"),
        node("ReduceSum", "products axes", "y", keepdims=1),
    ]
    return make(nodes, {"x": ["N", 2]}, {"y": ["N", 1]}, weights)


@pytest.mark.parametrize(
    ("rule", "n_steps", "wanted"),
    [
        ("endpoints_sum", 25, [(244, 156), (61.5, 88.5), (98, 102)]),
        ("trapezoid", 24, [(9.83333, 6.16667), (2.4375, 3.5625), (3.91667, 4.08333)]),
        ("gausslegendre", 50, [(9.90976, 6.09024), (2.54086, 3.45914), (4, 4)]),
        ("riemann_middle", 3000, [(10, 6), (2.5, 3.5), (4, 4)]),
    ],
)
def test_worked_integrated_gradients(rule: str, n_steps: int, wanted: list[tuple[float, float]]) -> None:
    x = np.float32([(4, 4), (1.5, 1.5), (2, 2)])
    found = explain(two_pieces(), x, rule=rule, n_steps=n_steps, chunk=50)
    np.testing.assert_allclose(found.attribution, wanted, rtol=1e-6 if n_steps < 100 else 1e-3, atol=6e-6)
    np.testing.assert_allclose(found.score, [16, 6, 8])
    if rule == "endpoints_sum":
        np.testing.assert_allclose(found.attribution / 25, [(9.76, 6.24), (2.46, 3.54), (3.92, 4.08)], rtol=1e-6)


def test_worked_gradient_at_the_kink() -> None:
    x = np.float32([(1, 1), (1.0001, 1.0001)])
    assert explain(two_pieces(), x, method="gradient").attribution.tolist() == [[1, 3], [3, 1]]


# ----- noise -----


def emitted(seed: int, count: int, elements: int) -> np.ndarray:
    """The noise as the converted graph makes it."""
    view = Model(make([node("Identity", "x", "y")], {"x": [1]}, {"y": [1]}))
    op = Emit(view)
    noise = normal_noise(op, op.Range(0, count, 1), op.const(elements), op.const(seed))
    model = assemble(view, op, [], [Port(op.Identity(noise, name="noise"), onnx.TensorProto.FLOAT, None)])
    return run(model, {"x": np.zeros(1, np.float32)})["noise"]


@pytest.mark.parametrize("seed", [0, 1, 123_456_789, -7])
def test_noise_equals_an_independent_hash(seed: int) -> None:
    np.testing.assert_allclose(emitted(seed, 3, 200), normal(seed, 3, 200), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_is_standard_normal(seed: int) -> None:
    """Moments, distribution, and no correlation between elements, samples or seeds; bounds at four to five standard errors."""
    samples, elements = 50, 3 * 64 * 64
    noise = emitted(seed, samples, elements).astype(np.float64)
    size = noise.size
    assert abs(noise.mean()) < 4.5 / np.sqrt(size)
    assert abs(noise.var() - 1) < 4.5 * np.sqrt(2 / size)
    assert abs((noise**3).mean()) < 4.5 * np.sqrt(15 / size)
    assert abs((noise**4).mean() - 3) < 4.5 * np.sqrt(96 / size)
    ordered = np.sort(noise.reshape(-1))
    cumulative = np.asarray([0.5 * (1 + math.erf(v / math.sqrt(2))) for v in ordered[::64]])
    assert np.abs(cumulative - np.arange(0, size, 64) / size).max() < 2.2 / np.sqrt(size), "Kolmogorov and Smirnov"
    assert len(np.unique(noise)) > 0.9 * size
    between = np.corrcoef(noise)
    assert np.abs(between[~np.eye(samples, dtype=bool)]).max() < 5 / np.sqrt(elements)
    for power in (1, 2):
        values = noise**power - (noise**power).mean()
        for lag in (1, 2, 3, 64, 64 * 64):
            r = (values[:, lag:] * values[:, :-lag]).mean() / values.var()
            assert abs(r) < 5 / np.sqrt(size), (power, lag)
    assert abs((noise * emitted(seed + 10, samples, elements)).mean()) < 4.5 / np.sqrt(size)


@pytest.mark.parametrize("variant", ["mean", "squared", "vargrad"])
@pytest.mark.parametrize("name", ["vgg_bn", "vit"])
def test_smoothgrad(name: str, variant: str) -> None:
    """Against PyTorch's gradients at the same noisy pictures; the spread of the noise is a share of each sample's own range."""
    model, x = net(name), images(2) * torch.tensor([1.0, 0.3]).reshape(2, 1, 1, 1)
    noise = normal(5, 6, 3 * 32 * 32).reshape(6, 1, 3, 32, 32)
    classes = model(x).argmax(1)
    sigma = 0.2 * (x.amax((1, 2, 3), keepdim=True) - x.amin((1, 2, 3), keepdim=True))
    gradients = torch.stack([torch_gradient(model, x + sigma * torch.tensor(e), classes)[0] for e in noise])
    wanted = {"mean": gradients.mean(0), "squared": (gradients**2).mean(0), "vargrad": gradients.var(0, correction=0)}[variant]
    found = explain(exported(name), x, method="smoothgrad", n_samples=6, noise_level=0.2, seed=5, variant=variant, chunk=4)
    assert_close(found.attribution, wanted)
    assert_close(found.saliency_map, wanted.abs().sum(1))


def test_smoothgrad_does_not_know_its_batch_mates() -> None:
    x = draw(3, 3, 8, 8) * np.float32([1, 10, 0.1]).reshape(3, 1, 1, 1)
    explainer = onnxsal.Explainer(cnn(), "smoothgrad", n_samples=7)
    together = explainer.explain(x).attribution
    for i in range(3):
        np.testing.assert_allclose(explainer.explain(x[i : i + 1]).attribution[0], together[i], rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(together, onnxsal.Explainer(cnn(), "smoothgrad", n_samples=7).explain(x).attribution)


def test_smoothgrad_without_noise_is_the_gradient() -> None:
    x = draw(2, 3, 8, 8)
    plain = explain(cnn(), x, method="gradient").attribution
    for variant, wanted in (("mean", plain), ("squared", plain**2), ("vargrad", np.zeros_like(plain))):
        found = explain(cnn(), x, method="smoothgrad", n_samples=5, noise_level=0.0, variant=variant)
        np.testing.assert_allclose(found.attribution, wanted, rtol=1e-5, atol=1e-7)


# ----- memory -----

PEAK = """
import re, sys
import numpy as np
import onnxsal
from tests.small_models import cnn
explainer = onnxsal.Explainer(cnn(size=192), sys.argv[1], chunk=int(sys.argv[2]), **{sys.argv[3]: int(sys.argv[4])})
explainer.explain(np.ones((1, 3, 192, 192), np.float32))
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


def peak(method: str, chunk: int, count: int) -> int:
    """Peak memory of a process that explains one picture, in KiB."""
    number = "n_steps" if method == "ig" else "n_samples"
    done = subprocess.run([sys.executable, "-c", PEAK, method, str(chunk), number, str(count)], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_is_that_of_one_chunk() -> None:
    """Ten times the samples in the same chunks need no more; all of them at once would."""
    few, many, at_once = peak("ig", 4, 8), peak("ig", 4, 120), peak("ig", 120, 120)
    assert many - few < 0.1 * (at_once - few)
    assert at_once > 2 * few
