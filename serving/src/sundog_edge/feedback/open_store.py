"""Opens the store that an option names."""

from pathlib import Path
from urllib.parse import urlsplit

from sundog_edge.errors import SettingsError
from sundog_edge.feedback.sqlite_store import SqliteStore
from sundog_edge.feedback.store import OutcomeStore


def open_store(url: str, namespace: str, password_file: Path | None = None) -> OutcomeStore:
    """The store at `sqlite:///PATH` or `redis://HOST:PORT`. Raises SettingsError for another URL; nothing is connected yet."""
    parts = urlsplit(url)
    # As it stands: a path may have what a URL takes for a query or a fragment.
    path = url.removeprefix("sqlite://")
    if path != url and path.startswith("/") and len(path) > 1:
        return SqliteStore(Path(path))
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme == "redis" and parts.hostname and port and not (parts.username or parts.password or parts.query):
        # Only where it is asked for: the client of Redis takes a while to import.
        from sundog_edge.feedback.redis_store import RedisStore

        return RedisStore(parts.hostname, port, password_file, namespace)
    shown = f"{parts.scheme}://…" if "@" in url else repr(url[:80])
    raise SettingsError(f"--store {shown} is neither sqlite:///PATH nor redis://HOST:PORT")
