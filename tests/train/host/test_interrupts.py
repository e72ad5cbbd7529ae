"""What a signal does: a run saves first; everything else stops, says so, and has a status."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.support import ROOT
from train.host.signals import Interrupted, StopRequest

pytestmark = pytest.mark.faults


@pytest.fixture(autouse=True)
def _as_in_a_terminal():
    """Signals as a program finds them that nobody started in the background, or with `nohup`."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {signum: signal.signal(signum, handler) for signum, handler in usual.items()}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


def work(*signals):
    """Work that is asked to stop, and looks at the flag once."""
    with StopRequest() as stop:
        for signum in signals:
            os.kill(os.getpid(), signum)
        if stop.signum:
            raise Interrupted(stop.signum, 3)


def finished_work(signum):
    """Work that does not look at the flag any more."""
    with StopRequest():
        os.kill(os.getpid(), signum)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGINT"])
def test_a_signal_is_a_flag_while_a_run_is_under_way(name):
    before = signal.getsignal(signal.Signals[name])
    with pytest.raises(Interrupted, match=f"stopped by {name} after step 3; the state is saved"):
        work(signal.Signals[name])
    assert signal.getsignal(signal.Signals[name]) is before


def test_machines_may_repeat_themselves_and_add_to_a_ctrl_c():
    with pytest.raises(Interrupted):
        work(signal.SIGTERM, signal.SIGTERM, signal.SIGINT, signal.SIGTERM)


def test_a_second_ctrl_c_acts_at_once():
    with pytest.raises(KeyboardInterrupt):
        work(signal.SIGINT, signal.SIGINT)


def test_a_signal_that_nobody_looked_at_any_more_is_sent_again():
    with pytest.raises(KeyboardInterrupt):
        finished_work(signal.SIGINT)


def test_a_signal_is_heard_from_the_first_moment_on(monkeypatch):
    real = signal.signal

    def signal_at_once(signum, handler):
        before = real(signum, handler)
        if signum == signal.SIGINT:
            monkeypatch.undo()
            os.kill(os.getpid(), signum)
        return before

    monkeypatch.setattr(signal, "signal", signal_at_once)
    with pytest.raises(Interrupted):
        work()


def test_whoever_asked_to_outlive_the_terminal_does():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signum is None
    finally:
        signal.signal(signal.SIGHUP, before)


def process(body, status=75, patience=0.2):
    """Python that is at `body`, where signals end it."""
    program = (
        "import contextlib, gc, hashlib, os, signal, sys, time\n"
        "from train.host import signals as module\n"
        "from train.host.signals import StopRequest\n"
        f"module.PATIENCE = {patience}\n"
        f"with module.stopping as stopping:\n    stopping.status = {status}\n"
        "    print('ready', flush=True)\n"
        f"    {body}\n"
        "print('went on')\n"
    )
    started = subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout.readline() == "ready\n"
    time.sleep(0.1)
    return started


LONG_C_CODE = "hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)"


@pytest.mark.parametrize("body", ["time.sleep(60)", LONG_C_CODE])
def test_work_is_stopped_with_a_sentence_and_the_status_asked_for(body):
    with process(body) as worker:
        worker.send_signal(signal.SIGTERM)
        printed, _ = worker.communicate(timeout=30)
    assert printed == (
        "stopped by SIGTERM; what was finished is kept. The same command goes on from there.\n"
    )
    assert worker.returncode == 75


def test_a_run_that_hangs_is_ended_by_a_second_ctrl_c_and_by_no_first_one():
    with process(f"with StopRequest(): {LONG_C_CODE}") as worker:
        worker.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            worker.wait(timeout=0.5)
        worker.send_signal(signal.SIGINT)
        assert "stopped by SIGINT" in worker.communicate(timeout=30)[0]
    assert worker.returncode == 130


def test_a_second_ctrl_c_does_not_wait_for_the_time_of_the_signals_before_it():
    with process(f"with StopRequest(): {LONG_C_CODE}", patience=3) as worker:
        for signum in ("SIGHUP", "SIGUSR1", "SIGTERM", "SIGINT", "SIGINT"):
            worker.send_signal(signal.Signals[signum])
            time.sleep(0.1)
        worker.communicate(timeout=10)
    assert worker.returncode == 130


def test_a_second_ctrl_c_ends_a_process_that_hangs_at_its_exit_too():
    hang = f"import atexit; atexit.register(lambda: {LONG_C_CODE})"
    twice = "with StopRequest(): [os.kill(os.getpid(), signal.SIGINT) for _ in '12']"
    with process(f"{hang}; time.sleep(0.2)\n    {twice}") as worker:
        assert worker.communicate(timeout=30)[0].count("stopped by SIGINT") == 1
    assert worker.returncode == 130


def test_a_library_that_crashes_at_the_exit_does_not_change_the_status():
    crash = "library = type('Library', (), {'__del__': lambda _: os.abort()})()"
    with process(f"{crash}; time.sleep(60)") as worker:
        worker.send_signal(signal.SIGTERM)
        assert "stopped by SIGTERM" in worker.communicate(timeout=30)[0]
    assert worker.returncode == 75


def test_a_process_without_a_standard_output_stops_like_any_other():
    with process("sys.stdout.close(); sys.stdout = None; time.sleep(60)") as worker:
        worker.send_signal(signal.SIGTERM)
        worker.wait(timeout=30)
    assert worker.returncode == 75


def test_a_signal_that_came_up_in_a_garbage_collection_is_not_lost():
    body = (
        "gc.callbacks.append(lambda *_: os.kill(os.getpid(), signal.SIGTERM))"
        "; gc.collect(); gc.callbacks.clear(); time.sleep(60)"
    )
    with process(body) as worker:
        assert "stopped by SIGTERM" in worker.communicate(timeout=30)[0]
    assert worker.returncode == 75
