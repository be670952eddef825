"""Progress as metrics, for Ray's dashboard and whatever else scrapes the cluster."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ray.util.metrics import Gauge

if TYPE_CHECKING:
    from fer_batch.pipeline.analyze import Progress
    from fer_batch.storage.folder import OutputFolder

GAUGES = {
    "videos": ("fer_batch_videos", "videos of the run"),
    "videos_done": ("fer_batch_videos_done", "videos of the run that are analyzed to their end"),
    "video_s": ("fer_batch_video_seconds", "seconds of video to do since the last start"),
    "video_s_done": ("fer_batch_video_seconds_done", "seconds of video done since the last start"),
    "faces": ("fer_batch_faces", "faces found at moments since the last start"),
}
"""Fields of `Progress`, and the metrics that tell them; Ray puts `ray_` before each name."""


def gauged(out: "OutputFolder", report: "Callable[[Progress], None]") -> "Callable[[Progress], None]":
    """Also keep gauges of what is reported, tagged with the output folder; while Ray is connected."""
    tags = {"out": str(out).encode("ascii", "backslashreplace").decode()}  # Ray takes nothing else
    gauges = {field: Gauge(name, text, tag_keys=("out",)) for field, (name, text) in GAUGES.items()}

    def look(progress: "Progress") -> None:
        for field, gauge in gauges.items():
            gauge.set(getattr(progress, field), tags)
        report(progress)

    return look
