"""Whether files of records hold together, before they go into a repository or a table.

Nothing is changed. What must hold of a run: the order of its lines, and numbers that must agree; of
a file: that every line is a record, that no two runs are the same, and that nothing tells of the
machine's folders.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.config.plain import config_hash
from train.host import units
from train.records.lines import EvalRecord, FinalRecord, RecordError, RunRecord, StepRecord, decode

_COMMIT = re.compile(r"[0-9a-f]{7,40}")
_IN_CONFIG = ("seed", "steps", "batch_size", "context")
_REL_TOL = 1e-6  # of numbers that are computed from one another

Problem = tuple[int, str]  # a line's number, and what is wrong with it
Numbered = StepRecord | EvalRecord | FinalRecord


@dataclass
class RunLines:
    """A run's first line, and those after it, each with its number in the file."""

    start: int
    run: RunRecord
    lines: list[tuple[int, Numbered]] = field(default_factory=list)

    @property
    def identity(self) -> tuple[str, int | str]:
        """What no two runs of a file may share: optimizer and seed, or a trial's number."""
        is_trial = re.fullmatch(rf"{re.escape(self.run.optimizer)}/\d+", self.run.name)
        return self.run.optimizer, self.run.name if is_trial else self.run.seed


def check_run(found: RunLines) -> Iterator[Problem]:
    """What is wrong with a run."""
    diverged = any(line.diverged for _, line in found.lines if isinstance(line, FinalRecord))
    yield from ((found.start, text) for text in _check_first(found.run))
    yield from _check_order(found)
    for number, line in found.lines:
        for text in _check_numbers(line, found.run, diverged):
            yield number, text
    if not diverged:
        yield from _check_end(found)


def _check_first(run: RunRecord) -> Iterator[str]:
    if not _COMMIT.fullmatch(run.commit):
        yield f"commit is {run.commit!r}, which is no commit: of a clean clone it is hexadecimal"
    if not run.config:
        return
    found = config_hash(run.config)
    if found != run.config_hash:
        yield f"config_hash is {run.config_hash!r}, and that of its config {found!r}"
    for name in _IN_CONFIG:
        if run.config.get(name) != getattr(run, name):
            yield f"{name} is {getattr(run, name)}, and {run.config.get(name)} in its config"


def _check_order(found: RunLines) -> Iterator[Problem]:
    for kind in (StepRecord, EvalRecord):
        own = [(number, line) for number, line in found.lines if isinstance(line, kind)]
        for (_, before), (number, line) in itertools.pairwise(own):
            if line.step <= before.step:
                yield number, f"step {line.step} is after step {before.step}"
    if not any(isinstance(line, EvalRecord) for _, line in found.lines):
        yield found.start, f"{found.run.name} has no evaluation"
    finals = [number for number, line in found.lines if isinstance(line, FinalRecord)]
    if len(finals) != 1:
        yield found.start, f"{found.run.name} has {len(finals)} final lines, expected one"
    elif found.lines[-1][0] != finals[0]:
        yield finals[0], f"{found.run.name} goes on after its final line"


def _check_numbers(line: Numbered, run: RunRecord, diverged: bool) -> Iterator[str]:
    tokens = line.step * run.batch_size * run.context
    if line.tokens != tokens:
        yield f"tokens is {line.tokens}, and {line.step} steps make {tokens}"
    loss = line.val_loss if isinstance(line, FinalRecord) else line.loss
    if not math.isfinite(loss):
        # A guard leaves a bad step out and counts it.
        is_left_out = isinstance(line, StepRecord) and line.skipped > 0
        if not diverged and not is_left_out:
            yield f"the loss is {loss}, and the run has not diverged"
    elif not isinstance(line, StepRecord):
        bytes_per_token = run.data.bytes_per_token
        bits = loss / math.log(2) / bytes_per_token if bytes_per_token else math.inf
        if not math.isclose(line.bits_per_byte, bits, rel_tol=_REL_TOL):
            yield f"bits_per_byte is {line.bits_per_byte}, and the loss makes {bits}"


def _check_end(found: RunLines) -> Iterator[Problem]:
    last = next((line for _, line in reversed(found.lines) if isinstance(line, EvalRecord)), None)
    for number, line in found.lines:
        if isinstance(line, FinalRecord):
            if line.step != found.run.steps:
                yield number, f"it ended at step {line.step} of {found.run.steps}, not diverged"
            # Of a loss that is no number there is a sentence already, and this is false.
            if last and abs(line.val_loss - last.loss) > _REL_TOL * abs(last.loss):
                yield number, f"val_loss is {line.val_loss}, and the last evaluation {last.loss}"


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
