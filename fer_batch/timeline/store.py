"""Questions to a finished run: its tables as SQL and as pandas, read-only, and nothing else within reach."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

from fer_batch.errors import OutputError, QueryError
from fer_batch.run.people import read_people
from fer_batch.run.plan import read_run
from fer_batch.run.snapshot import list_table_files, lock_for_reading, open_tables
from fer_batch.schema import VIDEOS_SCHEMA, probability_column
from fer_batch.storage.atomic import is_in_store
from fer_batch.storage.folder import open_folder
from fer_batch.timeline.queries.episodes import STEP_S, episodes_sql
from fer_batch.timeline.queries.expressions import quoted, text

if TYPE_CHECKING:
    import pandas as pd


SHOWN = 10
"""Candidates that are named where several videos have one name."""
TOGETHER = "string_agg(DISTINCT person, ', ' ORDER BY person)"
PERSONS = {
    "videos": f"(SELECT video_id, {TOGETHER} AS person FROM people GROUP BY ALL)",
    "tracks": "people",
    "moments": f"""(SELECT video_id, time_s, {TOGETHER} AS person FROM tracks
        WHERE person IS NOT NULL GROUP BY ALL)""",
}
"""Whom each table's rows show, by some of their columns; made known in this order."""


class Timeline:
    """The tables `tracks`, `moments` and `videos` of one output folder, as they were when it was opened, and
    two more that follow from them: `episodes` (with their defaults) and `summary` (a row a video).

    All have a column `person` (see `fer_batch.timeline.assign`), and the first three those that the manifests
    of the run's videos have. The files of that state stay as long as it is there, but for the second
    `finalize` after it was opened.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = open_folder(out).absolute()
        self._connection = duckdb.connect(":memory:")
        self._held = lock_for_reading(self.out)
        tables = open_tables(self.out)
        try:
            own = [
                f
                for f in pa.schema(tables["videos"].schema().to_arrow())
                if f.name not in VIDEOS_SCHEMA.names
            ]
            rows = {name: self._rows(name, tables[name]) for name in PERSONS}
            self._connection.register("people", self._people(rows["videos"]))
            for name, source in rows.items():
                self._view(name, source, own)
            self.own_columns = ["manifest_person" if f.name == "person" else f.name for f in own]
            """Names of the columns that manifests of the run's videos have."""
            self.classes = tuple(read_run(self.out)["classes"])
            """Names of the emotions, in the order of the `p_…` columns."""
            self._connection.execute(f"CREATE VIEW episodes AS {episodes_sql()}")
            self._connection.execute(f"CREATE VIEW summary AS {_summary_sql(self.classes)}")
        except duckdb.Error as error:
            raise OutputError(
                f"the tables in {self.out} can't be read, `fer-batch finalize` writes them anew: "
                + _one_line(error)
            ) from error
        for setting in (
            "python_enable_replacements = false",
            "autoinstall_known_extensions = false",
            "autoload_known_extensions = false",
            "enable_external_access = false",  # the paths that are allowed must be set before it, in _view
            "lock_configuration = true",
        ):
            self._connection.execute(f"SET {setting}")

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """One SELECT (in DuckDB's dialect) over the views; `.df()` (pandas), `.pl()` (Polars), `.arrow()` and
        `.fetchall()` read it.

        Raises QueryError for anything but one statement that only reads, and for what DuckDB refuses.
        """
        try:
            statements = self._connection.extract_statements(query)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise QueryError(
                    "a question is one SELECT statement over tracks, moments, videos, episodes and summary; "
                    + (f"these are {len(statements)}" if len(statements) != 1 else "it can't write")
                )
            return self._connection.sql(query)
        except duckdb.Error as error:
            raise QueryError(_one_line(error)) from error

    def run(self, query: str, values: Mapping[str, Any] | None = None) -> duckdb.DuckDBPyRelation:
        """As `sql`, for queries of this package, which may have parameters (`$name`)."""
        try:
            return self._connection.sql(query, params=dict(values or {}))
        except duckdb.Error as error:
            raise QueryError(_one_line(error)) from error

    def read(self, query: str, values: Mapping[str, Any] | None = None) -> pa.Table:
        """The rows of what `run` takes, read at once."""
        relation = self.run(query, values)
        try:
            return relation.to_arrow_table()
        except duckdb.Error as error:
            raise QueryError(_one_line(error)) from error

    def relation(self, stream: Any) -> duckdb.DuckDBPyRelation:
        """Whatever is read as a stream of Arrow, as a relation, as answers are."""
        return self._connection.from_arrow(stream)

    def register(self, name: str, table: pa.Table) -> None:
        """Have a table of the user's own beside the views, under this name."""
        self._connection.register(name, table)

    def step_s(self, video: str) -> float | None:
        """Seconds that a moment of a video stands for: its moments' mean distance; None where it has none."""
        found = self.run(f"SELECT {STEP_S} FROM videos WHERE video_id = $id", {"id": self.video_id(video)})
        step_s: float | None = found.fetchall()[0][0]
        return step_s

    def to_pandas(
        self,
        video: str | None = None,
        track: int | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> "pd.DataFrame":
        """Rows of `tracks`: of one video (its id, uri or file name), of one track, in `[start_s, end_s)`
        seconds.

        Raises QueryError where there is no such video, or several have that name.
        """
        where, values = self.faces_of(video, track=track, start_s=start_s, end_s=end_s)
        return self.run(f"SELECT * FROM tracks WHERE {where} ORDER BY uri, track_id, time_s", values).df()

    def faces_of(
        self,
        video: str | None = None,
        *,
        person: str | None = None,
        track: int | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> tuple[str, dict[str, Any]]:
        """The condition, and its values, under which a row of `tracks` is of this video, person and track,
        and in `[start_s, end_s)`; raises QueryError where there is no such video or person, or no such time.
        """
        if start_s is not None and end_s is not None and start_s > end_s:
            raise QueryError(f"nothing lies between a start at {start_s:g} s and an end at {end_s:g} s")
        conditions = {
            "video_id = $video": None if video is None else self.video_id(str(video)),
            "person = $person": None if person is None else self._known(person),
            "track_id = $track": None if track is None else int(track),
            "time_s >= $start_s": None if start_s is None else float(start_s),
            "time_s < $end_s": None if end_s is None else float(end_s),
        }
        given = {condition: value for condition, value in conditions.items() if value is not None}
        values = {condition.rsplit("$", 1)[1]: value for condition, value in given.items()}
        return " AND ".join(given) or "true", values

    def _known(self, person: str) -> str:
        known = [name for (name,) in self.run("SELECT DISTINCT person FROM people ORDER BY 1").fetchall()]
        if person not in known:
            said = f"it has {', '.join(known[:SHOWN])}" if known else "`fer-batch assign` says who is who"
            raise QueryError(f"{self.out} knows no person {person}; {said}")
        return person

    def video_id(self, video: str) -> str:
        """Of the video that is meant by its id, uri, file name or, where a manifest gave it one, its `id`.

        Raises QueryError where there is no such video, or several have that name.
        """
        name = video
        for mark in "!%_":
            name = name.replace(mark, f"!{mark}")
        own = "OR id = $video" if "id" in self._columns("videos") else ""
        found = self.run(
            "SELECT video_id, uri FROM videos "
            f"WHERE video_id = $video OR uri = $video {own} OR uri LIKE $name ESCAPE '!' ORDER BY uri",
            {"video": video, "name": f"%/{name}"},
        ).fetchall()
        if len(found) == 1:
            return str(found[0][0])
        if not found:
            raise QueryError(f"{self.out} has no video {video}; the table videos names them all")
        uris = ", ".join(uri for _, uri in found[:SHOWN]) + (" …" if len(found) > SHOWN else "")
        raise QueryError(f"{video} is {len(found)} videos: {uris}; name one by its whole path")

    def summary(self) -> "pd.DataFrame":
        """A row a video: how it ended, how much was seen, and each emotion's mean probability over its
        faces.
        """
        return self.run("SELECT * EXCLUDE (video_id) FROM summary ORDER BY uri").df()

    def _people(self, videos: str) -> pa.Table:
        """Who is who, as far as it was said of the analyses that the tables are of."""
        self._connection.register("said", read_people(self.out))
        attempt = "coalesce(known.attempt, 0)" if "attempt" in self._columns(videos) else "0"
        return self._connection.sql(f"""
            SELECT video_id, track_id, person FROM said SEMI JOIN {videos} AS known
            ON said.video_id = known.video_id AND said.version = known.version
            AND said.attempt = {attempt}""").to_arrow_table()

    def _view(self, name: str, source: str, own: Sequence[pa.Field]) -> None:
        """Make a table visible, with the column `person` and those that are its owner's."""
        owned = {f.name: "manifest_person" if f.name == "person" else f.name for f in own}
        rest = [column for column in self._columns(source) if column not in (*owned, "bucket")]
        columns = [f'rows."{column}"' for column in rest]
        joins = ""
        if self._connection.sql("SELECT 1 FROM people LIMIT 1").fetchall():
            by = [c for c in ("video_id", "track_id", "time_s") if c in self._columns(PERSONS[name])]
            same = " AND ".join(f"who.{column} = rows.{column}" for column in by)
            joins += f" LEFT JOIN {PERSONS[name]} AS who ON {same}"
            columns.append("who.person")
        else:
            columns.append("NULL::VARCHAR AS person")
        if name == "videos":
            columns += [f'rows."{column}" AS "{shown}"' for column, shown in owned.items()]
        elif owned:
            columns += [f'videos."{shown}"' for shown in owned.values()]
            joins += " LEFT JOIN videos ON videos.video_id = rows.video_id"
        self._connection.execute(
            f"CREATE VIEW {name} AS SELECT {', '.join(columns)} FROM {source} AS rows{joins}"
        )

    def _columns(self, source: str) -> list[str]:
        return list(self._connection.sql(f"FROM {source}").columns)

    def _rows(self, name: str, table: DeltaTable) -> str:
        """What a table is called in SQL, which may then read its files."""
        files = [str(path) for path in list_table_files(self.out / name, table)]
        if is_in_store(self.out) or not files:
            stored = f"{name}_stored"
            self._connection.register(stored, table.to_pyarrow_dataset())
            return stored
        known = self._connection.execute("SELECT current_setting('allowed_paths')").fetchone()
        allowed = [*(known[0] if known and known[0] else []), *files]
        self._connection.execute(f"SET allowed_paths = {_sql_list(allowed)}")
        return f"read_parquet({_sql_list(files)}, hive_partitioning = false)"


def _summary_sql(classes: Sequence[str]) -> str:
    columns = {name: probability_column(name) for name in classes}
    shares = ", ".join(f"avg({column}) AS {quoted(name)}" for name, column in columns.items())
    names = ", ".join(f"faces.{quoted(name)}" for name in columns)
    return f"""
        SELECT videos.video_id, videos.uri, status, error, read_s, moments, moments_with_face, tracks,
               coalesce(faces.n, 0) AS faces, {names}, videos.person
        FROM videos
        LEFT JOIN (SELECT video_id, count(*) AS n, {shares} FROM tracks GROUP BY video_id) AS faces
        USING (video_id)"""


def open_timeline(out: str | Path) -> Timeline:
    """The timeline that `fer-batch analyze --out OUT` has made; raises OutputError where `out` holds none."""
    return Timeline(out)


def _sql_list(values: list[str]) -> str:
    return "[" + ", ".join(map(text, values)) + "]"


def _one_line(error: Exception) -> str:
    """What DuckDB says is wrong, and the columns or tables that it takes to have been meant."""
    first, *more = str(error).strip().split("\n")
    meant = [line.strip() for line in more if line.startswith(("Candidate bindings:", "Did you mean"))]
    return " ".join([first, *meant])
