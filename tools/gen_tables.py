#!/usr/bin/env python3
"""Write docs/operators.md and docs/methods.md from the registries; ``--check`` fails where a page is stale."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

HEADER = "<!-- written by tools/gen_tables.py; do not edit -->\n"


def operators() -> str:
    """Every operator: its gradient and implicit bias, what it is written as, or why it has neither."""
    from onnxsal.ops.control import FRAMES
    from onnxsal.ops.expansion import EXPANSIONS
    from onnxsal.ops.registry import FAMILIES, NOT_DIFFERENTIABLE, NOT_YET, REGISTRY
    from onnxsal.ops.restated import RESTATED
    from onnxsal.ops.sequences import COPY, LISTS

    lines = [HEADER, "# Operators\n"]
    lines.append(
        f"{len(REGISTRY)} operators have a gradient. Those that the standard defines by a body and that are not here are expanded by it.\n"
    )
    for family, meaning in FAMILIES.items():
        rows = sorted((s for s in REGISTRY.values() if s.family == family), key=lambda s: s.op_type)
        if rows:
            lines += [f"## {family}: {meaning}\n", "| operator | gradient | implicit bias | cases |", "| --- | --- | --- | --- |"]
            lines += [f"| {s.op_type} | {escape(s.formula)} | {bias(s.bias)} | {len(s.cases)} |" for s in rows]
            lines.append("")
    lines += ["## control: operators that run graphs, and lists of tensors\n", "| operator | what is done |", "| --- | --- |"]
    lines += [
        f"| {name} | {escape(first_line(said))} |"
        for name, said in sorted({**{n: f for (_, n), f in FRAMES.items()}, **LISTS}.items())
        if name != COPY
    ]
    lines.append("")
    lines += ["## No derivative\n", "| operator | why |", "| --- | --- |"]
    lines += [f"| {name} | {escape(why)} |" for (_, name), why in sorted(NOT_DIFFERENTIABLE.items())]
    lines += ["\n## Written in standard operators\n"]
    lines.append(
        "Before anything is asked, each node of these is replaced by standard ones, and the outputs are compared before and after.\n"
    )
    lines += ["| operator | domain | what it computes |", "| --- | --- | --- |"]
    written = sorted(EXPANSIONS.items(), key=lambda item: (item[0][0], item[0][1]))
    lines += [f"| {name} | {domain or 'ai.onnx'} | {first_paragraph(function)} |" for (domain, name), function in written]
    lines += ["\n## Walked as a copy in floating point\n"]
    lines.append(
        "These compute with quantised values. The file's own nodes make all values; the walk goes through a copy around the same integers, "
        "which is compared with them: at most one step of the grid, or 1e-5, apart.\n"
    )
    lines += ["| operator | domain | what the copy computes |", "| --- | --- | --- |"]
    copies = sorted(RESTATED.items(), key=lambda item: (item[0][0], item[0][1]))
    lines += [f"| {name} | {domain or 'ai.onnx'} | {first_paragraph(copy.write)} |" for (domain, name), copy in copies]
    lines += ["\n## Refused\n", "| operator | domain | what to do |", "| --- | --- | --- |"]
    lines += [f"| {name} | {domain or 'ai.onnx'} | {escape(advice)} |" for (domain, name), advice in sorted(NOT_YET.items())]
    return "\n".join(lines) + "\n"


def first_paragraph(function: object) -> str:
    """The first paragraph of its docstring, in one line."""
    return escape(" ".join((function.__doc__ or "").split("\n\n")[0].split()).rstrip("."))


def first_line(function: object) -> str:
    """The first line of a docstring."""
    return (function.__doc__ or "").strip().splitlines()[0]


def bias(kind: object) -> str:
    """The implicit bias in a few words: its kind, or the first line of its function's docstring."""
    if isinstance(kind, str):
        return {
            "zero": "0",
            "symmetric": "y - J x",
            "affine": "y at 0",
            "linear": "y at 0",
            "unknown": "refused",
            "product": "(1 - number of active inputs) y",
        }[kind]
    return escape((kind.__doc__ or "closed form").strip().splitlines()[0])


def methods() -> str:
    """Every method: its formula, where it comes from, its parameters and rules."""
    import onnxsal

    lines = [HEADER, "# Methods\n"]
    for method in onnxsal.methods().values():
        lines += [f"## {method.name}\n", f"{method.title}: `{method.formula}`  ", f"Source: {method.source}\n"]
        if method.law:
            beside = (
                ", beside `reached`, the share of the score that reaches the input"
                if method.wrap in ("relevance", "modified_gradient")
                else ""
            )
            lines.append(f"Law, returned as `residual`{beside}: {method.law}.\n")
        if method.aliases:
            lines.append(f"Also called {', '.join(f'`{a}`' for a in method.aliases)}.\n")
        if method.parameters:
            lines += ["| parameter | default | meaning |", "| --- | --- | --- |"]
            for name, p in method.parameters.items():
                choices = f" ({', '.join(map(str, p.choices))})" if p.choices else ""
                lines.append(f"| {name} | `{p.default}` | {escape(p.doc)}{escape(choices)} |")
            lines.append("")
        own = [row for row in method.rows if row.table == method.table]
        lines += [f"- rule {row.number}: {row.text} -> `{row.use}`" for row in own if row.use]
        lines += [f"- constant: {row.what}" for row in method.constants if row.table == method.table]
        lines += [f"- refused: {row.text}: {row.why}" for row in own if not row.use]
        if method.extends:
            lines.append(f"- everything else: as [{method.extends}](#{method.extends}); `onnxsal methods {method.name} --rules` prints all")
        for name, values in method.presets.items():
            lines.append(f"- preset `{name}`: " + ", ".join(f"{k}={v!r}" for k, v in values.items()))
        lines.append("")
    return "\n".join(lines)


def escape(text: str) -> str:
    return text.replace("|", "\\|")


PAGES = {"docs/operators.md": operators, "docs/methods.md": methods}


def stale() -> list[str]:
    """Pages that differ from what the registries say."""
    return [n for n, write in PAGES.items() if not (ROOT / n).exists() or (ROOT / n).read_text(encoding="utf-8") != write()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        old = stale()
        if old:
            print(f"stale: {', '.join(old)}; run tools/gen_tables.py", file=sys.stderr)
        return bool(old)
    for name, write in PAGES.items():
        (ROOT / name).parent.mkdir(exist_ok=True)
        (ROOT / name).write_text(write(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
