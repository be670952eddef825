"""Names of classes, and which rows are held out."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fer_batch.data.labels import SYNONYMS, canonical, held_out
from fer_batch.schema import EMOTIONS

KEYS = st.lists(st.text(max_size=6), max_size=60)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("", ""),
        (None, "none"),
        (" Happiness\t", "happy"),
        ("FEARFUL", "fear"),
        ("Scared", "fear"),
        ("angry", "angry"),
        ("Bored", "bored"),
        ("joy", "joy"),
    ],
)
def test_a_class_has_one_name(written: object, meant: str) -> None:
    assert canonical(written) == meant


def test_a_synonym_means_a_name_that_is_none_itself() -> None:
    assert set(SYNONYMS.values()) <= {*EMOTIONS, "contempt"}
    assert not SYNONYMS.keys() & set(SYNONYMS.values())


@pytest.mark.parametrize("split", ["select", "calibrate"])
@settings(max_examples=60, deadline=None)
@given(keys=KEYS)
@example(keys=["1000)", "000000"])  # the hash chooses both
def test_rows_of_one_key_stay_together_and_some_are_left(split: str, keys: list[str]) -> None:
    chosen = held_out(keys, split)
    assert chosen.shape == (len(keys),)
    assert len({(k, c) for k, c in zip(keys, chosen.tolist(), strict=True)}) == len(set(keys))
    assert not keys or not chosen.all()
    enough = 2 if split == "select" else 10
    assert len(set(keys)) < enough or chosen.any()


@pytest.mark.parametrize(("split", "share"), [("select", 0.1), ("calibrate", 0.04)])
def test_a_fixed_share_is_held_out(split: str, share: float) -> None:
    chosen = held_out([f"key {n}" for n in range(20_000)], split)
    assert abs(chosen.mean() - share) < 0.01


def test_the_two_parts_are_independent() -> None:
    keys = [f"key {n}" for n in range(50_000)]
    both = held_out(keys, "select") & held_out(keys, "calibrate")
    assert abs(both.mean() - 0.004) < 0.002


def test_more_keys_change_nothing_for_the_others() -> None:
    keys = [f"key {n}" for n in range(500)]
    for split in ("select", "calibrate"):
        assert np.array_equal(held_out(keys, split), held_out([*keys, *"abcdefgh"], split)[:500])
