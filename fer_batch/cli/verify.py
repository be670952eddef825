"""Commands `verify` and `forget`."""

import json
from typing import Annotated

from cyclopts import Parameter

import fer_batch
from fer_batch.cli.analyze import print_summary
from fer_batch.cli.app import ANALYZE, add_command
from fer_batch.cli.arguments import RayOptions, RunFolder, VideoNames
from fer_batch.cli.output import print_line, print_text


@add_command(ANALYZE)
def verify_command(
    out: RunFolder,
    /,
    *,
    json_output: Annotated[bool, Parameter(name="--json")] = False,
    ray: RayOptions,
) -> int:
    """Check that the plan, the results and the tables of a run are consistent.

    The exit code is 0 if every planned video has its row and all counts agree, 1 if not (with one line per
    difference), and 2 if OUT holds no run. The command reads everything, writes nothing, and may run at any
    time. A cluster that is named with --address or RAY_ADDRESS, or runs this command as a job, reads with all
    its CPUs. Otherwise this process reads everything; --address local uses all CPUs of this machine.

    Args:
        json_output: Print one JSON object instead of text.

    Examples:
      fer-batch verify results
      fer-batch verify results --json
      fer-batch verify /mnt/results --address auto
    """
    from fer_batch.run.summary import summarize_run

    differences = fer_batch.verify(out, **vars(ray))
    if differences:
        if json_output:
            print_text(json.dumps({"ok": False, "differences": differences}, indent=1))
        for difference in () if json_output else differences:
            print_line(difference)
        return 1
    summary = summarize_run(out)
    if json_output:
        counts = {name: getattr(summary, name) for name in ("videos", "moments", "faces", "tracks")}
        print_text(json.dumps({"ok": True, "differences": [], **counts}, indent=1))
    else:
        print_line(f"{out}: OK, consistent")
        print_summary(summary, "")
    return 0


@add_command(ANALYZE)
def forget_command(out: RunFolder, videos: VideoNames, /) -> None:
    """Delete all data of videos from a run.

    Afterwards no row, file or log in OUT refers to the videos. Copies elsewhere stay. If the command is
    interrupted, the same command completes it.

    Examples:
      fer-batch forget results /archive/talks/monday.mp4
      fer-batch forget results monday.mp4 tuesday.mp4
      fer-batch forget results 3f2a9c0d11e4b7a6            by video_id
    """
    from fer_batch.run.forget import forget_videos
    from fer_batch.storage.folder import open_folder

    for uri in forget_videos(out, videos):
        print_line(f"forgotten: {uri}")
    print_line("`analyze` would analyze a video again: delete the file, or leave it out of the inputs")
    if not open_folder(out).exists("_SUCCESS.json"):
        print_line(f"the run in {out} is not finished: run `fer-batch analyze` on it again")
