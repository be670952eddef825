"""Assign persons to tracks: from a list, or by the faces' positions in the picture.

Nothing is learned from faces, and no more of them is stored than the persons of tracks.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.errors import InputError
from fer_batch.run.people import read_person_groups, write_people
from fer_batch.schema import PEOPLE_SCHEMA
from fer_batch.storage.folder import FolderLike, open_folder
from fer_batch.storage.lease import hold_lease
from fer_batch.storage.user_tables import read_csv_table
from fer_batch.timeline.database import Database
from fer_batch.timeline.names import file_name

COLUMN_NAMES = {
    "video": ("video", "video_id", "uri"),
    "track_id": ("track_id", "track"),
    "person": ("person",),
}
"""The names that each column of a list may have."""
MAX_TRACKS_IN_MESSAGE = 5


def assign_from_csv(out: FolderLike, path: Path) -> pa.Table:
    """Assign persons from a CSV file with the columns `video` (id, path or file name), `track_id` and
    `person`.

    Earlier assignments of the videos in the list are replaced. A track without a person loses its person.
    Returns the written rows of `PEOPLE_SCHEMA`.

    Raises InputError if the file cannot be read, lacks a column, or names a track twice or an unknown one.
    Raises QueryError if the run has no such video.
    """
    rows = _read_list(path)

    def choose(database: Database) -> tuple[list[str], pa.Table]:
        names = rows.column("video").to_pylist()
        ids = database.video_ids(names)
        people = rows.set_column(0, "video_id", pa.array([ids[name] for name in names], pa.string()))
        database = database.narrow(ids.values())
        database.register("listed", people)
        unknown = database.sql("""
            SELECT uri, track_id FROM listed JOIN videos USING (video_id)
            ANTI JOIN (SELECT DISTINCT video_id, track_id FROM tracks) AS existing USING (video_id, track_id)
            ORDER BY ALL""").fetchall()
        if unknown:
            examples = ", ".join(f"{track} of {uri}" for uri, track in unknown[:MAX_TRACKS_IN_MESSAGE])
            raise InputError(
                f"{path} has {len(unknown)} tracks that the run does not have ({examples}). `fer-batch query "
                f'{out} "SELECT DISTINCT uri, track_id FROM tracks"` lists all tracks.'
            )
        if len(people.group_by(["video_id", "track_id"]).aggregate([])) < len(people):
            raise InputError(f"{path} has a track twice; each track needs one row")
        return list(ids.values()), people.filter(pc.greater(pc.utf8_length(people.column("person")), 0))

    return replace_persons(out, choose)


def assign_by_position(
    out: FolderLike, persons: Sequence[str], videos: Sequence[str | Path] = (), max_faces: int | None = None
) -> pa.Table:
    """Assign persons by position: `persons` sit from the left to the right of the picture.

    In each sampled frame, the `max_faces` largest faces count (by default as many as there are persons). If
    as many faces count as there are persons, they are the persons from left to right. Otherwise the picture
    is divided into parts of equal width, and a face is the person of the part that its centre is in. A track
    gets the person that it is in most of its frames, and none if it is too small to count in most of them. So
    one person is the largest face.

    `videos` are ids, paths or file names; all by default. Their earlier assignments are replaced. Returns the
    written rows of `PEOPLE_SCHEMA`.

    Raises InputError if a name is empty, given twice or a video of the run. Raises QueryError if the run has
    no such video.
    """
    count = len(persons)
    if not count or not all(persons) or len(set(persons)) < count:
        names = ", ".join(persons) or "none"
        raise InputError(f"Persons must be named once each, from left to right, got {names}")
    if max_faces is not None and max_faces < 1:
        raise InputError(f"The number of faces that count must be at least 1, got {max_faces}")

    def choose(database: Database) -> tuple[list[str], pa.Table]:
        videos_of_run = {file_name(uri) for (uri,) in database.sql("SELECT uri FROM videos").fetchall()}
        if mistaken := sorted(videos_of_run & set(persons)):
            raise InputError(f"{mistaken[0]} is a video of the run, not a person; name videos before persons")
        ids = [database.video_id(video) for video in videos] or [
            video for (video,) in database.sql("SELECT video_id FROM videos").fetchall()
        ]
        database = database.narrow(ids)
        seats = {"seat": pa.array(range(count), pa.int64()), "person": pa.array(persons, pa.string())}
        database.register("seats", pa.table(seats))
        database.register("chosen", pa.table({"video_id": pa.array(ids, pa.string())}))
        people = database.sql(f"""
            WITH faces AS (
                SELECT video_id, track_id, time_s, (box_x0 + box_x1) / 2 AS centre, row_number() OVER (
                    PARTITION BY video_id, time_s
                    ORDER BY (box_x1 - box_x0) * (box_y1 - box_y0) DESC, track_id
                ) <= {max_faces or count} AS counts
                FROM tracks SEMI JOIN chosen USING (video_id)
            ),
            seated AS (
                SELECT video_id, track_id, CASE
                    WHEN NOT counts THEN -1
                    WHEN count(*) OVER frame = {count} THEN row_number() OVER (frame ORDER BY centre) - 1
                    ELSE least(greatest(floor(centre * {count}), 0), {count - 1}) END::BIGINT AS seat
                FROM faces WINDOW frame AS (PARTITION BY video_id, time_s, counts)
            ),
            tracked AS (
                SELECT video_id, track_id, arg_max(seat, (n, -seat)) AS seat
                FROM (SELECT video_id, track_id, seat, count(*) AS n FROM seated GROUP BY ALL) GROUP BY ALL
            )
            SELECT video_id, track_id, person FROM tracked JOIN seats USING (seat) ORDER BY ALL""")
        return ids, people.to_arrow_table()

    return replace_persons(out, choose)


def assign_by_number(
    out: FolderLike, names: Mapping[int, str], videos: Sequence[str | Path] = ()
) -> pa.Table:
    """Give names to persons that `group_people` has numbered: to all tracks of each person.

    `videos` are ids, paths or file names; all by default. Tracks of other numbers keep their persons.
    Returns the written rows of `PEOPLE_SCHEMA`, also those of earlier assignments.

    Raises InputError if no track has one of the numbers, or if a number may be someone else in each of
    several videos. Raises QueryError if the run has no such video.
    """
    if not names or not all(names.values()):
        raise InputError("Give a name for each number")

    def choose(database: Database) -> tuple[list[str], pa.Table]:
        ids = [database.video_id(video) for video in videos] or [
            video for (video,) in database.sql("SELECT DISTINCT video_id FROM people").fetchall()
        ]
        groups = read_person_groups(database.out)
        is_local = pc.and_(pc.is_valid(groups.column("number")), pc.invert(groups.column("across_videos")))
        numbered = groups.filter(is_local).column("video_id").to_pylist()
        if len(set(ids).intersection(numbered)) > 1:
            raise InputError("A number is someone else in each video; name one video")
        database.register("named", pa.table({"number": list(names), "name": list(names.values())}))
        database.register("chosen", pa.table({"video_id": pa.array(ids, pa.string())}))
        people = database.sql("""
            SELECT video_id, track_id, coalesce(name, person) AS person, number
            FROM people SEMI JOIN chosen USING (video_id) LEFT JOIN named USING (number)
            WHERE coalesce(name, person) IS NOT NULL ORDER BY ALL""").to_arrow_table()
        unknown = sorted(names.keys() - set(people.column("number").to_pylist()))
        if unknown:
            raise InputError(f"There is no person {unknown[0]}; `fer-batch people {out}` numbers persons")
        return ids, people.drop_columns("number")

    return replace_persons(out, choose)


def replace_persons(
    out: FolderLike, choose: Callable[[Database], tuple[Sequence[str], pa.Table]]
) -> pa.Table:
    """Replace the persons of videos and return the written rows of `PEOPLE_SCHEMA`.

    `choose` returns the ids of the videos, and rows of video_id, track_id, person. It is called while the
    lease is held, so no other process writes to `out` until the rows are written. The number that a track
    already has, such as "person 1", is no name and is not written.

    Raises OutputError if another process holds the lease, or if `out` holds no finished run.
    """
    folder = open_folder(out).absolute()
    Database(folder)  # fails before the lease creates anything in a folder that holds no run
    with hold_lease(folder, "assign"):
        database = Database(folder)
        ids, people = choose(database)
        database = database.narrow(ids)
        database.register("assigned", people)
        rows = database.sql("""
            SELECT video_id, videos.version, coalesce(videos.attempt, 0)::INTEGER AS attempt,
                   track_id::INTEGER AS track_id, assigned.person
            FROM assigned JOIN videos USING (video_id) LEFT JOIN people USING (video_id, track_id)
            WHERE people.number IS NULL OR assigned.person <> 'person ' || people.number
            ORDER BY ALL""").to_arrow_table()
        rows = rows.select(PEOPLE_SCHEMA.names).cast(PEOPLE_SCHEMA)
        write_people(folder, rows, ids)
    return rows


def _read_list(path: Path) -> pa.Table:
    """Read the columns video, track_id and person of a CSV file."""
    types = {name: pa.string() for names in COLUMN_NAMES.values() for name in names}
    try:
        rows = read_csv_table(path, types)
    except FileNotFoundError as error:
        raise InputError(f"There is no file {path}") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"Cannot read {path} as CSV: {str(error).splitlines()[0]}") from error
    columns = {}
    for column, names in COLUMN_NAMES.items():
        name = next((name for name in names if name in rows.column_names), None)
        if name is None:
            raise InputError(
                f"{path} needs the columns video, track_id and person, got {', '.join(rows.column_names)}"
            )
        columns[column] = rows.column(name)
    try:
        columns["track_id"] = columns["track_id"].cast(pa.int32())
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: a track_id must be a whole number: {error}") from error
    return pa.table(columns)
