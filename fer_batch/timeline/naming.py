"""Name one face of a video, as users of the viewer do, and undo that."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.errors import InputError
from fer_batch.run.people import read_person_groups
from fer_batch.storage.folder import FolderLike
from fer_batch.timeline.assign import replace_persons
from fer_batch.timeline.database import Database

MAX_NAME_CHARS = 100
TRACK_NAME = re.compile(r"track \d+", re.IGNORECASE)
"""The names of tracks without a person."""


class TrackPerson(NamedTuple):
    """The person of a track, as the views of a run have it."""

    video_id: str
    version: str
    attempt: int
    track_id: int
    number: int | None
    """The number that `group_people` has given to the person."""
    person: str | None
    """The name, or "person" with the number; None if the track has neither."""


class FaceNaming(NamedTuple):
    """A change of the persons of tracks: the same tracks before and after it."""

    before: tuple[TrackPerson, ...]
    after: tuple[TrackPerson, ...]

    def __str__(self) -> str:
        names = [track.person or f"track {track.track_id}" for track in (self.before[0], self.after[0])]
        return " → ".join(names)


def check_name(name: str) -> str:
    """Return a person's name without spaces around it.

    Raises InputError if it has more than `MAX_NAME_CHARS` characters or one that cannot be printed, or if it
    is the name of a track.
    """
    name = name.strip()
    if len(name) > MAX_NAME_CHARS:
        raise InputError(f"A name has at most {MAX_NAME_CHARS} characters, got {len(name):,}")
    if not name.isprintable():
        raise InputError("A name must have printable characters only")
    if TRACK_NAME.fullmatch(name):
        raise InputError(f"{name} is the name of a track; give the name of a person")
    return name


def name_face(out: FolderLike, video_id: str, track_id: int, name: str, shown: str | None) -> FaceNaming:
    """Name the face of a track: all tracks of the video that have the same person as this one.

    A track without a person is named alone. If the person has a number across videos, its tracks in other
    videos are named as well. An empty name removes the name, and tracks with a number get "person" with the
    number again. `shown` is the person that the user saw before. Returns the change.

    Raises InputError if the name is not allowed, if the video has no such track, or if its person is not
    `shown`, because someone else has changed it. Raises OutputError if another process writes to `out`.
    """
    name = check_name(name)
    namings: list[FaceNaming] = []

    def choose(database: Database) -> tuple[list[str], pa.Table]:
        before = _find_face(database, video_id, track_id, shown)
        after = [track._replace(person=name or _describe_number(track.number)) for track in before]
        namings.append(FaceNaming(tuple(before), tuple(after)))
        return _list_persons(database, after)

    replace_persons(out, choose)
    return namings[0]


def undo_naming(out: FolderLike, naming: FaceNaming) -> None:
    """Give the tracks of a change the persons that they had before.

    Raises InputError, and changes nothing, if a track was given another person or was analyzed again since.
    Raises OutputError if another process writes to `out`.
    """

    def choose(database: Database) -> tuple[list[str], pa.Table]:
        current = _read_tracks(database, {track.video_id for track in naming.after})
        if not set(naming.after).issubset(current):
            raise InputError(f"{naming} cannot be undone: the persons have changed since")
        return _list_persons(database, naming.before)

    replace_persons(out, choose)


def _find_face(database: Database, video_id: str, track_id: int, shown: str | None) -> list[TrackPerson]:
    """Return the tracks of a face, that of `track_id` first."""
    tracks = _read_tracks(database, {video_id})
    named = next((track for track in tracks if track.track_id == track_id), None)
    if named is None:
        raise InputError(f"The video has no track {track_id}")
    if named.person != shown:
        now, then = (person or "without a person" for person in (named.person, shown))
        raise InputError(f"The persons have changed: track {track_id} was {then}, and is now {now}")
    if named.person is None:
        return [named]
    keys = {(video_id, track.track_id) for track in tracks}
    groups = read_person_groups(database.out)
    across = groups.filter(pc.and_(groups.column("across_videos"), pc.is_valid(groups.column("number"))))
    numbered = {(row["video_id"], row["track_id"]): row["number"] for row in across.to_pylist()}
    if number := numbered.get((video_id, track_id)):
        keys |= {key for key, other in numbered.items() if other == number}
        tracks = _read_tracks(database, {video for video, _ in keys})
    others = [track for track in tracks if track[0:4:3] in keys and track.person == named.person]
    return [named, *(track for track in others if track != named)]


def _read_tracks(database: Database, video_ids: set[str]) -> list[TrackPerson]:
    rows = (
        database.narrow(video_ids)
        .sql(
            """
            SELECT DISTINCT video_id, videos.version, coalesce(videos.attempt, 0), track_id, people.number,
                tracks.person
            FROM tracks JOIN videos USING (video_id) LEFT JOIN people USING (video_id, track_id)
            WHERE video_id IN (SELECT unnest($ids)) ORDER BY ALL""",
            {"ids": sorted(video_ids)},
        )
        .fetchall()
    )
    return [TrackPerson(*row) for row in rows]


def _describe_number(number: int | None) -> str | None:
    return None if number is None else f"person {number}"


def _list_persons(database: Database, changed: Sequence[TrackPerson]) -> tuple[list[str], pa.Table]:
    """Return the videos of changed tracks, and the persons of all their tracks after the change."""
    ids = sorted({track.video_id for track in changed})
    persons = {
        (video, track): person
        for video, track, person in database.sql(
            "SELECT video_id, track_id, person FROM people WHERE video_id IN (SELECT unnest($ids))",
            {"ids": ids},
        ).fetchall()
    }
    persons |= {(track.video_id, track.track_id): track.person for track in changed}
    rows = [(video, track, person) for (video, track), person in persons.items() if person]
    columns = zip(*rows, strict=True) if rows else ((), (), ())
    types = {"video_id": pa.string(), "track_id": pa.int32(), "person": pa.string()}
    arrays = [pa.array(values, kind) for values, kind in zip(columns, types.values(), strict=True)]
    return ids, pa.table(arrays, names=list(types))
