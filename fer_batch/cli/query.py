"""`query`."""

import argparse
import sys
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  fer-batch query results "SELECT emotion, count(*) FROM tracks GROUP BY 1"
  fer-batch query results "SELECT uri, status, error FROM videos WHERE status <> 'ok'"
  fer-batch query results "SELECT time_s, emotion FROM tracks WHERE track_id = 0 ORDER BY 1" --format csv
  fer-batch query results "SELECT * FROM tracks" --format parquet --output all.parquet

tables: tracks (a face at a moment), moments (a moment looked at), videos (an input and how it ended).
The SQL is DuckDB's; it reads these tables and nothing else, and writes nothing."""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "query",
        help="ask the timeline in SQL",
        description="Ask the tables of an analyzed archive in SQL.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, metavar="OUT", help="output folder of `analyze`")
    parser.add_argument("sql", metavar="SQL", help="one SELECT statement")
    parser.add_argument(
        "--format", choices=("table", "csv", "json", "parquet"), default="table", help="default: table"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead of to the terminal")
    parser.set_defaults(run=run_query)


def run_query(options: argparse.Namespace) -> int:
    """Run the command `query`."""
    import duckdb
    import pyarrow.parquet as pq

    from fer_batch.errors import OutputError, QueryError
    from fer_batch.timeline.store import open_timeline

    if options.format == "parquet" and options.output is None and sys.stdout.isatty():
        raise OutputError("parquet is not for a terminal; give --output FILE")
    relation = open_timeline(options.out).sql(options.sql)
    try:
        answer = relation.to_arrow_table()
    except duckdb.Error as error:
        raise QueryError(str(error).strip().split("\n")[0]) from error
    if options.output:
        try:
            sink = options.output.open("wb")
        except OSError as error:
            raise OutputError(f"--output {options.output} can't be written: {error.strerror}") from error
    else:
        sink = sys.stdout.buffer
    with sink if options.output else _left_open(sink):
        if options.format == "parquet":
            pq.write_table(answer, sink)
        elif options.format == "csv":
            sink.write(answer.to_pandas().to_csv(index=False).encode())
        elif options.format == "json":
            sink.write(
                answer.to_pandas().to_json(orient="records", force_ascii=False, indent=1).encode() + b"\n"
            )
        else:
            _print_table(answer, sink)
        sink.flush()
    return 0


def _print_table(answer: Any, sink: Any) -> None:
    import io

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    limit = 1000
    table = Table()
    for field in answer.schema:
        number = str(field.type).startswith(("int", "uint", "float", "double", "decimal"))
        table.add_column(Text(field.name), justify="right" if number else "left")
    for row in answer.slice(0, limit).to_pylist():
        table.add_row(
            *(Text(f"{v:.4g}" if isinstance(v, float) else "" if v is None else str(v)) for v in row.values())
        )
    text = io.StringIO()
    width = None if sys.stdout.isatty() else 200
    Console(file=text, width=width, highlight=False).print(table)
    sink.write(text.getvalue().encode())
    if len(answer) > limit:
        sink.write(f"{limit} of {len(answer)} rows; --format csv, json or parquet gives all\n".encode())


class _left_open:  # noqa: N801
    """A sink that is not ours to close."""

    def __init__(self, sink: Any) -> None:
        self.sink = sink

    def __enter__(self) -> Any:
        return self.sink

    def __exit__(self, *error: object) -> None:
        pass
