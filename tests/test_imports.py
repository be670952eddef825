"""Imports have one direction and no circles; heavy libraries have one place; `import fer_batch` is light."""

import ast
import functools
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fer_batch

PACKAGE = Path(fer_batch.__path__[0])
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))

BASE = {
    "config",
    "train_config",
    "errors",
    "faults",
    "fields",
    "import_path",
    "lazy_pandas",
    "logs",
    "plotting",
    "schema",
    "terminal",
    "timing",
}
"""Modules that every part may import."""
BELOW_PIPELINE = {"storage", "video", "vision", "model", "inputs", "run", "runtime"}
EDGES = {
    "__init__": {"import_path"},
    "errors": set(),
    "faults": set(),
    "import_path": set(),
    "private_folders": set(),
    "ray_folder": {"errors", "private_folders"},
    "lazy_pandas": set(),
    "logs": {"terminal"},
    "terminal": set(),
    "timing": set(),
    "schema": set(),
    "plotting": {"errors"},
    "config": {"errors", "fields"},
    "train_config": {"config", "errors", "fields"},
    "fields": {"errors"},
    "records": set(),
    "ray_internals": set(),
    "runtime": {"errors", "import_path", "ray_folder", "ray_internals"},
    "storage": BASE,
    "video": BASE | {"storage"},
    "vision": BASE | {"storage", "video"},
    "model": BASE | {"storage", "video", "vision"},
    "inputs": BASE | {"storage", "video"},
    "run": BASE | {"storage", "video", "vision", "model", "inputs"},
    "people": BASE | {"storage", "video", "vision"},
    "pipeline": BASE | BELOW_PIPELINE | {"people", "ray_internals"},
    "data": BASE | BELOW_PIPELINE | {"records"},
    "training": BASE | BELOW_PIPELINE | {"data"},
    "evaluation": BASE | BELOW_PIPELINE | {"records", "data", "training"},
    "timeline": BASE | {"private_folders", "storage", "video", "run"},
    "live": BASE | {"storage", "video", "vision", "model", "timeline"},
    "cli": BASE
    | BELOW_PIPELINE
    | {"__init__", "private_folders", "pipeline", "data", "training", "evaluation", "timeline", "live"},
    "sample": set(),
    "docs": set(),
}
"""The parts that each part may import, besides itself."""

PLACES = {
    "fsspec": ["storage/stores.py"],
    "dlib": ["people/describe.py"],
    "face_recognition_models": ["people/describe.py"],
    "av": ["video/*.py", "pipeline/bench.py", "sample/make_sample.py"],
    "facenet_pytorch": ["vision/mtcnn.py"],
    "torchvision": ["vision/mtcnn.py", "model/backbone.py"],
    "ray.data": ["pipeline/*.py", "run/results.py", "data/clip_files.py", "training/sources.py"],
    "tensorboardX": ["training/recorder.py"],
    "ray.train": ["training/*.py"],
    "ray.tune": ["training/*.py"],
    "optuna": ["training/tune/*.py"],
    "duckdb": ["timeline/*.py", "cli/answer.py", "cli/ask.py"],
    "deltalake": ["run/*.py", "timeline/*.py"],
    "starlette": ["timeline/viewer/*.py", "live/server.py"],
    "uvicorn": ["timeline/viewer/*.py"],
    "matplotlib": [
        "plotting.py",
        "sample/make_sample.py",
        "data/explore/*.py",
        "evaluation/*.py",
        "training/curves.py",
        "training/tune/plots.py",
        "timeline/plots/*.py",
        "timeline/store.py",
        "video/canvas.py",
    ],
    "captum": ["evaluation/explain/*.py"],
    "cyclopts": ["cli/*.py"],
    "webvtt": ["timeline/export/*.py", "timeline/queries/events.py"],
    "pympi": ["timeline/export/*.py"],
    "praatio": ["timeline/export/*.py"],
    "xlsxwriter": ["timeline/export/workbook.py"],
    "jinja2": ["data/explore/report.py"],
    "skimage": ["sample/make_sample.py"],
    "onnx": ["model/onnx/*.py", "people/network.py"],
    "onnxruntime": ["model/onnx/*.py", "people/network.py"],
    "onnxscript": ["model/onnx/*.py"],
}
"""The only files that may import a library."""
LAZY_CIRCLES = {"fer_batch.evaluation.evaluate": {"fer_batch.evaluation.report"}}
"""Imports in a method that may close a circle: it writes its object with a module that needs the class."""
LIGHT = set(sys.stdlib_module_names) | {"fer_batch", "pyarrow"}


def find_imports(source: str, type_checking: bool = True) -> Iterator[str]:
    """Yield every module that a source imports anywhere, or uses as an attribute of `ray`.

    `type_checking` includes the imports under `if TYPE_CHECKING:`.
    """
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if not type_checking and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ray":
            yield f"ray.{node.attr}"


@functools.cache
def modules_of(file: str) -> frozenset[str]:
    return frozenset(find_imports((PACKAGE / file).read_text()))


def part_of(name: str) -> str:
    """Return the part of the package of a file, or of a module by its full name."""
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
def test_imports_are_found_everywhere(source: str, modules: set[str]) -> None:
    assert set(find_imports(source)) == modules


def test_table_has_every_part() -> None:
    assert {part_of(file) for file in FILES} == EDGES.keys()


def test_table_has_no_circles() -> None:
    TopologicalSorter(EDGES).prepare()


def test_modules_have_no_import_circles() -> None:
    names = {file: f"fer_batch.{file.removesuffix('.py').replace('/', '.')}" for file in FILES}
    names = {file: name.removesuffix(".__init__") for file, name in names.items()}
    modules = set(names.values()) - {"fer_batch"}
    graph = {}
    for file, name in names.items():
        imports = set(find_imports((PACKAGE / file).read_text(), type_checking=False))
        imports |= {module.rpartition(".")[0] for module in imports - modules}
        graph[name] = imports & modules - {name} - LAZY_CIRCLES.get(name, set())
    TopologicalSorter(graph).prepare()


def test_parts_import_only_allowed_parts() -> None:
    wrong = [
        (file, module)
        for file in FILES
        for module in sorted(modules_of(file))
        if belongs(module, "fer_batch") and part_of(module) not in EDGES[part_of(file)] | {part_of(file)}
    ]
    assert not wrong


def test_libraries_are_imported_only_at_their_places() -> None:
    wrong = [
        (file, module, places)
        for file in FILES
        for module in sorted(modules_of(file))
        for library, places in PLACES.items()
        if belongs(module, library) and not any(fnmatch(file, place) for place in places)
    ]
    assert not wrong


@pytest.mark.parametrize("name", sorted(BASE))
def test_base_module_imports_nothing_heavy(name: str) -> None:
    in_functions = {"matplotlib"} if name == "plotting" else set()
    assert {module.split(".")[0] for module in modules_of(f"{name}.py")} <= LIGHT | in_functions


@pytest.mark.parametrize("part", ["storage", "video", "vision", "people", "model", "inputs", "timeline"])
def test_part_does_not_import_ray(part: str) -> None:
    files = [file for file in FILES if part_of(file) == part]
    assert files
    assert not [m for file in files for m in modules_of(file) if belongs(m, "ray")]


def test_only_ray_internals_imports_private_names_of_ray() -> None:
    private = {
        file
        for file in FILES
        for module in modules_of(file)
        if belongs(module, "ray") and any(word.startswith("_") for word in module.split("."))
    }
    assert private == {"ray_internals.py"}


def test_jobs_are_short_and_use_only_the_public_api() -> None:
    jobs = {path.name: path.read_text() for path in (PACKAGE.parent / "jobs").glob("*.py")}
    assert jobs.keys() == {"analyze.py", "evaluate.py", "finalize.py", "train.py", "tune.py"}
    for name, source in jobs.items():
        assert len(source.splitlines()) <= 40, name
        modules = {module for module in find_imports(source) if belongs(module, "fer_batch")}
        assert modules == {"fer_batch"}, name
        attributes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)]
        names = {node.attr for node in attributes if ast.unparse(node.value) == "fer_batch"}
        assert names <= set(fer_batch.__all__), name


def test_public_names_are_importable_and_listed() -> None:
    for name in fer_batch.__all__:
        assert getattr(fer_batch, name) is not None
    assert set(fer_batch.__all__) <= set(dir(fer_batch))
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert fer_batch.__version__ == project["version"]
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = fer_batch.no_such_name


@pytest.mark.parametrize(
    "module",
    ["fer_batch", "fer_batch.cli.main", "fer_batch.schema", "fer_batch.config", "fer_batch.plotting"],
)
def test_import_loads_no_heavy_library(module: str) -> None:
    script = f"import sys, {module}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "ray", "av", "duckdb", "deltalake", "pandas", "onnx", "onnxruntime", "matplotlib"}
    assert not heavy & set(loaded.split())


@pytest.mark.parametrize(
    ("module", "libraries"),
    [
        ("timeline.viewer.server", {"torch", "ray"}),
        ("live.server", {"ray"}),
        ("pipeline.local", {"ray"}),
        ("pipeline.workers", {"torch"}),
    ],
)
def test_module_does_not_load(module: str, libraries: set[str]) -> None:
    code = f"import fer_batch.{module}, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not libraries & set(loaded.split())
