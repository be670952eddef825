"""What the recorder of a run keeps for the command."""

from pathlib import Path

from fer_batch.storage.folder import LocalFolder
from fer_batch.training.recorder import RunRecorder
from fer_batch.training.resources import summarize_hardware


def test_hardware_is_that_of_the_workers_that_train_now(tmp_path: Path) -> None:
    recorder = RunRecorder(LocalFolder(tmp_path), [])
    assert recorder.get_progress().hardware == []
    recorder.record_worker(0, 1, "node1\nA100")
    assert summarize_hardware(recorder.get_progress().hardware) == "A100"
    for rank, hardware in enumerate(["node1\nA100", "node1\nA100", "node2\nH100"]):
        recorder.record_worker(rank, 3, hardware)
    assert summarize_hardware(recorder.get_progress().hardware) == "2 × A100, H100"
    for rank, hardware in enumerate(["node2\nH100", "node3\nH100"]):
        recorder.record_worker(rank, 2, hardware)
    assert summarize_hardware(recorder.get_progress().hardware) == "2 × H100"
    assert recorder.get_progress().workers == 2
