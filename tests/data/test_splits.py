"""The choice of held-out rows."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fer_batch.data.splits import HELD_OUT_ONE_IN, MIN_KEYS, choose_held_out

KEYS = st.lists(st.text(max_size=6), max_size=60)


@pytest.mark.parametrize("split", HELD_OUT_ONE_IN)
@settings(max_examples=60, deadline=None)
@given(keys=KEYS)
@example(keys=["1000)", "000000"])  # the hash chooses both
def test_rows_with_the_same_key_are_chosen_together_and_some_remain(split: str, keys: list[str]) -> None:
    chosen = choose_held_out(keys, split)
    assert chosen.shape == (len(keys),)
    assert len({(k, c) for k, c in zip(keys, chosen.tolist(), strict=True)}) == len(set(keys))
    assert not keys or not chosen.all()
    assert len(set(keys)) < MIN_KEYS[split] or chosen.any()


@pytest.mark.parametrize(("split", "share"), [("select", 0.1), ("calibrate", 0.04), ("test", 0.2)])
def test_about_the_given_share_is_held_out(split: str, share: float) -> None:
    chosen = choose_held_out([f"key {n}" for n in range(20_000)], split)
    assert abs(chosen.mean() - share) < 0.01


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(HELD_OUT_ONE_IN, 2)))
def test_the_splits_are_independent(first: str, second: str) -> None:
    keys = [f"key {n}" for n in range(50_000)]
    both = choose_held_out(keys, first) & choose_held_out(keys, second)
    assert abs(both.mean() - 1 / HELD_OUT_ONE_IN[first] / HELD_OUT_ONE_IN[second]) < 0.002


def test_more_keys_do_not_change_the_choice_of_others() -> None:
    keys = [f"key {n}" for n in range(500)]
    for split in HELD_OUT_ONE_IN:
        assert np.array_equal(
            choose_held_out(keys, split), choose_held_out([*keys, *"abcdefgh"], split)[:500]
        )
