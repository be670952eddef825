"""Inputs to pictures of why they are answered as they are, and the same in figures."""

import io
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count, groupby
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from fer_batch.data.labels import normalize_label
from fer_batch.errors import CheckpointError, ConfigError, InputError, OutputError
from fer_batch.evaluation.explain.explain import METHODS, Reasons, explain_face, map_layer
from fer_batch.evaluation.explain.find import (
    SETTINGS,
    Face,
    Found,
    faces_of_picture,
    faces_of_video,
    files_of,
    is_picture,
)
from fer_batch.model.network import CROP_SIZE
from fer_batch.model.weights import Card, load_checkpoint
from fer_batch.plotting import BLUE, GREY, INK, RED, render_figure
from fer_batch.storage.atomic import write_bytes
from fer_batch.storage.folder import check_folder
from fer_batch.vision.detect import FaceDetector

ALL = "all"
"""Instead of an emotion's name."""
PANEL_IN, FRAME_IN = 1.7, 0.6
LONGEST_NAME = 150
"""Bytes of an input's name in the names of its pictures: file systems take 255."""
SAYS = "An expression as a model sees it, not what a person feels."
ROWS = {"grad-cam": "Grad-CAM", "occlusion": "occlusion: fall of ln p"}
COLOURS = {"grad-cam": "viridis", "occlusion": "coolwarm_r"}
"""Both are even to the eye (the second by Moreland 2009, doi:10.1007/978-3-642-10520-3_9); blue speaks for an
emotion, red against it."""
OPAQUE = 0.75
"""Of a map where it is furthest from 0."""


def explain(
    inputs: Sequence[Path],
    out: Path,
    *,
    checkpoint: Path | None = None,
    emotions: Sequence[str] = (),
    methods: Sequence[str] = METHODS,
    at_s: Sequence[float] = (),
    whole: bool = False,
    on_line: Callable[[str], None] = lambda line: None,
    on_picture: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Pictures of why each face of `inputs` is answered as it is, in the folder `out`; its other files stay.

    Inputs are files and folders as `files_of` takes them. `emotions` are names of the model's classes, or
    "all"; where there are none, each face's most probable one and the runner-up. `at_s` are moments of the
    videos; `whole` takes pictures for faces. An input that can't be explained doesn't stop the others.
    `on_line` gets a line for each video that is begun, `on_picture` one for each picture.

    Returns, and writes to `explain.json`:

    - `model_id`, `network`, `classes`; `left_out`: methods that the network has no use for, and why
    - `inputs`: of each its name, `status` ("ok", "partial", "failed"), `problems` and `faces`
    - of each face its `picture`, `moment_s` (None in a picture), `face` (its number there, from the left),
      `box` (shares of the picture, xyxy, None for all of it), `answer` (probabilities, in its window),
      `crop_answer` (those that the maps are of), the `emotions` that are explained, the names of its `maps`
      in `maps.npz`, each `(emotions, 48, 48) float32`, and `frames`: the picture, times and weights of its
      window, None where there is none.

    Raises CheckpointError, ConfigError and OutputError before anything is looked at, and InputError where no
    input has a face; then nothing is written.
    """
    if checkpoint is not None and checkpoint.suffix.lower() == ".onnx":
        raise CheckpointError(f"{checkpoint} has no gradients: name the .safetensors that it was made from")
    check_folder(out)
    network, card = load_checkpoint(checkpoint)
    chosen = _numbers(emotions, card)
    left_out = {}
    if "grad-cam" in methods and map_layer(network.encoder) is None:
        left_out["grad-cam"] = "the network has no convolution whose map tells places of a face apart"
        if list(methods) == ["grad-cam"]:
            raise ConfigError(f"--method is grad-cam, but {left_out['grad-cam']}; take --method occlusion")
        on_line(f"no Grad-CAM: {left_out['grad-cam']}")
    files = list(files_of(inputs))
    if at_s and all(is_picture(path) for path, _ in files):
        raise InputError("--at names moments of videos, and there is no video among the inputs")
    detector = FaceDetector(SETTINGS.min_face, SETTINGS.min_score)
    arrays: dict[str, np.ndarray] = {}
    taken = {path.resolve() for path, _ in files}
    rows = []
    for path, problem in files:
        name = os.fsencode(path).decode(errors="replace")
        found = Found(problems=[problem] if problem else [])
        if problem is None:
            if is_picture(path):
                found = faces_of_picture(path, detector, card.crop_scale, whole)
            else:
                on_line(f"looking at {name} …")
                found = faces_of_video(path, at_s, detector, card)
        faces = []
        for _, together in groupby(found.faces, lambda face: face.moment_s):
            for number, face in enumerate(together, start=1):
                reasons = explain_face(network, card, face.crops, face.centre, chosen, methods)
                stem = _free_stem(out, path, face, number, taken)
                row = _write(out, stem, face, reasons, card.classes) | {"face": number}
                arrays |= {row["maps"][method]: maps for method, maps in reasons.maps.items()}
                faces.append(row)
                for line in _lines(out, row):
                    on_picture(line)
        status = "failed" if not faces else "partial" if found.problems else "ok"
        rows.append({"input": name, "status": status, "problems": found.problems, "faces": faces})
    if not arrays:
        raise InputError(_told(rows))
    record = {
        "says": SAYS,
        "model_id": card.model_id,
        "network": card.network,
        "classes": card.classes,
        "left_out": left_out,
        "inputs": rows,
    }
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)  # type: ignore[arg-type]
    _into(out, "maps.npz", content.getvalue())
    _into(out, "explain.json", (json.dumps(record, indent=2, ensure_ascii=False) + "\n").encode())
    return record


def _numbers(names: Sequence[str], card: Card) -> list[int]:
    """Numbers of classes, each once."""
    numbers = []
    for name in names:
        if name == ALL:
            return list(range(len(card.classes)))
        known = name if name in card.classes else normalize_label(name)
        if known not in card.classes:
            raise ConfigError(f"--emotion is {name}; allowed is {', '.join(card.classes)}, or {ALL}")
        numbers.append(card.classes.index(known))
    return list(dict.fromkeys(numbers))


def _told(rows: Sequence[dict[str, Any]], most: int = 3) -> str:
    """Why there is nothing, in a line."""
    reasons = [f"{row['input']} {problem}" for row in rows for problem in row["problems"]]
    more = f"; and {len(reasons) - most} more" if len(reasons) > most else ""
    return "; ".join(reasons[:most]) + more


def _free_stem(out: Path, path: Path, face: Face, number: int, taken: set[Path]) -> str:
    """What a face's pictures are called, so that none replaces an input or another's; then it is `taken`."""
    base = re.sub(r"[\x00-\x1f\x7f]", "_", path.stem).encode(errors="replace")[:LONGEST_NAME]
    moment = "" if face.moment_s is None else f"_{face.moment_s:.2f}s"
    first = f"{base.decode(errors='ignore')}{moment}_face{number}"
    stems = chain([first], (f"{first}-{tries}" for tries in count(2)))
    for stem in stems:
        pictures = {(out / f"{stem}{end}.png").resolve() for end in ("", "_time")}
        if not pictures & taken:
            break
    taken |= pictures
    return stem


def _write(out: Path, stem: str, face: Face, reasons: Reasons, classes: Sequence[str]) -> dict[str, Any]:
    """A face's pictures into files; its row of the record."""
    names = [classes[emotion] for emotion in reasons.emotions]
    answer = dict(zip(classes, reasons.probs.tolist(), strict=True))
    crop_answer = dict(zip(classes, reasons.crop_probs.tolist(), strict=True))
    titles = ["the crop alone" if reasons.alone else "the crop in its window"]
    titles += [f"{name} {crop_answer[name]:.2f}" for name in names]
    _into(out, f"{stem}.png", maps_picture(face.crops[face.centre], titles, reasons.maps))
    frames: dict[str, Any] | None = None
    if (weights := reasons.frames) is not None and face.moment_s is not None:
        frames = {"picture": f"{stem}_time.png", "times_s": face.times_s.tolist()}
        for key in ("weights", "contributions", "difference", "error"):
            frames[key] = dict(zip(names, getattr(weights, key).tolist(), strict=True))
        greys = {name: answer[name] / math.exp(frames["difference"][name]) for name in names}
        titles = [f"{name} {answer[name]:.2f}; {greys[name]:.2f} were all frames grey" for name in names]
        around_s = face.times_s - face.moment_s
        picture = frames_picture(face.crops, around_s, face.centre, titles, weights.weights)
        _into(out, frames["picture"], picture)
    return {
        "picture": f"{stem}.png",
        "moment_s": face.moment_s,
        "box": face.box,
        "answer": answer,
        "crop_answer": crop_answer,
        "emotions": names,
        "maps": {method: f"{stem}_{method}" for method in reasons.maps},
        "frames": frames,
    }


def _lines(out: Path, row: dict[str, Any]) -> Iterator[str]:
    """What is said of a face's pictures."""
    said = ", ".join(f"{name} {row['crop_answer'][name]:.2f}" for name in row["emotions"])
    yield f"{out / row['picture']}: {said}"
    if frames := row["frames"]:
        said = ", ".join(f"{name} {row['answer'][name]:.2f}" for name in row["emotions"])
        worst = max(abs(error) for error in frames["error"].values())
        yield f"{out / frames['picture']}: {said}; {len(frames['times_s'])} frames, sum off by {worst:.0e}"


def maps_picture(crop: np.ndarray, titles: Sequence[str], maps: dict[str, np.ndarray]) -> bytes:
    """A PNG of a crop `(48, 48) uint8`, and over it the maps, `(emotions, 48, 48)` by method: a row a method,
    a column an emotion; `titles` are the crop's and theirs. Each map has its own scale, and is the more
    opaque the further it is from 0.
    """
    size = ((PANEL_IN + 0.55) * len(titles), (PANEL_IN + 0.2) * len(maps) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    rows = figure.subplots(len(maps), len(titles), squeeze=False)
    for panels, (method, values) in zip(rows, maps.items(), strict=True):
        for panel in panels:
            panel.imshow(crop, cmap="gray", vmin=0, vmax=255)
            panel.set_xticks([])
            panel.set_yticks([])
        panels[0].set_ylabel(ROWS[method], fontsize=8, color=INK)
        for panel, value in zip(panels[1:], values, strict=True):
            most = float(np.abs(value).max()) or 1.0
            norm = Normalize(0 if method == "grad-cam" else -most, most)
            over = panel.imshow(value, COLOURS[method], norm, alpha=OPAQUE * np.abs(value) / most)
            bar = figure.colorbar(ScalarMappable(norm, over.cmap), ax=panel, shrink=0.75, aspect=12, pad=0.02)
            bar.ax.tick_params(labelsize=6)
    for panel, title in zip(rows[0], titles, strict=True):
        panel.set_title(title, fontsize=9, color=INK, parse_math=False)
    figure.supxlabel(SAYS, fontsize=6, color=GREY)
    return render_figure(figure)


def frames_picture(
    crops: np.ndarray, around_s: np.ndarray, centre: int, titles: Sequence[str], weights: np.ndarray
) -> bytes:
    """A PNG of a window's crops `(T, 48, 48) uint8` in a row, and below it for each emotion the frames'
    weights, `(emotions, T)` from -1 to 1. `around_s` `(T,)` are seconds from the moment, `centre`'s.
    """
    places = np.arange(len(crops))
    room = max(len(crops) * FRAME_IN, 4.2)
    left, lane, top, bottom = 0.7, 1.05, 0.1, 0.5
    width, height = left + room + 0.1, top + FRAME_IN + lane * len(titles) + bottom
    figure = Figure(figsize=(width, height))

    def axes_at(up: float, high: float) -> Axes:
        axes = figure.add_axes((left / width, up / height, room / width, high / height))
        axes.set_xlim(places.mean() - room / FRAME_IN / 2, places.mean() + room / FRAME_IN / 2)
        return axes

    strip = axes_at(height - top - FRAME_IN, FRAME_IN)
    strip.set_axis_off()
    for place, crop in enumerate(crops):
        span = (place - 0.47, place + 0.47, CROP_SIZE, 0)
        strip.imshow(crop, cmap="gray", vmin=0, vmax=255, extent=span, aspect="auto")
    strip.set(xlim=strip.get_xlim(), ylim=(CROP_SIZE, 0))
    lowest, highest = min(float(weights.min()), 0), max(float(weights.max()), 0)
    margin = max(highest - lowest, 1e-9) / 20
    ticks = [f"{around:+.1f}".replace("-", "−") for around in around_s]
    ticks[centre] = "0"
    for number, (title, shares) in enumerate(zip(titles, weights, strict=True)):
        axes = axes_at(bottom + lane * (len(titles) - 1 - number), lane - 0.35)
        axes.bar(places, shares, 0.8, color=[BLUE if share >= 0 else RED for share in shares])
        axes.axhline(0, color=INK, linewidth=0.6)
        axes.set_ylim(lowest - margin, highest + margin)
        axes.set_title(title, fontsize=9, loc="left", pad=3, color=INK, parse_math=False)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xticks(places, ticks if number == len(titles) - 1 else [])
    axes.get_xticklabels()[centre].set_fontweight("bold")
    axes.set_xlabel(f"seconds from the moment. {SAYS}", fontsize=7, color=GREY)
    middle = (bottom + lane * len(titles) / 2 - 0.15) / height
    figure.text(0.12 / width, middle, "weight", rotation=90, va="center", fontsize=7, color=GREY)
    return render_figure(figure)


def _into(out: Path, name: str, content: bytes) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_bytes(out / name, content)
    except OSError as error:
        raise OutputError(f"{out / name} can't be written: {error.strerror}; name another --out") from error
