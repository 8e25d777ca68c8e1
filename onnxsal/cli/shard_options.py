"""The options of verbs that can run by the shard: in the jobs of an array (--shard 3/16), or on a cluster (--on ray)."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any

import typer

from onnxsal.errors import InputError
from onnxsal.fleet.resume import MAX_BAD, part_of_run
from onnxsal.fleet.working import MAPS, SAMPLED

RAY = "ray"

SHARD_ROWS, BLOCK_ROWS = 2048, 256
"""Samples of a shard, and where decoding is apart, which sends pixels from one process to another."""

DRAWN = 10_000
"""Samples that are drawn, of all."""


@dataclass(frozen=True)
class Engine:
    """How a run by the shard is carried out: ``part`` (i, n) of n jobs, or ``on`` an engine, at ``address`` or on a private cluster."""

    on: str | None = None
    part: tuple[int, int] | None = None
    address: str | None = None
    workers: int | None = None
    gpus_per_worker: float | None = None
    decode_workers: int = 0
    shard_rows: int = SHARD_ROWS
    maps: str = SAMPLED
    sample: int = DRAWN
    dry_run: bool = False
    retry_bad: bool = False
    max_bad: float = MAX_BAD


OPTIONS: dict[str, tuple[Any, Any]] = {
    "on": (
        str | None,
        typer.Option("--on", help=f"Run by the shard on an engine: {RAY}, on this machine or a cluster.", show_default="here, in one go"),
    ),
    "shard": (
        str | None,
        typer.Option("--shard", metavar="I/N", help="Run the I-th of N parts, by the shard; then `onnxsal merge OUT`.", show_default=False),
    ),
    "address": (
        str | None,
        typer.Option(help="With --on ray: the cluster, auto or HOST:PORT or ray://HOST:PORT.", show_default="a private one, here"),
    ),
    "workers": (int | None, typer.Option(min=1, help="Processes that explain.", show_default="one for each CPU, or each GPU share")),
    "gpus_per_worker": (
        float | None,
        typer.Option(min=0.0, help="GPUs of each of them (0.5: two share one).", show_default="0, or 1 with --provider cuda"),
    ),
    "decode_workers": (
        int,
        typer.Option(min=0, help="Processes that only read and decode, for those that explain.", show_default="0: each for itself"),
    ),
    "shard_rows": (
        int | None,
        typer.Option(
            min=1,
            help="Samples of a shard, which is done or not done as a whole.",
            show_default=f"{SHARD_ROWS}; {BLOCK_ROWS} with --decode-workers",
        ),
    ),
    "maps": (str, typer.Option(help=f"Which maps are kept as pictures: {', '.join(MAPS)}.")),
    "sample": (int, typer.Option(min=0, help="So many samples are drawn, for maps, pages and costly metrics.")),
    "dry_run": (bool, typer.Option("--dry-run", help="Do one shard, and say what all of them would take: hours and storage.")),
    "retry_bad": (bool, typer.Option("--retry-bad", help="Do the shards again that hold samples without an explanation.")),
    "max_bad": (float, typer.Option(min=0.0, max=1.0, help="End with status 1 if a larger share of the samples has no explanation.")),
}
"""Option -> its type and its words; what each is without being given is in ``Engine``."""


def takes_engine(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb with parameter ``engine`` (an ``Engine``, or ``None`` where nothing is asked by the shard) as a command with the options."""
    defaults = {**{f.name: f.default for f in Engine.__dataclass_fields__.values()}, "shard": None, "shard_rows": None}

    @wraps(verb)
    def command(**given: Any) -> None:
        said = {name: given.pop(name) for name in OPTIONS}
        verb(**given, engine=engine_of(said, {name for name, value in said.items() if value != defaults[name]}))

    every = []
    for one in inspect.signature(verb, eval_str=True).parameters.values():
        if one.name != "engine":
            every.append(one.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        for name, (kind, option) in OPTIONS.items():
            option.rich_help_panel = "By the shard"
            every.append(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name], annotation=Annotated[kind, option])
            )
    command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in every}
    return command


def engine_of(said: dict[str, Any], asked: set[str]) -> Engine | None:
    """What the options say; ``None`` where none is given. Raises ``InputError`` for options that do not go together."""
    on, shard = said["on"], said["shard"]
    if on not in (None, RAY):
        raise InputError(f"--on '{on}' is no engine; there is {RAY}. Without it everything runs here; --shard I/N is for jobs of an array.")
    if on is None and shard is None and not said["dry_run"]:
        if asked:
            names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(asked))
            raise InputError(f"{names}: for a run by the shard. Add --on {RAY}, or --shard I/N (1/1: all of it, here).")
        return None
    of_ray = sorted(asked & {"address", "workers", "gpus_per_worker", "decode_workers"})
    if on is None and of_ray:
        raise InputError(f"--{of_ray[0].replace('_', '-')} goes with --on {RAY}: a job of an array is one process.")
    if on is not None and shard is not None:
        raise InputError(f"--shard is for jobs of an array, and --on {RAY} deals shards out itself: give one of the two.")
    rows = said["shard_rows"] or (BLOCK_ROWS if said["decode_workers"] else SHARD_ROWS)
    part = (1, 1) if shard is None else part_of_run(shard)
    rest = {name: said[name] for name in said if name not in ("shard", "shard_rows")}
    return Engine(**{**rest, "part": None if on else part, "shard_rows": rows})
