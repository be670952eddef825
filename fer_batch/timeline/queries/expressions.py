"""Pieces of SQL that several questions are made of, and checks of what was asked."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fer_batch.errors import QueryError
from fer_batch.schema import probability_column

if TYPE_CHECKING:
    from fer_batch.timeline.store import Timeline

FACE = "coalesce(person, 'track ' || track_id)"
"""What a face is called in its video."""
FACE_OF_ANY = "coalesce(person, 'track ' || track_id || ' of ' || uri)"
"""What a face is called among those of several videos."""
GROUPS = {"video": ("video_id", "uri"), "person": ("person",), "track": ("video_id", "uri", "track_id")}
"""What answers may be by, beside columns of the owner's manifest."""
NEAR = 1e-6
"""Seconds, or parts of an interval, by which 3 × 0.2 may miss 0.6."""


def classes_of(timeline: "Timeline") -> list[tuple[str, str]]:
    """Names of the emotions, as SQL's texts, and their columns."""
    return [(text(name), probability_column(name)) for name in timeline.classes]


def probabilities(timeline: "Timeline") -> tuple[list[str], str]:
    """The columns of probabilities, and an expression for the name of the highest."""
    names, columns = zip(*classes_of(timeline), strict=True)
    listed = ", ".join(columns)
    return list(columns), (
        f"if({columns[0]} IS NULL, NULL, [{', '.join(names)}][list_position([{listed}], greatest({listed}))])"
    )


def known_emotion(timeline: "Timeline", emotion: str) -> str:
    """Its name as the run has it, given in any case; raises QueryError where it is none of the run's."""
    known = {name.lower(): name for name in timeline.classes}
    if emotion not in timeline.classes and emotion.lower() not in known:
        raise QueryError(f"there is no emotion {emotion}; this run has {', '.join(timeline.classes)}")
    return emotion if emotion in timeline.classes else known[emotion.lower()]


def text(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"


def quoted(name: str) -> str:
    """A column's name, whatever it is, as SQL takes it."""
    return '"' + name.replace('"', '""') + '"'


def names_of(by: str | Sequence[str]) -> list[str]:
    """What answers are by, of which one may be given as it is."""
    return [by] if isinstance(by, str) else list(by)


def keys_of(
    timeline: "Timeline", by: str | Sequence[str], without: Sequence[str] = (), beside: Sequence[str] = ()
) -> list[str]:
    """Columns of `tracks` that answers are by; what is `beside` them is allowed too, and no column."""
    by = [name for name in names_of(by) if name not in beside]
    own = [c for c in timeline.own_columns if c not in GROUPS and c not in beside]
    allowed = [*(name for name in GROUPS if name not in without), *beside, *own]
    unknown = [name for name in by if name not in allowed]
    if unknown:
        raise QueryError(f"answers can't be by {', '.join(unknown)}; they can be by {', '.join(allowed)}")
    columns = [column for name in by for column in GROUPS.get(name, (f'"{name}"',))]
    return list(dict.fromkeys(columns))


def places(values: Mapping[str, Any]) -> str:
    """The numbers of videos (of the one that is chosen, if one is) in order of their uris, as a table of
    `video_id` and `place`: rows are sorted and told apart by numbers in half the time that names take.
    """
    chosen = f" WHERE video_id = {text(values['video'])}" if "video" in values else ""
    return f"(SELECT video_id, row_number() OVER (ORDER BY uri) - 1 AS place FROM videos{chosen})"


def cell(every_s: float) -> str:
    """An expression for the number of the interval that a moment is in."""
    return f"floor(time_s / {positive(every_s, 'every_s')} + {NEAR})::BIGINT"


def positive(value: float, name: str) -> float:
    if not 0 < value < float("inf"):
        raise QueryError(f"{name} is {value}; it must be above 0")
    return float(value)


def not_negative(value: float, name: str) -> float:
    if not 0 <= value < float("inf"):
        raise QueryError(f"{name} is {value}; it must be 0 or more")
    return float(value)


def share_of(value: float) -> float:
    if not 0 <= value <= 1:
        raise QueryError(f"the threshold is {value}; a probability is from 0 to 1")
    return float(value)
