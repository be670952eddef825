"""The tables that the nodes of a cluster write are those that one process writes."""

from pathlib import Path

import pytest
import ray
from ray.exceptions import WorkerCrashedError

from fer_batch.errors import NodeError, OutputError
from fer_batch.pipeline import cluster_map
from fer_batch.pipeline.cluster_map import MIN_ITEMS, map_on_cluster
from fer_batch.run.finalize import finalize
from fer_batch.run.verify import verify_run
from fer_batch.runtime import ray_session
from tests.runs import are_tables_equal, read_all_rows, write_run

VIDEOS = {f"/talks/{number}.mp4": [["happy", "sad"], ["fear"] * number] for number in range(1, 6)}


def test_few_items_need_no_cluster() -> None:
    assert list(map_on_cluster(len, [])) == []
    assert list(map_on_cluster(len, ["a"] * (MIN_ITEMS - 1))) == [1] * (MIN_ITEMS - 1)


def test_lost_workers_end_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(reference: object) -> None:
        raise WorkerCrashedError

    monkeypatch.setattr(ray, "get", fail)
    with pytest.raises(NodeError, match="run the same command again"):
        cluster_map._get_result(None)


@pytest.mark.slow
def test_cluster_writes_the_same_tables(tmp_path: Path) -> None:
    out = write_run(tmp_path / "out", VIDEOS, in_bucket=1)
    expected = read_all_rows(out)
    with ray_session(num_cpus=2):
        assert list(map_on_cluster(len, ["a" * n for n in range(20)])) == list(range(20))
        summary = finalize(out, rewrite_all=True, map_buckets=map_on_cluster)
        assert summary.videos == {"ok": len(VIDEOS)}
        result = next((out / "results").iterdir())
        result.write_bytes(result.read_bytes()[:-100])
        with (
            pytest.raises(OutputError, match="run `fer-batch analyze` again"),
            ray_session(),
        ):
            finalize(out, rewrite_all=True, map_buckets=map_on_cluster)
    assert are_tables_equal(read_all_rows(out), expected)
    assert verify_run(out)
