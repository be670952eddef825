"""Checkpoints of runs in local folders and in stores, and continuing from them."""

import json
from pathlib import Path

import pytest
import torch

from fer_batch.errors import OutputError
from fer_batch.evaluation.crossval.crossval import crossval
from fer_batch.runtime import ray_session
from fer_batch.storage.folder import LocalFolder, StoreFolder, open_folder
from fer_batch.train_config import TrainConfig
from fer_batch.training.checkpoints import (
    RAY_LIST,
    find_checkpoint,
    name_checkpoint,
    read_last_state,
    remove_old_checkpoints,
    write_checkpoint,
)
from fer_batch.training.loop import train_network
from fer_batch.training.recorder import RunRecorder
from fer_batch.training.run import train
from fer_batch.training.sources import load_images
from fer_batch.training.state import TrainState, encode_state
from fer_batch.training.tune.run import tune
from tests.s3 import BUCKET, Store, client
from tests.training.examples import (
    CPU,
    SMALL_RECIPE,
    collect_lines,
    make_config,
    make_epoch,
    write_bars_csv,
)


def test_a_new_folder_has_no_checkpoint(tmp_path: Path) -> None:
    for folder in (LocalFolder(tmp_path), LocalFolder(tmp_path / "none")):
        assert find_checkpoint(folder) is None
        assert read_last_state(folder) is None
        remove_old_checkpoints(folder)


def test_the_newest_whole_checkpoint_counts_and_the_others_are_removed(tmp_path: Path) -> None:
    folder = LocalFolder(tmp_path)
    for epoch in (9, 10):
        write_checkpoint(folder, name_checkpoint(epoch), b"state")
    (tmp_path / RAY_LIST).write_text('{"cut')
    (tmp_path / name_checkpoint(11)).mkdir()  # a kill while its state was written
    (tmp_path / name_checkpoint(11) / ".state.pt.host.1.tmp").write_bytes(b"st")
    (tmp_path / "train.json").touch()
    assert find_checkpoint(folder) == name_checkpoint(10)
    remove_old_checkpoints(folder)
    assert sorted(folder.list_names()) == [name_checkpoint(10), "train.json"]


def test_an_unfinished_run_of_version_0_1_does_not_start_again(tmp_path: Path) -> None:
    config, out = make_config(), tmp_path / "run"
    out.mkdir()
    (out / "train.json").write_text(json.dumps(config.to_dict()))
    (out / "state.pt").write_bytes(b"state")
    with pytest.raises(OutputError, match="unfinished run of an older version, which cannot continue"):
        train(config, out)


def test_a_checkpoint_that_cannot_be_written_is_an_expected_error(tmp_path: Path) -> None:
    recorder = RunRecorder(LocalFolder(tmp_path), [])
    (tmp_path / name_checkpoint(1)).write_text("a file instead of a folder")
    with pytest.raises(OutputError, match="cannot write"):
        recorder.write_epoch(name_checkpoint(1), b"state", [make_epoch(1, 0.5)])


@pytest.mark.parametrize("out", ["s3://archive/run", Path("s3://archive/run")])
def test_studies_and_cross_validations_refuse_a_store(
    out: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for start in (crossval, tune):
        with pytest.raises(OutputError, match=r"give a folder on this machine|pass the address as str"):
            start(make_config(), out)
    with pytest.raises(OutputError, match="pass the address as str"):
        train(make_config(), Path("s3://archive/run"))
    with pytest.raises(OutputError, match="--data clips=… is cut into clips"):
        train(TrainConfig(data=(("clips", "videos"),)), "s3://archive/run")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_in_a_store_continues_although_its_recorder_is_killed(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_bars_csv(tmp_path / "bars.csv")
    config = TrainConfig.from_dict({**SMALL_RECIPE, "data": [["fer2013", str(data)]]})
    clips = load_images(config)[0]
    training, selection = (clips.take(clips.splits == split) for split in ("train", "select"))
    states: list[bytes] = []

    def save(state: TrainState) -> None:
        states.append(encode_state(state))

    whole = train_network(config, training, selection, CPU, on_epoch=save)
    out = open_folder("s3://archive/runs/one")
    assert isinstance(out, StoreFolder)
    out.write_json("train.json", config.to_dict())
    write_checkpoint(out, name_checkpoint(1), states[0])
    lines: list[str] = []
    monkeypatch.setenv("FER_BATCH_FAULT", "checkpoint.temporary:2")  # at every second checkpoint
    with ray_session(num_cpus=2):
        summary = train(config, str(out), on_progress=collect_lines(lines))
    assert [line[:7] for line in lines if line.startswith("epoch")] == [f"epoch {n}" for n in (1, 2, 3, 4)]
    assert summary.checkpoint == "s3://archive/runs/one/model.safetensors"
    state = read_last_state(out)
    assert state is not None
    for name, value in whole.weights.items():
        torch.testing.assert_close(state.weights[name], value, rtol=1e-4, atol=1e-4)
    keys = {item["Key"] for item in client().list_objects_v2(Bucket=BUCKET)["Contents"]}
    names = {key.removeprefix("runs/one/").split("/")[0] for key in keys}
    assert names - {".validate_storage_marker"} == {
        "checkpoint_000004", "history.csv", "history.json", "learning_curves.png", "model.json",
        "model.safetensors", "tensorboard", "train.json",
    }  # fmt: skip
    assert not list(tmp_path.glob("s3*"))
    assert train(config, str(out)) == summary
