"""Options that take an HTTP address, and path options that reject one."""

import re
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


def validate_http_url(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Return the value of an option if it is an HTTP address. Raises UsageError otherwise."""
    if value is None or _is_http(value):
        return value
    raise click.UsageError(f"{parameter.opts[0]} {value!r}: expected an address such as http://HOST:PORT", context)


def _is_http(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").encode("idna")
        # urlsplit checks the port only on access.
        _ = parts.port
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(host) and text.isprintable() and " " not in text


class LocalPath(click.Path):
    """An existing path, or with `allow_dash` standard input. An address gets its own error, not "does not exist"."""

    def __init__(self, *, allow_dash: bool = False) -> None:
        super().__init__(exists=True, path_type=Path, allow_dash=allow_dash)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path. Fails as click does."""
        if isinstance(value, str) and _SCHEME.match(value) and not Path(value).exists():
            kinds = "a file, a folder, or - for standard input" if self.allow_dash else "a file or a folder"
            self.fail(f"{value!r} is an address; expected {kinds}", param, ctx)
        return super().convert(value, param, ctx)
