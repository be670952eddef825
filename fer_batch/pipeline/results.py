"""What is done: one file a bundle, whole or absent."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ray.data import Datasink

from fer_batch.errors import OutputError
from fer_batch.files import write_parquet
from fer_batch.schema import RESULTS, from_bundle


class ResultsSink(Datasink[None]):
    """Writes each finished bundle of `bundled(RESULTS)` to `results/<bundle_id>.parquet`, a row a segment.

    A retry overwrites the file with the same answers: a bundle's id is a hash of all that they depend on.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> None:
        for block in blocks:
            for number in range(block.num_rows):
                write_result(self.folder, block.slice(number, 1))


def write_result(folder: Path, bundle: pa.Table) -> None:
    """Write one bundle of `bundled(RESULTS)`; its totals stand in the file's metadata, for progress."""
    rows = from_bundle(bundle, RESULTS)
    index = pc.struct_field(pc.list_flatten(rows.column("faces")), "frame_index")
    faces = pc.sum(pc.greater_equal(index, 0)).as_py() or 0
    write_parquet(folder / f"{bundle.column('bundle_id')[0]}.parquet", rows, {"faces": str(faces)})


def done_bundles(folder: Path) -> set[str]:
    """Ids of the bundles that are done."""
    return {path.stem for path in folder.glob("*.parquet") if not path.name.startswith(".")}


def faces_found(folder: Path, bundle_id: str) -> int:
    """Faces in the cores of a finished bundle, from its file's metadata alone."""
    metadata = pq.read_metadata(folder / f"{bundle_id}.parquet").metadata or {}
    return int(metadata.get(b"faces", b"0"))


def read_results(folder: Path, bundle_ids: Iterable[str], video_ids: set[str]) -> pa.Table:
    """The segments of these videos among these bundles, rows of `schema.RESULTS`."""
    wanted = pa.array(sorted(video_ids), pa.string())
    filters = pc.field("video_id").isin(wanted)
    parts = []
    for path in (folder / f"{bundle_id}.parquet" for bundle_id in sorted(bundle_ids)):
        try:
            parts.append(pq.read_table(path, filters=filters).cast(RESULTS))
        except (pa.ArrowException, OSError) as error:
            raise OutputError(
                f"{path} can't be read ({error}); remove it and run `fer-batch analyze` again"
            ) from error
    return pa.concat_tables([RESULTS.empty_table(), *parts])
