"""`fer-batch tune` as the entry point of a Ray job: `ray job submit --working-dir . -- python
jobs/tune.py …`.
"""

import sys

from fer_batch.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
