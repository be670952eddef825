"""Load an exported network, `NAME.onnx`, and run it with onnxruntime.

`model.onnx.export` writes these files. A file is read, checked (see `model.onnx.check`), and cut into encoder
and reader. Nothing outside the file is loaded, and it contains no code: all operators are standard ONNX
operators.
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from fer_batch.config import CROP_SIZE_PX
from fer_batch.errors import CheckpointError
from fer_batch.model.card import Card, parse_card, shorten
from fer_batch.model.inference import BATCH_SIZE
from fer_batch.model.network import CropEncoder
from fer_batch.model.onnx.check import check_contents, check_sizes
from fer_batch.model.weights import check_output
from fer_batch.storage.user_files import read_bounded

MAX_FILE_BYTES = 1_000_000_000
CARD_KEY, DIGEST_KEY = "fer_batch_card", "fer_batch_graph_sha256"
"""Metadata keys of a file: its card as JSON, and the sha256 of its graph, which reveals damage."""
ENCODER, READER = "encoder/", "reader/"
"""Prefixes of the names in the two parts of the graph."""
NORMALIZED, EMBEDDINGS = ENCODER + "normalised", ENCODER + "embeddings"
WINDOWS, LENGTHS, LOG_PROBABILITIES = READER + "windows", READER + "lengths", READER + "log_probabilities"
"""Inputs and outputs of the parts, where the graph is cut."""
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


class OnnxEncoder(CropEncoder):
    """The part of an exported network that encodes crops on the CPU."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        super().__init__()
        self.session = session
        self.device = "cuda" if PROVIDERS["cuda"] in session.get_providers() else "cpu"
        self.width = self(torch.zeros(1, 1, CROP_SIZE_PX, CROP_SIZE_PX)).shape[1]

    def forward(self, crops: Tensor) -> Tensor:
        return torch.from_numpy(self.session.run([EMBEDDINGS], {NORMALIZED: crops.numpy()})[0])


class OnnxReader(nn.Module):
    """The part of an exported network that classifies windows on the CPU, like `inference.WindowReader`."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        super().__init__()
        self.session = session

    def forward(self, windows: Tensor, lengths: Tensor) -> Tensor:
        inputs = {WINDOWS: windows.numpy(), LENGTHS: lengths.numpy()}
        return torch.from_numpy(self.session.run([LOG_PROBABILITIES], inputs)[0])


def open_onnx(path: Path, device: str = "cpu") -> tuple[OnnxEncoder, OnnxReader, Card]:
    """Open an exported network; returns its two parts and its card, which has the sha256 of the file.

    It uses one CPU thread, because workers share the cores, or the GPU if `device` is "cuda" and onnxruntime
    supports it. Raises CheckpointError for any other file.
    """
    model, card = read_onnx(path)
    batch_size = BATCH_SIZE[device]
    try:
        crop_shape, steps = (1, CROP_SIZE_PX, CROP_SIZE_PX), card.window_length
        part = _extract_part(model, ENCODER, {NORMALIZED: crop_shape}, EMBEDDINGS)
        check_sizes(part, batch_size)
        encoder = OnnxEncoder(_start_session(part, device))
        window_shapes = {WINDOWS: (steps, encoder.width), LENGTHS: ()}
        part = _extract_part(model, READER, window_shapes, LOG_PROBABILITIES)
        check_sizes(part, batch_size)
        reader = OnnxReader(_start_session(part, device))
        greys = torch.linspace(0, 1, CROP_SIZE_PX**2).view(1, 1, CROP_SIZE_PX, CROP_SIZE_PX)
        embeddings = encoder((greys - card.mean) / card.std)[:, None].expand(1, steps, encoder.width)
        log_probs = reader(embeddings.contiguous(), torch.ones(1, dtype=torch.int64))
        check_output(log_probs.exp(), (1, steps, len(card.classes)))
    except Exception as error:  # onnxruntime raises a dozen types, all caused by the file
        raise CheckpointError(f"onnxruntime cannot run {path}: {shorten(error)}") from error
    return encoder, reader, card


def read_onnx(path: Path) -> tuple[onnx.ModelProto, Card]:
    """Read an exported file and its card.

    Raises CheckpointError if it is another or a damaged file, or refers to anything outside itself.
    """
    path = Path(path)
    try:
        data = read_bounded(path, MAX_FILE_BYTES)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"Cannot read {path}: {getattr(error, 'strerror', error)}") from error
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:  # protobuf's DecodeError, which onnx does not export
        raise CheckpointError(f"{path} is not an ONNX file, or is damaged") from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    if CARD_KEY not in metadata:
        raise CheckpointError(
            f"{path} has no card, so `fer-batch export` did not write it; give one of its .onnx files, or a "
            "checkpoint (.safetensors)"
        )
    try:
        check_contents(model)
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    if compute_digest(model) != metadata.get(DIGEST_KEY):
        raise CheckpointError(f"{path} was damaged or changed after its export")
    try:
        card = parse_card(metadata[CARD_KEY])
    except (ValueError, CheckpointError) as error:
        raise CheckpointError(f"Cannot read the card in {path}: {shorten(error)}") from error
    return model, dataclasses.replace(card, sha256=hashlib.sha256(data).hexdigest())


def compute_digest(model: onnx.ModelProto) -> str:
    """Return the sha256 of a model's graph."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def _extract_part(
    model: onnx.ModelProto, prefix: str, input_shapes: Mapping[str, tuple[int, ...]], output: str
) -> onnx.ModelProto:
    """Return the nodes whose names begin with `prefix` as a model."""
    dtypes = {LENGTHS: onnx.TensorProto.INT64}
    inputs = [
        onnx.helper.make_tensor_value_info(name, dtypes.get(name, onnx.TensorProto.FLOAT), ["N", *shape])
        for name, shape in input_shapes.items()
    ]
    graph = onnx.helper.make_graph(
        [node for node in model.graph.node if node.name.startswith(prefix)],
        prefix,
        inputs,
        [onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
        [value for value in model.graph.initializer if value.name.startswith(prefix)],
    )
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    part.ir_version = model.ir_version
    return part


def _start_session(model: onnx.ModelProto, device: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # warnings are about its own optimizations
    providers: list[tuple[str, dict[str, str]]] = [(PROVIDERS["cpu"], {})]
    if device == "cuda" and PROVIDERS["cuda"] in onnxruntime.get_available_providers():
        providers.insert(0, (PROVIDERS["cuda"], {"use_tf32": "0"}))  # rows must not depend on the GPU
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=providers)
