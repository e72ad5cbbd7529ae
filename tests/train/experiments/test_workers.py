"""Workers are never left behind: whatever ends the first process asks all of them to stop."""

import os
import signal

import pytest

from train.experiments import workers
from train.experiments.workers import other_workers

pytestmark = pytest.mark.faults


class Worker:
    """One that is started in no time, and only remembers what was done to it."""

    def __init__(self, done, at_start):
        self._done, self._at_start = done, at_start

    def start(self):
        self._at_start()
        self._done.append("start")

    def terminate(self):
        self._done.append("terminate")

    def join(self):
        self._done.append("join")


@pytest.fixture
def done_with(monkeypatch):
    """What was done to two workers, at whose starts something happens."""

    def done(at_start, work=lambda: None, error=KeyboardInterrupt):
        events = []
        context = type("Context", (), {"Process": lambda self, **_: Worker(events, at_start)})
        monkeypatch.setattr(workers.multiprocessing, "get_context", lambda _: context())
        with pytest.raises(error), other_workers(print, 2):
            work()
        return events

    return done


@pytest.fixture(autouse=True)
def _as_in_a_terminal():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def test_a_signal_while_they_start_waits_until_all_can_be_asked_to_stop(done_with):
    once = iter([ctrl_c])  # A second one would mean now.
    done = done_with(lambda: next(once, lambda: None)())
    assert done == ["start"] * 2 + ["terminate"] * 2 + ["join"] * 2


def test_an_error_of_the_work_stops_them(done_with):
    done = done_with(lambda: None, lambda: 1 / 0, ZeroDivisionError)
    assert done == ["start"] * 2 + ["terminate"] * 2 + ["join"] * 2


def test_a_second_one_that_cannot_be_started_stops_the_first(done_with):
    failing = iter([lambda: None, lambda: os.stat("/nowhere")])
    done = done_with(lambda: next(failing)(), error=FileNotFoundError)
    assert done == ["start", "terminate", "join"]


def test_ctrl_c_is_let_through_again_when_they_are_started(done_with):
    done_with(lambda: None, ctrl_c)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_several_workers_on_an_accelerator_and_none_at_all_are_refused(monkeypatch):
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES"), other_workers(print, 1):
        pass
    with pytest.raises(ValueError, match="workers=0 is not allowed"):
        other_workers(print, -1).__enter__()
    with other_workers(lambda: 1 / 0, 0):
        pass
