"""Measure the benefit of the window around a frame, compared with single frames and moving averages.

python tests/benchmarks/temporal.py VIDEOS [--checkpoint C] [--json FILE] [--cache FILE.npz]

VIDEOS is a folder of videos with `truth.json`, a list of times with a known face: `video` (file name), `t`
(seconds), `slot` (number of the face in the video), `emotion`, `hold` (seconds that the expression lasts),
`x0 y0 x1 y1` (shares of the frame), and `settled` (not near a change of expression).

Finding the faces is slow, so a cache keeps them, by default next to the JSON file. `load_faces` reads it;
`measure` scores predictions for its faces.
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_batch.config import CROP_SIZE_PX, AnalyzeConfig
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.model.recognize import Recognizer
from fer_batch.model.weights import load_checkpoint
from fer_batch.model.window import build_windows
from fer_batch.pipeline.stages import FacesStage
from fer_batch.schema import EMOTIONS, FACES_SCHEMA, pack_bundle, unpack_bundles

HOLD_LIMITS_S = (0.5, 1.0, 2.0, 4.0)
"""Upper limits of the groups of expressions by their duration."""
MATCH_S = 0.11
"""Largest time difference between a face and its truth: a little more than half a sampling interval."""
REACHES = (1, 2, 4)
"""Sampled frames on each side that the moving averages include."""
RESAMPLES = 2000

Faces = dict[str, np.ndarray]


def find_faces(folder: Path, crop_scale: float) -> Faces:
    """Find the faces in a folder of videos, and match each with its truth.

    Arrays of n faces, by video, track and time: `crops` (n, 48, 48) uint8; `tracks` int64, apart over all
    videos; `times` float64, seconds; `video` int64, index into `names`; `boxes` and `true_boxes` (n, 4)
    float64, xyxy as shares of the frame; `label` int64, index into EMOTIONS; `slot`, `hold` int64, which
    face of the video and which of its expressions; `hold_s` float64, how long it lasts; `settled` bool. Faces
    that match no truth have label, slot and hold -1, and duration and true boxes NaN. And `names` (videos,)
    str, `true_moments` int64, how many there are.
    """
    config = AnalyzeConfig(segment_s=3600, bundle_s=3600)
    stage = FacesStage(config, crop_scale)
    truth = json.loads((folder / "truth.json").read_text())
    parts: list[Faces] = []
    names: list[str] = []
    tracks = 0
    sources = list_videos([str(folder)]).sources
    for number in range(len(sources)):
        video = probe_videos(sources.slice(number, 1))
        names.append(Path(str(video.column("uri")[0])).name)
        plan = plan_segments(video, config, 1.0, "", 1)
        rows = unpack_bundles(stage(pack_bundle("b", plan)), FACES_SCHEMA).to_pylist()
        found = [face for row in rows for face in row["faces"]]
        crops = np.frombuffer(b"".join(row["crops"] for row in rows), np.uint8)
        part: Faces = {
            "crops": crops.reshape(-1, CROP_SIZE_PX, CROP_SIZE_PX),
            "tracks": np.array([f["track"] for f in found], np.int64) + tracks,
            "times": np.array([f["time_s"] for f in found], np.float64),
            "video": np.full(len(found), len(names) - 1),
            "boxes": np.array([[f[f"box_{c}"] for c in ("x0", "y0", "x1", "y1")] for f in found]).reshape(
                -1, 4
            ),
        }
        part |= match(part["times"], part["boxes"], [t for t in truth if t["video"] == names[-1]])
        order = np.lexsort((part["times"], part["tracks"]))
        parts.append({name: values[order] for name, values in part.items()})
        tracks = int(part["tracks"].max(initial=tracks - 1)) + 1
        print(f"{names[-1]}: {len(found)} faces, {(part['label'] >= 0).sum()} of them true", flush=True)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} | {
        "names": np.array(names),
        "true_moments": np.array(len(truth)),
    }


def match(times: np.ndarray, boxes: np.ndarray, truth: list[dict[str, Any]]) -> Faces:
    """Match each face with the nearest truth within MATCH_S whose box contains its centre."""
    count = len(times)
    answer: Faces = {name: np.full(count, -1) for name in ("label", "slot", "hold")}
    answer |= {"settled": np.zeros(count, bool), "true_boxes": np.full((count, 4), np.nan)}
    answer["hold_s"] = np.full(count, np.nan)
    if not truth:
        return answer
    holds = number_holds(truth)
    moments = np.array([t["t"] for t in truth])
    held = np.array([[t[c] for c in ("x0", "y0", "x1", "y1")] for t in truth])
    for face in range(count):
        x, y = (boxes[face, :2] + boxes[face, 2:]) / 2
        inside = (held[:, 0] <= x) & (x <= held[:, 2]) & (held[:, 1] <= y) & (y <= held[:, 3])
        distance = np.where(inside, np.abs(moments - times[face]), np.inf)
        if distance.min() < MATCH_S:
            nearest = int(distance.argmin())
            known = truth[nearest]
            answer["label"][face] = EMOTIONS.index(known["emotion"])
            answer["slot"][face] = known["slot"]
            answer["hold"][face], answer["hold_s"][face] = holds[nearest], known["hold"]
            answer["settled"][face] = known["settled"]
            answer["true_boxes"][face] = held[nearest]
    return answer


def number_holds(truth: list[dict[str, Any]]) -> list[int]:
    """Number the expressions of each slot of a video, in the order of time; one number for each truth."""
    numbers: list[int] = []
    last: dict[int, tuple[tuple[str, float], int]] = {}
    for moment in truth:
        key = (moment["emotion"], moment["hold"])
        before, number = last.get(moment["slot"], (key, 0))
        last[moment["slot"]] = (key, number + (before != key))
        numbers.append(last[moment["slot"]][1])
    return numbers


def load_faces(path: Path) -> Faces:
    """Read a cache of `find_faces`."""
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


def averaged(probs: np.ndarray, faces: Mapping[str, np.ndarray], reach: int, rate_hz: float) -> np.ndarray:
    """Average `(n, C)` probabilities over `reach` sampled frames on each side within each track."""
    answer = np.empty_like(probs)
    for track in np.unique(faces["tracks"]):
        rows = np.flatnonzero(faces["tracks"] == track)
        index, length, _ = build_windows(faces["times"][rows], rate_hz, 2 * reach + 1)
        taken = np.where((index >= 0)[:, :, None], probs[rows][np.maximum(index, 0)], 0)
        answer[rows] = taken.sum(axis=1) / length[:, None]
    return answer


def held(probs: np.ndarray, faces: Mapping[str, np.ndarray]) -> np.ndarray:
    """Average `(n, C)` probabilities over each true expression, an upper bound for all methods."""
    answer = probs.copy()
    units = _units(faces)
    for unit in np.unique(units[units >= 0]):
        answer[units == unit] = probs[units == unit].mean(axis=0)
    return answer


def measure(
    probs: np.ndarray, faces: Mapping[str, np.ndarray], classes: tuple[str, ...] = EMOTIONS
) -> dict[str, Any]:
    """Measure accuracy and stability of `(n, C)` probabilities of `classes` for the n faces of a cache.

    Shares, 0–1: `settled` (accuracy on settled moments), `all` (on all), `balanced` (mean recall of the
    emotions, settled moments). Per second of a track: `flicker` (changes of the answer), `false_flicker`
    (those while one expression is held), `true_changes`. `by_hold`: accuracy on settled moments by the
    duration of the expression, up to each of `HOLD_LIMITS_S`.
    """
    known, right = faces["label"] >= 0, _right(probs, faces, classes)
    settled = known & faces["settled"]
    recalls = [right[settled & (faces["label"] == e)].mean() for e in np.unique(faces["label"][settled])]
    pairs, seconds = _pairs(faces)
    answer, units = probs.argmax(axis=1), _units(faces)
    change = answer[pairs] != answer[pairs + 1]
    steady = units[pairs] == units[pairs + 1]
    groups = np.searchsorted(HOLD_LIMITS_S, faces["hold_s"] - 1e-6)
    return {
        "settled": float(right[settled].mean()),
        "all": float(right[known].mean()),
        "balanced": float(np.mean(recalls)),
        "flicker": float(change.sum() / seconds),
        "false_flicker": float(change[steady].sum() / seconds),
        "true_changes": float((faces["label"][pairs] != faces["label"][pairs + 1]).sum() / seconds),
        "n_settled": int(settled.sum()),
        "n": int(known.sum()),
        "by_hold": {
            f"{limit:g}": float(right[settled & (groups == number)].mean())
            for number, limit in enumerate(HOLD_LIMITS_S)
            if (settled & (groups == number)).any()
        },
    }


def difference(
    one: np.ndarray, other: np.ndarray, faces: Mapping[str, np.ndarray], chosen: np.ndarray, seed: int = 0
) -> tuple[float, float, float]:
    """Return the difference of two `(n,) bool` accuracies over `chosen` faces, and its 95 % interval.

    Paired bootstrap over expressions, each with all its sampled frames.
    """
    units = np.unique(_units(faces)[chosen], return_inverse=True)[1]
    gain = np.bincount(units, one[chosen].astype(float) - other[chosen])
    size = np.bincount(units)
    draws = np.random.default_rng(seed).multinomial(len(size), np.full(len(size), 1 / len(size)), RESAMPLES)
    low, high = np.percentile((draws @ gain) / (draws @ size), [2.5, 97.5])
    return float(gain.sum() / size.sum()), float(low), float(high)


def _right(probs: np.ndarray, faces: Mapping[str, np.ndarray], classes: tuple[str, ...]) -> np.ndarray:
    names = np.array([EMOTIONS.index(c) if c in EMOTIONS else -2 for c in classes])
    return names[probs.argmax(axis=1)] == faces["label"]


def _units(faces: Mapping[str, np.ndarray]) -> np.ndarray:
    """Number the expressions by video, slot and time: `(n,)` for the faces, -1 for none."""
    return np.where(faces["hold"] >= 0, (faces["video"] * 100 + faces["slot"]) * 10000 + faces["hold"], -1)


def _pairs(faces: Mapping[str, np.ndarray]) -> tuple[np.ndarray, float]:
    """Return the first face of each neighbouring pair in a track and slot, and the seconds of all pairs."""
    same = np.ones(max(len(faces["label"]) - 1, 0), bool)
    for name in ("tracks", "slot"):
        same &= faces[name][:-1] == faces[name][1:]
    pairs = np.flatnonzero(same & (faces["label"][:-1] >= 0) & (faces["label"][1:] >= 0))
    return pairs, float((faces["times"][pairs + 1] - faces["times"][pairs]).sum())


def main() -> None:
    """Print a row for each method, the differences with intervals, and accuracy by age of the expression."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("videos", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cache = options.cache or (options.json.with_suffix(".npz") if options.json else None)
    if cache and cache.exists():
        faces = load_faces(cache)
    else:
        faces = find_faces(options.videos, load_checkpoint(options.checkpoint)[1].crop_scale)
        if cache:
            np.savez_compressed(cache, **faces)  # type: ignore[arg-type]
    recognizer = Recognizer(options.checkpoint)
    card, count = recognizer.card, len(faces["label"])
    wanted = np.ones(count, bool)
    single = recognizer.predict_tracks(faces["crops"], np.arange(count), faces["times"], wanted)
    answers = {"single": single}
    for reach in REACHES:
        answers[f"average ±{reach}"] = averaged(single, faces, reach, card.window_rate_hz)
    answers["windowed"] = recognizer.predict_tracks(faces["crops"], faces["tracks"], faces["times"], wanted)
    answers["(mean of hold)"] = held(single, faces)
    report = {name: measure(probs, faces, card.classes) for name, probs in answers.items()}
    first = report["single"]
    print(f"{first['n']} of {int(faces['true_moments'])} true moments found, {first['n_settled']} settled; ")
    print(f"{first['true_changes']:.2f} true changes per second of a track")
    print(f"{'':16}settled    all  balanced  flicker/s  of it false/s")
    for name, row in report.items():
        print(f"{name:16}{row['settled']:7.3f}{row['all']:7.3f}{row['balanced']:10.3f}", end="")
        print(f"{row['flicker']:11.2f}{row['false_flicker']:15.2f}")
    right = {name: _right(probs, faces, card.classes) for name, probs in answers.items()}
    known = faces["label"] >= 0
    gains: dict[str, dict[str, tuple[float, float, float]]] = {}
    print("windowed less …, points of accuracy (95 %)")
    for name in answers:
        if name != "windowed":
            gains[name] = {}
            for which, chosen in (("settled", known & faces["settled"]), ("all", known)):
                gain = difference(right["windowed"], right[name], faces, chosen)
                gains[name][which] = gain
            text = [
                f"{w} {100 * g[0]:+.1f} ({100 * g[1]:+.1f} to {100 * g[2]:+.1f})"
                for w, g in gains[name].items()
            ]
            print(f"{name:16}" + ", ".join(text))
    print("accuracy on settled moments by the duration of the expression, up to s")
    print(f"{'':16}" + "".join(f"{limit:>7}" for limit in first["by_hold"]))
    for name, row in report.items():
        print(f"{name:16}" + "".join(f"{value:7.3f}" for value in row["by_hold"].values()))
    if options.json:
        options.json.write_text(
            json.dumps({"model_id": card.model_id, "methods": report, "windowed_less": gains}, indent=1)
            + "\n"
        )


if __name__ == "__main__":
    main()
