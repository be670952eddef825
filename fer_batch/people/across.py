"""Number the persons of several videos together, from the means of each video's persons."""

import itertools
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.errors import InputError
from fer_batch.people.cluster import cluster_tracks
from fer_batch.people.number import NUMBERED_SCHEMA, number_persons
from fer_batch.schema import PERSON_GROUPS_SCHEMA

MAX_PERSONS = 20_000
"""Most persons of all videos that are compared. Their distances take 3 GB of memory."""
_KEYS = [PERSON_GROUPS_SCHEMA.field(name) for name in ("video_id", "version", "attempt")]
DESCRIBED_SCHEMA = pa.schema([*_KEYS, *NUMBERED_SCHEMA])
"""A track of `number.NUMBERED_SCHEMA` with the key of its video."""


def number_across_videos(tables: Iterable[pa.Table]) -> pa.Table:
    """Return rows of PERSON_GROUPS_SCHEMA in which a number means one person in all videos.

    `tables` have rows of DESCRIBED_SCHEMA, with means. Two persons of one video stay two persons.

    Raises InputError if the videos have more than MAX_PERSONS persons.
    """
    rows = pa.concat_tables([DESCRIBED_SCHEMA.empty_table(), *tables]).combine_chunks()
    videos = pc.index_in(rows.column("video_id"), pc.unique(rows.column("video_id"))).to_numpy()
    number = rows.column("number").fill_null(0).to_numpy().copy()
    numbered = number > 0
    keys, person = np.unique(np.stack([videos, number])[:, numbered], axis=1, return_inverse=True)
    if keys.shape[1] > MAX_PERSONS:
        raise InputError(
            f"the videos have {keys.shape[1]:,} persons, and at most {MAX_PERSONS:,} can be compared: "
            "group each video alone, or divide the videos into several runs"
        )
    seconds = np.bincount(person, rows.column("seconds").to_numpy()[numbered])
    faces = np.bincount(person, rows.column("faces").to_numpy()[numbered])
    means = rows.column("mean").filter(rows.column("mean").is_valid()).to_pylist()
    order = person[rows.column("mean").is_valid().filter(pa.array(numbered)).to_numpy()]
    descriptors = np.empty((len(faces), len(means[0]) if means else 0))
    descriptors[order] = means
    apart = (
        pair
        for first, end in itertools.pairwise(np.flatnonzero(np.diff(keys[0], prepend=-1, append=-1)).tolist())
        for pair in itertools.combinations(range(first, end), 2)
    )
    labels = cluster_tracks(descriptors, faces, apart=apart)
    number[numbered] = number_persons(labels, seconds)[person]
    rows = rows.drop_columns("number").append_column("number", pa.array(number, pa.int32(), mask=~numbered))
    rows = rows.append_column("across_videos", pa.repeat(True, len(rows)))
    return rows.select(PERSON_GROUPS_SCHEMA.names).cast(PERSON_GROUPS_SCHEMA)
