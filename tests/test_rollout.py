"""Chefer's rule and attention rollout against torch, on small transformers from both exporters."""

from __future__ import annotations

import copy
import io
import math
import warnings
from functools import cache

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import onnxsal
from onnxsal.errors import PlanError
from tests.oracle import run
from tests.small_models import cnn
from tests.torch_nets import export, exported, images, net

WIDTH, HEADS, WORDS = 12, 3, 23


class Attention(nn.Module):
    """Attention written out, which keeps its probabilities, or as one function (``fused``)."""

    def __init__(self, causal: bool, fused: bool) -> None:
        super().__init__()
        self.causal, self.fused, self.qkv, self.out = causal, fused, nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.kept: Tensor | None = None

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        if self.fused:
            keep = None if mask is None else mask[:, None, None, :].bool()
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, keep, is_causal=self.causal)
            return self.out(mixed.transpose(1, 2).reshape(n, length, WIDTH))
        scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        if mask is not None:
            scores = scores + (1.0 - mask[:, None, None, :].to(scores.dtype)) * torch.finfo(torch.float32).min
        if self.causal:
            scores = scores.masked_fill(torch.ones(length, length, dtype=torch.bool).triu(1), -math.inf)
        self.kept = torch.softmax(scores, -1)
        return self.out((self.kept @ v).transpose(1, 2).reshape(n, length, WIDTH))


class Bert(nn.Module):
    """Words, positions, two post-norm blocks; ``reads`` the class token, the mean of unmasked tokens, or the last token (causal)."""

    def __init__(self, reads: str, fused: bool) -> None:
        super().__init__()
        self.reads = reads
        self.words, self.positions = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(1, 64, WIDTH) * 0.3)
        self.attentions = nn.ModuleList(Attention(reads == "last", fused) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))
        self.inner = nn.ModuleList(nn.Sequential(nn.Linear(WIDTH, 20), nn.GELU(), nn.Linear(20, WIDTH)) for _ in range(2))
        self.head = nn.Linear(WIDTH, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        return self.embedded(self.words(ids), mask)

    def embedded(self, e: Tensor, mask: Tensor) -> Tensor:
        x = e + self.positions[:, : e.shape[1]]
        for i, attention in enumerate(self.attentions):
            x = self.norms[2 * i](x + attention(x, None if self.reads == "last" else mask))
            x = self.norms[2 * i + 1](x + self.inner[i](x))
        if self.reads == "mean":
            kept = mask[..., None].to(x.dtype)
            x = (x * kept).sum(1) / kept.sum(1).clamp(min=1e-9)
        else:
            x = x[:, 0] if self.reads == "class" else x[:, -1]
        return self.head(x)


@cache
def bert(reads: str, fused: bool = False) -> Bert:
    torch.manual_seed(3)
    return Bert(reads, fused).eval()


IDS = np.random.default_rng(0).integers(0, WORDS, (3, 7))
MASK = np.array([[1] * 7, [1] * 5 + [0] * 2, [1] * 3 + [0] * 4])


@cache
def written(reads: str, exporter: str, opset: int) -> onnx.ModelProto:
    given = (torch.tensor(IDS), torch.tensor(MASK))
    names = {"input_names": ["ids", "mask"], "output_names": ["scores"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "legacy":
            file, open_ = io.BytesIO(), {"ids": {0: "N", 1: "L"}, "mask": {0: "N", 1: "L"}, "scores": {0: "N"}}
            torch.onnx.export(bert(reads), given, file, dynamo=False, opset_version=opset, dynamic_axes=open_, **names)
            return onnx.load_from_string(file.getvalue())
        n, length = torch.export.Dim("N"), torch.export.Dim("L", max=64)
        shapes = ({0: n, 1: length}, {0: n, 1: length})
        program = torch.onnx.export(
            bert(reads, opset < 23), given, dynamo=True, opset_version=opset, dynamic_shapes=shapes, verbose=False, **names
        )
        return program.model_proto


def embedding(model: onnx.ModelProto) -> str:
    """The output of the node that looks the words up."""
    return next(n.output[0] for n in model.graph.node if n.op_type == "Gather" and "ids" in n.input)


def fed(model: onnx.ModelProto, target: int) -> dict[str, np.ndarray]:
    """What the model reads: a mask that it ignores is no input of it."""
    given = {"ids": IDS, "mask": MASK}
    return {v.name: given[v.name] for v in model.graph.input} | {"target": np.array([target])}


def oracle(model: Bert, reads: str, method: str, target: int) -> np.ndarray:
    """One number per token, in float64, from the papers' formulas with whole matrices."""
    model = model.double()
    ids, mask = torch.tensor(IDS), torch.tensor(MASK)
    scores = model(ids, mask)[:, target]
    weights = [attention.kept for attention in model.attentions]
    gradients = torch.autograd.grad(scores.sum(), weights)
    n, length = IDS.shape
    eye = torch.eye(length, dtype=torch.float64).expand(n, -1, -1)
    total = eye
    for a, g in zip(weights, gradients, strict=True):
        step = (a * g).clamp(min=0).mean(1) if method == "chefer" else (a.mean(1) - eye) / 2
        total = total + step @ total
    model.float()
    if reads == "mean":
        kept = mask.double() / mask.sum(1, keepdim=True)
        return (kept[:, None] @ total)[:, 0].detach().numpy()
    return total[:, 0 if reads == "class" else -1].detach().numpy()


READINGS = {
    "class": "the first row (a class token) alone",
    "last": "the last row alone",
    "mean": "the mean of all rows that are not masked",
}


@pytest.mark.parametrize("method", ["chefer", "attention_rollout"])
@pytest.mark.parametrize(
    ("reads", "exporter", "opset"),
    [("class", "legacy", 14), ("mean", "legacy", 17), ("last", "legacy", 17), ("mean", "dynamo", 18)],
)
def test_a_bert_against_torch(reads: str, exporter: str, opset: int, method: str) -> None:
    """Class token, mean of the unmasked tokens, last token; padding gets nothing by rollout's and Chefer's attention to it."""
    model = written(reads, exporter, opset)
    converted = onnxsal.convert(model, method, input=embedding(model), components=True)
    found = run(converted, fed(model, 2))
    wanted = oracle(bert(reads), reads, method, 2)
    np.testing.assert_allclose(found[f"{method}/tokens"], wanted, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(found["attribution"].sum(-1), wanted, rtol=2e-5, atol=1e-6)
    assert "residual" not in found


@pytest.mark.parametrize("method", ["chefer", "attention_rollout"])
def test_what_is_read_is_told(method: str) -> None:
    """The layers, and the rows that the scores read, are in the plan and in the metadata."""
    for reads, text in READINGS.items():
        model = written(reads, "legacy", 17)
        told = {fact.what: fact for fact in onnxsal.plan(model, method, input=embedding(model)).found}
        assert text in told["rows"].value
        assert told["attention"].value.startswith("2 layers")


def test_a_fixed_batch_and_an_open_length() -> None:
    """The tokens are followed where only their number is open."""
    model = onnx.ModelProto.FromString(written("class", "legacy", 14).SerializeToString())
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 3
    found = run(onnxsal.convert(model, "chefer", input=embedding(model)), fed(model, 2))
    np.testing.assert_allclose(found["attribution"].sum(-1), oracle(bert("class"), "class", "chefer", 2), rtol=2e-5, atol=1e-6)


def test_tokens_that_win_a_maximum_are_read() -> None:
    """They count in equal parts; nothing is said of a mean."""
    model, x = in_form("largest")
    proto = export(model, "legacy", 17, example=x)
    told = {fact.what: fact.value for fact in onnxsal.plan(proto, "attention_rollout").found}
    assert told["rows"] == "the rows that add anything to the score (not the masked ones), in equal parts"
    wanted, kept = multiplied([(a[:, None], g[:, None]) for a, g in recorded(model, x, 1)], "attention_rollout"), []
    hook = model.head.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    with torch.no_grad():
        y = x + model.one(0, x)
        y = y + model.one(1, y)
        model(x)
    hook.remove()
    won = (y == kept[0][:, None]).any(-1).double().numpy()
    found = run(onnxsal.convert(proto, "attention_rollout"), {"input": x.numpy(), "target": np.array([1])})
    rows = (won / won.sum(1, keepdims=True))[:, None] @ wanted
    np.testing.assert_allclose(found["attribution"].sum(-1), rows[:, 0], rtol=3e-5, atol=1e-6)


def test_a_pooling_by_weights_is_no_layer() -> None:
    """No token asks for it: a matrix product, or a product and a sum, it only reads rows, all alike or in proportion to what they add."""
    rows = []
    for form in ("pooled by a product", "pooled by a sum"):
        model, x = in_form(form)
        proto = export(model, "legacy", 17, example=x)
        wanted = multiplied([(a[:, None], g[:, None]) for a, g in recorded(model, x, 1)[:2]], "attention_rollout")
        found = run(onnxsal.convert(proto, "attention_rollout"), {"input": x.numpy(), "target": np.array([1])})
        np.testing.assert_allclose(found["attribution"].sum(-1), wanted.mean(1), rtol=3e-5, atol=1e-6)
        converted = onnxsal.convert(proto, "attention_rollout", rows="contribution")
        rows.append(run(converted, {"input": x.numpy(), "target": np.array([1])})["attribution"].sum(-1))
    np.testing.assert_allclose(rows[0], rows[1], rtol=1e-4, atol=1e-6)
    assert not np.allclose(rows[0], wanted.mean(1), rtol=1e-2)


@pytest.mark.parametrize("method", ["chefer", "attention_rollout"])
def test_padding_has_no_influence(method: str) -> None:
    """More padding changes nothing, and gets exactly nothing."""
    model = written("mean", "legacy", 17)
    converted = onnxsal.convert(model, method, input=embedding(model))
    short = run(converted, {"ids": IDS[1:2, :5], "mask": MASK[1:2, :5], "target": np.array([1])})["attribution"]
    long = run(converted, {"ids": IDS[1:2], "mask": MASK[1:2], "target": np.array([1])})["attribution"]
    assert not long[:, 5:].any()
    np.testing.assert_allclose(long[:, :5], short, rtol=1e-5, atol=1e-7)


def recorded(model: nn.Module, x: Tensor, target: int) -> list[tuple[Tensor, Tensor]]:
    """Every matrix of attention [N, heads, L, L] with the gradient of the score at it, in float64; scaled_dot_product_attention is
    written out meanwhile, with 0 in rows that are masked as a whole.
    """
    kept: list[Tensor] = []
    softmax, fused = torch.softmax, nn.functional.scaled_dot_product_attention

    def keeping(scores: Tensor, dim: int) -> Tensor:
        kept.append(torch.nan_to_num(softmax(scores, dim)))
        return kept[-1]

    def written_out(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, *_: object, **__: object) -> Tensor:
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        return keeping(scores, -1) @ v

    torch.softmax, nn.functional.scaled_dot_product_attention = keeping, written_out
    try:
        with torch.enable_grad():
            for parameter in model.double().parameters():
                parameter.requires_grad_()
            scores = model(x.double())[:, target]
            gradients = torch.autograd.grad(scores.sum(), kept)
    finally:
        torch.softmax, nn.functional.scaled_dot_product_attention = softmax, fused
        model.float()
    return list(zip(kept, gradients, strict=True))


def multiplied(matrices: list[tuple[Tensor, Tensor]], method: str) -> np.ndarray:
    """The product of all layers [N, L, L]."""
    n, *_, length = matrices[0][0].shape
    eye = torch.eye(length, dtype=torch.float64).expand(n, -1, -1)
    total = eye
    for a, g in matrices:
        step = (a * g).clamp(min=0).mean(1) if method == "chefer" else (a.mean(1) - eye) / 2
        total = total + step @ total
    return total.detach().numpy()


def test_a_vit_against_torch() -> None:
    """The row of the class token on the grid of patches, upsampled to the picture; the class token itself is in a component."""
    model, x = net("vit"), images(2)
    matrices = recorded(copy.deepcopy(model), x, 3)
    for method in ("chefer", "attention_rollout"):
        wanted = multiplied(matrices, method)[:, 0]
        up = nn.functional.interpolate(torch.tensor(wanted[:, 1:].reshape(-1, 1, 4, 4)), (32, 32), mode="bilinear", align_corners=False)[
            :, 0
        ]
        converted = onnxsal.convert(exported("vit", "legacy", 17), method, components=True)
        found = run(converted, {converted.graph.input[0].name: x.numpy(), "target": np.array([3])})
        np.testing.assert_allclose(found[f"{method}/tokens"], wanted, rtol=3e-5, atol=1e-6)
        np.testing.assert_allclose(found["saliency_map"], up, rtol=3e-5, atol=1e-6)
        np.testing.assert_allclose(found["attribution"].sum(1), up, rtol=3e-5, atol=1e-6)


class Tokens(nn.Module):
    """Two layers of attention on [N, L, 8] in one of several forms, read at the first token."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.whole = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=form != "length first") for _ in range(2))
        self.qkv = nn.ModuleList(nn.Linear(8, 24) for _ in range(2))
        self.probes, self.head = nn.Parameter(torch.randn(1, 2, 8)), nn.Linear(8, 3)

    def one(self, i: int, x: Tensor) -> Tensor:
        q, k, v = self.qkv[i](x).chunk(3, -1)
        if self.form == "a softmax per head":
            heads = zip(q.chunk(2, -1), k.chunk(2, -1), v.chunk(2, -1), strict=True)
            return torch.cat([torch.softmax(a @ b.transpose(1, 2), -1) @ c for a, b, c in heads], -1)
        if self.form == "rows masked as a whole":
            keep = (x.detach()[:, :, :1] > -0.5) & (x.detach()[:, None, :, 0] > -9)
            return nn.functional.scaled_dot_product_attention(q, k, v, keep)
        if self.form == "windows":
            n = x.shape[0]
            q, k, v = (t.reshape(2 * n, 3, 8) for t in (q, k, v))
            return (torch.softmax(q @ k.transpose(1, 2), -1) @ v).reshape(n, 6, 8)
        if self.form == "reversed":
            k, v = k.flip(1), v.flip(1)
        if self.form == "probes":
            q = self.probes.expand(x.shape[0], -1, -1)
        return torch.softmax(q @ k.transpose(1, 2), -1) @ v

    def forward(self, x: Tensor) -> Tensor:
        if self.form in ("fused", "length first"):
            y = x.transpose(0, 1) if self.form == "length first" else x
            for attention in self.whole:
                y = y + attention(y, y, y, need_weights=False)[0]
            y = y[0] if self.form == "length first" else y[:, 0]
            return self.head(y)
        y = x + self.one(0, x) if self.form != "probes" else self.one(0, x)
        y = y + self.one(1, y)
        if self.form.startswith("pooled"):
            share = torch.softmax(y @ self.probes[0, :1].T, 1)
            return self.head((share.transpose(1, 2) @ y)[:, 0] if self.form == "pooled by a product" else (share * y).sum(1))
        return self.head(y.amax(1) if self.form == "largest" else y[:, 0])


def in_form(form: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(5)
    return Tokens(form).eval(), torch.randn(3, 6, 8)


@pytest.mark.parametrize("form", ["fused", "length first", "a softmax per head", "rows masked as a whole"])
def test_forms_of_attention(form: str) -> None:
    """Fused projections, [L, N, D] inside, heads that are softmaxes of their own, rows whose NaN is replaced: the explained tensor is x."""
    model, x = in_form(form)
    proto = export(model, "legacy", 17, example=x)
    matrices = recorded(model, x, 1)
    if form == "a softmax per head":
        matrices = [tuple(torch.stack(pair, 1) for pair in zip(*matrices[i : i + 2], strict=True)) for i in (0, 2)]
    matrices = [(a[:, None], g[:, None]) if a.ndim == 3 else (a, g) for a, g in matrices]
    for method in ("chefer", "attention_rollout"):
        found = run(onnxsal.convert(proto, method), {"input": x.numpy(), "target": np.array([1])})
        wanted = multiplied(matrices, method)[:, 0]
        assert np.isfinite(wanted).all()
        np.testing.assert_allclose(found["attribution"].sum(-1), wanted, rtol=3e-5, atol=1e-6)
    if form == "a softmax per head":
        wide = onnxsal.convert(export(model.double(), "legacy", 17, example=x.double()), "chefer")
        found = run(wide, {"input": x.double().numpy(), "target": np.array([1])})
        np.testing.assert_allclose(found["attribution"].sum(-1), multiplied(matrices, "chefer")[:, 0], rtol=1e-12)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("windows", "is no attention among the tokens of 'input'"),
        ("reversed", "is no attention among the tokens of 'input'"),
        ("probes", "no softmax between 'input' and 'output' weights values by what they are"),
    ],
)
def test_attention_that_is_not_among_the_tokens_is_refused(form: str, message: str) -> None:
    """Their matrices are about other tokens, or about the same in another order: their product would mean nothing."""
    model, x = in_form(form)
    proto = export(model, "legacy", 17, example=x)
    for method in ("chefer", "attention_rollout"):
        with pytest.raises(PlanError, match=message):
            onnxsal.convert(proto, method)


@pytest.mark.parametrize("method", ["chefer", "attention_rollout"])
def test_without_attention_it_is_refused(method: str) -> None:
    with pytest.raises(PlanError, match=r"no softmax between 'x' and .* weights values by what they are"):
        onnxsal.convert(cnn(), method)
