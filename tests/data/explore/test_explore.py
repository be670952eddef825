"""Exploration of data sets: counts, duplicates, odd images, and the files with them."""

import csv
import html
import io
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openpyxl
import pytest
from PIL import Image

from fer_batch.data.datasets import load_datasets
from fer_batch.data.explore.explore import Exploration, explore
from fer_batch.data.explore.faces import read_faces
from fer_batch.data.explore.plots import plot_distribution, plot_faces
from fer_batch.data.explore.report import draw_samples, name_files, write_exploration
from fer_batch.errors import InputError, OutputError
from fer_batch.vision.quality import measure_sharpness
from tests.datasets import (
    ck_parquet,
    ck_sequences,
    fer_csv,
    fer_folders,
    fer_parquet,
    fer_rows,
    random_images,
    write_images,
)

Images = dict[str, Sequence[np.ndarray]]
ODD_NAMES = ("=1+1", "<b>bold & bad", "cost in $", "été 🙂", "x" * 200)
"""Classes, which are also names of folders."""


def folder_set(folder: Path, images: Images) -> tuple[str, str]:
    return "folder", str(write_images(folder, images))


def plain(value: int) -> np.ndarray:
    return np.full((48, 48), value, np.uint8)


def explore_images(folder: Path, images: Images) -> dict[str, Any]:
    return explore([folder_set(folder, images)]).to_dict()


@pytest.fixture(scope="module")
def odd_names(tmp_path_factory: pytest.TempPathFactory) -> tuple[Exploration, Path]:
    """Return the exploration of classes with odd names and a duplicate, and the folder of its files."""
    place = tmp_path_factory.mktemp("names")
    images = {name: random_images(2 + number, number) for number, name in enumerate(ODD_NAMES)}
    images["<b>bold & bad"][0] = images["=1+1"][0]
    exploration = explore([folder_set(place / "faces", images)])
    write_exploration(place / "out", exploration)
    return exploration, place / "out"


@pytest.mark.parametrize(
    ("images", "n", "counts", "ratio"),
    [
        (
            {"happy": 1},
            {"train": 1, "all": 1},
            {"happy": {"train": 1, "all": 1}},
            {"train": None, "all": None},
        ),
        (
            {"sadness": 3, "bored": 2, "angry": 4},
            {"train": 9, "all": 9},
            {"angry": {"train": 4, "all": 4}, "sad": {"train": 3, "all": 3}, "bored": {"train": 2, "all": 2}},
            {"train": 2, "all": 2},
        ),
        (
            {"test/sad": 1, "train/happy": 6, "train/sad": 2, "val/happy": 1},
            {"train": 8, "select": 1, "test": 1, "all": 10},
            {
                "happy": {"train": 6, "select": 1, "test": 0, "all": 7},
                "sad": {"train": 2, "select": 0, "test": 1, "all": 3},
            },
            {"train": 3, "select": None, "test": None, "all": 7 / 3},
        ),
    ],
)  # fmt: skip
def test_classes_are_counted_by_split(
    tmp_path: Path, images: dict[str, int], n: dict, counts: dict, ratio: dict
) -> None:
    statistics = explore_images(tmp_path, {place: random_images(count, 1) for place, count in images.items()})
    (part,) = statistics["data"]
    assert (part["n"], part["counts"], part["imbalance_ratio"]) == (n, counts, ratio)
    assert list(part["counts"]) == list(counts) == statistics["classes"]
    assert part["images"] == statistics["images"] == n["all"]
    for split, total in n.items():
        for name, its in part["shares"].items():
            assert its[split] == counts[name][split] / total
        assert sum(its[split] for its in part["shares"].values()) == pytest.approx(1)


def test_duplicates_are_found_within_and_across_splits_and_classes(tmp_path: Path) -> None:
    a, b, c, d, e = random_images(5)
    images = {"train/happy": [a, a, b, c], "train/sad": [a, d], "test/happy": [b, e], "test/sad": [d]}
    statistics = explore_images(tmp_path, images)["duplicates"]
    assert (statistics["distinct"], statistics["sets"], statistics["images"]) == (5, 3, 7)
    assert statistics["splits"] == {"train": 5, "test": 2}
    assert statistics["within_split"] == {"train": {"sets": 1, "images": 3}, "test": {"sets": 0, "images": 0}}
    assert statistics["across_splits"] == {
        "sets": 2, "images": 4, "splits": {"train": 2, "test": 2}, "pairs": {"train, test": 2}
    }  # fmt: skip
    assert statistics["contradictory"] == {"sets": 1, "images": 3, "splits": {"train": 3, "test": 0}}
    assert [[place["source"] for place in places] for places in statistics["listed"]] == [
        ["test/happy/0.png", "train/happy/2.png"],
        ["test/sad/0.png", "train/sad/1.png"],
        ["train/happy/0.png", "train/happy/1.png", "train/sad/0.png"],
    ]


def test_blank_and_odd_images_are_found_by_kind(tmp_path: Path) -> None:
    (face,) = random_images(1) // 2 + 64
    faint = plain(100)
    faint[:, ::2] += 8
    checks = (np.indices((48, 48)).sum(axis=0) % 2 * 255).astype(np.uint8)
    ramp = np.tile(np.linspace(0, 200, 48).astype(np.uint8), (48, 1))
    images = {"faint": [faint], "dark": [face // 12], "bright": [255 - face // 12], "sharp": [checks]}
    images |= {"plain": [plain(0), plain(255)], "blurred": [ramp], "usual": [face // 2 + 50]}
    statistics = explore_images(tmp_path, images)
    classes = {kind: its["classes"] for kind, its in statistics["odd"].items()}
    assert classes == {
        "blank": {"plain": 2},
        "nearly blank": {"faint": 1, "dark": 1, "bright": 1},
        "very dark": {"dark": 1},
        "very bright": {"bright": 1},
        "very blurred": {"blurred": 1},
        "very sharp": {"sharp": 1},
    }
    for its in statistics["odd"].values():
        assert its["count"] == sum(its["splits"].values()) == len(its["listed"])
    (listed,) = statistics["odd"]["very sharp"]["listed"]
    assert listed == {
        "image": 6, "data": "folder", "split": "train", "class": "sharp", "source": "sharp/0.png",
        "brightness": 127.5, "contrast": 127.5, "sharpness": 1020**2,
    }  # fmt: skip
    assert [row["contrast"] for row in statistics["odd"]["nearly blank"]["listed"]] == sorted(
        row["contrast"] for row in statistics["odd"]["nearly blank"]["listed"]
    )


def test_brightness_and_sharpness_are_described_by_class(tmp_path: Path) -> None:
    images = {"grey": [plain(value) for value in (10, 20, 40)], "noise": random_images(4)}
    statistics = explore_images(tmp_path, images)
    grey = statistics["brightness"]["classes"]["grey"]
    assert grey["n"] == 3
    assert grey["mean"] == pytest.approx(70 / 3)
    assert grey["sd"] == pytest.approx(np.std([10, 20, 40]))
    assert [grey[key] for key in ("min", "q25", "median", "q75", "max")] == [10, 15, 20, 30, 40]
    assert statistics["sharpness"]["classes"]["grey"]["max"] == 0
    assert statistics["sharpness"]["classes"]["noise"]["mean"] == pytest.approx(
        measure_sharpness(images["noise"]).mean()
    )
    assert statistics["brightness"]["all"]["n"] == 7


def test_people_and_sequences_of_ck48_are_counted(tmp_path: Path) -> None:
    sequences = ck_sequences(7)
    sequences[3][2][10][:] = 0
    exploration = explore([("ck48", str(ck_parquet(tmp_path, sequences)))])
    statistics = exploration.to_dict()
    (part,) = statistics["data"]
    assert part["counts"]["contempt"] == {"train": 2, "all": 2}
    assert (part["n"]["all"], part["images"]) == (14, 42)
    assert part["subjects"] == {"count": 7, "examples_of_one": {"min": 2, "median": 2.0, "max": 2}}
    assert part["sequence_lengths"] == {"3": 14}
    assert statistics["brightness"]["classes"]["contempt"]["n"] == 6
    assert statistics["training"]["dropped"] == {"contempt_left_out": 2}
    assert statistics["training"]["n"] == 12
    assert exploration.faces.table["source"][0] == "S010_001, image 1 of 3"
    (blank,) = statistics["odd"]["blank"]["listed"]
    assert blank["source"] == "S011_002, image 2 of 3"


@pytest.mark.parametrize(
    ("layout", "sources"),
    [
        (fer_parquet, ["row 0", "row 1", "row 2"]),
        (fer_csv, ["line 2", "line 3", "line 4"]),
        (fer_folders, ["test/fear/00002.png", "train/angry/00000.png", "validation/disgust/00001.png"]),
    ],
)
def test_source_of_an_image_is_known_in_each_layout(tmp_path: Path, layout: Any, sources: list[str]) -> None:
    faces = read_faces([("fer2013", str(layout(tmp_path, fer_rows(3))))])
    assert faces.table["source"].tolist() == sources


def test_several_data_sets_are_counted_separately_and_together(tmp_path: Path) -> None:
    twin, *rest = random_images(4)
    data = [
        folder_set(tmp_path / "a", {"happy": [twin, rest[0]]}),
        folder_set(tmp_path / "b", {"test/happy": [twin], "test/sad": [rest[1]]}),
    ]
    statistics = explore(data).to_dict()
    assert [part["name"] for part in statistics["data"]] == ["folder", "folder 2"]
    assert [part["n"] for part in statistics["data"]] == [{"train": 2, "all": 2}, {"test": 2, "all": 2}]
    assert statistics["together"]["n"] == {"train": 2, "test": 2, "all": 4}
    assert statistics["duplicates"]["across_data"]["sets"] == 1


def test_training_counts_equal_those_of_training(tmp_path: Path) -> None:
    rows = fer_rows(60)
    rows += [
        (rows[1][0], "happy", "Training"),
        (plain(3), "sad", "Training"),
        (rows[0][0], "sad", "Training"),
    ]
    data = [("fer2013", str(fer_parquet(tmp_path, rows)))]
    clips, counts = load_datasets(data)
    statistics = explore(data).to_dict()["training"]
    assert (
        statistics["dropped"] == dict(counts) == {"twins_dropped": 1, "blank_dropped": 1, "contradictory": 2}
    )
    assert statistics["n"] == len(clips) == sum(statistics["splits"].values())


def test_data_that_training_refuses_is_explored(tmp_path: Path) -> None:
    statistics = explore_images(tmp_path, {"happy": random_images(2)})
    assert "training needs two or more classes, found happy" in statistics["training"]["refused"]


def test_unreadable_files_and_empty_folders_are_counted(tmp_path: Path) -> None:
    images = {"happy": random_images(3), "sad": random_images(1, 1)}
    data = folder_set(tmp_path, images)
    (tmp_path / "happy" / "broken.png").write_bytes(b"not a picture")
    (tmp_path / "loose.png").write_bytes(b"")
    for name in ("bored", ".hidden", "notes"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    colour = Image.fromarray(np.stack([random_images(1, 2)[0]] * 3, axis=2)).resize((96, 64))
    colour.save(tmp_path / "sad" / "colour.jpg")
    lines: list[str] = []
    (part,) = explore([data], on_line=lines.append).to_dict()["data"]
    assert part["left_out"] == {"without_class": 1, "unreadable": 1}
    assert part["empty_folders"] == ["bored", "notes"]
    assert part["counts"] == {"happy": {"train": 3, "all": 3}, "sad": {"train": 2, "all": 2}}
    assert lines == ["folder: 5 images (left out: 1 without_class, 1 unreadable)"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "no data set given"),
        ([("folder", "nowhere")], "folder=nowhere: there is no such file or folder"),
        ([("folder", "empty")], "no files like"),
    ],
)
def test_unusable_data_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: list[tuple[str, str]], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty" / "happy").mkdir(parents=True)
    with pytest.raises(InputError, match=message):
        explore(data)


def test_all_files_hold_the_same_statistics(odd_names: tuple[Exploration, Path]) -> None:
    exploration, out = odd_names
    statistics = exploration.to_dict()
    (part,) = statistics["data"]
    names = statistics["classes"]
    record = json.loads((out / "explore.json").read_text())
    pictures = record.pop("pictures")
    samples = pictures["samples"]
    assert record == statistics
    assert pictures["odd"] == {"very sharp": "odd_very_sharp.png"}
    assert sorted(names) == sorted(ODD_NAMES)
    assert list(samples) == names
    header, *rows = csv.reader((out / "classes.csv").read_text().splitlines())
    assert header == ["data", "class", "split", "count", "share"]
    for _, name, split, count, share in rows:
        assert (int(count), float(share)) == (part["counts"][name][split], part["shares"][name][split])
    assert len(rows) == 2 * len(names)
    plots = {f"{n}{s}.png" for n in ("distribution", "brightness", "sharpness") for s in ("", "_bw")}
    assert {p.name for p in out.iterdir()} == plots | {
        "explore.json", "explore.html", "explore.xlsx", "classes.csv", "odd_very_sharp.png", *samples.values()
    }  # fmt: skip
    for file in (*plots, *samples.values()):
        with Image.open(out / file) as image:
            assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
            assert 600 < min(image.size) <= max(image.size) < 8000


def test_workbook_has_sheets_charts_and_no_formula(odd_names: tuple[Exploration, Path]) -> None:
    exploration, out = odd_names
    statistics = exploration.to_dict()
    book = openpyxl.load_workbook(out / "explore.xlsx")
    assert book.sheetnames == [
        "overview", "classes by split", "duplicates", "odd images", "brightness and sharpness"
    ]  # fmt: skip
    cells = {name: list(book[name].iter_rows(values_only=True)) for name in book.sheetnames}
    assert not [c for sheet in book for row in sheet.iter_rows() for c in row if c.data_type == "f"]
    (part,) = statistics["data"]
    counted = {row[0]: row[1:3] for row in cells["classes by split"]}
    for name in statistics["classes"]:
        assert counted[name] == (part["counts"][name]["train"], pytest.approx(part["shares"][name]["train"]))
    assert counted["all classes"] == (part["n"]["all"], 1)
    assert counted["largest / smallest class"][0] == 3
    assert cells["duplicates"][-1][:5] == (1, "folder", "train", "=1+1", "=1+1/0.png")
    spread = {row[0]: row for row in cells["brightness and sharpness"][:10]}
    assert spread["=1+1"][2] == pytest.approx(statistics["brightness"]["classes"]["=1+1"]["mean"])
    assert len(book["classes by split"]._charts) == 1
    assert len(book["brightness and sharpness"]._images) == 2


def test_page_is_self_contained_and_escapes_names(
    odd_names: tuple[Exploration, Path],
) -> None:
    exploration, out = odd_names
    statistics = exploration.to_dict()
    page = (out / "explore.html").read_text()
    assert "<b>" not in page
    assert html.escape("<b>bold & bad") in page
    assert set(re.findall(r'src="([^"]{0,22})', page)) == {"data:image/png;base64,"}
    assert not re.findall(r"https?:|<script|url\(|\{\{", page)
    assert page.count("<img") == 2 * 3 + len(statistics["classes"]) + 1
    assert len(re.findall(r'<img [^>]*alt="[^"]+"', page)) == page.count("<img")
    assert "don't publish" in page
    assert "20 images in 5 classes; the largest class has 3.0 times" in page


def test_without_samples_no_face_is_shown_and_earlier_ones_are_removed(
    odd_names: tuple[Exploration, Path], tmp_path: Path
) -> None:
    exploration, before = odd_names
    out = tmp_path / "out"
    shutil.copytree(before, out)
    (out / "samples_mine.png").write_text("mine")
    write_exploration(out, exploration, samples=False)
    left = {p.name for p in out.iterdir()}
    assert {name for name in left if name.startswith(("samples", "odd"))} == {"samples_mine.png"}
    page = (out / "explore.html").read_text()
    assert "no picture of anyone" in page
    assert page.count("<img") == 6


def test_folder_that_cannot_be_created_is_named(tmp_path: Path) -> None:
    exploration = explore([folder_set(tmp_path / "faces", {"a": random_images(1)})])
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write to .*file/out: Not a directory"):
        write_exploration(tmp_path / "file" / "out", exploration, samples=False)


@pytest.mark.parametrize(
    ("names", "files"),
    [
        ([], []),
        (["happy", "a/b", "a b", "..", "é"], ["happy", "a_b", "a_b_", "_", "é"]),
        (["x" * 99, "x" * 98], ["x" * 30, "x" * 30 + "_"]),
    ],
)
def test_each_class_has_a_unique_file(names: list[str], files: list[str]) -> None:
    assert name_files("samples", names) == [f"samples_{file}.png" for file in files]


def test_samples_are_of_the_class_and_repeatable(tmp_path: Path) -> None:
    images = {"a": random_images(20), "b": random_images(4, 1)}
    faces = read_faces([folder_set(tmp_path, images)])
    chosen = draw_samples(faces, "a")
    assert len(chosen) == 9
    assert {image.tobytes() for image in chosen} < {image.tobytes() for image in images["a"]}
    assert len({image.tobytes() for image in chosen}) == 9
    assert np.array_equal(chosen, draw_samples(faces, "a"))
    assert np.array_equal(draw_samples(faces, "b"), images["b"])


@pytest.mark.parametrize("count", [0, 4, 9, 12])
def test_grid_is_three_by_three(count: int) -> None:
    with Image.open(io.BytesIO(plot_faces(np.zeros((count, 48, 48), np.uint8), "calm, $x^"))) as image:
        assert image.info["dpi"] == pytest.approx((300, 300), abs=0.1)
        pixels = np.asarray(image.convert("L"))
    assert pixels.shape == (978, 888)
    black = pixels[90:] < 10
    middles = black[144::300, 144::300]
    assert middles.shape == (3, 3)
    assert middles.ravel().tolist() == [number < count for number in range(9)]


def test_plots_in_black_and_white_have_no_colour_and_hold_many_classes(tmp_path: Path) -> None:
    exploration = explore([folder_set(tmp_path, {f"class {n}": random_images(3, n) for n in range(30)})])
    for colour in (True, False):
        with Image.open(io.BytesIO(plot_distribution(exploration, colour=colour))) as image:
            assert 900 < min(image.size) <= max(image.size) < 8000
            _, most = image.convert("RGB").convert("HSV").getchannel("S").getextrema()
        assert most > 100 if colour else most == 0
