"""Commands `view`, `plot`, `report` and `overlay`."""

import time
from typing import Annotated, Literal

import fer_batch
from fer_batch.cli.app import LOOK, UsageError, add_command
from fer_batch.cli.arguments import OptionalVideoName, OutputFile, QualityOptions, RunFolder, VideoName
from fer_batch.cli.default_names import choose_free_name, name_run, name_video
from fer_batch.cli.output import ProgressLine, print_line, print_partial
from fer_batch.fields import Range
from fer_batch.terminal import count


@add_command(LOOK)
def view_command(
    out: RunFolder,
    /,
    *,
    port: Annotated[int, Range(at_least=0, at_most=65535)] = 0,
    edit: bool = False,
    quality: QualityOptions,
) -> int:
    """View a run in a browser.

    The page lists all videos, and plays each with boxes on its faces and their emotions over time. Press ?
    for its keys and Ctrl-C to end. The server answers this machine only. The printed address has a random
    part, so that other users of the machine cannot guess it. The server sends only analyzed files that have
    not changed since, and writes nothing without --edit.

    Args:
        port: Port of the server; 0 selects a free one.
        edit: Let users of the pages name faces, as `assign` does: click a box or the name of a lane. Everyone
            who knows the address can then change names.

    Examples:
      fer-batch view results                    prints an address for a browser on this machine
      fer-batch view results --port 8000        always the same port
      fer-batch view results --edit             name faces by clicking them
      fer-batch view results --min-confidence 0.5    only faces of which the model is sure
      fer-batch view s3://bucket/results        results in a store
      ssh -L 8000:localhost:8000 MACHINE fer-batch view results --port 8000      on another machine
    """
    from fer_batch.timeline.viewer.server import serve

    return serve(out, port, lambda url: print_line(f"{url}  (Ctrl-C ends it)"), edit=edit, **vars(quality))


@add_command(LOOK)
def plot_command(
    out: RunFolder,
    video: OptionalVideoName = None,
    /,
    *,
    output: OutputFile | None = None,
    kind: Literal["ribbons", "strip", "shares"] | None = None,
    emotion: str | None = None,
    absolute: bool = False,
    by_person: bool = False,
    quality: QualityOptions,
) -> None:
    """Draw a video's faces over time, or all videos of a run.

    Colours differ for all kinds of colour vision and in grey. White areas have no face; hatched areas were
    not analyzed. A plot with too many faces, videos or persons shows some of them, and says how many.

    Args:
        output: Picture to write: .png, .svg or .pdf. An existing file is replaced. By default a PNG in the
            current folder, named after VIDEO or OUT and the kind, with a number if there is such a file.
        kind: ribbons: the faces of VIDEO over time (default with VIDEO). strip: all videos over time (default
            without VIDEO). shares: one bar per video, or per face of VIDEO.
        emotion: Draw the probability of this emotion instead of the most probable emotion (strip).
        absolute: Draw time in seconds instead of shares of each video's length (strip).
        by_person: Draw one bar per person of `assign` (shares).

    Examples:
      fer-batch plot results monday.mp4                               monday-ribbons.png
      fer-batch plot results monday.mp4 -o monday.png                 a lane over time for each face
      fer-batch plot results -o archive.svg                           a row over time for each video
      fer-batch plot results --emotion happy --absolute -o happy.png  probability over seconds
      fer-batch plot results --kind shares -o shares.png              shares, a bar per video
      fer-batch plot results monday.mp4 --kind shares -o faces.png    a bar per face
      fer-batch plot results --kind shares --by-person -o people.png  a bar per person
      fer-batch plot results --min-face-px 60 -o near.png             only large faces
    """
    kind = kind or ("ribbons" if video else "strip")
    if kind == "ribbons" and not video:
        raise UsageError("--kind ribbons shows one video; name a VIDEO")
    if kind == "strip" and video:
        raise UsageError("--kind strip shows all videos; leave VIDEO out, or use --kind ribbons")
    if kind != "strip" and (emotion or absolute):
        raise UsageError(f"{'--emotion' if emotion else '--absolute'} is for --kind strip")
    if kind != "shares" and by_person:
        raise UsageError("--by-person is for --kind shares")
    from fer_batch.plotting import SCREEN_DPI, save_figure
    from fer_batch.storage.folder import check_outside_run

    if output:
        check_outside_run(output, out)
    timeline = fer_batch.open_timeline(out).filter_faces(**vars(quality))
    print_partial(timeline)
    if kind == "strip":
        figure = timeline.plot_strip(emotion, absolute=absolute)
    elif kind == "shares":
        figure = timeline.plot_shares(video, by_person=by_person)
    else:
        figure = timeline.plot_ribbons(video or "")
    target = output or choose_free_name(
        f"{name_video(timeline, video) if video else name_run(timeline)}-{kind}", ".png"
    )
    check_outside_run(target, out)
    save_figure(figure, target, SCREEN_DPI)
    if output is None:
        print_line(str(target))


@add_command(LOOK)
def report_command(
    out: RunFolder,
    video: OptionalVideoName = None,
    /,
    *,
    output: OutputFile | None = None,
    quality: QualityOptions,
) -> None:
    """Write the timeline of a video, or a report of all videos, as one HTML page.

    With VIDEO, the page has a lane over time for each face, shares and episodes. Without VIDEO, it has the
    shares of emotions in all videos and of each person, the videos that could not be read to their end or
    show no face, with the reason, and a table of all videos with their emotions over time, to search and to
    sort.

    The page needs no network; all browsers since 2023 show it. It has the addresses of the videos, but no
    picture of a face.

    Args:
        output: Page to write: .html. An existing file is replaced. By default VIDEO-report.html or
            OUT-report.html in the current folder, with a number if there is such a file.

    Examples:
      fer-batch report results                           results-report.html
      fer-batch report results talk.mp4 -o talk.html     one video
      fer-batch report results --min-confidence 0.5      only sure faces
      fer-batch report s3://bucket/results 3f2a9c0d11e4b7a6 -o page.html
    """
    timeline = fer_batch.open_timeline(out).filter_faces(**vars(quality))
    print_partial(timeline)
    target = output or choose_free_name(
        f"{name_video(timeline, video) if video else name_run(timeline)}-report", ".html"
    )
    size_bytes = timeline.write_report(video, target) if video else timeline.write_archive_report(target)
    print_line(f"{target}: {size_bytes / 1e6:.1f} MB")


@add_command(LOOK)
def overlay_command(
    out: RunFolder,
    video: VideoName,
    /,
    *,
    output: OutputFile | None = None,
    blur_faces: bool = False,
    quality: QualityOptions,
) -> None:
    """Write a copy of a video with boxes, names and emotions, or with hidden faces.

    The video is encoded again (H.264), upright, with the same times; its sound is copied. Metadata, such as
    the place, is left out.

    --blur-faces hides the detected faces and everything that was not analyzed. It does NOT hide faces that
    were NOT detected, such as profiles, covered faces and faces smaller than --min-face of `analyze`. It does
    not hide voices, name badges and surroundings either. Check the result before you publish it.

    Args:
        output: Video to write: .mp4 or .mkv. An existing file is replaced. By default VIDEO-overlay.mp4 or
            VIDEO-blurred.mp4 in the current folder, with a number if there is such a file.
        blur_faces: Reduce each detected face to a few large squares. It hides all faces, so it excludes the
            options of confidence and quality.

    Examples:
      fer-batch overlay results monday.mp4 -o annotated.mp4
      fer-batch overlay results monday.mp4 -o anonymous.mp4 --blur-faces
      fer-batch overlay results 3f2a9c0d11e4b7a6 -o annotated.mkv      by video_id
    """
    line, start_s = ProgressLine(), time.monotonic()
    timeline = fer_batch.open_timeline(out).filter_faces(**vars(quality))
    print_partial(timeline)
    ((length_s,),) = timeline.sql(
        "SELECT greatest(coalesce(duration_s, 0), read_s) FROM videos WHERE video_id = $video",
        {"video": timeline.video_id(video)},
    ).fetchall()

    def show_progress(time_s: float) -> None:
        speed = time_s / max(time.monotonic() - start_s, 1e-9)
        line.show(f"{time_s:.0f} of {length_s:.0f} s, {speed:.1f}× realtime")

    ending = "blurred" if blur_faces else "overlay"
    target = output or choose_free_name(f"{name_video(timeline, video)}-{ending}", ".mp4")
    result = timeline.write_overlay(video, target, blur_faces=blur_faces, on_progress=show_progress)
    line.close()
    print_line(f"{target}: {count(result.frames, 'frame')}")
    for sound in result.audio_streams:
        print_line(f"sound: {sound}")
    if result.error:
        print_line(f"incomplete: the video could not be read to its end: {result.error}")
