"""URLs of webhooks for display. Users, passwords and queries contain secrets, and so do the paths of some receivers."""

from urllib.parse import urlsplit

UNREADABLE_URL = "at an invalid URL"


def redact_url(url: str) -> str:
    """Return a URL without user, password, query and fragment."""
    return "".join(_parts(url))


def url_origin(url: str) -> str:
    """Return the scheme and host of a URL."""
    return _parts(url)[0]


def _parts(url: str) -> tuple[str, str]:
    """Return (origin, path)."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return UNREADABLE_URL, ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts.path
