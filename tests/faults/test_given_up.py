"""Work that kills every worker is retried a limited number of times and then reported."""

from pathlib import Path

import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.pipeline.analyze import analyze
from fer_batch.runtime import ray_session
from fer_batch.timeline.store import open_timeline

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def test_bundle_that_kills_every_worker_fails(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each worker dies when it gets the only bundle."""
    monkeypatch.setenv("FER_BATCH_FAULT", "guard.bundle")
    out = tmp_path / "out"
    with ray_session(num_cpus=2):
        summary = analyze([str(sample)], out, AnalyzeConfig(fps=2.0, min_face=0.2))
    assert summary.videos == {"failed": 1}
    rows = open_timeline(out).sql("SELECT error, moments FROM videos").fetchall()
    assert rows == [("every worker that processed this segment crashed", 0)]
