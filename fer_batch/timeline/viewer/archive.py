"""The data of a report of all videos, packed for the browser; `archive-report.js` unpacks it."""

import numpy as np

from fer_batch.timeline.cells import divide_videos
from fer_batch.timeline.database import Database
from fer_batch.timeline.names import file_name, natural_key
from fer_batch.timeline.sql import IS_NUMBERED, LENGTH_S
from fer_batch.timeline.viewer.catalogue import STRIP_CELLS
from fer_batch.timeline.viewer.payload import NO_EMOTION, describe_classes, number_classes, pack_arrays

VIDEOS_PER_QUERY = 1000
"""Videos whose cells are in memory at a time."""


def pack_archive(database: Database) -> bytes:
    """Pack everything that the report of a run shows, as `pack_arrays` does.

    The object has `videos`, the columns of the table by name, in order of the videos' addresses; `shares`,
    the number of rows of each class; and `persons`, the same of each person by name. Persons that have only
    a number within a video are left out. The arrays are, with one row for each video:

    - `counts`: the number of rows of each class, `(videos, classes) uint32`;
    - `strips`: the numbers of cells of all faces, see `fer_batch.timeline.cells`, `(videos, cells) uint8`.
    """
    videos = database.run_trusted(f"""
        SELECT video_id, uri, status, error, nullif({LENGTH_S}, 0)::DOUBLE AS length_s,
               moments_with_face / nullif(moments, 0) AS with_face, coalesce(tracks, 0) AS tracks, person
        FROM videos ORDER BY uri""").to_arrow_table()
    ids = videos.column("video_id").to_pylist()
    of_videos, of_persons = _count_emotions(database, ids)
    columns = videos.drop_columns("video_id").to_pydict()
    columns["length_s"] = [round(length_s, 1) if length_s else None for length_s in columns["length_s"]]
    columns["with_face"] = [None if share is None else round(share, 4) for share in columns["with_face"]]
    columns["name"] = [file_name(uri) for uri in columns["uri"]]
    header = {
        "run": database.out.name,
        "partial": str(database.partial or ""),
        "face_filter": database.face_filter,
        **describe_classes(database.classes),
        "cells": STRIP_CELLS,
        "videos": columns,
        "shares": of_videos.sum(axis=0).tolist(),
        "persons": [
            {"name": name, "counts": of_persons[name].tolist()}
            for name in sorted(of_persons, key=natural_key)
        ],
    }
    return pack_arrays(header, {"counts": of_videos.astype("<u4"), "strips": _read_strips(database, ids)})


def _count_emotions(database: Database, ids: list[str]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Count the rows of each class: `(videos, classes) int64`, and `(classes,) int64` by person."""
    local = f"{IS_NUMBERED} AND {str(database.numbers_are_local).lower()}"
    rows = database.run_trusted(f"""
        SELECT video_id, if({local}, NULL, person) AS person, emotion, count(*) AS n
        FROM tracks GROUP BY ALL""").to_arrow_table()
    number = {video_id: row for row, video_id in enumerate(ids)}
    of_videos = np.zeros((len(ids), len(database.classes)), np.int64)
    of_persons: dict[str, np.ndarray] = {}
    kinds = number_classes(rows.column("emotion"), database.classes).tolist()
    keys = (rows.column(name).to_pylist() for name in ("video_id", "person", "n"))
    for video_id, person, n, kind in zip(*keys, kinds, strict=True):
        if kind == NO_EMOTION:
            continue
        of_videos[number[video_id], kind] += n
        if person is not None:
            of_persons.setdefault(person, np.zeros(len(database.classes), np.int64))[kind] += n
    return of_videos, of_persons


def _read_strips(database: Database, ids: list[str]) -> np.ndarray:
    """Return the numbers of the cells of each video, `(videos, STRIP_CELLS) uint8`."""
    strips = np.empty((len(ids), STRIP_CELLS), np.uint8)
    for first in range(0, len(ids), VIDEOS_PER_QUERY):
        part = ids[first : first + VIDEOS_PER_QUERY]
        cells = divide_videos(database, part, STRIP_CELLS)
        for row, video_id in enumerate(part, first):
            strips[row] = cells[video_id].number()  # a video without a length has one cell
    return strips
