"""What a command shows, and that it goes on when nobody is there to see it any more."""

import contextlib
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = pytest.mark.faults

SHOW_AND_GO_ON = """
import sys
from pathlib import Path
from rich.live import Live
from train.cli.terminal import console

console.print("shown")
sys.stdin.readline()
for line in range(3):
    console.print("not seen")
with Live("neither", console=console, refresh_per_second=100):
    console.print("not seen")
Path(sys.argv[1]).write_text("done")
sys.exit(3)
"""


def pipe() -> tuple[int, int]:
    return os.pipe()


def terminal() -> tuple[int, int]:
    return pty.openpty()


@pytest.mark.slow
@pytest.mark.parametrize("ends", [pipe, terminal])
def test_what_nobody_reads_any_more_stops_no_work(
    ends: Callable[[], tuple[int, int]], tmp_path: Path
) -> None:
    reading, writing = ends()
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW_AND_GO_ON, str(tmp_path / "result")],
        stdin=subprocess.PIPE,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # A closed terminal's signal is a matter of its own.
    )
    os.close(writing)
    with contextlib.closing(process.stderr), process:
        assert os.read(reading, 100).startswith(b"shown")
        os.close(reading)
        _, complaints = process.communicate("go on\n", timeout=60)
    assert (process.returncode, complaints) == (3, "")
    assert (tmp_path / "result").read_text() == "done"
