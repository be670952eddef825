"""Command `live`."""

from pathlib import Path
from typing import Annotated

from fer_batch.cli.app import LOOK, add_command
from fer_batch.cli.output import ProgressLine, print_line
from fer_batch.config import AnalyzeConfig
from fer_batch.fields import Range


@add_command(LOOK)
def live_command(
    file: Path | None = None,
    /,
    *,
    port: Annotated[int, Range(at_least=0, at_most=65535)] = 0,
    checkpoint: Path | None = None,
) -> int:
    """Show the faces of a camera in a browser, with their emotions, as it films.

    Open the printed address on this machine, press start, and allow the camera. The page draws boxes, the
    current probabilities and the last minute. Detector, tracker and model are those of `analyze`, but they
    know only the frames so far. The browser sends frames to this command, which answers this machine only
    and stores nothing. Ctrl-C ends it.

    An image that is sent to ADDRESS/api/image is answered with JSON: boxes, scores and probabilities.

    What the page shows is the reading of an expression by a model, not a feeling. Use it with people who
    agreed to it. It needs the extra `live`: pip install 'fer-batch[live]'.

    Args:
        file: Video to play instead of the camera, in a format that the browser can play, such as MP4 or WebM.
        port: Port of the server; 0 selects a free one.
        checkpoint: Model, a .safetensors or .onnx file. By default the packaged one.

    Examples:
      fer-batch live                               prints an address for a browser on this machine
      fer-batch live talk.mp4                      a video instead of the camera
      fer-batch live --port 8000 --checkpoint RUN/model.safetensors
      curl --data-binary @portrait.jpg http://127.0.0.1:8000/TOKEN/api/image
    """
    line = ProgressLine(is_logged=False)
    line.show("loading the model …")

    def show_address(url: str) -> None:
        line.close()
        print_line(f"{url}  (Ctrl-C ends it)")

    try:
        from fer_batch.live.server import serve

        config = AnalyzeConfig(checkpoint=str(checkpoint) if checkpoint else None)
        return serve(config, port, show_address, file)
    finally:
        line.close()
