"""Stages that run in a guarded child process: a file that cannot be read ends as a failed row."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from fer_batch.config import Limits
from fer_batch.faults import fault_point
from fer_batch.inputs.listing import Listing, list_videos
from fer_batch.inputs.members import damaged_archive
from fer_batch.pipeline.child import BrokenWorkerError, CallFailedError, WorkerProcess
from fer_batch.schema import (
    CONTAINER_COLUMNS,
    FACES_SCHEMA,
    PLAN_SCHEMA,
    PROBED_SCHEMA,
    RESULTS_SCHEMA,
    map_bundles,
    pack_bundle,
    unpack_bundles,
)
from fer_batch.storage.addresses import remember_queries
from fer_batch.video.segment import Segment

MAX_SLOWDOWN = 100.0
"""Time limit of a segment as a multiple of its length, however regular its heartbeats are."""
MAX_TIMEOUTS = 2
"""Consecutive segments of one video that may time out before the bundle's other ones are skipped."""
MAX_WAITING_BYTES = 128 << 20
"""Most bytes of faces, with their crops, that wait for recognition together."""
PROBES_PER_CALL = 64


class GuardedStage:
    """A stage of `pipeline.stages` ("AnalyzeStage" or "FacesStage") that runs in a child process.

    It takes planned segments, `bundle_schema(PLAN_SCHEMA)`, and returns the same table as the stage
    itself. A segment that cannot be processed has the status "failed", or "partial" if some of it could
    be, and the reason. The stage sees the GPUs of this process only if `gpu` is True, to decode on them.
    Where that fails, software decodes the segment.
    """

    def __init__(self, name: str, arguments: tuple[Any, ...], limits: Limits, gpu: bool = False) -> None:
        self.child = WorkerProcess(f"fer_batch.pipeline.stages:{name}", arguments, limits, gpu)
        self.gpu = gpu
        self.recognizes = name == "AnalyzeStage"
        self._work: tuple[Segment, float] | None = None
        """The segment in work, and the seconds of video in the finished segments of its bundle."""

    def __call__(self, bundles: pa.Table) -> pa.Table:
        fault_point("guard.bundle")
        schema = RESULTS_SCHEMA if self.recognizes else FACES_SCHEMA
        return map_bundles(bundles, PLAN_SCHEMA, schema, self._process_segments)

    def count_analyzed_s(self) -> float:
        """Return the seconds of video that have been read of the bundle in work. Any thread may call it."""
        work = self._work  # before the progress, which `_process_in_order` resets first
        reached_s = self.child.progress
        if work is None:
            return 0.0
        segment, finished_s = work
        length_s = segment.core_end_s - segment.core_start_s
        return finished_s + min(max((reached_s or 0.0) - segment.core_start_s, 0.0), length_s)

    def _process_segments(self, plan: pa.Table) -> pa.Table:
        try:
            return self._process_in_order(Segment.from_table(plan))
        finally:
            self._work = None

    def _process_in_order(self, segments: list[Segment]) -> pa.Table:
        timeouts: Counter[str] = Counter()
        done: list[pa.Table] = []
        waiting: list[pa.Table] = []
        finished_s = 0.0
        for segment in segments:
            self.child.progress, self._work = None, (segment, finished_s)
            waiting.append(self._run_guarded(segment, timeouts))
            finished_s += segment.core_end_s - segment.core_start_s
            if self.recognizes and sum(rows.nbytes for rows in waiting) > MAX_WAITING_BYTES:
                done.append(_recognize_guarded(self.child, "recognize", waiting))
                waiting = []
        if waiting and self.recognizes:
            waiting = [_recognize_guarded(self.child, "recognize", waiting)]
        return pa.concat_tables([*done, *waiting])

    def _run_guarded(self, segment: Segment, timeouts: Counter[str]) -> pa.Table:
        """Return the row of FACES_SCHEMA; `timeouts` counts each video's consecutive timeouts."""
        video = segment.video_id
        if timeouts[video] >= MAX_TIMEOUTS:
            return make_failed_row(segment, f"skipped: the previous {MAX_TIMEOUTS} segments timed out")
        length_s = segment.end_s - segment.start_s
        max_s = 10 * self.child.limits.timeout_s + MAX_SLOWDOWN * length_s
        try:
            row = self._extract_faces(segment, max_s)
        except CallFailedError as error:
            timeouts[video] = timeouts[video] + 1 if error.timed_out else 0
            return self._keep_readable_part(segment, str(error))
        timeouts[video] = 0
        return row

    def _extract_faces(self, segment: Segment, max_s: float) -> pa.Table:
        if self.gpu:
            with contextlib.suppress(CallFailedError):  # the driver may have crashed
                return self.child.call("extract_faces", segment, max_s=max_s)
        return self.child.call("extract_faces", segment, False, max_s=max_s)

    def _keep_readable_part(self, segment: Segment, reason: str) -> pa.Table:
        """Process a segment once more, up to the time that the failed call reached."""
        reached_s = self.child.progress
        if reached_s is None or reached_s <= segment.core_start_s:
            return make_failed_row(segment, reason)
        reason = f"{reason}, at {reached_s:.1f} s"
        try:
            part = self.child.call("extract_faces", segment.end_at(reached_s), False)
        except CallFailedError:
            return make_failed_row(segment, reason)
        (row,) = part.to_pylist()
        row |= {"core_end_s": segment.core_end_s, "status": "partial", "error": reason}
        if not row["frames"]:
            return make_failed_row(segment, reason)
        return pa.Table.from_pylist([row], schema=FACES_SCHEMA)


class GuardedRecognizer:
    """The stage `pipeline.stages.RecognizeStage` in a child process.

    It takes the faces of segments, `bundle_schema(FACES_SCHEMA)`, and returns the same table as the stage
    itself. The stage sees the GPUs of this process only if `gpu` is True.
    """

    def __init__(self, arguments: tuple[Any, ...], limits: Limits, gpu: bool = False) -> None:
        self.child = WorkerProcess("fer_batch.pipeline.stages:RecognizeStage", arguments, limits, gpu)

    def __call__(self, bundles: pa.Table) -> pa.Table:
        return map_bundles(bundles, FACES_SCHEMA, RESULTS_SCHEMA, self._recognize)

    def _recognize(self, faces: pa.Table) -> pa.Table:
        done = [RESULTS_SCHEMA.empty_table()]
        first = 0
        for number in range(len(faces)):
            waiting = faces.slice(first, number + 1 - first)
            if waiting.nbytes > MAX_WAITING_BYTES or number == len(faces) - 1:
                part = faces.take(pa.array(range(first, number + 1)))  # pickling a slice would send all rows
                done.append(_recognize_guarded(self.child, "__call__", [part]))
                first = number + 1
        return pa.concat_tables(done)


def _recognize_guarded(child: WorkerProcess, method: str, faces: list[pa.Table]) -> pa.Table:
    """Map rows of FACES_SCHEMA to rows of RESULTS_SCHEMA; a failure is the worker's, as crops are trusted."""
    try:
        recognized = child.call(method, pack_bundle("", pa.concat_tables(faces)))
    except CallFailedError as error:
        raise BrokenWorkerError(f"faces cannot be recognized: {error}") from error
    return unpack_bundles(recognized, RESULTS_SCHEMA)


class GuardedProbe:
    """A `Prober` of `inputs.probe` in a child process; a file that cannot be probed has the status "failed".

    One call probes many files, because a call takes longer than most files. When a call fails, the file that
    it had reached is probed alone, and the others again together. `queries` are those of web addresses.
    """

    def __init__(self, limits: Limits, queries: Mapping[str, str] | None = None) -> None:
        remember_queries(queries or {})
        self.child = WorkerProcess("fer_batch.inputs.probe:Prober", (), limits)

    def __enter__(self) -> "GuardedProbe":
        return self

    def __exit__(self, *error: object) -> None:
        self.child.close()

    def __call__(self, sources: pa.Table) -> pa.Table:
        tables = [PROBED_SCHEMA.empty_table()]
        for first in range(0, len(sources), PROBES_PER_CALL):
            tables += self._probe(sources.slice(first, PROBES_PER_CALL))
        return pa.concat_tables(tables)

    def _probe(self, sources: pa.Table) -> list[pa.Table]:
        if not len(sources):
            return []
        max_s = 10 * self.child.limits.timeout_s * len(sources)
        try:
            return [self.child.call("probe", sources, max_s=max_s)]
        except CallFailedError as error:
            reached = min(int(self.child.progress or 0), len(sources) - 1)
            file = sources.slice(reached, 1)
            if error.timed_out or len(sources) == 1:  # a second timeout would show nothing new
                row = file.to_pylist()[0] | {"status": "failed", "error": str(error)}
                probed = [pa.Table.from_pylist([row], schema=PROBED_SCHEMA)]
            else:
                probed = self._probe(file)
            before = self._probe(sources.slice(0, reached))
            return [*before, *probed, *self._probe(sources.slice(reached + 1))]


def probe_guarded(sources: pa.Table, limits: Limits, queries: dict[str, str]) -> pa.Table:
    """Probe listed files with a `GuardedProbe` for the time of the call."""
    with GuardedProbe(limits, queries) as probe:
        return probe(sources)


def list_videos_guarded(inputs: Sequence[str], limits: Limits, *, allow_query: bool = False) -> Listing:
    """Call `list_videos`, and list the archives in a child process, which starts with the first of them.

    An archive that cannot be listed within the limits is a failed video.
    """
    child = WorkerProcess("fer_batch.inputs.members:MemberLister", (), limits)

    def read_archive(archive: str) -> pa.Table:
        try:
            return child.call("list_archive", archive)
        except CallFailedError as error:
            return damaged_archive(f"cannot list the archive: {error}")

    try:
        return list_videos(inputs, read_archive, allow_query=allow_query)
    finally:
        child.close()


def make_failed_row(
    segment: Segment, reason: str, schema: pa.Schema = FACES_SCHEMA, model_id: str | None = None
) -> pa.Table:
    """Return the row of FACES_SCHEMA or RESULTS_SCHEMA of a segment that cannot be processed."""
    row = segment.to_row() | dict.fromkeys(CONTAINER_COLUMNS)
    row |= {"status": "failed", "error": reason, "frames": 0, "model_id": model_id}
    row |= {"moments": [], "faces": [], "crops": b""}
    row |= dict.fromkeys(("read_s", "decode_s", "detect_s", "crop_s", "recognize_s"), 0.0)
    return pa.Table.from_pylist([row], schema=schema)
