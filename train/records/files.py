"""Where records lie: in the folders of runs, comparisons and tunings, and in files of many runs.

<run>/records.jsonl                                one run, its configuration beside it
<comparison>/runs/<optimizer>-s<seed>/records.jsonl, costs.jsonl
<tuning>/trials/<optimizer>/<number>/records.jsonl
<any name>.jsonl                                   runs one after the other, then costs

A file of many runs, as `pack` writes it, needs nothing beside it: each run's first line holds its
configuration. Only a tuning adds what no run knows, its search spaces, as `<any name>.json`.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from train.host.files import write_whole
from train.host.typed_json import read_json
from train.records.lines import Record, RunRecord, encode, numbered_records

TUNING = "tuning.json"
_RECORDS = "records.jsonl"
_LAYOUTS = (f"runs/*/{_RECORDS}", f"trials/*/*/{_RECORDS}", _RECORDS, "*.jsonl")
_log = logging.getLogger(__name__)


def record_files(path: Path) -> list[Path]:
    """The files of records of a run, a comparison or a tuning, or of a folder of such files.

    Args:
        path: a folder, or a file of records.

    Returns:
        The files, optimizers by name and their seeds or trials by number; none where there are
        none.
    """
    if path.is_file():
        return [path]
    found = next((files for layout in _LAYOUTS if (files := list(path.glob(layout)))), [])
    costs = [costs for costs in path.glob("costs.jsonl") if costs not in found]
    return sorted(found, key=_by_number) + costs


def read_file(
    path: Path, *, notice: Callable[[str], None] = _log.warning
) -> list[tuple[int, Record]]:
    """The records of a file with their lines' numbers, each run's first line being complete.

    What a run's folder says and its line may not is filled in: the configuration, and which trial
    of a tuning it is, as the name ``<optimizer>/<number>``.

    Args:
        path: the file.
        notice: told of a half-written last line, which is passed over.

    Raises:
        RecordError: a record cannot be read; the message names the file and the line.
        ValueError: the run's `config.json` is damaged.
    """
    return [
        (number, _completed(record, path) if isinstance(record, RunRecord) else record)
        for number, record in numbered_records(path, notice=notice)
    ]


def pack(folder: Path, file: Path) -> None:
    """Writes all records of a folder into one file, the same bytes for the same records.

    Args:
        folder: of a comparison, a tuning or a run, finished or not.
        file: replaced whole, where it exists. A tuning's search spaces go beside it, into the
            ``.json`` of the same name.

    Raises:
        ValueError: the folder holds no records.
        RecordError: a record cannot be read; the message names the file and the line.
    """
    records = [record for path in record_files(folder) for _, record in read_file(path)]
    if not any(isinstance(record, RunRecord) for record in records):
        raise ValueError(
            f"{folder} holds no runs to pack: choose a comparison's or tuning's folder"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, b"".join(map(encode, records)))
    if (folder / TUNING).exists():
        write_whole(file.with_suffix(".json"), (folder / TUNING).read_bytes())


def report_folder(*paths: Path) -> Path:
    """Where a report on these goes: into a folder's `report`, or for files and several under runs.

    Example:
        >>> print(report_folder(Path("runs/compare")), report_folder(Path("results/nano.jsonl")))
        runs/compare/report runs/report-nano
    """
    if len(paths) == 1 and paths[0].suffix != ".jsonl":
        return paths[0] / "report"
    return Path("runs") / "-".join(["report", *(path.stem for path in paths)])


def _completed(run: RunRecord, path: Path) -> RunRecord:
    if path.name != _RECORDS:
        return run
    config = path.with_name("config.json")
    if not run.config and config.exists():
        run = dataclasses.replace(run, config=read_json(config, dict[str, Any]))
    layout, optimizer, number = ("", "", *path.parent.parts)[-3:]
    return dataclasses.replace(run, name=f"{optimizer}/{number}") if layout == "trials" else run


def _by_number(path: Path) -> list[str | int]:
    """Orders seed 10 after seed 9."""
    parts = re.split(r"(\d+)", str(path))
    return [int(part) if index % 2 else part for index, part in enumerate(parts)]
