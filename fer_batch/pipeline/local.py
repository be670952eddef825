"""Analyze one video, or images, in this process, without Ray."""

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import DecodeError, InputError, NoVideoError
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.model.card import Card
from fer_batch.pipeline.progress import OnProgress, Progress, ignore_progress
from fer_batch.pipeline.settings import PREFETCH_FRAMES, load_card
from fer_batch.pipeline.stages import AnalyzeStage
from fer_batch.run.stitch import stitch_segments
from fer_batch.schema import PROBED_SCHEMA, RESULTS_SCHEMA, pack_bundle, tracks_schema, unpack_bundles
from fer_batch.vision.images import ImageInput, load_image

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

VIDEO_COLUMNS = frozenset(["bucket", "video_id", "uri", "time_s", "frame_index", "step_s"])
"""Columns of the table `tracks` that images do not have."""


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
    - `blur`, `roll_deg`, `yaw_deg`, `pitch_deg`: sharpness and estimated pose of the face
    - `emotion`, `confidence`: the most probable class and its probability
    - `p_angry` … `p_surprise`: the probability of each class of the checkpoint
    - `model_id`: id of the checkpoint
    - `step_s`: how long the sampled frame lasts in seconds

    `path` is a file, a member of an archive (`ARCHIVE!/MEMBER`) or an address in a store. `on_progress` is
    called after each sampled frame. The work runs on a GPU if PyTorch finds one, else on one thread. Software
    decodes the video, whatever `config.hardware_decoding` is.

    Raises InputError where `path` is not exactly one video, NoVideoError where the file has no video stream,
    and DecodeError where nothing of it can be read. A video that can be read in part is analyzed in part,
    with a warning in the log. The file is read in this process, which a malicious file may crash; `analyze`
    reads untrusted files in guarded processes.
    """
    config = config or AnalyzeConfig()
    checkpoint = Path(config.checkpoint).absolute() if config.checkpoint else None
    card = load_card(checkpoint)
    video = _probe_one(str(path))
    uri = video.column("uri")[0].as_py()
    plan = plan_segments(video, config, card.half_window_s, card.model_id, workers=1)
    segments = pa.concat_tables(_analyze_segments(plan, config, card, checkpoint, on_progress))
    _check_status(uri, segments)
    tracks = stitch_segments(segments, card.classes).tracks
    for name, value in (("uri", uri), ("model_id", card.model_id)):
        tracks = tracks.append_column(name, pa.repeat(pa.scalar(value, pa.string()), len(tracks)))
    names = [name for name in tracks_schema(card.classes).names if name != "bucket"]
    return tracks.select(names).to_pandas()


def analyze_images(images: Sequence[ImageInput], config: AnalyzeConfig | None = None) -> "pd.DataFrame":
    """Find and recognize the faces of images in this process and return a row for each face.

    Each image is a path, the bytes of a file, a PIL image, a uint8 array of shape `(H, W)` (grey) or
    `(H, W, 3)` (RGB), or a frame of `read_frames`. The column `image` is its position in `images`, from 0,
    and `track_id` is the number of the face in it. The other columns are those of `analyze_video`, without
    the columns of videos and times. The rows are those of a run on files with the same pixels.

    Raises InputError where an image cannot be read.
    """
    config = config or AnalyzeConfig()
    checkpoint = Path(config.checkpoint).absolute() if config.checkpoint else None
    card = load_card(checkpoint)
    with tempfile.TemporaryDirectory(prefix="fer_batch_") as folder:  # only this user can read it
        for number, image in enumerate(images):
            load_image(image, "RGB").save(Path(folder) / f"{number:09}.bmp")
        videos = probe_videos(list_videos([folder]).sources) if images else PROBED_SCHEMA.empty_table()
        for number, error in enumerate(videos.column("error").to_pylist()):  # in order of the names
            if error is not None:
                raise InputError(f"Cannot analyze image {number}: {error}")
        plan = plan_segments(videos, config, card.half_window_s, card.model_id, workers=1)
        parts = _analyze_segments(plan, config, card, checkpoint, ignore_progress) if images else ()
        segments = pa.concat_tables([RESULTS_SCHEMA.empty_table(), *parts])
    tracks = stitch_segments(segments, card.classes).tracks
    ids = pa.array(videos.column("video_id").to_pylist(), pa.string())
    tracks = tracks.append_column("image", pc.index_in(tracks.column("video_id"), ids).cast(pa.int64()))
    tracks = tracks.append_column("model_id", pa.repeat(pa.scalar(card.model_id, pa.string()), len(tracks)))
    names = [name for name in tracks_schema(card.classes).names if name not in VIDEO_COLUMNS]
    order = [("image", "ascending"), ("track_id", "ascending")]
    return tracks.sort_by(order).select(["image", *names]).to_pandas()


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


def _analyze_segments(
    plan: pa.Table, config: AnalyzeConfig, card: Card, checkpoint: Path | None, on_progress: OnProgress
) -> Iterator[pa.Table]:
    """Yield the row of `schema.RESULTS_SCHEMA` of each planned segment, and report the progress."""
    began = time.monotonic()
    length_s = plan.column("core_end_s")[-1].as_py()
    progress = Progress(videos=1, videos_done=0, video_s=length_s, video_s_done=0, faces=0, elapsed_s=0)

    def report(**changes: Any) -> None:
        nonlocal progress
        progress = replace(progress, elapsed_s=time.monotonic() - began, **changes)
        on_progress(progress)

    threads = torch.get_num_threads()  # stages on a CPU set it to one, and those on a GPU turn TF32 off
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        stage = AnalyzeStage(config, card.crop_scale, checkpoint, PREFETCH_FRAMES)
        # The times of two segments overlap where they meet.
        stage.heartbeat = lambda time_s: report(video_s_done=max(time_s, progress.video_s_done))
        for number in range(len(plan)):
            results = unpack_bundles(stage(pack_bundle("", plan.slice(number, 1))), RESULTS_SCHEMA)
            faces = sum(moment["faces"] for moment in results.column("moments")[0].as_py())
            report(faces=progress.faces + faces, videos_done=int(number == len(plan) - 1))
            yield results
    finally:
        torch.set_num_threads(threads)
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32


def _check_status(uri: str, segments: pa.Table) -> None:
    """Raise DecodeError where no segment could be read; warn where some could not."""
    statuses = set(segments.column("status").to_pylist())
    error = "; ".join(dict.fromkeys(filter(None, segments.column("error").to_pylist())))
    if statuses == {"no_video"}:
        raise NoVideoError(f"{uri}: {error}")
    if statuses == {"failed"}:
        raise DecodeError(f"{uri}: {error}")
    if statuses != {"ok"}:
        logger.warning("%s was analyzed in part: %s", uri, error)
