"""Shapley values and feature ablation against brute force: every coalition, every order and every group, one run of the model each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import permutations
from math import factorial
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

import onnxsal
from onnxsal.errors import MethodError, TargetError
from onnxsal.explanation import Explanation
from onnxsal.runtime.session import open_session
from tests.small_models import cnn, cnn_nhwc, double, draw, make, node, tokens, two_inputs, unbatched
from tests.test_perturb import PRIME, close, mixed
from tests.token_nets import IDS, summed
from tests.torch_nets import export, images, net
from tests.trees import forest, function_of

Function = Callable[[np.ndarray], np.ndarray]


def explain(model: onnx.ModelProto, x: Any, target: Any = 1, method: str = "shapley_sampling", **settings: Any) -> Explanation:
    return onnxsal.Explainer(model, method, components=True, **settings).explain(x, target)


def values_of(run: Function, x: np.ndarray, background: np.ndarray, groups: np.ndarray) -> tuple[np.ndarray, float, float]:
    """(Shapley value of each group, v(all), v(nothing)) of one sample: v(S) for all coalitions S, then the mean over all orders."""
    count = int(groups.max()) + 1
    groups = np.broadcast_to(groups, x.shape)
    present = [(k >> groups) & 1 == 1 for k in range(2**count)]
    mixed_ = np.stack([np.where(p, x, row) for p in present for row in background])
    worth = run(mixed_).reshape(2**count, len(background)).mean(1, dtype=np.float64)
    found = np.zeros(count)
    for k in range(2**count):
        for g in (g for g in range(count) if not k >> g & 1):
            size = k.bit_count()
            found[g] += factorial(size) * factorial(count - size - 1) / factorial(count) * (worth[k | 1 << g] - worth[k])
    return found, worth[-1], worth[0]


def by_class(run: Function, target: int) -> Function:
    return lambda x: run(x)[:, target]


# ----- exact -----


def test_the_twin_agrees_with_the_definition_by_orders() -> None:
    run, x, row = by_class(function_of(forest(4)), 0), draw(4, seed=1), draw(1, 4, seed=2)
    total = np.zeros(4)
    for order in permutations(range(4)):
        now = row[0].copy()
        for g in order:
            before, now = now, np.where(np.arange(4) == g, x, now)
            total[g] += run(now[None])[0] - run(before[None])[0]
    close(values_of(run, x, row, np.arange(4))[0], total / 24, 1e-5)


@pytest.mark.parametrize("classes", [False, True], ids=["regressor", "classifier"])
@pytest.mark.parametrize("chunk", [1, 7, 500])
def test_exact_values_of_trees_with_a_background(classes: bool, chunk: int) -> None:
    model, x, background = forest(6, classes=classes), draw(3, 6, seed=1), draw(4, 6, seed=2)
    run, target = function_of(model), np.asarray([2, 0, 1])
    found = explain(model, x, target, background=background, chunk=chunk)
    for i in range(3):
        wanted, whole, empty = values_of(by_class(run, target[i]), x[i], background, np.arange(6))
        close(found.attribution[i], wanted, 1e-5)
        close(found.components["shapley_sampling/values"][i], wanted, 1e-5)
        np.testing.assert_allclose(found.attribution[i].sum(), whole - empty, atol=1e-5)
        np.testing.assert_allclose(found.score[i], whole, atol=1e-6)
    assert found.residual is not None
    assert found.residual.max() < 1e-5
    assert not np.any(found.standard_error)
    assert found.standard_error is not None
    assert found.standard_error.shape == x.shape
    assert found.parameters["exact"] is True
    assert not found.warnings


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ([[1, 2, 4]], [1, 0, 0, 2, 0]),
        ([[0, 3], [1, 2, 4]], [0, 1, 1, 0, 1]),
        (np.asarray([5, 5, 0, 9, 0]), [1, 1, 0, 2, 0]),
        ([0, 1, 1, 0, 2], [0, 1, 1, 0, 2]),
    ],
    ids=["one_list", "lists", "array", "numbers"],
)
def test_columns_that_move_together(given: Any, numbers: list[int]) -> None:
    """The value of a group is shared among its columns, so that all of them sum to what the score gained."""
    model, x, background, groups = forest(5), draw(2, 5, seed=1), draw(3, 5, seed=2), np.asarray(numbers)
    found, lost = explain(model, x, background=background, groups=given), explain(model, x, method="feature_ablation", groups=given)
    run = by_class(function_of(model), 1)
    for i in range(2):
        wanted = values_of(run, x[i], background, groups)[0]
        close(found.components["shapley_sampling/values"][i], wanted, 1e-5)
        close(found.attribution[i], (wanted / np.bincount(groups))[groups], 1e-5)
        close(
            lost.attribution[i],
            (run(x[i : i + 1]) - run(np.where(groups == np.arange(3)[:, None], 0, x[i])[: groups.max() + 1]))[groups],
            1e-5,
        )


def test_closed_form_of_linear_models() -> None:
    """w (x - mean of the background), by all coalitions and, as each row is met equally often, by a few random orders too."""
    model = double(make([node("MatMul", "x w", "y")], {"x": ["N", 4]}, {"y": ["N", 3]}, {"w": draw(4, 3)}))
    x, background = draw(2, 4, seed=1, dtype=np.float64), draw(5, 4, seed=2, dtype=np.float64)
    wanted = draw(4, 3).astype(np.float64)[:, 1] * (x - background.mean(0))
    for settings in ({}, {"exact": False, "n_samples": 7}):
        found = explain(model, x, background=background, **settings)
        assert found.attribution.dtype == np.float64
        close(found.attribution, wanted, 1e-12)
        assert found.residual.max() < 1e-6
    assert found.parameters["n_samples"] == 10
    close(explain(model, x, baseline=0.5).attribution, draw(4, 3).astype(np.float64)[:, 1] * (x - 0.5), 1e-12)
    close(explain(model, x, method="feature_ablation", baseline=0.5).attribution, draw(4, 3).astype(np.float64)[:, 1] * (x - 0.5), 1e-12)


# ----- sampled -----


def orders(count: int, groups: int, seed: int) -> list[np.ndarray]:
    """The orders that the graph draws: groups by falling hash, the larger number first of two alike."""
    a, b, c, d = 1_407_677_000, 950_706_376, 742_938_285, 1_226_874_159
    found = []
    for number in range(count):
        s = np.array([((number + 1) * 69_621 + seed * 630_360_016) % PRIME], np.int64)
        s = mixed(mixed(mixed(mixed(s, a, d) + np.arange(groups), b, a), c, b), d, c)
        found.append(np.argsort(-(s * 2**31 + np.arange(groups)), kind="stable"))
    return found


@pytest.mark.parametrize(("chunk", "seed"), [(1, 0), (5, 3), (100, 0)])
def test_sampled_values_and_their_errors(chunk: int, seed: int) -> None:
    model, x, background = forest(5), draw(2, 5, seed=1), draw(3, 5, seed=2)
    found = explain(model, x, 2, background=background, exact=False, n_samples=10, chunk=chunk, seed=seed)
    run = by_class(function_of(model), 2)
    for i in range(2):
        added = np.zeros((12, 5))
        for number, order in enumerate(orders(12, 5, seed)):
            row = background[number % 3]
            steps = [np.where(np.isin(np.arange(5), order[:n]), x[i], row) for n in range(6)]
            added[number, order] = np.diff(run(np.stack(steps)).astype(np.float64))
        close(found.attribution[i], added.mean(0), 1e-5)
        close(found.standard_error[i], added.std(0, ddof=1) / np.sqrt(12), 1e-4)
        np.testing.assert_allclose(found.attribution[i].sum(), run(x[i : i + 1])[0] - run(background).mean(), atol=1e-5)
    assert found.residual.max() < 1e-5


def test_estimates_lie_within_their_errors_of_the_exact_values() -> None:
    model, x, background = forest(7), draw(4, 7, seed=1), draw(2, 7, seed=2)
    exact = explain(model, x, background=background).attribution
    few, many, other = (explain(model, x, background=background, exact=False, n_samples=n, seed=s) for n, s in ((60, 0), (600, 0), (60, 5)))
    for found in (few, many, other):
        assert (np.abs(found.attribution - exact) <= 4 * found.standard_error + 1e-6).all()
        assert found.residual.max() < 1e-4
    again = explain(model, x, background=background, exact=False, n_samples=60)
    np.testing.assert_array_equal(again.attribution, few.attribution)
    assert np.abs(other.attribution - few.attribution).max() > 1e-3
    assert np.sqrt(np.mean(many.standard_error**2) / np.mean(few.standard_error**2)) == pytest.approx(10**-0.5, rel=0.25)


# ----- other inputs -----


@pytest.mark.parametrize("method", ["shapley_sampling", "feature_ablation"])
def test_ids_are_replaced_by_the_id_that_is_named(method: str) -> None:
    """Of texts of any length; the types of tokens, which are fed too, stay as they are."""
    model, types = summed("words", "types"), np.asarray([[0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]])
    made = onnxsal.Explainer(model, method, value=3, groups=np.arange(6))
    assert made.conversion.question.x.name == "ids"
    found = made.explain({"ids": IDS, "type_ids": types}, 1)
    assert found.attribution.dtype == np.float32
    for i in range(2):
        run = by_class(function_of(model, "y", type_ids=types[i : i + 1]), 1)
        one_by_one = lambda x, run=run: np.concatenate([run(row[None]) for row in x])  # noqa: E731
        if method == "shapley_sampling":
            wanted = values_of(one_by_one, IDS[i], np.full((1, 6), 3), np.arange(6))[0]
        else:
            wanted = run(IDS[i : i + 1]) - one_by_one(np.where(np.eye(6, dtype=bool), 3, IDS[i]))
        close(found.attribution[i], wanted, 1e-4)


def test_vectors_of_tokens_move_together() -> None:
    """A token's value is shared among its numbers, or told to each of them; the number of tokens is known only at run time."""
    model = summed("words")
    x, table = IDS[:, :4], draw(40, 8, seed=1)
    shares = explain(model, x, input="words", exact=False, n_samples=9)
    lost = explain(model, x, method="feature_ablation", input="words")
    tail = make(
        [node("MatMul", "v w1", "h"), node("Tanh", "h", "t"), node("ReduceMean", "t a", "m", keepdims=0), node("MatMul", "m w2", "y")],
        {"v": ["N", 4, 8]},
        {"y": ["N", 3]},
        {"w1": draw(8, 8, seed=6), "w2": draw(8, 3, seed=7), "a": np.asarray([1])},
    )
    run = by_class(function_of(tail), 1)
    for i in range(2):
        vectors, groups = table[x[i]], np.arange(4)[:, None]
        wanted = values_of(run, vectors, np.zeros((1, 4, 8)), groups)[0]
        close(shares.token_attribution[i], wanted, 1e-5)  # the mean over tokens is additive, so any order tells the same
        close(shares.attribution[i], np.repeat(wanted[:, None] / 8, 8, 1), 1e-5)
        drops = run(vectors[None]) - run(np.where(groups[None] == np.arange(4)[:, None, None], 0, vectors))
        close(lost.attribution[i], np.repeat(drops[:, None], 8, 1), 1e-5)


@pytest.mark.parametrize("size", [8, "S"])
@pytest.mark.parametrize("load", [cnn, cnn_nhwc])
def test_cells_of_pictures(load: Callable[..., onnx.ModelProto], size: Any) -> None:
    """A grid of 2 by 3 cells over 8 by 8 pixels, known or not; the map of a cell is its value, shared among its pixels."""
    last = load is cnn_nhwc
    if last and size == "S":
        pytest.skip("this model has a fixed size")
    model = load() if last else cnn(size=size)
    x = draw(2, 8, 8, 3, seed=1) if last else draw(2, 3, 8, 8, seed=1)
    groups = (np.arange(8) * 2 // 8)[:, None] * 3 + np.arange(8) * 3 // 8
    laid = groups[..., None] if last else groups[None]
    found, lost = explain(model, x, grid=[2, 3]), explain(model, x, method="feature_ablation", grid="2x3")
    run = by_class(function_of(model), 1)
    logits = onnxsal.Explainer(model, "gradient").explain(x, 1).score
    cut = by_class(function_of(_without_softmax(model), "logits"), 1)
    for i in range(2):
        wanted = values_of(cut, x[i], np.zeros_like(x[:1]), laid)[0]
        close(found.components["shapley_sampling/values"][i], wanted, 1e-4)
        close(found.saliency_map[i], (wanted / np.bincount(groups.reshape(-1)))[groups], 1e-4)
        close(found.attribution[i].sum(-1 if last else 0), found.saliency_map[i], 1e-4)
        hidden = np.stack([np.where(laid == g, 0, x[i]) for g in range(6)])
        drops = logits[i] - cut(hidden)
        close(lost.saliency_map[i], drops[groups], 1e-4)
        close(lost.attribution[i][(..., 0) if last else 0], drops[groups], 1e-4)
    assert run(x).shape == (2,)


def _without_softmax(model: onnx.ModelProto) -> onnx.ModelProto:
    cut = onnx.ModelProto.FromString(model.SerializeToString())
    cut.graph.output[0].name = "logits"
    del cut.graph.node[-1]
    return cut


def test_places_of_any_number_of_axes() -> None:
    """Each element of a sample with four axes; groups of its last axis, and an array that broadcasts to it."""
    model = make(
        [node("Flatten", "x", "f"), node("MatMul", "f w", "h"), node("Tanh", "h", "y")],
        {"x": ["N", 2, 2, 1, 2]},
        {"y": ["N", 2]},
        {"w": draw(8, 2)},
    )
    x, run = draw(2, 2, 2, 1, 2, seed=1), by_class(function_of(model), 1)
    every = np.arange(8).reshape(2, 2, 1, 2)
    cases = ((every, ""), (np.asarray([0, 1]), ""), (every[..., :1] // 4, every[..., :1] // 4), (np.asarray([0, 0]), [[0, 1]]))
    for groups, given in cases:
        chosen = given if not isinstance(given, str) or groups is every else [0, 1]
        found, lost = (explain(model, x, method=method, groups=chosen) for method in ("shapley_sampling", "feature_ablation"))
        laid = np.broadcast_to(groups, x.shape[1:])
        sizes = np.bincount(laid.reshape(-1))
        for i in range(2):
            close(found.attribution[i], (values_of(run, x[i], np.zeros_like(x[:1]), laid)[0] / sizes)[laid], 1e-5)
            hidden = np.stack([np.where(laid == g, 0, x[i]) for g in range(len(sizes))])
            close(lost.attribution[i], (run(x[i : i + 1]) - run(hidden))[laid], 1e-5)


def test_one_sample_fixed_batches_and_half_precision() -> None:
    x = draw(7, 4, seed=3)
    run = function_of(unbatched())
    found = explain(unbatched(), x, 2, groups=[[0, 1], [3]])
    worth = values_of(lambda many: np.stack([run(one)[2] for one in many]), x, np.zeros((1, 7, 4)), np.asarray([0, 0, 2, 1]))[0]
    close(found.components["shapley_sampling/values"][0], worth, 1e-5)
    assert found.attribution.shape == x.shape
    pictures = draw(3, 3, 8, 8, seed=1)
    for method in ("shapley_sampling", "feature_ablation"):
        wanted = explain(cnn(), pictures, method=method, grid=2).attribution
        close(explain(cnn(1), pictures, method=method, grid=2).attribution, wanted, 1e-5)
        half = explain(cnn(dtype=np.float16), pictures.astype(np.float16), method=method, grid=2)
        assert half.attribution.dtype == np.float32
        close(half.attribution, wanted, 2e-2)


def test_one_of_several_inputs() -> None:
    model, feed = two_inputs(), {"a": draw(2, 4, seed=1), "b": draw(2, 3, seed=2)}
    found = explain(model, feed, input="a", output="y")
    for i in range(2):
        run = by_class(function_of(model, "y", b=feed["b"][i : i + 1]), 1)
        one_by_one = lambda many, run=run: np.concatenate([run(one[None]) for one in many])  # noqa: E731
        close(found.attribution[i], values_of(one_by_one, feed["a"][i], np.zeros((1, 4)), np.arange(4))[0], 1e-4)


def ids_and_numbers() -> onnx.ModelProto:
    """Ids of words [N, L] and columns [N, 3], multiplied."""
    nodes = [
        node("Gather", "table ids", "v"),
        node("ReduceMean", "v a", "m", keepdims=0),
        node("MatMul", "numbers w", "n"),
        node("Tanh", "n", "t"),
        node("Mul", "m t", "p"),
        node("MatMul", "p u", "y"),
    ]
    weights = {"table": draw(9, 4), "w": draw(3, 4, seed=1), "u": draw(4, 2, seed=2), "a": np.asarray([1])}
    return make(nodes, {"ids": ["N", "L"], "numbers": ["N", 3]}, {"y": ["N", 2]}, weights, types={"ids": 7})


def joint(model: onnx.ModelProto, names: Sequence[str], widths: Sequence[int], target: int) -> Function:
    """The model of several inputs as a function of their columns side by side."""
    session = open_session(model)
    kinds = {t.name: t.dtype for t in session.inputs}
    ends = np.cumsum(widths)[:-1]
    return lambda x: session.run({n: part.astype(kinds[n]) for n, part in zip(names, np.split(x, ends, 1), strict=True)}, ["y"])["y"][
        :, target
    ]


@pytest.mark.parametrize("sampled", [False, True], ids=["exact", "sampled"])
@pytest.mark.parametrize("chunk", [1, 6])
def test_features_of_several_inputs_are_one_set(sampled: bool, chunk: int) -> None:
    """Ids and columns: seven features by default, or groups across both; what is replaced is named for each input."""
    model, ids, numbers = ids_and_numbers(), np.asarray([[1, 5, 7, 2], [8, 0, 3, 3]]), draw(2, 3, seed=3)
    run, both = joint(model, ("ids", "numbers"), (4, 3), 1), np.concatenate([ids, numbers], 1)
    rows = {"ids": np.asarray([[6, 6, 6, 6], [4, 1, 4, 1]]), "numbers": draw(2, 3, seed=4)}
    background = np.concatenate(list(rows.values()), 1)
    more = {"exact": False, "n_samples": 400} if sampled else {"exact": True}
    cases: list[tuple[Any, Any, Any]] = [({}, np.arange(7), background)]
    cases += [({"groups": {"ids": [0, 0, 1, 1], "numbers": np.asarray([1, 2, 0])}}, np.asarray([0, 0, 1, 1, 1, 2, 0]), background)]
    cases += [({"groups": {"numbers": [5, 5, 9]}}, np.asarray([2, 3, 4, 5, 0, 0, 1]), background)]
    for given, groups, some in cases:
        if not given and not sampled:
            given = {"groups": {"ids": [0, 1, 2, 3], "numbers": [4, 5, 6]}}  # how many ids there are only the run tells
        if list(given.get("groups", {})) == ["numbers"] and not sampled:
            continue
        settings = {"input": "ids", "with_inputs": "numbers", "background": rows, "chunk": chunk, **more, **given}
        found = explain(model, {"ids": ids, "numbers": numbers}, **settings)
        told = np.concatenate([found.attribution, found.components["attribution/numbers"]], 1)
        assert found.residual.max() < 1e-4
        for i in range(2):
            wanted = (values_of(run, both[i], some, groups)[0] / np.bincount(groups))[groups]
            if not sampled:
                close(told[i], wanted, 1e-4)
                continue
            error = np.concatenate([found.standard_error, found.components["standard_error/numbers"]], 1)[i]
            assert (np.abs(told[i] - wanted) <= 4 * error + 1e-6).all()


def test_ablation_of_several_inputs() -> None:
    model, ids, numbers = ids_and_numbers(), np.asarray([[1, 5, 7, 2], [8, 0, 3, 3]]), draw(2, 3, seed=3)
    run, both = joint(model, ("numbers", "ids"), (3, 4), 0), np.concatenate([numbers, ids], 1)
    settings = {"method": "feature_ablation", "input": "numbers", "with_inputs": ["ids"], "baseline": {"ids": 4, "numbers": 0.5}}
    found = explain(model, {"ids": ids, "numbers": numbers}, 0, **settings)
    told = np.concatenate([found.attribution, found.components["attribution/ids"]], 1)
    other = np.asarray([0.5] * 3 + [4] * 4)
    for i in range(2):
        hidden = np.where(np.eye(7, dtype=bool), other, both[i])
        close(told[i], run(both[i : i + 1]) - run(hidden), 1e-4)
    again = onnxsal.Explainer(onnxsal.convert(model, "feature_ablation", **{k: v for k, v in settings.items() if k != "method"}))
    close(again.explain({"ids": ids, "numbers": numbers}, 0).components["attribution/ids"], found.components["attribution/ids"], 1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"with_inputs": ["other"]}, "no input of the model"),
        ({"with_inputs": ["b", "b"]}, "explained already"),
        ({"with_inputs": ["a"]}, "explained already"),
        ({"with_inputs": ["w1"]}, "no input of the model"),
        ({"with_inputs": ["b"], "groups": {"c": [0]}}, "names the input 'c'"),
        ({"groups": {"a": [0]}}, "with_inputs is empty"),
        ({"with_inputs": ["b"], "groups": {"b": "x"}}, "broadcasts to a sample"),
        ({"with_inputs": ["b"], "background": {"a": draw(2, 4), "b": draw(3, 3)}}, "different number of rows"),
        ({"with_inputs": ["b"], "background": {"a": draw(2, 4)}}, "different number of rows"),
        ({"with_inputs": ["b"], "background": draw(2, 4)}, "no array of samples"),
    ],
)
def test_several_inputs_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises((MethodError, TargetError), match=words):
        onnxsal.convert(two_inputs(), "shapley_sampling", input="a", output="y", **settings)


WITHOUT = {
    "TopK": ([node("TopK", "x k", "t i"), node("MatMul", "t w", "y")], {"k": np.asarray([3]), "w": draw(3, 2)}),
    "NonZero": (
        [
            node("Greater", "x zero", "g"),
            node("NonZero", "g", "n"),
            node("Cast", "g", "f", to=1),
            node("Shape", "n", "s"),
            node("MatMul", "f w", "y"),
        ],
        {"zero": np.float32(0), "w": draw(5, 2)},
    ),
    "Round": ([node("Round", "x", "r"), node("MatMul", "r w", "y")], {"w": draw(5, 2)}),
    "ArgMax": ([node("ArgMax", "x", "a", axis=1, keepdims=1), node("Cast", "a", "y", to=1)], {}),
    "Scan": (
        [
            node(
                "Scan",
                "zero x",
                "e y",
                num_scan_inputs=1,
                scan_input_axes=[1],
                scan_output_axes=[1],
                body=onnx.helper.make_graph(
                    [node("Add", "a b", "s"), node("Floor", "s", "c"), node("Identity", "c", "d")],
                    "step",
                    [onnx.helper.make_tensor_value_info(n, 1, ["N"]) for n in "ab"],
                    [onnx.helper.make_tensor_value_info(n, 1, ["N"]) for n in "cd"],
                ),
            )
        ],
        {"zero": np.zeros(2, np.float32)},
    ),
}


@pytest.mark.parametrize("case", WITHOUT)
def test_operators_that_have_no_derivative(case: str) -> None:
    """Whatever ONNX Runtime runs: each of the four methods, held against one run for each column."""
    nodes, weights = WITHOUT[case]
    outputs = {"ArgMax": 1, "Scan": 5}.get(case, 2)
    batch = 2 if case == "Scan" else "N"
    model, x = make(list(nodes), {"x": [batch, 5]}, {"y": [batch, outputs]}, weights), draw(2, 5, seed=4, scale=3)
    run = function_of(model)
    for method in ("occlusion", "feature_ablation", "shapley_sampling", "rise"):
        found = explain(model, x, 0, method=method, score="raw")
        assert found.attribution.shape == x.shape
        for column in range(5) if method in ("occlusion", "feature_ablation") else ():
            hidden = np.where(np.arange(5) == column, 0, x).astype(np.float32)
            np.testing.assert_allclose(found.attribution[:, column], run(x)[:, 0] - run(hidden)[:, 0], atol=1e-5)


# ----- the file, and what is refused -----


def test_a_background_can_be_fed_where_inputs_are_optional() -> None:
    model, x, first, other = forest(4), draw(2, 4, seed=1), draw(2, 4, seed=2), draw(5, 4, seed=3)
    for settings in ({}, {"exact": False, "n_samples": 4}):
        explainer = onnxsal.Explainer(model, "shapley_sampling", background=first, **settings)
        wanted = onnxsal.Explainer(model, "shapley_sampling", background=other, **settings).explain(x, 0)
        close(explainer.explain(x, 0, background=other).attribution, wanted.attribution, 1e-5)
        assert np.abs(explainer.explain(x, 0).attribution - wanted.attribution).max() > 1e-3
    built_in = onnxsal.convert(model, "shapley_sampling", background=first, target=0)
    session = ort.InferenceSession(built_in.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == ["x"]
    assert not session.get_overridable_initializers()
    names = [o.name for o in session.get_outputs()]
    assert {"attribution", "residual", "standard_error"} <= set(names)
    found = dict(zip(names, session.run(None, {"x": x}), strict=True))
    close(found["attribution"], onnxsal.Explainer(model, "shapley_sampling", background=first).explain(x, 0).attribution, 1e-6)


@pytest.mark.parametrize(
    ("model", "settings", "words"),
    [
        (forest(30), {"exact": True}, "30 groups have 1,073,741,824 coalitions"),
        (summed("words"), {"exact": True, "value": 0}, "known only at run time"),
        (forest(5), {"baseline": 1.0, "background": draw(2, 5)}, "give one of them"),
        (forest(5), {"background": draw(2, 4)}, "no array of samples"),
        (forest(5), {"background": draw(5)}, "no array of samples"),
        (forest(5), {"background": "rows"}, "no array of samples"),
        (forest(5), {"background": np.full((1, 5), np.nan)}, "cannot hold"),
        (summed("words"), {"background": np.full((2, 6), 0.5)}, "cannot hold"),
        (summed("words"), {}, "does not guess which of them"),
        (summed("words"), {"baseline": 0.5}, "is none itself"),
        (forest(5), {"groups": [[0, 1], [1, 2]]}, "each once"),
        (forest(5), {"groups": [[0, 5]]}, "columns 0 to 4"),
        (forest(5), {"groups": np.arange(4)}, "broadcasts to a sample"),
        (forest(5), {"groups": np.asarray([0, 1, -1, 2, 3])}, "whole numbers from 0"),
        (forest(5), {"groups": "a"}, "broadcasts to a sample"),
        (forest(5), {"n_samples": 1}, "2 or more"),
        (cnn(), {"grid": [2, 2, 2]}, "no number of cells"),
        (cnn(), {"grid": 0}, "no number of cells"),
    ],
    ids=lambda v: str(v)[:30] if isinstance(v, str) else "",
)
def test_what_cannot_be(model: onnx.ModelProto, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(MethodError, match=words):
        onnxsal.convert(model, "shapley_sampling", **settings)


def test_which_integers_are_explained_is_asked_where_none_stands_out() -> None:
    model = make(
        [node("Add", "a b", "s"), node("Cast", "s", "y", to=1)], {"a": ["N", 3], "b": ["N", 3]}, {"y": ["N", 3]}, types={"a": 7, "b": 7}
    )
    with pytest.raises(TargetError, match="none of the model's inputs"):
        onnxsal.convert(model, "feature_ablation", value=0)
    feed = {"a": np.asarray([[1, 2, 3]]), "b": np.asarray([[4, 5, 6]])}
    np.testing.assert_array_equal(explain(model, feed, 1, method="feature_ablation", input="b", value=1).attribution, [[0, 4, 0]])
    with pytest.raises(TargetError, match="no gradient"):
        onnxsal.convert(model, "gradient", input="b")


@pytest.mark.parametrize("kind", [2, 3, 4, 5, 6, 7, 9], ids=["uint8", "int8", "uint16", "int16", "int32", "int64", "bool"])
@pytest.mark.parametrize("method", ["occlusion", "feature_ablation", "shapley_sampling", "rise"])
def test_every_type_of_integer(kind: int, method: str) -> None:
    model = make(
        [node("Cast", "x", "f", to=1), node("MatMul", "f w", "y")], {"x": ["N", 4]}, {"y": ["N", 2]}, {"w": draw(4, 2)}, types={"x": kind}
    )
    x = (np.asarray([[1, 0, 5, 3], [2, 7, 1, 1]])).astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
    found = explain(model, x, 1, method=method, **({} if kind == 9 else {"value": 0}), score="raw")
    if method != "rise":
        close(found.attribution, x.astype(np.float32) * draw(4, 2)[:, 1], 1e-5)
    assert found.attribution.any()


def test_the_plan_tells_how_often_the_model_runs() -> None:
    told = {
        "30 runs": str(onnxsal.plan(forest(30), "feature_ablation")),
        "all": str(onnxsal.plan(forest(10), "shapley_sampling", background=draw(100, 10))),
        "some": str(onnxsal.plan(forest(13), "shapley_sampling", background=draw(100, 13))),
        "open": str(onnxsal.plan(tokens(), "shapley_sampling", value=0)),
    }
    assert "30 times, once for each column" in told["30 runs"]
    assert "102,400 times, once for each of 1,024 coalitions of 10 groups (all of them: exact) and each of 100 rows" in told["all"]
    assert "1,400 times, once for each prefix of each of 100 random orders of 13 groups" in told["some"]
    assert "forward once for each prefix" in told["open"]


# ----- other programs -----


def test_captum_says_the_same() -> None:
    captum = pytest.importorskip("captum.attr")
    model, x = net("vgg"), images(2)
    for method, peer, grid in (("feature_ablation", captum.FeatureAblation, 4), ("shapley_sampling", captum.ShapleyValues, 2)):
        cells = (np.arange(32) * grid // 32)[:, None] * grid + np.arange(32) * grid // 32
        wanted = peer(model).attribute(x, target=3, feature_mask=torch.from_numpy(cells)[None, None]).detach().numpy()
        found = explain(export(model), x.numpy(), 3, method=method, grid=grid).attribution
        close(found * (3 * 256 if method == "shapley_sampling" else 1), wanted)


def test_shap_says_the_same() -> None:
    """The interventional values of a forest of ten features, with a background of 100 samples."""
    shap, ensemble, skl2onnx = (pytest.importorskip(name) for name in ("shap", "sklearn.ensemble", "skl2onnx"))
    x = draw(110, 10, seed=1)
    made = ensemble.RandomForestRegressor(10, max_depth=5, random_state=0).fit(x, x[:, 0] * x[:, 1] + np.sin(x[:, 2]))
    found = explain(skl2onnx.to_onnx(made, x[:1]), x[100:], 0, background=x[:100], chunk=256)
    close(found.attribution, shap.TreeExplainer(made, x[:100], feature_perturbation="interventional").shap_values(x[100:]), 1e-5)
