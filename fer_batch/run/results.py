"""What is done: one file a bundle, whole or absent."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.errors import OutputError
from fer_batch.faults import fault_point
from fer_batch.schema import RESULTS_SCHEMA, conform_table, unpack_bundles
from fer_batch.storage.atomic import content, is_in_store, names_in, source, write_parquet

READERS = 8
"""Files that are read at once: a network's file system takes milliseconds for each."""


def process_bundles(folder: Path, bundles: pa.Table, work: Callable[[pa.Table], pa.Table]) -> pa.Table:
    """Take bundles through `work`, which makes `bundle_schema(RESULTS_SCHEMA)` of them, and write each to
    `results/<bundle_id>.parquet`; their ids.

    One whose file is there is left alone: it is taken again as its worker was lost before that could tell. A
    store is not asked, since each look there is a request.
    """
    names = bundles.column("bundle_id").to_pylist()
    left = [is_in_store(folder) or not (folder / f"{name}.parquet").exists() for name in names]
    answers = work(bundles.filter(pa.array(left, pa.bool_())))
    for number in range(answers.num_rows):
        write_bundle(folder, answers.slice(number, 1))
    return bundles.select(["bundle_id"])


def write_bundle(folder: Path, bundle: pa.Table) -> None:
    """Write one bundle of `bundle_schema(RESULTS_SCHEMA)`, a row a segment; its totals stand in the file's
    metadata, for progress. A retry overwrites it with the same: a bundle's id is a hash of all that its
    answers depend on.
    """
    rows = unpack_bundles(bundle, RESULTS_SCHEMA)
    index = pc.struct_field(pc.list_flatten(rows.column("faces")), "frame_index")
    faces = pc.sum(pc.greater_equal(index, 0)).as_py() or 0
    path = folder / f"{bundle.column('bundle_id')[0]}.parquet"
    write_parquet(path, rows, {"faces": str(faces)}, "results")
    fault_point("results.renamed")


def list_done_bundles(folder: Path) -> set[str]:
    """Ids of the bundles that are done."""
    names = names_in(folder)
    return {name.removesuffix(".parquet") for name in names if name.endswith(".parquet") and name[0] != "."}


def remove_damaged_bundles(folder: Path, bundle_ids: Iterable[str]) -> None:
    """Remove those of these bundles' files that a disk has torn, so that they are to do again.

    Only their ends are read: what is damaged elsewhere is found by `read_results`.
    """
    names = list_done_bundles(folder).intersection(bundle_ids)
    with ThreadPoolExecutor(READERS) as threads:
        for _ in threads.map(_remove_damaged, [folder / f"{name}.parquet" for name in names]):
            pass


def _remove_damaged(path: Path) -> None:
    try:
        with path.open("rb") as file:
            pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        # Of the file system or the store, not of what is in the file: Arrow's have neither kind nor number.
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
            raise OutputError(f"{path} can't be read: {error}") from error
        path.unlink()


def read_face_count(folder: Path, bundle_id: str) -> int:
    """Faces in the cores of a finished bundle, from its file's metadata alone."""
    metadata = pq.read_metadata(source(folder / f"{bundle_id}.parquet")).metadata or {}
    return int(metadata.get(b"faces", b"0"))


def read_results(folder: Path, segments: pa.Table) -> pa.Table:
    """The answers to planned segments (rows of `schema.PLAN_SCHEMA`): a row of `schema.RESULTS_SCHEMA` for
    each.

    Raises OutputError where there is none to a segment, or a file can't be read; a damaged one is removed, so
    that it is to do again.
    """
    names = sorted(pc.unique(segments.column("bundle_id")).to_pylist())
    with ThreadPoolExecutor(READERS) as threads:
        bundles = threads.map(read_bundle, [folder / f"{name}.parquet" for name in names])
        return select_results(segments, pa.concat_tables([RESULTS_SCHEMA.empty_table(), *bundles]), folder)


def read_bundle(path: Path, keep_damaged: bool = False) -> pa.Table:
    """All rows of `schema.RESULTS_SCHEMA` in a bundle's file.

    Raises OutputError where it can't be read; a damaged one is removed, unless `keep_damaged`.
    """
    try:
        held = content(path)
    except OSError as error:
        raise OutputError(f"{path} can't be read: {error.strerror}") from error
    try:
        with pq.ParquetFile(pa.BufferReader(held), page_checksum_verification=True) as file:
            return conform_table(file.read(use_threads=False), RESULTS_SCHEMA)
    except (pa.ArrowException, OSError) as error:
        if keep_damaged:
            raise OutputError(f"{path} is damaged: remove it and run `fer-batch analyze` again") from error
        path.unlink()
        raise OutputError(
            f"{path} was damaged and has been removed: run `fer-batch analyze` again"
        ) from error


def select_results(segments: pa.Table, answers: pa.Table, folder: Path) -> pa.Table:
    """Those of the answers that are to these segments; raises OutputError where there is not one to each."""
    ids = segments.column("segment_id")
    answers = answers.filter(pc.is_in(answers.column("segment_id"), ids.combine_chunks()))
    given = answers.column("segment_id")
    if not (len(given) == len(ids) == pc.count_distinct(given).as_py()):
        lost = sorted(set(ids.to_pylist()) - set(given.to_pylist()))
        raise OutputError(
            f"{folder} has {len(given)} answers to {len(ids)} segments"
            + (f", none to {lost[0]}" if lost else "")
            + ": start anew with `fer-batch analyze --overwrite`"
        )
    return answers
