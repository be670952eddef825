"""Graphs that must not reach onnxruntime: control flow, other files, and values of unknown or huge size."""

from collections.abc import Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fer_batch.model.onnx.check import check_contents, check_sizes

BATCH = 4


def make_model(
    nodes: Sequence[onnx.NodeProto], constants: Sequence[TensorProto] = (), domain: str = ""
) -> onnx.ModelProto:
    """Return a model that maps x `(N, 8) float` to y."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 8])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, 18)])


def constant(name: str, values: Sequence[float], dtype: type = np.int64) -> TensorProto:
    return numpy_helper.from_array(np.array(values, dtype), name)


def make_endless_loop() -> onnx.NodeProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Identity", ["a"], ["b"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, None),
        ],
    )
    return helper.make_node("Loop", ["", "true", "x"], ["y"], body=body)


def make_external_constant() -> TensorProto:
    tensor = TensorProto(name="w", dims=[4], data_type=TensorProto.FLOAT, data_location="EXTERNAL")
    tensor.external_data.add(key="location", value="/etc/passwd")
    return tensor


RELU = helper.make_node("Relu", ["x"], ["y"])
EMPTY_TENSOR = TensorProto(name="w", dims=[1 << 20, 1 << 20], data_type=TensorProto.FLOAT, raw_data=b"")
CONTENTS = {
    "endless loop": (make_model([make_endless_loop()]), "control flow"),
    "foreign domain": (make_model([helper.make_node("Foreign", ["x"], ["y"], domain="com.x")]), "com.x"),
    "foreign operators": (make_model([RELU], domain="com.x"), "com.x"),
    "external": (make_model([RELU], [make_external_constant()]), "other files"),
    "external in a node": (
        make_model([helper.make_node("Constant", [], ["y"], value=make_external_constant())]),
        "other files",
    ),
    "shape without data": (make_model([RELU], [EMPTY_TENSOR]), "shorter than its shape"),
    "negative shape": (
        make_model([RELU], [TensorProto(name="w", dims=[-1], data_type=TensorProto.FLOAT)]),
        "shorter than its shape",
    ),
    "NaN": (make_model([RELU], [constant("w", [float("nan")], np.float32)]), "not finite"),
    "many operators": (make_model([RELU] * 20_001), "20001 operators"),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_forbidden_content_is_refused(name: str) -> None:
    model, message = CONTENTS[name]
    with pytest.raises(ValueError, match=message):
        check_contents(model)


def test_sparse_constants_are_refused() -> None:
    model = make_model([RELU])
    model.graph.sparse_initializer.add().dims.append(8)
    with pytest.raises(ValueError, match="sparse"):
        check_contents(model)


def test_usual_graph_is_accepted() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Reshape", ["a", "shape"], ["b"]),
        helper.make_node("Shape", ["b"], ["size"]),
        helper.make_node("Expand", ["one", "size"], ["c"]),
        helper.make_node("Add", ["b", "c"], ["y"]),
    ]
    weights = numpy_helper.from_array(np.ones((8, 500), np.float32), "w")
    model = make_model(nodes, [weights, constant("shape", [-1, 5, 100]), constant("one", [1], np.float32)])
    check_contents(model)
    check_sizes(model, BATCH)


SIZES = {
    "expanded": [helper.make_node("Expand", ["one", "huge"], ["y"])],
    "repeated": [
        helper.make_node("Tile", ["x", "huge"], ["t"]),
        helper.make_node("ReduceMax", ["t"], ["y"]),
    ],
    "filled": [helper.make_node("ConstantOfShape", ["huge"], ["y"])],
    "size from values": [
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["whole"], ["largest"], keepdims=0),
        helper.make_node("Range", ["zero", "largest", "step"], ["r"]),
        helper.make_node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
    ],
    "size from the batch": [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Concat", ["size"] * 6, ["sizes"], axis=0),
        helper.make_node("ConstantOfShape", ["sizes"], ["y"]),
    ],
    "count of values": [
        helper.make_node("NonZero", ["x"], ["n"]),
        helper.make_node("Cast", ["n"], ["y"], to=TensorProto.FLOAT),
    ],
    "out of order": [
        helper.make_node("Identity", ["later"], ["y"]),
        helper.make_node("Relu", ["x"], ["later"]),
    ],
    "many": [helper.make_node("Expand", ["one", "large"], [f"e{number}"]) for number in range(40)],
}


@pytest.mark.parametrize("name", SIZES)
def test_graph_of_huge_or_unknown_size_is_refused(name: str) -> None:
    constants = [
        constant("huge", [1 << 30, 8]),
        constant("large", [1_900_000 * BATCH, 8]),
        constant("one", [1], np.float32),
        numpy_helper.from_array(np.array(0), "zero"),
        numpy_helper.from_array(np.array(1), "step"),
    ]
    with pytest.raises(ValueError, match=r"more than|unknown|do not fit"):
        check_sizes(make_model(SIZES[name], constants), BATCH)
