"""Command `explain`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from fer_batch.cli.app import TRAIN, add_command
from fer_batch.cli.arguments import OutputFolder
from fer_batch.cli.output import print_line, print_status
from fer_batch.fields import Range

Method = Literal["grad-cam", "occlusion"]


@add_command(TRAIN)
def explain_command(
    inputs: list[Path],
    /,
    *,
    output: OutputFolder,
    checkpoint: Path | None = None,
    emotion: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    method: Annotated[tuple[Method, ...], Parameter(consume_multiple=True)] = ("grad-cam", "occlusion"),
    at_s: Annotated[tuple[Annotated[float, Range(at_least=0)], ...], Parameter(consume_multiple=True)] = (),
    whole: bool = False,
) -> None:
    """Draw the parts of a face, and the frames, that a prediction depends on.

    Each face gets NAME_face1.png (for a video NAME_12.40s_face1.png): its crop under two maps per emotion.
    Grad-CAM shows the parts of the network's last feature map that raise the emotion. Occlusion shows how far
    the log-probability falls if a patch of 8×8 pixels is grey. Maps explain the prediction for the crop
    alone, except for networks of whole clips. If the network reads a window, faces of a video also get
    …_time.png: the frames of the window, and the weight of each by integrated gradients, relative to plain
    grey frames. Blue speaks for an emotion, red against it. All numbers are in explain.json, the maps in
    maps.npz.

    Predictions are those of `analyze --no-flip`. An input without a face does not stop the others.

    The pictures show faces: keep them as you keep the videos. They show how a model classifies an
    expression, not the feelings of a person.

    Args:
        inputs: Pictures, videos, and folders of them.
        checkpoint: Model, a .safetensors file. By default the packaged checkpoint.
        emotion: Emotions to explain, or `all`. By default the most probable one and the runner-up.
        method: Methods of the maps.
        at_s: Times of the videos, in seconds. By default up to three with faces, spread over each video.
        whole: Treat whole pictures as faces, without detection. Pictures of up to 100×100 pixels always are.

    Examples:
      fer-batch explain portrait.jpg -o why
      fer-batch explain talk.mp4 --at 12.4 15 --emotion happy -o why
      fer-batch explain faces/ --whole --emotion all --checkpoint RUN/model.safetensors -o why
      fer-batch explain talk.mp4 --method occlusion -o why
    """
    import torch

    from fer_batch.evaluation.explain.explain import explain

    torch.set_num_threads(1)  # small batches gain nothing from more
    explanation = explain(
        inputs,
        output,
        checkpoint=checkpoint,
        emotions=emotion,
        methods=method,
        at_s=at_s,
        whole=whole,
        on_line=print_status,
        on_picture=print_line,
    )
    print_line(f"{output / 'explain.json'}; maps.npz is beside it")
    for row in explanation.inputs:
        for problem in row.problems:
            print_status(f"{row.input} {problem}")
