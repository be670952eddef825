"""Export a checkpoint as one ONNX file, from grey crops to probabilities, for programs without PyTorch.

    crops (N, T, 48, 48) ─normalize─▶ encoder ─▶ embeddings ─▶ reader ─▶ probabilities (N, T, C)
    lengths (N,) ────────────────────────────────────────────────┘

The encoder and the reader are exported separately and joined. So `model.onnx.network` can separate them again
and encode each crop of a track once.
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

from fer_batch.config import CROP_SIZE_PX
from fer_batch.errors import CheckpointError
from fer_batch.model.card import Card
from fer_batch.model.inference import WindowReader
from fer_batch.model.network import Network
from fer_batch.model.onnx.network import (
    CARD_KEY,
    DIGEST_KEY,
    EMBEDDINGS,
    ENCODER,
    LENGTHS,
    LOG_PROBABILITIES,
    NORMALIZED,
    READER,
    WINDOWS,
    compute_digest,
)

OPSET, IR_VERSION = 18, 8
"""Versions of the exported graphs. Even older runtimes read this version of the format."""
TOLERANCE = 1e-4
"""Largest difference of a probability from PyTorch's."""
MIN_COMPARED_CROPS = 128
"""Minimum number of crops in the compared windows, which have at least one window of each length."""
CALIBRATION_CROPS = 512
"""Crops that set the ranges of an int8 encoder. Twice as many were no better for the packaged one."""
CALIBRATION_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class ExportedNetwork:
    """A network as two graphs, each a separate model, and its card."""

    encoder: onnx.ModelProto
    """`normalised` `(M, 1, 48, 48)` to `embeddings` `(M, D)`, float32."""
    reader: onnx.ModelProto
    """`windows` `(N, T, D)` float32 and `lengths` `(N,)` int64 to `log_probabilities` `(N, T, C)`."""
    card: Card
    precision: str = "float32"


def export_network(network: Network, card: Card) -> ExportedNetwork:
    """Export a network, as loaded from its checkpoint, in single precision."""
    steps = card.window_length
    crops = torch.zeros(4, 1, CROP_SIZE_PX, CROP_SIZE_PX)
    windows = torch.zeros(4, steps, network.width)
    lengths = torch.arange(4) % steps + 1
    reader = WindowReader(network, card.temperature).eval()
    return ExportedNetwork(
        encoder=_export_module(network.encoder, {"normalised": crops}, "embeddings"),
        reader=_export_module(reader, {"windows": windows, "lengths": lengths}, "log_probabilities"),
        card=card,
    )


def quantize_encoder(exported: ExportedNetwork, crops: np.ndarray) -> ExportedNetwork:
    """Quantize the encoder's convolutions and matrix products to int8.

    Weights have one scale per channel. The range of each map comes from `crops`, typical `(n, 48, 48) uint8`
    grey crops, see `CALIBRATION_CROPS`. The reader keeps its precision: it is a small part of the arithmetic,
    and int8 has no LSTM operator.
    """
    model = onnx.ModelProto()
    model.CopyFrom(exported.encoder)
    helper.set_model_props(model, {"onnx.quant.pre_process": "onnxruntime.quant"})  # batch norms are merged
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "encoder.onnx"
        quantize_static(
            model,
            target,
            _CalibrationCrops(normalize_crops(crops, exported.card)),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        encoder = onnx.load_model(target)
    return dataclasses.replace(exported, encoder=encoder, precision="int8, the LSTMs float32")


def join_graphs(exported: ExportedNetwork) -> bytes:
    """Join both graphs to the content of one self-contained file.

    Its inputs are `crops` `(N, T, 48, 48) float32`, grey values 0 to 255, and `lengths` `(N,) int64`, the
    number of valid steps of each window. Its output is `probabilities` `(N, T, C) float32`. T is the card's
    window_length. The prediction of a window (see `model.window`) is at the position of its own frame; rows
    beyond its length are meaningless.
    """
    card = exported.card
    steps, classes = card.window_length, len(card.classes)
    encoder, reader = _prefix_names(exported.encoder, ENCODER), _prefix_names(exported.reader, READER)
    width = reader.input[0].type.tensor_type.shape.dim[2].dim_value
    constants: dict[str, np.ndarray] = {
        "each": np.array([-1, 1, CROP_SIZE_PX, CROP_SIZE_PX], np.int64),
        "windowed": np.array([-1, steps, width], np.int64),
        "white": np.array(255, np.float32),
        "mean": np.array(card.mean, np.float32),
        "std": np.array(card.std, np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["crops", "each"], ["grey"]),
        helper.make_node("Div", ["grey", "white"], ["shares"]),
        helper.make_node("Sub", ["shares", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "std"], [NORMALIZED]),
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
            helper.make_tensor_value_info(
                "crops", TensorProto.FLOAT, ["N", steps, CROP_SIZE_PX, CROP_SIZE_PX]
            ),
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
        doc_string=_describe(card, exported.precision),
    )
    model.ir_version = IR_VERSION
    metadata = {
        CARD_KEY: json.dumps(dataclasses.asdict(card), ensure_ascii=False),
        DIGEST_KEY: compute_digest(model),
    }
    helper.set_model_props(model, metadata)
    return model.SerializeToString(deterministic=True)


def check_against_torch(model: bytes, network: Network, card: Card, crops: np.ndarray) -> float:
    """Return `measure_difference` on random crops and on real `crops`.

    Raises CheckpointError if it is above `TOLERANCE`.
    """
    random = np.random.default_rng(0).integers(
        0, 256, (MIN_COMPARED_CROPS, CROP_SIZE_PX, CROP_SIZE_PX), np.uint8
    )
    difference = max(measure_difference(model, network, card, some) for some in (random, crops) if len(some))
    if not difference <= TOLERANCE:  # also for NaN
        raise CheckpointError(
            f"The probabilities of onnxruntime differ from PyTorch's by up to {difference:.2g}; allowed is "
            f"{TOLERANCE:g}. This checkpoint cannot be exported with these versions of torch and onnxruntime"
        )
    return difference


def measure_difference(model: bytes, network: Network, card: Card, crops: np.ndarray) -> float:
    """Return the largest difference of a probability between onnxruntime and PyTorch in single precision.

    The windows have every length and consist of `(n, 48, 48) uint8` grey crops.
    """
    steps = card.window_length
    count = max(steps, math.ceil(MIN_COMPARED_CROPS / steps))
    index = (np.arange(count)[:, None] * steps + np.arange(steps)) % len(crops)  # (count, T)
    lengths = np.arange(count) % steps + 1
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    windows = crops[index].astype(np.float32)
    probs = [
        session.run(["probabilities"], {"crops": windows[part], "lengths": lengths[part]})[0]
        for part in (slice(0, 1), slice(1, None))  # two batch sizes
    ]
    with torch.inference_mode():
        used, position = np.unique(index, return_inverse=True)
        embeddings = network.encode(torch.from_numpy(normalize_crops(crops[used], card)))
        embedded = embeddings[torch.from_numpy(position.reshape(index.shape))]  # (count, T, D)
        length = torch.from_numpy(lengths)
        logits = network.classify(embedded, length) / card.temperature
        expected = network.smooth_log_probs(logits, embedded, length).exp().numpy()
    valid = np.arange(steps) < lengths[:, None]
    return float(np.abs(np.concatenate(probs) - expected)[valid].max())


def normalize_crops(crops: np.ndarray, card: Card) -> np.ndarray:
    """Convert grey crops `(n, 48, 48) uint8` to an encoder's input `(n, 1, 48, 48) float32`."""
    return ((crops.astype(np.float32) / 255 - np.float32(card.mean)) / np.float32(card.std))[:, None]


class _CalibrationCrops(CalibrationDataReader):
    def __init__(self, crops: np.ndarray) -> None:
        self.batches = iter(np.array_split(crops, math.ceil(len(crops) / CALIBRATION_BATCH)))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"normalised": batch}


def _export_module(module: nn.Module, inputs: dict[str, torch.Tensor], output: str) -> onnx.ModelProto:
    """Export a module for any number of examples."""
    any_number = torch.export.Dim("N", min=1)
    translations: dict[Callable[..., Any], Callable[..., Any]] = {
        torch.ops.aten.sum.dim_IntList: _translate_sum,
        torch.ops.aten.mean.dim: _translate_mean,
    }
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch's exporter warns about itself
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=tuple({0: any_number} for _ in inputs),
            custom_translation_table=translations,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def _translate_sum(values: Any, dim: Sequence[int], keepdim: bool = False, dtype: int | None = None) -> Any:
    """Translate a sum over the last dimension to a sum of slices.

    onnxruntime's ReduceSum adds in an order that depends on the memory layout, so the prediction of a window
    would depend on its position in the batch.
    """
    (axis,) = (d % len(values.shape) for d in dim)
    if axis != len(values.shape) - 1:
        return opset18.ReduceSum(values, _int_constant(axis), keepdims=int(keepdim))
    count = values.shape[axis]
    slices = opset18.Split(values, axis=axis, num_outputs=count) if count > 1 else [values]
    total = opset18.Sum(*slices)
    return total if keepdim else opset18.Squeeze(total, _int_constant(axis))


def _translate_mean(values: Any, dim: Sequence[int], keepdim: bool = False, dtype: int | None = None) -> Any:
    """Translate the mean of each map to a pool, for the same reason."""
    assert sorted(d % 4 for d in dim) == [2, 3], f"mean over {dim}"
    mean = opset18.GlobalAveragePool(values)
    return mean if keepdim else opset18.Squeeze(mean, _int_constant(2, 3))


def _int_constant(*values: int) -> Any:
    return opset18.Constant(value_ints=list(values))


def _prefix_names(model: onnx.ModelProto, prefix: str) -> onnx.GraphProto:
    """Return a model's graph with unique names and without the exporter's notes, which include file paths."""
    graph = onnx.compose.add_prefix_graph(model.graph, prefix)
    for index, node in enumerate(graph.node):
        node.name = f"{prefix}{node.op_type}_{index}"
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    for value in graph.initializer:
        value.ClearField("doc_string")
        value.ClearField("metadata_props")
    return graph


def _describe(card: Card, precision: str) -> str:
    return (
        f"{card.model_id}, {precision}. Input: grey face crops of 48x48 pixels, values 0 to 255, "
        f"cut as squares of {card.crop_scale:g} times the height of the face box. Output: the probabilities "
        f"of {', '.join(card.classes)}. A window has up to {card.window_length} frames of one face, "
        f"{card.window_rate_hz:g} per second, around one frame; the first `lengths` frames are valid. Use "
        f"the prediction at the position of that frame.\n{card.uses}\nLicence: {card.licence}"
    )
