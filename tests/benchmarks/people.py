"""Score the persons of edited videos: `python -m tests.benchmarks.people FOLDER…`.

A folder has videos and `people.json`, which lists the shots of each video as `[start_s, end_s, person]`.
Prints the pairwise F1 of faces by person, the purity, in how many videos the number of persons is right, and
how much CPU time grouping takes beside the analysis. Faces at the edges of shots, and those of tracks without
a person, do not count.
"""

import json
import os
import sys
import time
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import pyarrow as pa

import fer_batch
from fer_batch.people.group import PersonGrouper, VideoFile
from fer_batch.people.number import FACES_COLUMNS, number_without_pictures
from fer_batch.storage.media import hash_text, read_version

EDGE_S = 0.05


def group_video(grouper: PersonGrouper, path: Path) -> tuple[pd.DataFrame, float, float]:
    """Return the faces of a video with their `number`, and the CPU seconds of analysis and grouping."""
    began_s = time.process_time()
    faces = fer_batch.analyze_video(path)
    analyzed_s = time.process_time()
    file = VideoFile(uri=str(path.resolve()), offset=None, version=hash_text(read_version(os.stat(path))))
    rows = pa.Table.from_pandas(faces[list(FACES_COLUMNS)], preserve_index=False)
    numbered = number_without_pictures(rows)
    if numbered is None:
        numbered = grouper.group(file, rows)
    numbers = numbered.to_pandas().set_index("track_id")["number"]
    faces["number"] = numbers.reindex(faces["track_id"]).to_numpy()
    return faces, analyzed_s - began_s, time.process_time() - analyzed_s


def count_pairs(counts: Iterable[float]) -> float:
    return float(sum(count * (count - 1) / 2 for count in counts))


def main(folders: list[Path]) -> None:
    grouper = PersonGrouper()
    both = true = found = pure = known = 0.0
    right, analysis_s, grouping_s, videos = 0, 0.0, 0.0, 0
    for path, shots in (
        (folder / name, shots)
        for folder in folders
        for name, shots in json.loads((folder / "people.json").read_text()).items()
    ):
        faces, video_analysis_s, video_grouping_s = group_video(grouper, path)
        faces["who"] = [
            next((who for start, end, who in shots if start + EDGE_S <= time_s < end - EDGE_S), None)
            for time_s in faces["time_s"]
        ]
        faces = faces.dropna(subset=["who", "number"])
        table = pd.crosstab(faces["who"], faces["number"]).to_numpy()
        both += count_pairs(table.ravel())
        true += count_pairs(table.sum(axis=1))
        found += count_pairs(table.sum(axis=0))
        pure += table.max(axis=0, initial=0).sum()
        known += table.sum()
        people = len({who for *_, who in shots})
        right += faces["number"].nunique() == people
        analysis_s, grouping_s, videos = (
            analysis_s + video_analysis_s,
            grouping_s + video_grouping_s,
            videos + 1,
        )
        print(f"{path.name}: {faces['number'].nunique()} of {people} persons", flush=True)
    f1, purity = 2 * both / max(true + found, 1), pure / max(known, 1)
    print(
        f"pairwise F1 {f1:.3f}, purity {purity:.3f}, number right in {right} of {videos} videos; "
        f"CPU time of grouping {grouping_s / analysis_s:.0%} of the analysis"
    )


if __name__ == "__main__":
    main([Path(folder) for folder in sys.argv[1:]])
