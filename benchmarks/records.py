"""What a benchmark leaves behind: a line of JSON with the numbers and where they come from."""

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from train.host import provenance


def append(path: Path, benchmark: str, device: str, rows: Sequence[dict[str, Any]]) -> None:
    """Adds one line to a file, and makes the file and its folder where they are missing."""
    record = {
        "benchmark": benchmark,
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device,
        "commit": provenance.commit(),
        "versions": provenance.versions(),
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
