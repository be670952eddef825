"""Convert results and tables of schema 6 and older, which have `yaw` instead of `yaw_deg` and `pitch_deg`.

`yaw` was the distance of the nose from the middle of the eyes, along their line, in halves of the distance
between the eyes, from -3 to 3. For an upright head it is `NOSE_DEPTH * tan(yaw_deg)`. The pitch is unknown.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fer_batch.schema import RESULTS_SCHEMA, conform_table
from fer_batch.vision.quality import NOSE_DEPTH

YAW_DEG_SQL = f"degrees(atan(yaw::DOUBLE / {NOSE_DEPTH}))::FLOAT"
"""The expression of `yaw_deg` by `yaw`."""


def conform_results(rows: pa.Table) -> pa.Table:
    """Convert results of an earlier schema version to `schema.RESULTS_SCHEMA`; missing columns are null."""
    lists = rows.column("faces")
    if lists.type.value_type.get_field_index("yaw") >= 0:
        lengths = pc.list_value_length(lists).fill_null(0).to_numpy()
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        faces = pc.list_flatten(lists).combine_chunks()
        columns = {field.name: pc.struct_field(faces, field.name) for field in faces.type}
        yaw = columns["yaw"].to_numpy(zero_copy_only=False).astype(np.float64)
        columns["yaw_deg"] = pa.array(np.degrees(np.arctan(yaw / NOSE_DEPTH)), pa.float32())
        structs = pa.StructArray.from_arrays(list(columns.values()), list(columns))
        converted = pa.ListArray.from_arrays(offsets, structs, mask=lists.is_null().combine_chunks())
        rows = rows.set_column(rows.schema.get_field_index("faces"), "faces", converted)
    return conform_table(rows, RESULTS_SCHEMA)
