"""Forms that the standard allows and few files use, turned into the usual one on reading: negative sizes and sparse tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxsal.errors import ModelError
from onnxsal.protos import graphs_of

LARGEST = 2**31 - 1
"""A tensor's bytes are one field of a protobuf message, which holds less than 2 GiB."""


def in_usual_form(proto: onnx.ModelProto) -> onnx.ModelProto:
    """``proto``, changed in place: sizes below 0 are open, and sparse tensors dense, as ONNX Runtime too reads them.

    Raises ``ModelError`` for a sparse tensor that contradicts itself or is too large to be written out.
    """
    for graph in graphs(proto):
        for value in (*graph.input, *graph.output, *graph.value_info):
            _open_sizes(value.type)
        for sparse in graph.sparse_initializer:
            graph.initializer.append(dense(sparse))
        del graph.sparse_initializer[:]
    for function in proto.functions:
        for value in function.value_info:
            _open_sizes(value.type)
    for node in nodes(proto):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.SPARSE_TENSOR and attribute.name == "sparse_value":
                attribute.CopyFrom(helper.make_attribute("value", dense(attribute.sparse_tensor)))
    return proto


def graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The graph of a model and every graph inside it, those of its functions included."""
    yield proto.graph
    yield from _inner(proto.graph.node)
    for function in proto.functions:
        yield from _inner(function.node)


def _inner(of: Iterable[onnx.NodeProto]) -> Iterator[onnx.GraphProto]:
    for node in of:
        for graph in graphs_of(node):
            yield graph
            yield from _inner(graph.node)


def nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Every node of a model, wherever it stands."""
    for graph in graphs(proto):
        yield from graph.node
    for function in proto.functions:
        yield from function.node


def tensors(proto: onnx.ModelProto) -> Iterator[TensorProto]:
    """Every tensor that a model holds: weights, the parts of sparse ones, attributes."""
    for graph in graphs(proto):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
    for node in nodes(proto):
        for attribute in node.attribute:
            yield from (t for t in (attribute.t, *attribute.tensors) if t.data_type)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (t for t in (sparse.values, sparse.indices) if t.data_type)


def _open_sizes(kind: onnx.TypeProto) -> None:
    """PaddlePaddle writes -1 where it leaves a size open; ONNX has no number for that, only the absence of one."""
    for name in ("tensor_type", "sparse_tensor_type"):
        if kind.HasField(name):
            for dim in getattr(kind, name).shape.dim:
                if dim.HasField("dim_value") and dim.dim_value < 0:
                    dim.ClearField("dim_value")
    for name in ("sequence_type", "optional_type"):
        if kind.HasField(name):
            _open_sizes(getattr(kind, name).elem_type)


def dense(sparse: onnx.SparseTensorProto) -> TensorProto:
    """The tensor written out: indices are positions [NNZ] in the flattened tensor, or [NNZ, rank]."""
    name, shape = sparse.values.name, tuple(sparse.dims)
    try:
        values, at = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        size = int(np.prod(shape, dtype=object))
        if size * values.itemsize > LARGEST:
            raise ModelError(f"sparse tensor '{name}' {list(shape)} would take {size * values.itemsize:,} bytes; {LARGEST:,} fit.")
        flat = at if at.ndim == 1 else np.ravel_multi_index(tuple(at.T), shape)
        if flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < size:
            raise ValueError(f"an index lies outside its shape {list(shape)}")
        full = np.full(size, "", object) if values.dtype == object else np.zeros(size, values.dtype)
        full[flat] = values.reshape(-1)
    except (ValueError, IndexError, TypeError) as error:
        raise ModelError(f"sparse tensor '{name}' contradicts itself: {error}. Export the model again, with dense weights.") from error
    return numpy_helper.from_array(full.reshape(shape), name)
