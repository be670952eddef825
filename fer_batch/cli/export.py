"""Command `export`."""

from pathlib import Path
from typing import Literal

import fer_batch
from fer_batch.cli.app import QUERY, UsageError, add_command
from fer_batch.cli.arguments import OutputFile, QualityOptions, RunFolder, VideoNames
from fer_batch.cli.default_names import choose_free_name, name_run, name_video
from fer_batch.cli.output import print_line, print_partial
from fer_batch.terminal import count

CONTENTS = {
    ".csv": "row",
    ".jsonl": "row",
    ".vtt": "caption",
    ".srt": "caption",
    ".eaf": "annotation",
    ".textgrid": "annotation",
    ".xlsx": "video",
    ".json": "region",
}
"""Entries of a file by its suffix."""
MAX_LISTED_FILES = 10


@add_command(QUERY)
def export_command(
    out: RunFolder,
    videos: VideoNames | None = None,
    /,
    *,
    output: OutputFile | None = None,
    format: Literal["csv", "jsonl", "vtt", "srt", "eaf", "textgrid", "xlsx", "label-studio"] | None = None,
    threshold: float = 0.0,
    min_s: float = 0.0,
    quality: QualityOptions,
) -> None:
    """Write timelines for other programs: CSV, captions, ELAN, Praat, Label Studio, a workbook.

    csv, jsonl: the rows of `tracks`. vtt, srt: one caption per change, with the emotions of all faces. eaf,
    textgrid: one tier per face or assigned person, one annotation per episode. xlsx: sheets of videos, faces
    and episodes. label-studio (.json): one task per video, with an episode as a region of the timeline.

    An episode is a run of sampled frames in which a face has the same most probable emotion.

    Args:
        output: A file whose suffix is the format, or a folder, which gets one file per video. Existing files
            are replaced. By default (with --format) a file in the current folder, named after the video or
            OUT, with a number if there is such a file; captions and tiers of several videos get a folder.
        format: Format of the files. By default the suffix of the file says it.
        threshold: Lowest confidence in each row of an episode.
        min_s: Shortest episode, in seconds.

    Examples:
      fer-batch export results talk.mp4 -o talk.vtt                 captions for a player
      fer-batch export results talk.mp4 -o talk.eaf                 tiers for ELAN
      fer-batch export results talk.mp4 --format srt                the same as talk.srt
      fer-batch export results -o grids --format textgrid           a TextGrid for Praat per video
      fer-batch export results -o results.xlsx                      sheets of videos and faces
      fer-batch export results -o tasks.json                        tasks for Label Studio
      fer-batch export results one.mp4 two.mp4 -o rows.csv          the rows of both in one file
      fer-batch export results -o sure.csv --min-confidence 0.5     only faces of which the model is sure
      fer-batch export results -o rows --format jsonl               a file of rows per video
    """
    timeline = fer_batch.open_timeline(out).filter_faces(**vars(quality))
    print_partial(timeline)
    target = output or _choose_target(timeline, videos or [], format)
    files = timeline.export(target, format, videos or (), threshold, min_s)
    if not files:
        print_line(f"{target}: nothing to write, because {out} has no videos")
        return
    noun = CONTENTS[files[0].path.suffix.lower()]
    print_line(f"{target}: {count(sum(file.entries for file in files), noun)}, {count(len(files), 'file')}")
    notes = [f"{file.path.name}: {file.trouble}" for file in files if file.trouble]
    for note in notes[:MAX_LISTED_FILES]:
        print_line(f"  {note}")
    if len(notes) > MAX_LISTED_FILES:
        print_line(f"  and {len(notes) - MAX_LISTED_FILES} more without faces or with damage")


def _choose_target(timeline: "fer_batch.Timeline", videos: list[str], format: str | None) -> Path:
    """Return the default name of a file, or of a folder for captions and annotations of several videos."""
    from fer_batch.timeline.export.export import ANNOTATION_WRITERS, SUFFIXES

    if format is None:
        raise UsageError("--output or --format must give the format")
    name = name_video(timeline, videos[0]) if len(videos) == 1 else name_run(timeline)
    if format in ANNOTATION_WRITERS and len(videos) != 1:
        return choose_free_name(f"{name}-{format}")
    return choose_free_name(name, SUFFIXES[format])
