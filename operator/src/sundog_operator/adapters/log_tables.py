"""Writes the tables of an exposure log as files: JSON lines, which may be compressed, or Parquet where pyarrow is installed."""

import gzip
from collections.abc import Sequence
from datetime import datetime
from io import BufferedIOBase
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Protocol, Self

import orjson

from sundog_operator.core.trial.experiment.exposure_log import (
    FORMAT_VERSION,
    PROPERTIES_COLUMN,
    FlagIdentity,
    LogRow,
    column_types,
    make_columns,
)
from sundog_operator.errors import SundogError

Format = Literal["jsonl", "jsonl.gz", "parquet"]
"""Format of a table; it ends the file's name."""

ROWS_PER_BLOCK: Final = 10_000
"""Rows that are buffered before they are written; one row group in Parquet."""

_VERSION_KEY: Final = "sundog.version"
_GZIP_LEVEL: Final = 1
"""Attributes that all rows share compress well at any level."""


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

    def add(self, row: LogRow) -> bool:
        """Append one row, and return whether the file grew. Raises OSError."""
        self._rows.append(row)
        if len(self._rows) < ROWS_PER_BLOCK:
            return False
        self._flush()
        return True

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


def make_table(path: Path, form: Format, row: type[LogRow], flag: FlagIdentity) -> TableWriter:
    """Create a file for rows of that type, of an Experiment. Raises FormatMissing, OSError."""
    return _Parquet(path, row, flag) if form == "parquet" else _JsonLines(path, flag, compressed=form == "jsonl.gz")


class _JsonLines:
    """One JSON object per row, with the names of the columns; times as in RFC 3339, without loss of digits, properties as an object."""

    def __init__(self, path: Path, flag: FlagIdentity, *, compressed: bool) -> None:
        self._flag = flag
        # `close` closes it.
        self._file: BufferedIOBase = gzip.open(path, "wb", _GZIP_LEVEL) if compressed else path.open("wb")  # noqa: SIM115

    def write(self, rows: Sequence[LogRow]) -> None:
        columns = make_columns(rows, self._flag)
        if own := columns.get(PROPERTIES_COLUMN):
            columns[PROPERTIES_COLUMN] = [*map(orjson.Fragment, own)]
        lines = (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True))
        self._file.write(b"".join(orjson.dumps(line, option=orjson.OPT_UTC_Z) + b"\n" for line in lines))

    def close(self) -> None:
        self._file.close()


class _Parquet:
    """Parquet columns; times in microseconds, in UTC. The version is also in the file's metadata, for a file without rows."""

    def __init__(self, path: Path, row: type[LogRow], flag: FlagIdentity) -> None:
        try:
            import pyarrow as pa
            from pyarrow import parquet
        except ModuleNotFoundError:
            raise FormatMissing("format parquet: pyarrow is not installed. Run pip install 'sundog[parquet]'") from None
        types = {str: pa.string(), float: pa.float64(), int: pa.int64(), datetime: pa.timestamp("us", "UTC")}
        fields = [(name, types[kind]) for name, kind in column_types(row).items()]
        self._flag = flag
        self._schema = pa.schema(fields, {_VERSION_KEY: str(FORMAT_VERSION)})
        self._batch_of = pa.RecordBatch.from_pydict
        # Halves the size of hexadecimal hashes.
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")

    def write(self, rows: Sequence[LogRow]) -> None:
        self._writer.write_batch(self._batch_of(make_columns(rows, self._flag), schema=self._schema))

    def close(self) -> None:
        self._writer.close()
