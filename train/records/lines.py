"""The records of a run: one JSON object a line, written by the loop and read by the report.

A run folder holds ``records.jsonl``: one ``run`` line, then ``step``, ``eval`` and ``spike`` lines,
then one ``final`` line. A comparison folder adds ``costs.jsonl`` with one ``cost`` line per
optimizer. A file of many runs has them one after the other (`train.records.files`). Every line
carries its kind and the schema's version.
"""

import errno
import json
import logging
import os
import typing
from collections.abc import Callable
from pathlib import Path

from train.host.files import write_whole
from train.host.typed_json import from_json, to_json
from train.records.kinds import (
    CostRecord,
    DataSummary,
    EvalRecord,
    FinalRecord,
    ModelSummary,
    Record,
    RunRecord,
    SpikeRecord,
    StepRecord,
)

__all__ = [
    "SCHEMA",
    "CostRecord",
    "DataSummary",
    "EvalRecord",
    "FinalRecord",
    "ModelSummary",
    "Record",
    "RecordError",
    "RecordWriter",
    "RunRecord",
    "SpikeRecord",
    "StepRecord",
    "decode",
    "encode",
    "numbered_records",
    "read_records",
]

SCHEMA = 1
_log = logging.getLogger(__name__)


class RecordError(ValueError):
    """A record that cannot be read; the message names the file and the line."""


class _TornLineError(RecordError):
    """A line that is no JSON at all, such as a killed writer leaves at the end."""


_KINDS: dict[str, type[Record]] = {cls.kind: cls for cls in typing.get_args(Record)}


def encode(record: Record) -> bytes:
    """One whole line of strict JSON, newline included."""
    fields = {"kind": record.kind, "schema": SCHEMA, **to_json(record)}
    return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def decode(line: bytes) -> Record:
    """The record of one line.

    Fields that this version does not know are passed over, so that a later one may add some.

    Raises:
        RecordError: the line is no JSON object, of another schema or kind, or a field is missing
            or of the wrong type.
    """
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _TornLineError(f"not a whole JSON line ({error})") from error
    if not isinstance(fields, dict):
        raise RecordError("a record is a JSON object")
    if fields.get("schema") != SCHEMA:
        raise RecordError(f"schema is {fields.get('schema')!r:.80}, this version reads {SCHEMA}")
    kind = fields.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise RecordError(f"kind is {kind!r:.80}, allowed are {', '.join(_KINDS)}")
    try:
        return from_json(fields, _KINDS[kind], kind)
    except (ValueError, OverflowError) as error:
        raise RecordError(str(error)) from error


def read_records(path: Path, *, notice: Callable[[str], None] = _log.warning) -> list[Record]:
    """All records of a file, in order.

    A last line without its newline that is no JSON is what a killed writer leaves behind: it is
    passed over, and ``notice`` gets one sentence that names the file and the line.

    Raises:
        RecordError: another line cannot be read, naming the file and the line.
    """
    return [record for _, record in numbered_records(path, notice=notice)]


def numbered_records(
    path: Path, *, notice: Callable[[str], None] = _log.warning
) -> list[tuple[int, Record]]:
    """As `read_records`, each with the number of its line, the first being 1."""
    return [(number, record) for number, _, record in _read_lines(path, notice)]


def _read_lines(path: Path, notice: Callable[[str], None]) -> list[tuple[int, bytes, Record]]:
    # Split at newlines alone: str.splitlines also splits at characters that a JSON string may hold.
    lines = path.read_bytes().split(b"\n")
    read: list[tuple[int, bytes, Record]] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            read.append((number, line + b"\n", decode(line)))
        except RecordError as error:
            if not isinstance(error, _TornLineError) or number < len(lines):
                raise RecordError(f"{path}, line {number}: {error}") from error
            notice(f"{path}, line {number}: skipped a half-written record")
    return read


class RecordWriter:
    """Appends records to a file, each as one whole line that outlives the process.

    Attributes:
        kept: the records that were in the file already and stay, in order. Whoever resumes finds
            here whether the run's first line is written and what the last losses were.
    """

    def __init__(self, path: Path, *, resume_after_step: int | None = None) -> None:
        """Opens ``path``, drops what a killed writer left behind, and keeps the rest.

        Args:
            path: the file; its folder is made when missing.
            resume_after_step: the step of the checkpoint that training goes on from. Records of
                steps after it, and a final record, are dropped: they will be written again. None
                keeps every record.

        Raises:
            RecordError: a line other than the last cannot be read; the file is left as it was.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = _read_lines(path, _log.warning) if path.exists() else []
        if resume_after_step is not None:
            lines = [line for line in lines if _precedes(line[-1], resume_after_step)]
        self.kept = tuple(record for *_, record in lines)
        whole = b"".join(line for _, line, _ in lines)
        if path.exists() and path.read_bytes() != whole:
            write_whole(path, whole)
        # Unbuffered: a line is one system call, so a killed process has written it or it has not.
        self._file = path.open("ab", buffering=0)

    def write(self, record: Record) -> None:
        """Appends one record.

        Raises:
            OSError: the line could not be written whole (the disk is full); nothing of it stays.
        """
        line = encode(record)
        start = self._file.seek(0, os.SEEK_END)
        if self._file.write(line) != len(line):
            self._file.truncate(start)
            raise OSError(errno.ENOSPC, "no room for a whole record", str(self._file.name))

    def sync(self) -> None:
        """Waits until every record is on the disk; call it before a checkpoint counts as saved."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> "RecordWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _precedes(record: Record, step: int) -> bool:
    """Whether a run resumed after ``step`` will not write this record again."""
    if isinstance(record, StepRecord | EvalRecord | SpikeRecord):
        return record.step <= step
    return not isinstance(record, FinalRecord)
