"""Labelled faces from the data sets that people have, as grey 48×48 clips in memory.

Everything is a clip: a still is a clip of one frame, a CK+48 sequence one of three.
"""

import hashlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from PIL import Image, UnidentifiedImageError

from fer_batch.errors import InputError
from fer_batch.schema import EMOTIONS

DATASETS = ("fer2013", "ck48")
SIZE = 48
FER_ORDER = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
SYNONYMS = {
    "anger": "angry",
    "disgusted": "disgust",
    "fearful": "fear",
    "happiness": "happy",
    "sadness": "sad",
    "surprised": "surprise",
}
SPLITS = {
    "training": "train",
    "train": "train",
    "publictest": "select",
    "validation": "select",
    "valid": "select",
    "val": "select",
    "privatetest": "test",
    "test": "test",
}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"}


@dataclass(frozen=True, kw_only=True)
class Clips:
    """Labelled sequences of face crops."""

    frames: np.ndarray
    """`(M, 48, 48) uint8`, grey, the frames of all clips in order."""
    starts: np.ndarray
    """`(N + 1,) int64`: clip i is `frames[starts[i]:starts[i + 1]]`."""
    labels: np.ndarray
    """`(N,) int64`, index into `EMOTIONS`."""
    splits: np.ndarray
    """`(N,) str`: "train", "select" (chooses the epoch) or "test" (never used in training)."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, keep: np.ndarray) -> "Clips":
        """The clips at `keep`, a `(N,) bool` mask or indices."""
        index = np.flatnonzero(keep) if keep.dtype == bool else keep
        lengths = np.diff(self.starts)[index]
        frames = [np.arange(self.starts[i], self.starts[i + 1]) for i in index]
        return Clips(
            frames=self.frames[np.concatenate(frames)] if frames else self.frames[:0],
            starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            labels=self.labels[index],
            splits=self.splits[index],
        )


def load_dataset(name: str, path: Path) -> tuple[Clips, dict[str, int]]:
    """One data set by name ("fer2013" or "ck48") from any layout it is known in; also counts of what was
    left out.

    fer2013: a Parquet file (`image_png`, `label_name`, `usage`), Kaggle's folders (`train/angry/….png`,
    `test/…`) or the original CSV (`emotion,pixels,Usage`). ck48: a Parquet file (`image_png`, `label_name`,
    `subject`, `sequence`, `frame`) or folders (`anger/S010_004_00000017.png`). Training images that stand
    pixel-identical in another split are dropped, blank ones too. Where there is no selection split, a tenth
    of Training becomes one, by image hash or, for ck48, by subject. Raises InputError where the data is not
    there or not of that kind.
    """
    if name not in DATASETS:
        raise InputError(f"--data {name}=…: there is no data set {name!r}; allowed are {', '.join(DATASETS)}")
    if not path.exists():
        raise InputError(f"--data {name}={path}: there is no such file or folder")
    clips, counts = (_fer2013 if name == "fer2013" else _ck48)(path)
    if not len(clips):
        raise InputError(f"--data {name}={path}: no labelled face images found there")
    return clips, counts


def concatenate(parts: Sequence[Clips]) -> Clips:
    """Several data sets as one."""
    offsets = np.cumsum([0] + [len(p.frames) for p in parts])
    return Clips(
        frames=np.concatenate([p.frames for p in parts]),
        starts=np.concatenate(
            [p.starts[:-1] + o for p, o in zip(parts, offsets, strict=False)] + [offsets[-1:]]
        ),
        labels=np.concatenate([p.labels for p in parts]),
        splits=np.concatenate([p.splits for p in parts]),
    )


def draw_sequences(
    clips: Clips, chosen: np.ndarray, length: int, generator: torch.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Windows `(B, T, 48, 48) uint8` with labels `(B, T)`, T from 1 to `length`, the same for the batch.

    A clip's frames are stretched over its moments; in half of the windows another random clip follows from
    a random moment on, as expressions, and in edited video faces, change.
    """
    steps = 1 + int(torch.randint(length, (), generator=generator))
    if torch.rand((), generator=generator) < 0.3:
        steps = length
    batch = len(chosen)
    other = torch.randint(len(clips), (batch,), generator=generator).numpy()
    change = torch.randint(1, 2 * length, (batch,), generator=generator).numpy()
    moment = np.arange(steps)
    source = np.where(moment[None] < change[:, None], chosen[:, None], other[:, None])  # (B, T) clip index
    lengths = np.diff(clips.starts)[source]
    return clips.frames[
        clips.starts[source] + np.minimum(moment * lengths // steps, lengths - 1)
    ], clips.labels[source]


def _fer2013(path: Path) -> tuple[Clips, dict[str, int]]:
    counts: dict[str, int] = {}
    if path.is_dir():
        rows = [
            (image, label, SPLITS.get(file.parts[-3].lower(), "train") if len(file.parts) >= 3 else "train")
            for file, label in _class_folders(path)
            if (image := _read_image(file, counts)) is not None
        ]
    elif path.suffix == ".parquet":
        table = _read_columns(path, ["image_png", "label_name", "usage"])
        rows = [
            (image, label, _split(usage, path))
            for png, label, usage in zip(*(c.to_pylist() for c in table.columns), strict=True)
            if (image := _read_image(io.BytesIO(png), counts)) is not None
        ]
    elif path.suffix == ".csv":
        rows = list(_fer_csv(path))
    else:
        raise InputError(
            f"--data fer2013={path}: allowed are a .parquet file, a .csv file or a folder of splits"
        )
    if not rows:
        return _stills([]), counts
    known = [(image, _canonical(label), split) for image, label, split in rows]
    for _, label, _ in known:
        if label not in EMOTIONS:
            raise InputError(f"{path} has the class {label!r}; allowed are {', '.join(EMOTIONS)}")
    hashes = [hashlib.sha1(image.tobytes()).hexdigest() for image, _, _ in known]
    held_out = {h for h, (_, _, split) in zip(hashes, known, strict=True) if split != "train"}
    selection = any(split == "select" for _, _, split in known)
    kept = []
    counts |= {"twins_dropped": 0, "blank_dropped": 0}
    for digest, (image, label, split) in zip(hashes, known, strict=True):
        if split == "train" and digest in held_out:
            counts["twins_dropped"] += 1
        elif split == "train" and image.min() == image.max():
            counts["blank_dropped"] += 1
        else:
            if split == "train" and not selection and int(digest[:8], 16) % 10 == 0:
                split = "select"
            kept.append((image, EMOTIONS.index(label), split))
    return _stills(kept), counts


def _fer_csv(path: Path) -> Iterator[tuple[np.ndarray, str, str]]:
    try:
        table = pa.csv.read_csv(path)
        emotions, pixels, usages = (table[c].to_pylist() for c in ("emotion", "pixels", "Usage"))
    except (pa.ArrowInvalid, KeyError) as error:
        raise InputError(f"{path} is not FER2013's CSV (columns emotion, pixels, Usage): {error}") from error
    for row, (emotion, text, usage) in enumerate(zip(emotions, pixels, usages, strict=True), 2):
        try:
            values = np.array(str(text).split(), np.int64)
            if values.size != SIZE * SIZE or values.min() < 0 or values.max() > 255:
                raise ValueError("pixels")
            name = FER_ORDER[range(len(FER_ORDER)).index(emotion)]
        except (ValueError, OverflowError):
            raise InputError(
                f"{path} line {row}: expected an emotion of 0–6 and {SIZE * SIZE} pixels of 0–255, "
                f"found {emotion!r} and {len(str(text).split())} pixels"
            ) from None
        yield values.reshape(SIZE, SIZE).astype(np.uint8), name, _split(usage, path)


def _ck48(path: Path) -> tuple[Clips, dict[str, int]]:
    counts = {"contempt_left_out": 0}
    frames: list[tuple[str, int, str, np.ndarray]] = []  # sequence, frame number, label, image
    if path.is_dir():
        for file, label in _class_folders(path):
            match = re.fullmatch(r"(S\d+_\d+)_(\d+)", file.stem)
            if match is None:
                raise InputError(
                    f"{file}: CK+48 files are named like S010_004_00000017.png (subject_sequence_frame)"
                )
            if (image := _read_image(file, counts)) is not None:
                frames.append((match[1], int(match[2]), label, image))
    else:
        table = _read_columns(path, ["sequence", "frame", "label_name", "image_png"])
        for sequence, frame, label, png in zip(*(c.to_pylist() for c in table.columns), strict=True):
            if (image := _read_image(io.BytesIO(png), counts)) is not None:
                frames.append((sequence, frame, label, image))
    clips: dict[tuple[str, str], list[tuple[int, np.ndarray]]] = {}
    for sequence, frame, label, image in frames:
        label = _canonical(label)
        if label == "contempt":
            counts["contempt_left_out"] += 1
        elif label not in EMOTIONS:
            raise InputError(
                f"{path} has the class {label!r}; allowed are contempt and {', '.join(EMOTIONS)}"
            )
        else:
            clips.setdefault((sequence, label), []).append((frame, image))
    ordered = [(key, [image for _, image in sorted(clips[key], key=lambda f: f[0])]) for key in sorted(clips)]
    subjects = [sequence.split("_")[0] for (sequence, _), _ in ordered]
    chosen = [int(hashlib.sha1(s.encode()).hexdigest()[:8], 16) % 10 == 0 for s in subjects]
    return Clips(
        frames=np.array([i for _, images in ordered for i in images], np.uint8).reshape(-1, SIZE, SIZE),
        starts=np.cumsum([0] + [len(images) for _, images in ordered]).astype(np.int64),
        labels=np.array([EMOTIONS.index(label) for (_, label), _ in ordered], np.int64),
        splits=np.where(chosen, "select", "train").astype(str),
    ), counts


def _canonical(label: object) -> str:
    name = str(label).strip().lower()
    return SYNONYMS.get(name, name)


def _stills(rows: list[tuple[np.ndarray, int, str]]) -> Clips:
    return Clips(
        frames=np.array([r[0] for r in rows], np.uint8).reshape(-1, SIZE, SIZE),
        starts=np.arange(len(rows) + 1, dtype=np.int64),
        labels=np.array([r[1] for r in rows], np.int64),
        splits=np.array([r[2] for r in rows], str),
    )


def _class_folders(path: Path) -> Iterator[tuple[Path, str]]:
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file():
            yield file, file.parent.name


def _read_columns(path: Path, columns: list[str]) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns).select(columns)
    except (pa.ArrowException, KeyError, OSError) as error:
        raise InputError(
            f"{path} is not a Parquet file with the columns {', '.join(columns)}: {error}"
        ) from error


def _read_image(source: Path | io.BytesIO, counts: dict[str, int]) -> np.ndarray | None:
    """A grey 48×48 image, or None and one more in `counts["unreadable"]`."""
    try:
        image = Image.open(source).convert("L")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError):
        counts["unreadable"] = counts.get("unreadable", 0) + 1
        return None
    if image.size != (SIZE, SIZE):
        image = image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _split(usage: str, path: Path) -> str:
    split = SPLITS.get(str(usage).strip().lower())
    if split is None:
        raise InputError(f"{path} has the split {usage!r}; allowed are Training, PublicTest and PrivateTest")
    return split


def class_counts(clips: Clips) -> dict[str, int]:
    """How many clips each emotion has."""
    counted = pc.value_counts(pa.array(clips.labels)).to_pylist()
    return {EMOTIONS[c["values"]]: c["counts"] for c in sorted(counted, key=lambda c: c["values"])}
