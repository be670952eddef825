"""Test the table of a query's result in terminals of different widths."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from fer_batch.cli.output import print_table
from fer_batch.cli.result_table import format_result
from tests.runs import write_tables
from tests.timeline.videos import VIDEOS

EPISODES = pa.table(
    {
        "video_id": ["1", "2"],
        "uri": ["/a/talk.mp4", "/a/shop.mp4"],
        "track_id": [0, 12345],
        "person": pa.array([None, None], pa.string()),
        "start_s": [0.2, 7201.4],
        "peak": [0.98765, 0.5],
    }
)


def test_empty_result_has_its_headings() -> None:
    assert format_result(EPISODES.slice(0, 0)).split()[:5] == ["uri", "track_id", "person", "start_s", "peak"]


@pytest.mark.parametrize("content", [{"uri": [1, None]}, {"uri": [[1.5], []]}, {"a": [None], "b": [None]}])
def test_any_table_has_its_headings(content: dict[str, list[object]]) -> None:
    assert format_result(pa.table(content), 60).split("\n")[0].split() == list(content)


def test_table_has_short_names_and_rounded_numbers() -> None:
    assert format_result(EPISODES, 80).split("\n") == [
        "uri       track_id  start_s   peak",
        "────────  ────────  ───────  ─────",
        "talk.mp4         0      0.2  0.988",
        "shop.mp4     12345   7201.4  0.500",
        "",
    ]


def test_wide_table_has_everything() -> None:
    text = format_result(EPISODES, 20, wide=True)
    assert "/a/talk.mp4" in text
    assert "person" in text
    assert "video_id" in text
    assert "0.98765" in text


def test_named_columns_stay() -> None:
    text = format_result(EPISODES, keep=["video_id", "person"])
    assert text.split()[:4] == ["video_id", "uri", "track_id", "person"]
    assert format_result(pa.table({"person": pa.nulls(1)})).split()[0] == "person"


def test_equal_file_names_have_their_folders() -> None:
    uris = ["/a/x/talk.mp4", "/b/x/talk.mp4", "/b/shop.mp4", "/b/shop.mp4", None]
    lines = format_result(pa.table({"uri": uris, "n": range(5)})).split("\n")[2:]
    assert [line[:-1].strip() for line in lines[:5]] == [
        "a/x/talk.mp4",
        "b/x/talk.mp4",
        *2 * ["shop.mp4"],
        "",
    ]


def test_last_line_names_columns_that_do_not_fit() -> None:
    table = pa.table({f"number_{k}": [10**9 + k] for k in range(9)})
    text = format_result(table, 60)
    assert "1000000004" in text
    assert "1000000005" not in text
    assert " ".join(text.split("\n")[-3:]).strip() == (
        "Not in 60 characters: number_5, number_6, number_7, number_8. --wide shows all columns."
    )


@pytest.mark.parametrize("width", [60, 80, 120])
@given(
    texts=st.lists(st.text(max_size=90), min_size=1, max_size=3),
    numbers=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=9),
)
def test_lines_fit_and_numbers_are_whole(width: int, texts: list[str], numbers: list[int]) -> None:
    """The first three columns fit in any case: at most 21 characters for a number, 12 for a text."""
    columns = {f"number_{k}": [number] for k, number in enumerate(numbers)}
    table = pa.table({"first": [numbers[0]], "text": [texts[0]], **columns})
    text = format_result(table, width)
    assert all(cell_len(line) <= width for line in text.split("\n"))
    assert str(numbers[0]) in text
    shown = [name for name in columns if name not in text.partition("Not in")[2]]
    assert all(str(columns[name][0]) in text for name in shown)


def test_other_tables_never_cut_a_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    print_table(
        ["class", "recall"], [["a name of several words", f"0.{k * 11111} (0.1 to 0.2)"] for k in range(1, 9)]
    )
    text = re.sub("\x1b.*?m", "", capsys.readouterr().out)
    assert all(f"0.{k * 11111} (0.1 to 0.2)" in text for k in range(1, 9))
    assert max(map(len, text.split("\n"))) <= 40


@pytest.mark.parametrize("width", [60, 80, 120])
def test_terminal_shows_a_table_that_fits(tmp_path: Path, width: int) -> None:
    out = write_tables(tmp_path / "out", VIDEOS)
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "fer_batch.cli.main", "ask", "episodes", str(out)]
    with subprocess.Popen(command, stdout=follower, env=environment) as process:
        os.close(follower)
        content = b""
        while True:
            try:
                part = os.read(leader, 4096)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            content += part
    os.close(leader)
    assert process.returncode == 0
    lines = content.decode().replace("\r\n", "\n").split("\n")
    assert all(len(line) <= width for line in lines)
    assert "talk.mp4         1  sad" in "\n".join(lines)
    assert ("mean" in lines[0] + lines[1]) == (width >= 80)
