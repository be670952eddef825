"""Command `people`."""

from collections import Counter
from typing import TYPE_CHECKING

import fer_batch
from fer_batch.cli.app import QUERY, UsageError, add_command
from fer_batch.cli.arguments import RayOptions, RunFolder, VideoNames
from fer_batch.cli.output import ProgressLine, print_line, print_status
from fer_batch.config import Limits
from fer_batch.terminal import count

if TYPE_CHECKING:
    import pyarrow as pa

MAX_LISTED_VIDEOS = 20
ACROSS_WARNING = (
    "warning: --across-videos recognizes people from one video in another. That may need the consent of "
    "everyone shown, or be forbidden; see the guide security.md."
)


@add_command(QUERY)
def people_command(
    out: RunFolder,
    videos: VideoNames | None = None,
    /,
    *,
    across_videos: bool = False,
    limits: Limits,
    ray: RayOptions,
) -> None:
    """Group the tracks of each video into persons: "person 1", "person 2" …, by their time in view.

    This processes biometric data: a network compares the faces of tracks, in memory only. OUT gets the number
    of each track's person, or the reason why it has none; no descriptor and no picture is written. Names are
    not found out: give them with `fer-batch assign OUT VIDEO --name 1=Ann`. Needs the extra `people`: pip
    install 'fer-batch[people]'.

    Videos that are grouped are not grouped again. A cluster that is named with --address or RAY_ADDRESS, or
    runs this command as a job, does the work with all its CPUs, otherwise this machine.

    Args:
        across_videos: Group the tracks of all videos together, so that a number is the same person in all of
            them. This recognizes people from one video in another. All work is done on this machine.

    Examples:
      fer-batch people results
      fer-batch people results talk.mp4
      fer-batch people results --across-videos
      fer-batch query results "SELECT uri, track_id, reason FROM people JOIN videos USING (video_id)
          WHERE number IS NULL"
    """
    if across_videos and videos:
        raise UsageError("--across-videos groups all videos; leave VIDEOS out")
    if across_videos:
        print_status(ACROSS_WARNING)
    line = ProgressLine()
    groups = fer_batch.group_people(
        out,
        videos or (),
        across_videos=across_videos,
        limits=limits,
        **vars(ray),
        on_progress=lambda done, total: line.show(f"{done:,} of {count(total, 'video')} grouped"),
    )
    line.close()
    print_groups(groups, out)


def print_groups(groups: "pa.Table", out: str) -> None:
    """Print how many persons each of the first videos has, and why tracks have none."""
    database = fer_batch.open_timeline(out)
    uris = dict(database.sql("SELECT video_id, uri FROM videos").fetchall())
    rows = groups.select(["video_id", "number", "reason"]).to_pylist()
    persons: dict[str, set[int]] = {}
    for row in rows:
        persons.setdefault(row["video_id"], set()).update([row["number"]] if row["number"] else [])
    listed = sorted(persons, key=uris.__getitem__)
    for video_id in listed[:MAX_LISTED_VIDEOS]:
        print_line(f"{uris[video_id]}: {count(len(persons[video_id]), 'person')}")
    if len(listed) > MAX_LISTED_VIDEOS:
        print_line(f"… and {count(len(listed) - MAX_LISTED_VIDEOS, 'more video')}")
    # Why a video cannot be read is another text for each video.
    reasons = Counter(row["reason"].partition(": ")[0] for row in rows if row["reason"])
    if reasons:
        text = ", ".join(f"{reason}: {number:,}" for reason, number in reasons.most_common())
        print_line(f"{count(reasons.total(), 'track')} of {len(rows):,} without a person ({text})")
    if not rows:
        print_line("no video has a face")
