"""Text that may be printed, whatever a file name, a manifest or a message contains."""

import re

CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Characters that command a terminal, break lines or reorder text, and bytes that are not UTF-8."""


def count(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def escape_controls(text: str) -> str:
    r"""Return a text on one line in which control characters are written as in Python: \x1b, \n, \u202e."""
    return CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def escape_lines(text: str) -> str:
    """Return `escape_controls` of each line of a text. Tabs stay."""
    kept = {"\n", "\t"}
    return CONTROLS.sub(lambda match: match[0] if match[0] in kept else escape_controls(match[0]), text)
