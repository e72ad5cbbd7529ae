"""Memory that a step has freed is kept for the next step, not handed back to the kernel.

XLA's CPU backend allocates a step's temporaries anew each time. By default glibc maps and unmaps
such large blocks at the kernel, and getting one again costs a page fault for every 4 KiB: half of
the time of a small model's step.
"""

from __future__ import annotations

import ctypes
import functools
import sys

import jax

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4  # malloc.h
_LARGEST_INT = 2**31 - 1
_THREAD_HEAP = 64 * 2**20


@functools.cache
def keep_freed_memory() -> None:
    """Makes glibc serve large blocks from a heap that does not shrink, for this process, once.

    Only the CPU backend needs it; without glibc it does nothing.
    """
    if jax.default_backend() != "cpu" or sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
        mallopt(_M_TOP_PAD, _THREAD_HEAP)  # else a thread's empty heap is unmapped all the same
