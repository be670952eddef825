"""The command line application: registration, parsing, errors and help of commands."""

import inspect
import itertools
from collections.abc import Callable, Sequence
from importlib.metadata import version

from cyclopts import App, CycloptsError, Group, MissingArgumentError, Parameter

from fer_batch.cli.formatter import format_panel
from fer_batch.cli.options import Command, fill_options, option_stem, resolve_options
from fer_batch.errors import FerBatchError
from fer_batch.fields import FieldError

ANALYZE, QUERY, LOOK, TRAIN, CLUSTER = (
    Group(title, sort_key=number)
    for number, title in enumerate(
        ("Analyze videos", "Query results", "View results", "Train and evaluate models", "Run on a cluster")
    )
)
OTHER = Group("Other", sort_key=9)
OPTIONS = Group("Options", sort_key=1)


class UsageError(FerBatchError):
    """The arguments of a command contradict each other."""


app = App(
    name="fer-batch",
    help="Turn video archives into emotion timelines: facial expressions as a model classifies them, on Ray.",
    help_epilogue="Start with `fer-batch demo`. `fer-batch COMMAND --help` shows the options of a command.\n"
    "The model classifies expressions, not feelings.",
    help_format="plaintext",
    help_formatter=format_panel,
    version=f"fer-batch {version('fer-batch')}",
    default_parameter=Parameter(
        name_transform=option_stem, negative_bool=(), negative_iterable=(), allow_repeating=True
    ),
    group_arguments=Group("Arguments", sort_key=0),
    group_parameters=OPTIONS,
    group_commands=OTHER,
)
_positions = itertools.count()


def add_command(group: Group, *, parent: App = app, name: str | None = None) -> Callable[[Command], Command]:
    """Return a decorator that registers a function as a command of `parent`.

    The function `NAME_command` becomes the command NAME, unless `name` gives another one. Its docstring is
    the help: a summary, paragraphs, the section "Args:" with its parameters, and the section "Examples:".
    """

    def register(function: Command) -> Command:
        function.__doc__, _, examples = (inspect.getdoc(function) or "").partition("\n\nExamples:\n")
        text = function.__doc__.partition("\n\nArgs:\n")[0]
        command_name = name or function.__name__.removesuffix("_command").replace("_", "-")
        add_group(command_name, group, text, examples, parent=parent).default(resolve_options(function))
        return function

    return register


def add_group(name: str, group: Group, text: str, examples: str, *, parent: App = app) -> App:
    """Register and return a command that has subcommands, or gets a function later."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    command = App(
        name=name,
        help="\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs),
        help_epilogue="Examples:\n" + examples.strip("\n"),
        group=group,
        sort_key=next(_positions),
    )
    parent.command(command)
    return command


def parse_command(words: Sequence[str]) -> tuple[Command, inspect.BoundArguments]:
    """Find the command and its checked arguments; raises UsageError or FieldError."""
    try:
        function, bound, _ = app.parse_args(list(words), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise UsageError(_describe_usage_error(error)) from error
    fill_options(function, bound)
    return function, bound


def _describe_usage_error(error: CycloptsError) -> str:
    """Return a message in the style of the package's own errors."""
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        is_named = error.keyword or any(token.keyword for token in error.argument.tokens)
        return f"{error.argument.name} {'needs a value' if is_named else 'is missing'}"
    message = " ".join(str(error).split())
    if not message.endswith("..."):
        message = message.removesuffix(".")
    return message[0].lower() + message[1:]


def explain_error(error: FerBatchError, words: Sequence[str]) -> str:
    """Return one line that says which command failed, why, and for wrong arguments where to read more."""
    prefix, message = " ".join(("fer-batch", *app.parse_commands(list(words))[0])), str(error)
    if isinstance(error, FieldError):
        message = f"--{option_stem(error.name)} {error.problem}"
    if isinstance(error, (FieldError, UsageError)):
        message += f" See `{prefix} --help`" if message.endswith("?") else f"; see `{prefix} --help`"
    return f"{prefix}: {' '.join(message.split())}"
