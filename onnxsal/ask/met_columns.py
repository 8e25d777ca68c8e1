"""Where a model is explained that is fed with an input for each column of a table."""

from __future__ import annotations

from onnxsal.facts.grounds import Found, Ground
from onnxsal.facts.table_tensor import slots_of, table_at, table_tensor
from onnxsal.graph import Model, Value
from onnxsal.graph.infer import shape_text


def columns_meet(model: Model) -> str | None:
    """The tensor where the columns meet, of a model that has an input for each of several; ``None`` of any other."""
    slots = slots_of(model)
    if len(slots) < 2 or len({slot.input for slot in slots}) < len(slots) or (found := table_tensor(model)) is None:
        return None
    return found.name


def of_columns(model: Model, x: Value) -> Found | None:
    """That an explained inner tensor holds the columns that the model is fed with."""
    table = None if x.name in model.input_names else table_at(model, x.name)
    if table is None:
        return None
    columns = ", ".join(f"'{name}'" for name in dict.fromkeys(slot.input for slot in table.slots if slot is not None))
    return Found("input", f"'{x.name}' {shape_text(x.shape)}", Ground.PROVED, f"each element of it is made of one column of {columns}")
