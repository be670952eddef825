"""The commands in `cluster/README.md` can be parsed, and its tables follow from the measurements."""

import inspect
import math
import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pytest
import yaml
from ray.scripts.scripts import cli as ray_cli

import fer_batch.cli.main  # noqa: F401  # registers the commands
from fer_batch.cli.app import parse_command
from fer_batch.errors import FerBatchError

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
TEXT = (CLUSTER / "README.md").read_text()
KUBECTL = {"apply", "cp", "create", "delete", "exec", "get", "label", "logs", "port-forward", "wait"}
DOCKER = {"build", "push", "run"}
AWS = {
    ("ec2", "authorize-security-group-ingress"),
    ("ec2", "create-security-group"),
    ("efs", "create-file-system"),
    ("efs", "create-mount-target"),
    ("ssm", "get-parameter"),
}
SBATCH = {"begin", "gpus-per-node", "nodes", "partition", "time"}


def blocks() -> list[str]:
    return [line[4:] for line in TEXT.splitlines() if line.startswith("    ")]


def formula(line: str) -> bool:
    return re.match(r"\w+ += ", line) is not None


def commands() -> list[str]:
    """Return the commands in indented lines, and those in backquotes."""
    quoted = re.findall(r"`((?:pytest|python -m pip) [^`]+)`", TEXT)
    return [line for line in blocks() if not formula(line)] + quoted


def substituted(line: str) -> list[str]:
    """Return the commands in `$(…)`, each up to a pipe."""
    return [inner.split(" | ")[0] for inner in re.findall(r"\$\((.*?)\)", line)]


def words(line: str) -> list[str]:
    return shlex.split(re.sub(r"\$\(.*?\)", "SUBSTITUTED", line).removesuffix(" > /dev/null"))


def parse_fer_batch(arguments: Sequence[str]) -> inspect.BoundArguments:
    """Parse a command line of `fer-batch`; raises FerBatchError."""
    assert arguments[0] == "fer-batch"
    return parse_command(arguments[1:])[1]


def parse_ray(arguments: Sequence[str]) -> click.Context:
    """Parse a command line of `ray` with Ray's own commands; raise ClickException where it is invalid."""
    command: click.Command = ray_cli
    name, *rest = arguments
    while isinstance(command, click.Group):
        name = rest.pop(0)
        if name not in command.commands:
            raise click.UsageError(f"no command {name}")
        command = command.commands[name]
    return command.make_context(name, rest)


def check_fer_batch(arguments: list[str]) -> None:
    parse_fer_batch(arguments)


def check_ray(arguments: list[str]) -> None:
    context = parse_ray(arguments)
    entrypoint = list(context.params.get("entrypoint") or ())
    if arguments[1] == "exec":
        entrypoint = shlex.split(context.params["cmd"])
    if entrypoint:
        parse_fer_batch(entrypoint)
    if "cluster_config_file" in context.params:
        assert (ROOT / context.params["cluster_config_file"]).is_file()


def check_kubectl(arguments: list[str]) -> None:
    assert arguments[1] in KUBECTL
    for path in after(arguments, "-f"):
        assert (ROOT / path).is_file()
    for argument in arguments:
        if argument.startswith("--from-file="):
            assert (ROOT / argument.partition("=")[2]).is_file()
    for name in after(arguments, "-c"):
        assert f"name: {name}\n" in (CLUSTER / "raycluster.yaml").read_text()
    for argument in arguments[2:]:
        if named := re.fullmatch(r"(raycluster|rayjob)/(.+)", argument):
            document = yaml.safe_load((CLUSTER / f"{named[1]}.yaml").read_text())
            assert document["metadata"]["name"] == named[2]
    if "--" in arguments:
        parse_fer_batch(arguments[arguments.index("--") + 1 :])


def check_chmod(arguments: list[str]) -> None:
    mounted = yaml.safe_load((CLUSTER / "ray-up.yaml").read_text())["file_mounts"]
    assert arguments[1] == "600"
    assert arguments[2] in mounted.values()


def check_docker(arguments: list[str]) -> None:
    assert arguments[1] in DOCKER
    if arguments[1] == "build":
        (path,) = after(arguments, "-f")
        assert (ROOT / path).is_file()
        for given in after(arguments, "--build-arg"):
            assert f"ARG {given.split('=')[0]}=" in (ROOT / path).read_text()
        assert arguments[-1] == "."
    if arguments[1] == "run":
        parse_fer_batch(arguments[arguments.index("fer-batch") :])


def check_helm(arguments: list[str]) -> None:
    assert arguments[1] == "install"
    assert {re.split(r"[\[=]", given)[0] for given in after(arguments, "--set")} <= {
        "featureGates",
        "image.tag",
    }


def check_aws(arguments: list[str]) -> None:
    assert tuple(arguments[1:3]) in AWS
    region = yaml.safe_load((CLUSTER / "ray-up.yaml").read_text())["provider"]["region"]
    assert list(after(arguments, "--region")) == [region]


def check_git(arguments: list[str]) -> None:
    assert arguments[1] == "clone"
    fields = (Path(__file__).parent / "fields.json").read_text()
    assert f"KubeRay {next(after(arguments, '--branch'))} " in fields


def check_sbatch(arguments: list[str]) -> None:
    (script,) = [index for index, argument in enumerate(arguments) if argument.endswith(".sbatch")]
    for option in arguments[1:script]:
        assert re.fullmatch(rf"--({'|'.join(SBATCH)})=\S+", option)
    assert (ROOT / arguments[script]).is_file()
    parse_fer_batch(["fer-batch", *arguments[script + 1 :]])


def check_sed(arguments: list[str]) -> None:
    """Apply the substitution to the lines that it is for."""
    (found,) = re.findall(r"s#(.+)#(.+)#", arguments[2])
    images = re.findall(r"image: (.+)\n", (CLUSTER / "rayjob.yaml").read_text())
    assert images
    assert {image.replace(*found).split("/")[0] for image in images} == {"REGISTRY"}


def check_export(arguments: list[str]) -> None:
    assert re.fullmatch(r"(RAY_AUTH_MODE=token|(RAY_AUTH_TOKEN|HEAD)=SUBSTITUTED)", arguments[1])


def check_openssl(arguments: list[str]) -> None:
    made = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"[0-9a-f]{64}\n", made)


def check_python(arguments: list[str]) -> None:
    assert arguments[:4] == ["python", "-m", "pip", "install"]


def check_pytest(arguments: list[str]) -> None:
    markers = (ROOT / "pyproject.toml").read_text()
    for argument in arguments[1:]:
        if argument != "-m":
            assert (ROOT / argument).exists() or f'"{argument}: ' in markers


CHECKS = {
    "aws": check_aws,
    "chmod": check_chmod,
    "docker": check_docker,
    "export": check_export,
    "fer-batch": check_fer_batch,
    "git": check_git,
    "helm": check_helm,
    "kubectl": check_kubectl,
    "openssl": check_openssl,
    "pytest": check_pytest,
    "python": check_python,
    "ray": check_ray,
    "sbatch": check_sbatch,
    "sed": check_sed,
}


def after(arguments: list[str], option: str) -> Iterator[str]:
    """Return the argument after each `option`."""
    return (arguments[i + 1] for i, argument in enumerate(arguments) if argument == option)


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str) -> None:
    subprocess.run(["bash", "-n", "-c", line], check=True)
    for command in [line, *substituted(line)]:
        arguments = words(command)
        assert arguments[0] in CHECKS, f"unknown command {arguments[0]}"
        CHECKS[arguments[0]](arguments)


def test_guide_has_commands_of_all_kinds() -> None:
    assert {words(line)[0] for line in commands()} | {"openssl"} == set(CHECKS)


@pytest.mark.parametrize(
    "line",
    [
        "fer-batch analyse /data/videos --out /data/results",
        "fer-batch analyze /data/videos",
        "ray job submit --adress http://localhost:8265 -- fer-batch analyze /data --out /data/results",
        "ray job submit --address http://localhost:8265 -- fer-batch analyze /data --ouput /data/results",
        "ray job summit -- fer-batch demo",
        "ray up",
        "ray exec cluster/ray-up.yaml 'fer-batch verfy /data/results'",
        "ray down cluster/rayup.yaml",
        "kubectl aply -f cluster/rayjob.yaml",
        "kubectl apply -f cluster/raycrons.yaml",
        "kubectl wait rayjob/nightly",
        "kubectl create configmap dashboard --from-file=cluster/grafana.yaml",
        "kubectl exec POD -c head -- fer-batch verify /data/results",
        "docker build -f cluster/Dockerfile --build-arg TORCH=URL .",
        "docker build -f Dockerfile .",
        "sbatch --node=4 cluster/slurm/fer-batch.sbatch demo",
        "sbatch cluster/fer-batch.sbatch demo",
        "sbatch cluster/slurm/fer-batch.sbatch analyze /data/videos",
        "export RAY_AUTH_MODE=disabled",
        "pytest tests/clusters",
    ],
)
def test_invalid_command_is_refused(line: str) -> None:
    arguments = words(line)
    with pytest.raises((AssertionError, FerBatchError, SystemExit, click.ClickException, OSError)):
        CHECKS[arguments[0]](arguments)


def test_links_and_files_exist() -> None:
    for link in re.findall(r"\]\(#([\w-]+)\)", TEXT):
        assert link in {re.sub(r"\W", "-", title.lower()) for title in re.findall(r"^#+ (.+)$", TEXT, re.M)}
    named = set(re.findall(r"^\| `([\w./-]+)` \|", TEXT, re.M))
    files = {str(path.relative_to(CLUSTER)) for path in CLUSTER.rglob("*") if path.is_file()}
    assert named == files - {"README.md"}


def table(header: str) -> list[list[str]]:
    """Return the rows of the table whose header begins with `header`."""
    below = TEXT[TEXT.index(header) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in below]


def test_rates_equal_the_measurements() -> None:
    documents = (ROOT / "README.md", ROOT / "fer_batch" / "docs" / "benchmarks.md")
    measured = "\n".join(path.read_text() for path in documents if path.exists())
    for videos, rate in table("| videos | c |"):
        rows = [line for line in measured.splitlines() if line.startswith(f"| {videos} |")]
        (row,) = [row for row in rows if row.count("|") == 9]  # of the stages; other tables are narrower
        assert row.split("|")[6].strip() == rate


@pytest.mark.parametrize("row", table("| hours a day |"))
def test_table_of_nodes_follows_from_the_formula(row: list[str]) -> None:
    hours, rate, core_hours, all_day, at_night, cost = map(float, row)
    wanted = hours * rate / 1000 * 1.2
    assert core_hours == round(wanted)
    assert all_day == math.ceil(wanted / (8 * 24))
    assert at_night == math.ceil(wanted / (8 * 8))
    assert cost == pytest.approx(wanted / 8 * 0.20, abs=0.006)


def test_formula_has_the_documented_factors() -> None:
    assert [line for line in blocks() if formula(line)] == [
        "core_hours = hours_of_video × c / 1000 × 1.2",
        "nodes      = core_hours / (cores_per_node × hours_that_they_run)",
        "cost       = core_hours / cores_per_node × price_of_a_node_hour",
    ]
    assert pytest.approx(1.2, abs=0.02) == 1.07 * 1.02 / (1.8 / 2)
