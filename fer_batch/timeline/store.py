"""Questions to a finished run: its tables as SQL and as pandas, read-only, and nothing else within reach."""

from pathlib import Path
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

from fer_batch.errors import OutputError, QueryError
from fer_batch.files import is_in_store
from fer_batch.pipeline.snapshot import hold, live_files, open_tables
from fer_batch.schema import VIDEOS, probability_column
from fer_batch.storage.outputs import folder_of

if TYPE_CHECKING:
    import pandas as pd


SHOWN = 10
"""Candidates that are named where several videos have one name."""


class Timeline:
    """The tables `tracks`, `moments` and `videos` of one output folder, as they were when it was opened.

    All have the columns that the manifests of the run's videos have.
    The files of that state stay as long as it is there, but for the second `finalize` after it was opened.
    """

    def __init__(self, out: str | Path) -> None:
        self.out = folder_of(out).absolute()
        self._connection = duckdb.connect(":memory:")
        self._held = hold(self.out)
        tables = open_tables(self.out)
        try:
            own = [f for f in pa.schema(tables["videos"].schema().to_arrow()) if f.name not in VIDEOS.names]
            for name in ("videos", "tracks", "moments"):
                self._view(name, tables[name], own if name != "videos" else [])
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
        columns = [row[0] for row in self._connection.execute("DESCRIBE tracks").fetchall()]
        self.classes = tuple(c.removeprefix("p_") for c in columns if c.startswith("p_"))
        """Names of the emotions, as in the `p_…` columns."""

    def sql(self, query: str) -> duckdb.DuckDBPyRelation:
        """One SELECT (in DuckDB's dialect) over `tracks`, `moments` and `videos`; `.df()`, `.arrow()`,
        `.fetchall()` read it.

        Raises QueryError for anything but one statement that only reads, and for what DuckDB refuses.
        """
        try:
            statements = self._connection.extract_statements(query)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise QueryError(
                    "a question is one SELECT statement over tracks, moments and videos; it can't write"
                )
            return self._connection.sql(query)
        except duckdb.Error as error:
            raise QueryError(_one_line(error)) from error

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
        conditions = ["true"]
        values: list[str | float] = []
        if video is not None:
            conditions.append("video_id = ?")
            values.append(self._video_id(str(video)))
        for condition, value in (("track_id = ?", track), ("time_s >= ?", start_s), ("time_s < ?", end_s)):
            if value is not None:
                conditions.append(condition)
                values.append(float(value))
        where = " AND ".join(conditions)
        return self._connection.execute(
            f"SELECT * FROM tracks WHERE {where} ORDER BY uri, track_id, time_s", values
        ).df()

    def _video_id(self, video: str) -> str:
        name = video
        for mark in "!%_":
            name = name.replace(mark, f"!{mark}")
        found = self._connection.execute(
            "SELECT video_id, uri FROM videos "
            "WHERE video_id = ? OR uri = ? OR uri LIKE ? ESCAPE '!' ORDER BY uri",
            [video, video, f"%/{name}"],
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
        columns = {name: probability_column(name) for name in self.classes}
        shares = ", ".join(f'avg({column}) AS "{name}"' for name, column in columns.items())
        names = ", ".join(f'faces."{name}"' for name in columns)
        return self._connection.execute(f"""
            SELECT videos.uri, status, error, read_s, moments, moments_with_face, tracks,
                   coalesce(faces.n, 0) AS faces, {names}
            FROM videos
            LEFT JOIN (SELECT video_id, count(*) AS n, {shares} FROM tracks GROUP BY video_id) AS faces
            USING (video_id)
            ORDER BY videos.uri
        """).df()

    def _view(self, name: str, table: DeltaTable, own: list[pa.Field]) -> None:
        """Make a table visible, with these columns of `videos` more."""
        more = "".join(f', videos."{f.name}"' for f in own)
        join = "LEFT JOIN videos USING (video_id)" if own else ""
        files = [str(path) for path in live_files(self.out / name, table)]
        if not files:
            fields = [f for f in table.to_pyarrow_dataset().schema if f.name != "bucket"]
            self._connection.register(name, pa.schema([*fields, *own]).empty_table())
            return
        if is_in_store(self.out):
            self._connection.register(f"{name}_in_store", table.to_pyarrow_dataset())
            self._connection.execute(
                f"CREATE VIEW {name} AS SELECT rows.* EXCLUDE (bucket){more} "
                f"FROM {name}_in_store AS rows {join}"
            )
            return
        known = self._connection.execute("SELECT current_setting('allowed_paths')").fetchone()
        allowed = [*(known[0] if known and known[0] else []), *files]
        self._connection.execute(f"SET allowed_paths = {_sql_list(allowed)}")
        self._connection.execute(
            f"CREATE VIEW {name} AS SELECT rows.*{more} "
            f"FROM read_parquet({_sql_list(files)}, hive_partitioning = false) AS rows {join}"
        )


def open_timeline(out: str | Path) -> Timeline:
    """The timeline that `fer-batch analyze --out OUT` has made; raises OutputError where `out` holds none."""
    return Timeline(out)


def _sql_list(values: list[str]) -> str:
    return "[" + ", ".join("'" + value.replace("'", "''") + "'" for value in values) + "]"


def _one_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
