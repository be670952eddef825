"""The import path of the program: `python -m` puts the working directory first, so it is removed."""

from fer_batch.import_path import remove_working_directory

remove_working_directory()
