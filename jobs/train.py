"""Train a model as a Ray job.

    ray job submit --working-dir . -- python jobs/train.py fer2013=PATH --recipe cnn-bilstm-fer2013 --out OUT

A job that is submitted again with the same OUT continues after the last finished epoch.
"""

import argparse

import fer_batch

parser = argparse.ArgumentParser(description="Train a model on labelled faces.")
parser.add_argument("data", nargs="+", metavar="NAME=PATH", help="data sets, for example fer2013=FILE")
parser.add_argument("--out", required=True, help="folder of the training run, also in a store")
parser.add_argument("--recipe", default="default", help="a packaged recipe or a TOML file")
parser.add_argument("--workers", type=int, help="processes that train together (default: one per GPU, or 1)")
parser.add_argument("--gpus", type=int, help="GPUs, which the job waits for (default: those that exist now)")
parser.add_argument("--insecure", action="store_true", help="accept a cluster that requires no token")


def main() -> None:
    args = parser.parse_args()
    try:
        settings = fer_batch.read_recipe(args.recipe).settings
        data = [tuple(word.partition("=")[::2]) for word in args.data]
        workers = (args.gpus or 1) if args.workers is None else args.workers
        summary = fer_batch.train(
            fer_batch.TrainConfig.from_dict({**settings, "data": data, "workers": workers}),
            args.out,
            gpus="auto" if args.gpus is None else args.gpus,
            insecure=args.insecure,
            on_progress=lambda message: print(message.text, flush=True),
        )
    except fer_batch.FerBatchError as error:
        parser.error(str(error))
    print(summary)


if __name__ == "__main__":
    main()
