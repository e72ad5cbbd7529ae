"""What to train on: one frozen record, checked when it is made."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

PackingKind = Literal["windows", "documents"]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """A source of text, a tokenizer, and where the tokens are kept.

    Raises:
      ValueError: If a field is out of its range; the sources and tokenizers themselves are looked
        at by `prepare`.
    """

    source: str = "stdlib"
    """Where documents come from: `stdlib`, `synthetic`, `text:PATH`, `jsonl:PATH`, `parquet:PATH`
    (PATH is a file, a folder or a glob) or `hf:OWNER/NAME[@REVISION][:PATTERN]`; or `bin:PATH`,
    tokens that llm.c or modded-nanogpt wrote. Those are used where they lie, and of their files
    those with `val` in the name, such as `fineweb_val_000000.bin`, validate."""

    tokenizer: str = "bytes"
    """`bytes`, `gpt2:FOLDER`, `tokenizer:PATH` of a tokenizer.json, or `bpe:VOCAB_SIZE`, which is
    trained on the training documents. For `bin:PATH` it says what the tokens were made with."""

    validation_source: str | None = None
    """Where validation documents come from, if they are kept apart. Training documents that occur
    there as well are left out."""

    validation_fraction: float = 0.05
    """The share of the documents that is held out by a hash of their text. Not used where
    `validation_source` is given, nor for `bin:PATH`."""

    text_column: str = "text"
    """The field of a JSON line, or the column of a parquet file, that holds the text."""

    max_documents: int | None = None
    """Read only so many documents of `source`: a first try of something large."""

    shard_tokens: int = 2**26
    """The most tokens that one shard file holds."""

    packing: PackingKind = "windows"
    """What a row of a batch is: a window of the stream, which goes on from one document to the
    next; or whole documents, the longest first where they fit best, that do not see each other."""

    cache_dir: str = "cache/data"
    """The folder under which every prepared dataset has a folder of its own."""

    def __post_init__(self) -> None:
        """Refuses values that could never work."""
        if self.validation_source is None and not 0.0 < self.validation_fraction < 1.0:
            raise ValueError(
                f"validation_fraction is {self.validation_fraction}; it must lie between 0 and 1, "
                "or give a validation_source."
            )
        if self.max_documents is not None and self.max_documents < 1:
            raise ValueError(f"max_documents is {self.max_documents}; it must be at least 1.")
        if self.packing not in get_args(PackingKind):
            raise ValueError(f"packing is {self.packing!r}; it must be 'windows' or 'documents'.")
        if self.shard_tokens < 1:
            raise ValueError(f"shard_tokens is {self.shard_tokens}; it must be at least 1.")
