"""Addresses that results are written to: which there are, and what is said of the others."""

from pathlib import Path

import pytest

from fer_batch.cli.main import main
from fer_batch.errors import FerBatchError
from fer_batch.storage.outputs import folder_of


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("s3:/bucket/out", "give s3://bucket/out"),
        ("S3:bucket/out", "give s3://bucket/out"),
        ("gs:/bucket", "give gs://bucket"),
        ("s3://", "names no bucket"),
        ("s3:///out", "names no bucket"),
        ("https://host/out", "allowed are folders"),
        ("s3://bucket/a//b", "leave it out"),
        ("s3://bucket/../b", "leave it out"),
        ("s3://bucket/./b/", "leave it out"),
        ("s3://bucket/a\tb", "control characters"),
        *((f"s3://bucket/a{mark}b", f"has {mark} in its name") for mark in "#%*?[]\\"),
    ],
)
def test_an_address_that_the_tables_can_not_lie_at_is_refused_in_one_line(
    name: str, said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FerBatchError) as refused:
        folder_of(name)
    assert said in str(refused.value)
    assert main(["analyze", "a.mp4", "--out", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("s3://bucket", "s3://bucket/"),
        ("s3://bucket/", "s3://bucket/"),
        ("S3://bucket/out/", "s3://bucket/out"),
        ("s3://bucket/results of \u00fc; {a} + b=c", "s3://bucket/results of \u00fc; {a} + b=c"),
        ("./s3:/out", "s3:/out"),
        ("odd:name/out", "odd:name/out"),
    ],
)
def test_an_address_or_path_is_taken(name: str, path: str) -> None:
    assert str(folder_of(name)) == path
