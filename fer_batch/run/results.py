"""The results of a run, the folder `results/`: one Parquet file for each finished bundle, whole or absent.

`results` is that folder in all functions.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fer_batch.errors import OutputError
from fer_batch.faults import fault_point
from fer_batch.run.older_results import conform_results
from fer_batch.schema import RESULTS_SCHEMA, unpack_bundles
from fer_batch.storage.folder import FolderLike, OutputFolder, open_folder

MAX_PARALLEL_READS = 8
"""Files read in parallel: a network file system takes milliseconds for each."""
BUNDLE_SUFFIX = ".parquet"


def process_bundles(
    results: FolderLike, bundles: pa.Table, process: Callable[[pa.Table], pa.Table]
) -> pa.Table:
    """Process bundles and write one file for each; return their ids.

    `process` turns a table of bundles into `bundle_schema(RESULTS_SCHEMA)`. A bundle whose file exists is
    skipped: Ray repeats a call if its worker is lost before it returns.
    """
    folder = open_folder(results)
    bundle_ids = bundles.column("bundle_id").to_pylist()
    missing = [not folder.exists(f"{bundle_id}{BUNDLE_SUFFIX}") for bundle_id in bundle_ids]
    processed = process(bundles.filter(pa.array(missing, pa.bool_())))
    for number in range(processed.num_rows):
        write_bundle(folder, processed.slice(number, 1))
    return bundles.select(["bundle_id"])


def write_bundle(results: FolderLike, bundle: pa.Table) -> None:
    """Write one row of `bundle_schema(RESULTS_SCHEMA)` as a file with one row for each segment.

    The file's metadata has the number of faces, for progress. A retry writes the same content: a bundle's id
    is a hash of everything that its results depend on.
    """
    rows = unpack_bundles(bundle, RESULTS_SCHEMA)
    frame_index = pc.struct_field(pc.list_flatten(rows.column("faces")), "frame_index")
    faces = pc.sum(pc.greater_equal(frame_index, 0)).as_py() or 0
    name = f"{bundle.column('bundle_id')[0]}{BUNDLE_SUFFIX}"
    open_folder(results).write_parquet(name, rows, {"faces": str(faces)}, "results")
    fault_point("results.renamed")


def list_done_bundles(results: FolderLike) -> set[str]:
    """Return the ids of the finished bundles."""
    names = open_folder(results).list_names()
    return {n.removesuffix(BUNDLE_SUFFIX) for n in names if n.endswith(BUNDLE_SUFFIX) and n[0] != "."}


def remove_damaged_bundles(results: FolderLike, bundle_ids: Iterable[str]) -> None:
    """Remove the files of these bundles whose footer is damaged, so that the bundles are processed again.

    `read_results` finds damage elsewhere in a file.
    """
    folder = open_folder(results)
    done = list_done_bundles(folder).intersection(bundle_ids)
    with ThreadPoolExecutor(MAX_PARALLEL_READS) as threads:
        for _ in threads.map(lambda bundle_id: _remove_if_damaged(folder, bundle_id), done):
            pass


def read_face_count(results: FolderLike, bundle_id: str) -> int:
    """Return the number of faces in the cores of a finished bundle, from its file's metadata."""
    source = open_folder(results).arrow_source(f"{bundle_id}{BUNDLE_SUFFIX}")
    return int((pq.read_metadata(source).metadata or {}).get(b"faces", b"0"))


def read_results(results: FolderLike, segments: pa.Table) -> pa.Table:
    """Read one row of RESULTS_SCHEMA for each of the planned segments, rows of PLAN_SCHEMA.

    Raises OutputError if a segment has no result or a file cannot be read; a damaged file is removed, so that
    its bundle is processed again.
    """
    folder = open_folder(results)
    bundle_ids = sorted(pc.unique(segments.column("bundle_id")).to_pylist())
    # Many threads wait for files, and as many decode as this process may use CPUs: one in a task of Ray.
    decoding = threading.Semaphore(pa.cpu_count())
    with ThreadPoolExecutor(MAX_PARALLEL_READS) as threads:
        bundles = threads.map(lambda bundle_id: read_bundle(folder, bundle_id, decoding=decoding), bundle_ids)
        rows = pa.concat_tables([RESULTS_SCHEMA.empty_table(), *bundles])
    return select_results(folder, segments, rows)


def read_bundle(
    results: FolderLike,
    bundle_id: str,
    keep_damaged: bool = False,
    decoding: AbstractContextManager[Any] = contextlib.nullcontext(),  # noqa: B008
) -> pa.Table:
    """Read all rows of `schema.RESULTS_SCHEMA` in the file of a bundle.

    `decoding` is held while the content of the file is decoded. Raises OutputError if the file cannot be
    read. A damaged file is removed, unless `keep_damaged` is set.
    """
    folder = open_folder(results)
    name = f"{bundle_id}{BUNDLE_SUFFIX}"
    try:
        content = folder.read_bytes(name)
    except FileNotFoundError as error:
        raise OutputError(f"{folder}/{name} does not exist: run `fer-batch analyze` again") from error
    except OSError as error:
        raise OutputError(f"Cannot read {folder}/{name}: {error.strerror}") from error
    try:
        with decoding, pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
            return conform_results(file.read(use_threads=False))
    except (pa.ArrowException, OSError) as error:
        if keep_damaged:
            raise OutputError(
                f"{folder}/{name} is damaged: remove it and run `fer-batch analyze` again"
            ) from error
        folder.remove_file(name)
        raise OutputError(
            f"{folder}/{name} was damaged and has been removed: run `fer-batch analyze` again"
        ) from error


def select_results(results: FolderLike, segments: pa.Table, rows: pa.Table) -> pa.Table:
    """Select the results of these segments; raise OutputError unless each segment has exactly one."""
    segment_ids = segments.column("segment_id")
    rows = rows.filter(pc.is_in(rows.column("segment_id"), segment_ids.combine_chunks()))
    present = rows.column("segment_id")
    if not (len(present) == len(segment_ids) == pc.count_distinct(present).as_py()):
        missing = sorted(set(segment_ids.to_pylist()) - set(present.to_pylist()))
        raise OutputError(
            f"{open_folder(results)} has {len(present)} results for {len(segment_ids)} segments"
            + (f", none for {missing[0]}" if missing else "")
            + ": start again with `fer-batch analyze --overwrite`"
        )
    return rows


def _remove_if_damaged(folder: OutputFolder, bundle_id: str) -> None:
    name = f"{bundle_id}{BUNDLE_SUFFIX}"
    try:
        with folder.open(name) as file:
            pq.read_metadata(file)
    except (pa.ArrowException, OSError) as error:
        remove_damaged_file(folder, name, error)


def remove_damaged_file(folder: OutputFolder, name: str, error: Exception) -> None:
    """Remove a file that cannot be read; raise OutputError if the file system or the store is the reason."""
    # Arrow reports damaged content as a plain OSError without a number; file systems and stores do not.
    if isinstance(error, OSError) and (type(error) is not OSError or error.errno is not None):
        raise OutputError(f"Cannot read {folder}/{name}: {error}") from error
    folder.remove_file(name)
