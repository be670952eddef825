"""Read small files that come from users, such as cards and recipes, with limits on kind, size and depth."""

import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

MAX_JSON_DEPTH = 32
"""Python reads deeper JSON, but copying and formatting it may exceed the limit of recursion."""


def open_regular(path: str | Path, follow_link: bool = True) -> BinaryIO:
    """Open a regular file to read it.

    Raises OSError if it cannot be opened, or is a link and `follow_link` is False. Raises ValueError for
    another kind of file: a pipe would block forever, and a device has no end.
    """
    flags = os.O_RDONLY | os.O_NONBLOCK | (0 if follow_link else os.O_NOFOLLOW)
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ValueError("it is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """Read a regular file of at most `limit_bytes`.

    Raises OSError and ValueError as `open_regular` does, and ValueError for a larger file.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit_bytes:
            raise ValueError(f"it has {size} bytes; allowed are {limit_bytes}")
        return file.read(size)


def parse_json(content: str | bytes) -> Any:
    """Parse JSON that can be stored again; raises ValueError if it is not such JSON.

    Nested deeper than `MAX_JSON_DEPTH`, and text that is not Unicode (lone surrogates), are errors too.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_JSON_DEPTH} levels") from None
    check_depth(value)
    json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


def check_depth(value: Any) -> None:
    """Raise ValueError if lists and dictionaries are nested deeper than `MAX_JSON_DEPTH`."""
    level, depth = [value], 0
    while level := [child for item in level for child in _list_children(item)]:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_JSON_DEPTH} levels")


def _list_children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
