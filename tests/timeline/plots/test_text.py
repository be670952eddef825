"""Ribbons as text."""

import pandas as pd
import pytest

from fer_batch.timeline.plots.text import format_ribbons

Row = tuple[int, float, str]


def frame(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["track_id", "time_s", "emotion"])


@pytest.mark.parametrize(
    ("rows", "width", "lines"),
    [
        ([], 60, []),
        ([(0, 0.0, "happy")], 4, ["track 0  hap"]),
        ([(0, 0.0, "happy")], 1, ["track 0  hap"]),
        ([(0, 0.0, "happy")], 12, ["track 0  hap  ·   · "]),
        ([(3, 0.0, "happy"), (3, 1.0, "sad")], 8, ["track 3  hap sad"]),
        ([(0, 0.0, "sad"), (0, 0.2, "happy"), (0, 0.4, "happy")], 4, ["track 0  hap"]),
        ([(0, 0.0, "sad"), (0, 0.2, "happy")], 4, ["track 0  hap"]),
        ([(0, 0.0, "happy"), (1, 1.0, "neutral")], 8, ["track 0  hap  · ", "track 1   ·  neu"]),
        ([(1, 1.0, "fear"), (0, 0.0, "fear")], 4, ["track 0  fea", "track 1  fea"]),
        ([(0, 2.0, "fear"), (0, 0.0, "disgust"), (0, 1.0, "angry")], 12, ["track 0  dis ang fea"]),
    ],
)
def test_format_ribbons(rows: list[Row], width: int, lines: list[str]) -> None:
    assert format_ribbons(frame(rows), width) == lines


@pytest.mark.parametrize("width", [4, 60, 72, 200])
def test_lines_have_the_given_width(width: int) -> None:
    rows = [(track, 0.2 * k, "surprise") for track in range(3) for k in range(5 * track, 50)]
    lines = format_ribbons(frame(rows), width)
    assert len(lines) == 3
    assert {len(line) for line in lines} == {len("track 0  ") + width - 1}
