"""What all commands share: the console, how words become options, how a stop ends."""

from __future__ import annotations

import signal
import sys
from typing import Any, NoReturn, TypeVar

import tyro
from rich.console import Console

from train.interrupts import Interrupted

console = Console()
T = TypeVar("T")


def parse(options: type[T], command: str, arguments: list[str], default: T | None = None) -> T:
    """A command's options from its words; tyro explains what it cannot read, and exits with 2."""
    extra: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        options,
        prog=f"python -m train {command}",
        args=arguments,
        config=(tyro.conf.CascadeSubcommandArgs,),
        **extra,
    )


def stopped(stop: Interrupted, after_sigterm: int = 0) -> NoReturn:
    """Says where the run stopped, and ends with the status that a launcher expects."""
    console.print(f"[yellow]{stop}.[/] The same command goes on from there.")
    sys.exit(after_sigterm if stop.signal is signal.SIGTERM else 130)
