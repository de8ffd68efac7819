"""The store of one machine: a SQLite file that every edge of the machine may open."""

import asyncio
import fcntl
import logging
import os
import sqlite3
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from sundog_edge.errors import StoreUnavailable
from sundog_edge.feedback.join import (
    EVENTS,
    STREAM_EVENTS,
    FirstExposure,
    OutcomeBatch,
    StoreChange,
    StoredState,
    join,
)
from sundog_edge.feedback.store import (
    COLLECTIONS,
    PAGE_ROWS,
    RETENTION_S,
    ExportedExposure,
    ExportedOutcome,
    StoreSnapshot,
    pack_unit,
    unpack_unit,
)

LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_BUSY_S = 5.0
_CORRUPTION = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS store (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS attempts (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, named REAL NOT NULL);
CREATE TABLE IF NOT EXISTS tally (attempt INTEGER, name TEXT, value TEXT NOT NULL, PRIMARY KEY (attempt, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS units
    (attempt INTEGER, unit BLOB, us INTEGER NOT NULL, epoch INTEGER NOT NULL, arm TEXT NOT NULL, PRIMARY KEY (attempt, unit)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS keys (attempt INTEGER, key BLOB, PRIMARY KEY (attempt, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS totals
    (attempt INTEGER, unit BLOB, metric TEXT, total TEXT NOT NULL, PRIMARY KEY (attempt, unit, metric)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events
    (attempt INTEGER, number INTEGER, unit BLOB, metric TEXT, epoch INTEGER, arm TEXT, value INTEGER, seconds INTEGER,
     PRIMARY KEY (attempt, number)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS properties
    (attempt INTEGER, number INTEGER, properties TEXT NOT NULL, PRIMARY KEY (attempt, number)) WITHOUT ROWID;
CREATE TRIGGER IF NOT EXISTS properties_of_removed_events AFTER DELETE ON events
    BEGIN DELETE FROM properties WHERE attempt = old.attempt AND number = old.number; END;
"""
# Edges of an earlier release insert events by the number of columns, so `properties` is a table. They run the trigger too.
_OF_NAMED_ATTEMPT = "attempt = (SELECT number FROM attempts WHERE name = ?)"
_EXPOSURES = f"SELECT unit, us, epoch, arm FROM units WHERE {_OF_NAMED_ATTEMPT} AND unit > ? ORDER BY unit LIMIT ?"  # noqa: S608
_OUTCOMES = f"""SELECT number, unit, metric, epoch, arm, value, seconds, IFNULL(properties, '')
    FROM events LEFT JOIN properties USING (attempt, number)
    WHERE {_OF_NAMED_ATTEMPT} AND number > ? ORDER BY number LIMIT ?"""  # noqa: S608 - constant text


class SqliteStore:
    """An `OutcomeStore`. One thread has the connection. After an error, the next call opens the file again.

    A corrupt file is moved aside, and a new one begins. Its other id shows the operator that the earlier outcomes are missing.
    """

    def __init__(self, path: Path, stream_events: int = STREAM_EVENTS) -> None:
        self._path = path
        self._stream_events = stream_events
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feedback-store")
        self._connection: sqlite3.Connection | None = None
        self._is_suspect = False

    async def write(self, attempt: str, batch: OutcomeBatch) -> list[str]:
        """Implement `OutcomeStore`."""
        return await self._run(lambda: self._write(attempt, batch))

    async def read(self, attempts: Collection[str]) -> StoreSnapshot:
        """Implement `OutcomeStore`."""
        return await self._run(lambda: self._read(tuple(attempts)))

    async def name(self, attempts: Collection[str], now: float) -> None:
        """Implement `OutcomeStore`."""
        await self._run(lambda: self._name(tuple(attempts), now))

    async def exposures(self, attempt: str) -> AsyncIterator[ExportedExposure]:
        """Implement `OutcomeStore`."""
        after = b""
        while page := await self._page(_EXPOSURES, attempt, after):
            for unit, *first in page:
                yield ExportedExposure(unpack_unit(unit), *first)
            after = page[-1][0]

    async def outcomes(self, attempt: str) -> AsyncIterator[ExportedOutcome]:
        """Implement `OutcomeStore`."""
        after = 0
        while page := await self._page(_OUTCOMES, attempt, after):
            for _, unit, *outcome in page:
                yield ExportedOutcome(unpack_unit(unit), *outcome)
            after = page[-1][0]

    async def _page(self, query: str, attempt: str, after: bytes | int) -> list[tuple[Any, ...]]:
        def read() -> list[tuple[Any, ...]]:
            with self._transaction() as connection:
                return connection.execute(query, (attempt, after, PAGE_ROWS)).fetchall()

        return await self._run(read)

    async def close(self) -> None:
        """Implement `OutcomeStore`."""
        await self._run(self._close)
        self._thread.shutdown()

    async def _run(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    def _guarded(self, work: Callable[[], _T]) -> _T:
        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            # The next call opens the file again, whatever the error.
            self._close()
            self._is_suspect |= _is_corruption(error)
            raise StoreUnavailable(f"feedback store {self._path}: {error}") from None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection = self._connection or self._open()
        # Other writers wait here. Without IMMEDIATE they would fail half way, at a write after a read.
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def _open(self) -> sqlite3.Connection:
        # The switch to SQLite's write-ahead log does not wait: if several edges opened a new file at once, all but one would fail.
        with _lock(self._path.with_name(f"{self._path.name}.lock")):
            try:
                return self._connect()
            except sqlite3.Error as error:
                if not _is_corruption(error):
                    raise
                kept = _move_aside(self._path)
                LOG.warning("feedback store %s: %s; moved to %s, and a new store begins", self._path, error, kept)
                return self._connect()

    def _connect(self) -> sqlite3.Connection:
        # Only touched: closing a file drops all locks of the process on it, including SQLite's.
        self._path.touch(0o600)
        connection = sqlite3.connect(self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # Reads the whole file, so only after an error. Another edge may have moved the corrupt file already.
            if self._is_suspect:
                _check_file(connection)
            self._is_suspect = False
            connection.execute("PRAGMA synchronous = FULL")
            connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            connection.execute(
                "INSERT INTO store SELECT ? WHERE NOT EXISTS (SELECT 1 FROM store)", (uuid.uuid4().hex[:16],)
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _write(self, attempt: str, batch: OutcomeBatch) -> list[str]:
        with self._transaction() as connection:
            number = _number(connection, attempt)
            known = _known(connection, number, batch)
            change = join(batch, known)
            self._apply(connection, number, change, known.tally.get(EVENTS, 0))
        return change.results

    def _apply(self, connection: sqlite3.Connection, number: int, change: StoreChange, events: int) -> None:
        connection.executemany(
            "INSERT INTO units VALUES (?, ?, ?, ?, ?)",
            ((number, pack_unit(unit), *first) for unit, first in change.firsts.items()),
        )
        connection.executemany("INSERT INTO keys VALUES (?, ?)", ((number, key) for key in change.keys))
        connection.executemany(
            "REPLACE INTO totals VALUES (?, ?, ?, ?)",
            ((number, pack_unit(unit), metric, str(total)) for (unit, metric), total in change.totals.items()),
        )
        connection.executemany(
            "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (number, place, pack_unit(event.unit), event.metric, first.epoch, first.arm, event.value, event.seconds)
                for place, (event, first) in enumerate(change.events, events + 1)
            ),
        )
        connection.executemany(
            "INSERT INTO properties VALUES (?, ?, ?)",
            (
                (number, place, event.properties)
                for place, (event, _) in enumerate(change.events, events + 1)
                if event.properties
            ),
        )
        newest = events + len(change.events)
        connection.execute(
            "DELETE FROM events WHERE attempt = ? AND number <= ?", (number, newest - self._stream_events)
        )
        connection.executemany(
            "REPLACE INTO tally VALUES (?, ?, ?)", ((number, name, str(value)) for name, value in change.tally.items())
        )
        connection.executemany(
            "DELETE FROM tally WHERE attempt = ? AND name = ?", ((number, name) for name in change.cleared)
        )

    def _read(self, attempts: tuple[str, ...]) -> StoreSnapshot:
        with self._transaction() as connection:
            (own,) = connection.execute("SELECT id FROM store").fetchone()
            # A read adds no attempt: any reader of evidence may ask for any name.
            return StoreSnapshot(own, {name: _tally(connection, _find_number(connection, name)) for name in attempts})

    def _name(self, attempts: tuple[str, ...], now: float) -> None:
        with self._transaction() as connection:
            for name in attempts:
                connection.execute("UPDATE attempts SET named = ? WHERE number = ?", (now, _number(connection, name)))
            connection.execute("UPDATE attempts SET named = ? WHERE named = 0", (now,))
            forgotten = connection.execute(
                "SELECT number FROM attempts WHERE named < ?", (now - RETENTION_S,)
            ).fetchall()
            # At once is faster than by the trigger.
            for table in ("properties", *COLLECTIONS):
                connection.executemany(f"DELETE FROM {table} WHERE attempt = ?", forgotten)  # noqa: S608 - constant names
            connection.executemany("DELETE FROM attempts WHERE number = ?", forgotten)


class _Corrupt(sqlite3.DatabaseError):
    """SQLite's check of a file found an error."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


def _check_file(connection: sqlite3.Connection) -> None:
    """Read the whole file. Raises sqlite3.DatabaseError if it is damaged."""
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise _Corrupt(found)


def _is_corruption(error: Exception) -> bool:
    """Whether the file itself is damaged: no lock, no full disk, no missing permission."""
    # The low byte is the error, the others are its details.
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _CORRUPTION


def _move_aside(path: Path) -> Path:
    """Rename a SQLite file with its log, so that a tool can still open it; return its new path."""
    kept = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
    for suffix in ("-wal", "-shm", ""):
        found = path.with_name(path.name + suffix)
        if found.exists():
            found.rename(kept.with_name(kept.name + suffix))
    return kept


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _number(connection: sqlite3.Connection, attempt: str) -> int:
    connection.execute("INSERT OR IGNORE INTO attempts (name, named) VALUES (?, 0)", (attempt,))
    return _find_number(connection, attempt)


def _find_number(connection: sqlite3.Connection, attempt: str) -> int:
    """Return the number of an attempt; 0, which no attempt has, before its first write."""
    found = connection.execute("SELECT number FROM attempts WHERE name = ?", (attempt,)).fetchone()
    return int(found[0]) if found else 0


def _known(connection: sqlite3.Connection, number: int, batch: OutcomeBatch) -> StoredState:
    keys = {
        event.key
        for event in batch.events
        if connection.execute("SELECT 1 FROM keys WHERE attempt = ? AND key = ?", (number, event.key)).fetchone()
    }
    firsts = {}
    for unit in batch.units:
        row = connection.execute(
            "SELECT us, epoch, arm FROM units WHERE attempt = ? AND unit = ?", (number, pack_unit(unit))
        ).fetchone()
        if row is not None:
            firsts[unit] = FirstExposure(*row)
    totals = {}
    for unit, metric in batch.totals:
        row = connection.execute(
            "SELECT total FROM totals WHERE attempt = ? AND unit = ? AND metric = ?", (number, pack_unit(unit), metric)
        ).fetchone()
        if row is not None:
            totals[unit, metric] = int(row[0])
    return StoredState(keys, firsts, totals, _tally(connection, number))


def _tally(connection: sqlite3.Connection, number: int) -> dict[str, int]:
    rows = connection.execute("SELECT name, value FROM tally WHERE attempt = ?", (number,))
    return {name: int(value) for name, value in rows}
