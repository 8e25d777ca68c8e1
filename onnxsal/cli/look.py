"""The verbs that look and change nothing: ``plan``, ``check``, ``methods``, ``ops``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxsal.ask.request import RUN, Ask
from onnxsal.cli import options as o
from onnxsal.cli.completion import one_kernel_table, one_method
from onnxsal.cli.conserve import check_conservation
from onnxsal.cli.shell import CHECK_FAILED, show, show_json, show_table
from onnxsal.engine.method import Method, get_method
from onnxsal.engine.plan import Plan
from onnxsal.engine.table_rows import Parameter, RuleRow
from onnxsal.errors import InputError, UnsupportedError
from onnxsal.facade import inspect
from onnxsal.facade.check import checked
from onnxsal.facts.grounds import fact_lines
from onnxsal.ops.expansion import EXPANSIONS
from onnxsal.ops.registry import OpSpec, near_operator
from onnxsal.runtime.kernels import PROVIDERS
from onnxsal.runtime.progress import progress


@o.takes_ask(without=RUN)
def plan(ask: Ask, json: o.Json = False) -> None:
    """Show what is known of the model and how, then which rule crosses which node, and why; nothing is converted."""
    with progress(f"planning {ask.name}"):
        made = inspect.planned(ask)
    head, table = str(made).split("\n", 1)
    show_json(_plan_facts(made)) if json else show("\n".join([head, *fact_lines(made.found, made.doubt), "", table]))


def _plan_facts(made: Plan) -> dict[str, Any]:
    steps = [
        {
            "node": s.node.name,
            "operator": s.node.op_type,
            "family": s.family,
            "rule": s.rule.name,
            "parameters": s.parameters,
            "why": s.why,
        }
        for s in made.steps
    ]
    ends = [{"node": n.name, "operator": n.op_type, "why": why} for n, why in made.stops]
    known = {"found": [fact.as_dict() for fact in made.found], "doubt": made.doubt}
    return {"method": made.method, "wrt": made.wrt, "starts": made.starts, **known, "steps": steps, "stops": ends, "notes": made.notes}


@o.takes_ask(without=(*RUN, "example"))
def check(
    ask: Ask,
    on: Annotated[list[Path] | None, o.option("example")] = None,
    provider: Annotated[
        str,
        typer.Option(
            help="The execution provider whose kernels are looked up: " + " or ".join(PROVIDERS) + ".", autocompletion=one_kernel_table
        ),
    ] = "cuda",
    conservation: Annotated[
        bool,
        typer.Option(
            "--conservation", help="Run it, on one or several --example, and sum relevance where all paths meet (default: lrp_resnet)."
        ),
    ] = False,
    plot: Annotated[Path | None, typer.Option(help="With --conservation: where the scatter plot is written.", show_default=False)] = None,
    json: o.Json = False,
) -> None:
    """Can the model be explained, what is known of it and how, and which nodes have no kernel? Exit status 1 if it cannot be explained."""
    if conservation:
        check_conservation(replace(ask, method=ask.method or "lrp_resnet"), on or (), plot, json)
        return
    if plot:
        raise InputError("--plot goes with --conservation.")
    ask = replace(ask, example=o.example_of(on, ask)) if on else ask
    with progress(f"checking {ask.name}"):
        report = checked(ask, provider)
    show_json(report.as_dict()) if json else show(str(report))
    if not report.ok:
        raise typer.Exit(CHECK_FAILED)


def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="[METHOD]", help="Tell all about this one.", show_default=False, autocompletion=one_method)
    ] = None,
    rules: Annotated[bool, typer.Option("--rules", help="Only its rows, in the order they are tried, with the table of each.")] = False,
    json: o.Json = False,
) -> None:
    """List the methods, or one of them (a rule file too) with its parameters."""
    if rules and name is None:
        raise InputError("--rules prints the rows of one method: name it, or a rule file.")
    chosen = None if name is None else get_method(name)
    found = inspect.methods() if chosen is None else {chosen.name: chosen}
    if rules and chosen is not None:
        _tell_rows(chosen, json)
    elif json:
        show_json({key: _method_facts(method) for key, method in found.items()})
    elif chosen is None:
        rows = [(key, m.title, ", ".join(f"{k}={p.default}" for k, p in m.parameters.items())) for key, m in found.items()]
        show_table(("method", "what it is", "parameters"), rows, wrap=True)
    else:
        _tell_method(chosen)


def _row_facts(kind: str, row: RuleRow) -> dict[str, Any]:
    said = {**row.match, "factor": row.factor, "when": row.when, "use": row.use, "why": row.why}
    return {"table": row.table, "kind": kind, "row": row.number, **{k: v for k, v in said.items() if v}, "parameters": row.parameters}


def _tell_rows(method: Method, json: bool) -> None:
    """The resolved table: what stands where, and which file it comes from."""
    kinds = [("normalise", row) for row in method.normalise] + [("constant", row) for row in method.constants]
    kinds += [("rule" if row.use else "refuse", row) for row in method.rows]
    if json:
        show_json([_row_facts(kind, row) for kind, row in kinds])
        return
    rows = [(r.table, f"[[{k}]] {r.number}", *_row_text(k, r)) for k, r in kinds]
    show_table(("table", "row", "matches", "what is done"), rows, wrap=True)


def _row_text(kind: str, row: RuleRow) -> tuple[str, str]:
    """What a row matches, and what is done there."""
    if kind == "constant":
        return row.what, "constant"
    matches, done = _rule_text(row).split(" -> ", 1)
    return matches, done


def _method_facts(method: Method) -> dict[str, Any]:
    parameters = {k: {"default": p.default, "doc": p.doc, "choices": p.choices, "aliases": p.aliases} for k, p in method.parameters.items()}
    rows = [{**row.match, "use": row.use, **row.parameters} for row in method.rules]
    refused = [{**row.match, "why": row.why} for row in method.refuses]
    return {
        **{key: getattr(method, key) for key in ("title", "source", "formula", "law", "aliases")},
        "parameters": parameters,
        "presets": method.presets,
        "rules": rows,
        "refuses": refused,
        "constants": [{**row.match, "factor": row.factor, "why": row.why} for row in method.constants],
    }


def _tell_method(method: Method) -> None:
    facts = {"formula": method.formula, "source": method.source, "law": method.law, "aliases": ", ".join(method.aliases)}
    show("\n".join([f"{method.name}: {method.title}", *(f"  {k:<8} {v}" for k, v in facts.items() if v), ""]))
    rows: list[tuple[object, ...]] = [(f"--{key.replace('_', '-')}", p.default, _parameter_text(p)) for key, p in method.parameters.items()]
    rows += [("--preset", name, ", ".join(f"{k}={v}" for k, v in values.items())) for name, values in method.presets.items()]
    show_table(("parameter", "default", "what it does"), rows, wrap=True)
    held = [f"{row.what} -> constant" for row in method.constants]
    show("\n" + "\n".join([*held, *(_rule_text(row) for row in (*method.refuses, *method.rules))]))


def _parameter_text(parameter: Parameter) -> str:
    choices = f"; one of {', '.join(map(str, parameter.choices))}" if parameter.choices else ""
    aliases = f"; also {', '.join(parameter.aliases)}" if parameter.aliases else ""
    return parameter.doc + choices + aliases


def _rule_text(row: RuleRow) -> str:
    given = ", ".join(f"{k}={v}" for k, v in row.parameters.items())
    return f"{row.text} -> {row.use}{f'({given})' if given else ''}" if row.use else f"{row.text} -> refused: {row.why}"


def ops(
    names: Annotated[list[str] | None, typer.Argument(metavar="[OPERATOR]...", help="Only these.", show_default=False)] = None,
    json: o.Json = False,
) -> None:
    """List the operators that are known, each with its gradient, or the reason why it has none."""
    known: dict[str, OpSpec | str] = inspect.ops()
    known |= {name: WRITTEN for name in names or () if name not in known and tuple(name.rpartition(".")[::2]) in EXPANSIONS}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        near = near_operator(*unknown[0].rpartition(".")[::2])
        raise UnsupportedError(
            f"operator '{unknown[0]}' is not known{near}; `onnxsal ops` lists all. One that has an ONNX function body is expanded by it."
        )
    shown = {name: known[name] for name in names or known}
    if json:
        show_json({name: _op_facts(entry) for name, entry in shown.items()})
        return
    rows = [(n, *_op_text(e)) for n, e in shown.items()]
    show_table(("operator", "family", "gradient, or why there is none"), rows, wrap=True)


WRITTEN = "it is written in standard operators, and these are explained"
"""Said of an operator that has no gradient of its own and needs none."""


def _op_text(entry: OpSpec | str) -> tuple[str, str]:
    if isinstance(entry, OpSpec):
        return entry.family, entry.formula
    return "" if entry == WRITTEN else "not differentiable", entry


def _op_facts(entry: OpSpec | str) -> dict[str, Any]:
    if entry == WRITTEN:
        return {"differentiable": True, "family": "", "gradient": entry, "stops": {}}
    if isinstance(entry, str):
        return {"differentiable": False, "reason": entry}
    return {"differentiable": True, "family": entry.family, "gradient": entry.formula, "stops": entry.stops}
