"""The folder of compiled programs: machine code, which JAX runs as it finds it.

Everything else that we read is data. Who can write into this folder can run programs as whoever
trains, so it is used only where nobody else can.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import jax


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
