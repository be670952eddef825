"""Output folders: which paths and addresses are accepted, and how errors of a store are reported."""

import errno
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError
from deltalake.exceptions import DeltaError

from fer_batch.cli.main import main
from fer_batch.errors import FerBatchError, OutputError
from fer_batch.storage.folder import (
    LocalFolder,
    OutputFolder,
    check_outside_run,
    open_folder,
    read_folder_record,
)
from fer_batch.storage.lease import hold_lease
from tests.s3 import Store


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("s3:/bucket/out", "give s3://bucket/out"),
        ("S3:bucket/out", "give s3://bucket/out"),
        ("gs:/bucket", "give gs://bucket"),
        ("s3://", "names no bucket"),
        ("s3:///out", "names no bucket"),
        ("https://host/out", "allowed are folders"),
        ("s3://bucket/a//b", "remove it"),
        ("s3://bucket/../b", "remove it"),
        ("s3://bucket/./b/", "remove it"),
        ("s3://bucket/a\tb", "control characters"),
        *((f"s3://bucket/a{mark}b", f"contains {mark}, which the tables") for mark in "#%*?[]\\"),
    ],
)
def test_unusable_address_is_refused_in_one_line(
    name: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FerBatchError) as refused:
        open_folder(name)
    assert message in str(refused.value)
    assert main(["analyze", "a.mp4", "--out", name]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("S3://bucket/out/", "s3://bucket/out"),
        ("s3://bucket/results of \u00fc; {a} + b=c", "s3://bucket/results of \u00fc; {a} + b=c"),
        ("./s3:/out", "s3:/out"),
        ("odd:name/out", "odd:name/out"),
    ],
)
def test_usable_address_or_path_is_accepted(name: str, text: str) -> None:
    assert str(open_folder(name)) == text


@pytest.mark.parametrize("path", ["s3://bucket/results", "/work/gs:/bucket/results"])
def test_address_given_as_path_is_refused(path: str) -> None:
    with pytest.raises(OutputError, match="path of an address"):
        open_folder(Path(path)).check_usable()
    open_folder(Path("/data/odd:name/results:")).check_usable()


def use_all_methods(folder: OutputFolder) -> None:
    folder.create()
    assert folder.list_names() == []
    assert folder.read_change_mark("a.json") is None
    folder.write_json("a.json", {"b": 1})
    mark = folder.read_change_mark("a.json")
    folder.subfolder("sub").create()
    folder.subfolder("sub").write_bytes("c.bin", b"12345")
    assert sorted(folder.list_names()) == ["a.json", "sub"]
    assert folder.find_names("sub/*.bin") == ["sub/c.bin"]
    assert folder.read_bytes("a.json") == b'{\n  "b": 1\n}\n'
    with folder.open("sub/c.bin") as file:
        file.seek(3)
        assert file.read() == b"45"
    folder.write_bytes("a.json", b"other content")
    assert folder.read_change_mark("a.json") != mark
    folder.rename_file("a.json", "d.json")
    assert (folder.exists("a.json"), folder.exists("d.json"), folder.exists("sub")) == (False, True, True)
    for name in ("d.json", "gone"):
        folder.remove_file(name)
        folder.remove_folder(name)
    folder.remove_folder("sub")
    assert folder.list_names() == []
    assert folder.subfolder("none").list_names() == []
    with pytest.raises(FileNotFoundError):
        folder.read_bytes("d.json")


def test_local_folder(tmp_path: Path) -> None:
    use_all_methods(open_folder(tmp_path / "new" / "out"))


def test_folder_in_store(store: Store) -> None:
    use_all_methods(open_folder("s3://archive/out"))


def test_output_file_inside_the_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="give a file outside"):
        check_outside_run(tmp_path / "out" / "plot.png", tmp_path / "out")
    check_outside_run(tmp_path / "plot.png", tmp_path / "out")
    check_outside_run(tmp_path / "plot.png", "s3://archive/out")


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("empty", None),
        ("new/of/new", None),
        ("hidden", None),
        ("full", "full contains files other than a study: give a new or empty folder"),
        ("full/notes.txt", "notes.txt is a file; --out needs a folder"),
        ("full/notes.txt/out", "notes.txt is a file; --out needs a folder"),
    ],
)
def test_new_output_needs_a_folder_without_files(out: str, message: str | None, tmp_path: Path) -> None:
    for name in ("empty", "hidden", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "hidden" / ".lease").touch()
    (tmp_path / "full" / "notes.txt").touch()
    if message is None:
        read_folder_record(tmp_path / out, "study.json", "a study")
        return
    with pytest.raises(OutputError) as refused:
        read_folder_record(tmp_path / out, "study.json", "a study")
    assert str(refused.value).endswith(message)


def test_errors_of_the_store_are_told_apart_from_other_errors(store: Store) -> None:
    out = open_folder("s3://archive/out")
    store_errors = (
        EndpointConnectionError(endpoint_url=store.url),
        DeltaError("503"),
        PermissionError("Forbidden"),
    )
    for error in store_errors:
        with (
            pytest.raises(OutputError, match=r"s3://archive/out fails.*run the same"),
            hold_lease(out, "analyze"),
        ):
            raise error
    for other in (KeyError("ours"), OSError(errno.ENOSPC, "full"), FileNotFoundError(2, "none", "a.mp4")):
        with pytest.raises(type(other)), hold_lease(out, "analyze"):
            raise other
    assert not out.find_names(".lease*")
    assert LocalFolder(Path("out")).convert_error(OSError("of a folder")) is None
