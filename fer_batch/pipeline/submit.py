"""Run commands as jobs on a remote cluster, through the Jobs API of its dashboard."""

import contextlib
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from fer_batch.errors import ConfigError
from fer_batch.ray_internals import get_token_header, has_token
from fer_batch.runtime import TOKEN_SOURCES, is_loopback

REQUEST_TIMEOUT_S = (5, 60)
"""Time limits for a connection and for a response."""
LOST_TIMEOUT_S, STOP_TIMEOUT_S = 60, 30
"""Time to wait for a lost dashboard, and for the end of a stopped job."""
LOG_BYTES_PER_S = 100_000
"""Limit for reading a job's log again and again."""
ENTRY_POINT = "exec python -m fer_batch.cli.main "
"""The command on the node. `exec` passes signals to it, and makes its exit code that of the job."""


class Client(JobSubmissionClient):
    """Ray's client with time limits, which its own requests lack."""

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        return super()._do_request(method, endpoint, timeout=REQUEST_TIMEOUT_S, **options)


def connect(address: str, *, insecure: bool = False) -> Client:
    """Connect to the dashboard at `address`, http://HOST:PORT. It gets Ray's token only if it requires one.

    Raises ConfigError where no dashboard responds, it refuses the token, or it requires none and is not on
    the loopback interface, unless `insecure`.
    """
    address = address.rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"Not the address of a dashboard: {address}; give http://HOST:PORT")
    header = {"Authorization": ""}  # otherwise Ray adds a token
    with _translate_errors(address):
        if _requires_token(address, header):
            if not has_token():
                raise ConfigError(f"The dashboard at {address} requires a token: provide {TOKEN_SOURCES}")
            header = get_token_header()
            if _requires_token(address, header):
                raise ConfigError(f"The dashboard at {address} refuses the token in {TOKEN_SOURCES}")
        elif not insecure and not is_loopback(f"{urlsplit(address).hostname}:0"):
            raise ConfigError(
                f"The dashboard at {address} requires no token, so anyone who reaches it can run code there: "
                "start the cluster with RAY_AUTH_MODE=token, or add --insecure"
            )
        os.environ["RAY_API_SERVER_ADDRESS"] = address  # Ray prefers it to the client's own argument
        for name in ("ray.dashboard", "ray._private.runtime_env"):
            logging.getLogger(name).setLevel(logging.WARNING)
        return Client(address, headers=header)


def submit_job(
    client: Client, command: Sequence[str], submission_id: str, working_dir: Path | None = None
) -> tuple[str, bool]:
    """Start `fer-batch COMMAND` on the cluster; return the job's id and whether it was started now.

    The last job of the id is returned instead if it runs or has succeeded. After a failed or stopped job the
    next one is ID.2, ID.3 … The files of `working_dir`, except those in .gitignore, become the job's current
    folder. Raises ConfigError where the existing job is another command.
    """
    entrypoint = ENTRY_POINT + shlex.join(command)
    jobs = _list_jobs(client, submission_id)
    if jobs and jobs[-1].status not in (JobStatus.FAILED, JobStatus.STOPPED):
        if jobs[-1].entrypoint != entrypoint:
            other = jobs[-1].entrypoint.removeprefix(ENTRY_POINT)
            raise ConfigError(f"The job {submission_id} is another command, {other}: give another id")
        return str(jobs[-1].submission_id), False
    job_id = f"{submission_id}.{len(jobs) + 1}" if jobs else submission_id
    runtime_env = {"working_dir": str(working_dir.absolute())} if working_dir else {}
    with _translate_errors(client.get_address()):
        return client.submit_job(entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env), True


def find_job(client: Client, submission_id: str) -> JobDetails:
    """Return the last job of an id; raises ConfigError where the cluster has none."""
    jobs = _list_jobs(client, submission_id)
    if not jobs:
        raise ConfigError(f"The cluster at {client.get_address()} has no job {submission_id}")
    return jobs[-1]


def follow_job(client: Client, job_id: str, on_text: Callable[[str], object]) -> JobDetails:
    """Pass a job's log to `on_text` from its beginning until the job ends, and return the ended job.

    Raises ConfigError where the dashboard does not respond for a minute; the job may continue.
    """
    shown, last_response = 0, time.monotonic()
    while True:
        try:
            job, log = client.get_job_info(job_id), client.get_job_logs(job_id)
            last_response = time.monotonic()
            if len(log) > shown:
                on_text(log[shown:])
                shown = len(log)
            if job.status.is_terminal():
                return job
        except (OSError, RuntimeError, RayError) as error:
            if time.monotonic() - last_response > LOST_TIMEOUT_S:
                reason = "does not respond; the job may continue"
                raise ConfigError(f"The dashboard at {client.get_address()} {reason}") from error
        time.sleep(max(1.0, shown / LOG_BYTES_PER_S))


def stop_job(client: Client, job_id: str) -> JobDetails:
    """Stop a job and wait until it has ended. Raises ConfigError where it does not end."""
    with _translate_errors(client.get_address()):
        client.stop_job(job_id)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while not (job := client.get_job_info(job_id)).status.is_terminal():
            if time.monotonic() > deadline:
                raise ConfigError(f"The job {job_id} has not ended {STOP_TIMEOUT_S} s after the stop request")
            time.sleep(0.5)
        return job


def exit_code(job: JobDetails) -> int:
    """Return the exit code of an ended job: 143 if it was stopped, 1 if its command did not end by itself."""
    if job.status == JobStatus.STOPPED:
        return 143
    code = job.driver_exit_code
    return 1 if code is None else code if code >= 0 else 128 - code


def _list_jobs(client: Client, submission_id: str) -> list[JobDetails]:
    """Return the jobs ID, ID.2, ID.3 … of a submission id in this order."""
    pattern = re.compile(rf"{re.escape(submission_id)}(\.\d+)?")
    with _translate_errors(client.get_address()):
        jobs = {job.submission_id or "": job for job in client.list_jobs()}
    ids = sorted(filter(pattern.fullmatch, jobs), key=lambda job_id: (len(job_id), job_id))
    return [jobs[job_id] for job_id in ids]


def _requires_token(address: str, header: dict[str, str]) -> bool:
    """Return whether the dashboard refuses a request with this header."""
    response = requests.get(f"{address}/api/version", headers=header, timeout=REQUEST_TIMEOUT_S)
    if response.status_code in (401, 403):
        return True
    response.raise_for_status()
    if "ray_version" not in response.json():
        raise ValueError("its version is missing")
    return False


@contextlib.contextmanager
def _translate_errors(address: str) -> Iterator[None]:
    """Raise the errors of requests to a dashboard as ConfigError."""
    try:
        yield
    except requests.JSONDecodeError as error:
        raise ConfigError(f"The server at {address} is not a dashboard of Ray: {error}") from error
    except (requests.RequestException, ConnectionError) as error:
        reason = "no response in time" if isinstance(error, requests.Timeout) else error
        raise ConfigError(
            f"Cannot reach the dashboard at {address}: {reason}. Check the address, the port and the cluster"
        ) from error
    except AuthenticationError as error:
        raise ConfigError(f"Authentication failed: {str(error).partition(chr(10))[0]}") from error
    except (RuntimeError, ValueError, RayError) as error:
        lines = [line.strip(" .'") for line in str(error).splitlines()]  # the last one has the cause
        reason = next(filter(None, reversed(lines)), "unknown reason")
        raise ConfigError(f"The cluster refuses the request: {reason}") from error
