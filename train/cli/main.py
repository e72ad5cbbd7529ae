"""The command line: `python -m train COMMAND`.

Each command is a function whose docstring is its line in the usage. What a user can mend (a
`ValueError`) ends as one sentence and exit status 2, never as a traceback.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from train.cli.files import check, export, import_, prepare, publish, report
from train.cli.look import explain, plan, replay
from train.cli.terminal import Terminal, console
from train.cli.train import compare, run, study, tune
from train.host.allocator import share_heap
from train.host.compiling import keep_programs
from train.host.disk import DiskError, disk_explained
from train.host.units import plain
from train.run.train import StuckError

COMMANDS: Mapping[str, Callable[[list[str]], None]] = MappingProxyType(
    {
        "run": run,
        "compare": compare,
        "tune": tune,
        "study": study,
        "report": report,
        "check": check,
        "publish": publish,
        "prepare": prepare,
        "plan": plan,
        "explain": explain,
        "export": export,
        "import": import_,
        "replay": replay,
    }
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; exits with 0, 1 (stuck, or the disk) or 2 (wrong input)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] not in COMMANDS:
        _usage(asked=arguments[:1] in (["--help"], ["-h"]), wrong=arguments[:1])
    share_heap()
    logging.basicConfig(format="%(message)s")
    not_kept = keep_programs(Path("cache/jax"))
    if not_kept:
        _say("note", "yellow", not_kept)
    try:
        _run(COMMANDS[arguments[0]], arguments[1:])
    except StuckError as error:
        _fail("stuck", error, status=1)
    except DiskError as error:
        _fail("disk", error, status=1)
    except ValueError as error:
        _fail("error", error, status=2)


def _run(command: Callable[[list[str]], None], arguments: list[str]) -> None:
    try:
        command(arguments)
    except OSError:
        with disk_explained("the disk"):  # Which one, only the writers know that say so.
            raise


def _usage(*, asked: bool, wrong: list[str]) -> None:
    if wrong and not asked:
        _say("error", "red", f"there is no command {wrong[0]!r}.")
    console.print("usage: python -m train COMMAND ...\n", highlight=False)
    for name, command in COMMANDS.items():
        console.print(f"  {name:<10}{command.__doc__}", highlight=False)
    console.print("\npython -m train COMMAND --help lists a command's options.", highlight=False)
    sys.exit(0 if asked else 2)


def _fail(word: str, error: Exception, *, status: int) -> None:
    _say(word, "red", str(error))
    sys.exit(status)


def _say(word: str, style: str, message: str) -> None:
    # Its own console: the message goes to standard error, whatever the output is piped to.
    Terminal(stderr=True).print(plain(f"{word}: ", style) + plain(message))
