"""What all commands share: the console, and how the words of a command line become options."""

from __future__ import annotations

import errno
import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Annotated, Any, cast

import tyro
from rich.console import Console

from train.config import named

if TYPE_CHECKING:
    from train.config.run import RunConfig as NamedRun
else:
    _RUNS = {name: make() for name, make in named.RUNS.items()}
    _ABOUT = {name: inspect.getdoc(make) or name for name, make in named.RUNS.items()}
    NamedRun = Annotated[
        tyro.extras.subcommand_type_from_defaults(_RUNS, _ABOUT), tyro.conf.arg(name="")
    ]


class Terminal(Console):
    """Falls silent when nobody is there to read it any more: what it tells of goes on.

    Args:
      stream: What to write to, as a name in `sys`.
    """

    def __init__(self, stream: str = "stdout") -> None:
        super().__init__(file=cast(IO[str], _Stream(stream)))

    def on_broken_pipe(self) -> None:
        """Writes to nowhere from now on, and so does Python, which empties the file as it ends."""
        self.quiet = True
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.file.fileno())
        os.close(nowhere)


class _Stream:
    """A stream of `sys`, whatever it is at the time; a closed terminal is a broken pipe to it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def write(self, text: str) -> int:
        with _closed_is_broken():
            return self._file.write(text)

    def flush(self) -> None:
        with _closed_is_broken():
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    @property
    def _file(self) -> IO[str]:
        # While a progress bar is drawn, rich has put a proxy there, which writes to this one.
        file = getattr(sys, self._name)
        return getattr(file, "rich_proxied_file", file)


@contextmanager
def _closed_is_broken() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        raise BrokenPipeError(error.errno, error.strerror) from error


console = Terminal()


def parse(
    command: Callable[..., None], name: str, arguments: list[str], **presets: Any
) -> functools.partial[None]:
    """A command with its options, made by tyro of the command's parameters.

    What cannot be read is explained, and exits with 2.

    Args:
      command: A function; its docstring becomes the help.
      name: The word that calls it.
      arguments: The words behind that one.
      **presets: Defaults of parameters, which options change.
    """

    @functools.wraps(command)
    def with_options(**options: Any) -> functools.partial[None]:
        return functools.partial(command, **options)

    return tyro.cli(
        functools.partial(with_options, **presets) if presets else with_options,
        prog=f"python -m train {name}",
        args=arguments,
        config=(tyro.conf.CascadeSubcommandArgs,),
    )
