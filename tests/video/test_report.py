"""The damage report."""

import pytest

from fer_batch.video.report import ReadReport


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ({}, None),
        ({"problem": "gone"}, "gone"),
        ({"damaged_packets": 2}, "2 damaged packets"),
        ({"damaged_frames": 3}, "3 damaged frames"),
        ({"misplaced_frames": 1}, "1 frame out of order"),
        ({"damaged_packets": 2, "lost_s": 0.04}, "2 damaged packets"),
        ({"damaged_packets": 2, "lost_s": 0.16}, "2 damaged packets; 0.2 s without a frame"),
        (
            {"end_s": 8.75, "missing_s": 1.25},
            "read 8.8 of 10.0 s, the file ends before its container says",
        ),
        (
            {"problem": "gone", "damaged_packets": 1, "end_s": 7.0, "missing_s": 3.0},
            "gone; 1 damaged packet; read 7.0 of 10.0 s, the file ends before its container says",
        ),
    ],
)
def test_error_lists_all_damage(damage: dict, expected: str | None) -> None:
    assert ReadReport(core_start_s=0, core_end_s=1, **damage).error == expected


def test_frames_are_counted_in_the_core() -> None:
    report = ReadReport(core_start_s=1.0, core_end_s=2.0)
    assert [report.record_frame(t, 25.0) for t in (0.5, 1.0, 1.5, 2.0, 2.5)] == [-1, 0, 1, -1, -1]
    assert (report.frames, report.last_frame_s, report.read_s) == (2, 2.5, pytest.approx(2.54))
