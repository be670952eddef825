"""Helpers of the tests of queries."""

from typing import Any

import duckdb
import pandas as pd
from hypothesis import strategies as st

from fer_batch.schema import EMOTIONS, probability_column
from fer_batch.timeline.store import Timeline

COLUMNS = [probability_column(name) for name in EMOTIONS]
STEP_S = 0.2
WINDOWS_S = st.one_of(st.sampled_from([0.1, 0.4, 1.0, 1e9]), st.floats(0.01, 20))


def select(result: duckdb.DuckDBPyRelation, *columns: str) -> list[tuple[Any, ...]]:
    """Return these columns of a query's rows, with numbers rounded to four places."""
    rows = result.df()[list(columns)].itertuples(index=False)
    return [tuple(round(v, 4) if isinstance(v, float) else v for v in row) for row in rows]


def list_tracks(timeline: Timeline) -> list[pd.DataFrame]:
    """Return the rows of each track, in order of uri and track."""
    return [track for _, track in timeline.to_pandas().groupby(["uri", "track_id"])]


def assert_same_rows(actual: pd.DataFrame, expected: pd.DataFrame) -> None:
    """Assert that rows, their order and values agree; numbers up to 1e-9."""
    expected = expected[list(actual.columns)].reset_index(drop=True)
    pd.testing.assert_frame_equal(actual, expected, check_dtype=False, rtol=0, atol=1e-9)
