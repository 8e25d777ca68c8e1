"""``onnxsal convert``: a model goes in, the same model with its explanation built in comes out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxsal.ask.request import RUN, Ask
from onnxsal.cli import options as o
from onnxsal.cli.shell import say, show, show_json
from onnxsal.disk import replaces
from onnxsal.facade.adopt import original_outputs
from onnxsal.facade.convert import Conversion, conversion
from onnxsal.facade.target import FIXED, OPTIONAL, REQUIRED
from onnxsal.graph.assemble import set_metadata
from onnxsal.graph.load import save_model, size_on_disk
from onnxsal.runtime.beside import as_metadata
from onnxsal.runtime.columns import as_column_metadata, columns_beside
from onnxsal.runtime.progress import progress

TOLD = {
    REQUIRED: "fed in every run, as input '{}target': -1 is the predicted one",
    OPTIONAL: "fed as input '{}target', by ONNX Runtime's own API, or built in",
    FIXED: "built in; no other can be explained",
}
"""How a converted model is told the class."""

MAPS = (
    "output {} is no tensor but a list, as skl2onnx writes probabilities by default: ONNX Runtime returns it in Python and C++, "
    "onnxruntime-node and onnxruntime-web do not. For these export the original with zipmap=False: "
    "to_onnx(model, X, options={{'zipmap': False}})."
)
"""Said of outputs that are lists of maps from names to numbers."""


@o.takes_ask(without=RUN)
def convert(
    ask: Ask,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the converted model is written.", show_default=False)],
    json: o.Json = False,
) -> None:
    """Build the explanation into a model: one self-contained ONNX file of standard operators."""
    model = Path(str(ask.model))
    replaces(out)
    begin = time.perf_counter()
    with progress(f"converting {model.name}"):
        made = conversion(ask)
        set_metadata(made.proto, as_metadata(ask.preprocess, ask.labels) | as_column_metadata(columns_beside(ask.model)))
        save_model(made.proto, out)
    facts = _facts(made, model, out, time.perf_counter() - begin)
    show_json(facts) if json else show(_told(facts))
    if made.question.doubt:
        say(made.question.doubt, "warning")
    if maps := [o.name for o in made.proto.graph.output if o.type.HasField("sequence_type")]:
        say(MAPS.format(", ".join(map(repr, maps))))


def _facts(made: Conversion, model: Path, out: Path, seconds: float) -> dict[str, Any]:
    """What was done, for people and machines."""
    own = original_outputs(made.proto, made.prefix)
    weights = {i.name for i in made.proto.graph.initializer}
    before, after = size_on_disk(model), size_on_disk(out)
    return {
        "model": str(model),
        "converted": str(out),
        "method": made.method.name,
        "parameters": made.settings,
        "input": made.question.x.name,
        "output": made.question.output,
        "prefix": made.prefix,
        "target_input": made.target_input,
        "optional_inputs": [i.name for i in made.proto.graph.input if i.name in weights],
        "outputs": own,
        "added_outputs": [o.name for o in made.proto.graph.output if o.name not in own],
        "passes": made.log,
        "bytes": before,
        "converted_bytes": after,
        "size_ratio": after / before,
        "seconds": seconds,
    }


def _told(facts: dict[str, Any]) -> str:
    megabytes = f"{facts['bytes'] / 1e6:.2f} MB -> {facts['converted_bytes'] / 1e6:.2f} MB ({facts['size_ratio']:.3f} x)"
    settings = ", ".join(f"{k}={v}" for k, v in facts["parameters"].items())
    lines = [
        ("explains", f"'{facts['output']}' at '{facts['input']}' by {facts['method']} ({settings})"),
        ("outputs", f"{', '.join(facts['outputs'])}; added: {', '.join(facts['added_outputs'])}"),
        ("class", TOLD[facts["target_input"]].format(facts["prefix"])),
        *([("optional inputs", ", ".join(facts["optional_inputs"]))] if facts["optional_inputs"] else []),
        *(("pass", line) for line in facts["passes"]),
        ("size", megabytes),
        ("time", f"{facts['seconds']:.2f} s"),
    ]
    return "\n".join([facts["converted"], *(f"  {name:<15}  {text}" for name, text in lines)])
