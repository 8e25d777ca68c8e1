"""``onnxsal audit``: one self-contained page that people read, and one JSON file that a pipeline can gate on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from onnxsal.ask.request import Ask
from onnxsal.cli import options as o
from onnxsal.cli.evaluate import DATA_HELP, Masks, chosen_ways
from onnxsal.cli.explain import near, tell_providers
from onnxsal.cli.shell import CHECK_FAILED, COMMAND, progress, say, show, show_json
from onnxsal.disk import refuse_loss
from onnxsal.metrics.evaluate import IDLE, refuse_idle
from onnxsal.metrics.evaluation import Way
from onnxsal.report.audit import DEFAULT_METHODS, MEASURED, Limit, Request, forget_work, quantities, read_limits, refuse_idle_limits
from onnxsal.report.audit import audit as audited
from onnxsal.report.audit.document import Document
from onnxsal.report.audit.form import read_form
from onnxsal.report.audit.page import headline, save_audit
from onnxsal.report.audit.verdict import Outcome

LIMITS_HELP = (
    "End with status 1 if a limit is broken, or what it is about could not be measured: residual>1e-3,deletion[gradcam]>0.3. May be given "
    f"several times. Names: {', '.join(quantities())}. The worst method counts, unless one is named in brackets."
)


SHOWN_METHODS = ",".join(DEFAULT_METHODS)

Out = Annotated[
    Path,
    typer.Option("--out", "-o", metavar="REPORT", help="The report: a folder (audit.html and audit.json), or the .html file itself."),
]
Methods = Annotated[
    str, typer.Option("--methods", "-m", help="Methods, separated by commas, with parameters after colons: fullgrad,ig:n_steps=20.")
]
Against = Annotated[
    Path | None, typer.Option(help="Another model of the same classes to compare with: a candidate, an int8 version.", show_default=False)
]
AgainstPreprocess = Annotated[
    Path | None, typer.Option(help="Preprocessing of the other model.", show_default="the one beside it, else the model's")
]
Form = Annotated[
    Path | None,
    typer.Option(help="Statements of the provider that forms ask for (EU AI Act Annex IV, model card): a TOML.", show_default=False),
]


@o.takes_ask(without=("method", "parameters", "batch_size", *IDLE))
def audit(
    context: typer.Context,
    ask: Ask,
    data: Annotated[Path, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)],
    out: Out = Path("out/audit"),
    methods: Methods = SHOWN_METHODS,
    against: Against = None,
    fail_if: Annotated[list[str] | None, typer.Option("--fail-if", metavar="LIMITS", help=LIMITS_HELP, show_default=False)] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Take this many pictures, drawn by the seed.", show_default="all")] = None,
    measured: Annotated[int, typer.Option(min=1, help="Measure insertion and deletion on this many of them.")] = MEASURED,
    masks: Masks = None,
    seed: Annotated[int, typer.Option(min=0, help="Of samples, ties, random weights and confidence intervals.")] = 0,
    against_preprocess: AgainstPreprocess = None,
    form: Form = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew: forget what an interrupted run left.")] = False,
    json: o.Json = False,
) -> None:
    """Audit a model on pictures: can the maps be trusted, and can the model? A page for people, a JSON for pipelines."""
    page = out if out.suffix.lower() in (".html", ".htm") else out / "audit.html"
    work = page.with_name(f".{page.stem}.work")
    for made in (page, page.with_suffix(".json")):
        refuse_loss(made)
    ways = chosen_ways(methods)
    refuse_idle(ask, ways)
    limits = _limits(fail_if or (), ways, against)
    if fresh:
        forget_work(work)
    ask = ask.on(ask.resolved)
    other = None
    if against is not None:
        other = replace(ask, model=against, preprocess=o.known_of(against, against_preprocess).preprocess or ask.preprocess)
    statements = {} if form is None else read_form(form)
    request = Request(ask, data, ways, masks, other, samples, measured, seed, statements, context.meta[COMMAND])
    with progress(f"auditing {ask.name}") as tell:
        found = audited(request, limits, work, tell)
        tell("writing the report")
        files = save_audit(found, page)
    forget_work(work)
    broken = [limit for limit in found.document.limits if limit.broken]
    if json:
        show_json({**{k: found.facts[k] for k in ("findings", "checks", "limits", "data")}, "files": files})
    else:
        _tell(found.document, files)
    for limit in broken:
        say(limit.text, "error")
    if broken:
        raise typer.Exit(CHECK_FAILED)
    refuse_idle_limits(limits)


def _limits(texts: Sequence[str], ways: Sequence[Way], against: Path | None) -> list[Limit]:
    limits = read_limits(texts, [w.name for w in ways], against is not None)
    for limit in limits:
        if limit.idle:
            say(limit.idle, "warning")
    return limits


def _tell(found: Document, files: dict[str, str]) -> None:
    show(f"{found.model.file} on {found.data.pictures} picture(s): {headline(found)[1]}")
    for finding in found.findings:
        show(f"\n{finding.severity}: {finding.title}\n  {finding.text}\n  {finding.advice}")
    for check in found.checks.values():
        undecided = [v for v in check.verdicts if v.outcome is Outcome.TOO_FEW]
        if undecided:
            methods = ", ".join(dict.fromkeys(v.method for v in undecided if v.method))
            say(f"not decided: {check.title}{f' ({methods})' if methods else ''} {undecided[0].words}", "warning")
    tell_providers({"providers": found.model.providers, "provider_options": found.model.provider_options})
    for damaged in found.data.damaged:
        say(f"left out '{damaged.name}': {damaged.why}", "warning")
    for failed in found.data.failed:
        say(f"no answer to '{failed.name}': {failed.why}", "warning")
    show("\n" + "\n".join(f"{kind}: {near(file)}" for kind, file in files.items()))
