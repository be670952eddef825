"""`models`."""

import argparse
import dataclasses
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fer_batch.config import BACKBONES, NETWORKS, TrainConfig
from fer_batch.training.presets import PRESETS, preset
from fer_batch.training.recipes import NOT_SAID, toml

EXAMPLES = """\
examples:
  fer-batch models                                 the presets, and what each costs
  fer-batch models cnn4-fer2013 > cnn4.toml        its settings, to change and give to `train --recipe`
  fer-batch train --preset cnn4-fer2013 --data fer2013=fer2013.parquet --out runs/cnn4"""

LISTED = ("optimizer", "lr", "schedule", "epochs", "batch_size", "imbalance")


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "models",
        help="the recognizers that can be trained, and what each costs",
        description="The presets: published recognizers, with their parameters, multiply-adds and training "
        "settings. With a NAME its settings as a recipe.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="a preset")
    parser.set_defaults(run=run_models, parser=parser)


def run_models(options: argparse.Namespace) -> int:
    """Run the command `models`."""
    if options.name:
        print(_recipe(options.name), end="")
        return 0
    from fer_batch.model.cost import measure_cost
    from fer_batch.model.weights import read_card
    from fer_batch.training.loop import architecture_of

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table("preset", "reads", "classes")
    for heading in ("parameters", "multiply-adds"):
        table.add_column(heading, justify="right")
    card = read_card()[1]
    default = measure_cost(card.network, card.architecture, card.window_length)
    table.add_row("(the packaged one)", "stills or sequences", str(len(card.classes)), *_told(default))
    lines = []
    for name, known in PRESETS.items():
        config = TrainConfig(data=(("", ""),), **preset(name))
        costs = measure_cost(*architecture_of(config, len(config.classes)), config.window_length)
        table.add_row(name, known.reads, str(len(config.classes)), *_told(costs))
        settings = ", ".join(f"{key.replace('_', ' ')} {getattr(config, key)}" for key in LISTED)
        lines += [name, f"  {known.made_of}", f"  {', '.join(config.classes)}", f"  trained by {settings}"]
        lines.append(f"  published: {known.published}")
    console.print(table)
    console.print(Text("\n".join(lines)), soft_wrap=True)
    console.print(
        f"\nAll read grey faces of 48×48. Multiply-adds are for one moment of one face. --network takes "
        f"{', '.join(NETWORKS)}; --backbone, as the encoder of cnn-bilstm, {', '.join(BACKBONES)}.",
        soft_wrap=True,
    )
    return 0


def _told(costs: dict[str, int]) -> tuple[str, str]:
    return f"{costs['parameters']:,}", f"{costs['multiply_adds'] / 1e6:,.0f} M"


def _recipe(name: str) -> str:
    """The preset's settings as a .toml file, with what stays at the default as comments."""
    given = preset(name, "NAME")
    config = TrainConfig(data=(("", ""),), **given)
    lines = [f"# {name}: fer-batch train --recipe FILE --data NAME=PATH --out RUN", ""]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name in NOT_SAID or value in (None, ""):
            continue
        lines.append(f"{'' if field.name in given else '# '}{field.name} = {toml(value)}")
    return "\n".join(lines) + "\n"
