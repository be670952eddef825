"""`StageTimer` assigns wall and CPU time to stages."""

import time

from fer_batch.timing import StageTimer


def spend_cpu(seconds: float) -> None:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass


def test_new_timer_is_empty() -> None:
    timer = StageTimer()
    assert not timer.wall_s
    assert not timer.cpu_s
    assert timer.wall_s["decode"] == timer.cpu_s["decode"] == 0


def test_times_of_one_stage_are_summed() -> None:
    timer = StageTimer()
    for stage in ("decode", "detect", "decode"):
        spend_cpu(0.1)
        timer.record(stage)
    assert 0.18 < timer.cpu_s["decode"] < 0.4
    assert 0.09 < timer.cpu_s["detect"] < 0.2
    assert timer.wall_s["decode"] > 0.18  # the two clocks differ by some ticks


def test_waiting_counts_as_wall_time_only() -> None:
    timer = StageTimer()
    time.sleep(0.05)
    timer.record("decode")
    assert timer.wall_s["decode"] > 0.04
    assert timer.cpu_s["decode"] < 0.04


def test_restart_discards_elapsed_time() -> None:
    timer = StageTimer()
    spend_cpu(0.05)
    timer.restart()
    timer.record("crop")
    assert timer.cpu_s["crop"] < 0.04


def test_add_sums_two_timers() -> None:
    timer, other = StageTimer(), StageTimer()
    timer.wall_s.update(decode=1, crop=2)
    other.wall_s.update(decode=3, track=4)
    other.cpu_s.update(track=0.5)
    timer.add(other)
    assert timer.wall_s == {"decode": 4, "crop": 2, "track": 4}
    assert timer.cpu_s == {"track": 0.5}
    assert other.wall_s == {"decode": 3, "track": 4}
