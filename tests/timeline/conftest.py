"""A run with known rows on a real video, its server, and a browser that records errors and requests."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from fer_batch.config import AnalyzeConfig
from fer_batch.inputs.segments import plan_segments
from fer_batch.run.finalize import finalize
from fer_batch.run.plan import add_planning_round
from fer_batch.run.record import create_run
from fer_batch.run.results import write_bundle
from fer_batch.run.snapshot import write_snapshot
from fer_batch.schema import (
    EMOTIONS,
    MOMENTS_SCHEMA,
    PROBED_SCHEMA,
    RESULTS_SCHEMA,
    VIDEOS_SCHEMA,
    pack_bundle,
    probability_column,
    tracks_schema,
)
from fer_batch.timeline.viewer.server import create_app
from tests.pages import keep_picture
from tests.runs import CARD, face, make_segment_result, probed, video_id
from tests.web import serve_app

STEP_S = 0.2
SECONDS = 9
PATIENCE_S = 30
TOKEN = "token-of-the-tests"


def watched_faces(seed: int = 0) -> list[dict[str, Any]]:
    """Return rows of two faces. The first is missing from 3 to 4 s, the second begins at 5 s."""
    rng = np.random.default_rng(seed)
    rows = []
    for moment in range(round(SECONDS / STEP_S)):
        time_s = moment * STEP_S
        for track in (0, 1):
            if (track == 0 and 3 <= time_s < 4) or (track == 1 and time_s < 5):
                continue
            left, kind = 0.1 + 0.5 * track + 0.01 * time_s, int(time_s) % len(EMOTIONS)
            probs = rng.dirichlet(np.where(np.arange(len(EMOTIONS)) == kind, 9.0, 0.5))
            row = face(track, moment, EMOTIONS[kind]) | {"probs": probs.astype(np.float32).tolist()}
            rows.append(row | {"box_x0": left, "box_x1": left + 0.2, "box_y0": 0.25, "box_y1": 0.75})
    return rows


def write_watched(out: Path, videos: dict[str, list[dict[str, Any]]]) -> Path:
    """Write a finished run of videos of `SECONDS` with these faces, by their uri."""
    out.mkdir(parents=True)
    create_run(out, AnalyzeConfig(), CARD)
    table = pa.Table.from_pylist(
        [probed(uri, []) | {"duration_s": float(SECONDS)} for uri in videos],
        schema=PROBED_SCHEMA,
    )
    plan = plan_segments(table, AnalyzeConfig(), CARD.half_window_s, CARD.model_id, workers=1)
    add_planning_round(out, table, plan)
    (out / "results").mkdir()
    for bundle_id in dict.fromkeys(plan["bundle_id"].to_pylist()):
        answers = []
        for segment in plan.to_pylist():
            if segment["bundle_id"] != bundle_id:
                continue
            faces = videos[segment["uri"]]
            seen = [round(row["time_s"] / STEP_S) for row in faces]
            moments = [
                {"time_s": m * STEP_S, "frame_index": 5 * m, "faces": seen.count(m)}
                for m in range(round(SECONDS / STEP_S))
            ]
            read = {"read_s": float(SECONDS), "frames": 25 * SECONDS, "moments": moments, "faces": faces}
            answers.append(make_segment_result(segment, []) | read)
        write_bundle(
            out / "results", pack_bundle(bundle_id, pa.Table.from_pylist(answers, schema=RESULTS_SCHEMA))
        )
    finalize(out)
    return out


def write_random_run(out: Path, uri: str, *, faces: int, moments: int) -> Path:
    """Write the tables of one video with random probabilities of each face in each frame, every 0.2 s."""
    out.mkdir(parents=True)
    create_run(out, AnalyzeConfig(), CARD)
    rng, rows, times_s = np.random.default_rng(0), faces * moments, np.arange(moments) / 5
    probs = rng.dirichlet(np.ones(len(EMOTIONS)), rows).astype(np.float32)
    left = np.repeat(np.arange(faces), moments) / faces
    of_it = {"video_id": video_id(uri), "uri": uri, "bucket": 0, "model_id": CARD.model_id}
    values: dict[str, Any] = {
        "track_id": np.repeat(np.arange(faces), moments),
        "time_s": np.tile(times_s, faces),
        "frame_index": np.tile(np.arange(moments) * 5, faces),
        "step_s": np.full(rows, 0.2),
        "emotion": np.array(EMOTIONS)[probs.argmax(1)],
        "confidence": probs.max(1),
        "box_x0": left,
        "box_x1": left + 0.5 / faces,
        "box_y0": np.full(rows, 0.25),
        "box_y1": np.full(rows, 0.75),
        **{probability_column(name): probs[:, kind] for kind, name in enumerate(EMOTIONS)},
    }
    values |= {name: np.full(rows, value) for name, value in of_it.items()}
    length_s = moments / 5
    video = {"status": "ok", "duration_s": length_s, "read_s": length_s, "moments": moments, "tracks": faces}
    looked = {"time_s": times_s, "frame_index": np.arange(moments) * 5, "faces": np.full(moments, faces)}
    looked["step_s"] = np.full(moments, 0.2)
    looked |= {name: np.full(moments, of_it[name]) for name in ("video_id", "bucket")}
    content = {"tracks": (tracks_schema(EMOTIONS), values), "moments": (MOMENTS_SCHEMA, looked)}
    tables = {
        name: pa.table(
            {f.name: pa.array(known.get(f.name, np.ones(len(known["time_s"])))).cast(f.type) for f in kind}
        )
        for name, (kind, known) in content.items()
    }
    tables["videos"] = pa.Table.from_pylist([of_it | video], schema=VIDEOS_SCHEMA)
    written = {}
    for name, table in tables.items():
        written[name] = DeltaTable.create(str(out / name), table.schema, partition_by=["bucket"])
        write_deltalake(written[name], table, mode="append")
    write_snapshot(out, written, "")
    return out


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> Path:
    """A run of one video, a copy of the sample, with the faces of `watched_faces`."""
    folder = tmp_path_factory.mktemp("watched")
    video = shutil.copy(sample, folder / "talk.mp4")
    return write_watched(folder / "run", {str(video): watched_faces()})


@contextmanager
def serving(out: Path, *, edit: bool = False) -> Iterator[str]:
    """Serve a run; the value is the address of its pages, without a slash at the end."""
    with serve_app(create_app(out, TOKEN, edit=edit)) as address:
        yield f"{address}/{TOKEN}"


@dataclass
class Seen:
    """A page in the browser, with its requests and errors."""

    page: Any
    requests: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """Uncaught errors, and errors on the console."""

    def open(self, address: str) -> Any:
        self.page.goto(address)
        self.page.wait_for_selector("html[data-ready]")
        return self.page


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium, headless. Until its end, `asyncio.run` fails in tests of other modules."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("there is no Chromium; `apt-get install chromium` brings it")
    with sync_playwright() as playwright:
        # Containers often lack what its sandbox needs, and all opened pages are ours.
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def look(browser: Any) -> Iterator[Callable[..., Seen]]:
    """Open pages in windows of a given size. In the end, none may have errors or requests elsewhere."""
    pages: list[Seen] = []

    def new(width: int = 1600, height: int = 1000, **options: Any) -> Seen:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        context.set_default_timeout(1000 * PATIENCE_S)
        seen = Seen(context.new_page())
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.on("pageerror", lambda error: seen.troubles.append(str(error)))
        seen.page.on("console", lambda line: line.type == "error" and seen.troubles.append(line.text))
        pages.append(seen)
        return seen

    yield new
    for seen in pages:
        seen.page.context.close()
        assert seen.troubles == []
        parts = [urlsplit(address) for address in seen.requests]
        assert {part.hostname for part in parts if part.scheme not in ("file", "data", "blob")} <= {
            "127.0.0.1"
        }


@pytest.fixture
def keep(tmp_path: Path) -> Callable[[Any, str], None]:
    """Keep a picture of a page under a name, and check that the page fits its window and is legible."""
    return lambda page, name: keep_picture(page, name, tmp_path)


def until(page: Any, condition: str, value: Any = None) -> None:
    """Wait until an expression, or a function of `value`, is true.

    Playwright's own waiting is blocked by the pages' policy.
    """
    last = time.monotonic() + PATIENCE_S
    while not page.evaluate(condition, value):
        assert time.monotonic() < last, f"never: {condition}"
        page.wait_for_timeout(20)
