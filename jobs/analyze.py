"""Analyze videos as a Ray job.

    ray job submit --working-dir . -- python jobs/analyze.py VIDEOS... --out OUT

A job that is submitted again with the same OUT continues with all that is not done.
"""

import argparse

import fer_batch

parser = argparse.ArgumentParser(description="Analyze videos into the tables of a run folder.")
parser.add_argument("videos", nargs="+", help="files, folders, globs, archives or manifests, also in a store")
parser.add_argument("--out", required=True, help="run folder, also in a store")
parser.add_argument("--fps", type=float, default=5.0, help="sampled frames per second (default: 5)")
parser.add_argument("--min-face", type=float, default=0.05, help="smallest face height (default: 0.05)")
parser.add_argument("--checkpoint", help="model file (default: the packaged checkpoint)")
parser.add_argument("--insecure", action="store_true", help="accept a cluster that requires no token")


def print_progress(progress: fer_batch.Progress) -> None:
    print(f"\r{progress.videos_done} of {progress.videos} videos, {progress.faces} faces", end="", flush=True)


def main() -> None:
    args = parser.parse_args()
    try:
        config = fer_batch.AnalyzeConfig(fps=args.fps, min_face=args.min_face, checkpoint=args.checkpoint)
        summary = fer_batch.analyze(
            args.videos, args.out, config, insecure=args.insecure, on_progress=print_progress
        )
    except fer_batch.FerBatchError as error:
        parser.error(str(error))
    print(summary)
    print(fer_batch.open_timeline(args.out).shares(by="video"))


if __name__ == "__main__":
    main()
