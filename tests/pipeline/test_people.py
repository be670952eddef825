"""Grouping of a run's tracks: across cuts, resumed, repeated, and without a trace of faces on disk."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import fer_batch
from fer_batch.config import AnalyzeConfig
from fer_batch.errors import ConfigError, InputError, NodeError, OutputError
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.model.recognize import Recognizer
from fer_batch.people import describe as describe_module
from fer_batch.people import group as group_module
from fer_batch.people.describe import FaceDescriber
from fer_batch.pipeline import people as people_module
from fer_batch.pipeline.people import UNREADABLE, check_people_extra, group_people, group_tracks
from fer_batch.pipeline.stages import AnalyzeStage
from fer_batch.run.finalize import finalize
from fer_batch.run.people import read_person_groups, write_person_groups
from fer_batch.run.plan import add_planning_round
from fer_batch.run.record import create_run
from fer_batch.run.results import write_bundle
from fer_batch.run.verify import verify_run
from fer_batch.schema import PERSON_GROUPS_SCHEMA, pack_bundle
from fer_batch.storage.folder import open_folder
from tests.edited import SAMPLE, SHOTS, write_edited_video
from tests.runs import add_videos, video_id, write_run


@pytest.fixture(scope="module")
def edited(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_edited_video(tmp_path_factory.mktemp("edited") / "edited.mp4")


def add_to_run(out: Path, *paths: Path) -> None:
    """Analyze videos in this process and write the tables of the run, which is created if there is none."""
    config, card, folder = AnalyzeConfig(), Recognizer(None, "cpu").card, open_folder(out)
    if not folder.exists("run.json"):
        folder.create()
        create_run(folder, config, card)
    videos = probe_videos(list_videos([str(path) for path in paths]).sources)
    plan = plan_segments(videos, config, card.half_window_s, card.model_id, workers=1)
    add_planning_round(folder, videos, plan)
    results, stage = folder.subfolder("results"), AnalyzeStage(config, card.crop_scale, None)
    results.create()
    for bundle in pc.unique(plan.column("bundle_id")).to_pylist():
        write_bundle(
            results, stage(pack_bundle(bundle, plan.filter(pc.equal(plan.column("bundle_id"), bundle))))
        )
    finalize(folder)


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory: pytest.TempPathFactory, edited: Path) -> Path:
    """Return a run on the edited video."""
    pytest.importorskip("dlib")
    out = tmp_path_factory.mktemp("runs") / "out"
    add_to_run(out, edited)
    return out


@pytest.fixture
def out(analyzed: Path, tmp_path: Path) -> Path:
    """Return a copy of the run."""
    subprocess.run(["cp", "-a", analyzed, tmp_path / "out"], check=True)
    return tmp_path / "out"


def numbers(groups: pa.Table) -> list[int | None]:
    return groups.sort_by([("video_id", "ascending"), ("track_id", "ascending")]).column("number").to_pylist()


@pytest.fixture
def forbid_children(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise AssertionError("a child process was started")

    monkeypatch.setattr(people_module.WorkerProcess, "_start_process", fail)


def test_run_without_a_face_has_no_groups(tmp_path: Path, forbid_children: None) -> None:
    with pytest.raises(OutputError, match="contains no run"):
        group_people(tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.usefixtures("forbid_children")
@pytest.mark.parametrize("across", [False, True])
def test_earlier_analysis_of_a_video_has_no_groups(tmp_path: Path, across: bool) -> None:
    folder = open_folder(write_run(tmp_path / "out", {"/a/one.mp4": [["sad"]], "/a/two.mp4": [["sad"]]}))
    rows = [
        {"video_id": video_id(uri), "version": "1", "attempt": 0, "track_id": 0}
        | {"number": 1, "across_videos": across}
        for uri in ("/a/one.mp4", "/a/two.mp4")
    ]
    write_person_groups(folder, pa.Table.from_pylist(rows, schema=PERSON_GROUPS_SCHEMA))
    add_videos(folder, {"/a/one.mp4": []}, version="2")
    groups = group_tracks(folder, across_videos=across)
    assert groups.column("video_id").to_pylist() == [video_id("/a/two.mp4")]


@pytest.mark.usefixtures("forbid_children")
def test_numbers_of_all_videos_are_not_replaced_by_those_of_one(tmp_path: Path) -> None:
    folder = open_folder(write_run(tmp_path / "out", {"/a/one.mp4": [["sad"]], "/a/two.mp4": [["sad"]]}))
    row = {"version": "1", "attempt": 0, "track_id": 0, "number": 1, "across_videos": True}
    rows = [row | {"video_id": video_id(uri)} for uri in ("/a/one.mp4", "/a/two.mp4")]
    write_person_groups(folder, pa.Table.from_pylist(rows, schema=PERSON_GROUPS_SCHEMA))
    with pytest.raises(InputError, match="group all videos"):
        group_tracks(folder, ["one.mp4"])
    assert len(read_person_groups(folder)) == 2


@pytest.mark.usefixtures("forbid_children")
def test_missing_extra_is_one_clear_error(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    monkeypatch.setattr(people_module.importlib.util, "find_spec", lambda name: None)
    for call in (check_people_extra, lambda: group_people(out)):
        with pytest.raises(ConfigError, match=r"pip install 'fer-batch\[people\]'"):
            call()


def test_node_without_the_extra_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder(write_run(tmp_path / "out", {"/a/one.mp4": [["sad"]]}))
    (tmp_path / "dlib.py").write_text("raise ImportError")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    with pytest.raises(NodeError, match=r"cannot be grouped on .* pip install 'fer-batch\[people\]'"):
        group_tracks(folder, across_videos=True)


def test_tracks_are_joined_across_cuts_and_not_again(out: Path, request: pytest.FixtureRequest) -> None:
    groups = group_people(out)
    assert numbers(groups) == [1, 2, 1, 2] or numbers(groups) == [2, 1, 2, 1]
    assert fer_batch.open_timeline(out).sql("SELECT persons FROM summary").fetchall() == [(2,)]
    assert verify_run(out) == []
    request.getfixturevalue("forbid_children")
    assert group_people(out, ["edited.mp4"]).equals(groups)
    finalize(out, rewrite_all=True)
    assert group_people(out).equals(groups)
    with pytest.raises(InputError, match="no video other"):
        group_people(out, ["other.mp4"])
    with pytest.raises(ConfigError, match="name none"):
        group_people(out, ["edited.mp4"], across_videos=True)


def test_changed_file_is_a_reason_and_is_tried_again(out: Path, edited: Path) -> None:
    times = edited.stat()
    os.utime(edited, ns=(times.st_atime_ns, times.st_mtime_ns + 10**9))
    try:
        groups = group_people(out)
        assert numbers(groups) == [None] * len(SHOTS)
        assert {reason.startswith(UNREADABLE) for reason in groups.column("reason").to_pylist()} == {True}
        assert "changed since" in groups.column("reason")[0].as_py()
    finally:
        os.utime(edited, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert None not in numbers(group_people(out))


@pytest.mark.slow
def test_numbers_across_videos_replace_those_of_each(out: Path, tmp_path: Path) -> None:
    add_to_run(out, SAMPLE)
    group_people(out)
    assert fer_batch.open_timeline(out).numbers_are_local
    counts: list[tuple[int, int]] = []
    groups = group_people(out, across_videos=True, on_progress=lambda *done: counts.append(done))
    assert counts[-1] == (2, 2)
    assert set(numbers(groups)) == {1, 2}
    assert not fer_batch.open_timeline(out).numbers_are_local
    stored = read_person_groups(out)
    assert stored.column("across_videos").to_pylist() == [True] * len(stored)
    video = pc.unique(stored.column("video_id")).to_pylist()
    assert len(video) == 2
    shown = fer_batch.open_timeline(out).sql(
        "SELECT track_id, person FROM tracks WHERE uri LIKE '%two_faces.mp4' GROUP BY ALL ORDER BY 1"
    )
    assert sorted(person for _, person in shown.fetchall()) in (
        ["person 1", "person 1", "person 2"],
        ["person 1", "person 2", "person 2"],
    )


def list_forms(values: np.ndarray) -> list[bytes]:
    """Return the forms in which numbers of a descriptor could stand in a file."""
    forms = [values.astype(kind).tobytes() for kind in ("<f8", ">f8", "<f4", ">f4")]
    for value in values.tolist():
        forms += [f"{value:.7f}"[:-1].encode(), f"{value:.6e}"[:8].encode(), np.float64(value).tobytes()]
    return forms


def test_forms_of_a_descriptor_are_found() -> None:
    values = np.array([-0.123456789, 0.0987654321])
    written = [str(values.tolist()), repr(values.astype(np.float32).tolist())]
    contents = [text.encode() for text in written] + [pa.array(values).buffers()[1].to_pybytes()]
    for content in contents:
        assert any(form in content for form in list_forms(values))


class GrouperInThisProcess:
    """Takes the place of the child process, so that a test sees what is learned about faces."""

    def __init__(self, target: str, arguments: tuple[object, ...], limits: object) -> None:
        self.grouper = group_module.PersonGrouper()

    def call(self, method: str, *arguments: object, max_s: float) -> pa.Table:
        return getattr(self.grouper, method)(*arguments)

    def close(self) -> None:
        pass


@pytest.fixture
def needles(out: Path, tmp_path: Path) -> list[bytes]:
    """Return parts of the descriptors and pictures of all faces that are described, as bytes."""
    found: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        describe, cut = FaceDescriber.describe, describe_module._cut_region

        def record_descriptor(self: FaceDescriber, *arguments: object) -> np.ndarray:
            descriptor: np.ndarray = describe(self, *arguments)  # type: ignore[arg-type]
            found.extend(list_forms(descriptor[:2]))
            return descriptor

        def record_picture(*arguments: object) -> tuple[np.ndarray, list[float]]:
            region, face = cut(*arguments)  # type: ignore[arg-type]
            middle = region[len(region) // 2]
            found.append(middle[len(middle) // 2 :][:16].tobytes())
            return region, face

        patch.setattr(FaceDescriber, "describe", record_descriptor)
        patch.setattr(describe_module, "_cut_region", record_picture)
        patch.setattr(people_module, "WorkerProcess", GrouperInThisProcess)
        group_people(out)
    (out / "person_groups.parquet").unlink()
    assert len(found) > 10 * len(SHOTS)
    return found


SCRIPT = """
import os, shutil, sys
from pathlib import Path
import fer_batch
out, kept, across, address = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "across", sys.argv[4]

def keep_temporary_files():
    for folder, _, names in os.walk(os.environ["TMPDIR"]):
        for name in names:
            file = Path(folder, name)
            if file.is_file():
                shutil.copyfile(file, kept / str(len(os.listdir(kept))))

if address:
    from fer_batch.pipeline import cluster_map
    from fer_batch.runtime import ray_session
    cluster_map.MIN_ITEMS = 1
    with ray_session(address):
        fer_batch.group_people(out)
        keep_temporary_files()
else:
    fer_batch.group_people(out, across_videos=across)
    keep_temporary_files()
"""


@pytest.mark.parametrize(
    ("mode", "address"),
    [("video", ""), ("across", ""), pytest.param("video", "local", marks=pytest.mark.slow)],
)
def test_no_descriptor_and_no_picture_is_written(
    out: Path, tmp_path: Path, needles: list[bytes], mode: str, address: str
) -> None:
    """Search every byte of OUT, of TMPDIR, and so of the folder of Ray with its spilled objects."""
    temporary, kept = Path(tempfile.mkdtemp(prefix="fb-")), tmp_path / "kept"
    kept.mkdir()
    command = [sys.executable, "-c", SCRIPT, out, kept, mode, address]
    subprocess.run(command, check=True, env=os.environ | {"TMPDIR": str(temporary)})
    shutil.rmtree(temporary)
    groups = read_person_groups(out)
    assert groups.column("across_videos").to_pylist() == [mode == "across"] * len(SHOTS)
    assert None not in numbers(groups)
    assert not address or list(kept.iterdir())
    files = [path for folder in (out, kept) for path in folder.rglob("*") if path.is_file()]
    forbidden = [*needles, b"JFIF", b"Exif", b"\x89PNG\r\n"]
    for path in files:
        content = path.read_bytes()
        assert not [needle for needle in forbidden if needle in content], path
