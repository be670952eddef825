"""Who is who: a name for a track, as its owner says it, by a list or by the seat.

Nothing is learned from faces, and nothing of them is stored but the names of tracks.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from fer_batch.errors import InputError
from fer_batch.run.people import write_people
from fer_batch.schema import PEOPLE_SCHEMA
from fer_batch.storage.folder import FolderLike, open_folder
from fer_batch.storage.lease import hold_lease
from fer_batch.timeline.store import Timeline, open_timeline

COLUMNS = {"video": ("video", "video_id", "uri"), "track_id": ("track_id", "track"), "person": ("person",)}
"""Columns of a list of people, by the names that each may have."""
SHOWN = 5


def assign_from_csv(out: FolderLike, path: Path) -> pa.Table:
    """Name tracks by a CSV file with the columns `video` (id, uri or file name), `track_id` and `person`.

    What was said before of the videos that it names is replaced; a row without a person says nothing of its
    track. Returns rows of PEOPLE_SCHEMA that were written. Raises InputError where the file can't be
    read, lacks a column, or names a track twice or one that there is not; QueryError where it names no video
    of the run.
    """
    rows = _read_list(path)

    def chosen(timeline: Timeline) -> tuple[list[str], pa.Table]:
        names = rows.column("video").to_pylist()
        ids = {name: timeline.video_id(name) for name in dict.fromkeys(names)}
        said = rows.set_column(0, "video_id", pa.array([ids[name] for name in names], pa.string()))
        timeline.register("listed", said)
        unknown = timeline.sql("""
            SELECT uri, track_id FROM listed JOIN videos USING (video_id)
            ANTI JOIN (SELECT DISTINCT video_id, track_id FROM tracks) AS known USING (video_id, track_id)
            ORDER BY ALL""").fetchall()
        if unknown:
            named = ", ".join(f"{track} of {uri}" for uri, track in unknown[:SHOWN])
            raise InputError(
                f"{path} names {len(unknown)} tracks that there are not ({named}); `fer-batch query "
                f'{out} "SELECT DISTINCT uri, track_id FROM tracks"` lists those that there are'
            )
        keys = said.group_by(["video_id", "track_id"]).aggregate([([], "count_all")])
        if len(keys) < len(said):
            raise InputError(f"{path} names a track twice; give each a row")
        return list(ids.values()), said.filter(pc.greater(pc.utf8_length(said.column("person")), 0))

    return _assign(out, chosen)


def assign_by_position(
    out: FolderLike, persons: Sequence[str], videos: Sequence[str] = (), max_faces: int | None = None
) -> pa.Table:
    """Name tracks by where they are in the picture: `persons` from its left to its right.

    At each moment the `max_faces` largest faces count, by default as many as there are persons. Where they
    are as many as persons, the first from the left is the first person, and so on; else a face is whose part
    of the picture its middle is in, all parts being equally wide. A track is whom it is at most of its
    moments, and nobody where it is not among the largest at most of them. So with one person it is the
    largest face. Of `videos` (ids, uris, file names), by default of all; what was said of them before is
    replaced. Returns rows of PEOPLE_SCHEMA that were written. Raises InputError for names that are
    empty or given twice, QueryError where a video is not of the run.
    """
    count = len(persons)
    if not count or not all(persons) or len(set(persons)) < count:
        raise InputError(f"persons are {', '.join(persons) or 'none'}; name each once, from left to right")
    if max_faces is not None and max_faces < 1:
        raise InputError(f"{max_faces} faces can't be named; at least one must count")

    def chosen(timeline: Timeline) -> tuple[list[str], pa.Table]:
        ids = [timeline.video_id(video) for video in videos] or [
            video for (video,) in timeline.sql("SELECT video_id FROM videos").fetchall()
        ]
        names = {"seat": pa.array(range(count), pa.int64()), "person": pa.array(persons, pa.string())}
        timeline.register("seats", pa.table(names))
        timeline.register("chosen", pa.table({"video_id": pa.array(ids, pa.string())}))
        most = max_faces or count
        return ids, timeline.sql(f"""
            WITH faces AS (
                SELECT video_id, track_id, time_s, (box_x0 + box_x1) / 2 AS middle, row_number() OVER (
                    PARTITION BY video_id, time_s
                    ORDER BY (box_x1 - box_x0) * (box_y1 - box_y0) DESC, track_id
                ) <= {most} AS counts
                FROM tracks SEMI JOIN chosen USING (video_id)
            ),
            seated AS (
                SELECT video_id, track_id, CASE
                    WHEN NOT counts THEN -1
                    WHEN count(*) OVER moment = {count} THEN row_number() OVER (moment ORDER BY middle) - 1
                    ELSE least(greatest(floor(middle * {count}), 0), {count - 1}) END::BIGINT AS seat
                FROM faces WINDOW moment AS (PARTITION BY video_id, time_s, counts)
            ),
            tracked AS (
                SELECT video_id, track_id, arg_max(seat, (n, -seat)) AS seat
                FROM (SELECT video_id, track_id, seat, count(*) AS n FROM seated GROUP BY ALL) GROUP BY ALL
            )
            SELECT video_id, track_id, person FROM tracked JOIN seats USING (seat) ORDER BY ALL
        """).to_arrow_table()

    return _assign(out, chosen)


def _assign(out: FolderLike, chosen: Callable[[Timeline], tuple[list[str], pa.Table]]) -> pa.Table:
    """Write whom `chosen` names (columns video_id, track_id and person) in the videos that it names."""
    folder = open_folder(out).absolute()
    open_timeline(folder)  # a folder without a run is left as it is
    with hold_lease(folder, "assign"):
        timeline = open_timeline(folder)
        ids, people = chosen(timeline)
        timeline.register("assigned", people)
        rows = timeline.sql("""
            SELECT video_id, version, coalesce(attempt, 0)::INTEGER AS attempt, track_id::INTEGER AS track_id,
                   assigned.person
            FROM assigned JOIN videos USING (video_id) ORDER BY ALL""").to_arrow_table()
        rows = rows.select(PEOPLE_SCHEMA.names).cast(PEOPLE_SCHEMA)
        write_people(folder, rows, ids)
    return rows


def _read_list(path: Path) -> pa.Table:
    """The columns video, track_id and person of a list of people."""
    try:
        rows = pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={name: pa.string() for names in COLUMNS.values() for name in names}
            ),
        )
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(f"{path} can't be read as CSV: {str(error).splitlines()[0]}") from error
    columns = {}
    for column, names in COLUMNS.items():
        found = next((name for name in names if name in rows.column_names), None)
        if found is None:
            raise InputError(
                f"{path} has the columns {', '.join(rows.column_names)}; it needs video, track_id and person"
            )
        columns[column] = rows.column(found)
    try:
        columns["track_id"] = columns["track_id"].cast(pa.int32())
    except pa.ArrowInvalid as error:
        raise InputError(f"{path}: a track_id is a whole number; {error}") from error
    return pa.table(columns)
