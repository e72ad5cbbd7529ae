"""The clock of training: what it counts, what it leaves out, and whose devices it counts by."""

import pytest

from train.run.training_clock import Spent, TrainingClock


@pytest.fixture
def wait(monkeypatch):
    """Lets seconds go by."""
    now = [100.0]
    monkeypatch.setattr("train.run.training_clock.time.perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_it_counts_inside_its_block_and_not_inside_a_pause(wait):
    clock = TrainingClock(devices=1)
    wait(1)
    with clock:
        wait(2)
        with clock.paused():
            wait(4)
        wait(8)
        assert clock.seconds == clock.lap == 10
    wait(16)
    assert clock.seconds == clock.lap == 10


def test_it_goes_on_from_what_was_spent_on_other_devices(wait):
    clock = TrainingClock(devices=2, before=Spent(seconds=100.0, device_seconds=800.0))
    with clock:
        wait(10)
    assert clock.lap == 10
    assert clock.spent == Spent(seconds=110.0, device_seconds=820.0)
