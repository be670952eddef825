"""Check the graph of an exported network before onnxruntime reads it: what it contains, and how large it is.

A graph can be from anywhere, and onnxruntime has no limits of its own. Without control flow and with every
size known from the shapes of the inputs, a graph ends and its memory is bounded.
"""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper, shape_inference

MAX_NODES = 20_000
MAX_ELEMENTS, MAX_TOTAL_ELEMENTS = 16_000_000, 500_000_000
"""Limits of one value and of all values that a graph computes, per example."""
MAX_CONSTANT_ELEMENTS = 1000
"""Constants up to this size may be shapes, which are needed to know the size of values."""
NOT_LARGER = {
    "Concat", "GatherElements", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
"""Operators whose output has at most as many elements as their inputs together."""


def check_contents(model: onnx.ModelProto) -> None:
    """Raise ValueError unless a model has standard operators, finite weights and no control flow."""
    foreign = {opset.domain for opset in model.opset_import} | {node.domain for node in model.graph.node}
    if (foreign := foreign - {"", "ai.onnx"}) or model.functions or model.training_info:
        raise ValueError(
            f"it has operators outside the ONNX standard, which are not allowed: "
            f"{', '.join(sorted(foreign)) or 'functions'}"
        )
    if len(model.graph.node) > MAX_NODES:
        raise ValueError(f"it has {len(model.graph.node)} operators; allowed are {MAX_NODES}")
    for node in model.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ValueError(f"it has the operator {node.op_type}, but control flow is not allowed")
    for tensor in _iterate_tensors(model.graph):
        _check_tensor(tensor)


def check_sizes(part: onnx.ModelProto, examples: int) -> None:
    """Raise ValueError unless the values that a graph computes for a batch of `examples` are small.

    The first dimension of the inputs of `part` is symbolic. A value has to have a size that follows from the
    shapes of the inputs.
    """
    skeleton = _replace_weights(part)
    for graph_input in part.graph.input:
        kind = graph_input.type.tensor_type
        shape = [examples if dim.dim_param else dim.dim_value for dim in kind.shape.dim]
        skeleton.graph.input.append(helper.make_tensor_value_info(graph_input.name, kind.elem_type, shape))
    try:
        inferred = shape_inference.infer_shapes(skeleton, strict_mode=True, data_prop=True).graph
    except shape_inference.InferenceError as error:
        raise ValueError(f"its values do not fit together: {error}") from error
    sizes = dict(_measure_values([*inferred.input, *inferred.value_info, *inferred.output]))
    sizes |= {tensor.name: math.prod(tensor.dims) for tensor in inferred.initializer}
    total = 0
    for node in part.graph.node:
        if unknown := [name for name in node.input if name and name not in sizes]:
            raise ValueError(f"{unknown[0]} is used before it is computed")
        inputs = [sizes[name] for name in node.input if name]
        for name in filter(None, node.output):
            if name not in sizes and node.op_type not in (*NOT_LARGER, "Gather"):
                raise ValueError(f"the size of the operator {node.op_type} is unknown before it runs")
            size = sizes.setdefault(name, math.prod(inputs) if node.op_type == "Gather" else sum(inputs))
            total += size
            if size > examples * MAX_ELEMENTS or total > examples * MAX_TOTAL_ELEMENTS:
                raise ValueError(
                    f"for one example it computes a value of more than {MAX_ELEMENTS} numbers, or more than "
                    f"{MAX_TOTAL_ELEMENTS} in total"
                )


def _replace_weights(part: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model without inputs, in which large constants are inputs: only their shapes matter."""
    small = [tensor for tensor in part.graph.initializer if math.prod(tensor.dims) <= MAX_CONSTANT_ELEMENTS]
    large = [tensor for tensor in part.graph.initializer if math.prod(tensor.dims) > MAX_CONSTANT_ELEMENTS]
    inputs = [helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims) for tensor in large]
    graph = helper.make_graph(part.graph.node, "sizes", inputs, part.graph.output, small)
    model = helper.make_model(graph, opset_imports=part.opset_import)
    model.ir_version = part.ir_version
    return model


def _measure_values(values: Iterable[onnx.ValueInfoProto]) -> Iterator[tuple[str, int]]:
    """Yield the name and the number of elements of each value of a known shape."""
    for value in values:
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            yield value.name, math.prod(dim.dim_value for dim in dims)


def _check_tensor(tensor: TensorProto) -> None:
    """Raise ValueError unless a constant is whole, in the file, and finite."""
    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        raise ValueError("it refers to other files for its weights; a model must be one file")
    if any(dim < 0 for dim in tensor.dims) or math.prod(tensor.dims) > 2 * tensor.ByteSize():
        raise ValueError(f"the constant {tensor.name} is shorter than its shape")
    values = numpy_helper.to_array(tensor)
    if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
        raise ValueError(f"the constant {tensor.name} is not finite")


def _iterate_tensors(graph: onnx.GraphProto) -> Iterator[TensorProto]:
    """Yield every tensor that is stored in a graph without subgraphs."""
    if graph.sparse_initializer:
        raise ValueError("it has sparse constants, which are not allowed")
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type in (AttributeProto.SPARSE_TENSOR, AttributeProto.SPARSE_TENSORS):
                raise ValueError("it has sparse constants, which are not allowed")
            yield from ([attribute.t] if attribute.HasField("t") else attribute.tensors)
