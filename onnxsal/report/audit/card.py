"""The model's card: what the file is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from onnxsal.graph import Model
from onnxsal.graph.load import load_model
from onnxsal.report.audit.document import ModelCard
from onnxsal.report.audit.subject import Subject


def card(own: Subject, labels: Sequence[str] | None) -> ModelCard:
    """What a model is."""
    proto = load_model(own.whole.model)
    graph = Model(proto)
    stored = {t.name: t for t in proto.graph.initializer}
    values = sum(int(np.prod(t.dims, dtype=np.int64)) for t in stored.values())
    path = Path(str(own.whole.model)) if own.name else None
    return ModelCard(
        file="" if path is None else path.name,
        sha256=own.sha256,
        bytes=path.stat().st_size if path is not None else None,
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        ir_version=proto.ir_version,
        opsets={o.domain or "ai.onnx": o.version for o in proto.opset_import},
        inputs=[str(t) for t in (own.scorer.session.inputs if own.rows is None else own.rows.inputs)],
        output=own.scorer.question.output,
        operators=dict(Counter(n.op_type if not n.domain else f"{n.domain}.{n.op_type}" for n in graph.nodes).most_common()),
        nodes=len(graph.nodes),
        parameters=values,
        providers=list(own.scorer.session.providers),
        provider_options=own.scorer.session.provider_options,
        preprocessing=None if own.preprocess is None else {k: v for k, v in asdict(own.preprocess).items() if v is not None},
        labels=None if labels is None else len(labels),
        metadata={p.key: p.value for p in proto.metadata_props},
    )
