"""``onnxsal audit``: one self-contained page that people read, and one JSON file that a pipeline can gate on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from onnxsal.ask.request import Ask
from onnxsal.cli import options as o
from onnxsal.cli.by_shard import end_broken
from onnxsal.cli.completion import several_methods
from onnxsal.cli.evaluate import DATA_HELP, LabelsColumn, Masks
from onnxsal.cli.results import near, tell_providers
from onnxsal.cli.shard_options import Engine, takes_engine
from onnxsal.cli.shard_verbs import audit_by_shard
from onnxsal.cli.shell import COMMAND, say, show, show_json
from onnxsal.cli.ways import chosen_ways
from onnxsal.disk import refuse_loss
from onnxsal.given.prepared import known_of
from onnxsal.graph.load import refuse_absent
from onnxsal.metrics.data_kind import PICTURES, ROWS, DataKind
from onnxsal.metrics.evaluate import IDLE, refuse_idle
from onnxsal.metrics.evaluation import Way
from onnxsal.metrics.open_rows import kind_given
from onnxsal.report.audit import (
    MEASURED,
    OFFERED,
    Limit,
    Request,
    audited,
    forget_work,
    quantities,
    read_limits,
    refuse_idle_limits,
)
from onnxsal.report.audit.document import Document, headline
from onnxsal.report.audit.form import read_form
from onnxsal.report.audit.page import save_audit
from onnxsal.report.audit.verdict import Outcome
from onnxsal.runtime.progress import progress

LIMITS_HELP = (
    "End with status 1 if a limit is broken, or what it is about could not be measured: residual>1e-3,deletion[gradcam]>0.3. May be given "
    f"several times. Names: {', '.join(quantities())}. The worst method counts, unless one is named in brackets."
)


SHOWN_METHODS = f"{','.join(OFFERED[PICTURES])}; of tables {','.join(OFFERED[ROWS])}"

Out = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="REPORT", help="The report: a folder (audit.html and audit.json), or the .html file itself."),
]
METHODS_HELP = "Methods, separated by commas, with parameters after colons: fullgrad,ig:n_steps=20."
Methods = Annotated[
    str | None, typer.Option("--methods", "-m", help=METHODS_HELP, autocompletion=several_methods, show_default=SHOWN_METHODS)
]
Against = Annotated[
    Path | None,
    typer.Option(help="Another model of the same classes and columns to compare with: a candidate, an int8 version.", show_default=False),
]
AgainstPreprocess = Annotated[
    str | None,
    typer.Option(help="Preprocessing of the other model: a preset or a file.", show_default="the one beside it, else the model's"),
]
Some = Annotated[int | None, typer.Option(min=1, help="Take so many pictures or rows, drawn by the seed.", show_default="all")]
Form = Annotated[
    Path | None,
    typer.Option(help="Statements of the provider that forms ask for (EU AI Act Annex IV, model card): a TOML.", show_default=False),
]


@takes_engine
@o.takes_ask(without=("method", "parameters", "batch_size", *IDLE), spelled={"example": "--example"})
def audit(
    context: typer.Context,
    ask: Ask,
    data: Annotated[Path, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)],
    out: Out = Path("out/audit"),
    methods: Methods = None,
    against: Against = None,
    fail_if: Annotated[list[str] | None, typer.Option("--fail-if", metavar="LIMITS", help=LIMITS_HELP, show_default=False)] = None,
    samples: Some = None,
    measured: Annotated[int, typer.Option(min=1, help="Measure insertion and deletion on this many of them.")] = MEASURED,
    masks: Masks = None,
    labels_column: LabelsColumn = None,
    seed: Annotated[int, typer.Option(min=0, help="Of samples, ties, random weights and confidence intervals.")] = 0,
    against_preprocess: AgainstPreprocess = None,
    form: Form = None,
    *,
    engine: Engine | None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew: forget what an interrupted run left.")] = False,
    json: o.Json = False,
) -> None:
    """Audit a model on pictures or a table: can the maps be trusted, and can the model? A page for people, a JSON for pipelines."""
    kind = kind_given(ask, data, labels_column, masks, context.params.get("preprocess") or against_preprocess)
    ways = chosen_ways(methods or ",".join(OFFERED[kind]))
    refuse_idle(ask, ways)
    limits = _limits(fail_if or (), ways, against, kind)
    ask = ask.on(ask.resolved)
    other = None if against is None else _other(ask, against, against_preprocess)
    statements = {} if form is None else read_form(form)
    how = (samples, measured, seed, statements, context.meta[COMMAND], labels_column, kind is ROWS and methods is None)
    request = Request(ask, data, ways, masks, other, *how)
    if engine is not None:
        audit_by_shard(request, limits, data, out, engine, json)
    else:
        _audit_here(request, limits, out, fresh, json)
    refuse_idle_limits(limits)


def _audit_here(request: Request, limits: Sequence[Limit], out: Path, fresh: bool, json: bool) -> None:
    """Audit in one go, and say what was found. Ends with status 1 where a limit is broken."""
    page = out if out.suffix.lower() in (".html", ".htm") else out / "audit.html"
    work = page.with_name(f".{page.stem}.work")
    for made in (page, page.with_suffix(".json")):
        refuse_loss(made)
    if fresh:
        forget_work(work)
    with progress(f"auditing {request.ask.name}") as tell:
        found = audited(request, limits, work, tell)
        tell("writing the report")
        files = save_audit(found, page)
    forget_work(work)
    if json:
        show_json({**{k: found.facts[k] for k in ("findings", "checks", "limits", "data")}, "files": files})
    else:
        _tell(found.document, files)
    end_broken(found.document)


def _other(ask: Ask, against: Path, preprocess: str | None) -> Ask:
    refuse_absent(against)
    return replace(ask, model=against, preprocess=known_of(against, preprocess).preprocess or ask.preprocess)


def _limits(texts: Sequence[str], ways: Sequence[Way], against: Path | None, kind: DataKind) -> list[Limit]:
    limits = read_limits(texts, [w.name for w in ways], against is not None, kind)
    for limit in limits:
        if limit.idle:
            say(limit.idle, "warning")
    return limits


def _tell(found: Document, files: dict[str, str]) -> None:
    show(f"{found.model.file} on {found.data.pictures} {found.of.one}(s): {headline(found)[1]}")
    for finding in found.findings:
        show(f"\n{finding.severity}: {finding.title}\n  {finding.text}\n  {finding.advice}")
    for check in found.checks.values():
        undecided = [v for v in check.verdicts if v.outcome is Outcome.TOO_FEW]
        if undecided:
            methods = ", ".join(dict.fromkeys(v.method for v in undecided if v.method))
            say(f"not decided: {check.title}{f' ({methods})' if methods else ''} {undecided[0].words}", "warning")
    tell_providers({"providers": found.model.providers, "provider_options": found.model.provider_options})
    for note in found.data.notes:
        say(note)
    for damaged in found.data.damaged:
        say(f"left out '{damaged.name}': {damaged.why}", "warning")
    for failed in found.data.failed:
        say(f"no answer to '{failed.name}': {failed.why}", "warning")
    show("\n" + "\n".join(f"{kind}: {near(file)}" for kind, file in files.items()))
