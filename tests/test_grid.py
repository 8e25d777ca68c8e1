"""Token grids on the picture, and one layer for one network whatever the spelling: a model that cannot see half of the picture shows it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static
from torch import Tensor, nn
from typer.testing import CliRunner

import onnxsal
from onnxsal.ask.layers import Layers
from onnxsal.ask.question import ask
from onnxsal.cli.app import app
from onnxsal.errors import MethodError, TargetError
from onnxsal.facts.grounds import Ground
from onnxsal.ops.registry import known
from onnxsal.passes import prepare
from tests.torch_nets import Vit, export, net, randomise

WIDTH, PATCH = 6, 4


def layers(model: onnx.ModelProto, **asked: object) -> Layers:
    return Layers(ask(prepare(model, known).model, **asked))  # type: ignore[arg-type]


class Attend(nn.Module):
    """Softmax attention, whole or among windows of the grid, on [N, L, D] or [L, N, D]."""

    def __init__(self, sequence_first: bool = False) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.sequence_first = sequence_first

    def forward(self, x: Tensor) -> Tensor:
        z = x.transpose(0, 1) if self.sequence_first else x
        q, k, v = self.qkv(self.norm(z)).chunk(3, -1)
        y = self.out((q @ k.transpose(-1, -2) * WIDTH**-0.5).softmax(-1) @ v)
        return x + (y.transpose(0, 1) if self.sequence_first else y)


class HalfBlind(nn.Module):
    """A transformer whose scores depend on the tokens of the right half only: the others are set to zero before each attention."""

    def __init__(self, grid: tuple[int, int], patches: str, extra: tuple[int, int], layout: str, read: str) -> None:
        super().__init__()
        self.grid, self.patches, self.extra, self.layout, self.read = grid, patches, extra, layout, read
        size = 2 if layout == "merged" else 1
        self.size = (grid[0] * PATCH * size, grid[1] * PATCH * size)
        self.conv = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.linear = nn.Linear(3 * PATCH**2, WIDTH)
        self.merge = nn.Linear(4 * WIDTH, WIDTH)
        self.front = nn.Parameter(torch.randn(1, extra[0], WIDTH))
        self.back = nn.Parameter(torch.randn(1, extra[1], WIDTH))
        self.blocks = nn.ModuleList([Attend(layout == "LND") for _ in range(2)])
        self.head = nn.Linear(WIDTH, 5)
        seen = torch.arange(grid[0] * grid[1]) % grid[1] >= (grid[1] + 1) // 2
        self.register_buffer("seen", seen.float()[None, :, None])

    def embed(self, x: Tensor) -> Tensor:
        n, (h, w) = x.shape[0], (self.size[0] // PATCH, self.size[1] // PATCH)
        if self.patches == "conv":
            return self.conv(x).flatten(2).transpose(1, 2)
        if self.patches == "linear":
            return self.linear(x.view(n, 3, h, PATCH, w, PATCH).permute(0, 2, 4, 3, 5, 1).reshape(n, h * w, -1))
        if self.patches == "unshuffle":
            return self.linear(nn.functional.pixel_unshuffle(x, PATCH).permute(0, 2, 3, 1).reshape(n, h * w, -1))
        return self.linear(x.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2))

    def forward(self, x: Tensor) -> Tensor:
        n, (h, w) = x.shape[0], self.grid
        t = self.embed(x)
        if self.layout == "merged":
            g = t.view(n, 2 * h, 2 * w, WIDTH)
            t = self.merge(torch.cat([g[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1).view(n, h * w, -1))
        t = t * self.seen
        if self.layout == "windows":  # rolled by one, attention within columns of the grid, rolled back
            g = t.view(n, h, w, WIDTH).roll(1, 1)
            g = self.blocks[0](g.permute(0, 2, 1, 3).reshape(n * w, h, WIDTH)).view(n, w, h, WIDTH).permute(0, 2, 1, 3)
            t = g.roll(-1, 1).reshape(n, h * w, WIDTH) * self.seen
        t = torch.cat([self.front.expand(n, -1, -1), t, self.back.expand(n, -1, -1)], 1)
        t = t.transpose(0, 1) if self.layout == "LND" else t
        kept = torch.cat([torch.ones_like(self.front[..., :1]), self.seen, torch.ones_like(self.back[..., :1])], 1)
        kept = kept.transpose(0, 1) if self.layout == "LND" else kept
        for block in self.blocks:
            t = block(t) * kept
        t = t.transpose(0, 1) if self.layout == "LND" else t
        if self.read == "class":
            return self.head(t[:, 0] if self.extra[0] else t[:, -1])
        own = t[:, self.extra[0] : self.extra[0] + h * w]
        return self.head((own * self.seen).sum(1))


def draw_nets(count: int) -> list[tuple]:
    """Random grids, among them squares' counts that are no squares and single rows, in random spellings."""
    dice = np.random.default_rng(3)
    grids = [(2, 8), (1, 4), (1, 9), (8, 2), (3, 12), (4, 4), (2, 3), (3, 3), (5, 2)]
    drawn = []
    for i in range(count):
        grid = grids[i % len(grids)]
        patches = ["conv", "linear", "unshuffle", "unfold"][dice.integers(4)]
        extra = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 2), (5, 4)][dice.integers(6)]
        layout = ["NLD", "LND", "windows", "merged"][dice.integers(4)]
        read = ["mean", "class"][dice.integers(2)] if sum(extra) else "mean"
        drawn.append((grid, patches, extra, layout, read))
    return drawn


@pytest.mark.parametrize("drawn", draw_nets(14), ids=str)
def test_the_half_that_is_not_seen_is_zero(drawn: tuple) -> None:
    """The true gradient is zero on the left half (autograd says so), hence so is the map, up to the blur of one token's upsampling."""
    torch.manual_seed(1)
    model = HalfBlind(*drawn).eval()
    (h, w), extra = drawn[0], drawn[2]
    x = torch.randn(2, 3, *model.size)
    probe = x.clone().requires_grad_()
    # A masked token is the constant 0 to the attention, so nothing on the left has a derivative.
    (truth,) = torch.autograd.grad(model(probe)[:, 1].sum(), probe)
    blind = w // 2 * (model.size[1] // w) if w % 2 == 0 else (w + 1) // 2 * (model.size[1] // w)
    assert not truth[..., :blind].any()
    assert truth[..., blind:].any()
    exporter = "dynamo" if drawn[1] == "unfold" else "legacy"
    exported = export(model.requires_grad_(False), exporter, example=x)
    found = layers(exported).chosen
    assert found.size == (h, w)
    assert found.tokens_of is None or found.grid == (extra[0] if found.tokens_of.count > h * w else 0, h, w)
    for target in range(5):
        map_ = onnxsal.Explainer(exported, "gradcam").explain(x.numpy(), target).saliency_map
        edge = blind - model.size[1] // w
        assert np.abs(map_[..., :edge]).max(initial=0) <= 1e-6 * max(np.abs(map_).max(), 1e-30)


def test_tokens_in_another_order_are_put_right() -> None:
    """Tokens column by column: the map is the one of the same network with tokens row by row."""

    class Columns(nn.Module):
        def __init__(self, turned: bool) -> None:
            super().__init__()
            torch.manual_seed(5)
            self.turned, self.conv, self.block, self.head = turned, nn.Conv2d(3, WIDTH, PATCH, PATCH), Attend(), nn.Linear(WIDTH, 5)

        def forward(self, x: Tensor) -> Tensor:
            t = self.conv(x)
            t = t.transpose(2, 3) if self.turned else t
            return self.head(self.block(t.flatten(2).transpose(1, 2)).relu().mean(1))

    x = torch.randn(2, 3, 8, 20)
    maps = []
    for turned in (False, True):
        exported = export(Columns(turned).eval(), example=x)
        layer = layers(exported).chosen
        assert layer.size == (2, 5)
        maps.append(onnxsal.Explainer(exported, "gradcam").explain(x.numpy(), 2).saliency_map)
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-6 * np.abs(maps[0]).max())
    assert "in another order" in str(layer)


# ----- one network, one layer -----


class Parts(nn.Module):
    """A LayerNorm written out."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + self.norm.eps).sqrt() * self.norm.weight + self.norm.bias


class SequenceFirst(nn.Module):
    """The same blocks on tokens [L, N, D]."""

    def __init__(self, model: Vit) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        m = self.model
        x = m.patches(x).flatten(2).permute(2, 0, 1)
        x = torch.cat([m.token.permute(1, 0, 2).expand(-1, x.shape[1], -1), x]) + m.positions.permute(1, 0, 2)
        for block in m.blocks:
            for part in block:
                norm, *rest = part.branch
                y = norm(x)
                for step in rest:
                    y = step(y.transpose(0, 1)).transpose(0, 1) if hasattr(step, "qkv") else step(y)
                x = x + y
        return m.head(x[0])


class ChannelsLast(nn.Module):
    """Pictures [N, H, W, C]."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.permute(0, 3, 1, 2))


FORM = {"quant_format": QuantFormat.QDQ, "per_channel": True, "reduce_range": True}


def quantized(model: onnx.ModelProto, x: np.ndarray, tmp_path) -> onnx.ModelProto:
    """As ONNX Runtime quantises for QDQ. Weights have 7 bits: with 8, processors without VNNI saturate in sums of two products."""

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter([{model.graph.input[0].name: x}])

        def get_next(self):
            return next(self.left, None)

    onnx.save(model, tmp_path / "float.onnx")
    quantize_static(str(tmp_path / "float.onnx"), str(tmp_path / "int8.onnx"), Reader(), **FORM)
    return onnx.load(str(tmp_path / "int8.onnx"))


SPELLINGS = ["legacy", "dynamo", "unfolded", "parts", "sequence first", "channels last", "fixed batch", "int8"]


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_network_has_one_layer(spelling: str, tmp_path) -> None:
    """Every spelling of a transformer gives the map that its plainest export gives; int8 up to its rounding."""
    model = net("vit")
    assert isinstance(model, Vit)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(8))
    wanted = onnxsal.Explainer(export(model), "gradcam", components=True).explain(x.numpy(), 3).components["gradcam/map"]
    fed = x.numpy()
    if spelling == "parts":
        other = Vit()
        other.load_state_dict(model.state_dict())
        for block in other.blocks:
            for part in block:
                part.branch[0] = Parts(part.branch[0])
        exported = export(other.eval())
    elif spelling == "sequence first":
        exported = export(SequenceFirst(model).eval())
    elif spelling == "channels last":
        fed = np.ascontiguousarray(fed.transpose(0, 2, 3, 1))
        exported = export(ChannelsLast(model).eval(), example=torch.from_numpy(fed))
    elif spelling == "int8":
        exported = quantized(export(model), fed, tmp_path)
    else:
        exported = export(
            model,
            "dynamo" if spelling == "dynamo" else "legacy",
            fold=spelling != "unfolded",
            batch=2 if spelling == "fixed batch" else None,
        )
    found = onnxsal.Explainer(exported, "gradcam", components=True).explain(fed, 3).components["gradcam/map"]
    layer = layers(exported).chosen
    assert layer.grid == (1, 4, 4)
    if spelling == "int8":
        assert layer.value.name.startswith(layers(export(model)).chosen.value.name)
    tolerance = 0.25 if spelling == "int8" else 1e-4
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


class Boxes(nn.Module):
    """One scale of a detector: class scores and boxes (times the cell's stride, plus the cell's corner) of every cell, one row each."""

    def __init__(self, last: str) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.boxes, self.classes, self.last = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 3, 1), last
        rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
        self.register_buffer("corner", torch.stack([columns, rows, columns, rows])[None])

    def forward(self, x: Tensor) -> Tensor:
        z = self.body(x)
        if self.last == "boxes":
            classes = self.classes(z)
            boxes = (self.boxes(z).sigmoid() + self.corner) * 4
        else:
            boxes = (self.boxes(z).sigmoid() + self.corner) * 4
            classes = self.classes(z)
        return torch.cat([boxes.flatten(2), classes.flatten(2)], 1).transpose(1, 2)


@pytest.mark.parametrize("exporter", ["legacy", "dynamo"])
@pytest.mark.parametrize("last", ["boxes", "classes"])
def test_a_layer_that_a_score_does_not_depend_on_is_not_chosen(last: str, exporter: str) -> None:
    """The layer is the one that boxes and classes share, whichever branch is written last."""
    torch.manual_seed(2)
    model, x = Boxes(last).eval(), torch.randn(1, 3, 32, 32)
    a = model.body(x).detach().requires_grad_()
    score = model.classes(a)[0, 1, 3, 5]
    (g,) = torch.autograd.grad(score, a)
    wanted = (g.mean((2, 3), keepdim=True) * a).sum(1).detach().numpy()
    exported = export(model, exporter, example=torch.cat([x, x]))
    found = onnxsal.Explainer(exported, "gradcam", components=True).explain(x.numpy(), (3 * 8 + 5, 5))
    np.testing.assert_allclose(found.components["gradcam/map"], wanted, atol=1e-6 * np.abs(wanted).max() + 1e-12)
    assert np.abs(wanted).max() > 0


# ----- what the user tells, what is refused -----


class Pruned(nn.Module):
    """Tokens sorted by a score of their own: which is which depends on the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.block, self.head = nn.Conv2d(3, WIDTH, PATCH, PATCH), Attend(), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        t = self.conv(x).flatten(2).transpose(1, 2)
        best = t.sum(-1).topk(t.shape[1], 1).indices
        t = torch.gather(t, 1, best[..., None].expand(-1, -1, WIDTH))
        return self.head(self.block(t).mean(1))


def test_tokens_that_cannot_be_placed_are_refused_and_can_be_told() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 32)
    exported = export(Pruned().eval(), example=x)
    with pytest.raises(TargetError, match=r"may be a grid of tokens.*--grid 14x14, or grid=\(14, 14\)"):
        onnxsal.convert(exported, "gradcam")
    converted = onnxsal.convert(exported, "gradcam", grid=(2, 8))
    assert layers(exported, grid=(2, 8)).chosen.grid == (0, 2, 8)
    assert '"grid": [2, 8]' in {p.key: p.value for p in converted.metadata_props}["onnxsal.parameters"]
    whole = onnxsal.Explainer(exported, "gradcam", grid="2x8").explain(x.numpy(), 1)
    adopted = onnxsal.Explainer(converted, grid=(2, 8)).explain(x.numpy(), 1)
    np.testing.assert_array_equal(adopted.saliency_map, whole.saliency_map)
    with pytest.raises(MethodError, match="cannot be changed afterwards"):
        onnxsal.Explainer(converted, grid=(4, 4))
    with pytest.raises(TargetError, match=r"no tensor .* holds 3 x 5 tokens"):
        onnxsal.convert(exported, "gradcam", grid=(3, 5))


@pytest.mark.parametrize("verb", ["evaluate", "audit"])
def test_the_grid_is_told_where_methods_are_compared(tmp_path: Path, verb: str) -> None:
    """It goes to the methods that look at tokens; the others are none the worse for it."""
    torch.manual_seed(0)
    onnx.save(export(Pruned().eval(), example=torch.randn(2, 3, 8, 32)), tmp_path / "pruned.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((2, 3, 8, 32)).astype(np.float32))
    out = ["-m", "gradient,gradcam", "-o", str(tmp_path / "out"), "--json"]
    words = [verb, str(tmp_path / "pruned.onnx"), str(tmp_path / "x.npy"), *out, *(["--metrics", "deletion"] if verb == "evaluate" else [])]
    bare = CliRunner().invoke(app, words)
    assert bare.exit_code == 2
    assert "Give the grid's height and width: --grid 14x14" in bare.stderr
    told = CliRunner().invoke(app, [*words, "--grid", "2x8"])
    assert told.exit_code == 0, told.stderr
    assert "refused" not in told.stderr


def test_a_grid_against_the_graph_is_refused() -> None:
    exported = export(net("vit"))
    assert layers(exported, grid=(4, 4)).chosen == layers(exported).chosen
    with pytest.raises(TargetError, match=r"grid=\(2, 8\): .* Grids that the graph proves: 4 x 4"):
        onnxsal.convert(exported, "gradcam", grid=(2, 8))
    with pytest.raises(MethodError, match="has no target layer, so no grid of tokens; grid= is for"):
        onnxsal.convert(exported, "gradient", grid=(4, 4))
    for given in ((4,), 4, "4x", "4xa", (0, 4), (2.0, 8), True):
        with pytest.raises(TargetError, match="no height and width in tokens"):
            onnxsal.convert(exported, "gradcam", grid=given)  # type: ignore[arg-type]
    onnxsal.convert(exported, "rise", grid=5)  # its own parameter of that name


def test_what_was_found_out() -> None:
    layer, grid = layers(export(net("vit"))).found_out()
    assert (layer.what, grid.what, grid.ground) == ("layer", "grid", Ground.PROVED)
    assert grid.value == "4 x 4 tokens after 1 other(s)"
    told = layers(export(Pruned().eval(), example=torch.randn(2, 3, 8, 32)), grid=(2, 8)).found_out()
    assert told[1].ground == Ground.TOLD


def test_every_count_of_others_is_known() -> None:
    """Class and distillation tokens in front, behind, or both, more of them than anyone would guess."""
    for extra in ((1, 0), (2, 0), (0, 3), (12, 20)):
        model = randomise(HalfBlind((2, 8), "conv", extra, "NLD", "class"))
        found = layers(export(model, example=torch.randn(2, 3, 8, 32))).chosen
        assert found.grid == (extra[0], 2, 8)
        assert math.prod(found.grid[1:]) == 16
