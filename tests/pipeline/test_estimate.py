"""The estimated requests to stores, compared with the real ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.model.weights import load_checkpoint
from fer_batch.pipeline.estimate import START_S, estimate_run, estimate_wall_s
from fer_batch.video import reader
from tests.integration.test_analyze import analyze_in_process
from tests.s3 import Store

SURVEY = AnalyzeConfig(fps=0.2, min_face=0.4, fast="keyframes", bundle_s=120.0)


@pytest.mark.slow
def test_estimated_requests_and_bytes_match_a_run(
    store: Store,
    long_video: Callable[[int], Path],
    sample: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A film in several bundles without a shared cache, and a clip smaller than a block."""
    monkeypatch.setattr(reader, "take_source", lambda path, gpu: None)
    store.put("film.mp4", long_video(36).read_bytes())
    store.put("clip.mp4", sample.read_bytes())
    estimate = estimate_run(["s3://archive/"], SURVEY, load_checkpoint(None)[1], [2], 1)
    store.answers.clear()
    analyze_in_process(["s3://archive/"], tmp_path / "out", SURVEY)
    requests = store.answers["GET"] + store.answers["HEAD"]
    assert 0.6 < requests / estimate.store_requests < 1.5
    assert 0.6 < store.answers["bytes"] / estimate.store_bytes < 1.5


@pytest.mark.parametrize(
    ("bundles", "workers", "rounds", "expected_s"),
    [
        ([], 8, 0, 0),
        ([50.0], 8, 1, START_S + 50),
        ([50.0] * 8, 8, 1, START_S + 50),
        ([50.0] * 9, 8, 1, START_S + 100),  # seven workers wait for the ninth bundle
        ([10.0, 10.0, 50.0], 2, 1, START_S + 60),
        ([50.0] * 8, 8, 2, 2 * START_S + 100),
    ],
)
def test_wall_time_counts_starts_and_idle_workers(
    bundles: list[float], workers: int, rounds: int, expected_s: float
) -> None:
    assert estimate_wall_s(np.array(bundles), workers, rounds) == pytest.approx(expected_s)


def test_only_files_in_stores_count_and_their_size_may_be_assumed(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path,duration_s\n{sample},10\ns3://archive/film.mp4,3600\n")
    local, mixed = (
        estimate_run([str(path)], SURVEY, load_checkpoint(None)[1], [1], 1)
        for path in (sample, tmp_path / "list.csv")
    )
    assert (local.store_requests, local.store_bytes) == (0, 0)
    assert 1e9 < mixed.store_bytes < 3e9
