"""`fer-batch evaluate` as the entry point of a Ray job: `ray job submit --working-dir . -- python
jobs/evaluate.py …`.
"""

import sys

from fer_batch.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
