"""The messages between a child process and its parent, in `child_main` and `child`."""

import pyarrow as pa

HEARTBEAT, RESULT, REQUEST, OUT_OF_MEMORY, ERROR, DEVICE_ERROR = b"+", b"=", b"?", b"m", b"!", b"d"
"""First byte of each message of a child. A number or nothing follows HEARTBEAT, an Arrow stream RESULT and
REQUEST, text ERROR and DEVICE_ERROR."""


def encode_table(table: pa.Table) -> bytes:
    """Return a table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


def decode_table(content: memoryview) -> pa.Table:
    """Return the table of an Arrow stream."""
    with pa.ipc.open_stream(pa.py_buffer(content)) as stream:
        return stream.read_all()
