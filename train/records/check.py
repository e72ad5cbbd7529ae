"""Whether files of records hold together, before they go into a repository or a table.

Nothing is changed. What must hold of a run is in `train.check_run`; of a file, that every line is a
record, that no two runs are the same, and that nothing tells of the machine's folders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.check_run import Problem, RunLines, check_run
from train.host import units
from train.records.lines import (
    EvalRecord,
    FinalRecord,
    RecordError,
    RunRecord,
    StepRecord,
    decode,
)

# At the start of a string, or after what may stand before a path in a sentence.
_MACHINE_PATH = re.compile(r"""(?:^|[\s:=,;'"(])(?:/[^/\s]|~/|[A-Za-z]:\\|file:/)""")


@dataclass(frozen=True)
class Checked:
    """What was looked at, and one sentence for each thing that is wrong."""

    files: int
    runs: int
    problems: tuple[str, ...]

    def __str__(self) -> str:
        wrong = units.plural(len(self.problems), "problem") if self.problems else "nothing wrong"
        return f"{units.plural(self.runs, 'run')} in {units.plural(self.files, 'file')}: {wrong}"


def check_records(*paths: Path) -> Checked:
    """Checks files of records.

    Args:
        paths: files, or folders: of these every ``.jsonl`` file in them, at any depth, that holds
            records. Other programs' lines, which name no schema, are not looked at.

    Raises:
        ValueError: a path does not exist, or there is no file of records.
    """
    files = list(dict.fromkeys(file for path in paths for file in _files(path)))
    if not files:
        raise ValueError(
            f"{units.listing([str(path) for path in paths]) or 'no path'} holds no records: "
            "expected .jsonl files as `python -m train compare` writes them"
        )
    runs, problems = 0, []
    for file in files:
        lines = file.read_bytes().split(b"\n")
        found, wrong = _read(lines)
        wrong += [problem for run in found for problem in check_run(run)]
        wrong += [*_twice(found), *_machine_paths(lines)]
        runs += len(found)
        problems += [f"{file}, line {number}: {text}" for number, text in sorted(wrong)]
    return Checked(len(files), runs, tuple(problems))


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return [file for file in sorted(path.rglob("*.jsonl")) if b'"schema"' in file.read_bytes()]
    if not path.exists():
        raise ValueError(f"{path} does not exist: name files of records, or folders of them")
    return [path]


def _read(lines: Sequence[bytes]) -> tuple[list[RunLines], list[Problem]]:
    """The runs of a file, and its lines that are no records or are of no run."""
    runs: list[RunLines] = []
    problems: list[Problem] = []
    for number, line in enumerate(lines, 1):
        try:
            record = decode(line) if line.strip() else None
        except RecordError as error:
            problems.append((number, str(error)))
            continue
        if isinstance(record, RunRecord):
            runs.append(RunLines(number, record))
        elif isinstance(record, StepRecord | EvalRecord | FinalRecord):
            if runs:
                runs[-1].lines.append((number, record))
            else:
                problems.append((number, f"a record of kind {record.kind!r} before any run's"))
    return runs, problems


def _twice(runs: Sequence[RunLines]) -> Iterator[Problem]:
    first: dict[tuple[str, int | str], RunLines] = {}
    for found in runs:
        other = first.setdefault(found.identity, found)
        if other is not found:
            yield found.start, f"{found.run.name} is the run of line {other.start} again"


def _machine_paths(lines: Sequence[bytes]) -> Iterator[Problem]:
    for number, line in enumerate(lines, 1):
        try:
            texts = list(_strings(json.loads(line)))
        except (ValueError, RecursionError):
            continue
        yield from (
            (number, f"{text!r} names a folder of the machine")
            for text in texts
            if _MACHINE_PATH.search(text)
        )


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
