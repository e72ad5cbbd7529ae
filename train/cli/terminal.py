"""What all commands share: the console, how words become options."""

from __future__ import annotations

import errno
import os
from typing import Any, TypeVar

import tyro
from rich.console import Console

from train.host.signals import stopping

T = TypeVar("T")


class Terminal(Console):
    """Falls silent when nobody is there to read it any more: what it tells of goes on."""

    def on_broken_pipe(self) -> None:
        """Writes to nowhere from now on, and so does Python, which empties the file as it ends."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)

    def _check_buffer(self) -> None:
        try:
            super()._check_buffer()
        except OSError as error:
            if error.errno != errno.EIO:  # A terminal that was closed, where a pipe is broken.
                raise
            self.on_broken_pipe()


console = Terminal()


def parse(options: type[T], command: str, arguments: list[str], default: T | None = None) -> T:
    """A command's options from its words; tyro explains what it cannot read, and exits with 2."""
    extra: dict[str, Any] = {} if default is None else {"default": default}
    parsed = tyro.cli(
        options,
        prog=f"python -m train {command}",
        args=arguments,
        config=(tyro.conf.CascadeSubcommandArgs,),
        **extra,
    )
    stopping.status = 0
    return parsed
