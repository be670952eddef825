"""Checks of analysis on a GPU: speed, memory, precision, the guarded processes, and a whole run."""

import asyncio
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

import fer_batch.sample
from fer_batch.config import CROP_SIZE_PX, AnalyzeConfig, Limits
from fer_batch.inputs.listing import list_videos
from fer_batch.inputs.probe import probe_videos
from fer_batch.inputs.segments import plan_segments
from fer_batch.model.inference import WindowReader, optimize_encoder
from fer_batch.model.recognize import Recognizer
from fer_batch.model.weights import load_checkpoint
from fer_batch.pipeline.analyze import analyze
from fer_batch.pipeline.child import BrokenWorkerError, CallFailedError, WorkerProcess
from fer_batch.pipeline.detector import Detector
from fer_batch.pipeline.offload import OffloadingDetector, encode_views
from fer_batch.pipeline.placement import DETECT_GB, RECOGNIZE_GB
from fer_batch.pipeline.stages import FacesStage
from fer_batch.runtime import ray_session
from fer_batch.schema import FACES_SCHEMA, pack_bundle, unpack_bundles
from fer_batch.video.hardware import has_hardware_decoder
from fer_batch.video.reader import SegmentReader
from fer_batch.video.segment import Segment
from fer_batch.vision.batched import propose_boxes
from fer_batch.vision.detect import PICTURE_MAX_IOU, FaceDetector
from fer_batch.vision.mtcnn import ONET_PX
from fer_batch.vision.track import compute_iou
from fer_batch.vision.views import SearchView, view_planes
from tests.benchmarks.gpu_setup import Measurement, Setup, peak_gpu_bytes, wait_for_device

SAMPLE = Path(fer_batch.sample.__path__[0]) / "two_faces.mp4"
CONFIG = AnalyzeConfig()
CARD = load_checkpoint()[1]
STAGES = "fer_batch.pipeline.stages"
SAME_FACE_IOU = 0.5
MIN_AGREEMENT = 0.97
"""Share of faces, or of labels, that must be those of the CPU in single precision."""
MAX_COLOUR_DIFFERENCE = 3
"""Largest difference of a colour, 0–255, between two decoders. H.264 prescribes each bit, so it may be 0."""
BOX_COLUMNS = ("box_x0", "box_y0", "box_x1", "box_y1")


def measure_recognizer(setup: Setup) -> Measurement:
    """Faces per second in each precision, and the labels that differ from a CPU in single precision.

    "tf32" is single precision with products of TF32, as PyTorch's convolutions use it on a GPU by default.
    """
    crops, faces = find_faces("cpu")
    tracks, times = (np.array([face[name] for face in faces]) for name in ("track", "time_s"))
    everything = np.ones(len(crops), bool)
    repeats = 1 if setup.small else 400
    many = np.tile(crops, (repeats, 1, 1))
    many_tracks = np.concatenate([tracks + n * (tracks.max() + 1) for n in range(repeats)])
    reference = create_recognizer("cpu", torch.float32).predict_tracks(crops, tracks, times, everything)
    precisions = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if setup.device.type == "cuda":
        precisions |= {"tf32": torch.float32, "fp16": torch.float16}
    problems, rows = [], {}
    for name, dtype in precisions.items():
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
        recognizer = create_recognizer(setup.device.type, dtype)
        probs = recognizer.predict_tracks(crops, tracks, times, everything)
        began = time.perf_counter()
        recognizer.predict_tracks(
            many, many_tracks, np.tile(times, repeats), np.ones(len(many), bool)
        )  # returns arrays, so the GPU has finished
        seconds = time.perf_counter() - began
        same = (probs.argmax(axis=1) == reference.argmax(axis=1)).mean()
        rows[name] = {
            "faces_per_s": len(many) / seconds,
            "same_labels": float(same),
            "largest_difference": float(np.abs(probs - reference).max()),
            "mean_difference": float(np.abs(probs - reference).mean()),
        }
        if same < MIN_AGREEMENT:
            problems.append(f"{name}: only {same:.3f} of the labels are those of the CPU")
    return {
        "problems": problems,
        "faces": len(crops),
        "precisions": rows,
        "gpu_bytes": peak_gpu_bytes(setup.device),
    }


def create_recognizer(device: str, dtype: torch.dtype) -> Recognizer:
    """Return a recognizer of the packaged checkpoint that computes in `dtype`."""
    recognizer = Recognizer(device=device)
    model, card = load_checkpoint()
    model = model.to(recognizer.device)
    recognizer.encoder = optimize_encoder(model.encoder, dtype)
    recognizer.reader = WindowReader(model, card.temperature, dtype)
    return recognizer


def measure_faces(setup: Setup) -> Measurement:
    """Sampled frames per second of one process that finds faces, and its boxes against those of the CPU."""
    _, expected = find_faces("cpu")
    stage = create_stage(setup.device.type)
    _, found = run_stage(stage)
    repeats = 1 if setup.small else 5
    before = dict(stage.timer.wall_s)
    began = time.perf_counter()
    for _ in range(repeats):
        run_stage(stage)
    wait_for_device(setup.device)
    seconds = time.perf_counter() - began
    frames = repeats * len({face["frame_index"] for face in found})
    ious = match_faces(expected, found)
    recall = float((ious >= SAME_FACE_IOU).mean())
    precision = float((match_faces(found, expected) >= SAME_FACE_IOU).mean())
    problems = []
    if min(recall, precision) < MIN_AGREEMENT:
        problems.append(f"recall {recall:.3f} and precision {precision:.3f} against the CPU")
    return {
        "problems": problems,
        "frames_per_s": frames / seconds,
        "ms_per_frame": {name: 1000 * (stage.timer.wall_s[name] - before[name]) / frames for name in before},
        "faces": {"cpu": len(expected), "here": len(found)},
        "recall": recall,
        "precision": precision,
        "mean_iou": float(ious.mean()),
        "gpu_bytes": peak_gpu_bytes(setup.device),
    }


def measure_detector(setup: Setup) -> Measurement:
    """Views and patches per second of a detector by their number in a batch, with its memory.

    The faces of real key frames, which travel as in a run, must be those of a detector on the CPU.
    """
    pictures = [frame.picture for frame in SegmentReader(Segment.whole(SAMPLE), CONFIG.fps)]
    pictures = pictures[:: 10 if setup.small else 1]
    server = Detector()
    detector = server.detector
    views = [view_planes(0, picture, None, CONFIG.min_face, 1.0) for picture in pictures]
    patches = [picture.crop_rgb((0, 0, *picture.size), (ONET_PX, ONET_PX)) for picture in pictures]

    def propose(chosen: list[SearchView]) -> object:
        return propose_boxes(chosen, detector.pnet, detector.rnet, detector.device, PICTURE_MAX_IOU)

    view_rates = measure_rates(propose, views, (1, 4) if setup.small else (1, 8, 64, 256))
    patch_rates = measure_rates(
        detector.classify_patches, patches, (1, 4) if setup.small else (1, 8, 64, 1024)
    )
    expected = FaceDetector().search(pictures)
    client = OffloadingDetector(CONFIG, lambda table: asyncio.run(server.answer(table)))
    matched = [
        compute_iou(theirs.boxes, ours.boxes).max(axis=1, initial=0)
        for theirs, ours in zip(expected, client.search(pictures), strict=True)
    ]
    recall = float((np.concatenate(matched) >= SAME_FACE_IOU).mean())
    problems = [] if recall >= MIN_AGREEMENT else [f"recall {recall:.3f} against the CPU"]
    used = peak_gpu_bytes(setup.device)
    if used is not None and used > DETECT_GB * 1e9:
        problems.append(f"it uses {used / 1e9:.2f} GB of the GPU, but placement plans {DETECT_GB}")
    return {
        "problems": problems,
        "view": f"{views[0].image.width}×{views[0].image.height}",
        "view_bytes": encode_views(views[:1]).nbytes,
        "views_per_s": view_rates,
        "patches_per_s": patch_rates,
        "recall": recall,
        "gpu_bytes": used,
    }


def measure_rates(
    run: Callable[[list[Any]], object], items: list[Any], sizes: Sequence[int]
) -> dict[int, float]:
    """Return the items per second by the size of a batch. `run` returns tensors that are on the CPU."""
    rates = {}
    for size in sizes:
        batch = [items[number % len(items)] for number in range(size)]
        run(batch)  # a GPU chooses its algorithms in the first pass
        repeats = 1 if max(sizes) <= 4 else max(max(sizes) // size, 3)
        began = time.perf_counter()
        for _ in range(min(repeats, 256)):
            run(batch)
        rates[size] = min(repeats, 256) * size / (time.perf_counter() - began)
    return rates


def measure_decoding(setup: Setup) -> Measurement:
    """Sampled frames per second of the GPU's decoder and of software, and the differences of their frames.

    A guarded process with the default limit of memory decodes as well, with its memory on the GPU.
    """
    gpu = 0 if setup.device.type == "cuda" else None
    segment = Segment.whole(SAMPLE)
    frames, rates = {}, {}
    for name, number in (("software", None), ("gpu", gpu)):
        list(SegmentReader(segment, CONFIG.fps, gpu=number))  # starts CUDA
        began = time.perf_counter()
        frames[name] = list(SegmentReader(segment, CONFIG.fps, gpu=number))
        rates[name] = len(frames[name]) / (time.perf_counter() - began)
    problems = []
    if gpu is not None and not has_hardware_decoder(gpu):
        problems.append("the GPU does not decode")
    if [frame.time_s for frame in frames["gpu"]] != [frame.time_s for frame in frames["software"]]:
        problems.append("the frames have other times")
    differences = [
        np.abs(one.to_rgb().astype(int) - other.to_rgb()).max()
        for one, other in zip(frames["gpu"], frames["software"], strict=False)
    ]
    if max(differences) > MAX_COLOUR_DIFFERENCE:
        problems.append(f"pixels differ by {max(differences)}")
    free = read_free_gpu_bytes(setup)
    arguments = (CONFIG, CARD.crop_scale, 0, True, gpu)
    child = WorkerProcess(f"{STAGES}:FacesStage", arguments, Limits(), gpu=gpu is not None)
    try:
        status = child.call("extract_faces", segment).column("status")[0].as_py()
        used = None if free is None else free - (read_free_gpu_bytes(setup) or 0)
    finally:
        child.close()
    if status != "ok":
        problems.append(f"a guarded process returns {status}")
    return {
        "problems": problems,
        "frames_per_s": rates,
        "largest_difference": int(max(differences)),
        "gpu_bytes": used,
    }


def measure_memory(setup: Setup) -> Measurement:
    """Memory of a process that recognizes faces, on the GPU with its CUDA context, and on the host.

    The GPU's memory is the free memory before minus the free memory after a call, so nothing else may use it.
    """
    faces = create_stage("cpu")(plan_sample())
    free = read_free_gpu_bytes(setup)
    child = create_recognizer_process(setup, Limits())
    try:
        child.call("__call__", faces)
        used = None if free is None else free - (read_free_gpu_bytes(setup) or 0)
        assert child.process is not None
        host = read_status(child.process.pid, "VmHWM")
    finally:
        child.close()
    problems = []
    if used is not None and used > RECOGNIZE_GB * 1e9:
        problems.append(f"it uses {used / 1e9:.2f} GB of the GPU, but placement plans {RECOGNIZE_GB}")
    return {"problems": problems, "gpu_bytes": used, "host_bytes": host}


def create_recognizer_process(setup: Setup, limits: Limits) -> WorkerProcess:
    """Return a process of the stage that recognizes faces, on the GPU if there is one."""
    gpu = setup.device.type == "cuda"
    return WorkerProcess(f"{STAGES}:RecognizeStage", (None, CONFIG.flip), limits, gpu)


def measure_guard(setup: Setup) -> Measurement:
    """Guarded processes: the limit of memory (RLIMIT_DATA) with CUDA, visible GPUs, and errors of a GPU."""
    faces = create_stage("cpu")(plan_sample())
    problems, limits = [], {}
    for memory_gb in (4.0,) if setup.small else (0.5, 1.0, 2.0, 4.0):
        child = create_recognizer_process(setup, Limits(memory_gb=memory_gb))
        try:
            child.call("__call__", faces)
            status = "ok"
            assert child.process is not None
            data_bytes = read_status(child.process.pid, "VmData")
        except Exception as error:  # the reason is the measurement
            status, data_bytes = f"{type(error).__name__}: {error}", None
        finally:
            child.close()
        limits[f"{memory_gb:g} GB"] = {"status": status, "data_bytes": data_bytes}
        if memory_gb == Limits.memory_gb and status != "ok":
            problems.append(f"faces cannot be recognized within the default limit of memory: {status}")
    seen = {}
    for gpu in (False, True):
        child = WorkerProcess("tests.benchmarks.gpu_analysis", (), Limits(), gpu)
        seen[str(gpu)] = child.call("count_gpus").column("gpus")[0].as_py()
        child.close()
    if seen["False"] or seen["True"] != torch.cuda.device_count():
        problems.append(f"visible GPUs of a process by whether it was given any: {seen}")
    errors = {}
    for method in ("exhaust_gpu", "read_outside") if setup.device.type == "cuda" else ():
        child = WorkerProcess("tests.benchmarks.gpu_analysis", (), Limits(), gpu=True)
        try:
            child.call(method)
        except BrokenWorkerError as error:
            errors[method] = str(error)
        except CallFailedError as error:
            problems.append(f"an error of the GPU counts as that of a video: {error}")
        finally:
            child.close()
    return {"problems": problems, "limits": limits, "visible_gpus": seen, "errors": errors}


def exhaust_gpu() -> pa.Table:
    """Allocate more memory than any GPU has."""
    return pa.table({"bytes": [len(torch.empty(2**44, dtype=torch.uint8, device="cuda"))]})


def read_outside() -> pa.Table:
    """Read outside a tensor, after which CUDA refuses all work of this process."""
    index = torch.tensor([9], device="cuda")
    return pa.table({"value": torch.zeros(4, device="cuda")[index].cpu().numpy()})


def count_gpus() -> pa.Table:
    """Count the GPUs that this process sees."""
    return pa.table({"gpus": [torch.cuda.device_count()]})


def measure_pipeline(setup: Setup) -> Measurement:
    """Whole runs on Ray with this machine's GPU and without: speed, and the faces of a CPU."""
    copies = 2 if setup.small else 48
    videos = setup.folder / "videos"
    videos.mkdir()
    for number in range(copies):
        shutil.copy(SAMPLE, videos / f"{number:03d}.mp4")
    problems, rows = [], {}
    for name, gpus in (("with GPUs", torch.cuda.device_count()), ("CPUs only", 0)):
        if name == "CPUs only" and setup.small:
            continue  # it would be the same run again
        began = time.perf_counter()
        with ray_session(num_gpus=gpus):
            started = time.perf_counter()
            summary = analyze([str(videos)], setup.folder / name)
        ended = time.perf_counter()
        rows[name] = {
            "start_s": started - began,
            "seconds": ended - started,
            "times_realtime": summary.video_s / (ended - started),
            "frames_per_s": summary.moments / (ended - started),
            "faces": summary.faces,
            "videos": summary.videos,
        }
        if summary.videos != {"ok": copies}:
            problems.append(f"{name}: {summary.videos}, {summary.failures[:1]}")
    expected = copies * len(find_faces("cpu")[1])
    for name, row in rows.items():
        # A GPU rounds differently in each batch, so the copies may differ in a few faces.
        if abs(row["faces"] - expected) > (1 - MIN_AGREEMENT) * expected:
            problems.append(f"{name}: {row['faces']} faces instead of {expected}")
    return {"problems": problems, "copies": copies, "runs": rows}


def create_stage(device: str) -> FacesStage:
    """Return a stage that finds faces on a device; without one, it takes a GPU if there is one."""
    stage = FacesStage(CONFIG, CARD.crop_scale)
    stage.detector = FaceDetector(CONFIG.min_face, CONFIG.min_score, device)
    return stage


def find_faces(device: str) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Find the faces of the sample; returns crops `(n, 48, 48) uint8` and rows of `schema.FACE_TYPE`."""
    return run_stage(create_stage(device))


def run_stage(stage: FacesStage) -> tuple[np.ndarray, list[dict[str, Any]]]:
    rows = unpack_bundles(stage(plan_sample()), FACES_SCHEMA)
    crops = np.frombuffer(b"".join(rows.column("crops").to_pylist()), np.uint8)
    faces = pc.list_flatten(rows.column("faces")).to_pylist()
    return crops.reshape(-1, CROP_SIZE_PX, CROP_SIZE_PX), faces


def plan_sample() -> pa.Table:
    """Return the packaged sample as one bundle."""
    videos = probe_videos(list_videos([str(SAMPLE)]).sources)
    return pack_bundle("sample", plan_segments(videos, CONFIG, CARD.half_window_s, CARD.model_id, 1))


def match_faces(faces: list[dict[str, Any]], others: list[dict[str, Any]]) -> np.ndarray:
    """Return the largest IoU of each face with one of the others in the same frame, `(n,) float`."""
    return np.array(
        [
            compute_iou(
                boxes_of([face]), boxes_of([o for o in others if o["frame_index"] == face["frame_index"]])
            ).max(initial=0)
            for face in faces
        ]
    )


def boxes_of(faces: list[dict[str, Any]]) -> np.ndarray:
    return np.array([[face[name] for name in BOX_COLUMNS] for face in faces], np.float64).reshape(-1, 4)


def read_free_gpu_bytes(setup: Setup) -> int | None:
    """Return the free memory of the GPU over all processes; None on a CPU."""
    return torch.cuda.mem_get_info()[0] if setup.device.type == "cuda" else None


def read_status(process: int, name: str) -> int:
    """Read a size in bytes from a process's status."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
