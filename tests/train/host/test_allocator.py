"""The heap of a process that trains on a CPU: what a step frees stays, until it is given back."""

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that is told")


def test_freed_memory_is_kept_and_goes_back_when_asked_although_a_small_block_lies_above_it():
    # In a process of its own: the heap is one for all of a process, and other tests use it.
    megabytes = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(_PROGRAM)],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    held, freed, given_back = map(float, megabytes.stdout.split())
    assert freed > held - 1
    assert given_back < held - 60


_PROGRAM = """
    import re
    import ctypes
    from pathlib import Path

    from train.host.allocator import give_back_freed_memory, keep_freed_memory

    def megabytes():
        status = Path("/proc/self/status").read_text()
        print(int(re.search(r"RssAnon:\\s+(\\d+)", status)[1]) / 1024)

    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    keep_freed_memory()
    large = libc.malloc(64 * 2**20)
    ctypes.memset(large, 1, 64 * 2**20)
    libc.malloc(100_000)
    megabytes()
    libc.free(large)
    megabytes()
    give_back_freed_memory()
    megabytes()
"""
