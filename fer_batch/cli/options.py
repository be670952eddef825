"""Options of the command line, built from the types of functions and configuration classes.

A parameter whose type is a configuration class, such as `AnalyzeConfig`, becomes one option per field: the
field's type gives the allowed values, its `Topic` the heading, its docstring the help.
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, TypedDict, TypeVar, Union, get_args, get_origin, get_type_hints

from cyclopts import Group, Parameter, Token

from fer_batch.fields import FieldError, Flag, Topic, check_value, field_types, split_type

UNIT_SUFFIXES = ("_s", "_gb")
"""Ends of field names that their options do not have: `timeout_s` is `--timeout`."""

T = TypeVar("T")
Command = Callable[..., int | None]
Settings = Mapping[str, Any]
"""The given options of a configuration class, without defaults: `Annotated[Settings, TrainConfig]`."""


_topic_numbers = itertools.count(2)


@dataclasses.dataclass(frozen=True)
class Convert:
    """Convert the value of a parameter after it is parsed. The function may raise FerBatchError."""

    function: Callable[[Any], object]


@dataclasses.dataclass(frozen=True)
class ConfigOptions:
    """Mark a parameter whose options come from the fields of a configuration class."""

    config: type
    is_built: bool
    """Whether the command receives an instance, not the given options only."""


def option_stem(name: str) -> str:
    """Return the option of a field or parameter without its dashes."""
    for suffix in UNIT_SUFFIXES:
        name = name.removesuffix(suffix)
    return name.strip("_").replace("_", "-")


def resolve_options(function: Command) -> Command:
    """Replace the configuration classes among a function's parameters by options; return the function."""
    hints = get_type_hints(function, include_extras=True)
    defaults = function.__kwdefaults__ = dict(function.__kwdefaults__ or {})
    for name, hint in hints.items():
        is_given = get_origin(hint) is Annotated and get_args(hint)[0] == Settings
        config = get_args(hint)[1] if is_given else hint
        if dataclasses.is_dataclass(config):
            assert isinstance(config, type)
            options = ConfigOptions(config, is_built=not is_given)
            hints[name] = Annotated[_list_options(config), Parameter(name="*"), options]
            defaults[name] = None
        else:
            hints[name] = Annotated[hint, _describe_values(split_type(hint)[0], defaults.get(name))]
    function.__annotations__ = hints
    return function


def fill_options(function: Command, bound: inspect.BoundArguments) -> None:
    """Check and convert the parsed arguments of a function, and build its configurations."""
    for name, hint in getattr(function, "__annotations__", {}).items():
        if options := _find(hint, ConfigOptions):
            hints = field_types(options.config)
            values = _resolve_flags(bound.arguments.get(name) or {}, hints)
            given = {key: _check_and_convert(key, value, hints[key]) for key, value in values.items()}
            bound.arguments[name] = options.config(**given) if options.is_built else given
        elif name in bound.arguments:
            bound.arguments[name] = _check_and_convert(name, bound.arguments[name], hint)


def _resolve_flags(values: Settings, hints: Settings) -> Settings:
    """Replace the flags among the parsed options by the fields that they set."""
    resolved = dict(values)
    for name, hint in hints.items():
        given = [flag for flag in _list_flags(hint) if resolved.pop(flag.name, False)]
        if len(given) > 1:
            raise FieldError(given[0].name, f"excludes --{given[1].name}")
        if given:
            resolved[name] = given[0].value
    return resolved


def _list_flags(hint: Any) -> list[Flag]:
    return [item for item in get_args(hint) if isinstance(item, Flag)]


def _check_and_convert(name: str, value: Any, hint: Any) -> Any:
    kind, bounds = split_type(hint)
    if bounds or any(split_type(item)[1] for item in get_args(kind)):
        check_value(name, value, hint)
    conversion = _find(hint, Convert)
    return value if conversion is None or value is None else conversion.function(value)


@functools.cache
def _list_options(config: type) -> Any:
    """Return a dictionary type with one documented option per field of a configuration class."""
    texts = _read_field_docstrings(config)
    types: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        hint = field_types(config)[field.name]
        topic, flags = _find(hint, Topic), _list_flags(hint)
        if topic is None:
            continue
        group = Parameter(group=_group_of(topic))
        for flag in flags:
            types[flag.name] = Annotated[bool, group, Parameter(help=flag.help)]
        if not flags:
            kind, text = get_args(hint)[0], texts.get(field.name, "")
            if get_origin(kind) is Literal:
                kind = Literal[tuple(filter(None, get_args(kind)))]
            if _is_shown(field.default):
                text += f" [default: {_format_default(field.default)}]"
            values = _describe_values(kind, field.default)
            many = Parameter(help=text, consume_multiple=get_origin(kind) is tuple)
            types[field.name] = Annotated[kind, group, values, many]
    return TypedDict(config.__name__, types, total=False)  # type: ignore[operator]


def _describe_values(kind: Any, default: object) -> Parameter:
    """Return how the values of an option are parsed and its default is shown."""
    shown = Parameter(show_default=_format_default if _is_shown(default) else False)
    if default is True or bool in get_args(kind):
        return Parameter.combine(shown, Parameter(negative_bool="no-"))
    if int in (kind, *(split_type(item)[0] for item in get_args(kind))):
        return Parameter.combine(shown, Parameter(converter=_parse_whole_numbers))
    return shown


@functools.cache
def _parse_module(name: str) -> ast.Module:
    return ast.parse(inspect.getsource(sys.modules[name]))


def _read_field_docstrings(config: type) -> dict[str, str]:
    """Return the docstring below each field of a class, which Python itself does not keep."""
    classes = (node for node in ast.walk(_parse_module(config.__module__)) if isinstance(node, ast.ClassDef))
    body = next(node.body for node in classes if node.name == config.__name__)
    return {
        ast.unparse(field.target): str(text.value.value)
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def _parse_whole_numbers(kind: Any, tokens: Sequence[Token]) -> int | tuple[int, ...]:
    """Parse whole numbers; cyclopts itself rounds numbers such as 1.5."""
    for token in tokens:
        if not re.fullmatch(r"[+-]?\d+", token.value):
            raise ValueError(f"must be a whole number, got {token.value}")
    numbers = tuple(int(token.value) for token in tokens)
    return numbers if get_origin(kind) is tuple else numbers[0]


def _is_shown(default: object) -> bool:
    return default not in (None, "", (), dataclasses.MISSING) and default is not False


def _format_default(default: object) -> str:
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return f"{default:g}" if isinstance(default, float) else "yes" if default is True else str(default)


@functools.cache
def _group_of(topic: Topic) -> Group:
    return Group(topic.title, sort_key=1000 * topic.order + next(_topic_numbers))


def _find(hint: Any, kind: type[T]) -> T | None:
    """Return the metadata of this kind in an annotated type, also within `X | None`."""
    arguments = get_args(hint)
    if get_origin(hint) in (Union, UnionType):
        return next(filter(None, (_find(item, kind) for item in arguments)), None)
    if get_origin(hint) is not Annotated:
        return None
    found = next((item for item in arguments[1:] if isinstance(item, kind)), None)
    return found if found is not None else _find(arguments[0], kind)
