"""File systems of a test's own: small ones, which fill up, and read-only ones."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.support import ROOT


def _apart(script):
    return ["unshare", "--mount", "--map-root-user", "sh", "-c", script]


def _can_mount():
    """Whether this user may mount in a name space of their own, as most may on Linux."""
    command = _apart("mount -t tmpfs tmpfs /mnt")
    return bool(shutil.which("unshare")) and not subprocess.call(command, stderr=subprocess.DEVNULL)


needs_mounts = pytest.mark.skipif(
    not _can_mount(), reason="this system lets its users mount nothing (unshare --map-root-user)"
)


def on_own_disk(folder, options, *commands, cwd=None):
    """Shell commands in turn, with a file system in memory at a folder, which goes with them."""
    script = "\n".join((f"mount -t tmpfs -o {options} tmpfs {shlex.quote(str(folder))}", *commands))
    return subprocess.run(
        _apart(script),
        cwd=cwd or folder.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "500"},
        capture_output=True,
        text=True,
        check=False,
    )


def python(*arguments):
    """The words of a command that runs this Python."""
    return shlex.join([sys.executable, *map(str, arguments)])
