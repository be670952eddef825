"""Command `submit`: run other commands as jobs on a Ray cluster, through its dashboard."""

import os
import re
import secrets
import shlex
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from fer_batch.cli.app import CLUSTER, UsageError, add_command, add_group, parse_command
from fer_batch.cli.options import Convert, resolve_options
from fer_batch.cli.signals import leave_on_signals
from fer_batch.errors import ConfigError
from fer_batch.fields import Topic

if TYPE_CHECKING:
    from fer_batch.pipeline.submit import JobClient

JOB_COMMANDS = ("analyze", "demo", "finalize", "verify", "forget", "train", "tune", "evaluate", "crossval")
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
DASHBOARD = Topic("Cluster")
JOBS = Group("Jobs")

JOB_EXAMPLES = """
  fer-batch submit analyze /mnt/talks --out /mnt/results --address http://head:8265
  fer-batch submit analyze /mnt/talks --out /mnt/results --submission-id talks --no-wait
  fer-batch submit analyze list.csv --out /mnt/results --working-dir .
  fer-batch submit follow talks
  fer-batch submit stop talks"""
JOB_HELP = f"""Run a command as a job on a Ray cluster, follow it, or stop it.

    COMMAND is one of {", ".join(JOB_COMMANDS)}, with its own arguments (see `fer-batch COMMAND --help`). It
    runs on a node of the cluster with the fer_batch that is installed there. Paths, globs and manifests are
    those of the nodes and must be absolute: nothing of this machine is sent. --working-dir sends a folder;
    inputs may then be relative to it, and a fer_batch in it replaces the one of the nodes.

    The exit code is that of the job: 0, 2 for an error to correct first, 143 for a stopped job. The same
    --submission-id follows a job that runs or has succeeded; a job that failed or was stopped starts again,
    as ID.2, ID.3 and so on. A token comes from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token."""


def check_submission_id(name: str) -> str:
    """Check and return the name of a job; raises UsageError."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", name):
        raise UsageError(
            "a submission id must be 1 to 100 letters, digits, '.', '_' and '-', and begin with a letter or "
            f"digit, got {name!r}"
        )
    return name


SubmissionId = Annotated[str, Parameter(help="Name of the job."), Convert(check_submission_id)]


@dataclass(frozen=True, kw_only=True)
class Dashboard:
    """The dashboard of a Ray cluster."""

    address: Annotated[str | None, DASHBOARD] = None
    """Dashboard of the cluster, http://HOST:PORT. By default RAY_API_SERVER_ADDRESS, or else RAY_ADDRESS."""
    insecure: Annotated[bool, DASHBOARD] = False
    """Allow a cluster without a token. Anyone who reaches such a cluster can run programs on it."""

    def connect(self) -> "JobClient":
        """Connect to the dashboard; raises ConfigError."""
        if find_spec("aiohttp") is None:
            raise ConfigError("submit needs Ray's dashboard: python -m pip install 'fer-batch[cluster]'")
        address = self.address or next(filter(None, map(os.environ.get, ADDRESS_VARIABLES)), None)
        if not address:
            raise ConfigError(
                f"--address is missing: give --address http://HOST:8265, or set {ADDRESS_VARIABLES[0]}"
            )
        from fer_batch.pipeline.submit import connect

        return connect(address, insecure=self.insecure)


submit_app = add_group("submit", CLUSTER, JOB_HELP, JOB_EXAMPLES)


@submit_app.default
@resolve_options
def submit_command(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True, help="Command with its arguments.")],
    submission_id: Annotated[
        SubmissionId | None, Parameter(help="Name of the job. By default a new one.")
    ] = None,
    working_dir: Annotated[
        Path | None,
        Parameter(help="Folder to send, at most 100 MB, without the files that .gitignore names."),
    ] = None,
    wait: Annotated[bool, Parameter(help="Follow the log of the job.")] = True,
    dashboard: Dashboard,
) -> int:
    """Submit a command and follow its log."""
    words = list(command)
    if not words or words[0] not in JOB_COMMANDS:
        given = words[0] if words else "none"
        raise UsageError(f"COMMAND must be one of {', '.join(JOB_COMMANDS)}, got {given}")
    if working_dir is not None and not working_dir.is_dir():
        raise ConfigError(f"--working-dir must be a folder, got {working_dir}")
    arguments = parse_command(words)[1].arguments
    _check_paths(words, arguments, working_dir)
    if dashboard.insecure and "ray" in arguments:
        words.insert(1, "--insecure")
    client = dashboard.connect()
    name = submission_id or f"{words[0]}-{secrets.token_hex(4)}"
    job_id, is_new = client.start(words, name, working_dir)
    if not wait:
        print(job_id)
        return 0
    state = "" if is_new else " was submitted before"
    print(f"job {job_id}{state}; {_describe_commands(client, job_id, dashboard)}", file=sys.stderr)
    return _follow(client, job_id, dashboard)


@add_command(JOBS, parent=submit_app)
def follow_command(submission_id: SubmissionId, /, *, dashboard: Dashboard) -> int:
    """Print the log of a job from its beginning until the job ends.

    Examples:
      fer-batch submit follow talks --address http://head:8265
    """
    client = dashboard.connect()
    return _follow(client, str(client.find(submission_id).submission_id), dashboard)


@add_command(JOBS, parent=submit_app)
def stop_command(submission_id: SubmissionId, /, *, dashboard: Dashboard) -> None:
    """Stop a job. A new submission with the same id continues it.

    Examples:
      fer-batch submit stop talks --address http://head:8265
    """
    client = dashboard.connect()
    job = client.find(submission_id)
    stopped = client.stop(str(job.submission_id))
    state = "had ended before" if job.status.is_terminal() else "has ended"
    print(f"job {job.submission_id} {state}: {stopped.status.value.lower()}", file=sys.stderr)


def _check_paths(words: list[str], arguments: dict[str, Any], working_dir: Path | None) -> None:
    """Raise ConfigError for a relative path, which the nodes of the cluster would not find."""
    outputs = [arguments[name] for name in ("out", "output") if name in arguments]
    if words[0] == "demo":
        outputs = outputs or ["fer-batch-demo"]
    inputs = [] if working_dir else _list_inputs(words, arguments)
    for path in [*inputs, *outputs]:
        if not str(path).startswith("/") and ":/" not in str(path):
            also = "" if path in outputs else ", or send its folder with --working-dir"
            raise ConfigError(
                f"{path} is relative, but the job runs on the cluster: give an absolute path there{also}"
            )


def _list_inputs(words: list[str], arguments: dict[str, Any]) -> list[str]:
    """Return the input paths of a command, unchanged."""
    config = vars(arguments["config"]) if "config" in arguments else {}
    values = {**config, **arguments.get("settings", {}), **arguments}
    paths = list(values.get("videos") or ()) if words[0] == "analyze" else []
    for name in ("checkpoint", "init", "backbone_weights"):
        value = values.get(name) or ()
        paths += [value] if isinstance(value, str) else value
    recipe = values.get("recipe") or ""
    if recipe.endswith(".toml") or "/" in recipe:
        paths.append(recipe)
    for name, path in values.get("data", ()):  # parsing has made its relative paths absolute
        paths.append(path if any(f"{name}={path}" in word for word in words) else os.path.relpath(path))
    return [path for path in paths if path != "default"]


def _follow(client: "JobClient", job_id: str, dashboard: Dashboard) -> int:
    from fer_batch.pipeline.submit import exit_code

    commands = _describe_commands(client, job_id, dashboard)
    with leave_on_signals(f"\njob {job_id} continues; {commands}\n"):
        ended = client.follow(job_id, lambda text: print(text, end="", flush=True))
    code = exit_code(ended)
    if code:
        is_exit = ended.driver_exit_code is not None
        reason = f"exit code {code}" if is_exit else (ended.message or "").split("\n")[0]
        print(f"job {job_id} {ended.status.value.lower()}: {reason}", file=sys.stderr)
    return code


def _describe_commands(client: "JobClient", job_id: str, dashboard: Dashboard) -> str:
    insecure = ["--insecure"] if dashboard.insecure else []
    target = shlex.join([job_id, "--address", client.get_address(), *insecure])
    return f"follow it again: fer-batch submit follow {target}; stop it: fer-batch submit stop {target}"
