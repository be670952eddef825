"""Pieces of SQL that several queries share, and checks of query arguments."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fer_batch.errors import QueryError
from fer_batch.schema import CLASS_SYNONYMS, probability_column

if TYPE_CHECKING:
    from fer_batch.timeline.database import Database

LENGTH_S = "greatest(coalesce(duration_s, 0), coalesce(read_s, 0))"
"""Length in seconds of a row of `videos`: the container's, or that of the read part if it is longer."""
FACE = "coalesce(person, 'track ' || track_id)"
"""A face's name within its video."""
FACE_WITH_URI = "coalesce(person, 'track ' || track_id || ' of ' || uri)"
"""A face's name among those of several videos."""
IS_NUMBERED = "regexp_full_match(person, 'person [0-9]+')"
"""Whether a person has no name, only a number."""
FACE_WITH_LOCAL_NUMBERS = f"if(person IS NULL OR {IS_NUMBERED}, {FACE} || ' of ' || uri, person)"
"""A face's name among those of several videos, if the numbers of persons count those of each video."""
GROUP_COLUMNS = {
    "video": ("video_id", "uri"),
    "person": ("person",),
    "track": ("video_id", "uri", "track_id"),
}
"""The columns of each group that `by` may name, besides columns of a manifest."""
TIME_TOLERANCE_S = 1e-6
"""Seconds, or shares of an interval, by which 3 × 0.2 may miss 0.6."""
ROW_END_S = "time_s + step_s"
"""End in seconds of the sampled frame of a row of `tracks` or `moments`. Two rows adjoin if this reaches the
time of the other. After a pause, or where a face was not seen in between, it does not."""


def quote_text(text: str) -> str:
    """Return a text as an SQL literal."""
    return "'" + text.replace("'", "''") + "'"


def quote_name(name: str) -> str:
    """Return a column name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def class_literals(database: "Database") -> list[tuple[str, str]]:
    """Return each emotion's name as an SQL literal, with the column of its probability."""
    return [(quote_text(name), probability_column(name)) for name in database.classes]


def probability_columns(database: "Database") -> list[str]:
    return [probability_column(name) for name in database.classes]


def most_probable_sql(database: "Database", columns: Sequence[str] | None = None) -> str:
    """Return an expression for the emotion whose column is the highest; the first of equal ones.

    `columns` has one column for each emotion; by default the columns of probabilities.
    """
    columns = columns or probability_columns(database)
    names = ", ".join(map(quote_text, database.classes))
    listed = ", ".join(columns)
    return f"if({columns[0]} IS NULL, NULL, [{names}][list_position([{listed}], greatest({listed}))])"


def interval_sql(every_s: float) -> str:
    """Return an expression for the number of the interval that `time_s` is in."""
    return f"floor(time_s / {check_positive(every_s, 'every_s')} + {TIME_TOLERANCE_S})::BIGINT"


def list_groups(by: str | Sequence[str]) -> list[str]:
    """Return `by` as a list: one group may be given as a string."""
    return [by] if isinstance(by, str) else list(by)


def group_columns(
    database: "Database", by: str | Sequence[str], without: Sequence[str] = (), extra: Sequence[str] = ()
) -> list[str]:
    """Return the columns of `tracks` that rows are grouped by.

    Groups by person are also by video if numbers of persons count those of each video. `without` names
    groups that are not allowed, `extra` those that are allowed but have no column.
    """
    names = [name for name in list_groups(by) if name not in extra]
    manifest = [name for name in database.manifest_columns if name not in (*GROUP_COLUMNS, *extra)]
    allowed = [*(name for name in GROUP_COLUMNS if name not in without), *extra, *manifest]
    unknown = [name for name in names if name not in allowed]
    if unknown:
        raise QueryError(f"Cannot group by {', '.join(unknown)}; allowed are {', '.join(allowed)}")
    if "person" in names and "track" not in names:
        check_has_persons(database)
    columns = [column for name in names for column in GROUP_COLUMNS.get(name, (quote_name(name),))]
    if "person" in names and database.numbers_are_local:
        columns = [*GROUP_COLUMNS["video"], *columns]
    return list(dict.fromkeys(columns))


def check_has_persons(database: "Database") -> None:
    """Raise QueryError if the run has tracks, and none of them has a person."""
    has_persons = database.sql("SELECT 1 FROM people WHERE person IS NOT NULL LIMIT 1").fetchall()
    if not has_persons and database.sql("SELECT 1 FROM tracks LIMIT 1").fetchall():
        raise QueryError(
            f"Cannot group by person: no face in {database.out} has one; give persons with "
            "`fer-batch assign` or `fer-batch people`, or group by track"
        )


def check_emotion(database: "Database", emotion: str) -> str:
    """Return an emotion's name as the run spells it; case does not matter, and synonyms are accepted.

    Raises QueryError if the run has no such emotion.
    """
    if emotion in database.classes:
        return emotion
    given = emotion.strip().lower()
    synonyms = {_normalize_emotion(name): name for name in database.classes}
    names = {name.lower(): name for name in database.classes}
    found = names.get(given) or synonyms.get(_normalize_emotion(given))
    if found is None:
        raise QueryError(f"There is no emotion {emotion}; this run has {', '.join(database.classes)}")
    return found


def _normalize_emotion(name: str) -> str:
    return CLASS_SYNONYMS.get(name.lower(), name.lower())


def check_positive(value: float, name: str) -> float:
    if not 0 < value < float("inf"):
        raise QueryError(f"{name} must be above 0, got {value:g}")
    return float(value)


def check_not_negative(value: float, name: str) -> float:
    if not 0 <= value < float("inf"):
        raise QueryError(f"{name} must be 0 or more, got {value:g}")
    return float(value)


def check_threshold(value: float) -> float:
    if not 0 <= value <= 1:
        raise QueryError(f"The threshold must be between 0 and 1, got {value:g}")
    return float(value)
