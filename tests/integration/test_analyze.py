"""The main job, on Ray and without, compared with the same stages called one after another."""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import ray
import torch
from ray.exceptions import RayActorError

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import OutputError
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.model.inference import choose_precision
from fer_batch.model.recognize import Recognizer
from fer_batch.pipeline import dataflow
from fer_batch.pipeline.analyze import analyze
from fer_batch.pipeline.detector import Detectors, run_detectors
from fer_batch.pipeline.offload import encode_views
from fer_batch.pipeline.placement import Placement
from fer_batch.pipeline.stages import AnalyzeStage
from fer_batch.ray_internals import list_values
from fer_batch.run.finalize import finalize
from fer_batch.run.plan import add_planning_round
from fer_batch.run.record import create_run, read_run
from fer_batch.run.results import write_bundle
from fer_batch.run.summary import RunSummary
from fer_batch.runtime import ray_session
from fer_batch.schema import pack_bundle
from fer_batch.storage.folder import FolderLike, open_folder
from fer_batch.timeline.store import open_timeline

QUICK = AnalyzeConfig(min_face=0.15, segment_s=4.0, bundle_s=8.0)
"""Only larger faces, which is three times as fast. The sample has four segments in several bundles."""


def analyze_in_process(inputs: list[str], out: FolderLike, config: AnalyzeConfig) -> RunSummary:
    """Do the work of `analyze` in this process, without Ray."""
    out = open_folder(out)
    results = out.subfolder("results")
    checkpoint = Path(config.checkpoint) if config.checkpoint else None
    card = Recognizer(checkpoint, "cpu").card
    probed = probe_videos(list_videos(inputs).sources)
    plan = plan_segments(probed, config, card.half_window_s, card.model_id, 2)
    results.create()
    create_run(out, config, card)
    add_planning_round(out, probed, plan)
    stage = AnalyzeStage(config, card.crop_scale, checkpoint)
    for bundle_id in dict.fromkeys(plan.column("bundle_id").to_pylist()):
        rows = plan.take([i for i, b in enumerate(plan.column("bundle_id").to_pylist()) if b == bundle_id])
        write_bundle(results, stage(pack_bundle(bundle_id, rows)))
    return finalize(out)


def rows(out: Path, table: str = "tracks") -> pd.DataFrame:
    """Return all rows of a table in a fixed order, without measured times."""
    keys = {"tracks": "video_id, track_id, time_s", "moments": "video_id, time_s", "videos": "uri"}[table]
    frame = open_timeline(out).sql(f"SELECT * FROM {table} ORDER BY {keys}").df()
    return frame.drop(columns=["analyze_s"], errors="ignore")


def assert_same_run(one: Path, other: Path) -> None:
    for table in ("videos", "moments", "tracks"):
        pd.testing.assert_frame_equal(rows(one, table), rows(other, table), check_exact=True)
    assert len(rows(one))


@pytest.fixture(scope="module")
def undisturbed(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `videos` without Ray."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    analyze_in_process([str(videos)], out, QUICK)
    return out


@pytest.mark.slow
def test_length_of_segments_does_not_change_the_rows(long_video, tmp_path: Path) -> None:
    video = str(long_video(7))
    outs = []
    for seconds in (20.0, 60.0):
        outs.append(tmp_path / f"{seconds:g}")
        analyze_in_process([video], outs[-1], AnalyzeConfig(min_face=0.15, fps=2.0, segment_s=seconds))
    for table in ("moments", "tracks"):
        pd.testing.assert_frame_equal(rows(outs[0], table), rows(outs[1], table), check_exact=True)
    assert rows(outs[0], "moments").frame_index.is_monotonic_increasing


def test_number_of_segments_does_not_change_the_rows(tmp_path: Path, undisturbed: Path, videos: Path) -> None:
    whole = AnalyzeConfig(min_face=QUICK.min_face)
    analyze_in_process([str(videos)], tmp_path / "out", whole)
    for table in ("moments", "tracks"):
        pd.testing.assert_frame_equal(
            rows(tmp_path / "out", table), rows(undisturbed, table), check_exact=True
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "resources",
    [
        pytest.param({"num_cpus": 1}, id="1 CPU"),
        pytest.param({"num_cpus": 2}, id="2 CPUs"),
    ],
)
def test_run_on_ray_gives_the_same_rows_at_once_and_continued(
    resources: dict[str, int], videos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with ray_session(**resources):
        summary = analyze([str(videos)], out, QUICK)
        assert_same_run(out, undisturbed)
        for path in sorted((out / "results").iterdir())[:2]:
            path.unlink()
        assert analyze([str(videos)], out, QUICK) == summary
    assert read_run(out).settings["precision"] == choose_precision("auto", torch.device("cpu"))
    assert_same_run(out, undisturbed)
    assert summary.videos == {"ok": 2, "failed": 1}
    assert [(Path(failure.uri).name, failure.status) for failure in summary.failures] == [("c.mp4", "failed")]
    assert (out / "_SUCCESS.json").exists()
    assert len(pd.read_parquet(out / "tracks")) == summary.faces


@pytest.mark.slow
def test_progress_of_a_run_on_ray_counts_bundles_in_work(long_video, tmp_path: Path) -> None:
    video, reports = str(long_video(2)), []
    config = AnalyzeConfig(min_face=0.15, segment_s=600.0)
    with ray_session(num_cpus=1):
        analyze([video], tmp_path / "out", config, on_progress=reports.append)
        assert not list_values("")
    assert len(list((tmp_path / "out" / "results").glob("*.parquet"))) == 1
    done_s = [report.video_s_done for report in reports]
    assert done_s == sorted(done_s)
    assert any(0 < seconds < reports[-1].video_s for seconds in done_s)
    assert done_s[-1] == reports[-1].video_s


@pytest.mark.slow
def test_run_with_too_few_gpus_gives_the_same_rows(
    videos: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One CPU finds faces for a logical GPU, whose rate is measured, and the other CPU recognizes as well."""
    rates = []

    def plan_both(resources: object, gpu_gb: float, rate: float = 0.0) -> Placement:
        rates.append(rate)
        return Placement(analyzers=1, faces=1, detectors_gpu=0, recognizers=1, recognizers_gpu=0.5)

    monkeypatch.setattr(dataflow, "plan_placement", plan_both)
    # Nothing is known of a logical GPU, so "auto" would be fp32.
    config = replace(QUICK, precision=choose_precision("auto", torch.device("cpu")))
    with ray_session(num_cpus=2, num_gpus=1):
        analyze([str(videos)], tmp_path / "out", config)
    assert_same_run(tmp_path / "out", undisturbed)
    assert rates[0] == 0
    assert 20 < rates[1] < 50_000


@pytest.mark.slow
def test_detector_finds_the_same_faces_until_it_fails(
    videos: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A logical GPU has a detector, which is killed in its third batch. Then the workers search alone."""
    ends = []

    @contextlib.contextmanager
    def watch(*arguments: Any) -> Iterator[Detectors]:
        with run_detectors(*arguments) as detectors:
            yield detectors
            for handle in itertools.chain(*detectors.values()):
                with pytest.raises(RayActorError) as end:
                    ray.get(handle.answer.remote(encode_views([])))
                ends.append(end.value)

    monkeypatch.setattr(dataflow, "run_detectors", watch)
    monkeypatch.setenv("FER_BATCH_FAULT", "detector.batch:3")
    config = replace(QUICK, precision=choose_precision("auto", torch.device("cpu")))
    with ray_session(num_cpus=2, num_gpus=1):
        summary = analyze([str(videos)], tmp_path / "out", config)
    assert len(ends) == 1
    assert summary.videos == {"ok": 2, "failed": 1}
    assert rows(tmp_path / "out", "moments").equals(rows(undisturbed, "moments"))
    ours, theirs = (rows(out, "tracks") for out in (tmp_path / "out", undisturbed))
    devices = rows(tmp_path / "out", "videos").detected_on.dropna().tolist()
    assert "gpu" in "".join(devices)
    assert "cpu" in "".join(devices)
    assert rows(undisturbed, "videos").detected_on.dropna().tolist() == ["cpu", "cpu"]
    boxes = ["box_x0", "box_y0", "box_x1", "box_y1"]
    assert np.abs(ours[boxes] - theirs[boxes]).max(axis=None) < 0.05
    assert (ours.emotion == theirs.emotion).mean() > 0.9


def test_finalize_rebuilds_a_finished_run_and_refuses_an_unfinished_one(
    undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    for table in ("videos", "tracks", "moments"):
        shutil.rmtree(out / table)
    finalize(out)
    assert_same_run(out, undisturbed)
    shutil.rmtree(out / "tracks")
    finalize(out)
    assert_same_run(out, undisturbed)
    result = next((out / "results").iterdir())
    result.write_bytes(b"not Parquet")
    with pytest.raises(OutputError, match=result.name):
        finalize(out, rewrite_all=True)
    with pytest.raises(OutputError, match="not done"):
        finalize(out, rewrite_all=True)


@pytest.mark.slow
@pytest.mark.parametrize("ray_option", [["--ray"], []], ids=["on Ray", "without Ray"])
def test_run_continues_after_its_driver_was_killed(
    ray_option: list[str], videos: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    options = [*ray_option, "--min-face", "0.15", "--segment", "4", "--bundle", "8"]
    command = [
        sys.executable,
        "-m",
        "fer_batch.cli.main",
        "analyze",
        str(videos),
        "--out",
        str(out),
        *options,
    ]
    driver = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (out / "results").is_dir() or not any((out / "results").glob("*.parquet")):
            assert driver.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.killpg(driver.pid, signal.SIGKILL)
        driver.wait()
    done = len(list((out / "results").glob("*.parquet")))
    assert not (out / "_SUCCESS.json").exists()
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert_same_run(out, undisturbed)
    assert done < len(list((out / "results").glob("*.parquet")))


MEMORY = """
import resource, sys
from pathlib import Path
from tests.integration.test_analyze import analyze_in_process
from fer_batch.config import AnalyzeConfig
analyze_in_process([sys.argv[1]], Path(sys.argv[2]), AnalyzeConfig(min_face=0.3, fps=1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_is_independent_of_the_length_of_the_video(long_video, tmp_path: Path) -> None:
    peaks_mb = []
    for repeat in (6, 36):
        command = [sys.executable, "-c", MEMORY, str(long_video(repeat)), str(tmp_path / str(repeat))]
        ended = subprocess.run(command, check=True, capture_output=True, text=True)
        peaks_mb.append(int(ended.stdout.split()[-1]))
    print(f"peak memory of 1 and of 6 minutes: {peaks_mb} MB")
    assert peaks_mb[1] < peaks_mb[0] * 1.1
