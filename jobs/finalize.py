"""`fer-batch finalize` as the entry point of a Ray job: `ray job submit --working-dir . -- python
jobs/finalize.py …`.
"""

import sys

from fer_batch.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["finalize", *sys.argv[1:]]))
