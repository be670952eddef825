"""The record of a run: it is gone on with by the same settings only."""

import json
from pathlib import Path

import pytest

from fer_batch.config import AnalyzeConfig
from fer_batch.errors import ConfigError
from fer_batch.model.weights import Card
from fer_batch.pipeline.plan_store import check_output, start_run
from fer_batch.schema import EMOTIONS

CARD = Card(classes=EMOTIONS, architecture={}, sha256="0123456789ab" + "0" * 52)


@pytest.mark.parametrize("missing", [[], ["flip"]])
def test_a_run_from_before_faces_were_mirrored_goes_on_without(tmp_path: Path, missing: list[str]) -> None:
    start_run(tmp_path, AnalyzeConfig(flip=False), CARD, 0.0)
    record = tmp_path / "run.json"
    run = json.loads(record.read_text())
    for name in missing:
        del run["settings"][name]
    record.write_text(json.dumps(run))
    assert check_output(tmp_path, AnalyzeConfig(flip=False), CARD) == run
    with pytest.raises(ConfigError, match="flip was False, is True"):
        check_output(tmp_path, AnalyzeConfig(), CARD)
