"""What lies in a run's folder: `config.json`, `records.jsonl`, `checkpoints/`; and whose it is."""

from __future__ import annotations

import json
from pathlib import Path

from train.atomic import write_whole
from train.config import RunConfig, first_difference, to_dict
from train.records import FinalRecord, read_records

CONFIG = "config.json"
RECORDS = "records.jsonl"


def claim(folder: Path, config: RunConfig) -> None:
    """Writes the resolved configuration into a folder, or checks that it is there already.

    Raises:
      ValueError: If the folder holds a run of another configuration; nothing is changed.
    """
    check_owner(folder / CONFIG, config)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / CONFIG, config)


def finished(folder: Path, config: RunConfig) -> FinalRecord | None:
    """The final record of this configuration's run in the folder, or None if it has not ended.

    Raises:
      ValueError: If the folder holds a run of another configuration.
    """
    check_owner(folder / CONFIG, config)
    if not (folder / RECORDS).exists():
        return None
    records = read_records(folder / RECORDS)
    return next((record for record in records if isinstance(record, FinalRecord)), None)


def check_owner(path: Path, config: object) -> None:
    """Refuses a file that holds another configuration.

    Raises:
      ValueError: Naming the first setting that differs.
    """
    if not path.exists():
        return
    difference = first_difference(to_dict(config), json.loads(path.read_text()))
    if difference:
        raise ValueError(
            f"{path.parent} holds another configuration ({difference}): choose another --out, "
            "or move that folder away."
        )


def write_config(path: Path, config: object) -> None:
    """Writes a configuration as JSON; a crash leaves a whole file or none."""
    write_whole(path, json.dumps(to_dict(config), indent=2).encode() + b"\n")
