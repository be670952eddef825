"""The bundles of a run are split between its chains of stages."""

import pyarrow as pa
import pytest

from fer_batch.pipeline.dataflow import split_work
from fer_batch.schema import PLAN_SCHEMA, pack_bundle


def make_bundle(number: int, length_s: float) -> pa.Table:
    rows = [{"start_s": 0.0, "end_s": length_s}]
    return pack_bundle(str(number), pa.Table.from_pylist(rows, schema=PLAN_SCHEMA))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("lengths_s", [[], [60.0], [60.0] * 40, [600.0, *[10.0] * 60]])
def test_parts_have_their_share_of_the_work_the_longest_first(lengths_s: list[float], share: float) -> None:
    bundles = [make_bundle(number, length_s) for number, length_s in enumerate(lengths_s)]
    parts = [[int(bundle["bundle_id"][0].as_py()) for bundle in part] for part in split_work(bundles, share)]
    assert sorted(parts[0] + parts[1]) == [*range(len(lengths_s))]
    works_s = [[lengths_s[number] for number in part] for part in parts]
    assert all(work_s == sorted(work_s, reverse=True) for work_s in works_s)
    assert abs(sum(works_s[0]) - share * sum(lengths_s)) <= max(lengths_s, default=0)
    assert share > 0 or not parts[0]
    assert share < 1 or not parts[1]
