"""Tracks of a real video: the same face after something hid it, with and without a cut meanwhile."""

import functools
import os
from pathlib import Path

import av
import pyarrow as pa
import pytest
from PIL import Image

import fer_batch
from fer_batch.people import group as group_module
from fer_batch.people.cluster import cluster_tracks
from fer_batch.people.group import PersonGrouper, VideoFile
from fer_batch.people.number import FACES_COLUMNS
from fer_batch.storage.media import hash_text, read_version
from tests.edited import SAMPLE

FRAMES, HIDDEN_FRAMES = 40, 25
"""Frames of the face, and frames in which a bar hides it, longer than a track lasts without a face."""


def write_hidden_face(path: Path, background_after: int) -> Path:
    """Write a face, a bar over it for a second, and the face again, before grey backgrounds."""
    with av.open(str(SAMPLE)) as source:
        images = [frame.to_image() for frame, _ in zip(source.decode(video=0), range(FRAMES), strict=False)]
    width, height = images[0].size
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "veryfast", "crf": "16"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        shown = [(image, 60) for image in images]
        shown += [(Image.new("RGB", images[0].size, (30, 60, 30)), 60)] * HIDDEN_FRAMES
        shown += [(image, background_after) for image in reversed(images)]
        for image, grey in shown:
            back = Image.new("RGB", (2 * width, height), (grey,) * 3)
            back.paste(image.crop((0, 0, width // 2, height)), (width // 2, 0))
            output.mux(stream.encode(av.VideoFrame.from_image(back.resize((width, height)))))
        output.mux(stream.encode())
    return path


@pytest.mark.parametrize(("background_after", "persons"), [(60, 1), (160, 2)], ids=["one shot", "cut"])
def test_hidden_face_is_one_person_within_a_shot_however_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, background_after: int, persons: int
) -> None:
    pytest.importorskip("dlib")
    path = write_hidden_face(tmp_path / "video.mp4", background_after)
    faces = fer_batch.analyze_video(path)
    assert faces["track_id"].nunique() == 2
    rows = pa.Table.from_pandas(faces[list(FACES_COLUMNS)], preserve_index=False)
    file = VideoFile(uri=str(path), offset=None, version=hash_text(read_version(os.stat(path))))
    grouper = PersonGrouper()
    assert grouper.group(file, rows).column("number").to_pylist() == [1, 1]
    # Descriptors alone join nothing from here on.
    monkeypatch.setattr(group_module, "cluster_tracks", functools.partial(cluster_tracks, max_distance=-1.0))
    assert len(set(grouper.group(file, rows).column("number").to_pylist())) == persons
