"""The choice of held-out rows."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fer_batch.data.splits import choose_held_out

KEYS = st.lists(st.text(max_size=6), max_size=60)


@pytest.mark.parametrize("split", ["select", "calibrate"])
@settings(max_examples=60, deadline=None)
@given(keys=KEYS)
@example(keys=["1000)", "000000"])  # the hash chooses both
def test_rows_with_the_same_key_are_chosen_together_and_some_remain(split: str, keys: list[str]) -> None:
    chosen = choose_held_out(keys, split)
    assert chosen.shape == (len(keys),)
    assert len({(k, c) for k, c in zip(keys, chosen.tolist(), strict=True)}) == len(set(keys))
    assert not keys or not chosen.all()
    enough = 2 if split == "select" else 10
    assert len(set(keys)) < enough or chosen.any()


@pytest.mark.parametrize(("split", "share"), [("select", 0.1), ("calibrate", 0.04)])
def test_about_the_given_share_is_held_out(split: str, share: float) -> None:
    chosen = choose_held_out([f"key {n}" for n in range(20_000)], split)
    assert abs(chosen.mean() - share) < 0.01


def test_the_two_splits_are_independent() -> None:
    keys = [f"key {n}" for n in range(50_000)]
    both = choose_held_out(keys, "select") & choose_held_out(keys, "calibrate")
    assert abs(both.mean() - 0.004) < 0.002


def test_more_keys_do_not_change_the_choice_of_others() -> None:
    keys = [f"key {n}" for n in range(500)]
    for split in ("select", "calibrate"):
        assert np.array_equal(
            choose_held_out(keys, split), choose_held_out([*keys, *"abcdefgh"], split)[:500]
        )
