"""Command `ask`: one subcommand for each query of `Timeline`, with the parameters of its method."""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Group

from fer_batch.cli.answer import AnswerOptions
from fer_batch.cli.app import QUERY, add_command, add_group
from fer_batch.cli.arguments import FileName, OptionalVideoName, QualityOptions, RunFolder
from fer_batch.fields import Range, Topic

QUESTIONS = Group("Questions")
QUESTION, ROWS = Topic("Question"), Topic("Rows")

Groups = Annotated[tuple[str, ...], QUESTION]
Probability = Annotated[float, Range(at_least=0, at_most=1), QUESTION]
Seconds = Annotated[float, Range(above=0), QUESTION]
Duration = Annotated[float, Range(at_least=0), QUESTION]

ask_app = add_group(
    "ask",
    QUERY,
    """Query the timeline: shares, episodes, peaks and more.

    The rows are expressions as the model classifies them, not feelings. `fer-batch ask QUESTION --help` lists
    the columns of a result. For other questions use SQL: `fer-batch query`.""",
    """
  fer-batch ask shares results --by person
  fer-batch ask episodes results --emotion happy --threshold 0.8 --min 2
  fer-batch ask shares results --min-confidence 0.5 --min-face-px 60 --max-yaw-deg 30
  fer-batch ask join results talk.srt talk.mp4""",
)


@dataclass(frozen=True, kw_only=True)
class RowFilter:
    """The rows of `tracks` that a query reads."""

    person: Annotated[str | None, ROWS] = None
    """Use only this person, as named by `fer-batch assign` or numbered by `fer-batch people`."""
    track: Annotated[int | None, ROWS] = None
    """Use only tracks with this number."""
    start_s: Annotated[float | None, ROWS] = None
    """Use only rows from this time on, in seconds of the video."""
    end_s: Annotated[float | None, ROWS] = None
    """Use only rows before this time, in seconds of the video."""


def question(example: str) -> Callable[[type], type]:
    """Return a decorator that registers a query: fields are the parameters of the method of `Timeline`."""

    def register(options_type: type) -> type:
        method = re.sub(r"(?<!^)(?=[A-Z])", "_", options_type.__name__).lower()
        name = method.replace("_", "-")

        def command(
            out: RunFolder,
            video: OptionalVideoName = None,
            /,
            *,
            options: Any,
            rows: RowFilter,
            quality: QualityOptions,
            answer: AnswerOptions,
        ) -> None:
            format = answer.resolve_format(out)
            with answer.open_timeline(out) as timeline:
                query = getattr(timeline, method)
                answer.write(query(video=video, **vars(options), **vars(rows), **vars(quality)), format)

        command.__annotations__["options"] = dataclass(frozen=True, kw_only=True)(options_type)
        text = inspect.getdoc(options_type)
        command.__doc__ = f"{text}\n\nExamples:\n  fer-batch ask {name} results {example}"
        add_command(QUESTIONS, parent=ask_app, name=name)(command)
        return options_type

    return register


@question("--by person")
class Shares:
    """Compute how often each emotion is the most probable one.

    Columns: those of the groups, emotion, moments (rows with that emotion), seconds (that these last, without
    pauses), share (of the group's rows) and mean (of the emotion's probability over the group's rows, empty
    for "unsure").
    """

    by: Groups = ("video",)
    """Groups: video, person, track, and columns of a manifest. `--by` alone makes one group."""
    every_s: Annotated[float | None, Range(above=0), QUESTION] = None
    """Group by intervals of this many seconds too."""
    weigh: Annotated[Literal["count", "probability"], QUESTION] = "count"
    """Weight of a face in the share: the same for all faces, or its confidence."""
    unsure: Annotated[bool, QUESTION] = False
    """Count faces with a confidence below 0.5 as "unsure", not as their most probable emotion. To leave them
    out, use `--min-confidence 0.5`."""


@question("--emotion happy --threshold 0.8 --min 2")
class Episodes:
    """Find runs of one emotion of one face.

    Columns: video_id, uri, track_id, person, emotion, start_s, end_s, duration_s, moments, peak_s (time of
    the highest confidence), peak and mean (of the confidence).
    """

    emotion: Annotated[str | None, QUESTION] = None
    """Find only this emotion."""
    threshold: Probability = 0.6
    """Lowest confidence in each row of an episode."""
    min_s: Duration = 0.5
    """Shortest episode, in seconds."""


@question("talk.mp4 --emotion surprise")
class Peaks:
    """Find the times at which an emotion is most probable.

    Columns: video_id, uri, track_id, person, emotion, time_s, probability.
    """

    emotion: Annotated[str | None, QUESTION] = None
    """Find only this emotion."""
    threshold: Probability = 0.6
    """Lowest probability of a peak."""
    distance_s: Seconds = 1.0
    """Seconds before and after a peak in which no probability is higher."""


@question("--person Ann")
class TurningPoints:
    """Find the times at which a face changes from one emotion to another.

    Columns: video_id, uri, track_id, person, time_s, before, after, gap_s (seconds between the two).
    """

    min_s: Duration = 1.0
    """Shortest duration of both emotions, in seconds; shorter ones are ignored."""


@question("--by pair")
class CoOccurrence:
    """Count the emotions of two faces in the same sampled frame.

    Columns: those of the groups, emotion_a, emotion_b, pairs, share (of the group's pairs) and lift (1 is
    chance).
    """

    by: Groups = ("video",)
    """Groups: video, pair (the two faces), and columns of a manifest. `--by` alone makes one group."""


@question("--person Ann --format csv -o ann.csv")
class Baseline:
    """Subtract each face's mean probabilities.

    Columns: video_id, uri, track_id, person, time_s, emotion, d_angry … (differences, -1 to 1), rises (the
    emotion with the highest difference).
    """

    by: Annotated[Literal["person", "track"], QUESTION] = "person"
    """Subtract the mean of the person (of the track if it has no person), or always of the track."""


@question("talk.mp4 --window 2")
class Smooth:
    """Average each face's probabilities over a window of time.

    Columns: video_id, uri, track_id, person, time_s, emotion, confidence, p_angry … (means), moments (rows in
    the window).
    """

    window_s: Seconds = 1.0
    """Length of the window, in seconds, half before and half after each row."""


@question("--every 10 --by person")
class Resample:
    """Compute one row per interval of each video, with or without a face.

    Columns: video_id, uri, who, start_s, state (face, no face, not analyzed), frames (sampled frames), faces,
    emotion, p_angry … (means).
    """

    every_s: Seconds = 1.0
    """Length of an interval, in seconds."""
    by: Annotated[Literal["video", "person", "track"], QUESTION] = "video"
    """One row per interval and video, person or track."""


@add_command(QUESTIONS, parent=ask_app)
def join_command(
    out: RunFolder,
    events: FileName,
    video: OptionalVideoName = None,
    /,
    *,
    rows: RowFilter,
    quality: QualityOptions,
    answer: AnswerOptions,
) -> None:
    """Add faces and emotions to your own events.

    Times count from the start of the file, as in players and subtitles.

    Columns: those of the events, faces (number of rows), emotion (the most probable one on average) and
    p_angry … (means, empty without a face).

    Args:
        events: A .csv, .parquet or .jsonl file with start_s and end_s, or time_s, and video unless VIDEO is
            given; subtitles (.srt, .vtt); or an export of Label Studio with labelled segments (.json).

    Examples:
      fer-batch ask join results talk.srt talk.mp4
    """
    format = answer.resolve_format(out)
    with answer.open_timeline(out) as timeline:
        faces = timeline.join_events(events, video=video, **vars(rows), **vars(quality))
        answer.write(faces, format)
