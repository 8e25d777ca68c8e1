"""Every registered operator, over its own cases: gradient and implicit bias against finite differences, static and dynamic."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import onnxsal
from onnxsal.facts.reach import reach
from onnxsal.graph import Emit, Model, Value, compute_dtype
from onnxsal.graph.assemble import Port, assemble
from onnxsal.ops.registry import REGISTRY, Case, OpSpec, implicit_bias
from tests.oracle import is_operand, one_node_model, random_like, run, scaled_derivative


def every_case() -> list:
    return [
        pytest.param(spec, test, id=f"{spec.domain + '.' if spec.domain else ''}{spec.op_type}-{i}")
        for spec in REGISTRY.values()
        for i, test in enumerate(spec.cases)
        if not test.straight_through
    ]


def every_dynamic_case() -> list:
    """Every case that ONNX Runtime runs with symbolic shapes, with its integers given at run time and, if it has any, known."""
    return [
        pytest.param(*entry.values, known, id=f"{entry.id}-{'known' if known else 'run-time'}")
        for entry in every_case()
        for known in (False, True)
        if not entry.values[1].static_only and (not known or any(is_operand(e) for e in entry.values[1].inputs))
    ]


def float_outputs(results: dict[str, np.ndarray]) -> list[str]:
    return [k for k, v in results.items() if v.dtype.kind == "f"]


@pytest.mark.parametrize(("spec", "test"), every_case())
def test_gradient_matches_finite_differences(spec: OpSpec, test: Case) -> None:
    """<u, dy/dx v> by central differences equals <v, vjp(u)>, for each input and all float outputs together, in float64."""
    model, feed, wrt = one_node_model(spec, test)
    wrt = [w for w in wrt if int(w[1:]) not in spec.stops]
    y = run(model, feed)
    outs = float_outputs(y) if spec.many else ["y0"]
    u = random_like(y, outs, seed=1)
    v = random_like(feed, wrt, seed=2)
    derived = onnxsal.vjp(model, wrt=wrt, outputs=outs)
    got = run(derived, feed | {f"cotangent/{o}": u[o] for o in outs})
    for w in wrt:
        assert got[f"vjp/{w}"].shape == feed[w].shape
        numeric = scaled_derivative(model, feed, {w: v[w]})
        expected = sum(float((numeric[o] * u[o]).sum()) for o in outs)
        scale = float(np.abs(got[f"vjp/{w}"] * v[w]).sum()) + 1e-3
        assert float((got[f"vjp/{w}"] * v[w]).sum()) == pytest.approx(expected, rel=1e-6, abs=1e-7 * scale), w


@pytest.mark.parametrize(("spec", "test", "known"), every_dynamic_case())
def test_dynamic_shapes_give_the_static_gradient(spec: OpSpec, test: Case, known: bool) -> None:
    """Symbolic dimensions and run-time integers change the graph, not the result; ONNX Runtime float32 agrees with float64."""
    model, feed, wrt = one_node_model(spec, test, dtype=np.float64)
    dynamic, feed32, _ = one_node_model(spec, test, dtype=np.float32, dynamic=True, known=known)
    wrt = [w for w in wrt if int(w[1:]) not in spec.stops]
    y = run(model, feed)
    outs = float_outputs(y) if spec.many else ["y0"]
    u = random_like(y, outs, seed=1)
    exact = run(onnxsal.vjp(model, wrt=wrt, outputs=outs), feed | {f"cotangent/{o}": u[o] for o in outs})
    derived = onnxsal.vjp(dynamic, wrt=wrt, outputs=outs)
    got = run(derived, feed32 | {f"cotangent/{o}": u[o].astype(np.float32) for o in outs}, optimise=True)
    for w in wrt:
        reference = exact[f"vjp/{w}"]
        np.testing.assert_allclose(got[f"vjp/{w}"], reference, rtol=2e-3, atol=2e-4 * (np.abs(reference).max() + 1e-3))


@pytest.mark.parametrize(("spec", "test"), every_case())
def test_implicit_bias(spec: OpSpec, test: Case) -> None:
    """r = y - sum_i J_i x_i for every set of active inputs (of many: of each, and of all), in float64, where sum_i J_i x_i =
    d y((1 + t) x_active) / dt; of every output, where the operator states one for each.
    """
    model, feed, wrt = one_node_model(spec, test)
    wrt = [w for w in wrt if int(w[1:]) not in spec.stops]
    y = run(model, feed)
    for size in range(1, len(wrt) + 1) if len(wrt) < 6 else (1, len(wrt)):
        for active in itertools.combinations(wrt, size):
            moved = scaled_derivative(model, feed, {a: feed[a] for a in active})
            biased = bias_model(model, active)
            got = {"bias": np.zeros_like(y["y0"])} if biased is None else run(biased, feed)
            for name in sorted(n for n in got if n.startswith("bias")):
                own = f"y{name[4:] or 0}"
                limit = 1e-7 * (np.abs(y[own]).max(initial=0) + 1)
                np.testing.assert_allclose(np.broadcast_to(got[name], y[own].shape), y[own] - moved[own], rtol=1e-6, atol=limit)


def bias_model(model, active):
    """The model with the implicit bias of its one node as output ``bias`` (of output 1 and so on as ``bias1``, where these have one), or
    ``None`` where the operator says it is zero.
    """
    view = Model(type(model).FromString(model.SerializeToString()))
    (node,) = reach(view, active, ["y0"]).path
    op = Emit(view)
    with op.at(node):
        result = implicit_bias(op, node)
        if result is None:
            return None
        parts = enumerate([result] if isinstance(result, Value) else result)
        named = [op.Identity(part, name=f"bias{j or ''}") for j, part in parts if part is not None]
    return assemble(view, op, [], [Port(Value(v.name), compute_dtype(node), None) for v in named])
