"""The timeline of a finished run: queries, plots and exports."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from fer_batch.storage.folder import FolderLike
from fer_batch.timeline.database import Database
from fer_batch.timeline.queries.co_occurrence import count_co_occurrences
from fer_batch.timeline.queries.episodes import find_episodes, find_peaks, find_turning_points
from fer_batch.timeline.queries.events import add_faces
from fer_batch.timeline.queries.means import resample_probabilities, smooth_probabilities, subtract_baseline
from fer_batch.timeline.queries.selection import FaceFilter, QualityFilter, filter_faces, select_faces
from fer_batch.timeline.queries.shares import compute_shares
from fer_batch.timeline.sandbox import QUERY_TIMEOUT_S

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from fer_batch.timeline.export.export import ExportedFile
    from fer_batch.video.redraw import RedrawResult


class Timeline(Database):
    """The timeline of a finished run: its rows, queries, plots and exports.

    >>> timeline = fer_batch.open_timeline("results")
    >>> timeline.episodes("happy", video="talk.mp4", min_s=2).df()
    >>> timeline.shares(by="person", every_s=60).pl()
    >>> timeline.sql("SELECT uri, avg(p_happy) FROM tracks GROUP BY uri").to_arrow_table()
    >>> timeline.plot_ribbons("talk.mp4")

    A query returns a DuckDB relation, which is computed when it is read: with `.df()` (pandas), `.pl()`
    (Polars), `.to_arrow_table()` or `.fetchall()`. It reads only the columns and parts of files that it
    needs.

    Every query takes the keyword arguments `video` (id, path or file name), `person`, `track`, `start_s` and
    `end_s` (seconds of the video, `[start_s, end_s)`), and uses the rows of `tracks` that match all of them.
    It also takes `min_confidence` (0 to 1), `min_face_px` (height of the box in pixels), `min_sharpness`
    (variance of the Laplacian), `max_yaw_deg` and `max_pitch_deg` (estimated turn to either side, up or down,
    0 to below 90 degrees).
    Rows without such a value do not match. A query raises QueryError if there is no such video or person, or
    if a bound is out of its range. A row of `tracks` is a face in a sampled frame.
    Its `emotion` is the most probable one, its `confidence` the probability of that emotion. A sampled frame
    lasts `step_s`, until the next one, or before a pause as long as its neighbours.
    """

    def __repr__(self) -> str:
        ((videos, moments, tracks),) = self.sql(
            "SELECT count(*), coalesce(sum(moments), 0)::BIGINT, coalesce(sum(tracks), 0)::BIGINT FROM videos"
        ).fetchall()
        counts = ((videos, "video"), (moments, "sampled frame"), (tracks, "track"))
        texts = [f"{count:,} {name}{'' if count == 1 else 's'}" for count, name in counts]
        partial = [str(self.partial)] if self.partial else []
        return f"<Timeline of {self.out}: {', '.join([*texts, *partial])}>"

    def videos(self) -> "pd.DataFrame":
        """Return one row for each video: its status, counts, and the mean probability of each emotion."""
        return self.sql("SELECT * FROM summary ORDER BY uri").df()

    def to_pandas(self, **filters: Unpack[FaceFilter]) -> "pd.DataFrame":
        """Return the rows of `tracks` that match all arguments, in order of video, track and time."""
        database, where, params = select_faces(self, **filters)
        query = f"SELECT * FROM tracks WHERE {where} ORDER BY uri, track_id, time_s"
        return database.sql(query, params).df()

    def filter_faces(self, **quality: Unpack[QualityFilter]) -> "Timeline":
        """Return a timeline with only the faces that match all arguments, for plots, exports, pages and SQL.

        >>> timeline.filter_faces(min_confidence=0.5, max_yaw_deg=30).plot_ribbons("talk.mp4")

        The arguments are those of the queries. The views `tracks`, `episodes` and `summary` have only these
        faces. The counts of `videos` and `moments` stay those of all faces.

        Raises QueryError if a bound is out of its range.
        """
        return filter_faces(self, quality)

    shares = compute_shares
    episodes = find_episodes
    peaks = find_peaks
    turning_points = find_turning_points
    co_occurrence = count_co_occurrences
    baseline = subtract_baseline
    smooth = smooth_probabilities
    resample = resample_probabilities
    join_events = add_faces

    def plot_ribbons(self, video: str | Path) -> "Figure":
        """Draw a lane over time for each face of a video.

        The upper ribbon has the emotion with the highest mean probability, the lower one the stacked means of
        all. At most the 12 faces that are seen longest have a lane.

        Raises QueryError if no frame of the video was analyzed.
        """
        from fer_batch.timeline.plots.ribbons import plot_ribbons

        return plot_ribbons(self, video)

    def plot_strip(self, emotion: str | None = None, *, absolute: bool = False) -> "Figure":
        """Draw a row over time for each video, of all its faces together.

        A row has the emotion with the highest mean probability, or with `emotion` that emotion's mean
        probability. Time is a share of each video's length, or with `absolute` in seconds. At most the first
        60 videos by name have a row.

        Raises QueryError if the run has no videos or no such emotion.
        """
        from fer_batch.timeline.plots.strip import plot_strip

        return plot_strip(self, emotion, absolute=absolute)

    def plot_shares(self, video: str | Path | None = None, *, by_person: bool = False) -> "Figure":
        """Draw a bar for each video, each face of `video`, or each person: how often each emotion is most
        probable.

        At most 40 bars are drawn. Raises QueryError if no face was found, or with `by_person` if no face has
        a person.
        """
        from fer_batch.timeline.plots.shares import plot_shares

        return plot_shares(self, video, by_person=by_person)

    def export(
        self,
        target: str | Path,
        format: str | None = None,
        videos: Sequence[str | Path] = (),
        threshold: float = 0.0,
        min_s: float = 0.0,
    ) -> "list[ExportedFile]":
        """Write videos (named by id, path or file name; all by default) as files of other programs.

        `target` is a file that ends in .csv, .jsonl, .vtt, .srt, .eaf, .TextGrid, .xlsx or .json. Otherwise
        it is a folder, which gets one file for each video in `format`: "csv", "jsonl", "vtt" (WebVTT), "srt"
        (SubRip), "eaf" (ELAN), "textgrid" (Praat), "xlsx" or "label-studio" (.json: tasks with predictions
        on the timeline). Captions, annotations, workbooks and tasks have episodes with a confidence of at
        least `threshold` that last `min_s` seconds or longer. CSV and JSON lines have the rows of `tracks`,
        one video after the other, in order of track and time.

        Raises ConfigError if the format is not clear, QueryError if a name does not match one video, and
        OutputError if `target` cannot be written or lies in the run folder.
        """
        from fer_batch.timeline.export.export import export

        return list(export(self, target, format, videos, threshold, min_s))

    def write_overlay(
        self,
        video: str | Path,
        target: str | Path,
        *,
        blur_faces: bool = False,
        on_progress: Callable[[float], None] = lambda time_s: None,
    ) -> "RedrawResult":
        """Write a copy of a video with its faces to `target`, .mp4 or .mkv.

        A face has a box, its name, its emotion with the confidence, and the probabilities of all emotions.
        Between the rows of a track that adjoin, its box moves evenly. Otherwise it stays while the sampled
        frame lasts.

        `blur_faces` replaces each face by a few large squares instead, from one step before its track begins
        to one step after it ends, gaps included. Frames at times without sampled frames are hidden as a
        whole. Faces that were not found are not hidden. `on_progress` receives the time in seconds that has
        been written.

        Raises QueryError if no frame of the video was analyzed, or if `filter_faces` has left out faces that
        `blur_faces` must hide. Raises InputError if its file has changed since. Raises OutputError if
        `target` cannot be written, is the video itself, or lies in the run folder. Raises DecodeError if the
        video cannot be read.
        """
        from fer_batch.timeline.plots.overlay import write_overlay

        return write_overlay(self, video, Path(target), blur_faces=blur_faces, on_progress=on_progress)

    def write_report(self, video: str | Path, target: str | Path) -> int:
        """Write a video's timeline as one HTML file that needs no network; return its size in bytes.

        Raises OutputError if `target` does not end in .html, cannot be written or lies in the run folder.
        """
        from fer_batch.timeline.viewer.page import write_report

        return write_report(self, video, Path(target))

    def write_archive_report(self, target: str | Path) -> int:
        """Write all videos as one HTML file that needs no network; return its size in bytes.

        The page has the shares of emotions in all videos and of each person, a list of the videos with a
        status other than "ok" and the reason, and a table of all videos that can be searched and sorted,
        with the emotions of each over time.

        Raises OutputError if `target` does not end in .html, cannot be written or lies in the run folder.
        """
        from fer_batch.timeline.viewer.page import write_archive_report

        return write_archive_report(self, Path(target))


def open_timeline(out: FolderLike, *, timeout_s: float = QUERY_TIMEOUT_S) -> Timeline:
    """Open the timeline in a run folder that `fer-batch analyze --out OUT` has written.

    A query that takes longer than `timeout_s` raises a `duckdb.Error`.

    While a run goes on, the timeline has the videos that were finished when `analyze` last wrote the tables,
    every few minutes; `timeline.partial` tells how many these are. Open it again for later ones.

    Raises OutputError if `out` holds no run, or one without tables.
    """
    return Timeline(out, timeout_s)
