"""The errors that a user can cause, each with a message that says what was given, what is allowed, what to
do.
"""


class FerBatchError(Exception):
    """Any expected failure: the command line prints its message on one line and exits with 2."""


class ConfigError(FerBatchError):
    """An option is out of range, or contradicts another or an earlier run."""


class InputError(FerBatchError):
    """An input path, manifest or data set can't be used as given."""


class CheckpointError(FerBatchError):
    """A model file is missing, is not safetensors, or does not match its card."""


class OutputError(FerBatchError):
    """An output folder holds something that this run must not touch, or is incomplete."""


class ResourceError(FerBatchError):
    """A disk, memory or Ray's object store is used up."""


class QueryError(FerBatchError):
    """A question to a timeline can't be answered as asked."""


class DecodeError(FerBatchError):
    """A video can't be read at all, or not beyond a moment; ends as that video's status, never as a job's."""


class NoVideoError(DecodeError):
    """A file that opens but holds no video stream."""
