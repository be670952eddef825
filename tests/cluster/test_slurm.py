"""`cluster/slurm/fer-batch.sbatch`: exit codes with stand-ins for Slurm, and a job on a Slurm cluster."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.run.verify import verify_run
from tests.cluster.conftest import Host, Started
from tests.cluster.test_readme import parse_ray
from tests.cluster.test_submit_job import wait
from tests.faults.conftest import CHILD, OPTIONS, list_bundle_stats, wait_for, write_clips
from tests.integration.test_analyze import analyze_in_process, assert_same_run

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm" / "fer-batch.sbatch"
CONFIG = AnalyzeConfig(fps=10.0, min_face=0.2, segment_s=2.0, bundle_s=2.0)
STAND_INS = {
    "srun": 'while [ "$1" != bash ]; do shift; done; setsid --wait "$@"',
    "scancel": "kill -USR1 0",
    "getent": 'echo "$NODE_ADDRESS STREAM node1"',
    "ray": 'if [ "$1" = stop ]; then kill -USR1 $PPID; kill -TERM $PPID; else '
    'echo "$@" > "$RAY_ARGUMENTS"; shift 10; eval "$RAY_RESULT"; fi',
    "fer-batch": 'printf "%s\\n" "$@"; exit 3',
}
"""Programs on one node. Slurm signals the process group of a task, here that of `setsid`. More signals
arrive while a task cleans up."""
SLURM = """
ClusterName=test
SlurmctldHost={2.name}({2.address})
AuthType=auth/none
CredType=cred/none
SlurmUser=root
StateSaveLocation={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/%n
SlurmdPidFile={folder}/%n.pid
SlurmdParameters=config_overrides
SlurmdTimeout=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
NodeName={0.name} NodeAddr={0.address} CPUs=1 RealMemory=4000
NodeName={1.name} NodeAddr={1.address} CPUs=1 RealMemory=4000
PartitionName=all Nodes=ALL Default=YES
"""
ENTER = 'hostname "$1"; mount --bind "$2" /etc/hosts; shift 2; "$@"'
"""Run a program on a host with this name. The shell remains, as it reaps processes without a parent."""


@pytest.mark.parametrize(
    ("words", "settings", "code", "message"),
    [
        (["analyze", "my videos"], {}, 3, "analyze\nmy videos\n"),
        (["analyze"], {"RAY_RESULT": "exit 0"}, 1, "Ray did not start"),
        (["analyze"], {"NODE_ADDRESS": "127.0.1.1"}, 2, "has no address"),
        ([], {}, 2, "give a command of fer-batch"),
    ],
)
def test_script_ends_with_the_exit_code_of_the_command(
    tmp_path: Path, words: list[str], settings: dict[str, str], code: int, message: str
) -> None:
    for name, text in STAND_INS.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "0", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_ON_NODE": "8"}
    job["SLURM_NODEID"] = "1"
    ray = {
        "RAY_ARGUMENTS": str(tmp_path / "ray.txt"),
        "RAY_RESULT": '"$@"; exit 0',
        "NODE_ADDRESS": "192.0.2.1",
    }
    ray["RAY_TMPDIR"] = str(tmp_path)
    variables = {**os.environ, **job, **ray, **settings, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", SCRIPT, *words], env=variables, check=False, capture_output=True, text=True
    )
    assert done.returncode == code, done.stderr
    assert message in done.stdout + done.stderr
    if code == 3:
        name, *options = (tmp_path / "ray.txt").read_text().split(" -- ")[0].split()
        assert parse_ray(["ray", name, *options]).params["address"] == "192.0.2.1:6379"
        parse_ray(["ray", "start", *parse_ray(["ray", name, *options]).params["ray_args_and_entrypoint"]])
        assert not list(tmp_path.glob("ray.*/"))


@pytest.fixture
def slurm(hosts: list[Host], tmp_path: Path) -> Callable[..., Started]:
    """A Slurm cluster of two nodes with one CPU each; return a function that calls Slurm's commands."""
    if not shutil.which("slurmctld") or not shutil.which("slurmd"):
        pytest.skip("Slurm is not installed")
    folder = tmp_path / "slurm"
    folder.mkdir()
    names = folder / "hosts"
    names.write_text("".join(f"{host.address} {host.name}\n" for host in hosts) + "127.0.0.1 localhost\n")
    (folder / "slurm.conf").write_text(SLURM.format(*hosts, folder=folder))

    def start(host: Host, *command: str, **options: object) -> Started:
        namespaces = ["--uts", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        words = [
            "/usr/bin/unshare",
            *namespaces,
            "bash",
            "-c",
            ENTER,
            "bash",
            host.name,
            str(names),
            *command,
        ]
        more = {"SLURM_CONF": str(folder / "slurm.conf"), "RAY_TMPDIR": str(host.folder.parent)}
        return host.start(*words, more=more, **options)

    def call(*command: str) -> Started:
        return start(hosts[2], *command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    for host in hosts:
        daemon = ["slurmctld", "-D"] if host is hosts[2] else ["slurmd", "-D", "-N", host.name]
        with (folder / f"{host.name}.log").open("wb") as log:
            start(host, *daemon, stdout=log, stderr=log)
    wait(lambda: call("sinfo", "--noheader", "--format=%D %T").communicate()[0] == "2 idle\n", 60)
    return call


@pytest.mark.cluster
@pytest.mark.timeout(400)
def test_job_survives_a_lost_node(
    slurm: Callable[..., Started], hosts: list[Host], sample_frames: list[np.ndarray], tmp_path: Path
) -> None:
    out, alone, log = tmp_path / "out", tmp_path / "alone", tmp_path / "log"
    clips = write_clips(tmp_path / "clips", sample_frames, 6)
    analyze_in_process([str(clips)], alone, CONFIG)
    sbatch = ["sbatch", "--wait", f"--output={log}", str(SCRIPT)]
    job = slurm(*sbatch, "analyze", str(clips), "--out", str(out), *OPTIONS)
    assert wait_for(lambda: all(host.processes(CHILD) for host in hosts[:2]), job), log.read_text()
    assert wait_for(lambda: bool(list_bundle_stats(out)), job), log.read_text()
    hosts[1].kill()
    assert job.wait(240) == 0, log.read_text()
    assert_same_run(out, alone)
    assert verify_run(out) == []
    wait(lambda: not hosts[0].processes("ray"), 60)
