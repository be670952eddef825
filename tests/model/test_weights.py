"""Checkpoints: what is saved comes back, and every file that is not one is refused by its name."""

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

from fer_batch.errors import CheckpointError
from fer_batch.model.cnn_bilstm import CnnBiLstm
from fer_batch.model.network import CROP_SIZE
from fer_batch.model.weights import Card, load_checkpoint, read_card, save_checkpoint
from fer_batch.schema import EMOTIONS

ARCHITECTURE = {"classes": 7, "filters": [8, 8, 8, 8], "dropout": 0.0}


def small_checkpoint(folder: Path, name: str = "model") -> tuple[Path, CnnBiLstm, Card]:
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
    """Other weights, with a card that vouches for them."""
    path.write_bytes(data)
    return edit_card(path, sha256=hashlib.sha256(data).hexdigest())


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path, network, saved = small_checkpoint(tmp_path)
    loaded, card = load_checkpoint(path)
    assert card == saved
    assert card.classes == EMOTIONS
    assert card.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert re.fullmatch(r"cnn-bilstm-[0-9a-f]{12}", card.model_id)
    assert not loaded.training
    crops = torch.randn(2, 3, 1, CROP_SIZE, CROP_SIZE)
    torch.testing.assert_close(loaded(crops), network(crops), atol=1e-2, rtol=0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.json", "model.safetensors"]


def test_what_is_read_back_is_what_was_rounded_to_half_precision(tmp_path: Path) -> None:
    path, network, _ = small_checkpoint(tmp_path)
    loaded = load_checkpoint(path)[0].state_dict()
    saved = network.state_dict()
    assert loaded.keys() == saved.keys()
    for name, value in saved.items():
        assert loaded[name].dtype == value.dtype
        rounded = value.half().float() if value.is_floating_point() else value
        assert torch.equal(loaded[name], rounded)
    assert any(not torch.equal(loaded[name], value) for name, value in saved.items())


def test_what_was_read_back_and_saved_again_is_the_same_model(tmp_path: Path) -> None:
    path, _, card = small_checkpoint(tmp_path)
    assert save_checkpoint(tmp_path / "again.safetensors", load_checkpoint(path)[0], card) == card
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_a_file_is_half_as_large_as_its_weights(tmp_path: Path) -> None:
    path, network, _ = small_checkpoint(tmp_path)
    single = len(safetensors.torch.save(dict(network.state_dict())))
    assert 0.5 * single < path.stat().st_size < 0.52 * single


def test_a_file_in_single_precision_still_loads_as_it_is(tmp_path: Path) -> None:
    path, network, _ = small_checkpoint(tmp_path)
    replace_weights(path, safetensors.torch.save(dict(network.state_dict())))
    loaded = load_checkpoint(path)[0].state_dict()
    assert [
        name for name, value in network.state_dict().items() if not torch.equal(loaded[name], value)
    ] == []


def test_the_same_weights_are_the_same_model(tmp_path: Path) -> None:
    cards = [small_checkpoint(tmp_path, name)[2] for name in ("one", "two")]
    assert cards[0].model_id == cards[1].model_id


@pytest.mark.parametrize(
    "change",
    [{"temperature": 1.5}, {"window_length": 5}, {"crop_scale": 1.0}, {"classes": EMOTIONS[::-1]}],
)
def test_the_same_weights_that_answer_otherwise_are_another_model(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    card = small_checkpoint(tmp_path)[2]
    assert dataclasses.replace(card, **change).model_id != card.model_id
    assert dataclasses.replace(card, training={"seconds": 1}).model_id == card.model_id


def test_a_folder_means_the_model_in_it(tmp_path: Path) -> None:
    path, _, card = small_checkpoint(tmp_path)
    assert read_card(tmp_path) == (path, card)


def test_the_packaged_checkpoint_is_used_where_none_is_named() -> None:
    network, card = load_checkpoint()
    assert card.classes == EMOTIONS
    assert all(value.isfinite().all() for value in network.state_dict().values())
    assert network(torch.zeros(1, 1, 1, CROP_SIZE, CROP_SIZE)).shape == (1, 1, len(EMOTIONS))


@pytest.mark.parametrize(("length", "rate_hz", "half_s"), [(1, 5.0, 0.0), (9, 5.0, 0.8), (5, 10.0, 0.2)])
def test_a_window_reaches_to_half_its_length_at_least(length: int, rate_hz: float, half_s: float) -> None:
    card = Card(classes=EMOTIONS, architecture={}, window_length=length, window_rate_hz=rate_hz)
    assert card.half_window_s >= half_s


def missing(path: Path) -> Path:
    return path.with_name("nothing.safetensors")


def without_card(path: Path) -> Path:
    path.with_suffix(".json").unlink()
    return path


def empty_folder(path: Path) -> Path:
    folder = path.parent / "empty"
    folder.mkdir()
    return folder


def other_suffix(path: Path) -> Path:
    return path.rename(path.with_suffix(".pt"))


def truncated(path: Path) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return path


def truncated_and_vouched_for(path: Path) -> Path:
    data = path.read_bytes()
    return replace_weights(path, data[: len(data) // 2])


def empty(path: Path) -> Path:
    return replace_weights(path, b"")


def of_another_card(path: Path) -> Path:
    return edit_card(path, sha256="0" * 64)


def of_a_card_without_sha256(path: Path) -> Path:
    return edit_card(path, sha256="")


def wider_than_the_card_says(path: Path) -> Path:
    return edit_card(path, architecture={**ARCHITECTURE, "filters": [8, 8, 8, 16]})


def of_an_architecture_with_an_unknown_part(path: Path) -> Path:
    return edit_card(path, architecture={**ARCHITECTURE, "attention": True})


def of_an_architecture_with_three_lstms(path: Path) -> Path:
    return edit_card(path, architecture={**ARCHITECTURE, "lstm": [128, 64, 32]})


def of_an_architecture_that_is_no_mapping(path: Path) -> Path:
    return edit_card(path, architecture="resnet")


def tensors_of_something_else(path: Path) -> Path:
    return replace_weights(path, safetensors.torch.save({"weight": torch.zeros(3)}))


def renamed_pickle(path: Path) -> Path:
    return replace_weights(path, pickle.dumps({"weight": [0.0]}))


def renamed_torch_file(path: Path) -> Path:
    torch.save({"weight": torch.zeros(3)}, path)
    return replace_weights(path, path.read_bytes())


def card_of_text(path: Path) -> Path:
    path.with_suffix(".json").write_text("a model")
    return path


def card_of_other_bytes(path: Path) -> Path:
    path.with_suffix(".json").write_bytes(b"\xff\xfe\x00")
    return path


def card_that_is_a_list(path: Path) -> Path:
    path.with_suffix(".json").write_text("[]")
    return path


def card_without_classes(path: Path) -> Path:
    path.with_suffix(".json").write_text(json.dumps({"architecture": ARCHITECTURE}))
    return path


def card_with_an_unknown_field(path: Path) -> Path:
    return edit_card(path, colour="blue")


def card_of_an_even_window(path: Path) -> Path:
    return edit_card(path, window_length=8)


def card_of_one_class(path: Path) -> Path:
    return edit_card(path, classes=["happy"])


def card_of_no_spread(path: Path) -> Path:
    return edit_card(path, std=0)


@pytest.mark.parametrize(
    "spoil",
    [
        empty,
        empty_folder,
        missing,
        without_card,
        other_suffix,
        truncated,
        truncated_and_vouched_for,
        of_another_card,
        of_a_card_without_sha256,
        wider_than_the_card_says,
        of_an_architecture_with_an_unknown_part,
        of_an_architecture_with_three_lstms,
        of_an_architecture_that_is_no_mapping,
        tensors_of_something_else,
        renamed_pickle,
        renamed_torch_file,
        card_of_text,
        card_of_other_bytes,
        card_that_is_a_list,
        card_without_classes,
        card_with_an_unknown_field,
        card_of_an_even_window,
        card_of_one_class,
        card_of_no_spread,
    ],
)
def test_what_is_not_a_checkpoint_is_refused_by_its_name(
    tmp_path: Path, spoil: Callable[[Path], Path]
) -> None:
    path = spoil(small_checkpoint(tmp_path)[0])
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    named = path.with_suffix("") if path.suffix else path
    assert str(named) in str(caught.value)


def test_a_card_without_a_hash_is_refused_with_what_to_do(tmp_path: Path) -> None:
    path = of_a_card_without_sha256(small_checkpoint(tmp_path)[0])
    with pytest.raises(CheckpointError, match=r"has no sha256.*sha256sum"):
        load_checkpoint(path)


def test_a_card_that_asks_for_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    path = edit_card(small_checkpoint(tmp_path)[0], architecture={**ARCHITECTURE, "filters": [1 << 20] * 4})
    with pytest.raises(CheckpointError, match="weights, in a file of"):
        load_checkpoint(path)


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    path = replace_weights(small_checkpoint(tmp_path)[0], pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(CheckpointError):
        load_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


def test_saving_again_replaces_both_files(tmp_path: Path) -> None:
    path, _, first = small_checkpoint(tmp_path)
    torch.manual_seed(1)
    second = save_checkpoint(path, CnnBiLstm(**ARCHITECTURE), dataclasses.replace(first, crop_scale=1.0))
    assert second.sha256 != first.sha256
    assert load_checkpoint(path)[1] == second


def test_a_checkpoint_can_be_moved_and_renamed(tmp_path: Path) -> None:
    path, _, card = small_checkpoint(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for suffix in (".safetensors", ".json"):
        shutil.move(path.with_suffix(suffix), elsewhere / f"renamed{suffix}")
    assert load_checkpoint(elsewhere / "renamed.safetensors")[1] == card
