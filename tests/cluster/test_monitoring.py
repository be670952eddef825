"""The dashboard uses metrics that exist, and the pods that Prometheus reads are those of the clusters."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES

from fer_batch.pipeline.progress import METRICS

DASHBOARD = json.loads((Path(__file__).parents[2] / "cluster" / "grafana.json").read_text())
RUN_METRICS = {f"ray_{name}" for name, _ in METRICS.values()}
NODE_METRICS = {
    f"ray_{name}": {str(tag) for tag in gauge.view.columns} for name, gauge in METRICS_GAUGES.items()
}
COLUMNS = 24


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def dashboard_metrics() -> set[str]:
    """Return the names of all metrics in the dashboard."""
    return set(re.findall(r"\bray_(?!io_)\w+", " ".join([*queries(), *variables().values()])))


def variables() -> dict[str, str]:
    return {variable["name"]: variable["query"] for variable in DASHBOARD["templating"]["list"]}


def test_all_metrics_exist_and_all_of_a_run_are_shown() -> None:
    assert dashboard_metrics() > RUN_METRICS
    assert dashboard_metrics() <= RUN_METRICS | set(NODE_METRICS)


def test_labels_of_groups_exist() -> None:
    for query in queries():
        for label in re.findall(r" by \((\w+)\)", query):
            tags = [
                {"out"} if name in RUN_METRICS else NODE_METRICS[name]
                for name in re.findall(r"\bray_(?!io_)\w+", query)
            ]
            assert tags
            assert all(label in known for known in tags), query


def test_variables_are_used_and_defined() -> None:
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD["panels"])))
    assert used == set(variables())
    assert variables()["cluster"].endswith(", ray_io_cluster)")


def test_panels_do_not_overlap() -> None:
    panels: list[dict[str, Any]] = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = []
    for place in (panel["gridPos"] for panel in panels):
        assert place["x"] + place["w"] <= COLUMNS
        rows = range(place["y"], place["y"] + place["h"])
        cells += itertools.product(range(place["x"], place["x"] + place["w"]), rows)
    assert len(cells) == len(set(cells))
