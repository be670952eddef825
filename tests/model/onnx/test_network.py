"""Exported networks: equality with their checkpoint, and errors of unusable files."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from fer_batch.errors import CheckpointError
from fer_batch.model.card import read_card
from fer_batch.model.onnx.export import join_graphs, quantize_encoder
from fer_batch.model.onnx.network import CARD_KEY, DIGEST_KEY, compute_digest, open_onnx, read_onnx
from fer_batch.model.recognize import Recognizer
from fer_batch.model.weights import load_checkpoint
from tests.onnx_models import CLASSES, MODELS, export_file, export_kind, make_network, write_checkpoint
from tests.tracked_faces import COUNT, assert_independent, make_faces

FACES = make_faces()
KINDS = ("cnn-bilstm", "int8", "cnn4")
SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in MODELS if kind not in KINDS]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("onnx")

    @functools.cache
    def write(kind: str) -> Path:
        path = folder / f"{kind}.onnx"
        if kind == "int8":
            some = np.random.default_rng(3).integers(0, 256, (40, 48, 48))
            path.write_bytes(join_graphs(quantize_encoder(export_kind("cnn-bilstm"), some)))
        else:
            path.write_bytes(export_file(kind))
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_no_faces_give_no_predictions(kind: str, files: Callable[[str], Path]) -> None:
    none = FACES.take(np.zeros(COUNT, bool))
    recognizer = Recognizer(files(kind), "cpu")
    assert none.predict(recognizer).shape == (0, len(CLASSES))
    assert recognizer.encode(none.crops).shape == (0, recognizer.encoder.width)


@pytest.mark.parametrize(("kind", "flip"), [("cnn-bilstm", True), ("cnn-bilstm", False), ("cnn4", True)])
def test_predictions_equal_those_of_the_checkpoint(
    kind: str, flip: bool, files: Callable[[str], Path], tmp_path: Path
) -> None:
    write_checkpoint(tmp_path / "model.safetensors", kind)
    selected = np.random.default_rng(4).random(COUNT) < 0.8
    expected, probs = (
        FACES.predict(Recognizer(path, "cpu", flip, "fp32"), selected)
        for path in (tmp_path / "model.safetensors", files(kind))
    )
    assert np.isnan(probs[~selected]).all()
    np.testing.assert_allclose(probs[selected], expected[selected], atol=1e-5)
    assert np.ptp(expected[selected], axis=0).min() > 0.01


@pytest.mark.parametrize("kind", [*KINDS, *SLOW])
@pytest.mark.parametrize("flip", [False, True])
def test_face_does_not_depend_on_other_tracks_selection_and_order(
    kind: str, flip: bool, files: Callable[[str], Path]
) -> None:
    assert_independent(FACES, Recognizer(files(kind), "cpu", flip))


def test_exported_files_have_the_card_and_their_own_model_id(files: Callable[[str], Path]) -> None:
    card = make_network("cnn-bilstm")[1]
    cards = [Recognizer(files(kind), "cpu").card for kind in KINDS[:2]]
    assert [Recognizer(files(kind), "cpu").card for kind in KINDS[:2]] == cards
    assert [dataclasses.replace(one, sha256="") for one in cards] == [card] * 2
    assert cards[0].sha256 == hashlib.sha256(export_file("cnn-bilstm")).hexdigest()
    assert len({one.model_id for one in [*cards, card]}) == 3


@pytest.mark.parametrize("load", [load_checkpoint, read_card])
def test_exported_network_is_not_a_checkpoint(
    load: Callable[[Path], object], files: Callable[[str], Path]
) -> None:
    with pytest.raises(
        CheckpointError, match=r"cnn-bilstm.onnx is an exported network.*a \.safetensors file"
    ):
        load(files("cnn-bilstm"))


Change = Callable[[onnx.ModelProto], None]


def remove_card(model: onnx.ModelProto) -> None:
    del model.metadata_props[:]


def refer_to_other_weights(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[-1]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")


def refer_to_another_constant(model: onnx.ModelProto) -> None:
    tensor = onnx.TensorProto(dims=[4], data_type=onnx.TensorProto.FLOAT, data_location="EXTERNAL")
    tensor.external_data.add(key="location", value="weights.bin")
    then = onnx.helper.make_graph(
        [onnx.helper.make_node("Constant", [], ["t"], value=tensor)], "then", [], []
    )
    model.graph.node.append(onnx.helper.make_node("If", ["crops"], ["u"], then_branch=then, else_branch=then))


def import_foreign_operators(model: onnx.ModelProto) -> None:
    model.opset_import.add(domain="com.microsoft", version=1)


def add_function(model: onnx.ModelProto) -> None:
    model.functions.add(name="f", domain="")


def change_weights(model: onnx.ModelProto) -> None:
    data = bytearray(model.graph.initializer[-1].raw_data)
    data[0] ^= 1
    model.graph.initializer[-1].raw_data = bytes(data)


def use_unknown_operator(model: onnx.ModelProto) -> None:
    model.graph.node[6].op_type = "Nonsense"
    set_metadata(model, DIGEST_KEY, compute_digest(model))


def remove_encoder(model: onnx.ModelProto) -> None:
    for node in list(model.graph.node):
        if node.name.startswith("encoder/"):
            model.graph.node.remove(node)
    set_metadata(model, DIGEST_KEY, compute_digest(model))


def add_class_to_card(model: onnx.ModelProto) -> None:
    card = json.loads(next(entry.value for entry in model.metadata_props if entry.key == CARD_KEY))
    set_metadata(model, CARD_KEY, json.dumps(card | {"classes": ["a", "b", "c", "d"]}))


def truncate_card(model: onnx.ModelProto) -> None:
    set_metadata(model, CARD_KEY, '{"classes": ["a", "b"]')


def add_unknown_field_to_card(model: onnx.ModelProto) -> None:
    set_metadata(model, CARD_KEY, '{"classes": ["a", "b"], "architecture": {}, "colour": "red"}')


def set_metadata(model: onnx.ModelProto, key: str, value: str) -> None:
    next(entry for entry in model.metadata_props if entry.key == key).value = value


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (remove_card, "has no card"),
        (refer_to_other_weights, "refers to other files"),
        (refer_to_another_constant, "control flow is not allowed"),
        (import_foreign_operators, "com.microsoft"),
        (add_function, "functions"),
        (change_weights, "was damaged or changed"),
        (use_unknown_operator, "onnxruntime cannot run"),
        (remove_encoder, "onnxruntime cannot run"),
        (add_class_to_card, "its card requires (1, 3, 4)"),
        (truncate_card, "Cannot read the card"),
        (add_unknown_field_to_card, "Cannot read the card"),
    ],
)
def test_changed_file_raises_checkpoint_error(change: Change, message: str, tmp_path: Path) -> None:
    model = onnx.load_model_from_string(export_file("cnn-bilstm"))
    change(model)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError) as raised:
        open_onnx(path)
    assert message in str(raised.value)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no card"),
        (b"PK\x03\x04 something else altogether", "is not an ONNX file, or is damaged"),
        (lambda: export_file("cnn-bilstm")[:-100], "model.onnx"),
        (lambda: export_file("cnn-bilstm")[:5000], "is not an ONNX file, or is damaged"),
        (None, "Cannot read "),
    ],
    ids=["empty", "other format", "cut", "cut short", "missing"],
)
def test_other_file_raises_checkpoint_error(
    content: bytes | Callable[[], bytes] | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content() if callable(content) else content)
    with pytest.raises(CheckpointError) as raised:
        read_onnx(path)
    assert message in str(raised.value)
