"""Test `fer-batch query`."""

import csv
import io
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from fer_batch.cli.main import main
from fer_batch.run.snapshot import TABLES
from tests.cli.conftest import ReadError
from tests.timeline.test_store import OFF, VIDEOS, write_run

FORMATS = ("table", "tsv", "csv", "json", "parquet")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("query") / "run", VIDEOS)


def query(*words: object) -> int:
    return main(["query", *map(str, words)])


def answer(
    capsys: pytest.CaptureFixture[bytes], finished: Path, question: str, form: str, *words: object
) -> bytes:
    """Return the output of a query that prints nothing else."""
    assert query(finished, question, "--format", form, *words) == 0
    streams = capsys.readouterr()
    assert streams.err == b""
    return streams.out


def parsed(content: bytes, form: str) -> list[dict[str, Any]]:
    """Parse the rows of a result; CSV gives text."""
    if form == "parquet":
        return pq.read_table(io.BytesIO(content)).to_pylist()
    if form == "json":
        return json.loads(content)
    return list(csv.DictReader(io.StringIO(content.decode()), delimiter="\t" if form == "tsv" else ","))


@pytest.mark.parametrize("form", FORMATS)
def test_empty_result_is_written(
    form: str, finished: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = answer(capsysbinary, finished, "SELECT uri, time_s FROM tracks WHERE false", form)
    if form == "table":
        assert b"uri" in text
    elif form in ("csv", "tsv"):
        assert text.decode().splitlines() == ["uri,time_s" if form == "csv" else "uri\ttime_s"]
    else:
        assert parsed(text, form) == []


@pytest.mark.parametrize("form", FORMATS[1:])
def test_result_keeps_names_and_types(
    form: str, finished: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    question = f"SELECT uri, count(*) AS n, max(time_s) AS last FROM tracks WHERE uri = '{OFF}' GROUP BY 1"
    row = {"uri": OFF, "n": 5, "last": 0.4}
    wanted = {name: str(value) for name, value in row.items()} if form in ("csv", "tsv") else row
    assert parsed(answer(capsysbinary, finished, question, form), form) == [wanted]


def test_table_has_names_and_rows(finished: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    question = "SELECT uri, status FROM videos ORDER BY uri"
    text = answer(capsysbinary, finished, question, "table")
    assert all(word in text.decode() for word in (*(uri.rpartition("/")[2] for uri in VIDEOS), "status"))


def test_piped_result_is_complete(finished: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    question = "SELECT video_id, uri, NULL AS nothing, 0.123456789::DOUBLE AS f, 'a\tb\nc' AS t FROM videos"
    assert query(finished, question) == 0
    rows = parsed(capsysbinary.readouterr().out, "tsv")
    assert {row["uri"] for row in rows} == set(VIDEOS)
    assert all(len(row["video_id"]) == 16 for row in rows)
    assert {(row["nothing"], row["f"], row["t"]) for row in rows} == {("", "0.123456789", r"a\tb\nc")}


@pytest.mark.parametrize(
    ("question", "shown"),
    [
        ("SELECT '[bold]a[/bold]' AS \"[red]b\"", ["[red]b", "[bold]a[/bold]"]),
        ("SELECT 7 AS a, 8 AS a", ["a", "a_1", "7", "8"]),
    ],
    ids=["markup is text", "equal names"],
)
def test_table_shows_every_cell(
    question: str, shown: list[str], finished: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = answer(capsysbinary, finished, question, "table").decode()
    places = [text.index(word) for word in shown]
    assert places == sorted(places)


def test_long_table_reports_the_number_of_rows(
    finished: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    question = "SELECT t.range AS n FROM range(1234) t"
    text = answer(capsysbinary, finished, question, "table").decode()
    assert "The first 1000 rows" in text
    assert "1233" not in text
    assert len(parsed(answer(capsysbinary, finished, question, "csv"), "csv")) == 1234


@pytest.mark.parametrize(
    ("form", "widths"),
    [("csv", ["", "640"]), ("tsv", ["", "640"]), ("json", [None, 640]), ("parquet", [None, 640])],
)
def test_integers_stay_integers_beside_nulls(
    form: str, widths: list[Any], finished: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    question = "SELECT uri, width FROM videos WHERE status <> 'ok' ORDER BY uri"
    text = answer(capsysbinary, finished, question, form)
    assert [row["width"] for row in parsed(text, form)] == widths
    assert b"640.0" not in text


@pytest.mark.parametrize("form", FORMATS[1:])
def test_numbers_keep_all_digits(
    form: str, finished: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    question = "SELECT 0.12345678901234567::DOUBLE AS f, 9007199254740993 AS big"
    (row,) = parsed(answer(capsysbinary, finished, question, form), form)
    assert float(row["f"]) == 0.12345678901234567
    assert int(row["big"]) == 9007199254740993


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "question",
    [
        "SELECT 1 AS a, 2 AS a",
        "SELECT * FROM tracks JOIN videos ON tracks.video_id = videos.video_id",
        "SELECT [1, 2] AS l, {'a': 1} AS s, map {'k': 1} AS m",
        "SELECT DATE '2020-01-02' AS d, TIMESTAMP '2020-01-02 03:04:05' AS ts, TIME '01:02:03' AS t",
        "SELECT 1.50::DECIMAL(5, 2) AS dc, true AS b, NULL AS n, 'é,\"x\"' AS q, 'NaN'::DOUBLE AS nan",
        "SUMMARIZE tracks",
        *[f"DESCRIBE {table}" for table in TABLES],
    ],
)
def test_every_result_is_written_in_every_format(
    form: str, question: str, finished: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    assert answer(capsysbinary, finished, question, form)


@pytest.mark.parametrize("form", FORMATS)
def test_output_file_equals_printed_result(
    form: str, finished: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    question = "SELECT uri, track_id, time_s, emotion FROM tracks ORDER BY ALL"
    shown = answer(capsysbinary, finished, question, form)
    assert answer(capsysbinary, finished, question, form, "--output", tmp_path / "answer") == b""
    assert (tmp_path / "answer").read_bytes() == shown
    assert [p.name for p in tmp_path.iterdir()] == ["answer"]


def test_pandas_reads_the_same_rows_from_every_format(
    finished: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    question = "SELECT uri, track_id, time_s, frame_index, emotion FROM tracks ORDER BY ALL"
    for form in ("csv", "json", "parquet"):
        answer(capsysbinary, finished, question, form, "--output", tmp_path / form)
    frames = [
        pd.read_csv(tmp_path / "csv"),
        pd.read_json(tmp_path / "json"),
        pd.read_parquet(tmp_path / "parquet"),
    ]
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0], check_dtype=False)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("", "one SELECT"),
        ("DROP VIEW tracks", "one SELECT"),
        ("COPY tracks TO 'answer'", "one SELECT"),
        ("SELECT 1; SELECT 2", "one SELECT"),
        ("SELECT * FROM read_csv('/etc/passwd')", "read_csv is not allowed"),
        ("SELECT * FROM sniff_csv('/etc/passwd')", "sniff_csv is not allowed"),
        ("SELEC 1", "syntax error"),
        ("SELECT nothing FROM tracks", "nothing"),
        ("SELECT emotion::INT FROM tracks", "Conversion Error"),
        ("SELECT error('two\nlines')", "two"),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_invalid_sql_is_reported_and_writes_nothing(
    question: str, message: str, form: str, finished: Path, tmp_path: Path, read_error: ReadError
) -> None:
    output = tmp_path / "answer"
    assert message in read_error("query", finished, question, "--format", form, "--output", output)


@pytest.mark.parametrize("name", ["a.csv", "a.JSON", "a.parquet", "a.txt"])
def test_file_suffix_selects_the_format(
    name: str, finished: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    question, path = "SELECT uri FROM videos ORDER BY uri", tmp_path / name
    assert query(finished, question, "--output", path) == 0
    form = "table" if name.endswith("txt") else path.suffix[1:].lower()
    assert path.read_bytes() == answer(capsysbinary, finished, question, form)
    assert query(finished, question, "--output", path, "--format", "csv") == 0
    assert path.read_bytes() == answer(capsysbinary, finished, question, "csv")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            "s3://bucket/answer",
            "fer-batch query: Cannot write s3://bucket/answer: give a file on this machine\n",
        ),
        ("answer.xlsx", "--output must end in .csv, .tsv, .json, .parquet, .txt unless --format is given"),
    ],
)
def test_invalid_output_is_reported_in_one_line(
    output: str, message: str, tmp_path: Path, read_error: ReadError
) -> None:
    assert message in read_error("query", tmp_path, "SELECT 1", "--output", output)


@pytest.mark.parametrize("output", ["nowhere/answer", "."])
def test_unwritable_output_is_reported_in_one_line(
    output: str, finished: Path, tmp_path: Path, read_error: ReadError
) -> None:
    assert "--output" in read_error("query", finished, "SELECT 1", "--output", tmp_path / output)


def test_result_is_never_written_into_the_run(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "run.json").read_bytes()
    assert main(["query", str(finished), "SELECT 1", "--output", str(finished / "run.json")]) == 2
    assert "give a file outside" in capsys.readouterr().err
    assert (finished / "run.json").read_bytes() == before


@pytest.mark.parametrize("form", FORMATS[1:])
def test_long_result_is_written_in_batches(
    form: str, finished: Path, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    question = "SELECT range AS n FROM range(250000)"
    answer(capsysbinary, finished, question, form, "--output", tmp_path / "answer")
    rows = parsed((tmp_path / "answer").read_bytes(), form)
    assert [int(row["n"]) for row in rows] == list(range(250_000))


def test_endless_result_is_not_held_in_memory(finished: Path, tmp_path: Path) -> None:
    """The rows of this result would fill 24 GB."""
    output = tmp_path / "answer.parquet"
    script = (
        "import sys; from fer_batch.cli.main import main; code = main(sys.argv[1:]);"
        "lines = open('/proc/self/status'); print(code, *(s.split()[1] for s in lines if 'VmHWM' in s))"
    )
    words = ["query", finished, "FROM range(3e9::BIGINT)", "--timeout", "3", "--output", output]
    run = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], check=False, capture_output=True, text=True
    )
    code, used_kb = map(int, run.stdout.split())
    assert code == 2
    assert "took longer than 3 s; give a longer --timeout" in run.stderr
    assert used_kb < 1_000_000
    assert not output.exists()


def test_table_of_an_endless_result_is_printed_at_once(
    finished: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    text = answer(capsysbinary, finished, "FROM range(3e9::BIGINT)", "table").decode()
    assert "999" in text
    assert "The first 1000 rows" in text


def test_memory_outside_of_duckdb_is_limited(
    finished: Path, monkeypatch: pytest.MonkeyPatch, read_error: ReadError
) -> None:
    total_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr("fer_batch.cli.limits.PROCESS_MEMORY_SHARE", (8 << 30) / total_bytes)
    before = resource.getrlimit(resource.RLIMIT_DATA)
    assert "Out of Memory" in read_error("query", finished, "SELECT len(range(2e9::BIGINT))")
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_process_ends_if_duckdb_cannot_be_interrupted(finished: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from fer_batch.cli import limits, main; limits.GRACE_S = 0.5; main.main(sys.argv[1:])"
    )
    words = ["query", finished, "SELECT length(lpad('a', 2000000000, 'b'))", "--timeout", "1"]
    run = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        timeout=100,
    )
    assert run.returncode == 2
    assert run.stderr.startswith("fer-batch: The query took longer than 1 s")
    assert list(tmp_path.iterdir()) == []


def test_output_may_be_a_device(finished: Path) -> None:
    assert query(finished, "SELECT 1", "--output", "/dev/null", "--format", "csv") == 0
    assert Path("/dev/null").is_char_device()


def test_file_keeps_its_content_if_the_query_fails(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "answer.csv"
    path.write_text("old")
    late_error = "SELECT CASE WHEN range < 300000 THEN 1 ELSE error('late') END FROM range(400000)"
    assert query(finished, late_error, "--output", path) == 2
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["answer.csv"]


def test_process_ends_where_no_thread_can_run() -> None:
    """A regular expression, like DuckDB's parser, stops all threads of Python."""
    code = (
        "import re; from fer_batch.cli import limits; limits.ALARM_GRACE_S = 0.3\n"
        "with limits.limit_process(0.1): re.match('(a+)+b', 'a' * 60)"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, timeout=60)
    assert run.returncode == -signal.SIGALRM


def test_options_of_quality_select_faces(finished: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    question = "SELECT count(*) > 0 AS any FROM tracks"
    for words, has_rows in ([], True), (["--min-confidence", "1"], False):
        rows = json.loads(answer(capsysbinary, finished, question, "json", *words))
        assert rows == [{"any": has_rows}]
