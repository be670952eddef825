"""`fer-batch forget` as the entry point of a Ray job: `ray job submit --working-dir . -- python
jobs/forget.py …`.
"""

import sys

from fer_batch.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["forget", *sys.argv[1:]]))
