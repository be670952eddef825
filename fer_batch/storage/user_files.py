"""Read small files that come from users, such as cards and recipes, with limits on kind, size and depth."""

import json
import os
import stat
from pathlib import Path
from typing import Any

MAX_JSON_DEPTH = 32
"""Python reads deeper JSON, but copying and formatting it may exceed the limit of recursion."""


def read_bounded(path: Path, limit_bytes: int) -> bytes:
    """Read a regular file of at most `limit_bytes`, or a link to one.

    Raises OSError if it cannot be read, and ValueError for a larger file or another kind of file: a pipe
    would block forever, and a device has no end.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a regular file")
        if status.st_size > limit_bytes:
            raise ValueError(f"it has {status.st_size} bytes; allowed are {limit_bytes}")
        return file.read(status.st_size)


def parse_json(content: str | bytes) -> Any:
    """Parse JSON that can be stored again; raises ValueError if it is not such JSON.

    Nested deeper than `MAX_JSON_DEPTH`, and text that is not Unicode (lone surrogates), are errors too.
    """
    try:
        value = json.loads(content)
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_JSON_DEPTH} levels") from None
    level, depth = [value], 0
    while level := [child for item in level for child in _list_children(item)]:
        depth += 1
        if depth > MAX_JSON_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_JSON_DEPTH} levels")
    json.dumps(value, ensure_ascii=False).encode()  # UnicodeEncodeError is a ValueError
    return value


def _list_children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []
