"""Damage to a database file."""

from pathlib import Path


def garbage(path: Path) -> bytes:
    """Make a file no database; return its content."""
    path.write_bytes(b"this is no database" * 100)
    return path.read_bytes()


def overwritten(path: Path) -> bytes:
    """Overwrite the pages behind the first, as a failing disk does: the file still opens. Return its content."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\x5a" * (len(content) - 4096))
    return path.read_bytes()
