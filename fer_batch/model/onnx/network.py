"""An exported network, `NAME.onnx`, as it answers: the file is read, checked, cut in two, and run by
onnxruntime.

`model.onnx.export` writes it, and says what is in it. Nothing is loaded that is not in the file itself, and
no code comes with it: operators are those of ONNX alone.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from fer_batch.errors import CheckpointError
from fer_batch.model.network import CROP_SIZE, CropEncoder
from fer_batch.model.weights import Card, parse_card

CARD, DIGEST = "fer_batch_card", "fer_batch_graph_sha256"
"""Keys of a file's metadata: its card as JSON, and the sha256 of its graph, so that damage is seen."""
ENCODER, READER = "encoder/", "reader/"
"""How the names in the two parts of a graph begin."""
NORMALISED, EMBEDDINGS = ENCODER + "normalised", ENCODER + "embeddings"
WINDOWS, LENGTHS, LOG_PROBABILITIES = READER + "windows", READER + "lengths", READER + "log_probabilities"
"""What goes into the parts and comes out: where the graph is cut."""
PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


class OnnxEncoder(CropEncoder):
    """The part of an exported network that embeds crops, normalised ones as those of any other encoder."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        super().__init__()
        self.session = session
        self.place = "cuda" if PROVIDERS["cuda"] in session.get_providers() else "cpu"
        self.width = self(torch.zeros(1, 1, CROP_SIZE, CROP_SIZE)).shape[1]

    def forward(self, crops: Tensor) -> Tensor:
        """As in `CropEncoder`, on the CPU."""
        return torch.from_numpy(self.session.run([EMBEDDINGS], {NORMALISED: crops.numpy()})[0])


class OnnxReader(nn.Module):
    """The part of an exported network that reads windows, as `recognize.WindowReader` does."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        super().__init__()
        self.session = session

    def forward(self, windows: Tensor, lengths: Tensor) -> Tensor:
        """Windows `(B, T, D) float32`, the first `lengths` `(B,)` steps of each, to log probabilities
        `(B, T, C)`, on the CPU.
        """
        given = {WINDOWS: windows.numpy(), LENGTHS: lengths.numpy()}
        return torch.from_numpy(self.session.run([LOG_PROBABILITIES], given)[0])


def open_onnx(path: Path, device: str = "cpu") -> tuple[OnnxEncoder, OnnxReader, Card]:
    """An exported network in its two parts, and its card, whose sha256 is that of the file.

    It runs on one thread of the CPU, as workers share the cores between them, or on the GPU where `device`
    is "cuda" and the installed onnxruntime can use one. Raises CheckpointError for a file that is none.
    """
    model, card = read_onnx(path)
    size = (1, card.window_length, len(card.classes))
    try:
        encoder = OnnxEncoder(_session(encoder_of(model), device))
        reader = OnnxReader(_session(_reader_of(model, card.window_length, encoder.width), device))
        answer = reader(torch.zeros(1, card.window_length, encoder.width), torch.ones(1, dtype=torch.int64))
        if answer.shape != size:
            raise ValueError(f"it answers {tuple(answer.shape)}, not {size} as its card says")
    except Exception as error:  # onnxruntime has a dozen, and all are this file's
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path} can't be run by onnxruntime: {reason}") from error
    return encoder, reader, card


def read_onnx(path: Path) -> tuple[onnx.ModelProto, Card]:
    """What is in an exported file, and its card; raises CheckpointError where it is none, is damaged, or
    wants anything that is not in it.
    """
    path = Path(path)
    try:
        data = path.read_bytes()
        model = onnx.load_model_from_string(data)
    except OSError as error:
        raise CheckpointError(f"{path} can't be read: {error.strerror}") from error
    except Exception as error:  # protobuf's, which has no name of its own here
        raise CheckpointError(f"{path} is no ONNX file, or a damaged one") from error
    notes = {entry.key: entry.value for entry in model.metadata_props}
    if CARD not in notes:
        raise CheckpointError(
            f"{path} has no card, so it is not of `fer-batch export`; allowed are its .onnx files, "
            "and checkpoints (.safetensors)"
        )
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(model.graph)):
        raise CheckpointError(f"{path} names other files for its weights; a model is one file here")
    foreign = sorted({wanted.domain for wanted in model.opset_import} - {"", "ai.onnx"})
    if foreign or model.functions:
        raise CheckpointError(
            f"{path} has operators that are not ONNX's own ({', '.join(foreign) or 'functions'}); "
            "those are not run"
        )
    if digest(model) != notes.get(DIGEST):
        raise CheckpointError(f"{path} is not as it was exported: it is damaged, or was changed")
    try:
        card = parse_card(notes[CARD])
    except (ValueError, TypeError, KeyError, CheckpointError) as error:
        raise CheckpointError(f"{path} has a card that this version can't read: {error}") from error
    return model, dataclasses.replace(card, sha256=hashlib.sha256(data).hexdigest())


def digest(model: onnx.ModelProto) -> str:
    """The sha256 of a model's graph."""
    return hashlib.sha256(model.graph.SerializeToString(deterministic=True)).hexdigest()


def encoder_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """The part of a model from normalised crops to embeddings."""
    return _part(model, ENCODER, {NORMALISED: (1, CROP_SIZE, CROP_SIZE)}, EMBEDDINGS)


def _reader_of(model: onnx.ModelProto, steps: int, width: int) -> onnx.ModelProto:
    """The part of a model from windows of `steps` embeddings of `width` values to log probabilities."""
    return _part(model, READER, {WINDOWS: (steps, width), LENGTHS: ()}, LOG_PROBABILITIES)


def _part(
    model: onnx.ModelProto, prefix: str, given: dict[str, tuple[int, ...]], made: str
) -> onnx.ModelProto:
    """The nodes whose names begin with `prefix`, as a model of their own."""
    kinds = {LENGTHS: onnx.TensorProto.INT64}
    inputs = [
        onnx.helper.make_tensor_value_info(name, kinds.get(name, onnx.TensorProto.FLOAT), ["N", *shape])
        for name, shape in given.items()
    ]
    graph = onnx.helper.make_graph(
        [node for node in model.graph.node if node.name.startswith(prefix)],
        prefix,
        inputs,
        [onnx.helper.make_tensor_value_info(made, onnx.TensorProto.FLOAT, None)],
        [value for value in model.graph.initializer if value.name.startswith(prefix)],
    )
    part = onnx.helper.make_model(graph, opset_imports=model.opset_import)
    part.ir_version = model.ir_version
    return part


def _session(model: onnx.ModelProto, device: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # warnings are of what it optimises
    wanted = list(PROVIDERS.values()) if device == "cuda" else [PROVIDERS["cpu"]]
    there = [name for name in wanted if name in onnxruntime.get_available_providers()]
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=there)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor that is stored in a graph, and in those inside it."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for value in node.attribute:
            yield from (value.t, *value.tensors)
            for sparse in (value.sparse_tensor, *value.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            for inner in (value.g, *value.graphs):
                yield from _tensors(inner)
