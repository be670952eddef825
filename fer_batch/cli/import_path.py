"""The imports of the program, on which files of the working directory have no influence.

`python -m` puts the working directory first in the import path, so importing this module removes it.
"""

import sys

from fer_batch.import_path import IMPORTED_IN_ROOT, RootFinder, remove_working_directory

remove_working_directory()
sys.meta_path.insert(0, RootFinder(*IMPORTED_IN_ROOT, always=True))
