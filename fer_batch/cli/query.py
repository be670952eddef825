"""Command `query`."""

import re

from fer_batch.cli.answer import AnswerOptions
from fer_batch.cli.app import QUERY, add_command
from fer_batch.cli.arguments import QualityOptions, RunFolder


@add_command(QUERY)
def query_command(out: RunFolder, sql: str, /, *, quality: QualityOptions, answer: AnswerOptions) -> None:
    """Query the tables of a run in SQL.

    The tables are: `tracks` (a row per face and sampled frame), `moments` (a row per sampled frame), `videos`
    (a row per input, with its status), `episodes` (runs of one emotion of a face), `summary` (a row per
    video, with mean probabilities) and `people` (the person of each track). The dialect is DuckDB's. A query
    can read these tables only, and cannot write. The options of confidence and quality select the faces of
    `tracks`, and so of `episodes` and `summary`. The counts of `moments` and `videos` stay those of all
    faces.

    Args:
        sql: One SELECT statement.

    Examples:
      fer-batch query results "SELECT emotion, count(*) FROM tracks GROUP BY 1"
      fer-batch query results "SELECT uri, status, error FROM videos WHERE status <> 'ok'"
      fer-batch query results "SELECT time_s, emotion FROM tracks WHERE track_id = 0" --format csv
      fer-batch query results "SELECT * FROM tracks" -o all.parquet --timeout 3600
    """
    format = answer.resolve_format(out)
    with answer.open_timeline(out) as timeline:
        named = set(re.findall(r"\w+", sql))
        answer.write(timeline.filter_faces(**vars(quality)).sql(sql), format, keep=named)
