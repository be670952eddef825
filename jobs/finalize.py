"""Write the tables of a run from its results, as a Ray job.

    ray job submit --working-dir . -- python jobs/finalize.py OUT

`analyze` does this at its end. This job does it again, for example after an update of fer_batch.
"""

import argparse

import fer_batch

parser = argparse.ArgumentParser(description="Write the tables of a run folder from its results.")
parser.add_argument("out", help="run folder, also in a store")


def main() -> None:
    args = parser.parse_args()
    try:
        summary = fer_batch.finalize(args.out)
    except fer_batch.FerBatchError as error:
        parser.error(str(error))
    print(summary)


if __name__ == "__main__":
    main()
