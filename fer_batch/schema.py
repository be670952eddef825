"""All tables of the project. Columns are added and, since schema 7, replaced; new columns are nullable.

Times are seconds since the video's first frame. Intervals include their start and exclude their end. Boxes
are fractions of the upright frame's width and height.
"""

from collections.abc import Callable, Sequence

import pyarrow as pa

SCHEMA_VERSION = 7
"""1: the first version.
2: adds `attempt` to PROBED_SCHEMA and VIDEOS_SCHEMA, and a snapshot to the tables.
3: adds `extra` to PROBED_SCHEMA and CONTAINER_COLUMNS to RESULTS_SCHEMA; `first_pts` may be null in a plan.
4: adds `offset` to PROBED_SCHEMA and PLAN_SCHEMA, and `bucket` to PROBED_SCHEMA.
5: adds `start_s` to PROBED_SCHEMA, RESULTS_SCHEMA and VIDEOS_SCHEMA, `step_s` to MOMENTS_SCHEMA and `tracks`,
and `file_version` to PROBED_SCHEMA.
6: adds `precision` and `detected_on` to RESULTS_SCHEMA and VIDEOS_SCHEMA.
7: replaces `yaw` by `yaw_deg` and `pitch_deg` in FACE_TYPE and `tracks`."""

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""The classes of the packaged model. The card of another checkpoint may have other classes."""

CLASS_SYNONYMS = {
    "afraid": "fear",
    "anger": "angry",
    "contemptuous": "contempt",
    "disgusted": "disgust",
    "fearful": "fear",
    "happiness": "happy",
    "joy": "happy",
    "joyful": "happy",
    "neutrality": "neutral",
    "sadness": "sad",
    "scared": "fear",
    "surprised": "surprise",
}
"""Other names of classes, in lower case, and the names that the project uses."""

MAX_CLASSES, MAX_CLASS_NAME_LENGTH = 100, 64
"""Limits of a model's classes; each is a column of `tracks`."""

VIDEO_STATUSES = ("ok", "no_faces", "no_video", "partial", "failed")


def _fields(**types: pa.DataType) -> list[pa.Field]:
    return [pa.field(name, kind) for name, kind in types.items()]


SOURCES_SCHEMA = pa.schema(
    _fields(
        video_id=pa.string(),
        version=pa.string(),
        uri=pa.string(),
        size_bytes=pa.int64(),
        offset=pa.int64(),
        error=pa.string(),
        duration_s=pa.float64(),
        extra=pa.string(),
        file_version=pa.string(),
    )
)
"""A listed video of which nothing has been read.

`video_id`: 16 hexadecimal digits, a hash of the uri. The same file has the same id in every run.
`version`: 16 hexadecimal digits, a hash of size and modification time, or of a manifest's value.
`file_version`: the hash of size and modification time if `version` is a manifest's, else null.
`uri`: an absolute path with links resolved, the address in a store as given, or ARCHIVE!/MEMBER. A path
that is not UTF-8 or contains control characters is a `file://` address in which all but plain letters and
digits are %XX.
`offset`: position of a member's header in its archive, in bytes.
`error`: the reason why the video cannot be read, if it is known.
`duration_s` and `extra` (a JSON object of the other columns): values of a manifest, or null."""

PROBED_SCHEMA = pa.schema(
    _fields(
        video_id=pa.string(),
        version=pa.string(),
        uri=pa.string(),
        size_bytes=pa.int64(),
        duration_s=pa.float64(),
        fps=pa.float64(),
        width=pa.int32(),
        height=pa.int32(),
        codec=pa.string(),
        first_pts=pa.int64(),
        status=pa.string(),
        error=pa.string(),
        attempt=pa.int32(),
        extra=pa.string(),
        round=pa.string(),
        offset=pa.int64(),
        bucket=pa.int32(),
        key_times_s=pa.list_(pa.float64()),
        start_s=pa.float64(),
        file_version=pa.string(),
    )
)
"""A probed video.

`status`: "ok" for a file with a video stream, else "no_video" or "failed".
`attempt`: number of times that the same version was planned again; null means 0.
`fps`, `width`, `height`, `codec`, `first_pts`, `start_s`: null if a manifest gave the duration, so the file
was not opened.
`start_s`: seconds from the start of the file, as players and subtitles count them, to the first frame.
`round`: the earlier planning round that contains the segments, if there is one.
`bucket`: the partition of the tables that contains the video's rows; null before the video is planned.
`key_times_s`: times of key frames, in order, if some are far apart; see `find_key_times`."""

_NOT_IN_VIDEOS = (
    "first_pts",
    "status",
    "error",
    "attempt",
    "extra",
    "round",
    "offset",
    "bucket",
    "key_times_s",
    "start_s",
    "file_version",
)

VIDEOS_SCHEMA = pa.schema(
    [f for f in PROBED_SCHEMA if f.name not in _NOT_IN_VIDEOS]
    + _fields(
        status=pa.string(),
        error=pa.string(),
        read_s=pa.float64(),
        moments=pa.int64(),
        moments_with_face=pa.int64(),
        tracks=pa.int32(),
        analyze_s=pa.float64(),
        bucket=pa.int32(),
        attempt=pa.int32(),
        start_s=pa.float64(),
        precision=pa.string(),
        detected_on=pa.string(),
    )
)
"""The table `videos`: an input and the outcome of its analysis.

`duration_s` is the container's statement. If it states none, it is `read_s` of a video that was read whole.
`start_s` is the time of the first frame in the file, as players and subtitles count it. All other times of
the tables count from the first frame, so that a player shows `time_s` at `time_s + start_s`.

`precision`: precision in which the faces were recognized. It is null for results of schema 5 and older, and
where segments differ or all have failed.

`detected_on`: whether pictures were searched on the CPU of a worker ("cpu"), by a detector of its node
("gpu"), or both ("cpu, gpu"). It is null for results of schema 5 and older, and where no picture was
searched."""

PLAN_SCHEMA = pa.schema(
    _fields(
        segment_id=pa.string(),
        bundle_id=pa.string(),
        video_id=pa.string(),
        version=pa.string(),
        uri=pa.string(),
        index=pa.int32(),
        segments=pa.int32(),
        start_s=pa.float64(),
        end_s=pa.float64(),
        core_start_s=pa.float64(),
        core_end_s=pa.float64(),
        first_pts=pa.int64(),
        offset=pa.int64(),
    )
)
"""A planned segment. The last one of a video (`index = segments - 1`) is read to the end of the file and
ignores `end_s`."""

MOMENT_TYPE = pa.struct(_fields(time_s=pa.float64(), frame_index=pa.int64(), faces=pa.int16()))
"""A sampled frame with its number of faces."""

FACE_TYPE = pa.struct(
    _fields(
        time_s=pa.float64(),
        frame_index=pa.int64(),
        track=pa.int32(),
        box_x0=pa.float32(),
        box_y0=pa.float32(),
        box_x1=pa.float32(),
        box_y1=pa.float32(),
        face_score=pa.float32(),
        face_px=pa.float32(),
        blur=pa.float32(),
        roll_deg=pa.float32(),
        yaw_deg=pa.float32(),
        pitch_deg=pa.float32(),
    )
)
"""A face in a sampled frame, before recognition.

`roll_deg`, `yaw_deg` and `pitch_deg` are estimates from five landmarks, see `fer_batch.vision.quality`. In
results of schema 6 and older `pitch_deg` is null, and `yaw_deg` is that of an upright head.

`frame_index` counts from the first frame of the segment's core and is -1 outside the core. `track` counts
from 0 in the segment."""

CONTAINER_COLUMNS = ("duration_s", "fps", "width", "height", "codec", "start_s")
"""Properties of the container, read with the first segment if the video was not probed."""

_SEGMENT_COLUMNS = ("segment_id", "video_id", "version", "index", "core_start_s", "core_end_s")
_SEGMENT_FIELDS = [
    *[f for f in PLAN_SCHEMA if f.name in _SEGMENT_COLUMNS],
    *_fields(
        status=pa.string(),
        error=pa.string(),
        read_s=pa.float64(),
        frames=pa.int64(),
        moments=pa.list_(MOMENT_TYPE),
        duration_s=pa.float64(),
        fps=pa.float64(),
        width=pa.int32(),
        height=pa.int32(),
        codec=pa.string(),
        start_s=pa.float64(),
    ),
]
_VISION_TIMINGS = _fields(decode_s=pa.float64(), detect_s=pa.float64(), crop_s=pa.float64())
_DETECTED_ON = pa.field("detected_on", pa.string())

FACES_SCHEMA = pa.schema(
    [
        *_SEGMENT_FIELDS,
        *_fields(faces=pa.list_(FACE_TYPE), crops=pa.large_binary()),
        *_VISION_TIMINGS,
        _DETECTED_ON,
    ]
)
"""The faces of a segment and their crops, `(len(faces), 48, 48) uint8` grey, as the vision stage returns
them."""

RESULTS_SCHEMA = pa.schema(
    [
        *_SEGMENT_FIELDS,
        *_fields(
            faces=pa.list_(pa.struct([*FACE_TYPE, pa.field("probs", pa.list_(pa.float32()))])),
            model_id=pa.string(),
        ),
        *_VISION_TIMINGS,
        *_fields(recognize_s=pa.float64(), precision=pa.string()),
        _DETECTED_ON,
    ]
)
"""The result of a segment. `status` is "ok", "partial" or "failed", `precision` one of `config.PrecisionName`
without "auto".

Faces outside the core have empty `probs`; they link the tracks of neighbouring segments."""

MOMENTS_SCHEMA = pa.schema(
    _fields(
        video_id=pa.string(),
        time_s=pa.float64(),
        frame_index=pa.int64(),
        faces=pa.int16(),
        step_s=pa.float64(),
        bucket=pa.int32(),
    )
)
"""The table `moments`: a sampled frame with its number of faces, also 0. Other frames were not sampled.

`step_s`: how long the frame lasts in seconds, see `fer_batch.run.steps`."""

PEOPLE_SCHEMA = pa.schema(
    _fields(
        video_id=pa.string(),
        version=pa.string(),
        attempt=pa.int32(),
        track_id=pa.int32(),
        person=pa.string(),
    )
)
"""The person that a track shows. It is valid for this version and attempt of the video only: another
analysis may number the tracks differently."""

PERSON_GROUPS_SCHEMA = pa.schema(
    _fields(
        video_id=pa.string(),
        version=pa.string(),
        attempt=pa.int32(),
        track_id=pa.int32(),
        number=pa.int32(),
        reason=pa.string(),
        across_videos=pa.bool_(),
    )
)
"""The number of the person that a track shows, or the reason why it has none.

The numbers count the persons of one video, or with `across_videos` those of the whole run, from 1 on by their
time in view. They are valid for this version and attempt of the video only, as the rows of PEOPLE_SCHEMA."""

_TRACK_FIELDS = _fields(video_id=pa.string(), uri=pa.string(), track_id=pa.int32())
_PREDICTION_FIELDS = _fields(emotion=pa.string(), confidence=pa.float32())

RESERVED_COLUMNS = frozenset(
    f.name for f in (*VIDEOS_SCHEMA, *MOMENTS_SCHEMA, *FACE_TYPE, *_TRACK_FIELDS, *_PREDICTION_FIELDS)
) | {"model_id", "yaw"}
"""Names that a manifest's own columns cannot have in the tables. `yaw` is a column of older tables."""


def rename_reserved(name: str) -> str:
    """Return the name of a manifest's column in the tables; old runs may have names that are reserved now."""
    return f"manifest_{name}" if name in RESERVED_COLUMNS or name.startswith("p_") else name


def tracks_schema(classes: tuple[str, ...]) -> pa.Schema:
    """Return the schema of the table `tracks` (a face in a sampled frame) for a model's classes.

    `step_s`: how long the sampled frame lasts in seconds, see `fer_batch.run.steps`.
    """
    return pa.schema(
        [
            *_TRACK_FIELDS,
            *[f for f in FACE_TYPE if f.name != "track"],
            *_PREDICTION_FIELDS,
            *[pa.field(probability_column(name), pa.float32()) for name in classes],
            *_fields(model_id=pa.string(), step_s=pa.float64(), bucket=pa.int32()),
        ]
    )


def probability_column(name: str) -> str:
    """Return the column of a class's probability: `p_` and the name in lower case.

    All characters except letters and digits become "_".
    """
    return "p_" + "".join(c if c.isalnum() else "_" for c in name.lower())


def find_class_problem(names: Sequence[str]) -> str | None:
    """Describe why `names` cannot be the classes of a model; None if they can.

    The classes are names in tables and on terminals, and name the `p_…` columns.
    """
    if not 2 <= len(names) <= MAX_CLASSES:
        return f"must be 2 to {MAX_CLASSES} names, got {len(names)}"
    used: dict[str, str] = {}
    for name in names:
        fits = 0 < len(name) <= MAX_CLASS_NAME_LENGTH and name.isprintable() and name == name.strip()
        if not fits or not any(character.isalnum() for character in name):
            return (
                f"must be names of 1 to {MAX_CLASS_NAME_LENGTH} printable characters with a letter or digit "
                f"and without spaces at either end, got {name[:MAX_CLASS_NAME_LENGTH]!r}"
            )
        column = probability_column(name)
        if column in used:
            return f"must name different columns, but {used[column]!r} and {name!r} are both {column}"
        used[column] = name
    return None


def conform_table(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Convert a table of an earlier schema version to `schema`; columns that it lacks are null."""
    if table.schema.equals(schema):
        return table.replace_schema_metadata(None)
    columns = [
        table.column(f.name).cast(f.type) if f.name in table.column_names else pa.nulls(len(table), f.type)
        for f in schema
    ]
    return pa.table(columns, schema=schema)


def bundle_schema(rows: pa.Schema) -> pa.Schema:
    """Return the schema of a table with one bundle per row, whose rows are a list of structs.

    Such tables cross between the stages of the pipeline.
    """
    return pa.schema(
        [pa.field("bundle_id", pa.string()), pa.field("segments", pa.list_(pa.struct(list(rows))))]
    )


def pack_bundle(bundle_id: str, rows: pa.Table) -> pa.Table:
    """Pack the rows of one bundle into a table of one row, see `bundle_schema`."""
    struct = rows.combine_chunks().to_struct_array()
    if isinstance(struct, pa.ChunkedArray):
        struct = struct.combine_chunks()
    segments = pa.ListArray.from_arrays(pa.array([0, len(struct)], pa.int32()), struct)
    schema = bundle_schema(rows.schema)
    return pa.table([pa.array([bundle_id]), segments.cast(schema.field("segments").type)], schema=schema)


def unpack_bundles(bundles: pa.Table, rows: pa.Schema) -> pa.Table:
    """Unpack all rows, of the schema `rows`, of a table of bundles."""
    segments = pa.chunked_array(
        [chunk.flatten() for chunk in bundles.column("segments").chunks], type=pa.struct(list(rows))
    )
    return pa.Table.from_struct_array(segments).cast(rows)


def map_bundles(
    bundles: pa.Table, rows: pa.Schema, output_rows: pa.Schema, function: Callable[[pa.Table], pa.Table]
) -> pa.Table:
    """Apply a function to the rows of each bundle, and pack the returned rows into a bundle with its id.

    The function maps rows of the schema `rows` to rows of `output_rows`.
    """
    tables = [bundle_schema(output_rows).empty_table()]
    for number, bundle_id in enumerate(bundles.column("bundle_id").to_pylist()):
        unpacked = unpack_bundles(bundles.slice(number, 1), rows)
        tables.append(pack_bundle(bundle_id, function(unpacked)))
    return pa.concat_tables(tables)
