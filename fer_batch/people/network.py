"""dlib's face recognition network, run by onnxruntime. dlib's own code takes 15 times the CPU time.

The network is that of Davis King 2017 ("High quality face recognition with deep metric learning"), a residual
network after He et al. 2016. Its weights are in the public domain (CC0).
"""

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, checker, helper, numpy_helper

DESCRIPTOR_SIZE = 128
CHIP_PX = 150
"""Side of the aligned face that the network takes."""
MEAN_RGB, SCALE = np.array([122.782, 117.001, 104.298], np.float32), np.float32(256)
"""The network takes (pixel - mean) / scale."""
STAGES = ((32, 3), (64, 4), (128, 3), (256, 3), (256, 1))
"""Channels and number of residual blocks of each stage. The first block of each stage but the first halves
the picture."""
LAYERS = 2 * (1 + 2 * sum(blocks for _, blocks in STAGES)) + 1
"""Number of layers with weights: convolutions, an affine layer after each, and the last layer."""
LAYER_MARKS = re.compile(rb"\x01\x05con_4|\x01\x07affine_|\x01\x04fc_2\x01\x80\x02\x00\x01")
"""Beginnings of the layers with weights in dlib's file, each followed by the tensor of its weights."""
TENSOR_VERSION = 2
IR_VERSION, OPSET = 8, 17


class DescriptorNetwork:
    """Turns aligned faces into descriptors, on one thread. `weights` is dlib's file.

    Raises ValueError if the file has other layers.
    """

    def __init__(self, weights: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        model = _build_model(_read_tensors(weights.read_bytes()))
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def describe(self, chip: np.ndarray) -> np.ndarray:
        """Return the descriptor `(128,) float64` of an aligned face, `(150, 150, 3) uint8` RGB."""
        pixels = (chip.astype(np.float32) - MEAN_RGB) / SCALE
        descriptor = self._session.run(None, {"face": pixels.transpose(2, 0, 1)[None]})[0]
        return np.asarray(descriptor[0], np.float64)


def _read_tensors(content: bytes) -> list[np.ndarray]:
    """Return the flat weights of the layers in dlib's file, from the input to the output, `float32` each.

    dlib writes an integer as the number of its bytes and the bytes, and a tensor as its version, four sizes
    and the values.
    """
    tensors = []
    for mark in LAYER_MARKS.finditer(content):
        place, header = mark.end(), []
        for _ in range(5):
            length = content[place]
            header.append(int.from_bytes(content[place + 1 : place + 1 + length], "little"))
            place += 1 + length
        if header[0] != TENSOR_VERSION:
            raise ValueError(f"unknown version of a tensor: {header[0]}")
        tensors.append(np.frombuffer(content, "<f4", int(np.prod(header[1:])), place))
    if len(tensors) != LAYERS:
        raise ValueError(f"{len(tensors)} layers with weights instead of {LAYERS}")
    return tensors


def _build_model(tensors: list[np.ndarray]) -> bytes:
    """Return the network as an ONNX file. `tensors` has a convolution, its affine layer, and so on."""
    graph = _Graph(tensors)
    name = graph.add_convolution("face", 3, 32, side=7, stride=2)
    name = graph.add("MaxPool", [graph.add("Relu", [name])], kernel_shape=[3, 3], strides=[2, 2])
    channels, side_px = 32, 35
    for stage, (width, blocks) in enumerate(STAGES):
        for block in range(blocks):
            halves = stage > 0 and block == 0
            shortcut = name
            name = graph.add("Relu", [graph.add_convolution(name, channels, width, stride=1 + halves)])
            name = graph.add_convolution(name, width, width)
            if halves:
                shortcut = graph.add("AveragePool", [shortcut], kernel_shape=[2, 2], strides=[2, 2])
                shortcut = graph.add_padding(shortcut, channels=width - channels)
                name = graph.add_padding(name, side=side_px // 2 - (side_px - 1) // 2)
                side_px //= 2
            name = graph.add("Relu", [graph.add("Add", [name, shortcut])])
            channels = width
    name = graph.add("Flatten", [graph.add("GlobalAveragePool", [name])])
    last = graph.add_constant(graph.take_tensor().reshape(channels, DESCRIPTOR_SIZE))
    graph.add("MatMul", [name, last], output="descriptor")
    return graph.to_bytes()


class _Graph:
    """An ONNX graph in the making, which takes the weights one after the other."""

    def __init__(self, tensors: list[np.ndarray]) -> None:
        self._tensors = iter(tensors)
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def take_tensor(self) -> np.ndarray:
        return next(self._tensors)

    def add(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{kind}{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def add_constant(self, values: np.ndarray) -> str:
        name = f"constant{len(self._constants)}"
        self._constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def add_convolution(self, name: str, channels: int, filters: int, side: int = 3, stride: int = 1) -> str:
        """Add a convolution and the affine layer after it, which becomes a part of its weights."""
        weights, affine = self.take_tensor(), self.take_tensor()
        kernel = weights[:-filters].reshape(filters, channels, side, side)
        gamma, beta = affine.reshape(2, filters)
        inputs = [self.add_constant(kernel * gamma[:, None, None, None])]
        inputs.append(self.add_constant(weights[-filters:] * gamma + beta))
        pad = side // 2 if stride == 1 else 0
        return self.add(
            "Conv", [name, *inputs], kernel_shape=[side] * 2, strides=[stride] * 2, pads=[pad] * 4
        )

    def add_padding(self, name: str, channels: int = 0, side: int = 0) -> str:
        """Add zeros behind the channels, and at the right and the bottom."""
        if not channels and not side:
            return name
        pads = self.add_constant(np.array([0, 0, 0, 0, 0, channels, side, side], np.int64))
        return self.add("Pad", [name, pads])

    def to_bytes(self) -> bytes:
        graph = helper.make_graph(
            self._nodes,
            "descriptor",
            [helper.make_tensor_value_info("face", TensorProto.FLOAT, [1, 3, CHIP_PX, CHIP_PX])],
            [helper.make_tensor_value_info("descriptor", TensorProto.FLOAT, [1, DESCRIPTOR_SIZE])],
            self._constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
        model.ir_version = IR_VERSION
        checker.check_model(model)
        content: bytes = model.SerializeToString()
        return content
