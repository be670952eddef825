"""Imports point one way, each heavy library comes in at one place, and `import fer_batch` stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

import fer_batch

PACKAGE = Path(fer_batch.__path__[0])
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

BASE = {"config", "errors", "faults", "fields", "plotting", "schema", "timing"}
"""Modules that every part may use."""
BELOW_PIPELINE = {"storage", "video", "vision", "model", "inputs", "run", "runtime"}
EDGES = {
    "__init__": {"timeline"},
    "errors": set(),
    "faults": set(),
    "timing": set(),
    "schema": set(),
    "plotting": {"errors"},
    "config": {"errors", "fields"},
    "fields": {"errors"},
    "runtime": {"errors"},
    "storage": BASE,
    "video": BASE | {"storage"},
    "vision": BASE | {"storage", "video"},
    "model": BASE | {"storage", "video", "vision"},
    "inputs": BASE | {"storage", "video"},
    "run": BASE | {"storage", "video", "vision", "model", "inputs"},
    "pipeline": BASE | BELOW_PIPELINE,
    "data": BASE | BELOW_PIPELINE,
    "training": BASE | BELOW_PIPELINE | {"data"},
    "evaluation": BASE | BELOW_PIPELINE | {"data", "training"},
    "timeline": BASE | {"storage", "video", "run"},
    "cli": BASE | BELOW_PIPELINE | {"pipeline", "data", "training", "evaluation", "timeline"},
    "sample": set(),
    "docs": set(),
}
"""What a part may import of the package. A part may always import itself."""

PLACES = {
    "fsspec": ["storage/stores.py"],
    "av": ["video/*.py", "pipeline/bench.py", "sample/make_sample.py"],
    "facenet_pytorch": ["vision/mtcnn.py"],
    "torchvision": ["vision/mtcnn.py", "model/backbone.py"],
    "ray.data": ["pipeline/*.py", "run/results.py", "data/clip_files.py", "training/sources.py"],
    "tensorboardX": ["training/run.py"],
    "ray.train": ["training/*.py"],
    "ray.tune": ["training/*.py"],
    "optuna": ["training/tune/*.py"],
    "duckdb": ["timeline/*.py", "cli/answer.py", "cli/ask.py"],
    "deltalake": ["run/*.py", "timeline/*.py"],
    "starlette": ["timeline/viewer/*.py"],
    "uvicorn": ["timeline/viewer/*.py"],
    "matplotlib": [
        "plotting.py",
        "sample/make_sample.py",
        "data/explore/*.py",
        "evaluation/*.py",
        "training/tune/plots.py",
        "timeline/plots/*.py",
        "timeline/store.py",
        "video/canvas.py",
    ],
    "captum": ["evaluation/explain/*.py"],
    "shtab": ["cli/completion.py"],
    "webvtt": ["timeline/export/*.py", "timeline/queries/events.py"],
    "pympi": ["timeline/export/*.py"],
    "praatio": ["timeline/export/*.py"],
    "xlsxwriter": ["timeline/export/workbook.py", "data/explore/workbook.py"],
    "skimage": ["sample/make_sample.py"],
    "onnx": ["model/onnx/*.py"],
    "onnxruntime": ["model/onnx/*.py"],
    "onnxscript": ["model/onnx/*.py"],
}
"""The only files that may import a library."""
LIGHT = set(sys.stdlib_module_names) | {"fer_batch", "pyarrow"}


def imported(source: str) -> Iterator[str]:
    """Every module that a source names: imports anywhere in it, and what it reads off `ray`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ray":
            yield f"ray.{node.attr}"


def modules_of(file: str) -> set[str]:
    return set(imported((PACKAGE / file).read_text()))


def part_of(name: str) -> str:
    """The part of the package that a file, or a module's full name, belongs to."""
    if name.endswith(".py"):
        return name.split("/", maxsplit=1)[0].removesuffix(".py")
    words = name.split(".")
    known = len(words) > 1 and (words[1] in EDGES or (PACKAGE / words[1]).exists())
    return words[1] if known else "__init__"


def belongs(module: str, library: str) -> bool:
    return module == library or module.startswith(f"{library}.")


@pytest.mark.parametrize(
    ("source", "modules"),
    [
        ("", set()),
        ("import ray.data as data, os", {"ray.data", "os"}),
        ("from ray import train", {"ray.train"}),
        ("import ray\nray.data.from_arrow(1)", {"ray", "ray.data"}),
        ("def f():\n    from fer_batch.video import reader", {"fer_batch.video.reader"}),
        ("if TYPE_CHECKING:\n    import pandas as pd", {"pandas"}),
    ],
)
def test_imports_are_seen_wherever_they_stand(source: str, modules: set[str]) -> None:
    assert set(imported(source)) == modules


def test_every_part_is_in_the_table() -> None:
    assert {part_of(file) for file in FILES} == EDGES.keys()


def test_the_table_points_one_way() -> None:
    settled: set[str] = set()
    while left := EDGES.keys() - settled:
        free = {part for part in left if EDGES[part] <= settled}
        assert free, f"these import each other: {sorted(left)}"
        settled |= free


@pytest.mark.parametrize("file", FILES)
def test_a_part_imports_only_the_parts_before_it(file: str) -> None:
    part = part_of(file)
    wrong = [
        module
        for module in sorted(modules_of(file))
        if belongs(module, "fer_batch") and part_of(module) not in EDGES[part] | {part}
    ]
    assert not wrong


@pytest.mark.parametrize("file", FILES)
def test_a_library_comes_in_only_at_its_place(file: str) -> None:
    wrong = [
        (module, places)
        for module in sorted(modules_of(file))
        for library, places in PLACES.items()
        if belongs(module, library) and not any(fnmatch(file, place) for place in places)
    ]
    assert not wrong


@pytest.mark.parametrize("name", sorted(BASE))
def test_what_every_part_uses_imports_nothing_heavy(name: str) -> None:
    in_functions = {"matplotlib"} if name == "plotting" else set()
    assert {module.split(".")[0] for module in modules_of(f"{name}.py")} <= LIGHT | in_functions


@pytest.mark.parametrize("part", ["storage", "video", "vision", "model", "inputs", "timeline"])
def test_ray_stays_out_of(part: str) -> None:
    files = [file for file in FILES if part_of(file) == part]
    assert files
    assert not [m for file in files for m in modules_of(file) if belongs(m, "ray")]


def test_jobs_only_call_the_command_line() -> None:
    jobs = sorted((PACKAGE.parent / "jobs").glob("*.py"))
    assert jobs
    for job in jobs:
        source = job.read_text()
        assert set(imported(source)) == {"sys", "fer_batch.cli.main.main"}
        assert len(source.splitlines()) <= 40


@pytest.mark.parametrize(
    "module",
    ["fer_batch", "fer_batch.cli.main", "fer_batch.schema", "fer_batch.config", "fer_batch.plotting"],
)
def test_importing_it_brings_in_neither_torch_nor_ray(module: str) -> None:
    script = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "ray", "av", "duckdb", "deltalake", "pandas", "onnx", "onnxruntime", "matplotlib"}
    assert not heavy & set(loaded.split())


def test_asking_a_timeline_brings_in_neither_torch_nor_ray() -> None:
    code = "import fer_batch.timeline.viewer.server, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"torch", "ray"} & set(loaded.split())
