"""Write the tables of a run from its results, as a Ray job.

    ray job submit --working-dir . -- python jobs/finalize.py OUT

`analyze` does this at its end. This job does it again, for example after an update of fer_batch. The CPUs of
the cluster write the buckets of the tables in parallel.
"""

import argparse

import fer_batch

parser = argparse.ArgumentParser(description="Write the tables of a run folder from its results.")
parser.add_argument("out", help="run folder, also in a store")
parser.add_argument("--address", help="Ray cluster (default: RAY_ADDRESS, or the cluster of this job)")
parser.add_argument("--insecure", action="store_true", help="accept a cluster that requires no token")


def main() -> None:
    args = parser.parse_args()
    try:
        summary = fer_batch.finalize(args.out, rewrite_all=True, address=args.address, insecure=args.insecure)
    except fer_batch.FerBatchError as error:
        parser.exit(2, f"{parser.prog}: {' '.join(str(error).split())}\n")
    print(summary)


if __name__ == "__main__":
    main()
