"""The model's card: what the file is, which of its operators are known, and what each method makes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from onnxsal.errors import OnnxsalError
from onnxsal.facade.check import check
from onnxsal.facade.inspect import ops
from onnxsal.graph import Model
from onnxsal.graph.load import Source, load_model
from onnxsal.metrics.evaluation import Way
from onnxsal.report.audit_look import Subject

KERNELS_OF = "cuda"
"""The provider whose kernels are looked up: where a model is put into production."""


def card(own: Subject, labels: Sequence[str] | None) -> dict[str, Any]:
    """What a model is."""
    proto = load_model(own.model)
    graph = Model(proto)
    stored = {t.name: t for t in proto.graph.initializer}
    values = sum(int(np.prod(t.dims, dtype=np.int64)) for t in stored.values())
    path = Path(own.file) if own.file else None
    return {
        "file": "" if path is None else path.name,
        "sha256": own.sha256,
        "bytes": path.stat().st_size if path is not None else None,
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
        "ir_version": proto.ir_version,
        "opsets": {o.domain or "ai.onnx": o.version for o in proto.opset_import},
        "inputs": [str(t) for t in own.scorer.session.inputs],
        "output": own.scorer.question.output,
        "operators": dict(Counter(n.op_type if not n.domain else f"{n.domain}.{n.op_type}" for n in graph.nodes).most_common()),
        "nodes": len(graph.nodes),
        "parameters": values,
        "providers": list(own.scorer.session.providers),
        "provider_options": own.scorer.session.provider_options,
        "preprocessing": None if own.preprocess is None else {k: v for k, v in asdict(own.preprocess).items() if v is not None},
        "labels": None if labels is None else len(labels),
        "metadata": {p.key: p.value for p in proto.metadata_props},
    }


def coverage(own: Subject, model: Source, ways: Sequence[Way], options: Mapping[str, Any]) -> dict[str, Any]:
    """Which operators are known, and what each method makes of the model."""
    known = ops()
    counted = card(own, None)["operators"]
    rows = []
    for name, count in counted.items():
        entry = known.get(name)
        kind = "unknown" if entry is None else "no derivative" if isinstance(entry, str) else "differentiable"
        rows.append(
            {
                "operator": name,
                "count": count,
                "kind": kind,
                "note": entry if isinstance(entry, str) else "" if entry is None else entry.formula,
            }
        )
    told = []
    for way in ways:
        try:
            found = check(model, KERNELS_OF, way.method or "", compare=False, **{**options, **way.parameters})
        except OnnxsalError as error:
            told.append({"method": way.name, "ok": False, "problem": str(error), "nodes": 0, "passes": [], "missing": {}})
            continue
        told.append(
            {
                "method": way.name,
                "ok": found.ok,
                "problem": found.problem,
                "nodes": found.converted_nodes,
                "passes": list(found.passes),
                "missing": dict(found.missing),
            }
        )
    return {"provider": KERNELS_OF, "operators": rows, "methods": told}
