"""Where a run is written to: a folder of this machine, or one in a store, with the same methods."""

import errno
import os
from importlib.util import find_spec
from pathlib import Path
from typing import cast

from fer_batch.errors import OutputError
from fer_batch.storage.atomic import is_in_store
from fer_batch.storage.stores import (
    EXTRAS,
    check_bucket,
    check_no_secrets,
    correct_address,
    format_reason,
    is_remote,
    normalize_protocol,
)

PROTOCOLS = {"s3": "s3fs", "gs": "gcsfs"}
"""Stores that results can be written to, and what does that: those where a write can be made to fail if there
is a file already."""

FORBIDDEN = "#%*?[\\]"
"""What the Delta library takes for something else in an address, or the store's library for a glob."""

LIBRARIES = {"_internal", "aiobotocore", "aiohttp", "botocore", "deltalake", "fsspec", "gcsfs", "s3fs"}
"""Whose errors those of a store are, beside the system's; the first is the Delta library's."""


def open_folder(name: str | Path) -> Path:
    """An output folder by its path or address, with a Path's methods also where it is none.

    Raises InputError for an address with a secret in it, OutputError for one that nothing writes to.
    """
    if not isinstance(name, str):
        return name
    meant = correct_address(name)
    if meant is not None:
        raise OutputError(f"{name} is no address: give {meant}, or ./{name} for a folder of that name")
    if not is_remote(name):
        return Path(name)
    name = normalize_protocol(name)
    check_no_secrets(name)
    check_bucket(name)
    protocol, _, rest = name.partition("://")
    if protocol not in PROTOCOLS:
        allowed = " and ".join(f"{known}://" for known in PROTOCOLS)
        raise OutputError(f"{name} can't be written to: allowed are folders, and addresses with {allowed}")
    if find_spec(PROTOCOLS[protocol]) is None or find_spec("upath") is None:
        raise OutputError(f"{name} can't be reached: install fer-batch[{EXTRAS[protocol]}] on each machine")
    rest = rest.rstrip("/")
    bad = sorted(mark for mark in FORBIDDEN if mark in rest)
    if bad or not rest.isprintable():
        raise OutputError(
            f"{name} has {' '.join(bad) or 'control characters'} in its name, which the tables can't; name "
            "another folder"
        )
    if not {"", ".", ".."}.isdisjoint(rest.split("/")):
        raise OutputError(
            f"{name} has an empty part, . or .. in its name, which stores don't know: leave it out"
        )
    from upath import UPath

    return cast(Path, UPath(f"{protocol}://{rest}", use_listings_cache=False))


def parse_file_path(name: str) -> Path:
    """A file to write, by its path; raises OutputError for an address."""
    if is_remote(name):
        raise OutputError(f"{name} can't be written: name a file on this machine")
    return Path(name)


def check_folder(out: Path) -> None:
    """Raise OutputError where a file is in the way of a folder."""
    standing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not standing.is_dir():
        raise OutputError(f"{standing} is a file; --out needs a folder")


def check_folder_empty(out: Path, what: str) -> None:
    """Raise OutputError where `out`, which is to become the folder of `what`, has something in it."""
    check_folder(out)
    if out.exists() and any(path.name[0] != "." for path in out.iterdir()):
        raise OutputError(f"{out} holds something else than {what}: name a new or empty folder")


def check_outside_run(file: Path, out: Path) -> None:
    """Raise OutputError for a file to write that lies in the folder of a run."""
    if not is_in_store(out) and out.resolve() in file.resolve().parents:
        raise OutputError(f"{file} lies in the run itself; name a file outside {out}")


def convert_store_error(error: BaseException, out: Path) -> OutputError | None:
    """The error of the store that has `out`, as a user can mend it; None for any other."""
    if not is_in_store(out):
        return None
    if isinstance(error, OSError):  # one of this machine has a file's name, or is of a full disk
        of_store = error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT)
    else:
        of_store = type(error).__module__.partition(".")[0] in LIBRARIES
    said = f"the store of {out} fails: {format_reason(error)}; run the same command again once it answers"
    return OutputError(said) if of_store else None


def delta_options(folder: Path) -> dict[str, str] | None:
    """What the Delta library has to be told of a folder, beside what it finds in the environment."""
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    return {"AWS_ALLOW_HTTP": "true"} if plain and not isinstance(folder, Path) else None
