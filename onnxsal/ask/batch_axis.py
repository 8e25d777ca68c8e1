"""Which inputs hold one row per sample. Decided here and nowhere else; everything that needs to know asks the ``Question``.

Proved from the graph where it can be (``facts/axes.py``), else seen in a run: one row after the other changes, and the scores of the
others must keep still.
Axis 0 counts the samples, or all that is fed is one sample. What may be neither is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from onnxsal.errors import TargetError
from onnxsal.facts.axes import origins, row_axes
from onnxsal.facts.grounds import Found, Ground
from onnxsal.facts.part import part_of
from onnxsal.facts.solve import ancestors
from onnxsal.facts.table_tensor import table_at
from onnxsal.graph import Model, Value
from onnxsal.graph.infer import Dim, Shape, shape_text
from onnxsal.large import Apart
from onnxsal.ops.quantize import fix_grids
from onnxsal.ops.registry import known
from onnxsal.runtime.rows import Observation, watch_rows

HOW = (
    "Feed one sample at a time and say that what is fed is one (batched=False in Python, --one-sample), "
    "or export the model with the samples first in both."
)


def sample_inputs(
    model: Model, x: Value, start: Value, batched: bool | None = None, example: Mapping[str, np.ndarray] | None = None
) -> tuple[tuple[str, ...], Found]:
    """The graph inputs that hold one row per sample (none where the whole input is one sample), and how that is known.

    ``batched`` says which it is where the model does not tell; what contradicts the model is refused. ``example`` is data of some inputs
    to run the model on. Raises ``TargetError``.
    """
    if batched is False:
        return (), Found("samples", ONE, Ground.TOLD)
    case = _Case(model, x, start, batched is True, example or {})
    names = case.decide()
    value = f"axis 0 of {', '.join(map(repr, names))} counts samples" if names else ONE
    return names, Found("samples", value, case.ground, case.why)


SHARED_GRID = (
    "apart, but for the grids that the model takes from all of the data: what is beside a sample in its batch moves its numbers by "
    "rounding; feed one at a time where that matters"
)

ONE = "all that is fed is one sample"


class _Case:
    """One model, explained tensor and scores, with what is found out about them."""

    def __init__(self, model: Model, x: Value, start: Value, said: bool, example: Mapping[str, np.ndarray]) -> None:
        self.model, self.x, self.start, self.said, self.example = model, x, start, said, example
        before, self.used = ancestors(model, [x.name]), ancestors(model, [x.name, start.name])
        near = [n for n in model.input_names if n in before and model.value(n).shape != ()]
        self.main = x.name if x.name in model.input_names else next(iter(near), "")
        self.inputs = {n: s for n in model.input_names if (s := model.value(n).shape)}
        self.ground, self.why = Ground.PROVED, ""

    def decide(self) -> tuple[str, ...]:
        x, start = self.x.shape, self.start.shape
        if x is not None and self.main and start != () and x != ():
            return self._decide(x, start)
        if self.said:
            raise self._refused("one of them has no axis at all, so none counts samples")
        return (self.main,) if x is None and start else ()

    def _decide(self, x: Shape, start: Shape | None) -> tuple[str, ...]:
        size = (self.inputs.get(self.main) or x)[0]
        if self.x.name not in ancestors(self.model, [self.start.name]):
            return (self.main,)  # no path to the scores: the plan says so
        rows = self._rows(size)
        fixed = start[0] if start else None
        if size == 1 == fixed:
            self.why = "a batch of one"
            return rows  # no other sample to keep apart from
        if isinstance(size, int) and isinstance(fixed, int) and size != fixed:
            return self._one(start, f"axis 0 has {size} elements in one and {fixed} in the other")
        for grids in (False, True):
            for some in dict.fromkeys([rows, (self.main,)]):
                axes = row_axes(self.model, some, fixed_grids=grids)
                if axes.get(self.start.name) == 0 == axes.get(self.x.name):
                    self.why = SHARED_GRID if grids else ""
                    return rows if self._table().issuperset(rows) else some
        known = origins(self.model, self.x, self.start.name)
        if size == 1 and not self.said and any(label == 0 and place for place, label in known.items()):
            self.why = "a batch of one, which is no longer the first axis of the scores"
            return ()
        if isinstance(fixed, str) and fixed != size and fixed in x[1:]:
            raise self._refused(f"the samples '{fixed}' are axis {x.index(fixed, 1)} of the input and axis 0 of the scores")
        if fixed != 1 and known.get(0):
            raise self._refused(f"axis 0 of the scores is axis {known[0]} of the input")
        return self._watched(rows, size, start)

    def _rows(self, size: Dim) -> tuple[str, ...]:
        """Inputs with as many rows as the main one: of the same declared size, or, where the names leave it open, as a run shows."""
        same = [n for n, s in self.inputs.items() if n == self.main or (s[0] == size is not None)]
        open_ones = [n for n, s in self.inputs.items() if n not in same and not isinstance(s[0], int)]
        if open_ones:
            part = self._part()
            count = size if isinstance(size, int) else 2
            others = {n: count for n in open_ones if n in self.used}
            plain = watch_rows(part, (), others, count, self.example)
            for name in open_ones:
                other = None
                if name in self.used and plain is not None:  # with what ran before: nothing but the rows of this one differs then
                    other = watch_rows(part, (), {**others, name: count + 1}, count, self.example, plain.choice)
                if other is None or other.shapes[self.start.name][:1] != (count,):
                    same.append(name)
        return tuple(n for n in self.inputs if n in same)

    def _table(self) -> set[str]:
        """The inputs that hold columns of an explained table: each has a row for every one of its rows."""
        table = table_at(self.model, self.x.name)
        return set() if table is None else {slot.input for slot in table.slots if slot is not None}

    def _part(self) -> Apart:
        inner = [] if self.x.name in self.inputs else [self.x.name]
        return part_of(self.model, list(dict.fromkeys([self.start.name, *inner])))

    def _watched(self, rows: tuple[str, ...], size: Dim, start: Shape | None) -> tuple[str, ...]:
        """What a run shows, for the inputs of the same size, or for the main one alone."""
        part, seen = self._part(), None
        for grids in (False, True):
            if grids and not fix_grids(part.light.graph):
                break
            for some in dict.fromkeys([rows, (self.main,)]):
                seen = watch_rows(part, some, None, 3, self.example)
                if seen is not None:
                    self._saw(seen, "the other rows of the scores keep still when one row of the input changes")
                if seen is not None and seen.apart and self._as_long(seen):
                    self.why += f": {SHARED_GRID}" if grids else ""
                    return some
        if seen is None:
            return self._unseen(rows, size, start)
        if not self._as_long(seen):
            return self._one(start, "they differ in the length of axis 0", seen)
        return self._one(start, "the scores of one row change when another row of the input does", seen)

    def _saw(self, seen: Observation, what: str) -> None:
        self.ground, self.why = Ground.SEEN, f"{what}, {'on the data given' if seen.given else 'on random input'}"

    def _as_long(self, seen: Observation) -> bool:
        lengths = {seen.shapes[n][:1] for n in (self.main, self.x.name, self.start.name)}
        return len(lengths) == 1 and () not in lengths

    def _unseen(self, rows: tuple[str, ...], size: Dim, start: Shape | None) -> tuple[str, ...]:
        """The model runs on no random input here: its declarations decide, or the caller."""
        vector = start is not None and len(start) == 1
        part = (n for n in self.model.nodes if self.used.intersection(n.proto.output))
        if any(not known(n.domain, n.op_type) for n in part):
            return rows  # nobody knows this operator; the plan says so
        self.ground, self.why = Ground.TOLD, "" if self.said else "by the sizes that the model declares; it does not run here"
        if self.said or (start and start[0] == size is not None and not (vector and isinstance(size, int))):
            return rows
        if vector and start and isinstance(start[0], int):
            return ()
        raise self._refused(
            "nothing says whether axis 0 counts samples in both, and the model does not run here on random input, which would tell. "
            "Say that it does: batched=True (--batched)"
        )

    def _one(self, start: Shape | None, why: str, seen: Observation | None = None) -> tuple[str, ...]:
        """All that is fed is one sample, if nothing speaks for samples along another axis."""
        if self.said:
            raise self._refused(why)
        if seen is not None:
            self._saw(seen, why)
        else:
            self.why = why
        x = seen.shapes[self.x.name] if seen else self.x.shape or ()
        found = seen.shapes[self.start.name] if seen else start or ()
        length = found[0] if found else 1
        first = start[0] if start else None
        kind = self.x.shape or (None,) * len(x)  # a number that is declared does not stand for an open size that a run made as large
        moved = [a for a in range(1, len(x)) if x[a] == length and (first is None or isinstance(kind[a], int) == isinstance(first, int))]
        same = first is not None and first == (self.x.shape or (None,))[0]
        if moved and length != 1 and len(found) > 1:
            raise self._refused(f"{why}; axis {moved[0]} of the input is as long as axis 0 of the scores")
        declared = start is not None and all(isinstance(d, int) for d in start)
        row = len(found) == 1 and (declared or len(x) == 1 or not same)
        if row or length == 1 or not found or (declared and not same):
            return ()
        raise self._refused(why)

    def _refused(self, why: str) -> TargetError:
        x, start = (f"'{v.name}' {shape_text(v.shape)}" for v in (self.x, self.start))
        return TargetError(f"it is not clear what one sample is: the input is {x}, the scores are {start}, and {why}. {HOW}")
