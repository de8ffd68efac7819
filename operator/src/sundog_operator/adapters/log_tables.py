"""Writes the tables of an exposure log as files: JSON lines, or Parquet where pyarrow is installed."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Protocol, Self

import orjson

from sundog_operator.core.experiments.exposure_log import LogRow
from sundog_operator.errors import SundogError

Format = Literal["jsonl", "parquet"]

ROWS_PER_BLOCK: Final = 10_000
"""Rows that are buffered before they are written; one row group in Parquet."""


class FormatMissing(SundogError):
    """A package that the format needs is not installed."""


class TableWriter(Protocol):
    """One file, which is complete once it is closed."""

    def write(self, rows: Sequence[LogRow]) -> None:
        """Append rows of the table's own type. Raises OSError."""

    def close(self) -> None:
        """Write the remaining rows and close the file. Raises OSError."""


class BufferedTable:
    """Adds rows to a table, which are written some thousands at a time. As a context manager it closes the table."""

    def __init__(self, table: TableWriter) -> None:
        self._table = table
        self._rows: list[LogRow] = []

    def add(self, row: LogRow) -> None:
        """Append one row. Raises OSError."""
        self._rows.append(row)
        if len(self._rows) >= ROWS_PER_BLOCK:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._table.write(self._rows)
            self._rows = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self._flush()
        finally:
            self._table.close()


def make_table(path: Path, form: Format, row: type[LogRow]) -> TableWriter:
    """Create a file for rows of that type. Raises FormatMissing, OSError."""
    return _JsonLines(path) if form == "jsonl" else _Parquet(path, row)


class _JsonLines:
    """One JSON object per row, with the names of its fields; times as in RFC 3339, without loss of digits."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, rows: Sequence[LogRow]) -> None:
        self._file.write(b"".join(orjson.dumps(row._asdict(), option=orjson.OPT_UTC_Z) + b"\n" for row in rows))

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Columns with the names of the fields; times in microseconds, in UTC."""

    def __init__(self, path: Path, row: type[LogRow]) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ModuleNotFoundError:
            raise FormatMissing("format parquet: pyarrow is not installed. Run pip install 'sundog[parquet]'") from None
        types = {str: pa.string(), float: pa.float64(), int: pa.int64(), datetime: pa.timestamp("us", "UTC")}
        self._schema = pa.schema([(name, types[kind]) for name, kind in row.__annotations__.items()])
        self._batch_of = pa.RecordBatch.from_pylist
        # Halves the size of hexadecimal hashes.
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, rows: Sequence[LogRow]) -> None:
        self._writer.write_batch(self._batch_of([row._asdict() for row in rows], schema=self._schema))

    def close(self) -> None:
        self._writer.close()
