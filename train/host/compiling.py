"""How long compiling takes, and the folder in which JAX keeps compiled programs.

That folder holds machine code, which JAX runs as it finds it, where everything else that we read is
data. Who can write into it can run programs as whoever trains, so it is used only where nobody else
can. The time counts what a program would have taken where the folder had it already.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path
from typing import Any

import jax
from jax import monitoring


def keep_programs(folder: Path) -> str:
    """Keeps compiled programs between calls, so that a resumed run starts at once.

    Args:
      folder: Made if missing, for its owner alone.

    Returns:
      Why the folder is not used, and what to do about it; empty if it is.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as error:
        return f"compiled programs are not kept: {folder} cannot be made ({error.strerror})."
    if found.st_uid != os.getuid():
        return f"compiled programs are not kept: {folder} is another user's; remove it."
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"compiled programs are not kept: others can write to {folder}; chmod go-w {folder}"
    jax.config.update("jax_compilation_cache_dir", str(folder.absolute()))
    return ""


_SAVED = "/jax/compilation_cache/compile_time_saved_sec"


class CompileTime:
    """A context that times the tracing and compiling inside of it.

    A program that JAX's persistent cache holds is read and not compiled. The cache knows how long
    it once took, in whole seconds rounded down, and that is added.

    Example:
      >>> import jax
      >>> with CompileTime() as spent:
      ...     compiled = jax.jit(lambda x: x + 1).lower(1.0).compile()
      >>> spent.seconds > 0
      True
    """

    seconds: float
    """Known when the context is left."""

    def __enter__(self) -> CompileTime:
        self.seconds = 0.0
        self._start = time.perf_counter()
        monitoring.register_event_duration_secs_listener(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        monitoring.unregister_event_duration_listener(self._note)
        self.seconds += time.perf_counter() - self._start

    def _note(self, event: str, duration_secs: float, **_: Any) -> None:
        if event == _SAVED:
            self.seconds += duration_secs
