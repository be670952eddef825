"""Addresses that results are written to: which there are, and what is said of the others."""

import errno
import time
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError
from deltalake.exceptions import DeltaError

from fer_batch.cli.main import main
from fer_batch.errors import FerBatchError, OutputError
from fer_batch.storage import atomic
from fer_batch.storage.atomic import warn_if_slow
from fer_batch.storage.folder import check_folder_empty, convert_store_error, open_folder
from fer_batch.storage.lease import hold_lease
from tests.s3 import Store


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
        open_folder(name)
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
    assert str(open_folder(name)) == path


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("empty", None),
        ("new/of/new", None),
        ("hidden", None),
        ("full", "full holds something else than a study: name a new or empty folder"),
        ("full/notes.txt", "notes.txt is a file; --out needs a folder"),
        ("full/notes.txt/out", "notes.txt is a file; --out needs a folder"),
    ],
)
def test_a_folder_for_something_new_has_nothing_in_it(out: str, said: str | None, tmp_path: Path) -> None:
    for name in ("empty", "hidden", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "hidden" / ".lease").touch()
    (tmp_path / "full" / "notes.txt").touch()
    if said is None:
        check_folder_empty(tmp_path / out, "a study")
        return
    with pytest.raises(OutputError) as refused:
        check_folder_empty(tmp_path / out, "a study")
    assert str(refused.value).endswith(said)


def test_a_long_wait_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(atomic, "QUIET_S", 0.05)
    with warn_if_slow("s3://bucket/out"):
        time.sleep(0.3)
    assert capsys.readouterr().err == "waiting for an answer about s3://bucket/out …\n"
    monkeypatch.setattr(atomic, "QUIET_S", 0.2)
    with warn_if_slow("s3://bucket/out"):
        pass
    time.sleep(0.4)
    assert capsys.readouterr().err == ""


def test_a_store_that_fails_in_mid_command_is_told_from_other_mistakes(store: Store) -> None:
    out = open_folder("s3://archive/out")
    trouble = (
        EndpointConnectionError(endpoint_url=store.url),
        DeltaError("503"),
        PermissionError("Forbidden"),
    )
    for error in trouble:
        with (
            pytest.raises(OutputError, match=r"s3://archive/out fails.*run the same"),
            hold_lease(out, "analyze"),
        ):
            raise error
    for mistake in (KeyError("ours"), OSError(errno.ENOSPC, "full"), FileNotFoundError(2, "none", "a.mp4")):
        with pytest.raises(type(mistake)), hold_lease(out, "analyze"):
            raise mistake
    assert not list(out.glob(".lease*"))
    assert convert_store_error(OSError("of a folder"), Path("out")) is None
