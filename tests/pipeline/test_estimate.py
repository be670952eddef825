"""What a plan says that stores will be asked, against what they are asked."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.model.weights import load_checkpoint
from fer_batch.pipeline.estimate import estimate_run
from fer_batch.video import reader as decode
from tests.integration.test_analyze import analyze_in_process
from tests.s3 import Store

SURVEY = AnalyzeConfig(fps=0.2, min_face=0.4, fast="keyframes", bundle_s=120.0)


def test_files_here_ask_no_store(sample: Path) -> None:
    found = estimate_run([str(sample)], SURVEY, load_checkpoint(None)[1], 1)
    assert (found.store_requests, found.store_bytes) == (0, 0)


def test_a_store_is_asked_about_as_often_and_as_much_as_planned(
    store: Store,
    long_video: Callable[[int], Path],
    sample: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A film in several bundles, each as if another worker's, and a clip smaller than a block."""
    monkeypatch.setattr(decode, "_take", lambda path: None)
    store.put("film.mp4", long_video(36).read_bytes())
    store.put("clip.mp4", sample.read_bytes())
    found = estimate_run(["s3://archive/"], SURVEY, load_checkpoint(None)[1], 2)
    store.answers.clear()
    analyze_in_process(["s3://archive/"], tmp_path / "out", SURVEY)
    asked = store.answers["GET"] + store.answers["HEAD"]
    assert 0.6 < asked / found.store_requests < 1.5
    assert 0.6 < store.answers["bytes"] / found.store_bytes < 1.5


def test_of_files_in_stores_that_were_not_asked_for_a_size_is_guessed(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("path,duration_s\ns3://archive/film.mp4,3600\n")
    found = estimate_run([str(tmp_path / "list.csv")], SURVEY, load_checkpoint(None)[1], 1)
    assert 1e9 < found.store_bytes < 3e9
