"""How addresses outside are named where others read it: secrets are in users, passwords and queries, and of some receivers in paths."""

from urllib.parse import urlsplit

UNREADABLE_URL = "at an address that cannot be read"


def redact_url(url: str) -> str:
    """A URL without user, password, query and fragment."""
    return "".join(_parts(url))


def url_origin(url: str) -> str:
    """Its scheme and host alone."""
    return _parts(url)[0]


def _parts(url: str) -> tuple[str, str]:
    """Origin and path."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return UNREADABLE_URL, ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", parts.path
