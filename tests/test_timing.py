"""The stopwatch: what passes between laps goes to one stage, by the clock and by the processor."""

import time

from fer_batch.timing import Laps


def busy(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_before_the_first_lap_there_is_nothing() -> None:
    laps = Laps()
    assert not laps.wall
    assert not laps.cpu
    assert laps.wall["decode"] == laps.cpu["decode"] == 0


def test_laps_of_a_stage_add_up() -> None:
    laps = Laps()
    for stage in ("decode", "detect", "decode"):
        busy(0.1)
        laps.lap(stage)
    assert 0.18 < laps.cpu["decode"] < 0.4
    assert 0.09 < laps.cpu["detect"] < 0.2
    assert laps.wall["decode"] > 0.18  # the two clocks differ by some ticks


def test_waiting_costs_time_and_no_work() -> None:
    laps = Laps()
    time.sleep(0.05)
    laps.lap("decode")
    assert laps.wall["decode"] > 0.04
    assert laps.cpu["decode"] < 0.04


def test_what_passed_before_a_start_belongs_to_no_stage() -> None:
    laps = Laps()
    busy(0.05)
    laps.start()
    laps.lap("crop")
    assert laps.cpu["crop"] < 0.04


def test_sums_of_others_are_added() -> None:
    laps, other = Laps(), Laps()
    laps.wall.update(decode=1, crop=2)
    other.wall.update(decode=3, track=4)
    other.cpu.update(track=0.5)
    laps.add(other)
    assert laps.wall == {"decode": 4, "crop": 2, "track": 4}
    assert laps.cpu == {"track": 0.5}
    assert other.wall == {"decode": 3, "track": 4}
