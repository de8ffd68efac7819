"""Open the store that `--store` names."""

from pathlib import Path
from urllib.parse import urlsplit

from sundog_edge.errors import SettingsError
from sundog_edge.feedback.sqlite_store import SqliteStore
from sundog_edge.feedback.store import OutcomeStore


def open_store(
    url: str, namespace: str, password_file: Path | None = None, username_file: Path | None = None
) -> OutcomeStore:
    """Return the store at `sqlite:///PATH` or `redis://HOST:PORT`, not yet connected. Raises SettingsError for another URL."""
    parts = urlsplit(url)
    # The path is not parsed as a URL: it may contain `?` and `#`.
    path = url.removeprefix("sqlite://")
    if path != url and path.startswith("/") and len(path) > 1:
        return SqliteStore(Path(path))
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme == "redis" and parts.hostname and port and not (parts.username or parts.password or parts.query):
        # Imported only if needed: the import of the Redis client is slow.
        from sundog_edge.feedback.redis_store import RedisStore

        return RedisStore(parts.hostname, port, password_file, namespace, username_file=username_file)
    shown = f"{parts.scheme}://…" if "@" in url else repr(url[:80])
    raise SettingsError(f"--store: found {shown}; expected sqlite:///PATH or redis://HOST:PORT")
