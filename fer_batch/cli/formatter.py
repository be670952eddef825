"""Layout of help texts: per group of commands or options a heading and two aligned columns."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cyclopts.help import HelpPanel
    from rich.console import Console, ConsoleOptions

LABEL_WIDTH = 24
"""Least number of characters of the left column, so that most groups are aligned with each other."""


def format_panel(console: "Console", options: "ConsoleOptions", panel: "HelpPanel") -> None:
    """Print one group of a help text."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    if not panel.entries:
        return
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=LABEL_WIDTH, no_wrap=True)
    table.add_column()
    for entry in panel.entries:
        label = ", ".join(entry.display_labels) + (f" {entry.metavar}" if entry.metavar else "")
        description = str(getattr(entry.description, "primary_renderable", entry.description or ""))
        notes = [f"[choices: {', '.join(entry.choices)}]"] if entry.choices else []
        notes += [f"[default: {entry.default}]"] if entry.default else []
        notes += ["[required]"] if entry.required else []
        table.add_row(Text(label), Text(" ".join([*description.split(), *notes])))
    console.print(Text(f"{panel.title}:", style="bold"))
    console.print(Padding(table, (0, 0, 1, 2)))
