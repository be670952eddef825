"""Names of videos and faces, as plots and pages show them."""


def file_name(uri: str) -> str:
    """Return the last part of a path or address."""
    return uri.rstrip("/").rpartition("/")[2] or uri


def natural_key(name: str) -> tuple[str, int, str]:
    """Return a sort key that puts "track 2" before "track 10"."""
    stem = name.rstrip("0123456789")
    digits = name[len(stem) :]
    return stem, int(digits) if digits else -1, name
