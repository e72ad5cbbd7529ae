"""The command line: `python -m train COMMAND`.

Each command is a function: its parameters are the options, its docstring is the help. What a user
can mend (a `ValueError`) ends as one sentence and exit status 2, never as a traceback.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from train.cli.files import (
    check_command,
    export_command,
    import_command,
    prepare_command,
    publish_command,
    report_command,
)
from train.cli.look import explain_command, plan_command, replay_command
from train.cli.terminal import Terminal, console, parse
from train.cli.train import compare_command, presets, run_command, study_command, tune_command
from train.host.allocator import share_heap
from train.host.compiling import keep_programs
from train.host.disk import DiskError, disk_explained
from train.host.signals import stopping
from train.host.units import plain
from train.run.train import StuckError

COMMANDS: Mapping[str, Callable[..., None]] = MappingProxyType(
    {
        "run": run_command,
        "compare": compare_command,
        "tune": tune_command,
        "study": study_command,
        "report": report_command,
        "check": check_command,
        "publish": publish_command,
        "prepare": prepare_command,
        "plan": plan_command,
        "explain": explain_command,
        "export": export_command,
        "import": import_command,
        "replay": replay_command,
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
        _run(arguments[0], arguments[1:])
    except StuckError as error:
        _fail("stuck", error, status=1)
    except DiskError as error:
        _fail("disk", error, status=1)
    except ValueError as error:
        _fail("error", error, status=2)


def _run(name: str, arguments: list[str]) -> None:
    command = parse(COMMANDS[name], name, arguments, **presets(name, arguments))
    stopping.status = 0  # From here on a signal ends what has begun, and can go on.
    try:
        command()
    except OSError:
        with disk_explained("the disk"):  # Which one, only the writers know that say so.
            raise


def _usage(*, asked: bool, wrong: list[str]) -> None:
    if wrong and not asked:
        _say("error", "red", f"there is no command {wrong[0]!r}.")
    console.print("usage: python -m train COMMAND ...\n", highlight=False)
    for name, command in COMMANDS.items():
        about = (command.__doc__ or "").splitlines()[0]
        console.print(f"  {name:<10}{about}", highlight=False)
    console.print("\npython -m train COMMAND --help lists a command's options.", highlight=False)
    sys.exit(0 if asked else 2)


def _fail(word: str, error: Exception, *, status: int) -> None:
    _say(word, "red", str(error))
    sys.exit(status)


def _say(word: str, style: str, message: str) -> None:
    # Its own console: the message goes to standard error, whatever the output is piped to.
    Terminal("stderr").print(plain(f"{word}: ", style) + plain(message))
