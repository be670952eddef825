"""Read-only SQL over the tables of one run folder."""

import functools
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.errors import OutputError, QueryError
from fer_batch.run.older_results import YAW_DEG_SQL
from fer_batch.run.people import read_people, read_person_groups
from fer_batch.run.plan import read_planned_videos
from fer_batch.run.record import read_run
from fer_batch.run.snapshot import Partial, group_table_files, lock_for_reading, open_tables, read_snapshot
from fer_batch.schema import VIDEOS_SCHEMA, rename_reserved
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder
from fer_batch.timeline.sandbox import QUERY_TIMEOUT_S, check_statement, limit_resources, lock_settings
from fer_batch.timeline.sql import IS_NUMBERED, check_positive, quote_text
from fer_batch.timeline.views import add_step_s, episodes_sql, summary_sql

MAX_NAMES_IN_MESSAGE = 10
"""Number of videos or persons that an error message lists."""
YAW_AND_PITCH_SQL = f"{YAW_DEG_SQL} AS yaw_deg, NULL::FLOAT AS pitch_deg"
"""The columns of schema 7 in tables that have `yaw`."""
VIEWS = ("tracks", "moments", "videos", "episodes", "summary", "people")
_ALL_PERSONS = "string_agg(DISTINCT person, ', ' ORDER BY person)"
_PERSONS_SQL = {
    "videos": f"(SELECT video_id, {_ALL_PERSONS} AS person FROM people GROUP BY ALL)",
    "tracks": "(SELECT video_id, track_id, person FROM people)",
    "moments": f"""(SELECT video_id, time_s, {_ALL_PERSONS} AS person FROM tracks
        WHERE person IS NOT NULL GROUP BY ALL)""",
}
"""The persons of each table's rows. The order matters: the view `moments` reads the view `tracks`."""


NO_PEOPLE = pa.table(
    {
        "video_id": pa.array([], pa.string()),
        "track_id": pa.array([], pa.int32()),
        "person": pa.array([], pa.string()),
        "number": pa.array([], pa.int32()),
        "reason": pa.array([], pa.string()),
    }
)
"""The table `people` of a run in which no track has a person or a number: the person of a track, the number
of its group, and the reason why it has none."""


class Database:
    """The views `tracks`, `moments`, `videos`, `episodes`, `summary` and `people` of a run.

    The views show the tables as the last `finalize` before the opening left them. All have a column `person`
    (see `fer_batch.timeline.assign`). `tracks`, `moments` and `videos` also have the columns of the
    manifests. SQL can read nothing but these views, and write nothing. A query may take `timeout_s`, half of
    the memory, and up to 64 GiB of temporary disk space. The files stay on disk while this object lives,
    until the second `finalize` after the opening.
    """

    out: OutputFolder
    """The run folder."""
    classes: tuple[str, ...]
    """The names of the emotions, in the order of the `p_…` columns."""
    manifest_columns: list[str]
    """The names of the columns that manifests of the run's videos added."""
    partial: Partial | None
    """Which part of the run the tables have; None if they have all."""
    numbers_are_local: bool
    """Whether "person 1" may be someone else in each video of the run."""
    face_filter: str = ""
    """Which faces the views have, in words; empty if they have all."""
    _face_condition: str = "true"
    _buckets: Collection[int] | None = None

    def __init__(self, out: FolderLike, timeout_s: float = QUERY_TIMEOUT_S) -> None:
        check_positive(timeout_s, "timeout_s")
        self.out = open_folder(out).absolute()
        self._timeout_s = timeout_s
        self._lock = lock_for_reading(self.out)
        snapshot = read_snapshot(self.out)
        self.partial = snapshot.partial if snapshot else None
        self._tables = open_tables(self.out)
        self._files = {name: group_table_files(name, table) for name, table in self._tables.items()}
        self._datasets: dict[str, Any] = {}
        run = read_run(self.out)
        self.classes = run.classes
        self._run_columns = run.columns
        self._create_views(None)

    def narrow(self, video_ids: Iterable[str]) -> "Database":
        """Return a database whose views have only the buckets of these videos, in the same state.

        Its queries open few files. Returns this object if the plan does not tell the buckets.
        """
        planned = self._planned
        position = pc.index_in(pa.array(sorted(set(video_ids)), pa.string()), planned.column("video_id"))
        return self if position.null_count else self._narrow_to(planned.column("bucket").take(position))

    def filter_rows(self, condition: str, description: str) -> Self:
        """Return this database with only the rows of `tracks` that meet an SQL condition, in the same state.

        The views `episodes` and `summary` follow from these rows, and the persons of `moments`. All else that
        `videos` and `moments` have is about all faces. `description` names the faces that are left.
        """
        filtered = object.__new__(type(self))
        filtered.__dict__.update(self.__dict__)
        filtered._face_condition = f"{self._face_condition} AND {condition}"
        filtered.face_filter = ", ".join(filter(None, [self.face_filter, description]))
        filtered._create_views(self._buckets)
        return filtered

    def _narrow_to(self, buckets: pa.ChunkedArray) -> "Database":
        narrowed = object.__new__(Database)
        narrowed.__dict__.update(self.__dict__)
        narrowed._create_views(set(buckets.to_pylist()))
        return narrowed

    def _create_views(self, buckets: Collection[int] | None) -> None:
        """Connect to a new DuckDB with views of these buckets, or of all."""
        self._buckets = buckets
        self._connection = duckdb.connect(":memory:")
        limit_resources(self._connection)
        try:
            sources = {name: self._open_source(name, buckets) for name in _PERSONS_SQL}
            self._add_new_columns(sources)
            added = [name for name in self._columns_of(sources["videos"]) if name not in VIDEOS_SCHEMA.names]
            self.manifest_columns = list(_view_names(added).values())
            self._connection.register("people", self._read_people(sources["videos"]))
            if self.face_filter:
                sources["tracks"] = f"(SELECT * FROM {sources['tracks']} WHERE {self._face_condition})"
            for name, source in sources.items():
                self._create_table_view(name, source, added)
            self._connection.execute(f"CREATE VIEW episodes AS {episodes_sql()}")
            self._connection.execute(f"CREATE VIEW summary AS {summary_sql(self.classes)}")
        except duckdb.Error as error:
            raise OutputError(
                f"Cannot read the tables in {self.out}: {_first_line(error)}. "
                f"`fer-batch finalize {self.out}` writes them again."
            ) from error
        lock_settings(self._connection, self._timeout_s)
        self._parser = self._connection.cursor()

    def sql(self, query: str, params: Mapping[str, Any] | None = None) -> duckdb.DuckDBPyRelation:
        """Run one SELECT statement in DuckDB's dialect over the views.

        `params` are the values of `$name` parameters. Read the result with `.df()` (pandas), `.pl()`
        (Polars), `.to_arrow_table()` or `.fetchall()`.

        Raises QueryError if `query` is not exactly one statement that only reads, if it calls a function that
        does more than compute, or if DuckDB rejects it. Reading the result raises a `duckdb.Error` if that
        takes more time, memory or temporary disk space than allowed.
        """
        try:
            check_statement(self._parser, query, ", ".join(VIEWS))
            return self.run_trusted(query, params)
        except duckdb.Error as error:
            raise QueryError(_first_line(error)) from error

    def run_trusted(self, query: str, params: Mapping[str, Any] | None = None) -> duckdb.DuckDBPyRelation:
        """Run a query of this package, without the checks of `sql`; they are slow for thousands of values."""
        return self._connection.sql(query, params=dict(params or {}))

    def register(self, name: str, table: pa.Table) -> None:
        """Make an Arrow table available to SQL under `name`."""
        self._connection.register(name, table)

    def video_id(self, video: str | Path) -> str:
        """Return the id of the video that is named by its id, path, file name, or `id` column of a manifest.

        A relative path starts at the working directory, or ends the path of the video. Raises QueryError if
        no video, or more than one, has that name.
        """
        name = str(video)
        # The plan tells which buckets may have the video, so that one file is read instead of all.
        buckets = self._planned.filter(self._may_match(name)).column("bucket")
        matches = self._narrow_to(buckets)._find_matches(name) if len(buckets) else []
        matches = matches or self._find_matches(name)
        if len(matches) == 1:
            return str(matches[0][0])
        if not matches:
            raise QueryError(f"{self.out} has no video {name}; the table videos lists all videos")
        uris = ", ".join(uri for _, uri in matches[:MAX_NAMES_IN_MESSAGE])
        more = " …" if len(matches) > MAX_NAMES_IN_MESSAGE else ""
        raise QueryError(f"{name} matches {len(matches)} videos: {uris}{more}. Give the whole path of one.")

    def video_ids(self, videos: Sequence[str]) -> dict[str, str]:
        """Return the id of each named video by its name; paths and ids are found in one query.

        Raises QueryError like `video_id`.
        """
        named, planned = pa.array(videos, pa.string()), self._planned
        is_named = pc.or_(*(pc.is_in(planned.column(key), named) for key in ("video_id", "uri")))
        database = self._narrow_to(planned.filter(is_named).column("bucket")) if len(planned) else self
        database.register("named_videos", pa.table({"name": named}))
        exact = database.sql(
            "SELECT DISTINCT name, video_id FROM named_videos JOIN videos ON name IN (video_id, uri)"
        )
        ids = dict(exact.fetchall())
        return ids | {name: self.video_id(name) for name in dict.fromkeys(videos) if name not in ids}

    @functools.cached_property
    def _planned(self) -> pa.Table:
        """The names and the bucket of each planned video."""
        columns = ["video_id", "uri", "extra", "bucket"]
        return read_planned_videos(self.out, columns=columns).combine_chunks()

    def _may_match(self, name: str) -> pa.ChunkedArray:
        """Return for each planned video whether `name` may be one of its names."""
        planned = self._planned
        paths = pa.array([name, os.path.abspath(name)])
        matches = pc.or_(
            pc.equal(planned.column("video_id"), name), pc.is_in(planned.column("uri"), value_set=paths)
        )
        matches = pc.or_(matches, pc.ends_with(planned.column("uri"), f"/{name}"))
        if "id" in self.manifest_columns:
            for text in {json.dumps(name)[1:-1], json.dumps(name, ensure_ascii=False)[1:-1]}:
                has_text = pc.match_substring(planned.column("extra"), text).fill_null(False)
                matches = pc.or_(matches, has_text)
        return matches

    def _find_matches(self, name: str) -> list[tuple[str, str]]:
        """Return the id and the uri of each video with this name."""
        pattern = "%/" + name.replace("!", "!!").replace("%", "!%").replace("_", "!_")
        by_manifest_id = "OR id = $name" if "id" in self._columns_of("videos") else ""
        return self.sql(
            "SELECT video_id, uri FROM videos "
            f"WHERE video_id = $name OR uri IN ($name, $absolute) {by_manifest_id} "
            "OR uri LIKE $pattern ESCAPE '!' ORDER BY uri",
            {"name": name, "absolute": os.path.abspath(name), "pattern": pattern},
        ).fetchall()

    def _open_source(self, name: str, buckets: Collection[int] | None) -> str:
        """Return what SQL reads these buckets of a Delta table from, and allow DuckDB to read the files."""
        table = self._tables[name]
        groups = self._files[name]
        if buckets is not None:
            groups = {bucket: groups[bucket] for bucket in buckets if bucket in groups}
        files = [f"{self.out}/{file}" for group in groups.values() for file in group]
        if not files:
            self._connection.register(f"{name}_stored", pa.schema(table.schema().to_arrow()).empty_table())
            return f"{name}_stored"
        if self.out.path is None:
            if name not in self._datasets:
                self._datasets[name] = table.to_pyarrow_dataset()
            dataset = self._datasets[name]
            if buckets is not None:
                dataset = dataset.filter(pc.field("bucket").isin(sorted(groups)))
            self._connection.register(f"{name}_stored", dataset)
            return f"{name}_stored"
        row = self._connection.execute("SELECT current_setting('allowed_paths')").fetchone()
        allowed = [*(row[0] if row and row[0] else []), *files]
        self._connection.execute(f"SET allowed_paths = [{', '.join(map(quote_text, allowed))}]")
        return f"read_parquet([{', '.join(map(quote_text, files))}], hive_partitioning = false)"

    def _add_new_columns(self, sources: dict[str, str]) -> None:
        """Add the columns of schemas 5 to 7 to sources of older tables."""
        stored = self._columns_of(sources["videos"])
        in_tracks = self._columns_of(sources["tracks"])
        has_steps = "step_s" in in_tracks
        nulls = [] if has_steps else ["NULL::DOUBLE AS start_s"]
        new = set[str]() if has_steps else {"start_s", "step_s"}
        if "yaw_deg" not in in_tracks:
            new |= {"yaw_deg", "pitch_deg"}
            shown = [YAW_AND_PITCH_SQL if name == "yaw" else f'"{name}"' for name in in_tracks]
            sources["tracks"] = f"(SELECT {', '.join(shown)} FROM {sources['tracks']})"
        for name in ("precision", "detected_on"):
            manifest_column = rename_reserved(name)
            is_manifest_column = manifest_column in self._run_columns and manifest_column not in stored
            if name not in stored or is_manifest_column:
                nulls.append(f"NULL::VARCHAR AS {name}")
                new.add(name)
        if nulls or new.intersection(stored):
            # A manifest's column may have one of the new names.
            renamed = [f"{name} AS {rename_reserved(name)}" for name in sorted(new.intersection(stored))]
            columns = f"* RENAME ({', '.join(renamed)})" if renamed else "*"
            sources["videos"] = f"(SELECT {', '.join([columns, *nulls])} FROM {sources['videos']})"
        if has_steps:
            return
        for name, partition in (("tracks", "video_id, track_id"), ("moments", "video_id")):
            sources[name] = f"({add_step_s(sources[name], sources['videos'], partition)})"

    def _read_people(self, videos: str) -> pa.Table:
        """Read the persons of tracks, without those of earlier versions or attempts of a video."""
        people, groups = read_people(self.out), read_person_groups(self.out)
        self.numbers_are_local = False
        if not len(people) and not len(groups):
            return NO_PEOPLE
        self._connection.register("recorded_people", people)
        self._connection.register("recorded_groups", groups)
        attempt = "coalesce(current.attempt, 0)" if "attempt" in self._columns_of(videos) else "0"
        rows = self._connection.sql(f"""
            SELECT video_id, track_id, coalesce(name, 'person ' || number) AS person, number, reason,
                   {IS_NUMBERED} AND NOT across_videos AS is_local
            FROM (SELECT * RENAME (person AS name) FROM recorded_people)
            FULL JOIN recorded_groups USING (video_id, version, attempt, track_id)
            SEMI JOIN (SELECT video_id, version, {attempt} AS attempt FROM {videos} AS current)
            USING (video_id, version, attempt)""").to_arrow_table()
        local = rows.filter(rows.column("is_local").fill_null(False)).column("video_id")
        self.numbers_are_local = len(pc.unique(local)) > 1
        return rows.select(NO_PEOPLE.column_names)

    def _create_table_view(self, name: str, source: str, added: Sequence[str]) -> None:
        """Create the view of one table, with the column `person` and the columns `added` by manifests."""
        own = [column for column in self._columns_of(source) if column not in (*added, "bucket")]
        columns = [f'rows."{column}"' for column in own]
        joins = ""
        if self._connection.sql("SELECT 1 FROM people LIMIT 1").fetchall():
            person_columns = self._columns_of(_PERSONS_SQL[name])
            keys = [key for key in ("video_id", "track_id", "time_s") if key in person_columns]
            same = " AND ".join(f"persons.{key} = rows.{key}" for key in keys)
            joins += f" LEFT JOIN {_PERSONS_SQL[name]} AS persons ON {same}"
            columns.append("persons.person")
        else:
            columns.append("NULL::VARCHAR AS person")
        if name == "videos":
            columns += [f'rows."{column}" AS "{shown}"' for column, shown in _view_names(added).items()]
        elif added:
            columns += [f'videos."{shown}"' for shown in _view_names(added).values()]
            joins += " LEFT JOIN videos ON videos.video_id = rows.video_id"
        self._connection.execute(
            f"CREATE VIEW {name} AS SELECT {', '.join(columns)} FROM {source} AS rows{joins}"
        )

    def _columns_of(self, source: str) -> list[str]:
        return list(self._connection.sql(f"FROM {source}").columns)


def _view_names(added: Sequence[str]) -> dict[str, str]:
    """Map manifest columns to their names in the views: `person` is taken."""
    return {name: "manifest_person" if name == "person" else name for name in added}


def _first_line(error: Exception) -> str:
    """Return DuckDB's message with its suggestions of column and table names, in one line."""
    first, *more = str(error).strip().split("\n")
    hints = [line.strip() for line in more if line.startswith(("Candidate bindings:", "Did you mean"))]
    return " ".join([first, *hints])
