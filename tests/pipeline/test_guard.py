"""A guarded stage turns crashes and hangs into failed rows, and continues with the other files."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.model.weights import load_checkpoint
from fer_batch.pipeline import guard
from fer_batch.pipeline.child import WorkerProcess
from fer_batch.pipeline.guard import GuardedProbe, GuardedRecognizer, GuardedStage, list_videos_guarded
from fer_batch.pipeline.stages import AnalyzeStage, FacesStage, RecognizeStage
from fer_batch.schema import (
    FACES_SCHEMA,
    PLAN_SCHEMA,
    PROBED_SCHEMA,
    RESULTS_SCHEMA,
    SOURCES_SCHEMA,
    bundle_schema,
    pack_bundle,
    unpack_bundles,
)
from tests.storage.test_archives import pack

QUICK = AnalyzeConfig(fps=2.0, min_face=0.2, segment_s=5.0, bundle_s=30.0)
LIMITS = Limits(timeout_s=1.0, memory_gb=0.5)


def plan_bundle(video: Path, segments: int | None = None) -> pa.Table:
    """Plan a video, or its first segments, as one bundle."""
    card = load_checkpoint(None)[1]
    probed = probe_videos(list_videos([str(video)]).sources)
    plan = plan_segments(probed, QUICK, card.half_window_s, card.model_id, 1)
    return pack_bundle("b", plan.slice(0, segments))


@pytest.mark.parametrize("max_waiting_bytes", [0, guard.MAX_WAITING_BYTES], ids=["each alone", "together"])
def test_guarded_stage_gives_the_rows_of_the_stage(
    long_video: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch, max_waiting_bytes: int
) -> None:
    monkeypatch.setattr(guard, "MAX_WAITING_BYTES", max_waiting_bytes)
    bundle = plan_bundle(long_video(1))
    arguments = (QUICK, load_checkpoint(None)[1].crop_scale, None)
    guarded = GuardedStage("AnalyzeStage", arguments, Limits())
    times = ["decode_s", "detect_s", "crop_s", "recognize_s"]
    rows, guarded_rows = (
        unpack_bundles(stage(bundle), RESULTS_SCHEMA).drop_columns(times)
        for stage in (AnalyzeStage(*arguments), guarded)
    )
    assert rows.num_rows == 2
    assert guarded_rows.equals(rows)
    assert guarded(bundle_schema(PLAN_SCHEMA).empty_table()).num_rows == 0


@pytest.mark.slow
def test_guarded_recognizer_repeats_a_call_with_a_device_error(
    long_video: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process has the error at its second segment, and the next process does not."""
    monkeypatch.setattr(guard, "MAX_WAITING_BYTES", 0)
    faces = FacesStage(QUICK, load_checkpoint(None)[1].crop_scale)(plan_bundle(long_video(1)))
    expected = unpack_bundles(RecognizeStage(None, QUICK.flip)(faces), RESULTS_SCHEMA)
    monkeypatch.setenv("FER_BATCH_FAULT", "recognize.faces:2:CUDA")
    recognizer = GuardedRecognizer((None, QUICK.flip), Limits())
    rows = unpack_bundles(recognizer(faces), RESULTS_SCHEMA)
    assert rows.num_rows == 2
    assert rows.drop_columns("recognize_s").equals(expected.drop_columns("recognize_s"))
    assert recognizer(bundle_schema(FACES_SCHEMA).empty_table()).num_rows == 0


def test_segment_that_crashes_the_process_fails_alone(
    long_video: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each process dies at its second segment, which is then the first segment of the next process.
    monkeypatch.setenv("FER_BATCH_FAULT", "child.extract_faces:2")
    stage = GuardedStage("AnalyzeStage", (QUICK, 0.96, None), Limits())
    rows = unpack_bundles(stage(plan_bundle(long_video(1))), RESULTS_SCHEMA).to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 2
    monkeypatch.setenv("FER_BATCH_FAULT", "child.extract_faces")
    stage = GuardedStage("FacesStage", (QUICK, 0.96), Limits())
    (row,) = stage(plan_bundle(long_video(1), 1)).column("segments")[0].as_py()
    assert row["status"] == "failed"
    assert row["error"] == "the worker process crashed (SIGKILL) 2 times"


@pytest.mark.slow
def test_software_decodes_where_the_decoder_of_a_gpu_crashes(
    long_video: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_BATCH_FAULT", "hardware.decoder")
    stage = GuardedStage("FacesStage", (QUICK, 0.96, 0, True, 0), Limits(), gpu=True)
    (row,) = stage(plan_bundle(long_video(1), 1)).column("segments")[0].as_py()
    assert (row["status"], row["error"]) == ("ok", None)
    assert row["frames"] > 0


def test_frames_before_a_crash_are_kept(
    long_video: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each process dies at its eighth sampled frame; the last one gets a shorter segment.
    monkeypatch.setenv("FER_BATCH_FAULT", "faces.moment:8")
    stage = GuardedStage("FacesStage", (QUICK, 0.96), Limits())
    (row,) = stage(plan_bundle(long_video(1), 1)).column("segments")[0].as_py()
    assert row["status"] == "partial"
    assert row["error"] == "the worker process crashed (SIGKILL) 2 times, at 3.0 s"
    assert [moment["time_s"] for moment in row["moments"]] == [0.0, 0.52, 1.0, 1.52, 2.0, 2.52]
    assert {face["time_s"] for face in row["faces"]} == {moment["time_s"] for moment in row["moments"]}
    assert (row["core_start_s"], row["core_end_s"], row["frames"]) == (0.0, 5.0, 75)


@pytest.mark.slow
def test_two_timeouts_skip_the_other_segments_of_the_video(
    long_video: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_BATCH_FAULT", "child.extract_faces:1:STOP")
    stage = GuardedStage("FacesStage", (QUICK, 0.96), LIMITS)
    began = time.monotonic()
    errors = [row["error"] for row in stage(plan_bundle(long_video(2))).column("segments")[0].as_py()]
    assert errors == [
        *["no progress for 1 s (--timeout)"] * 2,
        *["skipped: the previous 2 segments timed out"] * 2,
    ]
    assert time.monotonic() - began < 60


NAMES = ["1", "crash", "2", "allocate", "3", "hang", "4", "crash twice", "5"]
REASONS = {
    "crash": "the worker process crashed (SIGSEGV) 2 times",
    "allocate": "it needs more than 0.5 GB of memory (--memory)",
    "hang": "no progress for 5 s (--timeout)",
}


@pytest.mark.parametrize("files", [3, pytest.param(64, marks=pytest.mark.slow)])
def test_failed_files_do_not_affect_the_files_of_the_same_call(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.mp4").symlink_to(sample)
    monkeypatch.setattr(guard, "PROBES_PER_CALL", files)
    (row,) = list_videos([str(sample)]).sources.to_pylist()
    sources = [row | {"uri": str(tmp_path / f"{name}.mp4")} for name in NAMES]
    limits = Limits(timeout_s=5.0, memory_gb=0.5)
    with GuardedProbe(limits) as probe:
        probe.child = WorkerProcess("tests.pipeline.faulty:FaultyProber", (), limits)
        table = probe(pa.Table.from_pylist(sources, schema=SOURCES_SCHEMA))
        assert probe(SOURCES_SCHEMA.empty_table()).num_rows == 0
    assert table.schema == PROBED_SCHEMA
    probed = table.to_pylist()
    assert [row["uri"] for row in probed] == [row["uri"] for row in sources]
    assert [row["status"] for row in probed] == ["failed" if row["error"] else "ok" for row in probed]
    assert [row["error"] for row in probed] == [REASONS.get(name.split()[0]) for name in NAMES]
    assert {row["width"] for row in probed if row["status"] == "ok"} == {640}


def test_archive_that_cannot_be_listed_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def start_faulty(target: str, *arguments: Any) -> WorkerProcess:
        return WorkerProcess("tests.pipeline.faulty:FaultyLister", *arguments)

    reasons = {
        "allocate": "it needs more than 0.5 GB of memory (--memory)",
        "crash": "the worker process crashed (SIGSEGV) 2 times",
        "hang": "no progress for 3 s (--timeout)",
        "raise": "KeyError: 'raise'",
    }
    for name in ("a", *reasons, "z"):
        pack(tmp_path / f"{name}.tar", {"video.mp4": b"1"})
    (tmp_path / "list.txt").write_text("hang.tar!/video.mp4")
    monkeypatch.setattr(guard, "WorkerProcess", start_faulty)
    inputs = [str(tmp_path), str(tmp_path / "list.txt")]
    sources = list_videos_guarded(inputs, Limits(timeout_s=3.0, memory_gb=0.5)).sources.to_pylist()
    errors = {s["uri"].removeprefix(f"{tmp_path}/"): s["error"] for s in sources}
    hanging = f"cannot list the archive: {reasons['hang']}"
    assert errors == {
        "a.tar!/video.mp4": None,
        "z.tar!/video.mp4": None,
        "hang.tar!/video.mp4": f"its archive: {hanging}",
        **{f"{name}.tar": f"cannot list the archive: {reason}" for name, reason in reasons.items()},
    }


def test_process_for_archives_starts_with_the_first_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[WorkerProcess] = []
    start = WorkerProcess._start_process

    def start_and_count(self: WorkerProcess) -> Any:
        started.append(self)
        return start(self)

    monkeypatch.setattr(WorkerProcess, "_start_process", start_and_count)
    (tmp_path / "video.mp4").write_bytes(b"1")
    assert len(list_videos_guarded([str(tmp_path)], Limits()).sources) == 1
    assert not started
    for name in ("a.tar", "b.zip"):
        pack(tmp_path / name, {"video.mp4": b"1"})
    sources = list_videos_guarded([str(tmp_path)], Limits()).sources
    assert sources.equals(list_videos([str(tmp_path)]).sources)
    assert len(started) == 1
    assert started[0].process is None
