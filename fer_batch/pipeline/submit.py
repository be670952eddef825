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


class JobClient(JobSubmissionClient):
    """Ray's client with time limits, and with jobs that are named ID, ID.2, ID.3 … in this order.

    Methods raise ConfigError where the dashboard does not respond or refuses the request.
    """

    def _do_request(self, method: str, endpoint: str, **options: Any) -> requests.Response:
        return super()._do_request(method, endpoint, timeout=REQUEST_TIMEOUT_S, **options)

    def start(self, command: Sequence[str], name: str, working_dir: Path | None = None) -> tuple[str, bool]:
        """Start `fer-batch COMMAND`; return the job's id and whether it was started now.

        The last job of the id is returned instead if it runs or has succeeded. The files of `working_dir`,
        except those in .gitignore, become the job's current folder.
        """
        entrypoint, job_id = ENTRY_POINT + shlex.join(command), name
        if jobs := self._list_jobs_of(name):
            if jobs[-1].status not in (JobStatus.FAILED, JobStatus.STOPPED):
                if jobs[-1].entrypoint != entrypoint:
                    other = jobs[-1].entrypoint.removeprefix(ENTRY_POINT)
                    raise ConfigError(f"The job {name} is another command, {other}: give another id")
                return str(jobs[-1].submission_id), False
            job_id = f"{name}.{len(jobs) + 1}"
        runtime_env = {"working_dir": str(working_dir.absolute())} if working_dir else {}
        with _translate_errors(self.get_address()):
            self.submit_job(entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env)
        return job_id, True

    def find(self, name: str) -> JobDetails:
        """Return the last job of an id."""
        if jobs := self._list_jobs_of(name):
            return jobs[-1]
        raise ConfigError(f"The cluster at {self.get_address()} has no job {name}")

    def follow(self, job_id: str, on_text: Callable[[str], object]) -> JobDetails:
        """Pass a job's log to `on_text` from its beginning until the job ends, and return the ended job."""
        shown, last_response = 0, time.monotonic()
        while True:
            try:
                job, log = self.get_job_info(job_id), self.get_job_logs(job_id)
                last_response = time.monotonic()
                if len(log) > shown:
                    on_text(log[shown:])
                    shown = len(log)
                if job.status.is_terminal():
                    return job
            except (OSError, RuntimeError, RayError) as error:
                if time.monotonic() - last_response > LOST_TIMEOUT_S:
                    reason = "does not respond; the job may continue"
                    raise ConfigError(f"The dashboard at {self.get_address()} {reason}") from error
            time.sleep(max(1.0, shown / LOG_BYTES_PER_S))

    def stop(self, job_id: str) -> JobDetails:
        """Stop a job, wait until it has ended, and return it."""
        with _translate_errors(self.get_address()):
            self.stop_job(job_id)
            deadline = time.monotonic() + STOP_TIMEOUT_S
            while not (job := self.get_job_info(job_id)).status.is_terminal():
                if time.monotonic() > deadline:
                    raise ConfigError(f"The job {job_id} has not ended {STOP_TIMEOUT_S} s after the request")
                time.sleep(0.5)
            return job

    def _list_jobs_of(self, name: str) -> list[JobDetails]:
        pattern = re.compile(rf"{re.escape(name)}(\.\d+)?")
        with _translate_errors(self.get_address()):
            jobs = {job.submission_id or "": job for job in self.list_jobs()}
        return [jobs[key] for key in sorted(filter(pattern.fullmatch, jobs), key=lambda key: (len(key), key))]


def connect(address: str, *, insecure: bool = False) -> JobClient:
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
        return JobClient(address, headers=header)


def exit_code(job: JobDetails) -> int:
    """Return the exit code of an ended job: 143 if it was stopped, 1 if its command did not end by itself."""
    if job.status == JobStatus.STOPPED:
        return 143
    code = job.driver_exit_code
    return 1 if code is None else code if code >= 0 else 128 - code


def _requires_token(address: str, header: dict[str, str]) -> bool:
    """Return whether the dashboard refuses a request with this header."""
    response = requests.get(f"{address}/api/version", headers=header, timeout=REQUEST_TIMEOUT_S)
    if response.status_code in (401, 403):
        return True
    response.raise_for_status()
    response.json()["ray_version"]
    return False


@contextlib.contextmanager
def _translate_errors(address: str) -> Iterator[None]:
    """Raise the errors of requests to a dashboard as ConfigError."""
    try:
        yield
    except (requests.JSONDecodeError, KeyError) as error:
        raise ConfigError(f"The server at {address} is not a dashboard of Ray: {error}") from error
    except (requests.RequestException, ConnectionError) as error:
        reason = "no response in time" if isinstance(error, requests.Timeout) else error
        raise ConfigError(
            f"Cannot reach the dashboard at {address}: {reason}. Check the address, the port and the cluster"
        ) from error
    except (AuthenticationError, RuntimeError, ValueError, RayError) as error:
        lines = [line.strip(" .'") for line in str(error).splitlines()]
        # The last line of a server's error has the cause.
        first_to_last = lines if isinstance(error, AuthenticationError) else reversed(lines)
        reason = next(filter(None, first_to_last), "unknown reason")
        raise ConfigError(f"The cluster refuses the request: {reason}") from error
