"""Class activation maps of series, pictures and volumes, against float64 twins in torch; and what makes an input one of these."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

import onnxsal
from onnxsal.ask.layers import Layers
from onnxsal.ask.question import ask
from onnxsal.cli.app import app
from onnxsal.errors import InputError, TargetError
from onnxsal.facts.axes import LAYOUTS, picture_of
from onnxsal.metrics import deletion, insertion, occlusion_correlation, pointing_game
from onnxsal.metrics.input_places import places_of
from onnxsal.metrics.substrate import substrate
from onnxsal.ops.registry import known
from onnxsal.passes import prepare
from onnxsal.runtime.drawn import draw
from onnxsal.runtime.figures import strongest
from onnxsal.runtime.heatmap import scale_map
from onnxsal.runtime.shown import ShownValues

CONV: dict[int, Callable[..., nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}
SIZES = {1: (23,), 2: (9, 12), 3: (5, 8, 7)}
CLASSES = torch.tensor([1, 4])


class Net(nn.Module):
    """Two convolutions over so many axes of places, their mean, and a layer of scores.

    ``last``: channels come last. ``grey``: there are none, the model adds them.
    """

    def __init__(self, places: int, last: bool = False, grey: bool = False) -> None:
        super().__init__()
        self.places, self.last, self.grey = places, last, grey
        self.a = CONV[places](1 if grey else 2, 4, 3, padding=1)
        self.b = CONV[places](4, 6, 3, padding=1, stride=2)
        self.f = nn.Linear(6, 5)

    def features(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(1) if self.grey else x.permute(0, x.ndim - 1, *range(1, x.ndim - 1)) if self.last else x
        return torch.relu(self.b(torch.relu(self.a(x))))

    def head(self, a: Tensor) -> Tensor:
        found: Tensor = self.f(a.mean(tuple(range(2, 2 + self.places))) + a.amax(tuple(range(2, 2 + self.places))))
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def example(self, batch: int = 2, more: int = 0) -> Tensor:
        sizes = [s + more for s in SIZES[self.places]]
        channels = [] if self.grey else [2]
        shape = [batch, *sizes, *channels] if self.last else [batch, *channels, *sizes]
        return torch.randn(shape, generator=torch.Generator().manual_seed(more))


def exported(net: nn.Module, x: Tensor, dynamic: bool = False) -> onnx.ModelProto:
    file = io.BytesIO()
    axes = {a: f"d{a}" for a in range(x.ndim) if a == 0 or (dynamic and x.shape[a] != 2)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), file, dynamo=False, opset_version=18, dynamic_axes={"x": axes}, input_names=["x"])
    return onnx.load_from_string(file.getvalue())


@cache
def net(places: int, kind: str = "") -> Net:
    torch.manual_seed(2)
    return Net(places, last=kind == "last", grey=kind == "grey").eval()


def close(got: np.ndarray | None, wanted: Tensor | np.ndarray, tolerance: float = 1e-5) -> None:
    wanted = np.asarray(wanted)
    assert got is not None
    assert got.shape == wanted.shape
    assert np.abs(wanted).max() > 0
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()


def at_layer(model: Net, x: Tensor) -> tuple[Tensor, Tensor]:
    """The last convolution's activations and the gradient at them, in float64."""
    twin = copy.deepcopy(model).double()
    a = twin.features(x.double()).detach().requires_grad_()
    (g,) = torch.autograd.grad(twin.head(a)[torch.arange(len(x)), CLASSES].sum(), a)
    return a.detach(), g


def up(model: Net, maps: Tensor, x: Tensor) -> Tensor:
    """Maps [N, *places] at the size of the input."""
    sizes = x.shape[1:-1] if model.last else x.shape[-model.places :]
    return F.interpolate(maps[:, None], tuple(sizes), mode=MODES[model.places], align_corners=False)[:, 0]


def gradcam(a: Tensor, g: Tensor) -> Tensor:
    return (g.flatten(2).mean(2)[..., None] * a.flatten(2)).sum(1)


def gradcam_plus_plus(a: Tensor, g: Tensor) -> Tensor:
    """As published, with the powers of the gradient that an exponential of the score leaves."""
    a, g = a.flatten(2), g.flatten(2)
    divisor = 2 * g**2 + a.sum(2, keepdim=True) * g**3
    alpha = torch.where(g != 0, g**2 / torch.where(divisor != 0, divisor, 1.0), 0.0)
    return ((alpha * g.relu()).sum(2, keepdim=True) * a).sum(1)


def layercam(a: Tensor, g: Tensor) -> Tensor:
    return (g.relu() * a).flatten(2).sum(1)


@pytest.mark.parametrize("kind", ["", "last", "grey", "open"])
@pytest.mark.parametrize("places", [1, 2, 3])
@pytest.mark.parametrize("twin", [gradcam, gradcam_plus_plus, layercam], ids=lambda f: f.__name__)
def test_maps_of_one_walk_equal_their_twins(twin: Callable[[Tensor, Tensor], Tensor], places: int, kind: str) -> None:
    model = net(places, kind)
    explainer = onnxsal.Explainer(exported(model, model.example(), dynamic=kind == "open"), twin.__name__)
    for more in (0, 3) if kind == "open" else (0,):
        x = model.example(more=more)
        a, g = at_layer(model, x)
        coarse = twin(a, g).reshape(len(a), *a.shape[2:])
        found = explainer.explain(x.numpy(), CLASSES.numpy())
        close(found.saliency_map, up(model, coarse.relu(), x))
        signed = found.attribution if kind == "grey" else found.attribution.sum(-1 if kind == "last" else 1)
        close(signed, up(model, coarse, x))


def beside(model: Net, mask: Tensor, x: Tensor) -> Tensor:
    """A map [N, *places] beside the channels of the input."""
    return mask if model.grey else mask.unsqueeze(-1 if model.last else 1)


@pytest.mark.parametrize("kind", ["", "last", "grey"])
@pytest.mark.parametrize("places", [1, 2, 3])
@pytest.mark.parametrize("variant", ["official", "cic_softmax"])
def test_scorecam_equals_its_twin(variant: str, places: int, kind: str) -> None:
    model = copy.deepcopy(net(places, kind)).double()
    x = model.example().double()
    a = model.features(x).detach()
    scores, masks, along = [], [], tuple(range(1, 1 + places))
    for k in range(a.shape[1]):
        mask = up(model, a[:, k], x)
        low, high = mask.amin(along, keepdim=True), mask.amax(along, keepdim=True)
        mask = torch.where(high > low, (mask - low) / torch.where(high > low, high - low, 1.0), 0.0)
        logits = model(x * beside(model, mask, x)).detach()
        rows = logits.softmax(1) if variant == "official" else logits
        scores.append(rows[torch.arange(2), CLASSES])
        masks.append(up(model, a[:, k], x))
    weights = torch.stack(scores, 1)
    if variant == "official":
        varies = a.flatten(2).amax(2) > a.flatten(2).amin(2)
        wanted = ((weights * varies).reshape(*weights.shape, *[1] * places) * torch.stack(masks, 1)).sum(1).relu()
    else:
        wanted = up(model, (weights.softmax(1).reshape(*weights.shape, *[1] * places) * a).sum(1).relu(), x)
    found = onnxsal.Explainer(exported(net(places, kind), net(places, kind).example()), "scorecam", variant=variant)
    close(found.explain(x.float().numpy(), CLASSES.numpy()).saliency_map, wanted, 1e-4)


@pytest.mark.parametrize("kind", ["", "last", "grey"])
@pytest.mark.parametrize("places", [1, 2, 3])
def test_guided_gradcam_is_the_product(places: int, kind: str) -> None:
    model = net(places, kind)
    x, proto = model.example(), exported(model, model.example())
    guided = onnxsal.Explainer(proto, "guided_backprop").explain(x.numpy(), CLASSES.numpy())
    a, g = at_layer(model, x)
    coarse = gradcam(a, g).reshape(len(a), *a.shape[2:])
    wanted = guided.attribution * beside(model, up(model, coarse.relu(), x), x).numpy()
    found = onnxsal.Explainer(proto, "guided_gradcam").explain(x.numpy(), CLASSES.numpy())
    close(found.attribution, wanted)
    channel = {"": 1, "last": -1}.get(kind)
    close(found.saliency_map, np.abs(wanted) if channel is None else np.abs(wanted).sum(channel))


@pytest.mark.parametrize("shape", [(1, 40), (3, 40), (9, 40), (1, 5000), (1, 1), (2, 6, 9, 7), (3, 2, 5, 8), (1, 1, 1, 1)])
def test_maps_of_series_and_volumes_are_drawn_over_what_is_explained(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    for map_ in (rng.standard_normal(shape[1:]), rng.random(shape[1:]), np.zeros(shape[1:])):
        scaled = scale_map(map_, places=len(shape) - 1)
        alone, over = draw(scaled), draw(scaled, ShownValues(rng.standard_normal(shape)))
        assert abs(alone.width - over.width) < 120
        assert alone.height <= over.height
        assert len(np.unique(np.asarray(over).reshape(-1, 3), axis=0)) > 2
    with pytest.raises(InputError, match="does not lie on"):
        draw(scaled, ShownValues(rng.standard_normal((*shape[:-1], shape[-1] + 1))))


def test_the_strongest_slices_are_drawn_in_their_order() -> None:
    assert strongest(np.asarray([0.0, 3, 1, 0, 3, 2]), 3) == (1, 4, 5)


@pytest.mark.parametrize(("places", "kind"), [(1, ""), (1, "grey"), (3, "last")])
def test_an_array_on_the_command_line_leaves_a_picture(places: int, kind: str, tmp_path: Path) -> None:
    model = net(places, kind)
    onnx.save(exported(model, model.example()), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", model.example().numpy()[:1])
    done = CliRunner().invoke(app, ["explain", str(tmp_path / "model.onnx"), str(tmp_path / "x.npy"), "-m", "gradcam", "-o", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for name in ("map", "overlay"):
        assert Image.open(tmp_path / f"x.gradcam.{name}.png").width > 800


@pytest.mark.parametrize(("places", "kind"), [(1, ""), (1, "grey"), (1, "last"), (3, ""), (3, "grey")])
def test_metrics_remove_places_and_refuse_what_is_for_pictures(places: int, kind: str) -> None:
    model = net(places, kind)
    proto, x = exported(model, model.example()), model.example().numpy()
    explainer = onnxsal.Explainer(proto, "gradient")
    for curve in (insertion(explainer, x), deletion(explainer, x)):
        assert np.isfinite(curve.auc).all()
    ends = deletion(explainer, x, substrate="zero_norm").scores[:, [0, -1]]
    for at, given in enumerate((x, np.zeros_like(x))):
        wanted = model(torch.from_numpy(given)).softmax(1).detach().numpy()
        np.testing.assert_allclose(ends[:, at], wanted[[0, 1], explainer.explain(x).target], rtol=1e-4)
    with pytest.raises(InputError, match="occlusion needs pictures"):
        occlusion_correlation(explainer, x)
    found = explainer.explain(x)
    assert found.saliency_map is not None
    with pytest.raises(InputError, match=r"both must be \[N, H, W\]"):
        pointing_game(found, np.ones(found.saliency_map.shape, bool))


def test_series_are_blurred_along_their_axis() -> None:
    x = np.zeros((1, 2, 31), np.float32)
    x[0, 0, 15] = 1
    blurred = substrate("blur", x, places_of(x, (1, 2)))
    np.testing.assert_allclose(blurred[0, 0].sum(), 1, rtol=1e-5)
    assert (np.diff(blurred[0, 0, 10:16]) > 0).all()
    assert not blurred[0, 1].any()
    with pytest.raises(InputError, match="pictures, series and volumes"):
        substrate("blur", x, places_of(x))


def picture(model: onnx.ModelProto, layout: str | None = None) -> tuple[int | None, ...] | None:
    view = prepare(model, known).model
    return picture_of(view, view.value(ask(view).x.name), layout)


@pytest.mark.parametrize("places", [1, 2, 3])
def test_axes_are_those_that_the_first_convolution_reads(places: int) -> None:
    def axes(kind: str, dynamic: bool = False) -> tuple[int | None, ...] | None:
        return picture(exported(net(places, kind), net(places, kind).example(), dynamic))

    along = list(range(2, 2 + places))
    assert axes("") == axes("", dynamic=True) == (1, *along)
    assert axes("last") == (places + 1, *range(1, places + 1))
    assert axes("grey") == (None, *range(1, places + 1))


class Line(nn.Module):
    """A series whose convolutions work on a picture of one line, as TensorFlow writes them: with channels last, or with none."""

    def __init__(self, grey: bool) -> None:
        super().__init__()
        self.grey, self.places, self.last = grey, 1, not grey
        self.a, self.b, self.f = nn.Conv2d(1 if grey else 2, 4, (1, 3), padding=(0, 1)), nn.Conv2d(4, 6, (1, 3)), nn.Linear(6, 5)

    def features(self, x: Tensor) -> Tensor:
        x = x[:, None, None] if self.grey else x.unsqueeze(1).permute(0, 3, 1, 2)
        return torch.relu(self.b(torch.relu(self.a(x)).squeeze(2).unsqueeze(2)).squeeze(2))

    def head(self, a: Tensor) -> Tensor:
        found: Tensor = self.f(a.mean(2))
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Plain(Line):
    """The same with convolutions over a series."""

    def features(self, x: Tensor) -> Tensor:
        x = x[:, None] if self.grey else x.permute(0, 2, 1)
        x = torch.relu(F.conv1d(x, self.a.weight[:, :, 0], self.a.bias, padding=1))
        return torch.relu(F.conv1d(x, self.b.weight[:, :, 0], self.b.bias))


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(("grey", "shape"), [(False, (2, 17, 2)), (False, (2, 17, 1)), (True, (2, 17))])
def test_a_series_may_be_read_as_a_picture_of_one_line(grey: bool, shape: tuple[int, ...], dynamic: bool) -> None:
    torch.manual_seed(1)
    model: Any = Line(grey)
    if shape[-1] == 1:
        model.a = nn.Conv2d(1, 4, (1, 3), padding=(0, 1))
    x = torch.randn(shape)
    proto = exported(model.eval(), x, dynamic)
    assert picture(proto) == ((None, 1) if grey else (2, 1))
    a, g = at_layer(model, x)
    found = onnxsal.Explainer(proto, "gradcam").explain(x.numpy(), CLASSES.numpy())
    close(found.saliency_map, up(model, gradcam(a, g).relu(), x))
    plain = Plain(grey)
    plain.a, plain.b, plain.f = model.a, model.b, model.f
    for method in ("fullgrad", "simple_fullgrad", "evidence"):
        alike = [onnxsal.Explainer(p, method).explain(x.numpy(), CLASSES.numpy()) for p in (proto, exported(plain.eval(), x, dynamic))]
        assert alike[1].saliency_map is not None
        close(alike[0].saliency_map, alike[1].saliency_map)


class Mixer(nn.Module):
    """One block of attention among tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).chunk(3, -1)
        found: Tensor = x + self.out((q @ k.transpose(1, 2) / 3).softmax(-1) @ v)
        return found


class Tokens(nn.Module):
    """A series or a film [N, T, C, H, W] cut into tokens, with a class token before them that is read in the end."""

    def __init__(self, places: int) -> None:
        super().__init__()
        self.cut = CONV[places](3, 8, 4 if places == 1 else 2, stride=4 if places == 1 else 2)
        self.first, self.mix, self.head = nn.Parameter(torch.randn(1, 1, 8)), nn.Sequential(Mixer(), Mixer()), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.cut(x.transpose(1, 2) if x.ndim == 5 else x).flatten(2).transpose(1, 2)
        found: Tensor = self.head(self.mix(torch.cat([self.first.expand(x.shape[0], -1, -1), tokens], 1))[:, 0])
        return found


@pytest.mark.parametrize(("shape", "grid"), [((2, 3, 64), (16,)), ((2, 4, 3, 6, 8), (2, 3, 4))])
def test_tokens_of_series_and_films_lie_in_a_grid(shape: tuple[int, ...], grid: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model, x = Tokens(len(grid)).eval(), torch.randn(shape)
    proto = exported(model, x)
    layer = Layers(ask(prepare(onnx.ModelProto.FromString(proto.SerializeToString()), known).model)).chosen
    assert layer.tokens_of is not None
    assert (layer.tokens_of.sizes, layer.tokens_of.before) == (grid, 1)
    twin, kept = copy.deepcopy(model).double(), []
    twin.mix[1].norm.register_forward_hook(lambda module, given, made: kept.append(made))
    scores = twin(x.double())[torch.arange(2), CLASSES]
    (g,) = torch.autograd.grad(scores.sum(), kept[0])
    coarse = gradcam(kept[0][:, 1:].transpose(1, 2), g[:, 1:].transpose(1, 2)).reshape(2, *grid).detach()
    sizes = (shape[1], *shape[3:]) if len(shape) == 5 else shape[2:]
    wanted = F.interpolate(coarse.relu()[:, None], sizes, mode=MODES[len(grid)], align_corners=False)[:, 0]
    close(onnxsal.Explainer(proto, "gradcam").explain(x.numpy(), CLASSES.numpy()).saliency_map, wanted)
    for method in ("fullgrad", "evidence", "chefer"):
        found = onnxsal.Explainer(proto, method).explain(x.numpy(), CLASSES.numpy())
        assert found.saliency_map is not None
        assert found.saliency_map.shape == (2, *sizes)
        assert found.residual is None or found.residual.max() < 1e-5


class Otherwise(nn.Module):
    """What is no series: tokens that a mean or a norm over one axis reads, and frames that are folded into the batch."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.conv, self.norm = how, nn.Conv2d(3, 2, 3), nn.InstanceNorm1d(6)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "mean":
            return F.adaptive_avg_pool1d(x.transpose(1, 2), 1)[:, :, 0]
        if self.how == "norm":
            return self.norm(x).mean(2)
        return self.conv(x.flatten(0, 1)).mean((2, 3)).reshape(x.shape[0], -1)


@pytest.mark.parametrize(("how", "shape"), [("mean", (2, 6, 5)), ("norm", (2, 6, 5)), ("frames", (2, 4, 3, 7, 6))])
def test_what_no_window_reads_is_no_series(how: str, shape: Sequence[int]) -> None:
    assert picture(exported(Otherwise(how).eval(), torch.randn(tuple(shape)))) is None


def test_a_layout_is_said_by_the_letters_of_its_axes() -> None:
    model = exported(net(1), net(1).example())
    assert picture(model, "NLC") == picture(model, "NWC") == (2, 1)
    for wrong in ("NCHW", "NL"):
        with pytest.raises(TargetError, match=r"'x' has shape .* For that many: NHW, NCL, NLC"):
            picture(model, wrong)
    with pytest.raises(TargetError, match="layout='NCX' is unknown"):
        picture(model, "NCX")
    assert all(len(name) - 1 == len([a for a in axes if a is not None]) for name, axes in LAYOUTS.items())
