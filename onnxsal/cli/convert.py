"""``onnxsal convert``: a model goes in, the same model with its explanation built in comes out."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import onnx
import typer

from onnxsal.cli import options as o
from onnxsal.cli.shell import progress, say, show, show_json
from onnxsal.errors import OutputError
from onnxsal.facade.adopt import original_outputs
from onnxsal.facade.convert import DEFAULT_METHOD, Conversion, conversion
from onnxsal.graph.assemble import set_metadata
from onnxsal.graph.load import load_model, save_model
from onnxsal.runtime.beside import as_metadata


def convert(
    model: o.ModelPath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Where the converted model is written.", show_default=False)],
    method: o.MethodName = None,
    rules: o.Rules = None,
    input: o.Input = None,
    output: o.Output = None,
    target: o.Target = None,
    score: o.Score = None,
    batched: o.Batched = None,
    layout: o.Layout = None,
    prefix: o.Prefix = "",
    components: Annotated[bool, typer.Option("--components", help="Add an output for each part of the explanation.")] = False,
    quantize: o.Quantize = None,
    preprocess: o.PreprocessFile = None,
    labels: o.LabelsFile = None,
    on: o.On = None,
    param: o.Parameters = None,
    json: o.Json = False,
) -> None:
    """Build the explanation into a model: one self-contained ONNX file of standard operators."""
    chosen = o.chosen_method(method, rules) or DEFAULT_METHOD
    feed = o.feeding(model, preprocess, labels)
    given = o.conversion_options(feed, param, input, output, score, quantize, batched, layout)
    if out.resolve() == model.resolve():
        raise OutputError(f"'{out}' is the model itself, which is never overwritten. Give another name.")
    begin = time.perf_counter()
    with progress(f"converting {model.name}"):
        made = conversion(
            model, chosen, target=feed.target(target), prefix=prefix, components=components, example=o.example_of(on, feed), **given
        )
        set_metadata(made.proto, as_metadata(feed.preprocess, feed.labels))
        save_model(made.proto, out)
    facts = _facts(made, model, out, time.perf_counter() - begin)
    show_json(facts) if json else show(_told(facts))
    if made.question.doubt:
        say(made.question.doubt, "warning")


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
        ("optional inputs", ", ".join(facts["optional_inputs"])),
        *(("pass", line) for line in facts["passes"]),
        ("size", megabytes),
        ("time", f"{facts['seconds']:.2f} s"),
    ]
    return "\n".join([facts["converted"], *(f"  {name:<15}  {text}" for name, text in lines)])


def size_on_disk(path: Path) -> int:
    """Bytes of a model file and of the files that hold its weights."""
    outside: set[str] = set()
    for tensor in _light(path).graph.initializer:
        outside |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    return path.stat().st_size + sum((path.parent / name).stat().st_size for name in outside)


def _light(path: Path) -> onnx.ModelProto:
    """The model without the weights it keeps in other files."""
    return onnx.load(path, format="protobuf", load_external_data=False) if path.stat().st_size < 2**31 else load_model(path)
