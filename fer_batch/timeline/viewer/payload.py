"""The data of a video's page, packed for the browser; `data.js` unpacks it."""

import datetime
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from fer_batch.plotting import pick_colour, pick_text_colour
from fer_batch.schema import probability_column
from fer_batch.timeline.cells import divide_videos
from fer_batch.timeline.database import Database
from fer_batch.timeline.names import file_name
from fer_batch.timeline.sql import ROW_END_S, probability_columns
from fer_batch.timeline.views import MIN_CONFIDENCE, MIN_EPISODE_S, episodes_sql
from fer_batch.video.pictures import is_picture

BOX_COLUMNS = ("box_x0", "box_y0", "box_x1", "box_y1")
STRIP_CELLS = 800
"""Cells of the strip above the lanes: one for about two pixels of a wide window."""
NO_EMOTION = 255
"""The class number of rows without an emotion."""


def pack_video(database: Database, video_id: str, *, boxes: bool) -> bytes:
    """Pack everything that a video's page shows, except for its pictures.

    The result is that of `pack_arrays`, with these arrays:

    - `times`: times of sampled frames in ms, as differences to the one before, `(moments,) uint32`;
    - `steps`: how long each sampled frame lasts in ms, `(moments,) uint32`;
    - `moments`: the number of each row's sampled frame, for rows of `tracks` in order of track and time, as
      differences to the row before in its track, `(rows,) uint32`;
    - `box`: shares of the picture in 1/65535, `(rows, 4) uint16`, empty without `boxes`;
    - `emotion`: class numbers, `(rows,) uint8`;
    - `strip`: the numbers of cells of all faces, see `fer_batch.timeline.cells`, `(cells,) uint8`;
    - `probs`: probabilities in 1/255, so within 0.002, `(classes, rows) uint8`.
    """

    database = database.narrow([video_id])

    def query(sql: str) -> pa.Table:
        return database.sql(sql, {"id": video_id}).to_arrow_table()

    box_columns, columns = BOX_COLUMNS if boxes else (), probability_columns(database)
    rows = query(
        f"SELECT track_id, person, time_s, emotion, {', '.join((*columns, *box_columns))} FROM tracks "
        "WHERE video_id = $id ORDER BY track_id, time_s"
    )
    sampled = query(
        f"SELECT time_s, max({ROW_END_S}) AS end_s FROM moments WHERE video_id = $id GROUP BY 1 ORDER BY 1"
    )
    times_ms, ends_ms = (_to_ms(sampled.column(name)) for name in ("time_s", "end_s"))
    next_ms = np.append(times_ms[1:], -1)
    ends_ms = np.where(np.abs(next_ms - ends_ms) <= 1, next_ms, ends_ms)  # adjoining ones, despite rounding
    moments = np.searchsorted(times_ms, _to_ms(rows.column("time_s")))
    tracks, first_rows, counts = np.unique(
        rows.column("track_id").to_numpy(), return_index=True, return_counts=True
    )
    differences = np.diff(moments, prepend=0)
    differences[first_rows] = moments[first_rows]
    cells = divide_videos(database, [video_id], STRIP_CELLS)[video_id]
    # Arrays of wider numbers come first, so that each begins at a multiple of its number's width.
    arrays = {
        "times": np.diff(times_ms, prepend=0).astype("<u4"),
        "steps": (ends_ms - times_ms).astype("<u4"),
        "moments": differences.astype("<u4"),
        "box": _quantize([rows.column(name) for name in box_columns], 65535, "<u2").T,
        "emotion": number_classes(rows.column("emotion"), database.classes),
        "strip": cells.number(),
        "probs": _quantize([rows.column(name) for name in columns], 255, "u1"),
    }
    video = query("SELECT * FROM videos WHERE video_id = $id")
    facts = {name: _to_json_value(value[0]) for name, value in video.to_pydict().items()}
    rounded = ", ".join(
        f"round({name}::DOUBLE, 3) AS {name}" for name in ("start_s", "end_s", "peak_s", "peak")
    )
    episodes = query(
        f"SELECT track_id, person, emotion, {rounded} FROM ({episodes_sql(where='video_id = $id')}) "
        "ORDER BY start_s, track_id"
    )
    persons = rows.column("person").take(pa.array(first_rows)).to_pylist()
    header = {
        "video_id": video_id,
        "name": file_name(str(facts["uri"])),
        "is_picture": is_picture(str(facts["uri"])),
        "facts": facts,
        **describe_classes(database.classes),
        "tracks": [
            {"id": int(track), "person": person, "rows": int(count)}
            for track, person, count in zip(tracks, persons, counts, strict=True)
        ],
        "episodes": episodes.drop_columns("emotion").to_pydict()
        | {"kind": number_classes(episodes.column("emotion"), database.classes).tolist()},
        "length_s": cells.length_s,
        "face_filter": database.face_filter,
        "partial": str(database.partial or ""),
        "episodes_are": {"threshold": MIN_CONFIDENCE, "min_s": MIN_EPISODE_S},
    }
    return pack_arrays(header, arrays)


def pack_arrays(header: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """Pack a JSON object and arrays, of which those of wider numbers must come first.

    The result is four bytes with the length of the object, the object, and the arrays, all little-endian. The
    object's `arrays` lists the arrays in order, with their type and length.
    """
    described = {name: [array.dtype.name, array.size] for name, array in arrays.items()}
    header = {**header, "arrays": described}
    text = json.dumps(header, ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    body = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays.values())
    return len(text).to_bytes(4, "little") + text + body


def describe_classes(classes: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the names of classes, their colours, and the colours of text on these."""
    colours = [pick_colour(name, classes) for name in classes]
    return {"classes": list(classes), "colours": colours, "inks": list(map(pick_text_colour, colours))}


def number_classes(emotions: pa.ChunkedArray, classes: tuple[str, ...]) -> np.ndarray:
    """Return the class number of each emotion, `(rows,) uint8`, `NO_EMOTION` for other names and null."""
    numbers = {probability_column(name): number for number, name in enumerate(classes)}
    names = emotions.combine_chunks().dictionary_encode()
    table = [
        NO_EMOTION if name is None else numbers.get(probability_column(name), NO_EMOTION)
        for name in names.dictionary.to_pylist()
    ]
    return np.array([*table, NO_EMOTION], np.uint8)[names.indices.fill_null(len(table)).to_numpy()]


def _to_ms(seconds: pa.ChunkedArray) -> np.ndarray:
    return np.rint(seconds.to_numpy() * 1000).astype(np.int64)


def _quantize(columns: list[pa.ChunkedArray], steps: int, dtype: str) -> np.ndarray:
    """Round columns of 0 to 1 to multiples of 1/`steps`, `(columns, rows)`; missing values are 0."""
    values = np.array([column.to_numpy() for column in columns], np.float32)
    return np.rint(np.clip(np.nan_to_num(values), 0, 1) * steps).astype(dtype)


def _to_json_value(value: Any) -> Any:
    """Replace values that JSON lacks: infinity by null, dates by text."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, datetime.date | datetime.datetime):
        return value.isoformat()
    return value
