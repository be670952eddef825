"""Run one recognizer on videos and print its CPU time: python peer_worker.py TOOL SAMPLES_PER_SECOND VIDEO...

The output is JSON: `start_cpu_s`, and `videos` with `cpu_s`, `samples` and `faces` of each. The start ends
after the first picture, because some tools load their networks only then. The tools pin different versions of
the same packages, so each runs in an environment of its own, with the tool and PyAV.
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av

CountFaces = Callable[[Any], int]
"""Recognizes the faces of a picture, `(H, W, 3) uint8` BGR, and returns their number."""


def start_fer() -> CountFaces:
    """Load `fer` with MTCNN."""
    import torchvision  # noqa: F401  (a crash, if TensorFlow is loaded before)
    from fer.fer import FER  # isort: skip

    detector = FER(mtcnn=True)
    return lambda picture: len(detector.detect_emotions(picture))


def start_deepface() -> CountFaces:
    """Load `deepface` with MTCNN. It downloads the weights of its emotion network."""
    from deepface import DeepFace

    def count_faces(picture: Any) -> int:
        found = DeepFace.analyze(
            picture, actions=["emotion"], detector_backend="mtcnn", enforce_detection=False, silent=True
        )
        return sum(face["face_confidence"] > 0 for face in found)

    return count_faces


def start_py_feat() -> CountFaces:
    """Load `py-feat` with its default networks. It downloads their weights."""
    import torch
    from feat import Detector

    detector = Detector()

    def count_faces(picture: Any) -> int:
        image = torch.from_numpy(picture[:, :, ::-1].copy()).permute(2, 0, 1)[None]
        return int(detector.detect(image, data_type="tensor")["FaceScore"].notna().sum())

    return count_faces


def measure_peer(start: Callable[[], CountFaces], samples_per_s: float, videos: list[str]) -> dict[str, Any]:
    """Measure a tool that recognizes one picture at a time; decoding is included."""
    count_faces = start()
    count_faces(next(read_samples(videos[0], samples_per_s)))
    start_cpu_s = time.process_time()
    results = []
    for video in videos:
        began = time.process_time()
        counts = [count_faces(picture) for picture in read_samples(video, samples_per_s)]
        cpu_s = time.process_time() - began
        results.append({"cpu_s": cpu_s, "samples": len(counts), "faces": sum(counts)})
    return {"start_cpu_s": start_cpu_s, "videos": results}


def read_samples(video: str, samples_per_s: float) -> Iterator[Any]:
    """Yield the first frame of a video at or after each sampled time, `(H, W, 3) uint8` BGR."""
    samples = 0
    with av.open(video) as container:
        for frame in container.decode(video=0):
            if frame.time is not None and frame.time * samples_per_s >= samples - 1e-6:
                samples += 1
                yield frame.to_ndarray(format="bgr24")


def measure_fer_batch(samples_per_s: float, videos: list[str]) -> dict[str, Any]:
    """Measure all stages of this package in one process."""
    from fer_batch import AnalyzeConfig
    from fer_batch.inputs.listing import list_videos
    from fer_batch.pipeline.bench import benchmark_videos

    config = AnalyzeConfig(fps=samples_per_s)
    benchmark_videos(list_videos(videos[:1]).sources, config, 1)
    start_cpu_s = time.process_time()
    results = []
    for video in videos:  # one by one, because a list is sorted
        (result,) = benchmark_videos(list_videos([video]).sources, config, 1)
        cpu_s = result.stages["total"].cpu_s * result.seconds
        results.append({"cpu_s": cpu_s, "samples": result.moments, "faces": result.faces})
    return {"start_cpu_s": start_cpu_s, "videos": results}


PEERS = {"fer": start_fer, "deepface": start_deepface, "py-feat": start_py_feat}


def main() -> None:
    """Measure the tool that the first argument names."""
    tool, samples_per_s, videos = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
    assert all(Path(video).is_file() for video in videos)
    if tool in PEERS:
        measured = measure_peer(PEERS[tool], samples_per_s, videos)
    else:
        measured = measure_fer_batch(samples_per_s, videos)
    print(json.dumps(measured))  # the last line: tools print to stdout as well


if __name__ == "__main__":
    main()
