"""The files for Kubernetes have only known fields, and are consistent with each other.

`fields.json` has the fields of KubeRay and Kubernetes. Kubernetes drops an unknown field or refuses the file;
with a misspelt `minReplicas` a cluster would never start.
"""

import json
import re
import shlex
import tomllib
import zoneinfo
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.test_readme import parse_fer_batch

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
TYPES: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "fields.json").read_text())["types"]
MANIFESTS = ("volume", "raycluster", "rayjob", "raycronjob", "podmonitor")
QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|Ki|[MGT]i?)?")
OF_KIND = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}


class Strict(yaml.SafeLoader):
    """Refuse a duplicate key in a mapping, as Kubernetes does."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"duplicate key: {keys}"
        return super().construct_mapping(node, deep)


def manifest(name: str) -> dict[str, Any]:
    return yaml.load((CLUSTER / f"{name}.yaml").read_text(), Strict)


def cluster_of(name: str) -> dict[str, Any]:
    spec = manifest(name)["spec"]
    return {
        "raycluster": spec,
        "rayjob": spec.get("rayClusterSpec"),
        "raycronjob": spec.get("jobTemplate", {}).get("rayClusterSpec"),
    }[name]


def faults(value: Any, kind: str, path: str) -> Iterator[str]:
    """Yield a line for each fault of a value that should have a type of `fields.json`."""
    if kind in TYPES:
        if not isinstance(value, dict):
            yield f"{path}: a {kind} is a mapping"
            return
        known = TYPES[kind]
        for name, inner in value.items():
            if name not in known:
                yield f"{path}.{name}: a {kind} has no such field"
            elif known[name] == "?":
                yield f"{path}.{name}: its type is missing in fields.json"
            else:
                yield from faults(inner, known[name].removesuffix("!"), f"{path}.{name}")
        for name in {n for n, k in known.items() if k.endswith("!")} - set(value):
            yield f"{path}: a {kind} needs {name}"
    elif kind.startswith("["):
        if not isinstance(value, list):
            yield f"{path}: not a list"
            return
        for index, inner in enumerate(value):
            yield from faults(inner, kind[1:-1], f"{path}[{index}]")
    elif kind.startswith("{"):
        if not isinstance(value, dict):
            yield f"{path}: not a mapping"
            return
        for name, inner in value.items():
            yield from faults(inner, kind[1:-1], f"{path}.{name}")
    elif kind == "quantity":
        if not QUANTITY.fullmatch(str(value)):
            yield f"{path}: {value!r} is no quantity"
    elif kind in OF_KIND:
        if not isinstance(value, OF_KIND[kind]) or (isinstance(value, bool) and kind != "boolean"):
            yield f"{path}: {value!r} is no {kind}"
    elif value not in kind.split("|"):
        yield f"{path}: {value!r} is none of {kind}"


def all_faults(document: dict[str, Any]) -> list[str]:
    return list(faults(document, document["kind"], document["kind"]))


def misspelt(value: Any, kind: str) -> Iterator[Any]:
    """Yield copies of the value, each with another known field misspelt."""
    if kind in TYPES:
        for name, inner in value.items():
            yield {(key + "s" if key == name else key): content for key, content in value.items()}
            for damaged in misspelt(inner, TYPES[kind][name].removesuffix("!")):
                yield {**value, name: damaged}
    elif kind.startswith("["):
        for index, inner in enumerate(value):
            for damaged in misspelt(inner, kind[1:-1]):
                yield [*value[:index], damaged, *value[index + 1 :]]


def at(document: Any, path: str) -> Any:
    for part in path.split("."):
        document = document[int(part)] if part.isdigit() else document[part]
    return document


@pytest.mark.parametrize("name", MANIFESTS)
def test_all_fields_are_known(name: str) -> None:
    assert all_faults(manifest(name)) == []


def test_documents_have_the_expected_kinds() -> None:
    kinds = {manifest(name)["kind"]: manifest(name)["apiVersion"] for name in MANIFESTS}
    assert kinds == {
        "PersistentVolumeClaim": "v1",
        "RayCluster": "ray.io/v1",
        "RayJob": "ray.io/v1",
        "RayCronJob": "ray.io/v1",
        "PodMonitor": "monitoring.coreos.com/v1",
    }


@pytest.mark.parametrize("name", MANIFESTS)
def test_misspelt_field_is_refused(name: str) -> None:
    document = manifest(name)
    damaged = list(misspelt(document, document["kind"]))
    assert len(damaged) > {"volume": 8, "podmonitor": 10}.get(name, 100)
    assert [d for d in damaged if not list(faults(d, document["kind"], ""))] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.rayClusterSpec.workerGroupSpecs.0.minReplicas", "4"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.minReplicas", True),
        ("spec.rayClusterSpec.workerGroupSpecs", {}),
        ("spec.rayClusterSpec.rayVersion", 2.6),
        ("spec.rayClusterSpec.authOptions.mode", "on"),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams.num-cpus", 0),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.containers.0.resources.limits.memory", "8 GB"),
        ("spec.backoffLimit", None),
    ],
)
def test_value_of_a_wrong_type_is_refused(path: str, value: Any) -> None:
    document = manifest("rayjob")
    parent, _, last = path.rpartition(".")
    at(document, parent)[last] = value
    (fault,) = all_faults(document)
    place = re.sub(r"[.](\d+)", r"[\1]", path)
    assert fault.startswith(f"RayJob.{place}")


@pytest.mark.parametrize("path", ["spec.headGroupSpec", "spec.workerGroupSpecs.1.groupName"])
def test_missing_field_is_reported(path: str) -> None:
    document = manifest("raycluster")
    parent, _, last = path.rpartition(".")
    del at(document, parent)[last]
    assert [fault for fault in all_faults(document) if f"needs {last}" in fault]


def test_duplicate_key_is_refused() -> None:
    with pytest.raises(AssertionError, match="duplicate"):
        yaml.load("spec:\n  replicas: 1\n  replicas: 2\n", Strict)


def test_all_files_describe_the_same_cluster() -> None:
    assert cluster_of("rayjob") == cluster_of("raycluster")
    assert cluster_of("raycronjob") == cluster_of("raycluster")


def test_cluster_uses_the_token_of_the_secret() -> None:
    assert cluster_of("raycluster")["authOptions"] == {"mode": "token", "secretName": "fer-batch-token"}


def test_ray_version_equals_that_of_image_and_package() -> None:
    version = cluster_of("raycluster")["rayVersion"]
    assert f"\nray=={version}\n" in (CLUSTER / "constraints.txt").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    least, most = re.fullmatch(r"ray\[default\]>=([\d.]+),<([\d.]+)", extras["cluster"][0]).groups()
    assert as_numbers(least) <= as_numbers(version) < as_numbers(most)


def as_numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def pods() -> list[tuple[str, dict[str, Any]]]:
    spec = cluster_of("raycluster")
    groups = [("head", spec["headGroupSpec"])]
    groups += [(group["groupName"], group) for group in spec["workerGroupSpecs"]]
    return [(name, group["template"]["spec"]) for name, group in groups]


@pytest.mark.parametrize(("name", "pod"), pods())
def test_pod_has_limits_restrictions_and_the_volume(name: str, pod: dict[str, Any]) -> None:
    (container,) = pod["containers"]
    resources = container["resources"]
    assert resources["requests"] == resources["limits"]
    assert {"cpu", "memory"} <= set(resources["limits"])
    assert ("nvidia.com/gpu" in resources["limits"]) == (name == "gpu")
    assert container["image"] == f"registry.example/fer-batch:{'cuda' if name == 'gpu' else 'cpu'}"
    assert container["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]
    claim = {"claimName": manifest("volume")["metadata"]["name"]}
    assert pod["volumes"] == [{"name": "data", "persistentVolumeClaim": claim}]
    user = pod["securityContext"]
    assert user["runAsNonRoot"]
    assert f"--uid {user['runAsUser']} " in (CLUSTER / "Dockerfile").read_text()
    assert container["securityContext"]["allowPrivilegeEscalation"] is False


def mappings(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all mappings in the value."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from mappings(inner)


@pytest.mark.parametrize(
    ("name", "pods", "images"), [("raycluster", 3, 3), ("rayjob", 4, 4), ("raycronjob", 4, 4)]
)
def test_all_containers_fit_the_restricted_pod_security_standard(name: str, pods: int, images: int) -> None:
    """The operator adds the autoscaler and, without a template, the submitter."""
    found = list(mappings(manifest(name)))
    users = [one["securityContext"] for one in found if "containers" in one]
    assert len(users) == pods
    for user in users:
        assert user["runAsNonRoot"]
        assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    (autoscaler,) = [one["autoscalerOptions"] for one in found if "autoscalerOptions" in one]
    containers = [one for one in found if "image" in one]
    assert len(containers) == images
    for container in [*containers, autoscaler]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }


def test_submitter_is_the_container_that_the_operator_expects() -> None:
    """Without a command, the operator sets its own, and the variables of the token."""
    for spec in (manifest("rayjob")["spec"], manifest("raycronjob")["spec"]["jobTemplate"]):
        pod = spec["submitterPodTemplate"]["spec"]
        (container,) = pod["containers"]
        assert container["name"] == "ray-job-submitter"
        assert "command" not in container
        assert pod["restartPolicy"] == "Never"
        head = spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
        assert container["image"] == head["image"]


def test_workers_prefer_spot_nodes_and_the_head_avoids_them() -> None:
    spots = {}
    for name, pod in pods():
        affinity = pod["affinity"]["nodeAffinity"]
        if name == "head":
            (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
            spots[name] = {(e["key"], *e["values"]) for e in term["matchExpressions"]}
            assert {e["operator"] for e in term["matchExpressions"]} == {"NotIn"}
        else:
            terms = affinity["preferredDuringSchedulingIgnoredDuringExecution"]
            found = [e for term in terms for e in term["preference"]["matchExpressions"]]
            spots[name] = {(e["key"], *e["values"]) for e in found}
            assert {e["operator"] for e in found} == {"In"}
    assert spots["head"] == spots["cpu"] == spots["gpu"]


def test_worker_groups_can_grow_and_the_head_has_no_cpus() -> None:
    spec = cluster_of("raycluster")
    assert spec["enableInTreeAutoscaling"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in spec["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] < group["maxReplicas"]


@pytest.mark.parametrize("name", ["rayjob", "raycronjob"])
def test_command_of_the_job_is_valid(name: str) -> None:
    spec = manifest(name)["spec"]
    given = parse_fer_batch(shlex.split(spec.get("jobTemplate", spec)["entrypoint"])).arguments
    assert [*given["videos"], str(given["out"])] == ["/data/videos", "/data/results"]


def test_prometheus_reads_the_pods_of_all_clusters() -> None:
    """The operator labels its pods, and names the port of the metrics where a pod does not."""
    spec = manifest("podmonitor")["spec"]
    (rule,) = spec["selector"]["matchExpressions"]
    assert (rule["key"], set(rule["values"])) == ("ray.io/node-type", {"head", "worker"})
    assert spec["podTargetLabels"] == ["ray.io/cluster"]
    assert [endpoint["port"] for endpoint in spec["podMetricsEndpoints"]] == ["metrics"]


def test_nightly_run_ends_before_the_next() -> None:
    spec = manifest("raycronjob")["spec"]
    assert re.fullmatch(r"\d+ \d+ \* \* \*", spec["schedule"])
    assert zoneinfo.ZoneInfo(spec["timeZone"])
    limits = spec["jobTemplate"]
    all_starts_s = limits["preRunningDeadlineSeconds"] * (1 + limits["backoffLimit"])
    assert all_starts_s < limits["activeDeadlineSeconds"] < 24 * 3600


def test_job_that_cannot_start_fails() -> None:
    assert manifest("rayjob")["spec"]["preRunningDeadlineSeconds"] == 1800
