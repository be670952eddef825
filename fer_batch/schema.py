"""Every table of the project, written down once. Columns are only ever added, and new ones are nullable.

Times are seconds since the video's first presentation timestamp. Ranges are half-open. Boxes are shares of
the upright frame's width and height.
"""

import pyarrow as pa

SCHEMA_VERSION = 4
"""1: as it was at first. 2: `attempt` in PROBED_SCHEMA_SCHEMA_SCHEMA_SCHEMA and
VIDEOS_SCHEMA_SCHEMA_SCHEMA_SCHEMA; the tables have a snapshot. 3: `extra` in
PROBED_SCHEMA_SCHEMA_SCHEMA_SCHEMA, what the container says in RESULTS_SCHEMA_SCHEMA_SCHEMA_SCHEMA; a plan
may lack `first_pts`. 4: `offset` in PROBED_SCHEMA_SCHEMA_SCHEMA_SCHEMA and
PLAN_SCHEMA_SCHEMA_SCHEMA_SCHEMA, `bucket` in PROBED_SCHEMA.
"""

EMOTIONS = ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise")
"""The classes of the packaged model. Another checkpoint's card may name others."""

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
    )
)
"""One input video, before anything of it is read.

`video_id`: 16 hex digits, a hash of the uri: the same file has the same id in every run. `version`: 16 hex
digits, a hash of size and modification time, or of what a manifest says. `uri`: absolute path, links
resolved; one that is not UTF-8 or has control characters (line breaks) in it is a `file://` address, with
those and all else but plain letters and digits as %XX; a store's address is as it was given, and a member of
an archive is ARCHIVE!/MEMBER, with `offset`, the place of its header there in bytes. `error`: why it can't be
read, where that shows already. `duration_s` and `extra` (a JSON object of its owner's columns) are what a
manifest says, or null."""

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
    )
)
"""One input as probed: `status` is "ok" where it has a video stream to read, else "no_video" or "failed".
`attempt` counts how often the same version has been planned again; null is 0. Where a manifest said how long
it is, it was not opened: `fps`, `width`, `height`, `codec` and `first_pts` are null. `round` names the part
of the plan that has its segments, where that is an earlier one. `bucket` is the part of the tables that its
rows are in, null before the plan has it."""

_NOT_IN_VIDEOS = ("first_pts", "status", "error", "attempt", "extra", "round", "offset", "bucket")

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
    )
)
"""One input and how it ended."""

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
"""One segment to do. The last of a video (`index = segments - 1`) is read to the end of the file, whatever
`end_s`."""

MOMENT_TYPE = pa.struct(_fields(time_s=pa.float64(), frame_index=pa.int64(), faces=pa.int16()))

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
        yaw=pa.float32(),
    )
)
"""A face at a moment, as vision leaves it. `frame_index` counts from the first frame of the segment's core
and is -1 outside it; `track` counts from 0 within the segment."""

_SEGMENT = [
    *[
        f
        for f in PLAN_SCHEMA
        if f.name in ("segment_id", "video_id", "version", "index", "core_start_s", "core_end_s")
    ],
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
    ),
]
_TIMINGS = _fields(decode_s=pa.float64(), detect_s=pa.float64(), crop_s=pa.float64())

CONTAINER_COLUMNS = ("duration_s", "fps", "width", "height", "codec")
"""What a video's container says, where that was not asked before it was looked at."""

FACES_SCHEMA = pa.schema([*_SEGMENT, *_fields(faces=pa.list_(FACE_TYPE), crops=pa.large_binary()), *_TIMINGS])
"""A segment's faces with their crops, `(len(faces), 48, 48) uint8` grey, as they cross from vision to the
model."""

RESULTS_SCHEMA = pa.schema(
    [
        *_SEGMENT,
        *_fields(
            faces=pa.list_(pa.struct([*FACE_TYPE, pa.field("probs", pa.list_(pa.float32()))])),
            model_id=pa.string(),
        ),
        *_TIMINGS,
        *_fields(recognize_s=pa.float64()),
    ]
)
"""A segment's answer. `status` is "ok", "partial" or "failed"; faces outside the core have empty `probs`:
they serve to link tracks across the seams."""

MOMENTS_SCHEMA = pa.schema(
    _fields(
        video_id=pa.string(), time_s=pa.float64(), frame_index=pa.int64(), faces=pa.int16(), bucket=pa.int32()
    )
)
"""A moment that was looked at, with the number of faces found: "no face" and "not looked at" differ."""

PEOPLE_SCHEMA = pa.schema(
    _fields(
        video_id=pa.string(),
        version=pa.string(),
        attempt=pa.int32(),
        track_id=pa.int32(),
        person=pa.string(),
    )
)
"""Who a track is. It holds for this version and attempt of the video alone: its next analysis may number
tracks otherwise."""


_TRACK = _fields(video_id=pa.string(), uri=pa.string(), track_id=pa.int32())
_ANSWER = _fields(emotion=pa.string(), confidence=pa.float32())

RESERVED_COLUMNS = frozenset(
    f.name for f in (*VIDEOS_SCHEMA, *MOMENTS_SCHEMA, *FACE_TYPE, *_TRACK, *_ANSWER)
) | {"model_id"}
"""Names that no column of a manifest's owner has in the tables."""


def conform_table(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A table as an earlier version wrote it in the columns of `schema`: those it lacks are null."""
    if table.schema.equals(schema):
        return table.replace_schema_metadata(None)
    columns = [
        table.column(f.name).cast(f.type) if f.name in table.column_names else pa.nulls(len(table), f.type)
        for f in schema
    ]
    return pa.table(columns, schema=schema)


def bundle_schema(rows: pa.Schema) -> pa.Schema:
    """What crosses between stages: a row a bundle, its segments a list of structs."""
    return pa.schema(
        [pa.field("bundle_id", pa.string()), pa.field("segments", pa.list_(pa.struct(list(rows))))]
    )


def pack_bundle(bundle_id: str, rows: pa.Table) -> pa.Table:
    """The rows of one bundle as a table of one row."""
    struct = rows.combine_chunks().to_struct_array()
    if isinstance(struct, pa.ChunkedArray):
        struct = struct.combine_chunks()
    segments = pa.ListArray.from_arrays(pa.array([0, len(struct)], pa.int32()), struct)
    schema = bundle_schema(rows.schema)
    return pa.table([pa.array([bundle_id]), segments.cast(schema.field("segments").type)], schema=schema)


def unpack_bundles(bundle: pa.Table, rows: pa.Schema) -> pa.Table:
    """The rows of all bundles in a table of bundles."""
    segments = pa.chunked_array(
        [chunk.flatten() for chunk in bundle.column("segments").chunks], type=pa.struct(list(rows))
    )
    return pa.Table.from_struct_array(segments).cast(rows)


def probability_column(name: str) -> str:
    """Column of a class's probability: `p_` and its name, in lower case, with _ for all but letters and
    digits.
    """
    return "p_" + "".join(c if c.isalnum() else "_" for c in name.lower())


def tracks_schema(classes: tuple[str, ...]) -> pa.Schema:
    """A face at a moment, as people query it, for a model of these classes."""
    return pa.schema(
        [
            *_TRACK,
            *[f for f in FACE_TYPE if f.name != "track"],
            *_ANSWER,
            *[pa.field(probability_column(name), pa.float32()) for name in classes],
            *_fields(model_id=pa.string(), bucket=pa.int32()),
        ]
    )
