"""The rows of `tracks` that a query reads: of a video, a person, a track, a part of the time."""

from pathlib import Path
from typing import TypedDict, Unpack

from fer_batch.errors import QueryError
from fer_batch.timeline.database import MAX_NAMES_IN_MESSAGE, Database


class FaceFilter(TypedDict, total=False):
    """Keyword arguments that every query takes; rows must match all that are given and not None."""

    video: str | Path | None
    """The id, path or file name of a video."""
    person: str | None
    """A name that `fer-batch assign` gave."""
    track: int | None
    start_s: float | None
    """Seconds of the video: rows from here on."""
    end_s: float | None
    """Seconds of the video: rows before this."""


CONDITIONS = {
    "video": "video_id = $video",
    "person": "person = $person",
    "track": "track_id = $track",
    "start_s": "time_s >= $start_s",
    "end_s": "time_s < $end_s",
}


def select_faces(
    database: Database, **filters: Unpack[FaceFilter]
) -> tuple[Database, str, dict[str, str | int | float]]:
    """Return an SQL condition on rows of `tracks` that match all filters, with the values of its parameters.

    The query must run in the returned database, which has only the buckets that it needs.

    Raises QueryError if the run has no such video or person, or if `start_s` is after `end_s`.
    """
    video, person, track = filters.get("video"), filters.get("person"), filters.get("track")
    start_s, end_s = filters.get("start_s"), filters.get("end_s")
    if start_s is not None and end_s is not None and start_s > end_s:
        raise QueryError(f"The start must not be after the end, got start {start_s:g} s and end {end_s:g} s")
    params: dict[str, str | int | float] = {}
    if video is not None:
        params["video"] = video_id = database.video_id(video)
    if person is not None:
        _check_person(database, person)
        params["person"] = person
    if track is not None:
        params["track"] = int(track)
    if start_s is not None:
        params["start_s"] = float(start_s)
    if end_s is not None:
        params["end_s"] = float(end_s)
    if video is not None:
        database = database.narrow([video_id])
    return database, " AND ".join(CONDITIONS[name] for name in params) or "true", params


def _check_person(database: Database, person: str) -> None:
    rows = database.sql("SELECT DISTINCT person FROM people ORDER BY 1").fetchall()
    persons = [name for (name,) in rows]
    if person not in persons:
        hint = (
            f"it has {', '.join(persons[:MAX_NAMES_IN_MESSAGE])}"
            if persons
            else "name persons with `fer-batch assign`"
        )
        raise QueryError(f"{database.out} has no person {person}; {hint}")
