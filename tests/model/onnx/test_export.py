"""Export to ONNX: equality with PyTorch, metadata and int8."""

import copy

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from fer_batch.errors import CheckpointError
from fer_batch.model.onnx.export import (
    TOLERANCE,
    check_against_torch,
    export_network,
    join_graphs,
    measure_difference,
    quantize_encoder,
)
from fer_batch.model.onnx.network import CARD_KEY
from tests.onnx_models import CLASSES, MODELS, export_file, export_kind, make_network

SLOW = [kind for kind in MODELS if kind not in ("cnn-bilstm", "cnn4")]


def random_crops(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 48), np.uint8)


def run_onnx(model: bytes, crops: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return session.run(None, {"crops": crops.astype(np.float32), "lengths": lengths})[0]


@pytest.mark.parametrize(
    "kind", ["cnn4", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("cnn-bilstm", *SLOW))]
)
def test_exported_file_equals_pytorch(kind: str) -> None:
    network, card = make_network(kind)
    assert check_against_torch(export_file(kind), network, card, random_crops(50, 1)) <= TOLERANCE / 5
    model = onnx.load_model_from_string(export_file(kind))
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in [*model.graph.input, *model.graph.output]
    }
    steps = card.window_length
    assert shapes == {
        "crops": ["N", steps, 48, 48], "lengths": ["N"], "probabilities": ["N", steps, len(CLASSES)]
    }  # fmt: skip


@pytest.mark.slow
def test_file_describes_its_use_and_contains_no_paths() -> None:
    model = onnx.load_model_from_string(export_file("cnn-bilstm"))
    assert "work" in model.doc_string and "calm, cross, glad" in model.doc_string
    assert CARD_KEY in {entry.key for entry in model.metadata_props}
    assert b".py" not in export_file("cnn-bilstm")


@pytest.mark.slow
def test_export_is_reproducible() -> None:
    assert join_graphs(export_network(*make_network("cnn4"))) == export_file("cnn4")


def test_padding_of_a_window_does_not_matter() -> None:
    crops, lengths = random_crops(12).reshape(4, 3, 48, 48), np.array([1, 2, 2, 3])
    changed = crops.copy()
    changed[np.arange(3) >= lengths[:, None]] = 0
    probs = run_onnx(export_file("cnn-bilstm"), crops, lengths)
    there = np.arange(3) < lengths[:, None]
    np.testing.assert_allclose(probs[there].sum(axis=1), 1, atol=1e-5)
    again = run_onnx(export_file("cnn-bilstm"), changed, lengths)
    assert np.array_equal(again[there], probs[there])
    assert not np.array_equal(run_onnx(export_file("cnn-bilstm"), crops, lengths * 0 + 3), probs)


def test_neighbours_matter() -> None:
    crops, lengths = random_crops(3)[None], np.array([3])
    changed = crops.copy()
    changed[0, 2] = 255 - changed[0, 2]
    one, other = (run_onnx(export_file("cnn-bilstm"), given, lengths)[0, 0] for given in (crops, changed))
    assert np.abs(one - other).max() > 1e-4


@pytest.mark.parametrize("part", ["encoder", "lstm2", "context_head", "stay", "change_slope"])
def test_different_probabilities_raise_checkpoint_error(part: str) -> None:
    network, card = copy.deepcopy(make_network("cnn-bilstm")[0]), make_network("cnn-bilstm")[1]
    weights = next(values for name, values in network.named_parameters() if name.startswith(part))
    weights.data.view(-1)[0] -= 20  # the chain of a random network is certain that nothing changes
    with pytest.raises(CheckpointError, match="differ from PyTorch's by up to"):
        check_against_torch(export_file("cnn-bilstm"), network, card, random_crops(20, 1))


def test_nan_raises_checkpoint_error() -> None:
    network, card = copy.deepcopy(make_network("cnn4")[0]), make_network("cnn4")[1]
    with torch.no_grad():
        network.crop_head.bias[0] = torch.nan
    with pytest.raises(CheckpointError, match="nan"):
        check_against_torch(export_file("cnn4"), network, card, random_crops(20, 1))


@pytest.mark.parametrize("kind", ["cnn-bilstm", "cnn4"])
def test_int8_is_close_to_pytorch(kind: str) -> None:
    network, card = make_network(kind)
    small = quantize_encoder(export_kind(kind), random_crops(40, 2))
    model = join_graphs(small)
    loaded = onnx.load_model_from_string(model)
    assert {node.domain for node in loaded.graph.node} == {""}
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in loaded.graph.node}
    assert onnx.TensorProto.INT8 in {value.data_type for value in loaded.graph.initializer}
    assert small.reader == export_kind(kind).reader
    assert 1e-6 < measure_difference(model, network, card, random_crops(40, 3)) < 0.2
