"""Planning of a run, without Ray."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from fer_batch.config import AnalyzeConfig, Limits
from fer_batch.errors import OutputError
from fer_batch.inputs.listing import Listing, list_videos
from fer_batch.pipeline import analyze, local_run
from fer_batch.pipeline.analyze import extend_plan, is_finished, prepare_results
from fer_batch.pipeline.guard import probe_guarded
from fer_batch.pipeline.hardware import Gpu, Hardware
from fer_batch.pipeline.local_run import count_cores
from fer_batch.pipeline.settings import RunSettings
from fer_batch.run.finalize import finalize
from fer_batch.run.plan import read_planned_segments, read_planned_videos
from fer_batch.run.record import read_run, write_run
from fer_batch.schema import PROBED_SCHEMA
from fer_batch.storage.folder import open_folder
from tests import runs
from tests.runs import CARD

NO_VIDEOS = PROBED_SCHEMA.empty_table()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "film.mp4").touch()
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def list_film(out: Path, version: str, person: str) -> Listing:
    """List a video of 90 s whose manifest has these values."""
    manifest = out.parent / "list.csv"
    manifest.write_text(f"path,duration_s,version,who\nfilm.mp4,90,{version},{person}\n")
    return list_videos([str(manifest)])


def plan(out: Path, listing: Listing) -> None:
    folder, config = open_folder(out), AnalyzeConfig()
    results = folder.subfolder("results")
    settings = RunSettings(results=results, config=config, card=CARD, checkpoint=None, limits=Limits())
    is_new = not folder.exists("run.json")
    extend_plan(folder, listing, NO_VIDEOS, settings, probe=probe_guarded, workers=1, is_new=is_new)


def test_changed_video_with_changed_metadata_is_planned_once_more(out: Path) -> None:
    plan(out, list_film(out, "v1", "Ann"))
    (before,) = read_planned_videos(out).to_pylist()
    plan(out, list_film(out, "v2", "Bo"))
    videos = read_planned_videos(out)
    (after,) = videos.to_pylist()
    assert after["version"] != before["version"]
    assert after["extra"] == '{"who": "Bo"}'
    segments = [row for part in read_planned_segments(out, videos) for row in part.to_pylist()]
    assert [segment["version"] for segment in segments] == [after["version"]] * 2


def test_run_is_finished_when_nothing_is_left_to_plan_or_process(out: Path) -> None:
    folder = open_folder(out)
    listing = list_film(out, "v1", "Ann")
    plan(out, listing)
    videos = read_planned_videos(out)
    bundles = {row["bundle_id"] for part in read_planned_segments(out, videos) for row in part.to_pylist()}
    assert not is_finished(folder, listing, NO_VIDEOS)
    (out / "_SUCCESS.json").touch()
    assert not is_finished(folder, listing, NO_VIDEOS), "the planned bundles have no results"
    (out / "results").mkdir()
    for name in bundles:
        (out / "results" / f"{name}.parquet").touch()
    assert is_finished(folder, listing, NO_VIDEOS)
    assert not is_finished(folder, listing, videos), "failed videos are to be retried"
    assert not is_finished(folder, list_film(out, "v2", "Ann"), NO_VIDEOS), "the video has changed"
    assert not is_finished(folder, list_film(out, "v1", "Bo"), NO_VIDEOS), "the metadata has changed"
    run = read_run(folder)
    write_run(folder, replace(run, schema_version=5))
    assert not is_finished(folder, listing, NO_VIDEOS), "the tables have an older schema"
    write_run(folder, run)
    (out / "_SUCCESS.json").unlink()
    assert not is_finished(folder, listing, NO_VIDEOS)


def test_damaged_results_that_are_in_no_table_are_removed(out: Path) -> None:
    out.rmdir()
    runs.write_run(out, {"/a.mp4": [["happy"]]})
    earlier = set((out / "results").iterdir())
    videos = {"/b.mp4": [["sad"]]}
    runs.write_video_results(out, runs.plan_videos(out, videos), videos)
    for path in (out / "results").iterdir():
        path.write_bytes(b"PAR1")
    prepare_results(open_folder(out))
    assert set((out / "results").iterdir()) == earlier
    with pytest.raises(OutputError, match="are not done"):
        finalize(out)
    runs.write_video_results(out, runs.plan_videos(out, videos), videos)
    with pytest.raises(OutputError, match="was damaged and has been removed"):
        finalize(out)
    assert not earlier & set((out / "results").iterdir())


@pytest.mark.parametrize(
    ("lengths_s", "sizes"),
    [
        ([60], [1]),
        ([6] * 9, [4, 4, 1]),
        ([60, 180, 60, 6, 600_000, 6, 6], [2, 3, 2]),
    ],
)
def test_rounds_have_about_the_same_number_of_segments(
    out: Path, lengths_s: list[float], sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analyze, "SEGMENTS_PER_ROUND", 4)
    lines = ["path,duration_s"]
    for number, length_s in enumerate(lengths_s):
        (out.parent / f"{number}.mp4").touch()
        lines.append(f"{number}.mp4,{length_s}")
    (out.parent / "list.csv").write_text("\n".join(lines) + "\n")
    plan(out, list_videos([str(out.parent / "list.csv")]))
    rounds = [pq.read_table(path) for path in sorted((out / "plan").glob("*.videos.parquet"))]
    assert [len(videos) for videos in rounds] == sizes


def use_ray(**changes: object) -> dict[str, object]:
    return {"inputs": "short.csv", "options": {}, "variables": {}, "hardware": Hardware()} | changes


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(use_ray(options={"use_ray": True}), id="wanted"),
        pytest.param(use_ray(options={"address": "local"}), id="named by an argument"),
        pytest.param(use_ray(variables={"RAY_ADDRESS": "10.0.0.1:6379"}), id="named by a variable"),
        pytest.param(use_ray(inputs="long.csv"), id="long"),
        pytest.param(use_ray(inputs="many"), id="many files of unknown length"),
        pytest.param(use_ray(hardware=Hardware(gpus=(Gpu(memory_gb=16, capability=8.0),))), id="GPU"),
    ],
)
def test_ray_is_started_where_it_is_named_or_needed(
    case: dict[str, Any], out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StartedError(Exception):
        pass

    def start() -> None:
        raise StartedError

    folder = out.parent
    (folder / "short.csv").write_text("path,duration_s\nfilm.mp4,5\n")
    (folder / "long.csv").write_text("path,duration_s\nfilm.mp4,901\n")
    (folder / "many").mkdir()
    for number in range(257):
        (folder / "many" / f"{number}.mp4").touch()
    monkeypatch.setattr(local_run, "read_hardware", lambda: case["hardware"])
    for name, value in case["variables"].items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StartedError):
        analyze.analyze([str(folder / case["inputs"])], out, on_ray=start, **case["options"])


def test_cores_are_those_of_the_container(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("max 100000\n")
    cores = count_cores(tmp_path / "cpu.max")
    assert cores == count_cores(tmp_path / "none") >= 1
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    assert count_cores(tmp_path / "cpu.max") == 1
    (tmp_path / "cpu.max").write_text("9900000 100000\n")
    assert count_cores(tmp_path / "cpu.max") == cores
