"""`stdlib`, `text:PATH`, ...: from the words of a source to the source."""

from __future__ import annotations

from train.data.documents import DataError, Source
from train.data.sources.builtin import StandardLibrary, Synthetic
from train.data.sources.files import JsonLines, TextFiles

SOURCE_FORMS = (
    "stdlib",
    "synthetic",
    "synthetic:SEED",
    "text:PATH",
    "jsonl:PATH",
    "parquet:PATH",
    "hf:OWNER/NAME[@REVISION][:PATTERN]",
    "bin:PATH",
)


def open_source(spec: str, text_column: str = "text") -> Source:
    """The source that a text such as `parquet:fineweb/*.parquet` names.

    Args:
      spec: One of `SOURCE_FORMS`.
      text_column: The field or column that holds the text, where there are several.

    Raises:
      DataError: If it is none of them, or `bin:PATH`, which holds no text.
    """
    kind, _, argument = spec.partition(":")
    match kind:
        case "stdlib" if spec == "stdlib":
            return StandardLibrary()
        case "synthetic":
            return Synthetic.from_spec(argument)
        case "text" if argument:
            return TextFiles(argument)
        case "jsonl" if argument:
            return JsonLines(argument, text_column)
        case "parquet" if argument:
            # Arrow takes a third of a second to import, which the other sources need not wait for.
            from train.data.sources.parquet import ParquetFiles

            return ParquetFiles(argument, text_column)
        case "hf" if argument:
            from train.data.sources.parquet import HubFiles

            return HubFiles.from_spec(argument, text_column)
        case "bin" if argument:
            raise DataError(
                f"{spec!r} holds tokens, which do not mix with text; give source and "
                "validation_source of one kind."
            )
    raise DataError(f"unknown source {spec!r}; write one of {', '.join(SOURCE_FORMS)}.")
