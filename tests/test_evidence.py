"""Evidence: the places of its map, and what has no place, sum to the score on every network; up keeps sums; the map is its formula."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch import Tensor, nn

import onnxsal
from onnxsal.errors import MethodError
from onnxsal.graph import Emit, Model, Value
from onnxsal.methods.maps import spread
from tests.nets import image_input, light
from tests.quantised_nets import quantised_net
from tests.small_models import cnn, cnn_nhwc, draw, make, node, segmenter, tokens, two_inputs, unbatched
from tests.test_fullgrad import bias_of
from tests.torch_nets import NETS, Residual, conv_bn, dead_resnet, export, exported, images, net, randomise, resnet18, swapped

LAW = 1e-5

LIGHT = ("squeezenet", "shufflenet", "resnet50", "inception_v1")
"""Networks of full size that the onnx package ships, those that run in a second or two."""


def two_streams() -> nn.Module:
    """Two branches with shortcuts of their own, added at the end: no shortcut within a branch is one that every path passes."""

    class Streams(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(*conv_bn(3, 6, 3, 2), nn.ReLU())
            self.one, self.two = (Residual(nn.Sequential(*conv_bn(6, 6, k)), None, nn.ReLU()) for k in (3, 5))
            self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 7))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(self.one(x) + self.two(x))

    return Streams()


def summed_with_a_bias() -> onnx.ModelProto:
    """A shortcut whose Sum adds a constant as well: the cut holds what it adds."""
    weights = {"w1": draw(3, 3, 3, 3, seed=1), "w2": draw(3, 5, seed=2), "bias": draw(3, 1, 1, seed=3)}
    nodes = [node("Conv", "x w1", "c", pads=[1, 1, 1, 1]), node("Sum", "c x bias", "s"), node("Relu", "s", "r")]
    nodes += [node("GlobalAveragePool", "r", "g"), node("Flatten", "g", "f"), node("MatMul", "f w2", "y")]
    return make(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 5]}, weights)


NETWORKS: dict[str, Callable[[], onnx.ModelProto]] = {
    **{f"{name}, folded": partial(exported, name) for name in NETS},
    **{f"{name}, as written": partial(exported, name, fold=False, opset=20) for name in NETS},
    **{f"{name}, dynamo": partial(exported, name, "dynamo", 20) for name in ("resnet18", "mobilenet", "vit")},
    "dead channels": lambda: export(dead_resnet()),
    "two streams": lambda: export(randomise(two_streams())),
    "one sample": lambda: exported("resnet18", batch=1),
    "cnn": cnn,
    "cnn, channels last": cnn_nhwc,
    "cnn, open size": lambda: cnn(size="S"),
    "segmenter": segmenter,
    "a bias in the sum": summed_with_a_bias,
}


def told(model: onnx.ModelProto, x: np.ndarray, target: object = None, **options: object) -> onnxsal.Explanation:
    return onnxsal.Explainer(model, "evidence", components=True, **options).explain(x, target)  # type: ignore[arg-type]


def assert_law(found: onnxsal.Explanation, law: float = LAW) -> None:
    """The residual is small, and it is what the map, summed here, and what has no place miss the score by."""
    assert found.residual is not None
    assert found.saliency_map is not None
    assert np.all(found.residual < law)
    without = found.components["evidence/shares"][:, 2]
    for map_ in (found.saliency_map, found.attribution):
        total = map_.astype(np.float64).reshape(len(map_), -1).sum(1) + without
        np.testing.assert_allclose(total, found.score, rtol=2 * law, atol=1e-6)
    np.testing.assert_allclose(found.components["evidence/shares"].astype(np.float64).sum(1), found.score, rtol=2 * law, atol=1e-6)


# ----- the law -----


def picture(model: onnx.ModelProto, seed: int) -> np.ndarray:
    """Two samples where the batch is open; a size that is open is 13."""
    (given,) = [i for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer}]
    first, *rest = given.type.tensor_type.shape.dim
    return draw(first.dim_value or 2, *(d.dim_value or 13 for d in rest), seed=seed)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_law_holds_on_every_network(name: str) -> None:
    model = NETWORKS[name]()
    assert_law(told(model, picture(model, 1)))
    some = (1, 2, 3) if name == "segmenter" else 1
    assert_law(told(model, picture(model, 2), some, score="probability"))


@pytest.mark.parametrize("name", LIGHT)
def test_the_law_holds_on_networks_of_full_size(name: str) -> None:
    model = light(name)
    found = onnxsal.Explainer(model, "evidence", components=True).explain({image_input(model): draw(1, 3, 224, 224, seed=3)})
    assert_law(found)


@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5, 10, 11])
def test_the_law_holds_on_quantised_networks(seed: int) -> None:
    """What is rounded to a grid is in the book; half precision rounds everywhere."""
    model, used = quantised_net(seed)
    assert_law(told(model, picture(model, seed)), 1e-3 if any("half" in form for form in used) else LAW)


@pytest.mark.parametrize("size", [30, 33, 47])
def test_the_law_holds_where_no_size_divides_another(size: int) -> None:
    assert_law(told(export(net("resnet18"), size=size), images(2, size).numpy()))


def test_what_has_no_place_is_the_bias_of_the_last_layer() -> None:
    """Of a network whose convolutions end in a mean over places."""
    network, x = net("resnet18"), images(3)
    found = told(export(network), x.numpy())
    last = network[-1].bias.numpy()[found.target]
    np.testing.assert_allclose(found.components["evidence/shares"][:, 2], last, rtol=1e-5)
    np.testing.assert_allclose(found.saliency_map.astype(np.float64).sum((1, 2)) + last, found.score, rtol=LAW)


@pytest.mark.parametrize(
    ("model", "x"), [(two_inputs(), "a"), (tokens(), "embedded"), (unbatched(), "x")], ids=["vectors", "tokens", "no batch"]
)
def test_what_is_no_picture_is_refused(model: onnx.ModelProto, x: str) -> None:
    with pytest.raises(MethodError, match=r"method 'evidence' explains pictures, series and volumes; .* no convolution or pooling"):
        onnxsal.convert(model, "evidence", input=x, output="y")


# ----- up -----


def enlarged(maps: np.ndarray, height: int, width: int, known: bool) -> np.ndarray:
    """``spread`` by ONNX Runtime, its sizes known as the graph is written or only as it runs."""
    _, h, w = maps.shape
    model = make([node("Identity", "m", "y")], {"m": ["N", "h", "w"], "x": ["H", "W"]}, {"y": ["N", "h", "w"]})
    op = Emit(Model(model))
    sides = [op.Shape(Value("x"), start=i, end=i + 1) for i in (0, 1)]
    y = spread(op, Value("m"), [h, w] if known else [None, None], [height, width] if known else [None, None], sides)
    nodes, weights = op.finish([y])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(weights)
    model.graph.output[0].name = y.name
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {"m": maps, "x": np.zeros((height, width), np.float32)}
    return session.run(None, {i.name: feed[i.name] for i in session.get_inputs()})[0]


@pytest.mark.parametrize("known", [True, False], ids=["sizes known", "sizes at run time"])
@pytest.mark.parametrize(
    ("small", "large"), [((7, 7), (224, 224)), ((3, 5), (10, 32)), ((1, 4), (9, 4)), ((9, 16), (4, 5)), ((2, 1), (2, 1))]
)
def test_up_is_bilinear_and_keeps_sums(small: tuple[int, int], large: tuple[int, int], known: bool) -> None:
    maps = draw(2, *small, seed=4) + 0.5
    got = enlarged(maps, *large, known)
    assert got.shape == (2, *large)
    np.testing.assert_allclose(got.astype(np.float64).sum((1, 2)), maps.sum((1, 2)), rtol=1e-5)
    assert np.ptp(enlarged(np.ones((1, *small), np.float32), *large, known)) < 1.0
    if all(a % b == 0 for a, b in zip(large, small, strict=True)):  # every pixel has as many to give to: interpolation, to scale
        wanted = nn.functional.interpolate(torch.tensor(maps)[None], large, mode="bilinear")[0].numpy()
        np.testing.assert_allclose(got * np.prod(large) / np.prod(small), wanted, atol=1e-5)


# ----- the map -----


def placed(terms: list[Tensor], size: int) -> Tensor:
    """The maps [N, h, w] at full size, bilinear, sums kept; sizes divide."""
    total = torch.zeros(terms[0].shape[0], size, size, dtype=torch.float64)
    for t in terms:
        up = nn.functional.interpolate(t[:, None], (size, size), mode="bilinear")[:, 0]
        total += up * (t.shape[1] * t.shape[2] / size**2)
    return total


@pytest.mark.parametrize(("name", "cuts"), [("resnet18", 9), ("two streams", 2), ("vgg_bn", 1)])
def test_the_map_is_its_formula(name: str, cuts: int) -> None:
    """Cut by cut, by autograd: the input and the shortcuts that every path passes, and every bias after each of them.

    The shortcuts within two streams are no such, and a chain has none.
    """
    plain = randomise(two_streams()) if name == "two streams" else net(name)
    network, x = swapped(plain, lambda m: None).double(), images(2).double().requires_grad_()
    passed: list[Tensor] = [x]
    biases: list[tuple[int, Tensor, Tensor]] = []
    for module in network.modules():
        if name == "resnet18" and isinstance(module, Residual):
            module.act.register_forward_pre_hook(lambda m, given: passed.append(given[0]))
        elif name == "two streams" and module is network.head:
            module.register_forward_pre_hook(lambda m, given: passed.append(given[0]))
        elif bias_of(module) is not None:
            module.register_forward_hook(lambda m, _, y: biases.append((len(passed), bias_of(m), y)))
    scores = network(x)
    chosen = scores.argmax(1)
    score = scores.gather(1, chosen[:, None]).sum()
    signals = torch.autograd.grad(score, [*passed, *(y for _, _, y in biases)])
    assert len(passed) == cuts
    terms = [(a * g).sum(1).detach() / cuts for a, g in zip(passed, signals, strict=False)]
    for (before, bias, y), g in zip(biases, signals[cuts:], strict=True):
        if y.ndim == 4:
            terms.append((g * bias[:, None, None]).sum(1).detach() * before / cuts)
    wanted = placed(terms, 32).numpy()
    found = told(export(plain, fold=False), x.detach().numpy().astype(np.float32), chosen.numpy())
    np.testing.assert_allclose(found.saliency_map, wanted, atol=1e-4 * np.abs(wanted).max())
    np.testing.assert_allclose(found.attribution.sum(1), found.saliency_map, rtol=1e-4, atol=1e-6)


def test_a_term_left_out_is_seen() -> None:
    """The parts of the score are all needed: without the biases, or without what has no place, the sum misses it by far."""
    found = told(export(resnet18_with_biases()), images(3).numpy())
    tensors, biases, without = found.components["evidence/shares"].T
    assert np.all(np.abs(tensors + without - found.score) > 100 * LAW * np.abs(found.score))
    assert np.all(np.abs(tensors + biases - found.score) > 100 * LAW * np.abs(found.score))


def resnet18_with_biases() -> nn.Module:
    return randomise(resnet18(), 5)
