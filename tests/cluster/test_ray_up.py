"""`cluster/ray-up.yaml` passes Ray's validation, and its commands can be parsed."""

import copy
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster.test_kuberay import Strict, cluster_of
from tests.cluster.test_readme import parse_ray

RAY_UP = Path(__file__).parents[2] / "cluster" / "ray-up.yaml"
INSTANCE = {"InstanceType", "ImageId", "BlockDeviceMappings", "InstanceMarketOptions"}
"""The used parameters of EC2's RunInstances, which Ray does not validate."""
COMMANDS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)


def config() -> dict[str, Any]:
    return yaml.load(RAY_UP.read_text(), Strict)


def test_configuration_is_valid() -> None:
    validate_config(prepare_config(config()))


@pytest.mark.parametrize(
    "path",
    ["", "auth", "available_node_types.cpu", "available_node_types.head", "available_node_types.gpu"],
)
def test_misspelt_field_is_refused(path: str) -> None:
    whole = config()
    fields = list(at(whole, path))
    assert fields
    for name in fields:
        damaged = copy.deepcopy(whole)
        parent = at(damaged, path)
        parent[name + "s"] = parent.pop(name)
        with pytest.raises((jsonschema.ValidationError, ValueError, KeyError)):
            validate_config(prepare_config(damaged))


def at(document: dict[str, Any], path: str) -> dict[str, Any]:
    for part in path.split(".") if path else ():
        document = document[part]
    return document


def test_min_workers_above_max_workers_are_refused() -> None:
    damaged = config()
    damaged["available_node_types"]["cpu"]["min_workers"] = damaged["max_workers"] + 1
    with pytest.raises(ValueError, match="max_workers"):
        validate_config(prepare_config(damaged))


def test_fields_that_ray_does_not_validate_are_known() -> None:
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    provider = schema["properties"]["provider"]["properties"]
    assert set(config()["provider"]) <= set(provider)
    for node in config()["available_node_types"].values():
        assert set(node["node_config"]) <= INSTANCE
        assert re.fullmatch(r"ami-[0-9a-f]{17}", node["node_config"]["ImageId"])


def test_workers_are_spot_instances_and_the_head_is_not() -> None:
    nodes = config()["available_node_types"]
    head = nodes.pop(config()["head_node_type"])
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"] == {"CPU": 0}
    for node in nodes.values():
        assert node["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
        assert node["min_workers"] < node["max_workers"]


@pytest.mark.parametrize("command", [c for name in COMMANDS for c in config()[name]])
def test_commands_parse(command: str) -> None:
    subprocess.run(["bash", "-n", "-c", command], check=True)
    for part in command.split(";"):
        if part.strip().startswith("ray "):
            parse_ray(shlex.split(part))


def test_every_node_requires_the_token() -> None:
    assert "~/.ray/auth_token" in config()["file_mounts"]
    assert any("RAY_AUTH_MODE=token" in command for command in config()["setup_commands"])
    assert "--dashboard-host=127.0.0.1" in config()["head_start_ray_commands"][-1]


def test_ray_version_equals_that_on_kubernetes() -> None:
    (install,) = [command for command in config()["setup_commands"] if "'.[cluster]'" in command]
    (constraints,) = re.findall(r"-c (\S+)", install)
    version = cluster_of("raycluster")["rayVersion"]
    assert f"\nray=={version}\n" in (RAY_UP.parents[1] / constraints).read_text()


def test_file_system_is_in_the_region_of_the_nodes() -> None:
    (mount,) = [command for command in config()["initialization_commands"] if "nfs4" in command]
    assert f".efs.{config()['provider']['region']}.amazonaws.com:/ /data" in mount
