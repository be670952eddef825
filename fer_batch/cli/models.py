"""Command `models`."""

from fer_batch.cli.app import TRAIN, add_command
from fer_batch.cli.output import print_table, print_text
from fer_batch.train_config import BACKBONES, NETWORKS, TrainConfig

LISTED_SETTINGS = ("optimizer", "lr", "schedule", "epochs", "batch_size", "imbalance")


@add_command(TRAIN)
def models_command(name: str | None = None, /) -> None:
    """List the recipes and models that can be trained, with their cost.

    The packaged recipes are the default model and published recognizers. Each is listed with its parameters,
    multiply-adds and training settings.

    Args:
        name: Print this recipe as a .toml file instead.

    Examples:
      fer-batch models                                 the recipes, and the cost of each model
      fer-batch models cnn4-fer2013 > cnn4.toml        a recipe to edit, for `train --recipe`
      fer-batch train --recipe cnn4-fer2013 --data fer2013=fer2013.parquet --out runs/cnn4
    """
    from fer_batch.training.recipes import list_recipes, read_recipe

    if name is not None:
        print_text(read_recipe(name, "NAME").text.removesuffix("\n"))
        return
    from fer_batch.model.cost import measure_cost
    from fer_batch.schema import EMOTIONS
    from fer_batch.training.initialize import choose_architecture

    rows, lines = [], []
    for recipe in list_recipes():
        config = TrainConfig.from_dict({"classes": list(EMOTIONS), "data": [["", ""]], **recipe.settings})
        network, architecture = choose_architecture(config, len(config.classes))
        parameters, multiply_adds = measure_cost(network, architecture, config.window_length)
        counts = str(len(config.classes)), f"{parameters:,}", f"{multiply_adds / 1e6:,.0f} M"
        rows.append((recipe.name, recipe.reads, *counts))
        settings = ", ".join(f"{key.replace('_', ' ')} {getattr(config, key)}" for key in LISTED_SETTINGS)
        lines += [recipe.name, f"  {recipe.layers}", f"  {', '.join(config.classes)}", f"  {settings}"]
        lines.append(f"  published: {recipe.published}")
    print_table(("recipe", "reads", "classes", "parameters", "multiply-adds"), rows, left=(0, 1))
    print_text("\n".join(lines))
    print_text(
        "\nAll models read grey faces of 48×48 pixels. Multiply-adds are for one sampled frame of one face. "
        f"--network takes {', '.join(NETWORKS)}; --backbone, as the encoder of cnn-bilstm, "
        f"{', '.join(BACKBONES)}."
    )
