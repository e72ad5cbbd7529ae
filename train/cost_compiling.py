"""How long compiling takes, also where a cache of earlier runs spares it."""

from __future__ import annotations

import time
from typing import Any

from jax import monitoring

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
