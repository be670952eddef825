"""`query`."""

import argparse
from typing import Any

from fer_batch.cli.answer import add_answer_options, check_answer_options, give_answer
from fer_batch.storage.folder import open_folder

EXAMPLES = """\
examples:
  fer-batch query results "SELECT emotion, count(*) FROM tracks GROUP BY 1"
  fer-batch query results "SELECT uri, status, error FROM videos WHERE status <> 'ok'"
  fer-batch query results "SELECT time_s, emotion FROM tracks WHERE track_id = 0 ORDER BY 1" --format csv
  fer-batch query results "SELECT * FROM tracks" --format parquet --output all.parquet

tables: tracks (a face at a moment), moments (a moment looked at), videos (an input and how it ended),
episodes (runs of one emotion of a face), summary (a row a video, with mean probabilities). The SQL is
DuckDB's; it reads these tables and nothing else, and writes nothing."""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "query",
        help="ask the timeline in SQL",
        description="Ask the tables of an analyzed archive in SQL.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=open_folder, metavar="OUT", help="output folder of `analyze`")
    parser.add_argument("sql", metavar="SQL", help="one SELECT statement")
    add_answer_options(parser)
    parser.set_defaults(run=run_query, parser=parser)


def run_query(options: argparse.Namespace) -> int:
    """Run the command `query`."""
    from fer_batch.timeline.store import open_timeline

    check_answer_options(options)
    give_answer(open_timeline(options.out).sql(options.sql), options)
    return 0
