"""``onnxsal audit``: one self-contained page that people read, and one JSON file that a pipeline can gate on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxsal.cli import options as o
from onnxsal.cli.evaluate import DATA_HELP, chosen_ways
from onnxsal.cli.explain import near, tell_providers
from onnxsal.cli.shell import CHECK_FAILED, progress, say, show, show_json
from onnxsal.report.audit import DEFAULT_METHODS, MEASURED, Asked
from onnxsal.report.audit import audit as audited
from onnxsal.report.audit_gate import KNOWN, read_limits
from onnxsal.report.audit_page import save_audit
from onnxsal.runtime.providers import resolve

LIMITS_HELP = (
    "End with status 1 if a limit is broken, or what it is about could not be measured: residual>1e-3,deletion[gradcam]>0.3. May be given "
    f"several times. Names: {', '.join(KNOWN)}. The worst method counts, unless one is named in brackets."
)


def audit(
    model: o.ModelPath,
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help=DATA_HELP,
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="REPORT", help="The report: a folder (audit.html and audit.json), or the .html file itself."),
    ] = Path("out/audit"),
    methods: Annotated[
        str, typer.Option("--methods", "-m", help="Methods, separated by commas, with parameters after colons: fullgrad,ig:n_steps=20.")
    ] = ",".join(DEFAULT_METHODS),
    against: Annotated[
        Path | None,
        typer.Option(help="Another model of the same classes to compare with: a candidate, an int8 version.", show_default=False),
    ] = None,
    fail_if: Annotated[list[str] | None, typer.Option("--fail-if", metavar="LIMITS", help=LIMITS_HELP, show_default=False)] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Take this many pictures, drawn by the seed.", show_default="all")] = None,
    measured: Annotated[int, typer.Option(min=1, help="Measure insertion and deletion on this many of them.")] = MEASURED,
    masks: Annotated[
        str | None, typer.Option(help="The folder of masks; 'alpha' for the pictures' own transparency.", show_default="DATA/masks")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of samples, ties, random weights and confidence intervals.")] = 0,
    input: o.Input = None,
    output: o.Output = None,
    score: o.Score = None,
    labels: o.LabelsFile = None,
    preprocess: o.PreprocessFile = None,
    against_preprocess: Annotated[
        Path | None, typer.Option(help="Preprocessing of the other model.", show_default="the one beside it, else the model's")
    ] = None,
    provider: o.Provider = "cpu",
    tf32: o.Tf32 = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew: forget what an interrupted run left.")] = False,
    json: o.Json = False,
) -> None:
    """Audit a model on pictures: can the maps be trusted, and can the model? A page for people, a JSON for pipelines."""
    page = out if out.suffix.lower() in (".html", ".htm") else out / "audit.html"
    work = page.with_name(f".{page.stem}.work")
    feed = o.feeding(model, preprocess, labels)
    second = None if against is None else o.feeding(against, against_preprocess, labels)
    ways = chosen_ways(methods)
    limits = read_limits(fail_if or (), [w.name for w in ways], against is not None)
    if fresh and work.is_dir():
        shutil.rmtree(work)
    options = {k: v for k, v in (("input", input), ("output", output), ("score", score)) if v is not None}
    asked = Asked(
        model,
        data,
        ways,
        preprocess=feed.preprocess,
        labels=feed.labels,
        masks=masks,
        against=against,
        against_preprocess=None if second is None else second.preprocess or feed.preprocess,
        limits=limits,
        samples=samples,
        measured=measured,
        seed=seed,
        providers=resolve(provider, tf32),
        options=options,
    )
    with progress(f"auditing {model.name}") as tell:
        found = audited(asked, work, tell)
        tell("writing the report")
        files = save_audit(found, page)
    shutil.rmtree(work, ignore_errors=True)
    broken = [limit for limit in found.facts["limits"] if limit["broken"]]
    if json:
        show_json({**{k: found.facts[k] for k in ("findings", "limits", "data")}, "files": files})
    else:
        _tell(found.facts, files)
    for limit in broken:
        say(f"{limit['text']}", "error")
    if broken:
        raise typer.Exit(CHECK_FAILED)


def _tell(facts: dict[str, Any], files: dict[str, str]) -> None:
    data, findings = facts["data"], facts["findings"]
    show(
        f"{facts['model']['file']} on {data['pictures']} picture(s): "
        + (f"{len(findings)} finding(s), worst first" if findings else "no finding")
    )
    for finding in findings:
        show(f"\n{finding['severity']}: {finding['title']}\n  {finding['text']}\n  {finding['advice']}")
    tell_providers(facts["model"])
    for damaged in data["damaged"]:
        say(f"left out '{damaged['name']}': {damaged['why']}", "warning")
    for failed in data["failed"]:
        say(f"no answer to '{failed['name']}': {failed['why']}", "warning")
    show("\n" + "\n".join(f"{kind}: {near(file)}" for kind, file in files.items()))
