"""The temporary folder of a local Ray; `test_runtime` tests where it is when paths are long."""

from pathlib import Path

import pytest

from fer_batch import ray_folder


def test_folder_lies_in_the_folder_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "new"))
    monkeypatch.setattr(ray_folder, "MAX_SOCKET_PATH_BYTES", 4096)
    with ray_folder.make_ray_folder() as folder:
        assert folder.parent == tmp_path / "new"
    assert not folder.exists()
