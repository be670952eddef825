"""A checkpoint as one ONNX file, for programs without PyTorch: from grey crops to probabilities.

    crops (N, T, 48, 48) ─normalise─▶ encoder ─▶ embeddings ─▶ reader ─▶ probabilities (N, T, C)
    lengths (N,) ────────────────────────────────────────────────┘

The encoder and the reader are exported apart and joined, so that `model.onnx.network` can cut there again and
encode each crop of a track once.
"""

import dataclasses
import json
import math
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxscript import opset18
from torch import nn

from fer_batch.errors import CheckpointError
from fer_batch.model.network import CROP_SIZE, Network
from fer_batch.model.onnx.network import (
    CARD,
    DIGEST,
    EMBEDDINGS,
    ENCODER,
    LENGTHS,
    LOG_PROBABILITIES,
    NORMALISED,
    READER,
    WINDOWS,
    digest,
)
from fer_batch.model.recognize import WindowReader
from fer_batch.model.weights import Card

OPSET, IR_VERSION = 18, 8
"""Of the exported graphs. Older runtimes read this version of the format, newer ones all."""
TOLERANCE = 1e-4
"""How far a probability may be from what PyTorch says."""
COMPARED = 128
"""Crops in the windows that are compared, at least; and a window of each length."""
CALIBRATION_CROPS = 512
"""Crops by which the ranges of an int8 encoder are set: of the packaged one, twice as many were no better."""
BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ExportedNetwork:
    """A network as two graphs, each a model of its own, and what it says of itself."""

    encoder: onnx.ModelProto
    """`normalised` `(M, 1, 48, 48)` to `embeddings` `(M, D)`, float32."""
    reader: onnx.ModelProto
    """`windows` `(N, T, D)` float32 and `lengths` `(N,)` int64 to `log_probabilities` `(N, T, C)`."""
    card: Card
    arithmetic: str = "float32"


def export_network(network: Network, card: Card) -> ExportedNetwork:
    """A network, as it is loaded from its checkpoint, as ONNX graphs in single precision."""
    steps = card.window_length
    crops = torch.zeros(4, 1, CROP_SIZE, CROP_SIZE)
    windows = torch.zeros(4, steps, network.width)
    lengths = torch.arange(4) % steps + 1
    reader = WindowReader(network, card.temperature).eval()
    return ExportedNetwork(
        encoder=_graph(network.encoder, {"normalised": crops}, "embeddings"),
        reader=_graph(reader, {"windows": windows, "lengths": lengths}, "log_probabilities"),
        card=card,
    )


def quantize_encoder(exported: ExportedNetwork, crops: np.ndarray) -> ExportedNetwork:
    """The same with an encoder in int8: convolutions and matrix products, with a scale for each channel of
    their weights, and for each map a range from `(n, 48, 48) uint8` grey crops like those to come (see
    CALIBRATION_CROPS).

    The reader stays as it is: it is a small part of the arithmetic, and its LSTMs have no such operator.
    """
    model = onnx.ModelProto()
    model.CopyFrom(exported.encoder)
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})  # batch norms are fused
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "encoder.onnx"
        quantize_static(
            model,
            target,
            _Calibration(normalize_crops(crops, exported.card)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        encoder = onnx.load_model(target)
    return dataclasses.replace(exported, encoder=encoder, arithmetic="int8, the LSTMs float32")


def join_graphs(exported: ExportedNetwork) -> bytes:
    """One self-contained file: `crops` `(N, T, 48, 48) float32`, grey values 0 to 255, and `lengths` `(N,)
    int64`, how many of each window's T steps are there, to `probabilities` `(N, T, C) float32`.

    T is the card's window_length. Of a window (see `model.window`) the answer to take is that at the place of
    the moment it was made for; those beyond its length are meaningless.
    """
    card = exported.card
    steps, classes = card.window_length, len(card.classes)
    encoder, reader = _named(exported.encoder, ENCODER), _named(exported.reader, READER)
    width = reader.input[0].type.tensor_type.shape.dim[2].dim_value
    constants: dict[str, np.ndarray] = {
        "each": np.array([-1, 1, CROP_SIZE, CROP_SIZE], np.int64),
        "windowed": np.array([-1, steps, width], np.int64),
        "white": np.array(255, np.float32),
        "mean": np.array(card.mean, np.float32),
        "std": np.array(card.std, np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["crops", "each"], ["grey"]),
        helper.make_node("Div", ["grey", "white"], ["shares"]),
        helper.make_node("Sub", ["shares", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], [NORMALISED]),
        *encoder.node,
        helper.make_node("Reshape", [EMBEDDINGS, "windowed"], [WINDOWS]),
        helper.make_node("Identity", ["lengths"], [LENGTHS]),
        *reader.node,
        helper.make_node("Exp", [LOG_PROBABILITIES], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        card.network,
        [
            helper.make_tensor_value_info("crops", TensorProto.FLOAT, ["N", steps, CROP_SIZE, CROP_SIZE]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["N"]),
        ],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", steps, classes])],
        [
            *(numpy_helper.from_array(value, name) for name, value in constants.items()),
            *encoder.initializer,
            *reader.initializer,
        ],
    )
    model = helper.make_model(
        graph,
        producer_name="fer_batch",
        opset_imports=[helper.make_opsetid("", OPSET)],
        doc_string=_description(exported),
    )
    model.ir_version = IR_VERSION
    notes = {CARD: json.dumps(dataclasses.asdict(card), ensure_ascii=False), DIGEST: digest(model)}
    helper.set_model_props(model, notes)
    return model.SerializeToString(deterministic=True)


def measure_difference(model: bytes, network: Network, card: Card, crops: np.ndarray) -> float:
    """How far any probability of an exported file, as onnxruntime runs it, is from PyTorch's in single
    precision, over windows of every length made of `(n, 48, 48) uint8` grey crops.
    """
    steps = card.window_length
    count = max(steps, math.ceil(COMPARED / steps))
    index = (np.arange(count)[:, None] * steps + np.arange(steps)) % len(crops)  # (count, T)
    lengths = np.arange(count) % steps + 1
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    given = crops[index].astype(np.float32)
    answers = [
        session.run(["probabilities"], {"crops": given[part], "lengths": lengths[part]})[0]
        for part in (slice(0, 1), slice(1, None))  # any number of windows is allowed
    ]
    with torch.inference_mode():
        used, place = np.unique(index, return_inverse=True)
        embeddings = network.encode(torch.from_numpy(normalize_crops(crops[used], card)))
        windows = embeddings[torch.from_numpy(place.reshape(index.shape))]  # (count, T, D)
        length = torch.from_numpy(lengths)
        logits = network.classify(windows, length) / card.temperature
        expected = network.smooth_log_probs(logits, length).exp().numpy()
    there = np.arange(steps) < lengths[:, None]
    return float(np.abs(np.concatenate(answers) - expected)[there].max())


def check_against_torch(model: bytes, network: Network, card: Card, crops: np.ndarray) -> float:
    """`measure_difference` on random crops and on `crops`, real ones; raises CheckpointError where it is
    above TOLERANCE.
    """
    random = np.random.default_rng(0).integers(0, 256, (COMPARED, CROP_SIZE, CROP_SIZE), np.uint8)
    found = max(measure_difference(model, network, card, some) for some in (random, crops))
    if not found <= TOLERANCE:
        raise CheckpointError(
            f"onnxruntime's probabilities differ from PyTorch's by up to {found:.2g}, and allowed is "
            f"{TOLERANCE:g}: this checkpoint can't be exported with these versions of torch and onnxruntime"
        )
    return found


def normalize_crops(crops: np.ndarray, card: Card) -> np.ndarray:
    """`(n, 48, 48) uint8` grey crops to `(n, 1, 48, 48) float32`, as an encoder reads them."""
    return ((crops.astype(np.float32) / 255 - np.float32(card.mean)) / np.float32(card.std))[:, None]


class _Calibration(CalibrationDataReader):
    def __init__(self, crops: np.ndarray) -> None:
        self.batches = iter(np.array_split(crops, math.ceil(len(crops) / BATCH)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"normalised": batch}


def _graph(module: nn.Module, given: dict[str, torch.Tensor], made: str) -> onnx.ModelProto:
    """A module as a graph, for any number of examples."""
    some = torch.export.Dim("N", min=1)
    ours: dict[Callable[..., Any], Callable[..., Any]] = {
        torch.ops.aten.sum.dim_IntList: _sum,
        torch.ops.aten.mean.dim: _mean,
    }
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch's exporter, about itself
        program = torch.onnx.export(
            module,
            tuple(given.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(given),
            output_names=[made],
            dynamic_shapes=tuple({0: some} for _ in given),
            custom_translation_table=ours,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _sum(values: Any, dim: Sequence[int], keepdim: bool = False, dtype: int | None = None) -> Any:
    """A sum over the last dimension as one of its parts.

    onnxruntime's own sum of a row adds in an order that depends on how the row lies in memory: a window's
    answer would depend on where in its batch it stands.
    """
    (axis,) = (d % len(values.shape) for d in dim)
    if axis != len(values.shape) - 1:
        return opset18.ReduceSum(values, _ints(axis), keepdims=int(keepdim))
    count = values.shape[axis]
    parts = opset18.Split(values, axis=axis, num_outputs=count) if count > 1 else [values]
    total = opset18.Sum(*parts)
    return total if keepdim else opset18.Squeeze(total, _ints(axis))


def _mean(values: Any, dim: Sequence[int], keepdim: bool = False, dtype: int | None = None) -> Any:
    """The mean of each map, for the same reason by a pool."""
    assert sorted(d % 4 for d in dim) == [2, 3], f"mean over {dim}"
    mean = opset18.GlobalAveragePool(values)
    return mean if keepdim else opset18.Squeeze(mean, _ints(2, 3))


def _ints(*values: int) -> Any:
    return opset18.Constant(value_ints=list(values))


def _named(model: onnx.ModelProto, prefix: str) -> onnx.GraphProto:
    """A model's graph with names that are in no other, and without what the exporter notes on its nodes, the
    paths of this machine's files among it.
    """
    graph = onnx.compose.add_prefix_graph(model.graph, prefix)
    for number, node in enumerate(graph.node):
        node.name = f"{prefix}{node.op_type}_{number}"
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for value in graph.initializer:
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    return graph


def _description(exported: ExportedNetwork) -> str:
    card = exported.card
    return (
        f"{card.model_id}, {exported.arithmetic}. Grey face crops (squares of {card.crop_scale:g} of a face "
        "box's height, 48x48, values 0 to 255) to the probability of each expression: "
        f"{', '.join(card.classes)}. A window is of up to {card.window_length} moments of a face, "
        f"{card.window_rate_hz:g} a second, around one moment, of which the first `lengths` are there; take "
        f"the answer at that moment's own place.\n{card.uses}\nLicence: {card.licence}"
    )
