"""Command `submit`: run other commands as jobs on a Ray cluster, through the Jobs API of its dashboard."""

import contextlib
import os
import re
import secrets
import shlex
import time
from collections.abc import Iterator, Sequence
from glob import glob
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from cyclopts import Group, Parameter
from cyclopts.types import ExistingDirectory

from fer_batch.cli.app import CLUSTER, UsageError, add_command, app, parse_command
from fer_batch.cli.output import print_line, print_output, print_status
from fer_batch.cli.signals import leave_on_signals
from fer_batch.errors import ConfigError

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

JobCommand = Literal[
    "analyze", "demo", "finalize", "people", "verify", "forget", "train", "tune", "evaluate", "crossval"
]
CONNECT_TIMEOUT_S = 30
JOBS = Group("Jobs")
JobName = Annotated[str, Parameter(help="Name of the job.")]
Address = Annotated[
    str,
    Parameter(
        env_var=["RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"],
        help="Dashboard, http://HOST:PORT. RAY_API_SERVER_ADDRESS or RAY_ADDRESS can give it too.",
    ),
]
Insecure = Annotated[
    bool,
    Parameter(
        help="Allow a cluster without a token. Anyone who reaches such a cluster can run programs on it."
    ),
]


@add_command(CLUSTER)
def submit_command(
    command: JobCommand,
    /,
    *arguments: Annotated[str, Parameter(allow_leading_hyphen=True)],
    address: Address,
    insecure: Insecure = False,
    submission_id: str | None = None,
    working_dir: ExistingDirectory | None = None,
    wait: bool = True,
) -> int:
    """Run a command as a job on a Ray cluster, follow it, or stop it.

    The command runs on a node of the cluster with the fer_batch that is installed there. Paths, globs and
    manifests are those of the nodes and must be absolute: nothing of this machine is sent. --working-dir
    sends a folder; inputs may then be relative to it, and a fer_batch in it replaces the one of the nodes.

    The exit code is that of the job: 0, 2 for an error to correct first, 143 for a stopped job. The same
    --submission-id follows a job that runs or has succeeded; a job that failed or was stopped starts again,
    as ID.2, ID.3 and so on. A token comes from RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token.

    Args:
        command: Command to run.
        arguments: Its arguments; see `fer-batch COMMAND --help`.
        submission_id: Name of the job. By default a new one.
        working_dir: Folder to send, at most 100 MB, without the files that .gitignore names.
        wait: Follow the log of the job.

    Examples:
      fer-batch submit analyze /mnt/talks --out /mnt/results --address http://head:8265
      fer-batch submit analyze /mnt/talks --out /mnt/results --submission-id talks --no-wait
      fer-batch submit analyze list.csv --out /mnt/results --working-dir .
      fer-batch submit follow talks
      fer-batch submit stop talks
    """
    name = f"{command}-{secrets.token_hex(4)}" if submission_id is None else submission_id
    if not re.fullmatch(r"\w[\w.-]{0,99}", name, re.ASCII):
        raise UsageError(f"--submission-id must be 1 to 100 letters, digits, '.', '_' and '-', got {name!r}")
    _, bound = parse_command([command, *arguments])
    bound.apply_defaults()
    inputs = () if working_dir or command in ("forget", "people") else arguments
    _check_paths(bound.arguments.get("out") or bound.arguments["output"], inputs)
    words = [command, *(["--insecure"] if insecure and "ray" in bound.arguments else []), *arguments]
    with _connect(address, insecure) as client:
        entrypoint = f"exec python -P -m fer_batch.cli.main {shlex.join(words)}"
        job_id = _start(client, entrypoint, name, working_dir)
        if wait:
            return _follow(client, job_id)
    print_line(job_id)
    return 0


submit_app = app["submit"]
submit_app.usage = "fer-batch submit COMMAND --address STR [OPTIONS] [ARGS...]"


@add_command(JOBS, parent=submit_app)
def follow_command(submission_id: JobName, /, *, address: Address, insecure: Insecure = False) -> int:
    """Print the log of a job from its beginning until the job ends.

    Examples:
      fer-batch submit follow talks --address http://head:8265
    """
    with _connect(address, insecure) as client:
        return _follow(client, _find_job(client, submission_id))


@add_command(JOBS, parent=submit_app)
def stop_command(submission_id: JobName, /, *, address: Address, insecure: Insecure = False) -> None:
    """Stop a job. A new submission with the same id continues it.

    Examples:
      fer-batch submit stop talks --address http://head:8265
    """
    with _connect(address, insecure) as client:
        job_id = _find_job(client, submission_id)
        client.stop_job(job_id)
        print_status(f"job {job_id} has ended: {_wait_for_end(client, job_id).status.lower()}")


def _check_paths(out: str | Path, words: Sequence[str]) -> None:
    """Raise ConfigError for a relative path, which the nodes of the cluster would not find."""
    advice = "is relative, but the job runs on the cluster: give an absolute path there"
    if _is_relative(str(out)):
        raise ConfigError(f"{out} {advice}")
    for path in (word.rpartition("=")[2] for word in words):
        if _is_relative(path) and glob(path):
            raise ConfigError(f"{path} {advice}, or send its folder with --working-dir")


def _is_relative(path: str) -> bool:
    return not path.startswith("/") and ":/" not in path


@contextlib.contextmanager
def _connect(address: str, insecure: bool) -> Iterator["JobSubmissionClient"]:
    """Connect to the dashboard; raises ConfigError where a request fails, also in the body."""
    if find_spec("aiohttp") is None:
        raise ConfigError("submit needs Ray's dashboard: python -m pip install 'fer-batch[cluster]'")
    import requests
    from ray.exceptions import AuthenticationError, RayError
    from ray.job_submission import JobSubmissionClient

    from fer_batch.runtime import make_token_header

    address = address.rstrip("/")
    try:
        response = requests.get(f"{address}/api/version", timeout=CONNECT_TIMEOUT_S)
        requires_token = response.status_code in (401, 403)
        host = f"{urlsplit(address).hostname}:0"
        header = make_token_header(f"dashboard at {address}", host, requires_token, insecure)
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers it to the client's own argument
        yield JobSubmissionClient(address, headers=header)
    except OSError as error:
        where = f"the dashboard at {address} (--address must be http://HOST:PORT)"
        raise ConfigError(f"Cannot reach {where}: {error}") from error
    except (RayError, RuntimeError, ValueError) as error:
        lines = str(error).strip(" .\n").splitlines()  # the last line of a server's error has the cause
        cause = lines[0 if isinstance(error, AuthenticationError) else -1]
        raise ConfigError(f"The cluster refuses the request: {cause}") from error


def _list_jobs(client: "JobSubmissionClient", name: str) -> list["JobDetails"]:
    """Return the jobs ID, ID.2, ID.3 and so on, in this order."""
    pattern = re.compile(rf"{re.escape(name)}(\.\d+)?")
    jobs = [job for job in client.list_jobs() if pattern.fullmatch(job.submission_id or "")]
    return sorted(jobs, key=lambda job: job.start_time or 0)


def _find_job(client: "JobSubmissionClient", name: str) -> str:
    if jobs := _list_jobs(client, name):
        return str(jobs[-1].submission_id)
    raise ConfigError(f"The cluster at {client.get_address()} has no job {name}")


def _start(client: "JobSubmissionClient", command: str, name: str, working_dir: Path | None) -> str:
    """Return the id of a new job, or of the last one with this name if it runs or has succeeded."""
    jobs = _list_jobs(client, name)
    if jobs and jobs[-1].status not in ("FAILED", "STOPPED"):
        if jobs[-1].entrypoint != command:
            raise ConfigError(f"The job {name} is another command, {jobs[-1].entrypoint}: give another id")
        print_status(f"job {jobs[-1].submission_id} was submitted before")
        return str(jobs[-1].submission_id)
    return client.submit_job(
        entrypoint=command,
        submission_id=f"{name}.{len(jobs) + 1}" if jobs else name,
        runtime_env={"working_dir": str(working_dir.absolute())} if working_dir else {},
    )


def _follow(client: "JobSubmissionClient", job_id: str) -> int:
    """Print the log of a job until it ends, and return its exit code."""
    target = f"{job_id} --address {client.get_address()}"
    hint = f"follow it again: fer-batch submit follow {target}; stop it: fer-batch submit stop {target}"
    print_status(f"job {job_id}; {hint}")
    with leave_on_signals(f"\njob {job_id} continues; {hint}\n"):
        import asyncio  # takes as long as many commands

        asyncio.run(_print_log(client, job_id))
        job = _wait_for_end(client, job_id)
    code = job.driver_exit_code
    if job.status != "SUCCEEDED":
        reason = (job.message or "").partition("\n")[0] if code is None else f"exit code {code}"
        print_status(f"job {job_id} {job.status.lower()}: {reason}")
    if code is None:
        return 143 if job.status == "STOPPED" else 1
    return code if code >= 0 else 128 - code


async def _print_log(client: "JobSubmissionClient", job_id: str) -> None:
    async for text in client.tail_job_logs(job_id):
        print_output(text)


def _wait_for_end(client: "JobSubmissionClient", job_id: str) -> "JobDetails":
    while not (job := client.get_job_info(job_id)).status.is_terminal():
        time.sleep(0.5)
    return job
