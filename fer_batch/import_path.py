"""Import paths without the working directory, which may hold untrusted files with names of modules.

Python puts the working directory first in `sys.path` for `python -c` and `python -m`, and wherever
PYTHONPATH has an empty or a relative entry.
"""

import contextlib
import os
import site
import sys
import sysconfig
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType

PACKAGE_FOLDER = str(Path(__file__).absolute().parents[1])
"""The folder that contains the package."""


def make_import_environment() -> dict[str, str]:
    """Return environment variables with which Python imports this package, and nothing relative.

    Absolute entries of PYTHONPATH are kept: the user or a Ray job has chosen them.
    """
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if os.path.isabs(path)]
    if PACKAGE_FOLDER not in (*paths, *site.getsitepackages(), site.getusersitepackages()):
        paths.insert(0, PACKAGE_FOLDER)
    return {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1"}


def remove_working_directory() -> None:
    """Remove the working directory from `sys.path`, unless an absolute entry of PYTHONPATH names it."""
    chosen = {*make_import_environment()["PYTHONPATH"].split(os.pathsep), PACKAGE_FOLDER}
    chosen.update(sysconfig.get_paths().values())
    here = os.path.realpath(os.curdir)
    sys.path[:] = [
        path
        for path in sys.path
        if path in chosen or (os.path.isabs(path) and os.path.realpath(path) != here)
    ]


IMPORTED_IN_ROOT = {"matplotlib": "matplotlibrc", "torch": "libcuda.so.1"}
"""Libraries that use a file of the working directory when they are imported: the settings of matplotlib, and
the driver of CUDA, as the library path of a CUDA library has an empty entry."""


class RootFinder(MetaPathFinder):
    """Imports libraries of `IMPORTED_IN_ROOT` with the root folder as the working directory.

    Without `always`, it does so only where the working directory has the library's file.
    """

    def __init__(self, *names: str, always: bool) -> None:
        self.names, self.always = names, always

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the specification of such a library, and None for other modules."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname in self.names else None
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_in_root(module: ModuleType) -> None:
                is_exposed = self.always or os.path.lexists(IMPORTED_IN_ROOT[fullname])
                with contextlib.chdir("/") if is_exposed else contextlib.nullcontext():
                    execute(module)

            spec.loader.exec_module = execute_in_root  # type: ignore[method-assign]
        return spec
