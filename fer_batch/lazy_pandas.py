"""Keep pyarrow from importing pandas where nothing is converted to it, which saves half a second."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from types import ModuleType


def delay_pandas() -> None:
    """Let pyarrow import pandas in the first conversion to it instead of in the first `pyarrow.array`.

    Call it only in processes of this package: until such a conversion, `pyarrow.array` of a pandas Series
    does not turn NaN into null.
    """
    import pyarrow as pa

    if "pandas" in sys.modules:
        return
    refuser = _PandasRefuser()
    sys.meta_path.insert(0, refuser)
    try:
        pa.array([0])  # pyarrow tries the import once
    finally:
        sys.meta_path.remove(refuser)


class _PandasRefuser(MetaPathFinder):
    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        if fullname == "pandas":
            raise ImportError(name=fullname)
