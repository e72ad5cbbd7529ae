"""What all commands share: the console, how words become options."""

from __future__ import annotations

from typing import Any, TypeVar

import tyro
from rich.console import Console

from train.stopping import stopping

console = Console()
T = TypeVar("T")


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
