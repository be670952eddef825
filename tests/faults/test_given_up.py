"""Work that takes worker after worker with it is tried a finite number of times, and told."""

from pathlib import Path

import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.pipeline.analyze import analyze
from fer_batch.runtime import ray_session
from fer_batch.timeline.store import open_timeline

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]


def test_workers_that_die_are_replaced_but_not_for_ever(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each dies when it is given the only bundle."""
    monkeypatch.setenv("FER_BATCH_FAULT", "guard.bundle")
    out = tmp_path / "out"
    with ray_session(num_cpus=2):
        summary = analyze([str(sample)], out, AnalyzeConfig(fps=2.0, min_face=0.2))
    assert summary.videos == {"failed": 1}
    answer = open_timeline(out).sql("SELECT error, moments FROM videos").fetchall()
    assert answer == [("every worker that processed this segment crashed", 0)]
