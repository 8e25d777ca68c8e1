"""How large a thing in somebody else's file may be: bounds that no real file meets, each raised by a variable of the environment."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, fields

from onnxsal.errors import InputError, OnnxsalError


def _bound(default: int, unit: str) -> int:
    bound: int = field(default=default, metadata={"unit": unit})
    return bound


def _memory() -> int:
    """Bytes of memory that this machine has (16 GiB where the system does not tell)."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # not on Windows
        return 2**34


@dataclass(frozen=True)
class Limits:
    """Each limit by its name. The variable ``ONNXSAL_MAX_<NAME>`` raises it: ``ONNXSAL_MAX_PIXELS=300000000``."""

    text_bytes: int = _bound(2**26, "bytes")
    """A JSON file or a list of labels, which are read whole."""
    toml_bytes: int = _bound(2**22, "bytes")
    """A TOML file: rules, preprocessing, a manifest, a form."""
    table_bytes: int = _bound(2**30, "bytes")
    """A CSV table of samples, or the state of a run."""
    table_columns: int = _bound(2**14, "columns")
    """A table of rows to be explained, as many as a spreadsheet has."""
    nesting: int = _bound(64, "levels")
    """How deep tables and lists may lie in each other, or how many names one dotted key may join."""
    name_length: int = _bound(1000, "characters")
    """A key of a table."""
    picture_pixels: int = _bound(200_000_000, "pixels")
    """A picture as its file says it is, before it is decoded."""
    pixels: int = _bound(2**26, "pixels")
    """A picture after it was resized or cropped: 8192 x 8192."""
    array_bytes: int = _bound(_memory(), "bytes")
    """Arrays that are read into memory together: as much as this machine has."""
    packing: int = _bound(200, "times its packed size")
    """How much larger an archive of more than 256 MiB may be than its file; numbers that were measured pack two to ten times."""
    extends: int = _bound(8, "tables")
    """How many rule files may extend one another."""
    nodes: int = _bound(20_000, "nodes")
    """A model, its functions inlined and subgraphs included. The largest in docs/models.md has 1,450, a decoder of 80 layers some 8,000."""
    tensor_name_length: int = _bound(4096, "characters")
    """The name of a node or tensor: exporters write the path of a module, some hundreds."""
    axes: int = _bound(32, "axes")
    """A tensor; no operator needs more than 8."""
    tensor_bytes: int = _bound(_memory(), "bytes")
    """A tensor whose sizes follow from the model alone, by whatever node it is made: as much as this machine has."""
    constant_bytes: int = _bound(2**30, "bytes")
    """The same of one that no input can change: ONNX Runtime computes it when it opens the model. The largest masks take 64 MiB."""
    optimised_nodes: int = _bound(10_000, "nodes")
    """A converted model, for ``check`` to compare its outputs as ONNX Runtime optimises it, whose time grows with the square of them."""
    drawn: int = _bound(2**26, "random numbers")
    """One input, to run a model on random data: a volume of 400 x 400 x 400."""
    probe_seconds: int = _bound(60, "seconds")
    """The runs of one session by which something is found out about a model."""
    loop_seconds: int = _bound(2, "seconds")
    """The same, of a model that has loops: 300 bytes can ask for 2^60 turns."""
    steps: int = _bound(1_000_000, "steps")
    """A loop that is walked back, where its number of steps is a constant of the file: what each step is given is kept until then."""


def limit(name: str) -> int:
    """The bound of that name: the default, or what the environment says. Raises ``InputError`` where that is no whole number."""
    variable = variable_of(name)
    text = os.environ.get(variable)
    if text is None:
        return int(getattr(Limits, name))
    if not text.isdecimal() or len(text) > 18:
        raise InputError(f"{variable}={text!r} is no whole number.")
    return int(text)


def variable_of(name: str) -> str:
    """The variable of the environment that raises a limit."""
    return f"ONNXSAL_MAX_{name.upper()}"


def refuse_over(name: str, found: float, what: str, error: type[OnnxsalError] = InputError) -> None:
    """Raise ``error`` where ``found`` is more than the limit ``name``; the message says how that is raised."""
    most = limit(name)
    if found > most:
        unit = next(f.metadata["unit"] for f in fields(Limits) if f.name == name)
        raise error(f"{what}: {found:,.0f} {unit} are more than {most:,}. {variable_of(name)}=N sets another limit.")
