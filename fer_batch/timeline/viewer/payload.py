"""The data of a video's page, packed for the browser."""

import datetime
import json
import math
from typing import Any

import numpy as np
import pyarrow as pa

from fer_batch.plotting import pick_colour, pick_text_colour
from fer_batch.schema import probability_column
from fer_batch.timeline.database import Database
from fer_batch.timeline.names import file_name
from fer_batch.timeline.views import MIN_CONFIDENCE, MIN_EPISODE_S, episodes_sql

BOXES = ("box_x0", "box_y0", "box_x1", "box_y1")
NO_EMOTION = 255
EPISODE_COLUMNS = ("track_id", "person", "emotion", "start_s", "end_s", "peak_s", "peak")


def pack_video(timeline: Database, video_id: str, *, boxes: bool) -> bytes:
    """All that the page shows of a video but its pictures, as data.js reads it.

    Four bytes with the length of a JSON object (little-endian, as all that follows), the object, and arrays
    at the places that it names, in bytes from the beginning:

    - `times`: moments in ms, each the difference to the one before, `(moments,) uint32`;
    - `moments`: of each row of `tracks`, in order of track and time, which moment it is of, `(rows,) uint32`,
      the difference to the row before in its track;
    - `box`: shares of the picture in 1/65535, `(rows, 4) uint16`, where `boxes` are asked for;
    - `emotion`: number of the class, 255 for none, `(rows,) uint8`;
    - `probs`: probabilities in 1/255, so within 0.002, `(classes, rows) uint8`.
    """

    def asked(query: str) -> pa.Table:
        return timeline.sql(query, {"id": video_id}).to_arrow_table()

    columns = [probability_column(name) for name in timeline.classes]
    wanted = ", ".join(f'"{name}"' for name in (*columns, *(BOXES if boxes else ())))
    rows = asked(
        f"SELECT track_id, person, time_s, emotion, {wanted} FROM tracks WHERE video_id = $id "
        "ORDER BY track_id, time_s"
    )
    looked = asked("SELECT time_s FROM moments WHERE video_id = $id")
    video = asked("SELECT * FROM videos WHERE video_id = $id")
    episodes = asked(
        f"SELECT {', '.join(EPISODE_COLUMNS)} FROM ({episodes_sql(where='video_id = $id')}) "
        "ORDER BY start_s, track_id"
    )

    row_ms = _ms(rows.column("time_s"))
    times, moments = np.unique(np.concatenate([_ms(looked.column("time_s")), row_ms]), return_inverse=True)
    moments = moments[len(looked) :]
    tracks, first, counts = np.unique(
        rows.column("track_id").to_numpy(), return_index=True, return_counts=True
    )
    deltas = np.diff(moments, prepend=0)
    deltas[first] = moments[first]
    arrays = {
        "times": np.diff(times, prepend=0).astype("<u4"),
        "moments": deltas.astype("<u4"),
        "box": _quantized([rows.column(name) for name in BOXES if boxes], 65535, "<u2").T,
        "emotion": class_numbers(rows.column("emotion"), timeline.classes),
        "probs": _quantized([rows.column(name) for name in columns], 255, "u1"),
    }
    facts = {name: _plain(value[0]) for name, value in video.to_pydict().items()}
    header = {
        "video_id": video_id,
        "name": file_name(str(facts["uri"])),
        "facts": facts,
        "classes": list(timeline.classes),
        "colours": [pick_colour(name, timeline.classes) for name in timeline.classes],
        "inks": [pick_text_colour(pick_colour(name, timeline.classes)) for name in timeline.classes],
        "step_s": timeline.step_s(video_id),
        "tracks": [
            {"id": int(track), "person": person, "rows": int(count)}
            for track, person, count in zip(
                tracks, rows.column("person").take(pa.array(first)).to_pylist(), counts, strict=True
            )
        ],
        "episodes": {
            name: [round(value, 3) if isinstance(value, float) else value for value in values]
            for name, values in episodes.drop_columns("emotion").to_pydict().items()
        }
        | {"kind": class_numbers(episodes.column("emotion"), timeline.classes).tolist()},
        "episodes_are": {"threshold": MIN_CONFIDENCE, "min_s": MIN_EPISODE_S},
    }
    return _packed(header, arrays)


def _ms(seconds: pa.ChunkedArray) -> np.ndarray:
    return np.rint(seconds.to_numpy() * 1000).astype(np.int64)


def _quantized(columns: list[pa.ChunkedArray], most: int, kind: str) -> np.ndarray:
    """Columns of 0 to 1, `(columns, rows)`, in parts of `most`; what is missing is 0."""
    values = np.array([column.to_numpy() for column in columns], np.float32)
    return np.rint(np.clip(np.nan_to_num(values), 0, 1) * most).astype(kind)


def class_numbers(emotions: pa.ChunkedArray, classes: tuple[str, ...]) -> np.ndarray:
    columns = [probability_column(name) for name in classes]
    words = emotions.combine_chunks().dictionary_encode()
    known = [
        columns.index(probability_column(word))
        if word and probability_column(word) in columns
        else NO_EMOTION
        for word in words.dictionary.to_pylist()
    ]
    return np.array([*known, NO_EMOTION], np.uint8)[words.indices.fill_null(len(known)).to_numpy()]


def _packed(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """Arrays of wider numbers first: each then begins where its kind of number may."""
    sizes = {name: [array.dtype.name, array.size] for name, array in arrays.items()}
    text = json.dumps(header | {"arrays": sizes}, ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    return len(text).to_bytes(4, "little") + text + body


def _plain(value: Any) -> Any:
    """JSON has neither infinity nor dates."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime.date | datetime.datetime):
        return value.isoformat()
    return value
