"""The grammar of a model URI. It is strict, so that what was checked is what is opened."""

from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from sundog_runtime.errors import LoadFailed, one_line

SCHEMES = ("file",)


@dataclass(frozen=True, slots=True)
class FileUri:
    """`file://` and an absolute path, taken literally: nothing is decoded."""

    path: PurePosixPath


def parse_uri(raw: str) -> FileUri:
    """Raises LoadFailed for anything but a plain URI of a scheme in SCHEMES."""
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in raw):
        raise LoadFailed("model.uri holds a control character")
    # `%` could hide a character from these checks; `?` and `#` begin a query and a fragment.
    if found := [char for char in "\\%?#" if char in raw]:
        raise LoadFailed(f"model.uri holds {found[0]!r}; a model's URI has no escapes, query or fragment")
    parts = urlsplit(raw)
    if "@" in parts.netloc:
        raise LoadFailed("model.uri holds user information before '@'; credentials do not belong into a URI")
    shown = one_line(raw, 200)
    if parts.scheme not in SCHEMES or not raw.startswith(f"{parts.scheme}://"):
        raise LoadFailed(f"model.uri {shown!r} does not begin with {' or '.join(f'{name}://' for name in SCHEMES)}")
    if parts.netloc:
        raise LoadFailed(f"model.uri {shown!r} names the host {parts.netloc!r}; write file:///path with three slashes")
    segments = parts.path.removesuffix("/").split("/")[1:]
    if not segments or any(segment in ("", ".", "..") for segment in segments):
        raise LoadFailed(f"model.uri {shown!r} needs an absolute path below '/', without empty, '.' or '..' segments")
    return FileUri(PurePosixPath("/", *segments))
