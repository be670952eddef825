"""Jobs on a dashboard, with a client that keeps them in memory; tests/cluster uses real ones."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus

from fer_batch.errors import ConfigError
from fer_batch.pipeline import submit
from fer_batch.pipeline.submit import JobClient, exit_code

COMMAND = ["analyze", "/data/my videos", "--out", "/data/out"]


class FakeClient(JobClient):
    """A dashboard whose jobs change their status at each `get_job_info`."""

    def __init__(self) -> None:
        self.jobs: dict[str, SimpleNamespace] = {}
        self.failures = 0
        """Number of next requests that fail."""

    def get_address(self) -> str:
        return "http://head:8265"

    def submit_job(self, entrypoint: str, submission_id: str, runtime_env: dict[str, str]) -> str:
        job = SimpleNamespace(
            submission_id=submission_id,
            entrypoint=entrypoint,
            runtime_env=runtime_env,
            status=JobStatus.RUNNING,
            driver_exit_code=None,
            next_status=[],
            logs=[""],
        )
        self.jobs[submission_id] = job
        return submission_id

    def list_jobs(self) -> list[SimpleNamespace]:
        return [*self.jobs.values(), SimpleNamespace(submission_id=None)]

    def get_job_info(self, job_id: str) -> SimpleNamespace:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("lost")
        job = self.jobs[job_id]
        if job.next_status:
            job.status = job.next_status.pop(0)
        return job

    def get_job_logs(self, job_id: str) -> str:
        logs = self.jobs[job_id].logs
        return logs.pop(0) if len(logs) > 1 else logs[0]

    def stop_job(self, job_id: str) -> bool:
        self.jobs[job_id].next_status = [JobStatus.RUNNING, JobStatus.STOPPED]
        return True


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: None)
    return FakeClient()


def test_job_runs_the_command_with_its_working_dir(client: Any, tmp_path: Path) -> None:
    assert client.start(COMMAND, "talks", tmp_path) == ("talks", True)
    job = client.find("talks")
    assert job.entrypoint.endswith("fer_batch.cli.main analyze '/data/my videos' --out /data/out")
    assert job.runtime_env == {"working_dir": str(tmp_path)}


def test_id_has_one_active_job_and_a_new_one_after_each_failure(client: Any) -> None:
    assert client.start(COMMAND, "talks") == ("talks", True)
    assert client.start(COMMAND, "talks") == ("talks", False)
    with pytest.raises(ConfigError, match="The job talks is another command, verify /data/out"):
        client.jobs["talks"].entrypoint = submit.ENTRY_POINT + "verify /data/out"
        client.start(COMMAND, "talks")
    for number in range(2, 12):
        list(client.jobs.values())[-1].status = JobStatus.FAILED
        assert client.start(COMMAND, "talks") == (f"talks.{number}", True)
    assert client.find("talks").submission_id == "talks.11"
    list(client.jobs.values())[-1].status = JobStatus.SUCCEEDED
    assert client.start(COMMAND, "talks") == ("talks.11", False)
    assert client.start(COMMAND, "talk") == ("talk", True)
    with pytest.raises(ConfigError, match="has no job other"):
        client.find("other")


def test_log_is_shown_once_also_after_lost_requests(client: Any) -> None:
    client.start(COMMAND, "talks")
    job = client.jobs["talks"]
    job.next_status = [JobStatus.PENDING, JobStatus.RUNNING, JobStatus.RUNNING, JobStatus.SUCCEEDED]
    job.logs = ["", "one\n", "one\n", "one\ntwo\n"]
    client.failures = 2
    texts: list[str] = []
    assert client.follow("talks", texts.append).status == JobStatus.SUCCEEDED
    assert texts == ["one\n", "two\n"]


def test_lost_dashboard_ends_the_log(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client.start(COMMAND, "talks")
    client.failures = 10
    monkeypatch.setattr(submit, "LOST_TIMEOUT_S", -1)
    with pytest.raises(ConfigError, match="does not respond; the job may continue"):
        client.follow("talks", print)


def test_stop_waits_for_the_end(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client.start(COMMAND, "talks")
    assert client.stop("talks").status == JobStatus.STOPPED
    monkeypatch.setattr(submit, "STOP_TIMEOUT_S", -1)
    with pytest.raises(ConfigError, match="has not ended"):
        client.stop("talks")


@pytest.mark.parametrize(
    ("status", "driver_exit_code", "code"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 2, 2),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.FAILED, None, 1),
        (JobStatus.STOPPED, -15, 143),
    ],
)
def test_exit_code_of_an_ended_job(status: JobStatus, driver_exit_code: int | None, code: int) -> None:
    job: Any = SimpleNamespace(status=status, driver_exit_code=driver_exit_code)
    assert exit_code(job) == code
