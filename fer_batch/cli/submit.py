"""`submit`: other commands as jobs on a cluster that is elsewhere."""

import argparse
import contextlib
import os
import re
import secrets
import shlex
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fer_batch.cli import analyze, crossval, evaluate, forget, train, tune, verify
from fer_batch.config import Limits
from fer_batch.errors import ConfigError

EXAMPLES = """\
examples:
  fer-batch submit analyze /mnt/talks --out /mnt/results --address http://head:8265
  fer-batch submit analyze /mnt/talks --out /mnt/results --submission-id talks --no-wait
  fer-batch submit analyze list.csv --out /mnt/results --working-dir .
  fer-batch submit follow talks
  fer-batch submit stop talks

--address may be left out where RAY_API_SERVER_ADDRESS or RAY_ADDRESS has it. The exit code is the job's own:
0, 2 for what must be put right first, 143 where it was stopped. A token is taken from RAY_AUTH_TOKEN,
RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token."""

WHERE = """\
The command runs on a node of the cluster, with the fer_batch that is installed there. So paths, globs and
manifests are those of its nodes, and must be absolute: nothing of this machine is sent. With
--working-dir DIR the files in DIR are (manifests, a checkpoint, a recipe, few videos), and relative paths are
those in it; OUT must be absolute also then. A fer_batch in DIR goes before that of the nodes.

The same --submission-id again follows that job, or tells how it ended where it ended well; one that failed or
was stopped is started again, as ID.2, ID.3 …

example:
  fer-batch submit {name} … --address http://head:8265 --submission-id mine"""


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "submit",
        help="run a command as a job on a cluster, follow it, stop it",
        description="Run a command of fer-batch as a job on a Ray cluster, through its dashboard.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    jobs = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (analyze, train, tune, evaluate, crossval, verify, forget):
        module.add_commands(jobs)
    for name, job in jobs.choices.items():
        job.set_defaults(run=run_submit, parser=job, passes_insecure=job.get_default("insecure") is not None)
        job.conflict_handler = "resolve"  # --address and --insecure are now the dashboard's
        job.epilog = WHERE.format(name=name)
        _add_job_options(job.add_argument_group("the job"))
    for name, run, text in (
        ("follow", run_follow, "show a job's log from its beginning until it ends"),
        ("stop", run_stop, "stop a job; `submit` with the same id goes on from there"),
    ):
        job = jobs.add_parser(
            name,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example:\n  fer-batch submit {name} talks --address http://head:8265",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        job.add_argument("job", metavar="ID", type=_submission_id, help="the --submission-id")
        _add_dashboard_options(job)
        job.set_defaults(run=run, parser=job)


def _add_dashboard_options(group: Any) -> None:
    group.add_argument(
        "--address",
        metavar="http://HOST:PORT",
        help="the cluster's dashboard (default: RAY_API_SERVER_ADDRESS, else RAY_ADDRESS)",
    )
    analyze.add_insecure_option(group)


def _add_job_options(group: Any) -> None:
    _add_dashboard_options(group)
    group.add_argument(
        "--submission-id", type=_submission_id, metavar="ID", help="a name of your own (default: a new one)"
    )
    group.add_argument(
        "--working-dir",
        type=Path,
        metavar="DIR",
        help="send the files in DIR, at most 100 MB, but for what .gitignore names",
    )
    group.add_argument(
        "--no-wait", action="store_true", help="print the job's id and leave, instead of following its log"
    )


def _submission_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 to 100 letters, digits, '.', '_' and '-'")
    return text


def run_submit(options: argparse.Namespace) -> int:
    """Run the command `submit` of another command."""
    words = job_words(options.words[1:])
    _check(options, words)
    if options.insecure and options.passes_insecure:
        words.insert(1, "--insecure")
    client = _connect(options)
    from fer_batch.pipeline.submit import submit_job

    submission_id = options.submission_id or f"{words[0]}-{secrets.token_hex(4)}"
    job_id, fresh = submit_job(client, words, submission_id, options.working_dir)
    if options.no_wait:
        print(job_id)
        return 0
    print(
        f"job {job_id}{'' if fresh else ' was submitted before'}; {_hint(client, job_id, options)}",
        file=sys.stderr,
    )
    return _follow(client, job_id, options)


def job_words(words: Sequence[str]) -> list[str]:
    """The words after `submit` without those that are for this side."""
    own = argparse.ArgumentParser(add_help=False)
    _add_job_options(own)
    return own.parse_known_args(words)[1]


def run_follow(options: argparse.Namespace) -> int:
    """Run the command `submit follow`."""
    client = _connect(options)
    from fer_batch.pipeline.submit import find_job

    return _follow(client, str(find_job(client, options.job).submission_id), options)


def run_stop(options: argparse.Namespace) -> int:
    """Run the command `submit stop`."""
    client = _connect(options)
    from fer_batch.pipeline.submit import find_job, stop_job

    last = find_job(client, options.job)
    ended = stop_job(client, str(last.submission_id))
    before = "had ended before" if last.status.is_terminal() else "has ended"
    print(f"job {last.submission_id} {before}: {ended.status.value.lower()}", file=sys.stderr)
    return 0


def _check(options: argparse.Namespace, words: Sequence[str]) -> None:
    """Raise ConfigError where a job would only find out on the cluster that it can't run."""
    folder = options.working_dir
    if folder is not None and not folder.is_dir():
        raise ConfigError(f"--working-dir {folder} is no folder")
    if words[0] in ("analyze", "demo"):
        analyze.config_of(options)
    if words[0] == "analyze":
        Limits(timeout_s=options.timeout_s, memory_gb=options.memory_gb)
    inputs = [*options.videos] if words[0] == "analyze" else []
    inputs += [getattr(options, name, None) for name in ("checkpoint", "init", "recipe")]
    given = [re.sub("^--data=", "", word).partition("=")[::2] for word in words]
    inputs += [path for name, path in given if path and _data(name, path) in getattr(options, "data", ())]
    for path in [*(() if folder else inputs), options.out]:
        if path not in (None, "default") and not str(path).startswith("/") and ":/" not in str(path):
            also = "" if path is options.out else ", or a --working-dir that has it"
            raise ConfigError(
                f"{path} is relative, but the job runs on the cluster: give a path that its nodes know, from "
                f"/ on{also}"
            )


def _data(name: str, path: str) -> tuple[str, str]:
    """What `--data` makes of NAME=PATH."""
    return name, str(Path(path).absolute())


def _connect(options: argparse.Namespace) -> Any:
    if find_spec("aiohttp") is None:
        raise ConfigError("submit needs Ray's dashboard: python -m pip install 'fer-batch[cluster]'")
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    address = options.address or next(filter(None, map(os.environ.get, names)), None)
    if not address:
        raise ConfigError(f"give the cluster's dashboard: --address http://HOST:8265, or {names[0]}")
    from fer_batch.pipeline.submit import connect

    return connect(address, insecure=options.insecure)


def _follow(client: Any, job_id: str, options: argparse.Namespace) -> int:
    from fer_batch.pipeline.submit import exit_code, follow_job

    with _left_running(f"\njob {job_id} goes on; {_hint(client, job_id, options)}\n"):
        ended = follow_job(client, job_id, lambda text: print(text, end="", flush=True))
    code = exit_code(ended)
    if code:
        reason = (
            (ended.message or "").split("\n")[0] if ended.driver_exit_code is None else f"exit code {code}"
        )
        print(f"job {job_id} {ended.status.value.lower()}: {reason}", file=sys.stderr)
    return code


def _hint(client: Any, job_id: str, options: argparse.Namespace) -> str:
    insecure = ["--insecure"] if options.insecure else []
    to = shlex.join([job_id, "--address", client.get_address(), *insecure])
    return f"follow it again: fer-batch submit follow {to}; stop it: fer-batch submit stop {to}"


@contextlib.contextmanager
def _left_running(said: str) -> Iterator[None]:
    """SIGTERM and Ctrl-C end this process alone meanwhile, and say what goes on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: object) -> None:
        os.write(2, said.encode())
        os._exit(128 + number)

    woken = signal.set_wakeup_fd(-1)  # of the command line, which would end the process itself
    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
