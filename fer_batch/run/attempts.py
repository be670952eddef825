"""Attempts at unfinished bundles, and the nodes that cannot process any, in the run's folder `results/`.

A worker records an attempt before it starts, because a crash leaves no time to. So a small file exists for
each bundle in work, and for each stage of it.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from fer_batch.faults import fault_point
from fer_batch.storage.folder import OutputFolder

MAX_BUNDLE_ATTEMPTS = 5
"""Attempts of one stage at a bundle, after which the segments of the bundle fail."""
ATTEMPTS_FOLDER = ".attempts"
CRASHED = "every worker that processed this segment crashed"
"""The reason of an attempt that has ended without a report."""


@dataclass(frozen=True, kw_only=True)
class BrokenNode:
    """A node on which no process can run the networks."""

    node_id: str
    address: str
    reason: str


class AttemptLog:
    """The attempts of a run since its last start. Workers and the driver use it at the same time."""

    def __init__(self, results: OutputFolder) -> None:
        self.results = results
        self.folder = results.subfolder(ATTEMPTS_FOLDER)

    def begin(self, bundle_id: str, stage: str) -> bool:
        """Record an attempt; return False, and record nothing, after MAX_BUNDLE_ATTEMPTS."""
        count = self._read(_attempt_file(bundle_id, stage)).get("count", 0)
        if count >= MAX_BUNDLE_ATTEMPTS:
            return False
        self._write(bundle_id, stage, count + 1, CRASHED)
        fault_point("attempts.begin")
        return True

    def fail(self, bundle_id: str, stage: str, reason: str) -> None:
        """Record the reason why the current attempt has failed."""
        count = self._read(_attempt_file(bundle_id, stage)).get("count", 1)
        self._write(bundle_id, stage, count, reason)

    def finish(self, bundle_id: str, stage: str) -> None:
        """Forget the attempts of a stage at a finished bundle."""
        self.folder.remove_file(_attempt_file(bundle_id, stage))

    def count_attempts(self) -> int:
        """Return the number of all attempts at unfinished bundles."""
        return sum(content.get("count", 0) for _, content in self._read_all())

    def list_exhausted(self) -> dict[str, str]:
        """Return the last reason of each bundle with MAX_BUNDLE_ATTEMPTS, by the bundle's id."""
        return {
            name.partition(".")[0]: content["reason"]
            for name, content in self._read_all()
            if content.get("count", 0) >= MAX_BUNDLE_ATTEMPTS
        }

    def add_broken_node(self, node: BrokenNode) -> None:
        """Record that a node cannot process any bundle."""
        self.folder.create()
        self.folder.write_json(f"{node.node_id}.node", asdict(node), "attempts")

    def list_broken_nodes(self) -> dict[str, BrokenNode]:
        """Return the recorded nodes by their ids."""
        contents = (self._read(name) for name in self._list_names() if name.endswith(".node"))
        return {content["node_id"]: BrokenNode(**content) for content in contents if content}

    def clear(self) -> None:
        """Forget everything."""
        self.results.remove_folder(ATTEMPTS_FOLDER)

    def _write(self, bundle_id: str, stage: str, count: int, reason: str) -> None:
        self.folder.create()
        content = {"count": count, "reason": reason}
        self.folder.write_json(_attempt_file(bundle_id, stage), content, "attempts")

    def _read(self, name: str) -> dict[str, Any]:
        """Return the content of a file; empty if it does not exist."""
        try:
            return dict(json.loads(self.folder.read_bytes(name)))
        except FileNotFoundError:
            return {}

    def _read_all(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for name in self._list_names():
            if name.endswith(".json"):
                yield name, self._read(name)

    def _list_names(self) -> list[str]:
        return [name for name in self.folder.list_names() if name[0] != "."]


def _attempt_file(bundle_id: str, stage: str) -> str:
    return f"{bundle_id}.{stage}.json"
