"""Work that no worker can do is tried a limited number of times and then reported."""

from pathlib import Path

import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.pipeline.analyze import analyze
from fer_batch.runtime import ray_session
from fer_batch.timeline.store import open_timeline

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("fault", "gpus", "reason"),
    [
        ("guard.bundle", 0, "every worker that processed this segment crashed"),
        ("recognize.faces:1:CUDA", 1, "RuntimeError: CUDA error: an illegal memory access was encountered"),
    ],
    ids=["crash", "device error in a pool of recognizers"],
)
def test_bundle_that_fails_on_every_worker_fails(
    fault: str, gpus: int, reason: str, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker dies, or reports a device error, when it gets the only bundle."""
    monkeypatch.setenv("FER_BATCH_FAULT", fault)
    out = tmp_path / "out"
    with ray_session(num_cpus=2, num_gpus=gpus):
        summary = analyze([str(sample)], out, AnalyzeConfig(fps=2.0, min_face=0.2))
    assert summary.videos == {"failed": 1}
    rows = open_timeline(out).sql("SELECT error, moments FROM videos").fetchall()
    assert rows == [(reason, 0)]
