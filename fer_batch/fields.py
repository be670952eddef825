"""Checked fields of configuration classes.

Each field states its allowed values once, in its type; the check, the command line and its help use that:

    fps: Annotated[float, Range(above=0, at_most=1000), Topic("Sampled frames")] = 5.0
    schedule: Literal["onecycle", "cosine"] = "onecycle"
"""

import functools
import math
from dataclasses import dataclass
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from fer_batch.errors import ConfigError

KIND_NAMES = {
    bool: ("true or false", "truth values"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("text", "names"),
}
"""Singular and plural of each plain type in error messages."""
MAX_SHOWN_LENGTH = 200
"""Characters of a value in an error message."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """Bounds of a number, or of each number of a tuple; None leaves a side open."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None

    def contains(self, value: float) -> bool:
        """Return whether a number is within the bounds; NaN never is."""
        return (
            (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def __str__(self) -> str:
        """Describe the bounds, for example "above 0 and at most 1000"."""
        bounds = {
            "above": self.above,
            "at least": self.at_least,
            "below": self.below,
            "at most": self.at_most,
        }
        return " and ".join(f"{name} {bound:g}" for name, bound in bounds.items() if bound is not None)


@dataclass(frozen=True)
class Topic:
    """Heading under which the command line lists an option. Fields without a topic are no options."""

    title: str
    order: int = 0
    """Topics of a higher order are listed later."""


@dataclass(frozen=True)
class Flag:
    """Option without a value that sets a field. The command line has the flags of a field instead of it."""

    name: str
    value: str
    help: str


class FieldError(ConfigError):
    """A setting has a value that is not allowed."""

    def __init__(self, name: str, problem: str) -> None:
        super().__init__(name, problem)
        self.name = name
        self.problem = problem

    def __str__(self) -> str:
        """Name the setting, the allowed values and the given one."""
        return f"{self.name} {self.problem}"


def check_fields(config: Any) -> None:
    """Check every field of a configuration against its type; raises FieldError for the first that differs."""
    for name, hint in field_types(config.__class__).items():
        check_value(name, getattr(config, name), hint)


def check_value(name: str, value: Any, hint: Any) -> None:
    """Raise FieldError unless `value` fits the annotated type `hint`."""
    expected = find_problem(value, hint)
    require(expected is None, name, f"be {expected}", value)


def require(valid: bool, name: str, must: str, given: object) -> None:
    """Raise FieldError for the setting `name` unless `valid`."""
    if not valid:
        shown = given if isinstance(given, str) and given else repr(given)
        shown = shown if len(shown) <= MAX_SHOWN_LENGTH else f"{shown[:MAX_SHOWN_LENGTH]}…"
        raise FieldError(name, f"must {must}, got {shown}")


@functools.cache
def field_types(config: Any) -> dict[str, Any]:
    """Return the annotated type of each field of a dataclass."""
    return get_type_hints(config, include_extras=True)


def find_problem(value: Any, hint: Any) -> str | None:
    """Describe the values that `hint` allows if `value` is not one of them; None if it is."""
    kind, bounds = split_type(hint)
    arguments = get_args(kind)
    if get_origin(kind) in (Union, UnionType):  # X | None
        return None if value is None else find_problem(value, Annotated[arguments[0], bounds])
    if get_origin(kind) is Literal:
        fits = isinstance(value, str) and value in arguments
        return None if fits else f"one of {', '.join(filter(None, arguments))}"
    if get_origin(kind) is tuple:
        return _find_problem_of_tuple(value, arguments)
    return _find_problem_of_plain_value(value, kind, bounds)


def _find_problem_of_plain_value(value: Any, kind: type, bounds: Range | None) -> str | None:
    has_kind = isinstance(value, (int, float) if kind is float else kind)
    if not has_kind or (isinstance(value, bool) and kind is not bool):
        return KIND_NAMES[kind][0]
    if isinstance(value, float) and not math.isfinite(value):
        return str(bounds or "finite")
    return str(bounds) if bounds and not bounds.contains(value) else None


def _find_problem_of_tuple(value: object, arguments: tuple[Any, ...]) -> str | None:
    if len(arguments) == 2 and arguments[1] is ...:
        kind, bounds = split_type(arguments[0])
        fits = isinstance(value, tuple) and all(find_problem(item, arguments[0]) is None for item in value)
        expected = KIND_NAMES[kind][1] if kind in KIND_NAMES else "pairs of names"
        return None if fits else f"a list of {expected}{f', each {bounds}' if bounds else ''}"
    fits = (
        isinstance(value, tuple)
        and len(value) == len(arguments)
        and all(find_problem(item, hint) is None for item, hint in zip(value, arguments, strict=True))
    )
    return None if fits else f"{len(arguments)} values"


def split_type(hint: Any) -> tuple[Any, Range | None]:
    """Split an annotated type into the plain type and its range."""
    if get_origin(hint) is not Annotated:
        return hint, None
    kind, *metadata = get_args(hint)
    return kind, next((item for item in metadata if isinstance(item, Range)), None)
