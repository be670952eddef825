"""Saving and loading checkpoints, and errors of unusable files."""

import dataclasses
import hashlib
import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from fer_batch.config import CROP_SIZE_PX
from fer_batch.errors import CheckpointError
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.weights import Card, load_checkpoint, read_card, save_checkpoint
from fer_batch.schema import EMOTIONS

ARCHITECTURE = {"classes": 7, "filters": [8, 8, 8, 8], "dropout": 0.0}


def save_small_checkpoint(folder: Path, name: str = "model") -> tuple[Path, CnnBiLstm, Card]:
    torch.manual_seed(0)
    network = CnnBiLstm(**ARCHITECTURE).eval()
    path = folder / f"{name}.safetensors"
    card = save_checkpoint(path, network, Card(classes=EMOTIONS, architecture=ARCHITECTURE))
    return path, network, card


def edit_card(path: Path, **changes: Any) -> Path:
    card_path = path.with_suffix(".json")
    card_path.write_text(json.dumps(json.loads(card_path.read_text()) | changes))
    return path


def replace_weights(path: Path, data: bytes) -> Path:
    """Replace the weights and write their sha256 into the card."""
    path.write_bytes(data)
    return edit_card(path, sha256=hashlib.sha256(data).hexdigest())


def test_loaded_checkpoint_equals_the_saved_one(tmp_path: Path) -> None:
    path, network, saved = save_small_checkpoint(tmp_path)
    loaded, card = load_checkpoint(path)
    assert card == saved
    assert card.classes == EMOTIONS
    assert card.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert re.fullmatch(r"cnn-bilstm-[0-9a-f]{12}", card.model_id)
    assert not loaded.training
    crops = torch.randn(2, 3, 1, CROP_SIZE_PX, CROP_SIZE_PX)
    torch.testing.assert_close(loaded(crops), network(crops), atol=1e-2, rtol=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_weights_are_saved_in_half_precision(tmp_path: Path) -> None:
    path, network, _ = save_small_checkpoint(tmp_path)
    loaded = load_checkpoint(path)[0].state_dict()
    saved = network.state_dict()
    assert loaded.keys() == saved.keys()
    for name, value in saved.items():
        assert loaded[name].dtype == value.dtype
        rounded = value.half().float() if value.is_floating_point() else value
        assert torch.equal(loaded[name], rounded)
    assert any(not torch.equal(loaded[name], value) for name, value in saved.items())
    single = len(safetensors.torch.save(dict(saved)))
    assert 0.5 * single < path.stat().st_size < 0.52 * single


def test_saving_a_loaded_checkpoint_gives_the_same_file(tmp_path: Path) -> None:
    path, _, card = save_small_checkpoint(tmp_path)
    assert save_checkpoint(tmp_path / "again.safetensors", load_checkpoint(path)[0], card) == card
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_single_precision_file_loads_without_rounding(tmp_path: Path) -> None:
    path, network, _ = save_small_checkpoint(tmp_path)
    replace_weights(path, safetensors.torch.save(dict(network.state_dict())))
    loaded = load_checkpoint(path)[0].state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    "change",
    [{"temperature": 1.5}, {"window_length": 5}, {"crop_scale": 1.0}, {"classes": EMOTIONS[::-1]}],
)
def test_model_id_depends_on_the_prediction_fields(tmp_path: Path, change: dict[str, Any]) -> None:
    card = save_small_checkpoint(tmp_path)[2]
    assert dataclasses.replace(card, **change).model_id != card.model_id
    assert save_small_checkpoint(tmp_path, "another")[2].model_id == card.model_id
    assert dataclasses.replace(card, training={"seconds": 1}).model_id == card.model_id


def test_folder_stands_for_its_model(tmp_path: Path) -> None:
    path, _, card = save_small_checkpoint(tmp_path)
    assert read_card(tmp_path) == (path, card)


def test_default_is_the_packaged_checkpoint() -> None:
    network, card = load_checkpoint()
    assert card.classes == EMOTIONS
    assert all(value.isfinite().all() for value in network.state_dict().values())
    assert network(torch.zeros(1, 1, 1, CROP_SIZE_PX, CROP_SIZE_PX)).shape == (1, 1, len(EMOTIONS))


@pytest.mark.parametrize(("length", "rate_hz", "half_s"), [(1, 5.0, 0.0), (9, 5.0, 0.8), (5, 10.0, 0.2)])
def test_half_window_covers_half_of_the_length(length: int, rate_hz: float, half_s: float) -> None:
    card = Card(classes=EMOTIONS, architecture={}, window_length=length, window_rate_hz=rate_hz)
    assert card.half_window_s >= half_s


def cut_in_half(path: Path) -> bytes:
    return path.read_bytes()[: path.stat().st_size // 2]


def save_torch_file(path: Path) -> bytes:
    torch.save({"weight": torch.zeros(3)}, path)
    return path.read_bytes()


DAMAGED_FILES: dict[str, Callable[[Path], object]] = {
    "no weights": lambda path: path.unlink(),
    "no card": lambda path: path.with_suffix(".json").unlink(),
    "truncated": lambda path: path.write_bytes(cut_in_half(path)),
    "truncated, with its sha256": lambda path: replace_weights(path, cut_in_half(path)),
    "empty": lambda path: replace_weights(path, b""),
    "other tensors": lambda path: replace_weights(path, safetensors.torch.save({"weight": torch.zeros(3)})),
    "pickle": lambda path: replace_weights(path, pickle.dumps({"weight": [0.0]})),
    "torch file": lambda path: replace_weights(path, save_torch_file(path)),
    "card of another file": lambda path: edit_card(path, sha256="0" * 64),
    "other width": lambda path: edit_card(path, architecture={**ARCHITECTURE, "filters": [8, 8, 8, 16]}),
    "unknown argument": lambda path: edit_card(path, architecture={**ARCHITECTURE, "attention": True}),
    "three LSTMs": lambda path: edit_card(path, architecture={**ARCHITECTURE, "lstm": [128, 64, 32]}),
    "architecture of text": lambda path: edit_card(path, architecture="resnet"),
    "card of text": lambda path: path.with_suffix(".json").write_text("a model"),
    "card of other bytes": lambda path: path.with_suffix(".json").write_bytes(b"\xff\xfe\x00"),
    "card of a list": lambda path: path.with_suffix(".json").write_text("[]"),
    "card without classes": lambda path: path.with_suffix(".json").write_text('{"architecture": {}}'),
    "unknown field": lambda path: edit_card(path, colour="blue"),
    "even window": lambda path: edit_card(path, window_length=8),
    "window of text": lambda path: edit_card(path, window_length="17"),
    "one class": lambda path: edit_card(path, classes=["happy"]),
    "classes of numbers": lambda path: edit_card(path, classes=[1, 2]),
    "standard deviation 0": lambda path: edit_card(path, std=0),
}


@pytest.mark.parametrize("damage", DAMAGED_FILES)
def test_unusable_checkpoint_raises_an_error_that_names_it(tmp_path: Path, damage: str) -> None:
    path = save_small_checkpoint(tmp_path)[0]
    DAMAGED_FILES[damage](path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path.with_suffix("")) in str(caught.value)


@pytest.mark.parametrize("name", ["", "model.pt", "nothing.pt", "nothing.safetensors"])
def test_other_path_raises_an_error_that_names_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.pt").touch()
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / name))):
        load_checkpoint(tmp_path / name)


def test_card_without_sha256_raises_an_error_with_the_solution(tmp_path: Path) -> None:
    path = edit_card(save_small_checkpoint(tmp_path)[0], sha256="")
    with pytest.raises(CheckpointError, match=r"has no sha256.*sha256sum"):
        load_checkpoint(path)


def test_huge_architecture_in_a_card_takes_no_memory(tmp_path: Path) -> None:
    huge = {**ARCHITECTURE, "filters": [1 << 20] * 4}
    path = edit_card(save_small_checkpoint(tmp_path)[0], architecture=huge)
    with pytest.raises(CheckpointError, match="weights, but the file has"):
        load_checkpoint(path)


class Trap:
    """Unpickling this object creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_no_pickle_is_executed(tmp_path: Path) -> None:
    path = replace_weights(save_small_checkpoint(tmp_path)[0], pickle.dumps(Trap(tmp_path / "executed")))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not (tmp_path / "executed").exists()


def test_saving_again_replaces_both_files(tmp_path: Path) -> None:
    path, _, first = save_small_checkpoint(tmp_path)
    torch.manual_seed(1)
    second = save_checkpoint(path, CnnBiLstm(**ARCHITECTURE), dataclasses.replace(first, crop_scale=1.0))
    assert second.sha256 != first.sha256
    assert load_checkpoint(path)[1] == second


def test_checkpoint_can_be_moved_and_renamed(tmp_path: Path) -> None:
    path, _, card = save_small_checkpoint(tmp_path)
    other_folder = tmp_path / "other_folder"
    other_folder.mkdir()
    for suffix in (".safetensors", ".json"):
        shutil.move(path.with_suffix(suffix), other_folder / f"renamed{suffix}")
    assert load_checkpoint(other_folder / "renamed.safetensors")[1] == card
