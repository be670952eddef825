"""Jobs on a dashboard, with a client that keeps them in memory; tests/cluster uses real ones."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from fer_batch.cli import submit
from fer_batch.cli.main import main

COMMAND = ["analyze", "/data/my videos", "--out", "/data/out", "--submission-id"]


class FakeClient:
    """A dashboard with the jobs that were sent to it. A job that is stopped runs a little longer."""

    def __init__(self) -> None:
        self.jobs: dict[str, SimpleNamespace] = {}

    def get_address(self) -> str:
        return "http://head:8265"

    def submit_job(self, **job: Any) -> str:
        state = {
            "status": JobStatus.RUNNING,
            "next_status": [],
            "driver_exit_code": None,
            "message": "Lost\n.",
        }
        job |= {"start_time": len(self.jobs), **state}
        self.jobs[job["submission_id"]] = SimpleNamespace(**job)
        return str(job["submission_id"])

    def list_jobs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(submission_id=None), *reversed(self.jobs.values())]

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        job = self.jobs[job_id]
        if job.next_status:
            job.status = job.next_status.pop(0)
        return job

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "one\ntw"
        yield "o\n"

    def stop_job(self, job_id: str) -> None:
        self.jobs[job_id].next_status = [JobStatus.RUNNING, JobStatus.STOPPED]


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    client = FakeClient()

    @contextmanager
    def connect(address: str, insecure: bool) -> Iterator[FakeClient]:
        yield client

    monkeypatch.setattr(submit, "_connect", connect)
    monkeypatch.setenv("RAY_ADDRESS", client.get_address())
    return client


Start = Callable[[str], str]


@pytest.fixture
def start(client: FakeClient, capfd: pytest.CaptureFixture[str]) -> Start:
    def start(name: str) -> str:
        assert main(["submit", "--no-wait", *COMMAND, name]) == 0
        return capfd.readouterr().out.removesuffix("\n")

    return start


def test_job_runs_the_command_in_its_working_dir(client: FakeClient, tmp_path: Path) -> None:
    assert main(["submit", "--no-wait", "--working-dir", str(tmp_path), *COMMAND, "talks"]) == 0
    job = client.jobs["talks"]
    assert job.entrypoint.endswith("fer_batch.cli.main analyze '/data/my videos' --out /data/out")
    assert job.runtime_env == {"working_dir": str(tmp_path)}


def test_id_has_one_active_job_and_a_new_one_after_each_failure(
    client: FakeClient, start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    assert start("talks") == start("talks") == "talks"
    assert main(["submit", "verify", "/data/out", "--submission-id", "talks"]) == 2
    assert "The job talks is another command, " in capfd.readouterr().err
    for number in range(2, 12):
        list(client.jobs.values())[-1].status = JobStatus.FAILED
        assert start("talks") == f"talks.{number}"
    list(client.jobs.values())[-1].status = JobStatus.SUCCEEDED
    assert start("talks") == "talks.11"
    assert start("talk") == "talk"
    assert main(["submit", "follow", "other"]) == 2
    assert "has no job other" in capfd.readouterr().err


def test_stop_waits_for_the_end(client: FakeClient, start: Start, capfd: pytest.CaptureFixture[str]) -> None:
    start("talks")
    assert main(["submit", "stop", "talks"]) == 0
    assert capfd.readouterr().err == "job talks has ended: stopped\n"


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "code", "message"),
    [
        (JobStatus.SUCCEEDED, 0, 0, ""),
        (JobStatus.FAILED, 2, 2, "job talks failed: exit code 2\n"),
        (JobStatus.FAILED, -9, 137, "job talks failed: exit code -9\n"),
        (JobStatus.FAILED, None, 1, "job talks failed: Lost\n"),
        (JobStatus.STOPPED, None, 143, "job talks stopped: Lost\n"),
    ],
)
def test_follow_prints_the_log_and_returns_the_exit_code(
    client: FakeClient,
    start: Start,
    status: JobStatus,
    driver_exit_code: int | None,
    code: int,
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    start("talks")
    client.jobs["talks"].next_status = [JobStatus.RUNNING, status]
    client.jobs["talks"].driver_exit_code = driver_exit_code
    assert main(["submit", "follow", "talks"]) == code
    streams = capfd.readouterr()
    assert streams.out == "one\ntwo\n"
    assert streams.err.endswith(message)
