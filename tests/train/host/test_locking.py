"""A lock is held by one process at a time, and dies with it."""

import contextlib
import errno
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from train.host.files import locked
from train.run.folder import held

pytestmark = pytest.mark.faults

HOLD = """
import sys, time
from pathlib import Path
from train.run.folder import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def holder(folder):
    command = [sys.executable, "-c", HOLD, folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_folder_has_one_writer_at_a_time_and_a_killed_one_leaves_no_lock(tmp_path):
    with holder(tmp_path / "run") as process:
        with pytest.raises(ValueError, match=r"another process is writing into .*run: wait"):
            held(tmp_path / "run").__enter__()
        process.send_signal(signal.SIGKILL)
        process.wait()
        with held(tmp_path / "run"):
            assert (tmp_path / "run").is_dir()


def test_an_error_of_the_work_itself_is_not_taken_for_a_lock(tmp_path):
    with pytest.raises(BlockingIOError), held(tmp_path):
        raise BlockingIOError("of the work")


def test_who_waits_gets_the_lock_when_its_holder_dies(tmp_path):
    def wait():
        with locked(tmp_path / "run" / ".lock") as is_held:
            return is_held

    with holder(tmp_path / "run") as process, ThreadPoolExecutor() as pool:
        waiting = pool.submit(wait)
        with pytest.raises(TimeoutError):
            waiting.result(timeout=0.2)
        process.send_signal(signal.SIGKILL)
        assert waiting.result(timeout=30)


@pytest.fixture
def no_locks(monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)


def test_a_file_system_without_locks_is_said_so(no_locks, tmp_path):
    with locked(tmp_path / "lock") as is_held:
        assert not is_held


def test_a_run_in_a_folder_without_locks_is_told_to_see_that_it_is_alone(
    no_locks, tmp_path, caplog
):
    with held(tmp_path / "run"):
        pass
    assert caplog.messages == [
        f"no file can be locked in {tmp_path}/run: see that nobody else writes there"
    ]
