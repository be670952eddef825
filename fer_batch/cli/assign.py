"""Command `assign`."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from fer_batch.cli.app import QUERY, UsageError, add_command
from fer_batch.cli.arguments import FileName, RunFolder, VideoNames
from fer_batch.cli.output import print_line
from fer_batch.fields import Range
from fer_batch.terminal import count


@add_command(QUERY)
def assign_command(
    out: RunFolder,
    videos: VideoNames | None = None,
    /,
    *,
    list_file: Annotated[FileName | None, Parameter(name="--list")] = None,
    seats: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    largest: str | None = None,
    max_faces: Annotated[int | None, Range(at_least=1)] = None,
    names: Annotated[tuple[str, ...], Parameter(name="--name", consume_multiple=True)] = (),
) -> None:
    """Assign persons to tracks: by a list, by their seats, by the size of their faces, or by their number.

    The assignments replace earlier ones of the same videos; all tables then have a column `person`. OUT keeps
    the names of tracks only, no data of faces. A video that is analyzed again has new tracks and loses its
    assignments.

    Args:
        list_file: CSV file with the columns video, track_id and person.
        seats: Persons from the left of the picture to the right.
        largest: Person with the largest face.
        max_faces: Number of the largest faces per frame that --seats uses. By default the number of persons.
        names: Names of persons that `fer-batch people` has numbered, as NUMBER=NAME. Other persons of the
            video keep their names.

    Examples:
      fer-batch assign results --list people.csv   columns video, track_id, person
      fer-batch assign results --seats Ann Bo      from the left of the picture to the right
      fer-batch assign results talk.mp4 --seats Ann Bo --max-faces 3
      fer-batch assign results --largest Ann       the largest face is Ann
      fer-batch assign results talk.mp4 --name 1=Ann 2=Bo    persons of `fer-batch people`
      fer-batch query results "SELECT uri AS video, track_id, min(time_s) AS from_s,
          max(time_s) AS to_s, person FROM tracks GROUP BY ALL ORDER BY ALL" -o people.csv
    """
    from fer_batch.timeline.assign import assign_by_number, assign_by_position, assign_from_csv

    if [list_file is not None, bool(seats), largest is not None, bool(names)].count(True) != 1:
        raise UsageError("give one of --list, --seats, --largest and --name")
    if list_file is not None and videos:
        raise UsageError("--list names the videos itself; leave VIDEOS out")
    if max_faces is not None and not seats:
        raise UsageError("--max-faces is for --seats")
    if largest == "":
        raise UsageError("--largest must be a name, got ''")
    if names:
        rows = assign_by_number(out, parse_names(names), videos or ())
    elif list_file is not None:
        rows = assign_from_csv(out, Path(list_file))
    else:
        rows = assign_by_position(out, seats or (largest or "",), videos or (), max_faces)
    videos_of = defaultdict(list)  # one entry per track
    for row in rows.to_pylist():
        videos_of[row["person"]].append(row["video_id"])
    for person, ids in sorted(videos_of.items()):
        print_line(f"{person}: {count(len(ids), 'track')} in {count(len(set(ids)), 'video')}")
    if not videos_of:
        print_line("no assignments: " + ("the list has no person" if list_file else "no track matches"))


def parse_names(texts: Sequence[str]) -> dict[int, str]:
    """Parse several NUMBER=NAME."""
    names: dict[int, str] = {}
    for text in texts:
        number, _, name = text.partition("=")
        if not number.isdecimal() or not name:
            raise UsageError(f"--name must be NUMBER=NAME, as in 1=Ann, got {text}")
        if int(number) in names:
            raise UsageError(f"--name has the number {number} twice")
        names[int(number)] = name
    return names
