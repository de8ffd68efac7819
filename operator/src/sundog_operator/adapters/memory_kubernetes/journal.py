"""Stores the objects between runs in one SQLite file, for one process at a time."""

import fcntl
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import orjson

from sundog_operator.adapters.memory_kubernetes.field_ownership import FieldOwners
from sundog_operator.errors import DependencyError, SundogError
from sundog_operator.ports import KINDS, Ref

FORMAT = 1
# A watch from resourceVersion 0 may start at any version, so no object has version 0.
FIRST_REVISION = 1
_CORRUPTION = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)

_TABLES = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID",
    """CREATE TABLE objects (
        api_version TEXT, kind TEXT, namespace TEXT, name TEXT, created INTEGER, body BLOB, owners BLOB,
        PRIMARY KEY (api_version, kind, namespace, name)
    ) WITHOUT ROWID""",
)


class StateRefused(SundogError):
    """The state file is unusable: another process has it open, it is not a state file, or a newer version wrote it."""


class _Corrupt(sqlite3.DatabaseError):
    """SQLite's check of a file found an error."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


@dataclass(frozen=True, slots=True)
class JournalRow:
    """One stored object. `created` is the resourceVersion of its creation."""

    ref: Ref
    created: int
    body: bytes
    owners: FieldOwners


class ObjectJournal:
    """Writes each change to disk before it returns. Raises DependencyError when a write fails.

    Attributes:
        moved_to: where a corrupt file was moved when this one began; None where none was.
    """

    def __init__(self, path: Path) -> None:
        """Open or create the file, after moving a corrupt one aside. Raises StateRefused."""
        self._lock = _lock(path)
        self.moved_to: Path | None = None
        try:
            self._database = self._open(path)
            self.identity = self._text("identity")
            self.revision = int(self._text("revision"))
        except sqlite3.DatabaseError as error:
            self._lock.close()
            raise StateRefused(f"{path}: not a usable state file ({error})") from error
        except BaseException:
            self._lock.close()
            raise

    def rows(self) -> Iterator[JournalRow]:
        """Yield every stored object, oldest first."""
        kinds = {(kind.api_version, kind.kind): kind for kind in KINDS}
        columns = "api_version, kind, namespace, name, created, body, owners"
        for row in self._database.execute(f"SELECT {columns} FROM objects ORDER BY created"):  # noqa: S608 - constants
            api_version, kind, namespace, name, created, body, owners = row
            ref = Ref(kinds[api_version, kind], namespace, name)
            yield JournalRow(ref, created, body, _owners(owners))

    def put(self, revision: int, row: JournalRow) -> None:
        """Store one object at a resourceVersion."""
        with self._transaction(revision):
            self._database.execute(
                "INSERT OR REPLACE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?)",
                (*_key(row.ref), row.created, row.body, orjson.dumps(_plain(row.owners))),
            )

    def drop(self, revision: int, ref: Ref) -> None:
        """Remove one object at a resourceVersion."""
        with self._transaction(revision):
            self._database.execute(
                "DELETE FROM objects WHERE api_version = ? AND kind = ? AND namespace = ? AND name = ?", _key(ref)
            )

    def close(self) -> None:
        """Close and unlock the file."""
        self._database.close()
        self._lock.close()

    @contextmanager
    def _transaction(self, revision: int) -> Iterator[None]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("UPDATE meta SET value = ? WHERE key = 'revision'", (revision,))
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise DependencyError(f"the state file cannot be written: {error}") from error

    def _open(self, path: Path) -> sqlite3.Connection:
        try:
            return self._connect(path)
        except sqlite3.DatabaseError as error:
            if (getattr(error, "sqlite_errorcode", 0) & 0xFF) not in _CORRUPTION:
                raise
        self.moved_to = _move_aside(path)
        return self._connect(path)

    def _connect(self, path: Path) -> sqlite3.Connection:
        database = sqlite3.connect(path, isolation_level=None)
        try:
            path.chmod(0o600)
            _prepare(database, path)
        except BaseException:
            database.close()
            raise
        return database

    def _text(self, key: str) -> str:
        (value,) = self._database.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(value)


def _prepare(database: sqlite3.Connection, path: Path) -> None:
    # FULL syncs the log at each commit, so that an acknowledged write survives a power failure.
    database.execute("PRAGMA synchronous = FULL")
    (found,) = database.execute("PRAGMA user_version").fetchone()
    if found > FORMAT:
        raise StateRefused(
            f"{path}: state format {found}; expected at most {FORMAT}. Use a newer sundog or another state directory."
        )
    if found < FORMAT:
        _create(database)
    elif (problem := database.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise _Corrupt(problem)


def _create(database: sqlite3.Connection) -> None:
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("BEGIN IMMEDIATE")
    for statement in _TABLES:
        database.execute(statement)
    for key, value in (("identity", str(uuid.uuid4())), ("revision", FIRST_REVISION)):
        database.execute("INSERT INTO meta VALUES (?, ?)", (key, value))
    database.execute(f"PRAGMA user_version = {FORMAT}")
    database.execute("COMMIT")


def _lock(path: Path) -> TextIO:
    file = os.fdopen(os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600), "r+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = file.read().strip() or "unknown"
        file.close()
        raise StateRefused(f"{path}: in use by process {holder}. Stop it, or use another state directory.") from None
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _move_aside(path: Path) -> Path:
    """Rename a SQLite file with its log, so that a tool can still open it; return its new path."""
    kept = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
    for suffix in ("-wal", "-shm", ""):
        found = path.with_name(path.name + suffix)
        if found.exists():
            found.rename(kept.with_name(kept.name + suffix))
    return kept


def _key(ref: Ref) -> tuple[str, str, str, str]:
    return ref.kind.api_version, ref.kind.kind, ref.namespace, ref.name


def _plain(owners: FieldOwners) -> Mapping[str, list[list[str]]]:
    return {name: sorted(map(list, paths)) for name, paths in owners.items()}


def _owners(body: bytes) -> FieldOwners:
    return {name: frozenset(map(tuple, paths)) for name, paths in orjson.loads(body).items()}
