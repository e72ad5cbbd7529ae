"""The command line: `python -m train COMMAND`.

Each command is a function in `train.commands`. What a user can mend (a `ValueError`) ends as one
sentence and exit status 2, never as a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console
from rich.markup import escape

from train.allocator import share_heap
from train.commands import COMMANDS
from train.commands.terminal import console, stopped
from train.interrupts import Interrupted
from train.loop import StuckError


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command; exits with 0, 1 (stuck), 2 (wrong input) or 130 (Ctrl-C)."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] not in COMMANDS:
        _usage(asked=arguments[:1] in (["--help"], ["-h"]), wrong=arguments[:1])
    share_heap()
    # Compiled programs are kept between calls: a resumed run starts at once.
    jax.config.update("jax_compilation_cache_dir", str(Path("cache/jax").absolute()))
    try:
        COMMANDS[arguments[0]](arguments[1:])
    except Interrupted as stop:
        stopped(stop)
    except KeyboardInterrupt:
        console.print("[yellow]stopped.[/] The same command goes on from the last checkpoint.")
        sys.exit(130)
    except StuckError as error:
        _fail("stuck", error, status=1)
    except ValueError as error:
        _fail("error", error, status=2)


def _usage(*, asked: bool, wrong: list[str]) -> None:
    if wrong and not asked:
        console.print(f"[red]error:[/] there is no command {wrong[0]!r}.", highlight=False)
    console.print("usage: python -m train COMMAND ...\n", highlight=False)
    for name, command in COMMANDS.items():
        console.print(f"  {name:<10}{command.__doc__}", highlight=False)
    console.print("\npython -m train COMMAND --help lists a command's options.", highlight=False)
    sys.exit(0 if asked else 2)


def _fail(word: str, error: Exception, *, status: int) -> None:
    # Its own console: the message goes to standard error, whatever the output is piped to.
    Console(stderr=True).print(f"[red]{word}:[/]", escape(str(error)), highlight=False)
    sys.exit(status)
