"""Search for better training settings as a Ray job.

    ray job submit --working-dir . -- python jobs/tune.py fer2013=PATH --trials 20 --out OUT

A job that is submitted again with the same OUT continues with the remaining trials.
"""

import argparse

import fer_batch

parser = argparse.ArgumentParser(description="Train with many settings and compare the results.")
parser.add_argument("data", nargs="+", metavar="NAME=PATH", help="data sets, for example fer2013=FILE")
parser.add_argument("--out", required=True, help="folder of the study")
parser.add_argument("--recipe", default="default", help="a packaged recipe or a TOML file: the first trial")
parser.add_argument("--trials", type=int, default=20, help="number of trials (default: 20)")
parser.add_argument("--insecure", action="store_true", help="accept a cluster that requires no token")


def main() -> None:
    args = parser.parse_args()
    try:
        settings = fer_batch.read_recipe(args.recipe).settings
        data = [tuple(word.partition("=")[::2]) for word in args.data]
        study = fer_batch.tune(
            fer_batch.TrainConfig.from_dict({**settings, "data": data}),
            args.out,
            args.trials,
            insecure=args.insecure,
            on_progress=lambda message: print(message.text, flush=True),
        )
    except fer_batch.FerBatchError as error:
        parser.error(str(error))
    print(study)


if __name__ == "__main__":
    main()
