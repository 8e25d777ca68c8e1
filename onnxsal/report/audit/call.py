"""``onnxsal.audit``: an audit called from Python, as ``onnxsal audit`` is from a shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxsal.ask.request import Ask
from onnxsal.disk import refuse_loss
from onnxsal.errors import MethodError
from onnxsal.given.known import with_known
from onnxsal.graph.load import Source
from onnxsal.metrics.data_kind import ROWS
from onnxsal.metrics.evaluate import IDLE, refuse_idle
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.open_rows import kind_given
from onnxsal.report.audit.evidence import MEASURED, Request
from onnxsal.report.audit.gate import read_limits
from onnxsal.report.audit.page import save_audit
from onnxsal.report.audit.run import DEFAULT_METHODS, OFFERED, Audit, audited
from onnxsal.runtime.preprocess import Preprocess
from onnxsal.runtime.progress import Bar
from onnxsal.runtime.progress import progress as bar


def audit(
    model: Source,
    data: Any,
    methods: Sequence[str | Way] = DEFAULT_METHODS,
    *,
    out: str | Path | None = None,
    against: Source | None = None,
    limits: str | Sequence[str] = (),
    preprocess: Preprocess | None = None,
    labels: Sequence[str] | None = None,
    masks: str | Path | None = None,
    labels_column: str | None = None,
    samples: int | None = None,
    measured: int = MEASURED,
    seed: int = 0,
    form: Mapping[str, str] | None = None,
    work: str | Path | None = None,
    progress: Bar = None,
    **options: Any,
) -> Audit:
    """Can the maps of ``methods`` on a model be trusted, and can the model? Looked at on ``data``: pictures (see ``metrics.open_dataset``),
    or a table with named columns (see ``metrics.open_rows``), whose class is in ``labels_column``.

    ``out`` is the page that is written, an .html file (its JSON beside it) or the folder for ``audit.html``. ``against``: another model of
    the same classes, and columns, to compare with. ``limits`` are those of ``--fail-if`` ("residual>1e-3"); whether one is broken is in
    ``Audit.document.limits``. Of a model in a file ``preprocess`` and ``labels`` are looked for beside it where they are not given.
    ``samples``: this many, drawn by ``seed``; insertion and deletion are measured on ``measured`` of them. ``form``: statements of the
    provider of the model, printed as they are. ``work`` is a folder that keeps what is done, so that a run that was cut short goes on.
    ``options`` are those of ``convert`` (input, output, score, layout, ...) and how the model is run (providers, tf32, fixed_batch).
    Raises ``InputError`` where no picture and no row can be used, ``MethodError`` for options that mean nothing here.
    """
    ask = with_known(Ask.of(model, preprocess=preprocess, labels=labels, **options))
    kind = kind_given(ask, data, labels_column, masks, preprocess)
    offered = kind is ROWS and methods is DEFAULT_METHODS
    ways = [w if isinstance(w, Way) else Way(w, w) for w in (OFFERED[kind] if offered else methods)]
    if ask.method is not None or ask.parameters:
        raise MethodError("an audit is of several methods: name them in methods, as Way(name, method, parameters) with their parameters.")
    ask = ask.without("audit", "batch_size", *IDLE)
    refuse_idle(ask, ways)
    ask = ask.on(ask.resolved)
    other = None if against is None else _other(ask, against)
    page = None if out is None else _page(Path(out))
    how = (samples, measured, seed, form or {}, ["onnxsal.audit"], labels_column, offered)
    request = Request(ask, data, ways, masks, other, *how)
    kept = read_limits(limits, [w.name for w in ways], other is not None, kind)
    with bar(f"auditing {ask.name}", wanted=progress) as tell:
        found = audited(request, kept, None if work is None else Path(work), tell)
        if page is not None:
            save_audit(found, page)
    return found


def _other(ask: Ask, against: Source) -> Ask:
    """The same asked of another model, whose pictures are prepared as is known of it, else as those of the model."""
    found = with_known(replace(ask, model=against, preprocess=None))
    return replace(found, preprocess=found.preprocess or ask.preprocess)


def _page(out: Path) -> Path:
    """The file of the page. Raises ``OutputError``, before the work, where what lies there is not ours."""
    page = out if out.suffix.lower() in (".html", ".htm") else out / "audit.html"
    for made in (page, page.with_suffix(".json")):
        refuse_loss(made)
    return page
