"""The network for descriptors gives what dlib's own code gives."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_batch.people.network import CHIP_PX, DESCRIPTOR_SIZE, DescriptorNetwork


def test_other_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.dat"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="0 layers with weights"):
        DescriptorNetwork(path)


def test_descriptors_are_those_of_dlib() -> None:
    dlib = pytest.importorskip("dlib")
    models = pytest.importorskip("face_recognition_models")
    weights = models.face_recognition_model_location()
    network, reference = DescriptorNetwork(Path(weights)), dlib.face_recognition_model_v1(weights)
    rng = np.random.default_rng(0)
    for side in (1, 5, CHIP_PX):
        coarse = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
        chip = np.ascontiguousarray(coarse.resize((CHIP_PX, CHIP_PX), Image.Resampling.BICUBIC))
        descriptor = network.describe(chip)
        assert (descriptor.shape, descriptor.dtype) == ((DESCRIPTOR_SIZE,), np.float64)
        assert descriptor == pytest.approx(np.array(reference.compute_face_descriptor(chip)), abs=1e-5)
        assert np.abs(descriptor).max() > 0.1
