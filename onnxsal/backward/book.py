"""The book of a walk: what of the relevance did not go on to the input, per sample.

It stands below all rules, so that a sample's share is told in one way whatever axis of a tensor counts the samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxsal.errors import UnsupportedError
from onnxsal.facts.axes import Layout
from onnxsal.graph import Emit, Value
from onnxsal.graph.helpers import dim_of


@dataclass
class Book:
    """What relevance lost on its way, per sample [N] (each with its element type), in the order of the walk.

    ``bias`` is what biases took, and constants that were joined to activations; ``leak`` what stabilisers and dead sums lost. ``samples``
    is the explained input, whose first axis counts the samples (``None``: all is one sample), ``layouts`` where the samples are in every
    tensor on the way.
    """

    samples: Value | None
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    bias: list[tuple[Value, int]] = field(default_factory=list)
    leak: list[tuple[Value, int]] = field(default_factory=list)

    @property
    def alone(self) -> bool:
        """Whether there is one sample, whatever is fed."""
        return self.samples is None or self.samples.dim(0) == 1

    def tells(self, at: Value) -> bool:
        """Whether it is known where the samples are in a tensor on the way."""
        return self.alone or self.layouts.get(at.name, Layout(None)).samples is not None

    def layout(self, at: Value) -> Layout:
        """Where they are. Raises ``UnsupportedError`` where that is not known."""
        if not self.tells(at):
            raise UnsupportedError(
                f"it is not known which axis of '{at.name}' counts the samples, and so not whose relevance is lost there. "
                "Export the model with a symbolic batch, or with a batch of 1."
            )
        return self.layouts.get(at.name, Layout(None, False))

    def total(self, op: Emit, at: Value, a: Value, b: Value | None = None) -> Value:
        """sum a, or sum a * b, per sample -> [N], of tensors that lie like ``at``, a tensor of the model.

        (ONNX Runtime's MatMul of a row and a column is far slower.)
        """
        values = a if b is None else op.Mul(a, b)
        if self.samples is None or self.alone:
            return op.ReduceSum(op.Reshape(values, [1, -1]), [1], keepdims=0)
        return sum_of_samples(op, values, at.rank, self.layout(at), self.samples)


def sum_of_samples(op: Emit, values: Value, rank: int, layout: Layout, x: Value) -> Value:
    """The sum over all elements of each sample -> [N], in the order of the first axis of ``x``, which counts them."""
    samples, size = layout.samples, x.dim(0)
    assert samples is not None
    if samples == 0 and not layout.runs:
        rows = [size, -1] if size is not None else op.Concat(dim_of(op, x, 0), [-1], axis=0)
        return op.ReduceSum(op.Reshape(values, rows), [1], keepdims=0)
    others = [axis for axis in range(rank) if axis != samples]
    total = op.ReduceSum(values, others, keepdims=0) if others else values
    return total if layout.whole else sum_of_parts(op, total, layout, x)


def sum_of_parts(op: Emit, parts: Value, layout: Layout, x: Value) -> Value:
    """The sum over the parts of each sample -> [N], of a vector along an axis that counts parts of samples."""
    count, runs = dim_of(op, x, 0), layout.runs
    table = op.Reshape(parts, op.Concat([-1], count, [runs], axis=0) if runs else op.Concat(count, [-1], axis=0))
    return op.ReduceSum(table, [0, 2] if runs else [1], keepdims=0)
