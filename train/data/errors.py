"""The one error of the data pipeline: a sentence with the place and the way out."""

from __future__ import annotations

from pathlib import Path


class DataError(ValueError):
    """Something is wrong with the data, and the user can mend it.

    Args:
      message: One sentence: what is wrong and what to do about it.
      path: The file or folder it is about, put in front of the message.
      offset: Where in the file, counted from 0 in `unit`s, if that is known.
      unit: What `offset` counts: `"byte"`, `"row"` or `"token"`.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        offset: int | None = None,
        unit: str = "byte",
    ) -> None:
        place = "" if path is None else f"{path}: "
        if offset is not None:
            place = f"{path}, {unit} {offset}: "
        super().__init__(place + message)
        self.path = None if path is None else Path(path)
        self.offset = offset
        self.unit = unit


class UnfinishedError(DataError):
    """Preparing cannot go on now, but may later: what is finished of it is kept."""
