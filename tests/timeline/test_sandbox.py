"""SQL reads only the tables of its run, writes nothing, and has limits of memory, disk and time."""

import os
import shutil
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from fer_batch.errors import QueryError
from fer_batch.timeline.sandbox import limit_resources
from fer_batch.timeline.store import Timeline, open_timeline
from tests.runs import write_run

FILE_FUNCTIONS = (
    "glob",
    "parquet_bloom_probe",
    "parquet_file_metadata",
    "parquet_full_metadata",
    "parquet_kv_metadata",
    "parquet_metadata",
    "parquet_page_index",
    "parquet_scan",
    "parquet_schema",
    "read_blob",
    "read_csv",
    "read_csv_auto",
    "read_duckdb",
    "read_json",
    "read_json_auto",
    "read_json_objects",
    "read_json_objects_auto",
    "read_ndjson",
    "read_ndjson_auto",
    "read_ndjson_objects",
    "read_parquet",
    "read_single_csv_file",
    "read_single_json_file",
    "read_single_parquet_file",
    "read_text",
    "sniff_csv",
)
STATE_CALLS = (
    "add_grammar_extension('x')",
    "arrow_scan(0, 0, 0)",
    "arrow_scan_dumb(0, 0, 0)",
    "checkpoint()",
    "create_external_resource('x', 'y')",
    "deregister_external_resource('x')",
    "destroy_external_resource('x')",
    "disable_logging()",
    "disable_profiling()",
    "duckdb_external_resources()",
    "duckdb_logs()",
    "duckdb_secrets()",
    "duckdb_settings()",
    "duckdb_temporary_files()",
    "duckdb_variables()",
    "enable_logging(storage = 'file')",
    "enable_profiling()",
    "force_checkpoint()",
    "json_execute_serialized_sql(json_serialize_sql('FROM glob(''*'')'))",
    "pandas_scan(0)",
    "pragma_database_size()",
    "pragma_storage_info('tracks')",
    "python_arrow_scan(0, 0, 0)",
    "python_map_function('x')",
    "query('SELECT 1')",
    "query('FROM create_external_resource()')",
    "query_table('tracks')",
    "register_external_resource('x', 'y')",
    "register_external_resource_type('x')",
    "remove_grammar_extension('x')",
    "seq_scan()",
    "truncate_duckdb_logs()",
    "which_secret('s3://bucket', 's3')",
    "function_of_a_later_version()",
)
WRAPPERS = (
    "FROM {}",
    "SELECT * FROM tracks, {}",
    "SELECT * FROM tracks POSITIONAL JOIN {}",
    "SELECT * FROM tracks, LATERAL (FROM {})",
    "SELECT (SELECT count(*) FROM {})",
    "SELECT * FROM tracks WHERE EXISTS (FROM {})",
    "SELECT emotion FROM tracks ORDER BY (SELECT count(*) FROM {})",
    "SELECT emotion FROM tracks LIMIT (SELECT count(*) FROM {})",
    "SELECT list_transform([1], lambda x: (SELECT count(*) FROM {}))",
    "WITH x AS (FROM {}) SELECT 1",
    "WITH x AS MATERIALIZED (FROM {}) FROM x",
    "WITH RECURSIVE x AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM x, {} WHERE n < 2) FROM x",
    "SELECT 1 UNION ALL SELECT 1 FROM {}",
    "SELECT 1 EXCEPT SELECT 1 FROM {}",
    "DESCRIBE FROM {}",
    "SUMMARIZE FROM {}",
    "PIVOT (FROM {}) ON file IN ('a') USING count(*)",
    "UNPIVOT (FROM {}) ON COLUMNS(*)",
    "SELECT 1 AS n QUALIFY row_number() OVER (ORDER BY (SELECT count(*) FROM {})) = 1",
    "VALUES ((SELECT count(*) FROM {}))",
)
SPELLINGS = (
    "glob('*')",
    "GLOB('*')",
    "\"glob\"('*')",
    "\"GLoB\" ('*')",
    "glob/* comment */('*')",
    "glob -- comment\n('*')",
    "system.main.glob('*')",
    "system.glob('*')",
    "main.glob('*')",
    "glob('*') AS range(n)",
    "glob('*') WITH ORDINALITY",
    "glob($$*$$)",
    "glob(chr(42))",
)
EMBEDDED_WRITES = (
    "COPY tracks TO '{place}'",
    "COPY (SELECT 1) TO '{place}' (FORMAT csv)",
    "COPY (SELECT 1) TO '{place}' (FORMAT parquet)",
    "COPY (SELECT 1 AS a) TO '{place}' (PARTITION_BY a)",
    "INSERT INTO people SELECT * FROM people RETURNING person",
    "INSERT INTO tracks SELECT * FROM tracks RETURNING emotion",
    "UPDATE people SET person = 'x' RETURNING person",
    "DELETE FROM people RETURNING person",
    "DELETE FROM tracks RETURNING emotion",
)
PLACES = ("copy", ".tmp/copy", "/dev/full", "{spill}/copy", "{table}")
STATEMENTS = (
    "ALTER DATABASE memory SET ALIAS TO x",
    "ANALYZE",
    "ATTACH ':memory:' AS x",
    "ATTACH 'near.csv' (READ_ONLY)",
    "BEGIN TRANSACTION",
    "CALL checkpoint()",
    "CALL create_external_resource('x', 'y')",
    "CALL enable_logging()",
    "COMMENT ON VIEW tracks IS 'x'",
    "COMMIT",
    "COPY FROM DATABASE memory TO x",
    "COPY people FROM 'near.csv'",
    "CREATE FUNCTION f(x) AS x",
    "CREATE INDEX i ON people (person)",
    "CREATE MACRO range(x) AS TABLE FROM glob('*')",
    "CREATE PERSISTENT SECRET s (TYPE s3)",
    "CREATE SCHEMA s",
    "CREATE SEQUENCE s",
    "CREATE TYPE t AS ENUM ('a')",
    "DEALLOCATE p",
    "DETACH memory",
    "DROP SECRET s",
    "EXECUTE p",
    "EXPLAIN ANALYZE SELECT 1",
    "EXPLAIN SELECT 1",
    "FORCE CHECKPOINT",
    "FORCE INSTALL httpfs",
    "IMPORT DATABASE 'x'",
    "INSTALL httpfs FROM 'https://example.com'",
    "LOAD '/tmp/x.duckdb_extension'",
    "MERGE INTO people USING people AS p ON true WHEN MATCHED THEN DELETE",
    "PIVOT tracks ON emotion USING count(*)",
    "PRAGMA add_parquet_key('k', '0123456789112345')",
    "PRAGMA import_database('x')",
    "PRAGMA threads = 1",
    "RESET max_execution_time",
    "ROLLBACK",
    "SET GLOBAL temp_directory = '/'",
    "SET SESSION max_execution_time = 0",
    "SET allowed_directories = ['/']",
    "SET allowed_paths = ['/etc/passwd']",
    "SET file_search_path = '/etc'",
    "SET home_directory = '/'",
    "SET log_query_path = 'x'",
    "SET max_temp_directory_size = '1TB'",
    "SET memory_limit = '1TB'",
    "SET profiling_output = 'x'",
    "SET search_path = 'system'",
    "SET secret_directory = '/'",
    "SET temp_directory = '/etc'",
    "TRUNCATE people",
    "UPDATE EXTENSIONS",
    "USE system",
    "VACUUM",
    "SELECT 1 INTO x",
    "SELECT write_log('x')",
    "SELECT 'x'.write_log()",
    "SELECT \"Write_Log\"('x')",
    "SELECT system.main.write_log('x')",
    "SELECT list_transform(['x'], lambda x: write_log(x))",
    "SELECT emotion FROM tracks ORDER BY write_log(emotion)",
    "SELECT sleep_ms(1)",
    "SELECT setval('s', 1)",
    "SELECT __internal_json_copy_to_json('x')",
    "SELECT emotion.write_log() FROM tracks",
    "SELECT getvariable('x')::INT, checkpoint()",
    "FROM 'near.csv'",
    "FROM './near.csv'",
    'FROM "near.csv"',
    "FROM '*.csv'",
    "FROM 'file:near.csv'",
    "FROM 'file:///etc/passwd'",
    "FROM '/proc/self/environ'",
    "FROM 's3://bucket/x.parquet'",
    "FROM 'https://example.com/x.csv'",
    "FROM '.tmp/kept.csv'",
    "FROM '.tmp/../near.csv'",
    "FROM '{spill}/x.csv'",
    "FROM '{run}/run.json'",
    "FROM '{run}/people.parquet'",
    "FROM '{run}/tracks/**/*.parquet'",
    "DESCRIBE 'near.csv'",
    "SUMMARIZE 'near.csv'",
    "SHOW 'near.csv'",
    "TABLE 'near.csv'",
    "SELECT * FROM x.y.z",
    "SELECT '\udcff'",
    "SELECT '\ud800' FROM tracks",
    "SELECT 1 \0 FROM glob('*')",
    "SELECT " + "(" * 3000 + "1" + ")" * 3000,
    "SELECT 1" + "+1" * 3000,
    "FROM " + "(FROM " * 3000 + "tracks" + ")" * 3000,
    "SELECT 1 FROM tracks t0" + "".join(f", tracks t{number}" for number in range(3000)),
)
HOSTILE = [
    *(f"FROM {name}({path!r})" for name in FILE_FUNCTIONS for path in ("/etc/passwd", ".tmp/kept.csv")),
    *(f"FROM {call}" for call in STATE_CALLS),
    *(wrapper.format("glob('*')") for wrapper in WRAPPERS),
    *(f"SELECT * FROM {spelling}" for spelling in SPELLINGS),
    *(f"WITH x AS ({text.replace('{place}', p)}) FROM x" for text in EMBEDDED_WRITES[:4] for p in PLACES),
    *(f"WITH x AS ({text}) FROM x" for text in EMBEDDED_WRITES[4:]),
    *(f"SELECT (WITH x AS ({text.replace('{place}', 'copy')}) SELECT 1 FROM x)" for text in EMBEDDED_WRITES),
    *STATEMENTS,
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with files that SQL must not read."""
    folder, before = tmp_path_factory.mktemp("place"), Path.cwd()
    (folder / "near.csv").write_text("a\n1\n")
    (folder / ".tmp").mkdir()
    (folder / ".tmp" / "kept.csv").write_text("a\n1\n")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(scope="module")
def timeline(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Timeline:
    out = write_run(tmp_path_factory.mktemp("run") / "run", {"/a.mp4": [["happy", "sad"]]})
    return open_timeline(out)


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def complete(timeline: Timeline, query: str) -> str:
    """Fill in the places of a statement that depend on the run."""
    for name, path in find_places(timeline).items():
        query = query.replace(f"{{{name}}}", path)
    return query


def find_places(timeline: Timeline) -> dict[str, str]:
    ((spill,),) = timeline.sql("SELECT current_setting('temp_directory')").fetchall()
    table = next(Path(str(timeline.out)).glob("tracks/*/*.parquet"))
    return {"spill": spill, "run": str(timeline.out), "table": str(table)}


@pytest.mark.parametrize("query", HOSTILE, ids=lambda query: ascii(query[:60]))
def test_hostile_statements_are_refused_and_change_nothing(
    query: str, timeline: Timeline, place: Path
) -> None:
    before = read_files(place) | read_files(Path(str(timeline.out)))
    with pytest.raises(QueryError):
        timeline.sql(complete(timeline, query))
    assert read_files(place) | read_files(Path(str(timeline.out))) == before
    assert timeline.sql("SELECT count(*) FROM tracks").fetchall() == [(2,)]


@pytest.mark.parametrize("name", FILE_FUNCTIONS)
@pytest.mark.parametrize("path", ["/etc/passwd", "near.csv", ".tmp/kept.csv", "{run}/run.json"])
def test_duckdb_reads_no_files_either(name: str, path: str, timeline: Timeline, place: Path) -> None:
    """The settings of the connection hold without the check of statements."""
    with pytest.raises(duckdb.Error):
        timeline.run_trusted(complete(timeline, f"FROM {name}('{path}')")).fetchall()


@pytest.mark.parametrize(
    "query",
    [
        "FROM range(3)",
        "SELECT range(3), unnest([1, 2])",
        "SELECT * FROM tracks, unnest([1, 2]) AS u(x)",
        "SELECT * FROM generate_series(1, 3) WITH ORDINALITY",
        "FROM repeat(1, 2)",
        "FROM json_each('{\"a\": 1}')",
        "FROM histogram(tracks, time_s)",
        "SELECT repeat('a', 3), query FROM (SELECT 'checkpoint()' AS query)",
        "SELECT 'FROM glob(''*'')' AS query -- write_log()",
        "PIVOT tracks ON emotion IN ('happy', 'sad') USING count(*)",
        "UNPIVOT tracks ON p_happy, p_sad",
        "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 3) FROM t",
        "SUMMARIZE tracks",
        "DESCRIBE SELECT emotion FROM tracks",
        "SHOW TABLES",
        "SELECT random(), uuid(), current_setting('threads')",
        "SELECT * FROM information_schema.columns",
    ],
)
def test_queries_that_only_compute_are_allowed(query: str, timeline: Timeline) -> None:
    assert timeline.sql(query).fetchall()


def test_every_function_with_effects_is_known() -> None:
    """A later DuckDB may add functions that do more than compute."""
    rows = duckdb.connect().execute(
        "SELECT DISTINCT function_name FROM duckdb_functions() "
        "WHERE function_type = 'scalar' AND (stability = 'VOLATILE' OR has_side_effects)"
    )
    harmless = {"currval", "error", "gen_random_uuid", "nextval", "random", "setseed", "stats", "uuid"}
    harmless |= {"uuidv4", "uuidv7", "vector_type"} | {
        f"current_{name}" for name in ("connection_id", "query", "query_id", "transaction_id")
    }
    assert {name for (name,) in rows.fetchall()} - harmless <= {"setval", "sleep_ms", "write_log"}


def test_spilled_data_is_private_and_bounded(place: Path) -> None:
    connection = duckdb.connect()
    limit_resources(connection)
    settings = dict(connection.execute("SELECT name, value FROM duckdb_settings()").fetchall())
    folder = Path(settings["temp_directory"])
    assert not folder.is_relative_to(place)
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    assert settings["max_temp_directory_size"] != "90% of available disk space"
    connection.execute("SET memory_limit = '60MB'")
    connection.execute("SET max_temp_directory_size = '20MB'")
    with pytest.raises(duckdb.OutOfMemoryException, match="max_temp_directory_size"):
        connection.sql("SELECT range, hash(range) AS h FROM range(10_000_000) ORDER BY h").fetchall()
    assert folder.is_dir()
    assert sorted(path.name for path in place.rglob("*")) == [".tmp", "kept.csv", "near.csv"]


def test_deleted_folder_of_spilled_data_is_made_again(timeline: Timeline) -> None:
    shutil.rmtree(Path(find_places(timeline)["spill"]).parent)
    limit_resources(connection := duckdb.connect())
    ((folder,),) = connection.execute("SELECT current_setting('temp_directory')").fetchall()
    assert stat.S_IMODE(Path(folder).parent.stat().st_mode) == 0o700


def test_memory_is_at_most_half_of_the_machine(timeline: Timeline) -> None:
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    ((limit_bytes,),) = timeline.sql(
        "SELECT parse_formatted_bytes(current_setting('memory_limit'))"
    ).fetchall()
    assert 0 < limit_bytes <= 0.51 * total_bytes


@pytest.mark.parametrize(
    "query", ["SELECT count(*) FROM range(3e9::BIGINT) a, range(3e9::BIGINT) b", "FROM range(3e9::BIGINT)"]
)
def test_query_stops_at_its_timeout(query: str, timeline: Timeline) -> None:
    began = time.monotonic()
    relation = open_timeline(timeline.out, timeout_s=0.2).sql(query)
    with pytest.raises((duckdb.InterruptException, OSError), match="maximum execution time"):
        for _ in relation.to_arrow_reader(100_000):
            pass
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf")])
def test_timeout_must_be_positive(timeout_s: float, timeline: Timeline) -> None:
    with pytest.raises(QueryError, match="timeout_s must be above 0"):
        open_timeline(timeline.out, timeout_s=timeout_s)
