"""A guarded process that crashes, hangs or eats memory harms nobody, and the work goes on."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
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
from fer_batch.pipeline.child import CallFailedError, WorkerProcess
from fer_batch.pipeline.guard import GuardedProbe, GuardedStage
from fer_batch.pipeline.stages import AnalyzeStage
from fer_batch.schema import (
    PLAN_SCHEMA,
    PROBED_SCHEMA,
    RESULTS_SCHEMA,
    SOURCES_SCHEMA,
    bundle_schema,
    pack_bundle,
    unpack_bundles,
)

STRANGE = "tests.pipeline.strange:Strange"
LIMITS = Limits(timeout_s=1.0, memory_gb=0.5)


@pytest.fixture
def child() -> Iterator[WorkerProcess]:
    child = WorkerProcess(STRANGE, ("me",), LIMITS)
    yield child
    child.close()


def greeted(child: WorkerProcess) -> int:
    """Its process, that it answers from."""
    (row,) = child.call("greet", 7).to_pylist()
    assert (row["name"], row["number"]) == ("me", 7)
    return int(row["pid"])


def test_one_process_answers_call_after_call(child: WorkerProcess) -> None:
    assert len({greeted(child) for _ in range(3)} - {os.getpid()}) == 1


@pytest.mark.parametrize(
    ("method", "arguments", "reason", "dies"),
    [
        ("crash", (), "the worker process crashed (SIGSEGV) 2 times", True),
        ("leave", (), "the worker process ended (exit code 3) 2 times", True),
        ("fail", (), "ValueError: this\nfile is strange", False),
        ("stop", (), "no progress for 1 s (--timeout)", True),
        ("hold", (60,), "no progress for 1 s (--timeout)", True),
        ("eat", (2.0,), "it needs more than 0.5 GB of memory (--memory)", True),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_trouble_is_told_and_the_next_call_is_answered(
    child: WorkerProcess, method: str, arguments: tuple[Any, ...], reason: str, dies: bool
) -> None:
    before = greeted(child)
    with pytest.raises(CallFailedError) as trouble:
        child.call(method, *arguments)
    assert str(trouble.value) == reason
    assert (greeted(child) != before) == dies
    assert _runs(before) != dies


def test_what_crashed_once_is_tried_again(child: WorkerProcess, tmp_path: Path) -> None:
    before = greeted(child)
    (row,) = child.call("crash_once", str(tmp_path / "marker")).to_pylist()
    assert row["pid"] != before


def test_slow_work_that_goes_on_is_waited_for_but_not_for_ever(child: WorkerProcess) -> None:
    assert child.call("go_on", 2.5).num_rows == 1
    with pytest.raises(CallFailedError, match="it took longer than 2 s") as trouble:
        child.call("go_on", 60.0, max_s=2)
    assert trouble.value.timed_out


def test_memory_within_the_limit_is_had(child: WorkerProcess) -> None:
    assert child.call("eat", 0.3).to_pylist() == [{"sum": 300_000_000}]


def test_a_process_killed_while_it_waits_is_replaced(child: WorkerProcess) -> None:
    before = greeted(child)
    os.kill(before, signal.SIGKILL)
    assert greeted(child) != before


def test_a_process_killed_while_it_starts_is_replaced(child: WorkerProcess) -> None:
    killed = []

    def strike() -> None:
        while child.process is None:
            time.sleep(0.001)
        killed.append(child.process.pid)
        os.kill(child.process.pid, signal.SIGKILL)

    striker = threading.Thread(target=strike)
    striker.start()
    assert greeted(child) not in killed
    striker.join()


@pytest.mark.parametrize("make", ["tests.pipeline.strange:Nobody", "fer_batch.nothing"])
def test_what_can_not_be_started_is_an_error_of_ours(make: str) -> None:
    with pytest.raises(RuntimeError, match="when it started"):
        WorkerProcess(make, (), LIMITS).call("greet", 1)


@pytest.mark.parametrize("busy", ["greet", "hold"])
def test_no_process_outlives_the_one_that_started_it(busy: str) -> None:
    """Idle, and held in native code."""
    script = (
        "import sys\n"
        "from fer_batch.config import Limits\n"
        "from fer_batch.pipeline.child import WorkerProcess\n"
        f"child = WorkerProcess({STRANGE!r}, ('me',), Limits())\n"
        "print(child.call('greet', 1)['pid'][0], flush=True)\n"
        f"child.call({busy!r}, 60)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(0.5)
        assert Path(f"/proc/{pid}").exists()
        parent.kill()
    end = time.monotonic() + 10
    while _runs(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


QUICK = AnalyzeConfig(fps=2.0, min_face=0.2, segment_s=5.0, bundle_s=30.0)


def planned(video: Path, segments: int | None = None) -> pa.Table:
    """A video as one bundle, or its first segments."""
    card = load_checkpoint(None)[1]
    probed = probe_videos(list_videos([str(video)]).sources)
    plan = plan_segments(probed, QUICK, card.half_window_s, card.model_id, 1)
    return pack_bundle("b", plan.slice(0, segments))


def test_no_bundles_are_no_answers() -> None:
    stage = GuardedStage("AnalyzeStage", (QUICK, 0.96, None), Limits())
    assert stage(bundle_schema(PLAN_SCHEMA).empty_table()).num_rows == 0


def test_guarded_and_unguarded_answers_are_the_same(long_video: Callable[[int], Path]) -> None:
    bundle = planned(long_video(1))
    arguments = (QUICK, load_checkpoint(None)[1].crop_scale, None)
    guarded = GuardedStage("AnalyzeStage", arguments, Limits())
    clocks = ["decode_s", "detect_s", "crop_s", "recognize_s"]
    one, other = (
        unpack_bundles(stage(bundle), RESULTS_SCHEMA).drop_columns(clocks)
        for stage in (guarded, AnalyzeStage(*arguments))
    )
    assert one.num_rows == 2
    assert one.equals(other)


def test_a_video_that_crashes_what_looks_at_it_fails_alone(
    long_video: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is killed when it is to look at the second segment."""
    monkeypatch.setenv("FER_BATCH_FAULT", "child.extract_faces:2")
    stage = GuardedStage("AnalyzeStage", (QUICK, 0.96, None), Limits())
    rows = unpack_bundles(stage(planned(long_video(1))), RESULTS_SCHEMA).to_pylist()
    # Each new process lives for one segment: the second try of the second one is its first.
    assert [row["status"] for row in rows] == ["ok"] * 2
    monkeypatch.setenv("FER_BATCH_FAULT", "child.extract_faces")
    stage = GuardedStage("FacesStage", (QUICK, 0.96), Limits())
    (row,) = stage(planned(long_video(1), 1)).column("segments")[0].as_py()
    assert row["status"] == "failed"
    assert row["error"] == "the worker process crashed (SIGKILL) 2 times"


def test_what_comes_before_a_crash_is_kept(
    long_video: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the eighth moment that a process decodes; a new one, asked for less, does not come so far."""
    monkeypatch.setenv("FER_BATCH_FAULT", "faces.moment:8")
    stage = GuardedStage("FacesStage", (QUICK, 0.96), Limits())
    (row,) = stage(planned(long_video(1), 1)).column("segments")[0].as_py()
    assert row["status"] == "partial"
    assert row["error"] == "the worker process crashed (SIGKILL) 2 times, at 3.0 s"
    assert [moment["time_s"] for moment in row["moments"]] == [0.0, 0.52, 1.0, 1.52, 2.0, 2.52]
    assert {face["time_s"] for face in row["faces"]} == {moment["time_s"] for moment in row["moments"]}
    assert (row["core_start_s"], row["core_end_s"], row["frames"]) == (0.0, 5.0, 75)


def test_a_hanging_video_costs_a_bundle_two_waits(
    long_video: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FER_BATCH_FAULT", "child.extract_faces:1:STOP")
    stage = GuardedStage("FacesStage", (QUICK, 0.96), LIMITS)
    began = time.monotonic()
    errors = [row["error"] for row in stage(planned(long_video(2))).column("segments")[0].as_py()]
    assert errors == [
        *["no progress for 1 s (--timeout)"] * 2,
        *["skipped: the previous 2 segments timed out"] * 2,
    ]
    assert time.monotonic() - began < 60


def test_probing_is_guarded_too(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = list_videos([str(sample)]).sources
    table = pa.concat_tables([sources, sources])
    monkeypatch.setattr(guard, "PROBES_PER_CALL", 1)
    monkeypatch.setenv("FER_BATCH_FAULT", "child.probe:2:STOP")
    probe = GuardedProbe(LIMITS)
    assert probe(table.slice(0, 0)).num_rows == 0
    answers = probe(table)
    assert answers.schema == PROBED_SCHEMA
    assert [(row["status"], row["error"]) for row in answers.to_pylist()] == [
        ("ok", None),
        ("failed", "no progress for 1 s (--timeout)"),
    ]


NAMES = ["1", "crash", "2", "eat", "3", "hang", "4", "crash twice", "5"]
REASONS = {
    "crash": "the worker process crashed (SIGSEGV) 2 times",
    "eat": "it needs more than 0.5 GB of memory (--memory)",
    "hang": "no progress for 5 s (--timeout)",
}


@pytest.mark.parametrize("files", [3, 64])
def test_a_file_that_can_not_be_probed_costs_no_other_one(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: int
) -> None:
    for name in NAMES:
        (tmp_path / f"{name}.mp4").symlink_to(sample)
    monkeypatch.setattr(guard, "PROBES_PER_CALL", files)
    (row,) = list_videos([str(sample)]).sources.to_pylist()
    sources = [row | {"uri": str(tmp_path / f"{name}.mp4")} for name in NAMES]
    probe = GuardedProbe(LIMITS)
    probe.child = WorkerProcess(
        "tests.pipeline.strange:StrangeProber", (), Limits(timeout_s=5.0, memory_gb=0.5)
    )
    answers = probe(pa.Table.from_pylist(sources, schema=SOURCES_SCHEMA)).to_pylist()
    probe.child.close()
    assert [row["uri"] for row in answers] == [row["uri"] for row in sources]
    assert [row["error"] for row in answers] == [REASONS.get(name.split()[0]) for name in NAMES]
    assert {row["width"] for row in answers if row["status"] == "ok"} == {640}
