"""Checks of `cluster/Dockerfile` that need no build."""

import contextlib
import fnmatch
import importlib.metadata
import itertools
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "cluster" / "Dockerfile").read_text()
ALONE = """
import fcntl, os, socket, struct, sys
IFF_UP, SIOCSIFFLAGS = 1, 0x8914
fcntl.ioctl(socket.socket(), SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
assert [name for _, name in socket.if_nameindex()] == ["lo"]
os.execv(sys.executable, [sys.executable, "-m", "fer_batch.cli.main", *sys.argv[1:]])
"""
"""Run `fer-batch` with only the loopback interface, in a new network namespace."""
KNOWN = {"ARG", "FROM", "RUN", "WORKDIR", "COPY", "ENV", "USER", "CMD"}


def instructions() -> list[tuple[str, str]]:
    lines = [line for line in TEXT.splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(" ", 1)) for line in joined.splitlines() if line.strip()]  # type: ignore[misc]


def test_instructions_are_known() -> None:
    assert {name for name, _ in instructions()} == KNOWN


def copied() -> list[str]:
    return [source for name, rest in instructions() if name == "COPY" for source in rest.split()[:-1]]


def test_copied_files_are_in_the_repository() -> None:
    assert copied()
    for source in copied():
        listed = subprocess.run(
            ["git", "ls-files", source], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert listed.stdout, f"git has no {source}"


def is_in_context(path: str) -> bool:
    """Apply `.dockerignore` to a path: the last pattern that matches it or one of its folders decides."""
    included = True
    folders = [str(folder) for folder in Path(path).parents if folder.name]
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if pattern and not pattern.startswith("#"):
            text = pattern.removeprefix("!").removeprefix("**/")
            names = [path, *folders]
            if text != pattern.removeprefix("!"):
                names = list(Path(path).parts)
            if any(fnmatch.fnmatchcase(name, text) for name in names):
                included = pattern.startswith("!")
    return included


def test_build_context_is_the_copied_files() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    wanted = set()
    for path in listed.stdout.splitlines():
        if any(path == source or path.startswith(f"{source}/") for source in copied()):
            wanted.add(path)
    assert {path for path in listed.stdout.splitlines() if is_in_context(path)} == wanted
    for path in (".git/HEAD", ".venv/bin/python", "fer_batch/cli/__pycache__/main.pyc", "shared/x.mp4"):
        assert not is_in_context(path)


def constraints() -> dict[str, Version]:
    lines = (ROOT / "cluster" / "constraints.txt").read_text().splitlines()
    found = [line.split("==") for line in lines if not line.startswith("#")]
    assert len(dict(found)) == len(found), "a package is listed twice"
    return {canonicalize_name(name): Version(version) for name, version in found}


def test_constraints_fix_all_packages_of_the_image() -> None:
    versions = constraints()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][name] for name in ("cluster", "s3", "gs")]
    wanted = [Requirement(text) for text in (*project["dependencies"], *itertools.chain(*extras))]
    seen = set()
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        assert name in versions, f"constraints.txt has no {requirement}"
        assert requirement.specifier.contains(versions[name], prereleases=True), requirement
        if (name, *requirement.extras) in seen:
            continue
        seen.add((name, *requirement.extras))
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # an extra of the image only
            inner = map(Requirement, importlib.metadata.requires(name) or ())
            wanted += [one for one in inner if applies(one, requirement.extras)]


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether a package with these extras has this requirement here."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


def test_image_installs_from_the_constraints() -> None:
    installs = [line for line in TEXT.splitlines() if re.search(r"pip install .* -r ", line)]
    assert len(installs) == 2
    assert all(" -c constraints.txt " in line for line in installs)


@pytest.mark.slow
def test_copied_files_suffice_to_build_the_package(tmp_path: Path) -> None:
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, tmp_path / source)
        else:
            (tmp_path / source).parent.mkdir(exist_ok=True)
            shutil.copy(ROOT / source, tmp_path / source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "."]
    subprocess.run(command, cwd=tmp_path, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as files:
        assert {"fer_batch/weights/default.safetensors", "fer_batch/sample/two_faces.mp4"} <= set(
            files.namelist()
        )


def test_arguments_are_used_in_their_scope() -> None:
    """The scope of an argument before FROM is FROM."""
    parts = instructions()
    start = [name for name, _ in parts].index("FROM")
    for index, (name, rest) in enumerate(parts):
        if name == "ARG":
            argument = rest.split("=")[0]
            users = parts[start : start + 1] if index < start else parts[index:]
            assert any(re.search(rf"\${{?{argument}\b", text) for other, text in users if other != "ARG")


def test_package_supports_the_python_version() -> None:
    assert "ARG PYTHON_VERSION=3.11\n" in TEXT


def test_shell_commands_parse() -> None:
    for name, rest in instructions():
        if name == "RUN":
            subprocess.run(["sh", "-n", "-c", rest], check=True)


def test_requirements_are_the_dependencies_of_the_package(tmp_path: Path) -> None:
    """Run the line of the Dockerfile that writes them."""
    (step,) = [rest for name, rest in instructions() if name == "RUN" and "tomllib" in rest]
    write, choose, *_ = step.split("&&")
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    write = write.replace("python -c", f"{shlex.quote(sys.executable)} -c")
    subprocess.run(["sh", "-e", "-c", f"{write} && {choose}"], cwd=tmp_path, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [project["optional-dependencies"][name] for name in ("cluster", "s3", "gs")]
    wanted = [*project["dependencies"], *itertools.chain(*extras)]
    assert (tmp_path / "requirements.txt").read_text().splitlines() == wanted
    torch = (tmp_path / "torch.txt").read_text().splitlines()
    assert [re.split("[><=]", line)[0] for line in torch] == ["torch", "torchvision"]


def test_image_has_an_unprivileged_user_and_requires_a_token() -> None:
    last = dict(instructions())
    assert last["USER"] == "1000"
    assert "RAY_AUTH_MODE=token" in last["ENV"].split()


@pytest.mark.slow
def test_the_demo_needs_no_network(tmp_path: Path) -> None:
    """Equivalent to `docker run --network none` of the guide."""
    alone = ["unshare", "--map-root-user", "--net"]
    if subprocess.run([*alone, "true"], check=False, capture_output=True).returncode:
        pytest.skip("cannot create a network namespace")
    command = [*alone, sys.executable, "-c", ALONE, "demo", "--out", str(tmp_path / "demo")]
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "track 0" in done.stdout
