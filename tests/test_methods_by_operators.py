"""Methods times operators: every rule file meets every operator, and ends in finite numbers or in a declared refusal."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest

import onnxsal
from onnxsal.engine.method import get_method
from onnxsal.engine.plan import make_plan
from onnxsal.engine.traverse import traverse
from onnxsal.errors import OnnxsalError
from onnxsal.graph import Emit, Model, Value
from onnxsal.ops.registry import REGISTRY, Case, OpSpec
from tests.oracle import one_node_model, run
from tests.small_models import cnn
from tests.test_contract import METHODS, convert

OPERATORS = {f"{d}.{o}" if d else o: spec for (d, o), spec in REGISTRY.items()}

NO_SAMPLES = {
    "Compress": "it drops rows: its output has another number of samples than its input",
    "Unique": "it drops rows: its output has another number of samples than its input",
}
"""Operators whose cases cannot be a whole classifier, and why."""

UNDEFINED = {
    ("MeanVarianceNormalization", "rise"): "ONNX Runtime's own kernel returns NaN for the constant pictures among the masked ones",
}
"""(operator, method) where the model itself returns NaN on the inputs that the method makes."""


def differentiable(spec: OpSpec, test: Case) -> tuple[object, dict[str, np.ndarray], str | None]:
    model, feed, wrt = one_node_model(spec, test, dtype=np.float32)
    return model, feed, next((w for w in wrt if int(w[1:]) not in spec.stops), None)


def unusual(method: str, feed: dict[str, np.ndarray], name: str) -> dict[str, object]:
    """Settings that keep the inputs a method makes near the given one, where the operator is defined: log has no value at 0."""
    known = get_method(method).parameters
    near = {"noise_level": 0.01, "baseline": 0.95 * feed[name], "value": 0.95 * feed[name]}
    return {k: v for k, v in near.items() if k in known and not (k == "baseline" and known[k].kind == "a word")}


@pytest.mark.parametrize("method", METHODS)
def test_every_operator_is_explained_or_refused(method: str):
    """The first case of each operator as a whole model, converted and run."""
    faults, explained = {}, 0
    for name, spec in OPERATORS.items():
        model, feed, wrt = differentiable(spec, spec.cases[0])
        if wrt is None or name in NO_SAMPLES or (name, method) in UNDEFINED:
            continue
        try:
            converted = convert(model, method, input=wrt, **unusual(method, feed, wrt))
        except OnnxsalError as error:
            if len(str(error)) < 40:
                faults[name] = f"a refusal without a reason: {error}"
            continue
        try:
            got = run(converted, feed)
        except Exception as error:
            faults[name] = str(error)[:200]
            continue
        explained += 1
        if got["attribution"].shape != feed[wrt].shape:
            faults[name] = f"shape {got['attribution'].shape} instead of {feed[wrt].shape}"
        if not all(np.isfinite(v).all() for k, v in got.items() if k in ("attribution", "saliency_map", "explained_score")):
            faults[name] = "not finite"
    assert not faults
    least = 110 if method in ("gradient", "integrated_gradients", "smoothgrad") else 0 if "layer" in get_method(method).parameters else 1
    assert explained >= least


@cache
def every_case() -> list[tuple[str, OpSpec, Model, str]]:
    found = []
    for name, spec in OPERATORS.items():
        for i, test in enumerate(spec.cases):
            model, _, wrt = differentiable(spec, test)
            if wrt is not None:
                view = Model(model)
                found.append((f"{name}-{i}", spec, view, wrt))
    return found


def attempt(call: Callable[[], Any]) -> tuple[Any, str]:
    """What the call gives, or ``None`` and the message of our own exception."""
    try:
        return call(), ""
    except OnnxsalError as error:
        return None, str(error)


def rules_of_all_methods() -> list[str]:
    return sorted({row.use for m in onnxsal.methods().values() for row in m.rules if row.use})


@pytest.mark.parametrize("method", list(onnxsal.methods()))
def test_every_case_is_planned_or_a_gap(method: str):
    """The plan of each case: a rule that takes the operator's family, or a refusal that names node, operator and opset."""
    chosen = get_method(method)
    if chosen.of:
        pytest.skip("its parts are planned, each as itself")
    if not chosen.rules:
        assert not onnxsal.plan(cnn(), method).steps
        return
    chosen = chosen.bound(chosen.settle({}))
    for name, spec, model, wrt in every_case():
        plan, refusal = attempt(lambda model=model, wrt=wrt: make_plan(model, chosen, [wrt], ["y0"]))
        if plan is None:
            assert f"'{method}'" in refusal or "no differentiable path" in refusal, name
            assert any(part in refusal for part in (f"node 'n' ({spec.op_type}", "under another name", "derivative ends")), (name, refusal)
            continue
        assert [s.node.op_type for s in plan.steps] == [spec.op_type]
        assert all(s.rule.takes(s.family) for s in plan.steps)


@pytest.mark.parametrize("rule", rules_of_all_methods())
def test_every_rule_crosses_every_case_or_refuses(rule: str):
    """Emission alone: a signal for the input, or one of our refusals that names the node."""
    users = [m.bound(m.settle({})) for m in onnxsal.methods().values() if rule in {r.use for r in m.rules}]
    crossed = 0
    for name, _, model, wrt in every_case():
        for method in users:
            plan, _ = attempt(lambda model=model, method=method, wrt=wrt: make_plan(model, method, [wrt], ["y0"]))
            if plan is None or plan.steps[0].rule.name != rule:
                continue
            seed = Value("seed", model.value("y0").dtype, model.value("y0").shape)
            signal, refusal = attempt(lambda model=model, plan=plan, seed=seed: traverse(Emit(model), plan, {"y0": seed}))
            if signal is None:
                assert len(refusal) > 40, name
                continue
            assert wrt in signal, name
            crossed += 1
            break
    # Some rules cross only a node among others (the first layer, a branch) or need what a fit or a reference provides.
    assert crossed or rule not in ("gradient", "guided", "deconvnet")
