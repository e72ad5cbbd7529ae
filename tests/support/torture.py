"""Real processes of `python -m train`, killed at chosen moments, and what they leave compared."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.support import ROOT
from tests.support.runs import arrays_in
from train.records.lines import Record, read_records

TINY = shlex.split(
    "--model.layers 1 --model.d-model 16 --model.heads 2 --model.kv-heads 2 --model.d-ff 32 "
    "--batch-size 8 --context 16 --log-every 2 --eval-every 20 --eval-batches 2 "
    "--schedule.warmup-steps 3 --data.source synthetic"
)
"""Options of a run whose steps take a millisecond."""

TIMEOUT = 240
"""Seconds in which a command ends even on a busy machine."""

Moment = Callable[[], bool]
"""Whether it is time."""


def seeded() -> random.Random:
    """Draws moments; `TORTURE_SEED` draws the same ones again."""
    seed = int(os.environ.get("TORTURE_SEED", random.randrange(10**6)))
    print(f"TORTURE_SEED={seed}")
    return random.Random(seed)


class Command:
    """A command under way in a process group of its own.

    Args:
      folder: Its working folder, where it also keeps its compiled programs.
      words: What comes after `python -m train`.
      devices: Virtual CPU devices.
      terminal: Where it prints; by default where `ended` reads it.
    """

    def __init__(
        self, folder: Path, *words: str, devices: int = 1, terminal: int = subprocess.PIPE
    ) -> None:
        flags = os.environ["XLA_FLAGS"].replace("device_count=8", f"device_count={devices}")
        environment = {
            "XLA_FLAGS": flags,
            "PYTHONPATH": str(ROOT),
            "COLUMNS": "300",
            # Everything compiled is kept, so that a restart is quick.
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "train", *words],
            cwd=folder,
            env=os.environ | environment,
            stdout=terminal,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def until(self, moment: Moment, then_seconds: float = 0.0) -> Command:
        """Waits for a moment and a little more; it is an error to end before it."""
        deadline = time.monotonic() + TIMEOUT
        while not moment():
            if self.process.poll() is not None:
                assert moment(), f"ended before its moment: {self.process.communicate()[0]}"
            assert time.monotonic() < deadline, "the moment did not come"
            time.sleep(0.001)
        time.sleep(then_seconds)
        return self

    def send(self, *signals: signal.Signals, apart: float = 0.5) -> Command:
        """Sends signals to the one process, as an orchestrator does."""
        for signum in signals:
            self.process.send_signal(signum)
            time.sleep(apart if signum is not signals[-1] else 0)
        return self

    def send_to_all(self, signum: signal.Signals) -> Command:
        """Sends a signal to its workers too, as a terminal does, or SLURM."""
        os.killpg(self.process.pid, signum)
        return self

    def kill(self) -> None:
        """Takes the process away without a warning; its workers notice, and end."""
        self.process.kill()
        self.ended()  # All have closed the pipe.

    def workers(self) -> list[int]:
        """The workers that it has started, and that have not ended."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                _, parent, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
                # Of a dead one it is empty.
                is_worker = b"spawn_main" in (folder / "cmdline").read_bytes()
                if is_worker and int(parent) == self.process.pid:
                    found.append(int(folder.name))
        return found

    def ended(self) -> tuple[int, str]:
        """Waits for its end: exit status, and what it printed."""
        printed, _ = self.process.communicate(timeout=TIMEOUT)
        return self.process.returncode, printed


@contextlib.contextmanager
def started(folder: Path, *words: str, **options: int) -> Iterator[Command]:
    """A command that is gone when the context is left, with all that it started."""
    command = Command(folder, *words, **options)
    try:
        yield command
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(command.process.pid, signal.SIGKILL)
        command.process.wait()


def finish(folder: Path, *words: str, **options: int) -> str:
    """Runs a command to its end, which must be a good one."""
    with started(folder, *words, **options) as command:
        status, printed = command.ended()
    assert status == 0, printed
    return printed


def without_clocks(records: list[Record]) -> list[dict[str, Any]]:
    """Records as dictionaries, less what two equal runs may differ in."""
    clocks = {"seconds", "device_seconds", "started", "tokens_per_second", "mfu"}
    others = {"commit"}  # Somebody may be at work in the repository meanwhile.
    return [
        {name: value for name, value in vars(record).items() if name not in clocks | others}
        for record in records
    ]


def assert_same_run(run: Path, undisturbed: Path, step: int) -> None:
    """Checks that a run has the records and, bit for bit, the last state of an undisturbed one.

    What it was killed at is gone too: no half-written file or folder is left.
    """
    ours, theirs = (read_records(folder / "records.jsonl") for folder in (run, undisturbed))
    assert without_clocks(ours) == without_clocks(theirs)
    ours, theirs = arrays_in(run, step), arrays_in(undisturbed, step)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype, name
        assert ours[name].tobytes() == theirs[name].tobytes(), name
    assert names_in(run) == names_in(undisturbed)


def names_in(run: Path) -> set[str]:
    """What lies in a run's folder and, but for the checkpoints themselves, beside them."""
    paths = [path for folder in (run, run / "checkpoints") for path in folder.iterdir()]
    return {path.name for path in paths if not path.name.isdigit()}


def bytes_in(folder: Path) -> dict[str, bytes]:
    """All files below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write_documents(folder: Path, rng: random.Random) -> None:
    """Text in several files, enough that preparing it can be stopped on the way."""
    folder.mkdir()
    words = ["".join(rng.choices("abcdefghij ", k=2000)) for _ in range(50)]
    for file in range(8):
        lines = (json.dumps({"text": f"{file} {i} " + rng.choice(words)}) for i in range(2000))
        (folder / f"{file}.jsonl").write_text("\n".join(lines))


def prepared(cache: Path) -> dict[str, bytes]:
    """All that lies there, but for the memory of the files' times and the lock's empty file."""
    return {
        name: content
        for name, content in bytes_in(cache).items()
        if not name.endswith(("verified.json", ".lock"))
    }


# --- moments


def holds_a_lock(pid: int) -> bool:
    """Whether a process is at work in some run's folder."""
    with contextlib.suppress(OSError):  # It may just be gone.
        links = (os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir())
        return any(link.endswith("/.lock") for link in links)
    return False


def exists(folder: Path, pattern: str, count: int = 1) -> Moment:
    """When there are so many paths of a pattern."""
    return lambda: len(list(folder.glob(pattern))) >= count


def recorded(run: Path, step: int) -> Moment:
    """When a step has been recorded."""
    return lambda: _last_step(run) >= step


def further(run: Path, steps: int = 1, to: int = 0) -> Moment:
    """When so many steps more are recorded than when this was first asked, and `to` of them."""
    before: list[int] = []

    def moment() -> bool:
        last = _last_step(run)
        before[:] = before or [last]
        return last >= max(before[0] + steps, to)

    return moment


def ended(run: Path) -> Moment:
    """When the last record is written."""
    return lambda: '"kind": "final"' in _text(run)


def saving(run: Path, after: int) -> Moment:
    """While a step after this one is being saved, under the name that it has meanwhile."""

    def moment() -> bool:
        names = [path.name for path in (run / "checkpoints").glob("saving-*")]
        return any(int(re.findall(r"\d+", name)[0]) > after for name in names)

    return moment


def _last_step(run: Path) -> int:
    steps = re.findall(r'"kind": "step", "schema": 1, "step": (\d+),', _text(run))
    return int(steps[-1]) if steps else 0


def _text(run: Path) -> str:
    try:
        return (run / "records.jsonl").read_text()
    except FileNotFoundError:
        return ""
