"""Names of videos and faces, as plots and pages show them."""

MAX_NAME_LENGTH = 34


def file_name(uri: str) -> str:
    """Return the last part of a path or address."""
    return uri.rstrip("/").rpartition("/")[2] or uri


def shorten(name: str, max_length: int = MAX_NAME_LENGTH) -> str:
    """Return a name in one line of at most `max_length` letters, with an ellipsis in the middle."""
    name = "".join(letter if letter.isprintable() else " " for letter in name)
    if len(name) <= max_length:
        return name
    return f"{name[: max_length - max_length // 2 - 1]}…{name[len(name) - max_length // 2 :]}"


def natural_key(name: str) -> tuple[str, int, str]:
    """Return a sort key that puts "track 2" before "track 10"."""
    stem = name.rstrip("0123456789")
    digits = name[len(stem) :]
    return stem, int(digits) if digits else -1, name
