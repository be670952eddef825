"""Files of the working directory are never imported: by commands, workers, and processes of these."""

import importlib.util
import json
import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

import fer_batch
from fer_batch import import_path
from fer_batch.import_path import make_import_environment, remove_working_directory
from tests.conftest import SAMPLE
from tests.datasets import write_random_images

ROOT = str(Path(fer_batch.__path__[0]).parent)
LIBRARIES = ("av", "numpy", "pyarrow", "ray", "torch", "torchvision", "duckdb")
STANDARD = ("sitecustomize", "usercustomize", "random", "token", "tempfile", "selectors")
NAMES = ("fer_batch", *LIBRARIES, *STANDARD)
"""Modules that the package, its libraries or Python's start import."""
MARK = """
import os, sys
with open({folder!r} + f"/{{__name__}}-{{os.getpid()}}", "w") as file:
    print(*sys.orig_argv, file=file)
"""
RUN = """
import sys
import fer_batch
import ray
from fer_batch.runtime import ray_session

out, images, trained, hostile = sys.argv[1:]

def read_paths():
    import os, subprocess, sys
    printed = subprocess.check_output([sys.executable, "-c", "import sys; print(*sys.path, sep=chr(10))"])
    return [os.getcwd(), *sys.path], printed.decode().split(chr(10))

with ray_session(num_cpus=2):
    paths, child_paths = ray.get(ray.remote(read_paths).remote())
    assert not {hostile, ""} & {*paths, *child_paths[:-1]}, (paths, child_paths)
    fer_batch.analyze(["clip.mp4"], out, fer_batch.AnalyzeConfig(fps=0.2, min_face=0.5))
    tiny = {"network": "cnn4", "filters": (4, 4), "depths": (1, 1), "dropouts": (0.0,) * 4, "batch_size": 4}
    config = fer_batch.TrainConfig(data=(("folder", images),), epochs=1, **tiny)
    fer_batch.train(config, trained)
assert fer_batch.open_timeline(out).videos().status.tolist() == ["ok"]
"""
"""Uses a child of the driver that probes, a worker of Ray and its child that decodes, and a worker of Ray
Train."""


def make_hostile_folder(folder: Path, names: tuple[str, ...]) -> Path:
    """Write modules with these names that record in the folder `imports` beside it which process ran them."""
    folder.mkdir()
    (folder.parent / "imports").mkdir()
    for name in names:
        (folder / f"{name}.py").write_text(MARK.format(folder=str(folder.parent / "imports")))
    (folder / "clip.mp4").write_bytes(SAMPLE.read_bytes())
    return folder


def list_imports(folder: Path) -> dict[str, str]:
    """Return the command lines of the processes that ran a module of the hostile folder."""
    return {file.name: file.read_text() for file in (folder.parent / "imports").iterdir()}


@pytest.fixture(scope="module")
def imports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Analyze and train in a hostile folder, and return what was imported from there."""
    folder = tmp_path_factory.mktemp("run")
    here = make_hostile_folder(folder / "hostile", NAMES)
    images = write_random_images(folder, {"train/happy": 4, "train/sad": 4, "val/happy": 1, "val/sad": 1})
    (folder / "run.py").write_text(RUN)
    run_python(here, ROOT, "-P", folder / "run.py", folder / "out", images, folder / "trained", here)
    return list_imports(here)


def run_python(here: Path, path: str, *words: str | Path) -> str:
    """Run Python in a folder with this PYTHONPATH and return its output."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTHON"))}
    command = [sys.executable, *map(str, words)]
    run = subprocess.run(
        command, check=False, cwd=here, env=kept | {"PYTHONPATH": path}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_no_process_imports_from_the_working_directory(imports: dict[str, str], name: str) -> None:
    assert [command for file, command in imports.items() if file.startswith(f"{name}-")] == []


@pytest.mark.slow
def test_command_and_its_child_import_no_library_from_the_working_directory(tmp_path: Path) -> None:
    here = make_hostile_folder(tmp_path / "hostile", LIBRARIES)
    path = f":{ROOT}"  # the empty entry is the working directory
    output = run_python(here, path, "-m", "fer_batch.cli.main", "plan", ".", "--json")
    assert json.loads(output)["statuses"] == {"ok": 1}
    assert list_imports(here) == {}


def test_only_absolute_entries_of_pythonpath_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f":/one:two:./three:{ROOT}:/one/four:")
    assert make_import_environment() == {"PYTHONPATH": f"/one:{ROOT}:/one/four", "PYTHONSAFEPATH": "1"}


@pytest.mark.parametrize("path", ["", "/one"])
def test_package_is_found_without_an_entry_in_pythonpath(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setenv("PYTHONPATH", path)
    assert make_import_environment()["PYTHONPATH"] == os.pathsep.join(filter(None, (ROOT, path)))
    monkeypatch.setattr(import_path, "PACKAGE_FOLDER", site.getsitepackages()[0])
    assert make_import_environment()["PYTHONPATH"] == path


def test_working_directory_is_removed_from_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/one")
    kept = [ROOT, "/one", "/other", *site.getsitepackages()]
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), ".", "relative", str(tmp_path / "link"), *kept])
    remove_working_directory()
    assert sys.path == kept
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), *kept])
    remove_working_directory()
    assert sys.path == [str(tmp_path), *kept]


def test_command_obeys_no_settings_of_matplotlib_in_the_working_directory(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("font.size: 77\n")
    code = "import fer_batch.cli.{}; import matplotlib; print(matplotlib.rcParams['font.size'])"
    assert run_python(tmp_path, ROOT, "-P", "-c", code.format("import_path")) == "10.0\n"
    assert run_python(tmp_path, ROOT, "-P", "-c", code.format("formatter")) == "77.0\n"


@pytest.mark.slow
@pytest.mark.parametrize("module_name", ["fer_batch.cli.import_path", "fer_batch"])
def test_no_cuda_library_of_the_working_directory_is_loaded(module_name: str, tmp_path: Path) -> None:
    module = importlib.util.find_spec("_ctypes")
    assert module is not None
    assert module.origin is not None
    shutil.copy(module.origin, tmp_path / "libcuda.so.1")
    code = f"import os, {module_name}, torch; print(os.getcwd(), open('/proc/self/maps').read())"
    folder, _, maps = run_python(tmp_path, ROOT, "-P", "-c", code).partition(" ")
    assert Path(folder) == tmp_path
    assert str(tmp_path) not in maps
