"""Resolve the names that a user gives, in arguments and manifests, to paths and addresses."""

import os
import posixpath

from fer_batch.errors import InputError
from fer_batch.storage.addresses import (
    SecretError,
    hide_secrets,
    is_remote,
    normalize_address,
    normalize_with_query,
    remember_queries,
)
from fer_batch.storage.archives import is_archive
from fer_batch.storage.media import uri_to_path
from fer_batch.terminal import escape_controls

MAX_NAME_LENGTH = 8192
"""Characters of a path or address in a manifest. Linux allows 4096 bytes in a path."""
SHOWN_NAME_LENGTH = 100
MAX_QUERIES = 10_000
"""Queries that every process of a run keeps in memory."""


class NameResolver:
    """Resolves names, and separates addresses from their queries if `allow_query` permits these."""

    def __init__(self, allow_query: bool) -> None:
        self.allow_query = allow_query
        self.queries: dict[str, str] = {}
        """Queries with their mark by the addresses without them."""

    def resolve_line(self, folder: str, name: str) -> tuple[str, str | None]:
        """Return the path or address that a manifest in `folder` names, and why it cannot be read, or None.

        Raises InputError for an address with a secret.
        """
        if len(name) > MAX_NAME_LENGTH:
            name, length = hide_secrets(name)[:SHOWN_NAME_LENGTH], len(name)
            path = os.path.abspath(escape_controls(name))
            return path, f"its name has {length:,} characters, and at most {MAX_NAME_LENGTH:,} are allowed"
        name = uri_to_path(name)
        if not is_remote(name):
            name = os.path.join(folder, name) if not is_remote(folder) else _join_address(folder, name)
        if not is_remote(name):
            if "\0" not in name:
                return name, None
            return os.path.abspath(escape_controls(name)), "its name contains a zero byte"
        try:
            return self.normalize_address(name), None
        except SecretError:
            raise
        except InputError as error:
            return escape_controls(hide_secrets(name)), str(error)

    def normalize_address(self, name: str) -> str:
        """Return the address that is stored, and remember its query."""
        if not self.allow_query:
            return normalize_address(name)
        address, query = normalize_with_query(name)
        if query:
            known = self.queries.setdefault(address, query)
            if known != query:
                raise SecretError(f"{address} is named with two queries, which a run cannot distinguish")
            if is_archive(address):
                raise SecretError(f"{address} is an archive with a query, which cannot be read: copy it")
            if len(self.queries) > MAX_QUERIES:
                raise SecretError(f"more than {MAX_QUERIES:,} addresses have a query: start several runs")
            remember_queries({address: query})
        return address


def _join_address(folder: str, path: str) -> str:
    if path.startswith("/"):
        return path
    protocol, _, rest = folder.partition("://")
    joined = f"{rest}/{path}"
    return f"{protocol}://{posixpath.normpath(joined) if '..' in path.split('/') else joined}"
