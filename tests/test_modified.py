"""Relevance as value times a modified gradient: golden vectors, a twin in PyTorch, one network in several spellings, masks."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper

from onnxsal import Explainer, plan
from onnxsal.backward import RULES
from onnxsal.errors import PlanError
from onnxsal.explanation import Explanation
from onnxsal.ops.registry import REGISTRY
from tests import modified_nets as nets
from tests.lrp_models import with_rule
from tests.oracle import one_node_model
from tests.oracle import run as run_oracle
from tests.small_models import make, node
from tests.test_fused import saved

INF = float("inf")


def explained(
    nodes: Sequence[onnx.NodeProto],
    x: Any,
    head: Any,
    method: str,
    weights: dict[str, Any] | None = None,
    opset: int = 18,
    dtype: Any = np.float64,
) -> Explanation:
    """``nodes`` make y of one sample x; the score of class 0 is the sum of y * head."""
    x, head = np.asarray(x, dtype)[None], np.asarray(head, dtype).reshape(-1)
    constants = {k: v if k == "axis" else np.asarray(v, dtype) for k, v in (weights or {}).items()}
    constants["head"] = np.stack([head, head[::-1] - 1.0], 1)
    ends = [node("Flatten", "y", "flat"), node("MatMul", "flat head", "scores")]
    kinds = dict.fromkeys(("x", "scores"), helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))
    model = make([*nodes, *ends], {"x": ["N", *x.shape[1:]]}, {"scores": ["N", 2]}, constants, opset=opset, types=kinds)
    found = Explainer(model, method, components=True).explain(x, 0)
    assert found.residual is not None
    assert found.residual[0] < 1e-6  # told in float32
    return found


def relevance(*args: Any, **more: Any) -> np.ndarray:
    return explained(*args, **more).attribution[0]


def booked(found: Explanation, kind: str) -> float:
    return float(found.parts[kind][0])


def reading(name: str, nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The nodes, with another tensor in the place of x."""
    copies = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    for n in copies:
        n.input[:] = [name if read == "x" else read for read in n.input]
    return copies


# ----- golden vectors -----

SOFTMAX = [node("Softmax", "x", "y", axis=-1)]
"""A class head in mid-graph: it weights no values."""

SPELLED = [
    node("ReduceMax", "x axis", "top", keepdims=1),
    node("Sub", "x top", "below"),
    node("Exp", "below", "e"),
    node("ReduceSum", "e axis", "total", keepdims=1),
    node("Div", "e total", "y"),
]


@pytest.mark.parametrize("spelled", [False, True])
@pytest.mark.parametrize(
    ("x", "wanted"),
    [((1, 2, -1), (0.040503540, -0.410769025, -0.164880973)), ((11, 12, 9), (0.445538936, -2.464614152, 1.483928757))],
)
def test_softmax(spelled: bool, x: Sequence[float], wanted: Sequence[float]) -> None:
    """Its gradient, with <g, r> booked; written out it is the same. A shift of x changes the elements, not their sum."""
    s = np.exp(np.asarray(x, float) - max(x))
    head = np.array([0.3, 0.5, 0.2]) / (s / s.sum())
    found = explained(SPELLED if spelled else SOFTMAX, x, head, "attnlrp", {"axis": np.array([1])})
    np.testing.assert_allclose(found.attribution[0], wanted, atol=2e-9)
    assert booked(found, "softmax") == pytest.approx(1.535146459, abs=1e-6)


@pytest.mark.parametrize("spelled", [False, True])
@pytest.mark.parametrize("low", [-INF, -1e4, -3.4028235e38])
def test_masked_scores(spelled: bool, low: float) -> None:
    nodes = [node("Add", "x mask", "m"), *reading("m", SPELLED if spelled else SOFTMAX)]
    found = explained(nodes, (1, 5, -1), (0.5, 0.7, -0.2), "attnlrp", {"mask": (0.0, low, 0.0), "axis": np.array([1])})
    np.testing.assert_allclose(found.attribution[0], (0.073495510, 0, 0.073495510), atol=1e-9)
    assert found.attribution[0, 1] == 0


def test_row_that_is_masked_as_a_whole() -> None:
    """Its softmax is no number; what an exporter puts in its place hides that, forward and back."""
    nodes = [node("Add", "x mask", "m"), node("Softmax", "m", "s"), node("IsNaN", "s", "no"), node("Where", "no zero s", "y")]
    mask = np.array([[-INF] * 3, [0, 0, -INF]])
    found = explained(nodes, np.ones((2, 3)), np.ones((2, 3)), "attnlrp", {"mask": mask, "zero": 0.0})
    assert np.isfinite(found.attribution).all()
    assert not found.attribution[0, 0].any()


def test_product_of_two_activations() -> None:
    a, b, r = np.array([[1, 2], [3, -1]]), np.array([[2, 0], [1, 4]]), np.array([[1, 2], [3, -1]])
    nodes = [node("Split", "x", "a b", axis=2, num_outputs=2), node("MatMul", "a b", "y")]
    both = relevance(nodes, np.concatenate([a, b], 1), r / (a @ b), "attnlrp")
    np.testing.assert_allclose(both, np.concatenate([[[0.25, 1.25], [1.8, -0.8]], [[2.05, 0], [-0.05, 0.5]]], 1), atol=1e-9)
    alone = relevance([node("MatMul", "a x", "y")], b, r / (a @ b), "cp_lrp", {"a": a.astype(float)})
    np.testing.assert_allclose(alone, [[4.1, 0], [-0.1, 1]], atol=1e-9)


NORM_X, NORM_W = (1.0, 2.0, -2.0), (1.0, 0.5, 2.0)
RMS = {
    "operator": [node("RMSNormalization", "x w", "y", epsilon=0.0, axis=-1)],
    "reciprocal": [
        node("Mul", "x x", "q"), node("ReduceMean", "q axis", "m"), node("Sqrt", "m", "s"), node("Reciprocal", "s", "i"),
        node("Mul", "x i", "n"), node("Mul", "n w", "y"),
    ],
    "power": [node("Pow", "x two", "q"), node("ReduceMean", "q axis", "m"), node("Pow", "m minus", "i"), node("Mul", "i x", "n"),
              node("Mul", "w n", "y")],
    "one over": [node("ReduceL2", "x axis", "l"), node("Mul", "l third", "s"), node("Div", "one s", "i"), node("Mul", "x i", "n"),
                 node("Mul", "n w", "y")],
    "quotient": [node("ReduceSumSquare", "x axis", "q"), node("Mul", "q third2", "m"), node("Sqrt", "m", "s"), node("Div", "x s", "n"),
                 node("Mul", "n w", "y")],
}  # fmt: skip
RMS_WEIGHTS = {"w": NORM_W, "two": 2.0, "minus": -0.5, "one": 1.0, "third": 3**-0.5, "third2": 1 / 3, "axis": np.array([1])}


@pytest.mark.parametrize("method", ["cp_lrp", "attnlrp"])
@pytest.mark.parametrize("spelling", RMS)
def test_rms_norm_passes_relevance(spelling: str, method: str) -> None:
    y = np.array([0.577350269, 0.577350269, -2.309401077])
    found = relevance(RMS[spelling], NORM_X, np.array([0.3, 0.5, 0.2]) / y, method, RMS_WEIGHTS, opset=23)
    np.testing.assert_allclose(found, (0.3, 0.5, 0.2), atol=1e-8)


LAYER = {
    "operator": [node("LayerNormalization", "x w b", "y", epsilon=0.0, axis=-1)],
    "written out": [
        node("ReduceMean", "x axis", "mu"), node("Sub", "x mu", "c"), node("Pow", "c two", "q"), node("ReduceMean", "q axis", "v"),
        node("Sqrt", "v", "s"), node("Div", "c s", "n"), node("Mul", "n w", "g"), node("Add", "g b", "y"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("spelling", LAYER)
@pytest.mark.parametrize(
    ("x", "wanted"),
    [(NORM_X, (0.102232851, 0.500685455, 0.705151156)), (np.add(NORM_X, 5), (0.613397104, 1.752399093, -1.057726734))],
)
def test_layer_norm(spelling: str, x: Any, wanted: Sequence[float]) -> None:
    y = np.array([0.492232270, 0.290290338, -2.445625892])
    weights = {"w": NORM_W, "b": (0.1, -0.2, 0.3), "two": 2.0, "axis": np.array([1])}
    found = explained(LAYER[spelling], x, np.array([0.3, 0.5, 0.2]) / y, "cp_lrp", weights)
    np.testing.assert_allclose(found.attribution[0], wanted, atol=1e-8)
    assert booked(found, "biases") == pytest.approx(-0.308069462, abs=1e-7)


SILU = {
    "gate": [node("Sigmoid", "x", "s"), node("Mul", "x s", "y")],
    "quotient": [node("Neg", "x", "n"), node("Exp", "n", "e"), node("Add", "e one", "d"), node("Div", "x d", "y")],
    "operator": [node("Swish", "x", "y", alpha=1.0)],
}
GELU = {
    "operator": [node("Gelu", "x", "y")],
    "half first": [
        node("Mul", "x half", "h"), node("Mul", "x root", "z"), node("Erf", "z", "e"), node("Add", "e one", "g"), node("Mul", "h g", "y"),
    ],
    "half last": [
        node("Div", "x over", "z"), node("Erf", "z", "e"), node("Add", "e one", "g"), node("Mul", "x g", "h"), node("Mul", "h half", "y"),
    ],
}  # fmt: skip
CURVES = {"one": 1.0, "half": 0.5, "root": 0.5**0.5, "over": 2**0.5}


@pytest.mark.parametrize("method", ["cp_lrp", "attnlrp"])
@pytest.mark.parametrize(
    ("nodes", "x", "y"),
    [
        *((n, (1.5, -0.5, 2, 0), (1.226361714, -0.188770334, 1.761594156, 0)) for n in SILU.values()),
        *((n, (1.5, -0.5, 2, 0), np.multiply((1.5, -0.5, 2, 0), (0.933192799, 0.308537539, 0.977249868, 0.5))) for n in GELU.values()),
    ],
)
def test_functions_that_are_0_at_0_pass_relevance(nodes: list[onnx.NodeProto], x: Any, y: Any, method: str) -> None:
    """R_x = R_y: written out or not. The signal at 0, which no product shows, is the slope there."""
    how: dict[str, Any] = {"opset": 24, "dtype": np.float32}  # ONNX Runtime has no Erf and no Gelu for float64
    np.testing.assert_allclose(relevance(nodes, x, (1, 1, 1, 1), method, CURVES, **how), y, atol=3e-7)
    shifted = [node("Sub", "x one", "moved"), *reading("moved", nodes)]
    at_zero = relevance(shifted, (1.0, 1.0, 1.0, 1.0), (1, 1, 1, 1), method, CURVES, **how)
    np.testing.assert_allclose(at_zero, 0.5)


def test_self_gate_without_bounds() -> None:
    """y = x (x^2 + 1): relevance passes unchanged; the 1 is no bias that takes a share."""
    nodes = [node("Mul", "x x", "q"), node("Add", "q one", "h"), node("Mul", "x h", "y")]
    found = explained(nodes, (0.5, -2.0), (1.0, 1.0), "attnlrp", CURVES)
    np.testing.assert_allclose(found.attribution[0], (0.625, -10.0), atol=1e-9)
    assert list(found.parts) == ["input"]


def test_gated_unit() -> None:
    """SiLU(x) * v: equal parts for attnlrp, all to v for cp_lrp."""
    nodes = [node("Split", "x", "g v", axis=1, num_outputs=2), node("Sigmoid", "g", "s"), node("Mul", "g s", "a"), node("Mul", "a v", "y")]
    x, head, r = (1.5, -0.5, 2, 2, 1, -3), (1, -2, 0.5), np.array([2.452723429, 0.377540669, -2.642391234])
    both = relevance(nodes, x, head, "attnlrp")
    np.testing.assert_allclose(both, np.concatenate([r, r]) / 2, atol=1e-9)
    np.testing.assert_allclose(relevance(nodes, x, head, "cp_lrp"), np.concatenate([0 * r, r]), atol=1e-9)


@pytest.mark.parametrize("order", ["ab c", "a bc"])
def test_chain_of_products_is_one_product(order: str) -> None:
    """(a b) c and a (b c) give a third to each factor; a constant between counts for nothing."""
    first, second = (("a", "b"), ("t", "c")) if order == "ab c" else (("b", "c"), ("a", "t"))
    nodes = [
        node("Split", "x", "a b c", axis=1, num_outputs=3),
        node("Mul", " ".join(first), "p"), node("Mul", "p scale", "t"), node("Mul", " ".join(second), "y"),
    ]  # fmt: skip
    found = relevance(nodes, (2.0, 3.0, 5.0), (1.0,), "attnlrp", {"scale": 0.7})
    np.testing.assert_allclose(found, [7.0, 7.0, 7.0])


@pytest.mark.parametrize("method", ["cp_lrp", "attnlrp"])
def test_attention_that_is_multiplied_and_summed(method: str) -> None:
    """Pooling by weights, as a matrix product or as a product and a sum: one map; the weights are no gate."""
    x = np.random.default_rng(0).standard_normal((4, 3))
    weights = {"asks": np.ones((3, 1)) * 0.7, "axis": np.array([1])}
    scores = [node("MatMul", "x asks", "u"), node("Softmax", "u", "s", axis=1)]
    product = [node("Transpose", "s", "row", perm=[0, 2, 1]), node("MatMul", "row x", "y")]
    summed = [node("Mul", "s x", "each"), node("ReduceSum", "each axis", "y", keepdims=1)]
    first, second = (relevance([*scores, *end], x, (1.0, -2.0, 0.5), method, weights) for end in (product, summed))
    np.testing.assert_allclose(second, first, atol=1e-12)
    assert not np.allclose(
        first, relevance([*scores, *product], x, (1.0, -2.0, 0.5), "attnlrp" if method == "cp_lrp" else "cp_lrp", weights)
    )


# ----- every operator -----


@pytest.mark.parametrize("rule", ["ratio", "uniform", "held", "magnitudes"])
def test_what_a_node_sends_and_what_it_keeps_is_all_that_came(rule: str) -> None:
    """<g, y> = sum_i <g_i, x_i> + <g, r>, of every case of every operator that the rule takes, with random signals.

    Recurrent layers with constant gates, whose weights get nothing, are in tests/test_relevance_recurrent.py.
    """
    tried, worst = 0, {}
    for spec in REGISTRY.values():
        for number, one in enumerate(spec.cases if RULES[rule].takes(spec.family) and spec.family != "recurrent" else ()):
            model, feed, wrt = one_node_model(spec, one)
            wrt = [name for name in wrt if int(name[1:]) not in spec.stops]
            y = run_oracle(model, feed)["y0"]
            g = np.random.default_rng(number).standard_normal(y.shape)
            got = run_oracle(with_rule(model, rule, wrt, kept=True), feed | {"R": g}) if wrt else None
            if got is not None:
                sent = sum(float((got[f"R/{name}"] * feed[name]).sum()) for name in wrt)
                worst[f"{spec.op_type} {number}"] = abs((g * y).sum() - sent - float(got["kept"])) / np.abs(g * y).sum()
                tried += 1
    assert tried > {"ratio": 60, "uniform": 80, "held": 25, "magnitudes": 10}[rule]
    assert {name: error for name, error in worst.items() if not error < 1e-7} == {}  # attributes are float32


# ----- what is reached, and what is refused -----


def test_what_lies_behind_a_cut_is_not_refused() -> None:
    """A refused softmax in the way of a gate only; where it is in the way of all, the method says so."""
    gate = [node("Softmax", "x", "s"), node("MatMul", "s square", "z"), node("Sigmoid", "z", "g"), node("Mul", "x g", "y")]
    weights = {"head": np.ones((3, 2), np.float32), "square": np.ones((3, 3), np.float32)}
    model = make([*gate, node("MatMul", "y head", "scores")], {"x": ["N", 3]}, {"scores": ["N", 2]}, weights)
    made = plan(model, "cp_lrp")
    assert [s.node.op_type for s in made.steps] == ["Mul", "MatMul"]
    assert [why for n, why in made.stops if n.op_type == "Mul"] == ["method 'cp_lrp' holds it constant: gate"]


def test_a_score_that_hangs_on_constants_alone_is_an_error(tmp_path: Path) -> None:
    """If every path is cut there is no relevance, and no map of zeros either."""
    nodes = [node("Softmax", "x", "s"), node("MatMul", "s values", "v"), node("MatMul", "v head", "scores")]
    weights = {"values": np.ones((3, 3), np.float32), "head": np.ones((3, 2), np.float32)}
    model = make(nodes, {"x": ["N", 3]}, {"scores": ["N", 2]}, weights)
    with pytest.raises(PlanError, match="weights no values"):
        plan(model, "cp_lrp")
    table = tmp_path / "held.toml"
    table.write_text('name = "held"\nextends = "cp_lrp"\n[[constant]]\nop = "Softmax"\nwhy = "a choice"\n', encoding="utf-8")
    with pytest.raises(PlanError, match=r"no differentiable path(.|\n)*Softmax(.|\n)*a choice"):
        plan(model, str(table))


# ----- a twin in PyTorch -----

SPELLINGS = [
    *((name, *how) for name in ("bert", "decoder", "vit") for how in (("legacy", 14), ("legacy", 17), ("runtime", 18))),
    *((name, "dynamo", opset) for name in ("bert", "decoder", "vit") for opset in (18, 23)),
    *((name, *how) for name in ("convnext", "excite") for how in (("legacy", 14), ("legacy", 17), ("runtime", 18), ("dynamo", 18))),
]
"""(network, exporter or who saved it, opset); "runtime" is what ONNX Runtime saves after fusing nodes."""
HOW = {"cp_lrp": "cp", "attnlrp": "attn"}


@cache
def exported(name: str, exporter: str, opset: int, folder: Path | None = None) -> onnx.ModelProto:
    made, given = nets.net(name), nets.feeds(name)
    if exporter == "runtime":
        assert folder is not None
        return saved(nets.export(made, given, "legacy", opset), folder)
    return nets.export(made, given, exporter, opset)


@cache
def twin(name: str, method: str) -> tuple[torch.Tensor, torch.Tensor]:
    return nets.twin(nets.net(name), nets.feeds(name), HOW[method])


def run(model: onnx.ModelProto, name: str, method: str) -> Explanation:
    given = [t.numpy() for t in nets.feeds(name)]
    feed: Any = given[0] if len(given) == 1 else dict(zip(("x", "mask"), given, strict=True))
    return Explainer(model, method, input="x", components=True).explain(feed, 1)


@pytest.mark.parametrize(("name", "exporter", "opset"), SPELLINGS)
def test_networks_equal_their_twins(name: str, exporter: str, opset: int, tmp_path: Path) -> None:
    """One network, five spellings, one map; the score is conserved; padding gets exactly nothing, also where a row is all padding."""
    model = exported(name, exporter, opset, tmp_path if exporter == "runtime" else None)
    for method in HOW:
        wanted, score = twin(name, method)
        found = run(model, name, method)
        scale = np.maximum(np.abs(score.numpy()), np.abs(wanted.numpy()).reshape(len(score), -1).sum(1))
        np.testing.assert_allclose(found.score, score.numpy(), atol=1e-5)
        np.testing.assert_allclose(found.attribution, wanted.numpy(), atol=1e-5 * np.abs(wanted.numpy()).max())
        assert found.residual is not None
        assert (found.residual * np.abs(found.score) / scale).max() < 1e-5
        if name == "bert":
            assert not found.attribution[1, 4:].any()
            assert not found.attribution[2].any()


def test_padding_has_no_influence() -> None:
    """What stands at padded positions changes nothing anywhere."""
    model = exported("bert", "dynamo", 18, None)
    x, mask = (t.numpy() for t in nets.feeds("bert"))
    changed = x.copy()
    changed[1, 4:] = 9.0
    explainer = Explainer(model, "attnlrp", input="x")
    first, second = (explainer.explain({"x": v, "mask": mask}, 1).attribution for v in (x, changed))
    np.testing.assert_allclose(second[:2], first[:2], atol=1e-6)


def test_parts_of_a_vision_transformer() -> None:
    """The class token and positions are constants, the attention of attnlrp has a share of its own, and all of it is the score."""
    model = exported("vit", "dynamo", 18, None)
    found = run(model, "vit", "attnlrp")
    np.testing.assert_allclose(np.sum([*found.parts.values()], 0), found.score, rtol=1e-5)
    assert abs(found.parts["class token"]).min() > 0.01
    assert abs(found.parts["position"]).min() > 0.01
    assert abs(found.parts["softmax"]).min() > 0.01
    cuts = [v for k, v in found.components.items() if k.startswith("relevance/")]
    assert len(cuts) > 3
    for cut in cuts:
        np.testing.assert_allclose(cut.sum(1), found.score, rtol=1e-4)


def test_additions_by_size() -> None:
    """``add = "ratio"`` is another map under the same law."""
    model, x = exported("vit", "legacy", 17, None), nets.feeds("vit")[0].numpy()
    signed, ratio = (Explainer(model, "cp_lrp", input="x", add=how).explain(x, 1) for how in ("signed", "ratio"))
    assert not np.allclose(signed.attribution, ratio.attribution, atol=0.01)
    assert ratio.residual is not None
    assert ratio.residual.max() < 1e-5


def test_libra_fullgrad_is_fullgrad_on_the_same_pass() -> None:
    model = exported("convnext", "legacy", 17, None)
    libra, plain = run(model, "convnext", "libra_fullgrad"), run(model, "convnext", "cp_lrp")
    np.testing.assert_array_equal(libra.attribution, plain.attribution)
    assert libra.residual is not None
    assert libra.residual.max() < 1e-5
    assert libra.saliency_map is not None
    assert libra.saliency_map.shape == (3, 16, 16)


def test_attnlrp_equals_lxt() -> None:
    """The authors' package ("efficient": the same form, in PyTorch) on the library's BERT, where both are installed."""
    bert = pytest.importorskip("transformers.models.bert.modeling_bert", reason="needs transformers==4.52.3", exc_type=ImportError)
    lxt = pytest.importorskip("lxt.efficient", reason="needs lxt==2.1 and torchvision", exc_type=ImportError)
    from transformers import BertConfig

    sizes = {"vocab_size": 60, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    config = BertConfig(**sizes, attn_implementation="eager")
    torch.manual_seed(0)
    head, x, mask = torch.randn(24, 3), torch.randn(2, 7, 24), torch.ones(2, 7, dtype=torch.bool)
    mask[1, 5:] = False

    class Classifier(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = bert.BertModel(config)

        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return self.inner(inputs_embeds=x, attention_mask=mask).last_hidden_state[:, 0] @ head

    plain = Classifier().eval()
    model = nets.export(plain, (x, mask), "legacy", 17)
    found = Explainer(model, "attnlrp", input="x").explain({"x": x.numpy(), "mask": mask.numpy()}, 1)
    lxt.monkey_patch(bert)
    try:
        patched, given = Classifier().eval(), x.clone().requires_grad_()
        patched.load_state_dict(plain.state_dict())
        (g,) = torch.autograd.grad(patched(given, mask)[:, 1].sum(), given)
    finally:
        importlib.reload(bert)
    wanted = (given * g).detach().numpy()
    np.testing.assert_allclose(found.attribution, wanted, atol=1e-5 * np.abs(wanted).max())
