"""Episodes as predictions of Label Studio: one task for each video, one region of the timeline for each."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fer_batch.storage.label_studio import format_address, number_frames
from fer_batch.timeline.export.annotations import Annotations
from fer_batch.timeline.export.rows import ExportedVideo

CONTROL_TAG, VIDEO_TAG = "emotions", "video"
"""Names of the tags `TimelineLabels` and `Video` in the labeling configuration."""
DEFAULT_FPS = 24.0
"""Frame rate of videos whose rate is not known. It is that of Label Studio."""


def write_tasks(path: Path, videos: Iterable[tuple[ExportedVideo, Annotations]]) -> int:
    """Write a list of tasks to import into Label Studio; return the number of regions."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        separator = "[\n"
        for video, annotations in videos:
            task = build_task(video, annotations)
            count += len(task["predictions"][0]["result"])
            file.write(separator + json.dumps(task, ensure_ascii=False))
            separator = ",\n"
        file.write("[]\n" if separator == "[\n" else "\n]\n")
    return count


def build_task(video: ExportedVideo, annotations: Annotations) -> dict[str, Any]:
    """Return a video as a task with one prediction, of which each region notes the name of its face."""
    fps = video.fps or DEFAULT_FPS
    regions: list[dict[str, Any]] = []
    for name, intervals in annotations.tiers.items():
        for interval in intervals:
            first, last = number_frames(interval.start_ms / 1000, interval.end_ms / 1000, fps)
            regions.append(
                {
                    "id": f"r{len(regions)}",
                    "from_name": CONTROL_TAG,
                    "to_name": VIDEO_TAG,
                    "type": "timelinelabels",
                    "value": {"ranges": [{"start": first, "end": last}], "timelinelabels": [interval.text]},
                    "meta": {"text": [name]},
                }
            )
    data = {
        "video": format_address(video.uri),
        "fps": fps,
        "uri": video.uri,
        "video_id": video.video_id,
        "note": " ".join(annotations.notes),
    }
    return {"data": data, "predictions": [{"model_version": "fer_batch", "result": regions}]}
