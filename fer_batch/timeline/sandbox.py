"""Limits of SQL: the statements and functions that it may use, and its memory, disk and time."""

import atexit
import functools
import itertools
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb

from fer_batch.errors import QueryError
from fer_batch.private_folders import create_private_folder, delete_private_folders

MEMORY_SHARE = 0.5
"""Share of this machine's (or container's) memory that DuckDB may use before it spills to disk."""
MAX_MEMORY_BYTES = 16 << 30
MAX_SPILL_BYTES = 64 << 30
"""Most bytes that a query may spill to a temporary folder. Half of the free space there is a limit, too."""
QUERY_TIMEOUT_S = 600.0
"""Default limit of a query's time, in seconds."""

_DUCKDB_DEFAULT_SHARE = 0.8
_QUERY_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
"""The parts of a statement that only read. Others, like `COPY_QUERY_NODE`, may hide in a WITH clause."""
_TABLE_FUNCTIONS = {
    "generate_series",
    "histogram",
    "histogram_values",
    "json_each",
    "json_tree",
    "range",
    "repeat",
    "repeat_row",
    "unnest",
}
"""Table functions that compute from their arguments only. Others read files or memory, or change settings."""
_FORBIDDEN_FUNCTIONS = {"setval", "sleep_ms", "write_log"}
"""Scalar functions that change something, or that DuckDB cannot interrupt."""
_folder_numbers = itertools.count()


def limit_resources(connection: duckdb.DuckDBPyConnection) -> None:
    """Limit the memory and the temporary disk space of a connection's queries."""
    (default_bytes,) = connection.execute(
        "SELECT parse_formatted_bytes(current_setting('memory_limit'))"
    ).fetchall()[0]
    memory_bytes = min(int(default_bytes * MEMORY_SHARE / _DUCKDB_DEFAULT_SHARE), MAX_MEMORY_BYTES)
    folder = _make_spill_folder()
    if not folder.is_dir():  # programs that clean /tmp delete folders that were not used for days
        _make_spill_folder.cache_clear()
        folder = _make_spill_folder()
    spill_bytes = min(shutil.disk_usage(folder).free // 2, MAX_SPILL_BYTES)
    connection.execute(f"SET memory_limit = '{memory_bytes}B'")
    connection.execute("SET temp_directory = $folder", {"folder": f"{folder}/{next(_folder_numbers)}"})
    connection.execute(f"SET max_temp_directory_size = '{spill_bytes}B'")


def lock_settings(connection: duckdb.DuckDBPyConnection, timeout_s: float) -> None:
    """Limit the time of queries, forbid files, variables, extensions and secrets, and lock all settings."""
    for setting in (
        f"max_execution_time = {max(round(timeout_s * 1000), 1)}",
        "enable_progress_bar = false",  # it would print to stdout, amid a result
        "python_enable_replacements = false",
        "autoinstall_known_extensions = false",
        "autoload_known_extensions = false",
        "allow_persistent_secrets = false",
        "enable_external_access = false",  # allowed_paths cannot change after this
        "lock_configuration = true",
    ):
        connection.execute(f"SET {setting}")


def check_statement(parser: duckdb.DuckDBPyConnection, query: str, tables: str) -> None:
    """Raise QueryError unless `query` is one statement that only reads, with functions that only compute.

    `tables` names the tables of a message. `parser` is a connection without unfinished results.
    """
    problem = f"A query must be one SELECT statement over {tables}"
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise QueryError(f"The query is not valid Unicode: {error.reason}") from error
    count = len(parser.extract_statements(query))
    if count != 1:
        raise QueryError(f"{problem}; this has {count} statements")
    ((text,),) = parser.execute("SELECT json_serialize_sql($1::VARCHAR)", [query]).fetchall()
    try:
        tree = json.loads(text)
    except RecursionError as error:
        raise QueryError("The query is nested too deeply") from error
    if tree["error"]:  # DuckDB serializes nothing but SELECT
        raise QueryError(f"{problem}; it writes")
    for part in _iterate_objects(tree):
        kind, name = str(part.get("type", "")), str(part.get("function_name", "")).lower()
        if kind.endswith("_NODE") and kind not in _QUERY_NODES:
            raise QueryError(f"{problem}; it writes")
        if kind == "TABLE_FUNCTION":
            called = str(part["function"].get("function_name", "")).lower()
            if called not in _TABLE_FUNCTIONS:
                allowed = ", ".join(sorted(_TABLE_FUNCTIONS))
                raise QueryError(f"The function {called} is not allowed after FROM; allowed are {allowed}")
        if name in _FORBIDDEN_FUNCTIONS or name.startswith("__"):
            raise QueryError(f"The function {name} is not allowed in a query")


def _iterate_objects(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects of parsed JSON, without recursion."""
    pending = [tree]
    while pending:
        value = pending.pop()
        if type(value) is dict:
            yield value
            pending.extend(child for child in value.values() if type(child) in (dict, list))
        else:
            pending.extend(child for child in value if type(child) in (dict, list))


@functools.cache
def _make_spill_folder() -> Path:
    """Make this process's folder for spilled data, which only its user can enter.

    SQL can read DuckDB's temporary directory, so it must not hold other files. By default it is `.tmp` in the
    working directory.
    """
    atexit.register(delete_private_folders)
    return create_private_folder("fer_batch-sql-", Path(tempfile.gettempdir()))
