"""Memory that a step has freed is kept for the next step, and handed back to the kernel seldom.

XLA's CPU backend allocates a step's temporaries anew each time. By default glibc maps and unmaps
such large blocks at the kernel, and getting one again costs a page fault for every 4 KiB: half of
the time of a small model's step.

In a heap that keeps all, a small block that stays splits the room that a large one had, and the
large one gets new room at the heap's end. So the free pages are given back now and then, or a
process would grow for as long as it runs.
"""

from __future__ import annotations

import ctypes
import functools
import sys

import jax

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8  # malloc.h
_LARGEST_INT = 2**31 - 1
_THREAD_HEAP = 64 * 2**20


def share_heap() -> None:
    """Makes glibc serve the threads of this process from one heap.

    A thread's own heap ends at 64 MiB, beyond which blocks are mapped and unmapped after all. It
    keeps the heap it began with, so call this before JAX starts its backend.
    """
    _mallopt(_M_ARENA_MAX, 1)


@functools.cache
def keep_freed_memory() -> None:
    """Makes glibc serve large blocks from a heap that does not shrink, for this process, once.

    Only the CPU backend needs it; without glibc it does nothing. For steps with temporaries of
    more than 64 MiB the heap must also be shared, see `share_heap`.
    """
    share_heap()
    if jax.default_backend() == "cpu":
        _mallopt(_M_MMAP_MAX, 0)
        _mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT)
        _mallopt(_M_TOP_PAD, _THREAD_HEAP)  # else a thread's empty heap is unmapped all the same


def give_back_freed_memory() -> None:
    """Hands what `keep_freed_memory` has kept back to the kernel.

    For between two steps, and seldom: the next one has to get its memory anew.
    """
    if jax.default_backend() == "cpu" and (glibc := _glibc()):
        glibc.malloc_trim(0)


def _mallopt(parameter: int, value: int) -> None:
    if glibc := _glibc():
        glibc.mallopt(parameter, value)


def _glibc() -> ctypes.CDLL | None:
    """The C library, if it is the one that these calls are for."""
    if sys.platform != "linux":
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "malloc_trim") else None
