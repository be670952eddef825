"""A small edited video of the two faces of the packaged sample."""

from pathlib import Path

import av
from PIL import Image

import fer_batch

SAMPLE = Path(fer_batch.__path__[0]) / "sample" / "two_faces.mp4"
SHOTS = (0, 1, 0, 1)
"""The face in each shot: the left or the right half of the sample."""
SHOT_FRAMES = 45


def write_edited_video(path: Path, shots: tuple[int, ...] = SHOTS) -> Path:
    """Write a video with hard cuts between close-ups of the two faces, each before another background."""
    with av.open(str(SAMPLE)) as source:
        images = [
            frame.to_image() for frame, _ in zip(source.decode(video=0), range(SHOT_FRAMES), strict=False)
        ]
    width, height = images[0].size
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "16"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, side in enumerate(shots):
            left = side * width // 2
            for image in images:
                half = image.crop((left, 0, left + width // 2, height)).resize((width // 2, height))
                back = Image.new("RGB", (width, height), (40 + 40 * number,) * 3)
                back.paste(half, (width // 4, 0))
                output.mux(stream.encode(av.VideoFrame.from_image(back)))
        output.mux(stream.encode())
    return path
