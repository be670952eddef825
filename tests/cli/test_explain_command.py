"""Test `fer-batch explain`."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fer_batch.cli.main import main
from fer_batch.model.card import Card
from fer_batch.model.registry import build_network
from fer_batch.model.weights import save_checkpoint
from tests.conftest import write_video

CLASSES = ("happy", "sad", "surprise")
TINY = {"classes": 3, "filters": (4, 4), "depths": (1, 1), "lstm": (3, 2)}


def explain(*words: object) -> int:
    return main(["explain", *map(str, words)])


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint with three emotions and windows of five sampled frames."""
    torch.manual_seed(0)
    model = build_network("cnn-bilstm", TINY)
    nn.init.normal_(model.crop_head.weight)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    save_checkpoint(path, model, Card(classes=CLASSES, architecture=TINY, window_length=5))
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory, sample_frames: list[np.ndarray]) -> Path:
    """Write a video with two faces for 1.6 s."""
    return write_video(tmp_path_factory.mktemp("video") / "two.mp4", sample_frames[:40])


def write_face(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 48), np.uint8)).save(path)
    return path


def test_videos_and_pictures_are_explained_and_failures_reported(
    tmp_path: Path, checkpoint: Path, video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    face, out = write_face(tmp_path / "portrait.png"), tmp_path / "deep" / "why"
    bad = tmp_path / "notes.txt"
    bad.write_text("no video")
    given = [video, face, bad, tmp_path / "gone.png"]
    assert explain(*given, "--at", 0.8, 77, "--checkpoint", checkpoint, "-o", out) == 0
    streams = capsys.readouterr()
    pictures = [
        "two_0.80s_face1.png", "two_0.80s_face1_time.png", "two_0.80s_face2.png", "two_0.80s_face2_time.png",
        "portrait_face1.png",
    ]  # fmt: skip
    *lines, last = streams.out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(out / name) for name in pictures]
    assert "5 frames, sum off by" in lines[1]
    assert last == f"{out / 'explain.json'}; maps.npz is beside it"
    *_, late, unknown, gone = streams.err.splitlines()
    assert late == f"{video} has no frame at 77 s: it ends at 1.60 s"
    assert unknown.startswith(f"{bad} is not a picture (.bmp, ") and "not a readable video" in unknown
    assert gone == f"{tmp_path / 'gone.png'} does not exist"
    assert sorted(path.name for path in out.iterdir()) == sorted([*pictures, "explain.json", "maps.npz"])
    for name in pictures:
        with Image.open(out / name) as image:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            assert 500 < min(image.size) <= max(image.size) < 4000
    record = json.loads((out / "explain.json").read_text())
    assert record["classes"] == list(CLASSES) and record["left_out"] == {}
    assert [row["status"] for row in record["inputs"]] == ["partial", "ok", "failed", "failed"]
    left, right = record["inputs"][0]["faces"]
    (still,) = record["inputs"][1]["faces"]
    assert [row["face"] for row in (left, right, still)] == [1, 2, 1]
    assert left["box"][0] < right["box"][0] and still["box"] is None
    assert (left["moment_s"], still["moment_s"]) == (pytest.approx(0.8), None)
    assert still["frames"] is None
    frames = left["frames"]
    assert frames["times_s"] == pytest.approx([0.4, 0.6, 0.8, 1.0, 1.2])
    assert set(frames["weights"]) == set(left["emotions"])
    for name in left["emotions"]:
        assert sum(map(abs, frames["weights"][name])) == pytest.approx(1, abs=1e-5)
        assert sum(frames["contributions"][name]) == pytest.approx(frames["difference"][name], abs=1e-3)
    with np.load(out / "maps.npz") as arrays:
        for row in (left, right, still):
            answer = row["answer"] if row["frames"] else row["crop_answer"]
            assert row["emotions"] == sorted(answer, key=answer.get, reverse=True)[:2]  # type: ignore[arg-type]
            assert sum(row["answer"].values()) == pytest.approx(1, abs=1e-5)
            for method in ("grad-cam", "occlusion"):
                assert arrays[row["maps"][method]].shape == (2, 48, 48)
        assert len(arrays.files) == 6


def test_emotions_and_methods_are_selected_with_unique_names(tmp_path: Path, checkpoint: Path) -> None:
    """Explain two pictures of the same name; the output folder has a file with the name of their result."""
    write_face(tmp_path / "a" / "x.png")
    write_face(tmp_path / "b" / "x.png", seed=1)
    own = write_face(tmp_path / "x_face1.png", seed=2)
    before = own.read_bytes()
    words = ["--emotion", "Surprised", "sad", "--emotion", "sad", "--method", "occlusion"]
    given = [tmp_path / "a", tmp_path / "b", own]
    assert explain(*given, *words, "--checkpoint", checkpoint, "-o", tmp_path) == 0
    record = json.loads((tmp_path / "explain.json").read_text())
    faces = [row["faces"][0] for row in record["inputs"]]
    assert [face["picture"] for face in faces] == ["x_face1-2.png", "x_face1-3.png", "x_face1_face1.png"]
    assert [face["emotions"] for face in faces] == [["surprise", "sad"]] * 3
    assert [list(face["maps"]) for face in faces] == [["occlusion"]] * 3
    assert own.read_bytes() == before
    assert explain(own, "--emotion", "all", "--checkpoint", checkpoint, "-o", tmp_path / "all") == 0
    record = json.loads((tmp_path / "all" / "explain.json").read_text())
    assert record["inputs"][0]["faces"][0]["emotions"] == list(CLASSES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--whole"], "INPUT"),
        (["face.png", "-o", "face.png"], "face.png is a file"),
        (["face.png", "-o", "face.png/why"], "face.png is a file"),
        (["none.png"], "none.png does not exist"),
        (["empty"], "empty holds no pictures and no videos"),
        (["notes.txt"], "notes.txt is not a picture"),
        (["broken.png", "none.png"], "broken.png is not a readable picture; none.png does not exist"),
        (["grey.png"], "has no detectable face; give --whole"),
        (["face.png", "--emotion", "bored"], "--emotion must be one of happy, sad, surprise, all, got bored"),
        (["face.png", "--method", "lime"], "lime"),
        (["face.png", "--at", "1"], "no video among the inputs"),
        (["face.png", "--at", "-1"], "--at must be a list of numbers, each at least 0, got (-1.0,)"),
        (["face.png", "--at", "nan"], "--at must be"),
        (["face.png", "--checkpoint", "model.onnx"], "model.onnx has no gradients: give the .safetensors"),
        (["face.png", "--checkpoint", "notes.txt"], "notes.txt is not a checkpoint"),
    ],
)
def test_invalid_input_is_reported_and_writes_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_face(Path("face.png"))
    Image.new("L", (200, 200), 90).save("grey.png")
    for name in ("broken.png", "notes.txt", "model.onnx"):
        Path(name).write_text("neither")
    Path("empty").mkdir()
    before = sorted(tmp_path.rglob("*"))
    assert explain("--checkpoint", checkpoint, "-o", "why", *words) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    *looked, last = streams.err.splitlines()
    assert message in last
    assert looked == ["reading notes.txt …"] * (words[0] == "notes.txt")
    assert sorted(tmp_path.rglob("*")) == before


def test_network_without_feature_map_has_occlusion_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    architecture = {"classes": 3, "backbone": "resnet18", "size": 32, "lstm": (2, 2)}
    path = tmp_path / "small.safetensors"
    save_checkpoint(
        path, build_network("cnn-bilstm", architecture), Card(classes=CLASSES, architecture=architecture)
    )
    words = [write_face(tmp_path / "face.png"), "--checkpoint", path, "-o", tmp_path / "why"]
    assert explain(*words) == 0
    assert "no Grad-CAM: the network has no convolution that distinguishes" in capsys.readouterr().err
    record = json.loads((tmp_path / "why" / "explain.json").read_text())
    assert list(record["left_out"]) == ["grad-cam"]
    assert list(record["inputs"][0]["faces"][0]["maps"]) == ["occlusion"]
    assert explain(*words, "--method", "grad-cam") == 2
    assert capsys.readouterr().err.endswith("give --method occlusion\n")


def test_help_warns_about_pictures_of_faces(capsys: pytest.CaptureFixture[str]) -> None:
    assert explain("--help") == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "The pictures show faces" in text
    assert "not the feelings of a person" in text
