"""The rows of `tracks` that a query reads: of a video, person, track or time, and of a least quality."""

from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar, Unpack

from fer_batch.errors import QueryError
from fer_batch.fields import Range, field_types, find_problem
from fer_batch.timeline.database import MAX_NAMES_IN_MESSAGE, Database
from fer_batch.timeline.sql import IS_NUMBERED


class QualityFilter(TypedDict, total=False):
    """Keyword arguments that select faces by confidence and quality; None selects all.

    A row without the value of its column, null or NaN, does not match. Bounds are included.
    """

    min_confidence: Annotated[float | None, Range(at_least=0, at_most=1)]
    """Lowest `confidence`, the probability of the most probable emotion."""
    min_face_px: Annotated[float | None, Range(at_least=0)]
    """Lowest height of the face's box in pixels of the video, the column `face_px`."""
    min_sharpness: Annotated[float | None, Range(at_least=0)]
    """Lowest variance of the Laplacian of the face's 48 × 48 crop, the column `blur`."""
    max_yaw_deg: Annotated[float | None, Range(at_least=0, below=90)]
    """Largest turn of the head to either side in degrees, the column `yaw_deg`: 0 for a frontal face.

    It is an estimate from the landmarks of the eyes and the nose, see `fer_batch.vision.quality`."""
    max_pitch_deg: Annotated[float | None, Range(at_least=0, below=90)]
    """Largest angle by which the head is raised or lowered in degrees, the column `pitch_deg`.

    It is an estimate as well. Results of schema 6 and older do not have it."""


class FaceFilter(QualityFilter, total=False):
    """Keyword arguments that every query takes; rows must match all that are given and not None."""

    video: str | Path | None
    """The id, path or file name of a video."""
    person: str | None
    """A name that `fer-batch assign` gave, or "person 1", "person 2" … of `fer-batch people`."""
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
QUALITY_COLUMNS = {"min_confidence": "confidence", "min_face_px": "face_px", "min_sharpness": "blur"}
"""The columns of `tracks` with a lowest value."""
ANGLE_COLUMNS = {"max_yaw_deg": "yaw_deg", "max_pitch_deg": "pitch_deg"}
"""The columns of `tracks` with a largest deviation from 0."""
QUALITY_TEXTS = {
    "min_confidence": "confidence ≥ {:g}",
    "min_face_px": "height ≥ {:g} pixels",
    "min_sharpness": "sharpness ≥ {:g}",
    "max_yaw_deg": "yaw ≤ {:g}°",
    "max_pitch_deg": "pitch ≤ {:g}°",
}
AnyDatabase = TypeVar("AnyDatabase", bound=Database)


def select_faces(
    database: Database, **filters: Unpack[FaceFilter]
) -> tuple[Database, str, dict[str, str | int | float]]:
    """Return an SQL condition on rows of `tracks` that match all filters, with the values of its parameters.

    The query must run in the returned database, which has only the buckets that it needs.

    Raises QueryError if the run has no such video or person, if `start_s` is after `end_s`, or if a bound of
    quality is out of its range.
    """
    video, person, track = filters.get("video"), filters.get("person"), filters.get("track")
    start_s, end_s = filters.get("start_s"), filters.get("end_s")
    if start_s is not None and end_s is not None and start_s > end_s:
        raise QueryError(f"The start must not be after the end, got start {start_s:g} s and end {end_s:g} s")
    params: dict[str, str | int | float] = {}
    if video is not None:
        params["video"] = video_id = database.video_id(video)
    if person is not None:
        _check_person(database, person, video is not None)
        params["person"] = person
    if track is not None:
        params["track"] = int(track)
    if start_s is not None:
        params["start_s"] = float(start_s)
    if end_s is not None:
        params["end_s"] = float(end_s)
    quality = QualityFilter(
        min_confidence=filters.get("min_confidence"),
        min_face_px=filters.get("min_face_px"),
        min_sharpness=filters.get("min_sharpness"),
        max_yaw_deg=filters.get("max_yaw_deg"),
        max_pitch_deg=filters.get("max_pitch_deg"),
    )
    conditions = [*(CONDITIONS[name] for name in params), *_list_quality_conditions(quality)]
    if video is not None:
        database = database.narrow([video_id])
    return database, " AND ".join(conditions) or "true", params


def filter_faces(database: AnyDatabase, quality: QualityFilter) -> AnyDatabase:
    """Return a database whose views have only the faces that match all arguments.

    Raises QueryError if a bound is out of its range.
    """
    conditions = _list_quality_conditions(quality)
    if not conditions:
        return database
    texts = [
        text.format(value) for name, text in QUALITY_TEXTS.items() if (value := quality.get(name)) is not None
    ]
    return database.filter_rows(" AND ".join(conditions), f"faces with {', '.join(texts)}")


def _list_quality_conditions(quality: QualityFilter) -> list[str]:
    """Return SQL conditions on rows of `tracks`; raises QueryError for a bound out of its range."""
    bounds: dict[str, float] = {}
    for name, hint in field_types(QualityFilter).items():
        value: Any = quality.get(name)
        problem = find_problem(value, hint)
        if problem is not None:
            raise QueryError(f"{name} must be {problem}, got {value}")
        if value is not None:
            bounds[name] = float(value)
    # Columns are FLOAT: a DOUBLE of 0.7 is above the 0.7 of a column. NaN is above all numbers in DuckDB, and
    # it leaves out conditions that the bounds of a file, which know no NaN, say to be true.
    conditions = [
        f"{column} >= {bounds[name]}::FLOAT AND NOT isnan({column})"
        for name, column in QUALITY_COLUMNS.items()
        if name in bounds
    ]
    conditions += [
        f"abs({column}) <= {bounds[name]}::FLOAT AND NOT isnan({column})"
        for name, column in ANGLE_COLUMNS.items()
        if name in bounds
    ]
    return conditions


def _check_person(database: Database, person: str, in_video: bool) -> None:
    rows = database.sql(
        f"SELECT DISTINCT person, {IS_NUMBERED} FROM people WHERE person IS NOT NULL ORDER BY 1"
    ).fetchall()
    persons = [name for name, _ in rows]
    if (person, True) in rows and database.numbers_are_local and not in_video:
        raise QueryError(f"{person} is someone else in each video: select a video as well")
    if person not in persons:
        hint = (
            f"it has {', '.join(persons[:MAX_NAMES_IN_MESSAGE])}"
            if persons
            else "`fer-batch assign` and `fer-batch people` give persons"
        )
        raise QueryError(f"{database.out} has no person {person}; {hint}")
