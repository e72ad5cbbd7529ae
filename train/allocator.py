"""Memory that a step has freed is kept for the next step, not handed back to the kernel.

XLA's CPU backend allocates a step's temporaries anew each time. By default glibc returns such large
blocks to the kernel at once, and getting them again costs a page fault for every 4 KiB: half of the
time of a small model's step.
"""

from __future__ import annotations

import ctypes
import functools
import sys

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # malloc.h
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc refuses more


@functools.cache
def keep_freed_memory() -> None:
    """Sets glibc's thresholds for this process, once; elsewhere it does nothing."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    mallopt(_M_TRIM_THRESHOLD, 2**30)
    mallopt(_M_TOP_PAD, 64 * 2**20)
