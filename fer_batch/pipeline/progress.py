"""Measure and report the progress of a run."""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.run.results import list_done_bundles, read_face_count
from fer_batch.storage.folder import OutputFolder

MIN_INTERVAL_S = 0.5
"""Shortest interval between two updates."""
INTERVAL_PER_LISTING = 20
"""Interval between two updates as a multiple of the time that listing the results takes."""
METRICS = {
    "videos": ("fer_batch_videos", "videos of the run"),
    "videos_done": ("fer_batch_videos_done", "videos of the run that are complete"),
    "video_s": ("fer_batch_video_seconds", "seconds of video to analyze since the last start"),
    "video_s_done": ("fer_batch_video_seconds_done", "seconds of video analyzed since the last start"),
    "faces": ("fer_batch_faces", "faces found in sampled frames since the last start"),
}
"""The metric and its description for each field of Progress. Ray puts `ray_` before each name."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """The progress of a run since its last start; `videos` and `videos_done` count all of the run."""

    videos: int
    videos_done: int
    video_s: float
    """Length of the video to analyze, in seconds."""
    video_s_done: float
    faces: int
    elapsed_s: float
    videos_before: int = 0
    """Videos that were complete before this start, of `videos_done`."""


OnProgress = Callable[[Progress], None]
"""A callback that receives the progress from time to time."""


def ignore_progress(progress: Progress) -> None:
    """Do nothing: the default callback."""


class ProgressMeter:
    """Measure progress by the result files of the bundles.

    First `add_pending` counts all segments that have no result; then `watch` names the segments that workers
    process now, and each `update` reports the finished bundles. `measure_running_s` returns the seconds of
    video that have been read of each bundle in work.
    """

    COLUMNS = ("video_id", "bundle_id", "core_start_s", "core_end_s")
    """Columns of `schema.PLAN_SCHEMA` that the meter reads."""

    def __init__(
        self,
        results: OutputFolder,
        videos: int,
        on_progress: OnProgress = ignore_progress,
        measure_running_s: Callable[[], dict[str, float]] = dict,
    ) -> None:
        self.results, self.videos, self.on_progress = results, videos, on_progress
        self.measure_running_s = measure_running_s
        self.reported_s = 0.0
        self.interval_s = MIN_INTERVAL_S
        self.started = time.monotonic()
        self.pending_videos = self.planned_videos = self.faces = 0
        self.video_s = self.video_s_done = 0.0
        self.bundle_s: dict[str, float] = {}
        """Length of each bundle that is watched and not done."""
        self.bundle_videos: dict[str, set[str]] = {}
        """The videos of each such bundle."""
        self.bundles_of_video: Counter[str] = Counter()
        """Number of such bundles of each video."""

    def list_done(self) -> set[str]:
        """Return the ids of the finished bundles. A slow listing lengthens `interval_s`."""
        began = time.monotonic()
        done = list_done_bundles(self.results)
        self.interval_s = max(MIN_INTERVAL_S, INTERVAL_PER_LISTING * (time.monotonic() - began))
        return done

    def add_pending(self, segments: pa.Table) -> None:
        """Add pending segments, rows with COLUMNS, to the work of this start."""
        lengths_s = pc.subtract(segments.column("core_end_s"), segments.column("core_start_s"))
        self.video_s += pc.sum(lengths_s).as_py() or 0.0
        count = pc.count_distinct(segments.column("video_id")).as_py()
        self.pending_videos += count
        self.planned_videos += count

    def watch(self, segments: pa.Table) -> None:
        """Watch for the results of these segments, which were added before."""
        for row in segments.select(self.COLUMNS).to_pylist():
            bundle = row["bundle_id"]
            self.bundle_s[bundle] = self.bundle_s.get(bundle, 0) + row["core_end_s"] - row["core_start_s"]
            self.bundle_videos.setdefault(bundle, set()).add(row["video_id"])
        self.bundles_of_video.update(video for videos in self.bundle_videos.values() for video in videos)

    def update(self) -> None:
        """Count the bundles that were finished since the last update, and report the progress."""
        for bundle_id in self.bundle_s.keys() & list_done_bundles(self.results):
            self.video_s_done += self.bundle_s.pop(bundle_id)
            self.faces += read_face_count(self.results, bundle_id)
            for video in self.bundle_videos.pop(bundle_id):
                self.bundles_of_video[video] -= 1
                self.pending_videos -= not self.bundles_of_video[video]
        running_s = sum(s for bundle, s in self.measure_running_s().items() if bundle in self.bundle_s)
        done_s = min(self.video_s_done + running_s, self.video_s)
        self.reported_s = max(self.reported_s, done_s)  # a bundle that is retried starts again
        self.on_progress(
            Progress(
                videos=self.videos,
                videos_done=self.videos - self.pending_videos,
                video_s=self.video_s,
                video_s_done=self.reported_s,
                faces=self.faces,
                elapsed_s=time.monotonic() - self.started,
                videos_before=self.videos - self.planned_videos,
            )
        )


def publish_metrics(out: OutputFolder, on_progress: OnProgress) -> OnProgress:
    """Return a callback that also sets gauges of the connected Ray, which its dashboard and Prometheus read.

    The tag `out` of each gauge is the output folder.
    """
    from ray.util.metrics import Gauge

    tags = {"out": str(out).encode("ascii", "backslashreplace").decode()}  # Ray accepts only ASCII
    gauges = {field: Gauge(name, text, tag_keys=("out",)) for field, (name, text) in METRICS.items()}

    def report(progress: Progress) -> None:
        for field, gauge in gauges.items():
            gauge.set(getattr(progress, field), tags)
        on_progress(progress)

    return report
