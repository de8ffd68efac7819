"""The grammar of a model URI. It is strict, so that what was checked is what is opened.

    file:///path                                     a path of this machine
    pvc://claim/path                                 a path in a mounted volume
    https://host[:port]/path                         one file
    s3://bucket/key  gs://bucket/key                 an object, or all objects below `key/`
    hf://owner/name@commit[/path]                    a repository at one commit, or a part of it
    oci://registry[:port]/repository@sha256:digest   an artefact

Nothing is decoded, because an escape could hide a character from these checks. A branch, or an image's tag, may name
something else tomorrow, so it is accepted only together with `model.digest`.
"""

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from urllib.parse import urlsplit

from sundog_runtime.errors import LoadFailed, one_line

SCHEMES = ("file", "pvc", "https", "s3", "gs", "hf", "oci")

_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_AUTHORITY = re.compile(rf"(?P<host>{_LABEL}(\.{_LABEL})*|\[[0-9a-f:.]+\])(:(?P<port>[1-9][0-9]{{0,4}}))?")
_CLAIM = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
_WEB_PATH = re.compile(r"[A-Za-z0-9._~+=,:@/-]+")
_HUB = re.compile(
    r"(?P<repository>[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?)(@(?P<revision>[\w.-]{1,100})(/(?P<path>.+))?)?",
    re.ASCII,
)
_COMMIT = re.compile(r"[0-9a-f]{40}")
_ARTEFACT = re.compile(
    r"(?P<repository>[a-z0-9]+([._-]+[a-z0-9]+)*(/[a-z0-9]+([._-]+[a-z0-9]+)*)*)"
    r"(:(?P<tag>\w[\w.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class FileUri:
    """`file://` and an absolute path, taken literally: nothing is decoded."""

    path: PurePosixPath


@dataclass(frozen=True, slots=True)
class PvcUri:
    """A path, relative, in the volume of a claim."""

    claim: str
    path: PurePosixPath


@dataclass(frozen=True, slots=True)
class WebUri:
    """One file of a web server. `authority` is the host, with its port if it has one."""

    authority: str
    path: str


@dataclass(frozen=True, slots=True)
class BucketUri:
    """An object of a bucket, or all objects below it. `scheme` is s3 or gs; `key` has no slash at either end."""

    scheme: str
    bucket: str
    key: str
    directory: bool = field(repr=False)
    """Whether the URI ended in '/', so that it names no object. Not in the repr, which is the same with and without a slash."""


@dataclass(frozen=True, slots=True)
class HubUri:
    """A repository of a Hugging Face hub. If `revision` is not a full commit, the model has a digest beside the URI."""

    repository: str
    revision: str
    path: str


@dataclass(frozen=True, slots=True)
class ArtefactUri:
    """An artefact of an OCI registry. `digest` is that of its manifest; if it is empty, the model has one beside the URI."""

    authority: str
    repository: str
    tag: str
    digest: str


ModelUri = FileUri | PvcUri | WebUri | BucketUri | HubUri | ArtefactUri


def parse_uri(raw: str, digest: str = "") -> ModelUri:
    """Parse a plain URI of a scheme in SCHEMES. `digest` is `model.digest`. Raises LoadFailed for anything else."""
    if any(ord(char) < 0x20 or ord(char) == 0x7F for char in raw):
        raise LoadFailed("model.uri holds a control character")
    # `%` could hide a character from these checks; `?` and `#` begin a query and a fragment.
    if found := [char for char in "\\%?#" if char in raw]:
        raise LoadFailed(f"model.uri holds {found[0]!r}; a model's URI has no escapes, query or fragment")
    scheme, separator, rest = raw.partition("://")
    authority, slash, path = rest.partition("/")
    # In a hub's URI the commit follows an '@', also in a repository without owner.
    if "@" in (authority if separator else raw.partition("/")[0]) and (scheme != "hf" or ":" in authority):
        raise LoadFailed(
            "model.uri holds user information before '@'; expected none. Use credentials of the environment."
        )
    shown = one_line(raw, 200)
    if not separator or scheme not in SCHEMES:
        raise LoadFailed(f"model.uri {shown!r} does not begin with {_either(tuple(f'{name}://' for name in SCHEMES))}")
    _check_segments(scheme, slash + path, shown)
    match scheme:
        case "file":
            return _file(authority, path, shown)
        case "pvc":
            return _pvc(authority, path, shown)
        case "https":
            return _web(authority, path, shown)
        case "hf":
            return _hub(rest, digest, shown)
        case "oci":
            return _artefact(authority, path, digest, shown)
        case _:
            return _bucket(scheme, authority, path, shown)


def split_authority(authority: str) -> tuple[str, int | None]:
    """Return host, without the brackets of an IPv6 address, and port."""
    parts = urlsplit(f"//{authority}")
    return parts.hostname or "", parts.port


def _check_segments(scheme: str, path: str, shown: str) -> None:
    segments = path.removesuffix("/").split("/")[1:]
    if any(segment in ("", ".", "..") for segment in segments):
        raise LoadFailed(f"model.uri {shown!r} needs {_wanted(scheme)}, without empty, '.' or '..' segments")


def _wanted(scheme: str) -> str:
    return "an absolute path below '/'" if scheme == "file" else "a path"


def _file(authority: str, path: str, shown: str) -> FileUri:
    if authority:
        raise LoadFailed(f"model.uri {shown!r} names the host {authority!r}; write file:///path with three slashes")
    if not path:
        raise LoadFailed(f"model.uri {shown!r} needs {_wanted('file')}")
    return FileUri(PurePosixPath("/", path.removesuffix("/")))


def _pvc(claim: str, path: str, shown: str) -> PvcUri:
    if not _CLAIM.fullmatch(claim) or len(claim) > 253:
        raise LoadFailed(f"model.uri {shown!r} names the claim {claim!r}; expected pvc://claim/path")
    return PvcUri(claim, PurePosixPath(path.removesuffix("/")))


def _web(authority: str, path: str, shown: str) -> WebUri:
    _check_authority(authority, shown)
    if not path or path.endswith("/"):
        raise LoadFailed(
            f"model.uri {shown!r} names no file; https:// names one, such as https://host/model.safetensors"
        )
    if not _WEB_PATH.fullmatch(path):
        raise LoadFailed(f"model.uri {shown!r}: its path holds more than letters, digits and . _ ~ + = , : @ - /")
    return WebUri(authority, path)


def _bucket(scheme: str, bucket: str, path: str, shown: str) -> BucketUri:
    if not _BUCKET.fullmatch(bucket):
        raise LoadFailed(f"model.uri {shown!r} names the bucket {bucket!r}; expected {scheme}://bucket/key")
    if not path.removesuffix("/"):
        raise LoadFailed(f"model.uri {shown!r} names a whole bucket; expected {scheme}://bucket/key")
    return BucketUri(scheme, bucket, path.removesuffix("/"), path.endswith("/"))


def _hub(rest: str, digest: str, shown: str) -> HubUri:
    found = _HUB.fullmatch(rest.removesuffix("/"))
    if found is None:
        raise LoadFailed(
            f"model.uri {shown!r} is not of the form hf://owner/name@commit or hf://owner/name@commit/path"
        )
    revision = found["revision"] or ""
    if not _COMMIT.fullmatch(revision) and not digest:
        named = f"the revision {revision!r}" if revision else "no revision"
        raise LoadFailed(f"model.uri {shown!r} names {named}; expected a commit of 40 hex digits, or model.digest")
    return HubUri(found["repository"], revision, found["path"] or "")


def _artefact(authority: str, path: str, digest: str, shown: str) -> ArtefactUri:
    _check_authority(authority, shown)
    found = _ARTEFACT.fullmatch(path)
    if found is None:
        raise LoadFailed(f"model.uri {shown!r} is not of the form oci://registry/repository@sha256:<64 hex digits>")
    pinned = found["digest"] or ""
    if not pinned and not digest:
        named = f"the tag {found['tag']!r}" if found["tag"] else "no digest"
        raise LoadFailed(f"model.uri {shown!r} names {named}; expected @sha256:<64 hex digits>, or model.digest")
    if pinned and digest and pinned != digest:
        raise LoadFailed(f"model.uri pins {pinned}; model.digest is {digest}")
    return ArtefactUri(authority, found["repository"], found["tag"] or "", pinned or digest)


def _check_authority(authority: str, shown: str) -> None:
    found = _AUTHORITY.fullmatch(authority)
    if found is None or len(found["host"]) > 253 or int(found["port"] or 0) > 65535:
        raise LoadFailed(
            f"model.uri {shown!r} names the host {authority!r}; expected a lower-case host name, with a port or without"
        )


def _either(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
