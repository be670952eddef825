"""Addresses of files in stores and on web servers: which are allowed, and which parts are secret.

Every address that a user gives passes `normalize_address` before a library of a store receives it. The
query of an address stays in the memory of the processes of one run: the address without it is in all tables.
"""

import re
from collections.abc import Mapping

from fer_batch.errors import InputError
from fer_batch.terminal import escape_controls

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "hf": "hf", "http": "http", "https": "http"}
"""The extra of fer-batch that must be installed for each allowed protocol."""
ADDRESS = re.compile(r"(?:[A-Za-z][\w+.-]*::)*[A-Za-z][\w+.-]*://", re.ASCII)
"""The beginning of an address, also of one in which fsspec chains several protocols."""
HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:@\[\]\\]+)(?::([0-9]{0,5}))?")
MAX_PORT = 65_535
WEB_QUERY = re.compile(r"[?#;].*", re.DOTALL)
STORE_QUERY = re.compile(r"[?#;][\w%.-]+=.*", re.DOTALL)
"""Names in stores may contain these marks, and `?` is one of a glob; a query begins with NAME=."""
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, which break lines or command a terminal, and bytes that are not UTF-8."""
ADDRESS_IN_TEXT = re.compile(r"(https?://[^\s?#;'\"<>]*[?#;])[^\s'\"<>]*", re.IGNORECASE)

_queries: dict[str, str] = {}


class SecretError(InputError):
    """An address has a part that may be secret and cannot be used this way."""


def is_remote(name: str) -> bool:
    """Return whether a name is an address, of any protocol but `file://`."""
    return ADDRESS.match(name) is not None and not name.lower().startswith("file://")


def normalize_address(name: str) -> str:
    """Return an address with its protocol in lower case.

    Raises InputError, which shows no secret, for an address with a password or a query, of a protocol that is
    not in EXTRAS, or without a valid bucket or host.
    """
    check_no_secrets(name)
    protocol, _, rest = name.partition("://")
    protocol = protocol.lower()
    shown = escape_controls(name)
    if protocol not in EXTRAS:
        allowed = ", ".join(f"{allowed}://" for allowed in EXTRAS)
        raise InputError(
            f"Cannot read {shown}: {protocol}:// is not allowed; allowed are {allowed} and paths"
        )
    host = rest.partition("/")[0]
    if not host:
        raise InputError(f"{shown} names no bucket or host: give {protocol}://NAME/…")
    match = HOST.fullmatch(host)
    if _is_web(protocol) and (match is None or int(match[1] or 0) > MAX_PORT):
        raise InputError(f"{shown} has no valid host: give {protocol}://HOST/… or {protocol}://HOST:PORT/…")
    if UNPRINTABLE.search(rest):
        raise InputError(f"{shown} contains control characters or invalid text: correct the address")
    return f"{protocol}://{rest}"


def correct_address(name: str) -> str | None:
    """Return the intended address for one that lacks a slash (`s3:/bucket`); None for any other name."""
    match = re.fullmatch(rf"({'|'.join(EXTRAS)}):/?(?!/)(.+)", name, re.IGNORECASE | re.DOTALL)
    return f"{match[1].lower()}://{match[2]}" if match else None


def check_no_secrets(name: str) -> None:
    """Raise SecretError for an address with a part that may be secret, as addresses are stored with results.

    These are a password, and a query, parameters or a fragment: servers accept signatures under any name.
    """
    shown = hide_secrets(name)
    if shown == name:
        return
    raise SecretError(
        f"The address {escape_controls(shown)} contains a password or a query (?, # or ;), which may be a "
        "secret and would be stored with the results: remove it, and put credentials in the standard places "
        "of the store's library, or give web addresses in a manifest, with --allow-query. Write %3F, %23 and "
        "%3B for marks that belong to the name of a file"
    )


def hide_secrets(name: str) -> str:
    """Return an address, also one that lacks a slash, without its password and query, for messages.

    Any other name is unchanged.
    """
    if not is_remote(name):
        corrected = correct_address(name)
        return name if corrected is None or hide_secrets(corrected) == corrected else hide_secrets(corrected)
    address, query = split_query(name)
    protocol, separator, rest = address.partition("://")
    host = rest.partition("/")[0]
    is_cut = _is_web(protocol) and HOST.fullmatch(host) is None  # a password may contain a slash
    if "@" in (rest if is_cut else host):
        rest = f"…@{rest.rpartition('@')[2]}"
    return f"{protocol}{separator}{rest}{query and query[0] + '…'}"


def split_query(name: str) -> tuple[str, str]:
    """Split an address from its query, parameters and fragment, which include their mark."""
    protocol, separator, rest = name.partition("://")
    match = (WEB_QUERY if _is_web(protocol) else STORE_QUERY).search(rest)
    query = match[0] if match else ""
    return f"{protocol}{separator}{rest.removesuffix(query)}", query


def _is_web(protocol: str) -> bool:
    """Return whether a protocol has the syntax of web addresses, as all have that are not known."""
    return EXTRAS.get(protocol.lower(), "http") == "http"


def normalize_with_query(name: str) -> tuple[str, str]:
    """Return `normalize_address` of a web address without its query, and the query with its mark, or ""."""
    is_web = EXTRAS.get(name.partition("://")[0].lower()) == "http"
    address, query = split_query(name) if is_web else (name, "")
    return normalize_address(address), query


def remember_queries(queries: Mapping[str, str]) -> None:
    """Let `add_query` in this process complete addresses with these queries."""
    _queries.update(queries)


def remembered_queries() -> dict[str, str]:
    """Return all queries by their addresses."""
    return dict(_queries)


def add_query(address: str) -> str:
    """Return an address with its query, if it has one; only a library of a store may receive it."""
    return address + _queries.get(address, "")


def hide_queries(text: str) -> str:
    """Return a message of a library without the queries of the addresses in it."""
    return ADDRESS_IN_TEXT.sub(r"\1…", text)
