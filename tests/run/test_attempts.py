"""Attempts at bundles are counted in small files, which several processes share."""

import json
from pathlib import Path

from fer_batch.run.attempts import ATTEMPTS_FOLDER, CRASHED, MAX_BUNDLE_ATTEMPTS, AttemptLog, BrokenNode
from fer_batch.run.record import remove_leftovers
from fer_batch.run.results import list_done_bundles
from fer_batch.storage.folder import open_folder
from fer_batch.storage.local_folder import LocalFolder
from tests.s3 import Store


def test_log_is_empty_before_the_first_attempt(tmp_path: Path) -> None:
    log = AttemptLog(LocalFolder(tmp_path / "results"))
    log.finish("b", "analyze")
    log.clear()
    assert log.count_attempts() == 0
    assert log.list_exhausted() == log.list_broken_nodes() == {}


def test_attempts_of_each_stage_are_counted_up_to_their_limit(tmp_path: Path) -> None:
    """Each attempt has its own log, as each worker has."""
    results = LocalFolder(tmp_path / "results")
    for _ in range(MAX_BUNDLE_ATTEMPTS):
        assert AttemptLog(results).begin("a", "faces")
        assert AttemptLog(results).begin("b", "recognize")
    log = AttemptLog(results)
    log.fail("b", "recognize", "CUDA error: \x1b")
    assert log.begin("a", "recognize")
    assert log.begin("c", "faces")
    assert not log.begin("a", "faces")
    assert log.count_attempts() == 2 * MAX_BUNDLE_ATTEMPTS + 2
    assert log.list_exhausted() == {"a": CRASHED, "b": "CUDA error: \x1b"}
    assert list_done_bundles(results) == set()
    log.finish("a", "faces")
    assert log.begin("a", "faces")
    assert log.list_exhausted().keys() == {"b"}
    remove_leftovers(tmp_path)
    assert log.list_exhausted() == {}
    assert results.list_names() == []


def test_attempts_are_counted_in_a_store(store: Store) -> None:
    results = open_folder("s3://archive/run/results")
    log = AttemptLog(results)
    assert log.list_exhausted() == log.list_broken_nodes() == {}
    log.clear()
    assert [AttemptLog(results).begin("a", "faces") for _ in range(MAX_BUNDLE_ATTEMPTS + 1)][-2:] == [
        True,
        False,
    ]
    log.add_broken_node(BrokenNode(node_id="1f", address="10.0.0.1", reason="CUDA error"))
    assert log.list_exhausted() == {"a": CRASHED}
    assert log.list_broken_nodes().keys() == {"1f"}
    log.clear()
    assert log.count_attempts() == 0


def test_broken_nodes_are_listed_once(tmp_path: Path) -> None:
    log = AttemptLog(LocalFolder(tmp_path))
    first = BrokenNode(node_id="1f", address="10.0.0.1", reason="CUDA error")
    second = BrokenNode(node_id="2e", address="10.0.0.2", reason="no driver")
    for node in (first, second, first):
        log.add_broken_node(node)
    assert log.list_broken_nodes() == {"1f": first, "2e": second}
    assert log.count_attempts() == 0
    (tmp_path / ATTEMPTS_FOLDER / ".3d.node.tmp").write_text(json.dumps("being written"))
    assert log.list_broken_nodes().keys() == {"1f", "2e"}
