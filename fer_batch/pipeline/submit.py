"""Jobs on a cluster that is elsewhere: the Jobs API of its dashboard, with a token."""

import asyncio
import contextlib
import logging
import os
import shlex
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import requests
from ray._raylet import AuthenticationTokenLoader  # type: ignore[attr-defined]
from ray.exceptions import AuthenticationError, RayError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from fer_batch.errors import ConfigError
from fer_batch.runtime import is_loopback

TIMEOUT_S = (5, 60)
"""For a connection, and for an answer."""
FIRST_S = (5, 10)
"""The same, where it is not known yet whether a dashboard is there."""
QUIET_S = 20
"""Without a word of the job for so long, the dashboard is asked whether it still runs."""
LOST_S = 60
"""For so long a dashboard that has gone is asked again."""
STOP_S = 30
"""Ray kills a job 3 s after it has asked it to stop."""
ENTRY = "exec python -m fer_batch.cli.main "
"""What runs a command on a node; `exec` so that a signal reaches it and its exit code is the job's."""


class Client(JobSubmissionClient):
    """Ray's own waits for ever where no answer comes."""

    def _do_request(self, method: str, endpoint: str, **more: Any) -> requests.Response:
        return super()._do_request(method, endpoint, timeout=TIMEOUT_S, **more)


def connect(address: str, *, insecure: bool = False) -> Client:
    """A client of the dashboard at `address`, http://HOST:PORT; shows a token only where one is asked for.

    The token is Ray's own: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token. Raises ConfigError where
    there is no dashboard, it refuses the token, or asks for none and is not on the loopback interface, unless
    `insecure`.
    """
    address = address.rstrip("/")
    if not address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{address} is no dashboard's address: give http://HOST:PORT, as `ray start --head` says it"
        )
    token = {"Authorization": ""}  # so that Ray adds none by itself
    if _answer(address, token) in (401, 403):
        token = _token(address)
        if _answer(address, token) in (401, 403):
            raise ConfigError(
                f"the dashboard at {address} refuses this token (of RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
                "~/.ray/auth_token): give the cluster's own"
            )
    elif not insecure and not is_loopback(f"{urlsplit(address).hostname}:0"):
        raise ConfigError(
            f"the dashboard at {address} asks for no token, so whoever reaches it can run anything there: "
            "start the cluster with RAY_AUTH_MODE=token, or say --insecure"
        )
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # goes before what Ray's client is given
    for name in ("dashboard.modules.dashboard_sdk", "dashboard.modules.job.sdk", "_private.runtime_env"):
        logging.getLogger(f"ray.{name}").setLevel(logging.WARNING)  # they tell each step
    with _told():
        return Client(address, headers=token)


def _answer(address: str, headers: dict[str, str]) -> int:
    """The status with which the dashboard tells its version; raises ConfigError where there is none."""
    try:
        answer = requests.get(f"{address}/api/version", headers=headers, timeout=FIRST_S)
        if answer.status_code not in (401, 403):
            answer.raise_for_status()
            str(answer.json()["ray_version"])
    except (requests.Timeout, requests.ConnectionError) as error:
        reason = "no answer in time" if isinstance(error, requests.Timeout) else "nobody answers there"
        raise ConfigError(
            f"the dashboard at {address} can't be reached: {reason}; is the address right, the port open or "
            "forwarded, and the cluster up?"
        ) from error
    except (requests.RequestException, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"what answers at {address} is no dashboard of Ray: {error}") from error
    return answer.status_code


def _token(address: str) -> dict[str, str]:
    loader = AuthenticationTokenLoader.instance()
    loader.reset_cache()
    try:
        if loader.has_token(ignore_auth_mode=True):
            return dict(loader.get_token_for_http_header())
    except AuthenticationError as error:  # a file that can't be read
        raise ConfigError(str(error).partition(". ")[0]) from error
    raise ConfigError(
        f"the dashboard at {address} asks for a token: give it in RAY_AUTH_TOKEN, in a file that "
        "RAY_AUTH_TOKEN_PATH names, or in ~/.ray/auth_token"
    )


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Raise what goes wrong with a request as an error that a user can mend."""
    try:
        yield
    except (requests.RequestException, ConnectionError) as error:
        raise ConfigError(f"the dashboard does not answer any more: {error}") from error
    except AuthenticationError as error:
        raise ConfigError(f"the cluster refuses the token: {str(error).partition(chr(10))[0]}") from error
    except (RuntimeError, ValueError, RayError) as error:
        # What failed over there is told with its stack.
        lines = [line.strip(" .'") for line in str(error).splitlines()]
        raise ConfigError(f"the cluster refuses that: {next(filter(None, reversed(lines)), '?')}") from error


def submit_job(
    client: Client, words: Sequence[str], submission_id: str, working_dir: Path | None = None
) -> tuple[str, bool]:
    """Start `fer-batch WORDS` on the cluster, unless the last job of this id runs or has ended well.

    That one's id, and whether it was started now. Jobs after one that failed or was stopped are called ID.2,
    ID.3 … `working_dir` is packed, without what .gitignore leaves out, and is the job's current folder.
    Raises ConfigError where the job that stands is another command.
    """
    entrypoint = ENTRY + shlex.join(words)
    env = {"working_dir": str(working_dir.absolute())} if working_dir else {}
    while True:
        last, job_id = _attempts(client, submission_id)
        if last is not None and last.status not in (JobStatus.FAILED, JobStatus.STOPPED):
            if last.entrypoint != entrypoint:
                command = last.entrypoint.removeprefix(ENTRY)
                raise ConfigError(
                    f"the job {last.submission_id} is another command, {command}: give another "
                    "--submission-id, or the same command"
                )
            return str(last.submission_id), False
        try:
            with _told():
                return client.submit_job(entrypoint=entrypoint, submission_id=job_id, runtime_env=env), True
        except ConfigError:
            if _get_job(client, job_id) is None:  # else somebody was faster
                raise


def find_job(client: Client, job_id: str) -> JobDetails:
    """The last job of an id; raises ConfigError where there is none."""
    last, _ = _attempts(client, job_id)
    if last is None:
        raise ConfigError(f"there is no job {job_id} on the cluster at {client.get_address()}")
    return last


def _attempts(client: Client, submission_id: str) -> tuple[JobDetails | None, str]:
    """The last job that was started for an id, and the id that the next one will have."""
    last, number, job_id = None, 1, submission_id
    while (found := _get_job(client, job_id)) is not None:
        last, number = found, number + 1
        job_id = f"{submission_id}.{number}"
    return last, job_id


def _get_job(client: Client, job_id: str) -> JobDetails | None:
    with _told():
        try:
            return client.get_job_info(job_id)
        except RuntimeError as error:
            if "status code 404" in str(error):
                return None
            raise


def follow_job(client: Client, job_id: str, say: Callable[[str], object]) -> JobDetails:
    """Say a job's log from its beginning as it is written; the job as it has ended.

    Raises ConfigError where the dashboard has gone for a minute; the job may go on.
    """
    return asyncio.run(_follow_log(client, job_id, say))


async def _follow_log(client: Client, job_id: str, say: Callable[[str], object]) -> JobDetails:
    said, heard = 0, time.monotonic()
    while True:
        skip = said
        with contextlib.suppress(aiohttp.ClientError, OSError, RuntimeError, RayError):
            async for text in _log(client, job_id):
                say(text[skip:])
                said += len(text[skip:])
                skip = max(0, skip - len(text))
        try:
            found = client.get_job_info(job_id)
            heard = time.monotonic()
            if found.status.is_terminal():
                return found
        except (OSError, RuntimeError, RayError) as error:
            if time.monotonic() - heard > LOST_S:
                raise ConfigError(
                    f"the dashboard at {client.get_address()} has gone: the job goes on if its cluster does"
                ) from error
        await asyncio.sleep(1)


async def _log(client: Client, job_id: str) -> AsyncIterator[str]:
    """A job's log from its beginning, until the job has ended or cannot be asked for."""
    texts = client.tail_job_logs(job_id)
    while True:
        following = asyncio.ensure_future(anext(texts, None))
        try:
            while not (await asyncio.wait({following}, timeout=QUIET_S))[0]:
                # A connection that was cut is as silent as a job that has nothing to say.
                if client.get_job_info(job_id).status.is_terminal():
                    return
        finally:
            following.cancel()
        text = following.result()
        if text is None:
            return
        yield text


def stop_job(client: Client, job_id: str) -> JobDetails:
    """Stop a job, and wait until it has ended; nothing where it had. Raises ConfigError where it goes on."""
    with _told():
        client.stop_job(job_id)
        deadline = time.monotonic() + STOP_S
        while not (found := client.get_job_info(job_id)).status.is_terminal():
            if time.monotonic() > deadline:
                raise ConfigError(f"the job {job_id} was asked to stop, but has not ended in {STOP_S} s")
            time.sleep(0.5)
        return found


def exit_code(ended: JobDetails) -> int:
    """The job's own exit code; 143 where it was stopped, 1 where its command never ended by itself."""
    if ended.status == JobStatus.STOPPED:
        return 143
    code = ended.driver_exit_code
    if code is None:
        return 1
    return code if code >= 0 else 128 - code
