"""``onnxsal merge``: what the shards that are done say together, at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxsal.cli import options as o
from onnxsal.cli.by_shard import tell
from onnxsal.cli.shard_verbs import as_given
from onnxsal.fleet.audit_page import merge_audit, request_of
from onnxsal.fleet.folders import Folder
from onnxsal.fleet.merging import merge_run
from onnxsal.fleet.resume import read_run
from onnxsal.fleet.verify import verified
from onnxsal.runtime.progress import progress


def merge(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The --out of a run by the shard, a folder or a URL.", show_default=False)],
    verify: Annotated[bool, typer.Option("--verify", help="Read all data again, and compare the hash of every sample.")] = False,
    json: o.Json = False,
) -> None:
    """Put together what is done of a run by the shard: a table of all numbers, and of an audit the page. Also while the run goes on."""
    place = Folder.of(as_given(out))
    run = read_run(place)
    with progress(f"merging {place.place}") as step:
        if verify:
            verified(place, run, step)
        found = merge_audit(place, request_of(place, run), step) if run.verb == "audit" else merge_run(place)
    tell(found, json)
