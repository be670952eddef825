"""`models`."""

import argparse
import sys
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fer_batch.config import BACKBONES, NETWORKS, TrainConfig
from fer_batch.schema import EMOTIONS
from fer_batch.training.recipes import list_recipes, read_recipe

EXAMPLES = """\
examples:
  fer-batch models                                 the recipes, and what each model costs
  fer-batch models cnn4-fer2013 > cnn4.toml        a recipe, to change and give to `train --recipe`
  fer-batch train --recipe cnn4-fer2013 --data fer2013=fer2013.parquet --out runs/cnn4"""

LISTED_SETTINGS = ("optimizer", "lr", "schedule", "epochs", "batch_size", "imbalance")


def add_commands(commands: Any) -> None:
    """Add the command of this module to the parser."""
    parser = commands.add_parser(
        "models",
        help="list the recipes and models that can be trained, and what each costs",
        description="List the packaged recipes: the default model and published recognizers, with their "
        "parameters, multiply-adds and training settings. With a NAME, print the recipe as a .toml file.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="name of a recipe")
    parser.set_defaults(run=run_models, parser=parser)


def run_models(options: argparse.Namespace) -> int:
    """Run the command `models`."""
    if options.name:
        print(read_recipe(options.name, "NAME").text, end="")
        return 0
    from fer_batch.model.cost import measure_cost
    from fer_batch.training.initialize import choose_architecture

    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    table = Table("recipe", "reads", "classes")
    for heading in ("parameters", "multiply-adds"):
        table.add_column(heading, justify="right")
    lines = []
    for recipe in list_recipes():
        config = TrainConfig.from_dict({"classes": list(EMOTIONS), "data": [["", ""]], **recipe.settings})
        costs = measure_cost(*choose_architecture(config, len(config.classes)), config.window_length)
        table.add_row(
            recipe.name,
            recipe.reads,
            str(len(config.classes)),
            f"{costs.parameters:,}",
            f"{costs.multiply_adds / 1e6:,.0f} M",
        )
        settings = ", ".join(f"{key.replace('_', ' ')} {getattr(config, key)}" for key in LISTED_SETTINGS)
        lines += [recipe.name, f"  {recipe.layers}", f"  {', '.join(config.classes)}", f"  {settings}"]
        lines.append(f"  published: {recipe.published}")
    console.print(table)
    console.print(Text("\n".join(lines)), soft_wrap=True)
    console.print(
        f"\nAll models read grey faces of 48×48 pixels. Multiply-adds are for one sampled frame of one face. "
        f"--network takes {', '.join(NETWORKS)}; --backbone, as the encoder of cnn-bilstm, "
        f"{', '.join(BACKBONES)}.",
        soft_wrap=True,
    )
    return 0
