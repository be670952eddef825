"""Analyze one video in this process, without Ray."""

import dataclasses
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import torch

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import DecodeError, InputError, NoVideoError
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.model.recognize import check_checkpoint
from fer_batch.pipeline.progress import OnProgress, Progress, ignore_progress
from fer_batch.pipeline.stages import PREFETCH_FRAMES, AnalyzeStage
from fer_batch.run.stitch import stitch_segments
from fer_batch.schema import RESULTS_SCHEMA, pack_bundle, tracks_schema, unpack_bundles

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


def analyze_video(
    path: str | Path, config: AnalyzeConfig | None = None, *, on_progress: OnProgress = ignore_progress
) -> "pd.DataFrame":
    """Analyze one video in this process and return a row for each face in each sampled frame.

    The rows are those of the table `tracks` of a run on this video, in order of track and time, with the
    columns:

    - `video_id`, `uri`: id and full address of the video
    - `track_id`: number of the face track, from 0 in order of appearance
    - `time_s`: time in seconds since the first frame; `frame_index`: number of the frame, from 0
    - `box_x0`, `box_y0`, `box_x1`, `box_y1`: the face box, as shares of the frame's width and height
    - `face_score`: score of the detector, 0 to 1; `face_px`: height of the face in pixels
    - `blur`, `roll_deg`, `yaw`: sharpness and pose of the face
    - `emotion`, `confidence`: the most probable class and its probability
    - `p_angry` … `p_surprise`: the probability of each class of the checkpoint
    - `model_id`: id of the checkpoint

    `path` is a file, a member of an archive (`ARCHIVE!/MEMBER`) or an address in a store. `on_progress` is
    called after each sampled frame. The work runs on a GPU if PyTorch finds one, else on one thread.

    Raises InputError where `path` is not exactly one video, NoVideoError where the file has no video stream,
    and DecodeError where nothing of it can be read. A video that can be read in part is analyzed in part,
    with a warning in the log. The file is read in this process, which a malicious file may crash; `analyze`
    reads untrusted files in guarded processes.
    """
    config = config or AnalyzeConfig()
    checkpoint = Path(config.checkpoint).absolute() if config.checkpoint else None
    card = check_checkpoint(checkpoint)
    video = _probe_one(str(path))
    uri = video.column("uri")[0].as_py()
    plan = plan_segments(video, config, card.half_window_s, card.model_id, workers=1)
    progress = _VideoProgress(plan.column("core_end_s")[-1].as_py(), on_progress)
    results = [RESULTS_SCHEMA.empty_table()]
    with _restore_threads():
        stage = AnalyzeStage(config, card.crop_scale, checkpoint, PREFETCH_FRAMES)
        stage.heartbeat = progress.report_time
        for number in range(len(plan)):
            bundle = pack_bundle(uri, plan.slice(number, 1))
            results.append(unpack_bundles(stage(bundle), RESULTS_SCHEMA))
            progress.add_faces(results[-1], is_last=number == len(plan) - 1)
    segments = pa.concat_tables(results)
    _check_status(uri, segments)
    tracks = stitch_segments(segments, card.classes).tracks
    for name, value in (("uri", uri), ("model_id", card.model_id)):
        tracks = tracks.append_column(name, pa.repeat(pa.scalar(value, pa.string()), len(tracks)))
    names = [name for name in tracks_schema(card.classes).names if name != "bucket"]
    return tracks.select(names).to_pandas()


def _probe_one(path: str) -> pa.Table:
    """Return the row of `schema.PROBED_SCHEMA` of the only video of a path."""
    sources = list_videos([path]).sources
    if len(sources) != 1:
        raise InputError(f"{path} has {len(sources)} videos, but analyze_video takes one: use analyze")
    video = probe_videos(sources)
    (row,) = video.to_pylist()
    if row["status"] != "ok":
        raise (NoVideoError if row["status"] == "no_video" else DecodeError)(f"{path}: {row['error']}")
    return video


def _check_status(uri: str, segments: pa.Table) -> None:
    """Raise DecodeError where no segment could be read; warn where some could not."""
    statuses = set(segments.column("status").to_pylist())
    error = "; ".join(dict.fromkeys(filter(None, segments.column("error").to_pylist())))
    if statuses == {"no_video"}:
        raise NoVideoError(f"{uri}: {error}")
    if statuses <= {"failed"}:
        raise DecodeError(f"{uri}: {error}")
    if statuses != {"ok"}:
        logger.warning("%s was analyzed in part: %s", uri, error)


class _VideoProgress:
    """Report the progress within one video by the times of its sampled frames."""

    def __init__(self, video_s: float, on_progress: OnProgress) -> None:
        self.on_progress = on_progress
        self.started = time.monotonic()
        self.progress = Progress(
            videos=1, videos_done=0, video_s=video_s, video_s_done=0.0, faces=0, elapsed_s=0.0
        )

    def report_time(self, time_s: float) -> None:
        """Report that the frame at `time_s` was decoded. Times overlap where two segments meet."""
        self._report(video_s_done=max(time_s, self.progress.video_s_done))

    def add_faces(self, results: pa.Table, is_last: bool) -> None:
        """Add the faces of a segment, a row of `schema.RESULTS_SCHEMA`."""
        faces = sum(moment["faces"] for row in results.column("moments").to_pylist() for moment in row)
        self._report(faces=self.progress.faces + faces, videos_done=int(is_last))

    def _report(self, **changes: float) -> None:
        elapsed_s = time.monotonic() - self.started
        self.progress = dataclasses.replace(self.progress, elapsed_s=elapsed_s, **changes)  # type: ignore[arg-type]
        self.on_progress(self.progress)


@contextmanager
def _restore_threads() -> Iterator[None]:
    """Restore PyTorch's number of threads afterwards: stages on a CPU set it to one."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
