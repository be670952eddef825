"""Changed regions, from thumbnails."""

import numpy as np
import pytest

from fer_batch.vision.motion import THUMBNAIL_SHAPE, find_changed_region


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        pytest.param([], None, id="no change"),
        pytest.param([(5, 6, 10, 11)], [8, 3, 13, 8], id="one cell"),
        pytest.param([(0, 1, 0, 1)], [0, 0, 3, 3], id="corner"),
        pytest.param([(0, 1, 0, 1), (17, 18, 31, 32)], [0, 0, 32, 18], id="two distant cells"),
        pytest.param([(6, 10, 4, 6)], None, id="in the face"),
        pytest.param([(9, 18, 1, 9)], None, id="in the body"),
        pytest.param([(14, 18, 1, 9), (14, 15, 10, 11)], [8, 12, 13, 17], id="in the body and beside it"),
        pytest.param([(6, 10, 4, 6), (12, 13, 20, 21)], [18, 10, 23, 15], id="in the face and elsewhere"),
    ],
)
def test_changed_region_is_one_box_without_known_faces(
    cells: list[tuple[int, int, int, int]], expected: list[int] | None
) -> None:
    """A cell is 10 pixels; the face covers columns 4 to 6 and rows 7 to 9, its body columns 1 to 9."""
    before, after = np.zeros((2, *THUMBNAIL_SHAPE), np.float32)
    for top, bottom, left, right in cells:
        after[top:bottom, left:right] = 5.0
    faces = np.array([[40, 70, 60, 90]], np.float32)
    box = find_changed_region(before, after, faces, (320, 180))
    assert (None if box is None else (box / 10).tolist()) == expected
