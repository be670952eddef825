"""Saving and loading checkpoints, and errors of unusable files."""

import dataclasses
import hashlib
import json
import os
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
from fer_batch.model.card import Card, read_card
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.weights import load_checkpoint, save_checkpoint
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


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def change_weights(path: Path, name: str, value: float) -> None:
    """Set the first number of a tensor."""
    tensors = safetensors.torch.load(path.read_bytes())
    tensors[name].view(-1)[0] = value
    replace_weights(path, safetensors.torch.save(tensors))


def write_header(header: bytes) -> bytes:
    """Return a safetensors file with this header and as many bytes as the small checkpoint needs."""
    return len(header).to_bytes(8, "little") + header + bytes(1_000_000)


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
    "five classes": lambda path: edit_card(path, classes=list(EMOTIONS[:5])),
    "nine classes": lambda path: edit_card(path, classes=[*EMOTIONS, "calm", "bored"]),
    "two classes of one column": lambda path: edit_card(path, classes=[*EMOTIONS[:6], "Angry"]),
    "two classes of one column by punctuation": lambda path: edit_card(
        path, classes=["very sad", "very-sad", *EMOTIONS[:5]]
    ),
    "empty class": lambda path: edit_card(path, classes=[*EMOTIONS[:6], ""]),
    "class of spaces": lambda path: edit_card(path, classes=[*EMOTIONS[:6], "  "]),
    "class of punctuation": lambda path: edit_card(path, classes=[*EMOTIONS[:6], "?!"]),
    "class with an escape": lambda path: edit_card(path, classes=[*EMOTIONS[:6], "\x1b[2Jcalm"]),
    "class of half a character": lambda path: edit_card(path, classes=[*EMOTIONS[:6], "\ud800"]),
    "long class": lambda path: edit_card(path, classes=[*EMOTIONS[:6], "a" * 65]),
    "long window": lambda path: edit_card(path, window_length=1_000_000_001),
    "slow window": lambda path: edit_card(path, window_rate_hz=1e-9),
    "huge rate": lambda path: edit_card(path, window_rate_hz=1e300),
    "huge scale": lambda path: edit_card(path, crop_scale=1e9),
    "tiny deviation": lambda path: edit_card(path, std=1e-300),
    "huge temperature": lambda path: edit_card(path, temperature=1e300),
    "huge whole number": lambda path: edit_card(path, mean=10**400),
    "unknown network": lambda path: edit_card(path, network="\x1b]0;title\x07"),
    "deep network": lambda path: edit_card(path, architecture={**ARCHITECTURE, "depths": [10**9] * 4}),
    "wide network": lambda path: edit_card(path, architecture={**ARCHITECTURE, "lstm": [10**9, 64]}),
    "no blocks": lambda path: edit_card(path, architecture={**ARCHITECTURE, "filters": [], "depths": []}),
    "huge crops": lambda path: edit_card(path, architecture={"backbone": "resnet18", "size": 10**6}),
    "division by zero": lambda path: edit_card(path, architecture={**ARCHITECTURE, "fold": 0}),
    "nested arguments": lambda path: edit_card(path, architecture={**ARCHITECTURE, "filters": [[8]] * 4}),
    "surrogate in the record": lambda path: edit_card(path, training={"note": "\udfff"}),
    "deep card": lambda path: path.with_suffix(".json").write_text("[" * 200_000),
    "deep record": lambda path: edit_card(path, training={"a": json.loads("[" * 40 + "]" * 40)}),
    "large card": lambda path: edit_card(path, uses="a" * 1_000_000),
    "card is a pipe": lambda path: make_pipe(path.with_suffix(".json")),
    "weights are a pipe": make_pipe,
    "card is a device": lambda path: replace_by_link(path.with_suffix(".json"), "/dev/zero"),
    "card is a process file": lambda path: replace_by_link(path.with_suffix(".json"), "/proc/self/environ"),
    "sparse weights": lambda path: os.truncate(path, 1 << 40),
    "NaN": lambda path: change_weights(path, "crop_head.bias", float("nan")),
    "infinite": lambda path: change_weights(path, "lstm1.weight_ih_l0", float("inf")),
    "negative variance": lambda path: change_weights(path, "encoder.blocks.1.running_var", -1.0),
    "long header": lambda path: replace_weights(path, (1 << 60).to_bytes(8, "little") + b"{}"),
    "deep header": lambda path: replace_weights(path, write_header(b'{"a":' + b"[" * 100_000)),
    "overlapping tensors": lambda path: replace_weights(
        path,
        write_header(
            b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            b'"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
        ),
    ),
    "tensor beyond the end": lambda path: replace_weights(
        path, write_header(b'{"a":{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,8]}}')
    ),
    "unknown type": lambda path: replace_weights(
        path, write_header(b'{"a":{"dtype":"F8_E8M0","shape":[8],"data_offsets":[0,8]}}')
    ),
}


@pytest.mark.parametrize("damage", DAMAGED_FILES)
def test_unusable_checkpoint_raises_an_error_that_names_it(tmp_path: Path, damage: str) -> None:
    path = save_small_checkpoint(tmp_path)[0]
    DAMAGED_FILES[damage](path)
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    message = str(caught.value)
    assert str(path.with_suffix("")) in message
    assert len(message) < 1000
    assert "\n" not in message


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
    huge = {**ARCHITECTURE, "filters": [4096] * 4}
    path = edit_card(save_small_checkpoint(tmp_path)[0], architecture=huge)
    with pytest.raises(CheckpointError, match="weights, but the file has"):
        load_checkpoint(path)


@pytest.mark.parametrize("target", ["model.safetensors", "model.json"])
def test_link_to_a_checkpoint_is_followed(tmp_path: Path, target: str) -> None:
    path, _, card = save_small_checkpoint(tmp_path)
    shutil.move(tmp_path / target, tmp_path / "moved")
    (tmp_path / target).symlink_to("moved")
    assert load_checkpoint(path)[1] == card


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
