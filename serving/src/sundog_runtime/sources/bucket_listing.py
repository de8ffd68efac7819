"""The listing of a bucket, page by page, in the protocol of S3, which Google's storage has too: the query, and the XML answer."""

from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import quote, urlencode
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from sundog_runtime.errors import LoadFailed

_ROOT = "ListBucketResult"


@dataclass(frozen=True, slots=True)
class BucketObject:
    """An object: its whole key, its bytes (None if the store does not report them), and its ETag in quotes, as in the header.

    `supports_ranges`: whether it can be read from an offset.
    """

    key: str
    size: int | None
    etag: str
    supports_ranges: bool = True


@dataclass(frozen=True, slots=True)
class ListingPage:
    """Some of the objects. `continuation_token` requests the next page; it is empty after the last one."""

    objects: tuple[BucketObject, ...]
    continuation_token: str


def page_query(prefix: str, continuation_token: str = "") -> str:
    """Return the query for a page of all keys that begin with `prefix`, percent-encoded as signatures require."""
    fields = {"list-type": "2", "prefix": prefix}
    if continuation_token:
        fields["continuation-token"] = continuation_token
    return urlencode(fields, quote_via=quote, safe="")


def parse_page(body: bytes, shown: str) -> ListingPage:
    """Parse a page; `shown` names the bucket. Raises LoadFailed for anything else, without showing its content."""
    parser = XMLParser(target=_WithoutDoctype())  # noqa: S314 - what makes XML dangerous is declared in document types
    try:
        parser.feed(body)
        return _page(parser.close())
    except (ParseError, ValueError, LookupError):
        raise LoadFailed(f"{shown}: the store's answer is not a listing") from None


class _WithoutDoctype(TreeBuilder):
    """A tree builder that refuses document types: a listing has none, and in one a few bytes could become gigabytes."""

    def doctype(self, name: str, *_: str | None) -> NoReturn:
        """Raise ValueError."""
        raise ValueError(f"found a document type {name!r}")


def _page(root: Element) -> ListingPage:
    # Some stores answer in Amazon's namespace, some without a namespace.
    if root.tag.rpartition("}")[2] != _ROOT:
        raise ValueError("not a listing")
    objects = tuple(BucketObject(_text(item, "Key"), _size(item), _etag(item)) for item in root.iterfind("{*}Contents"))
    more = root.findtext("{*}IsTruncated", "").strip() == "true"
    return ListingPage(objects, _text(root, "NextContinuationToken") if more else "")


def _text(element: Element, name: str) -> str:
    found = element.findtext(f"{{*}}{name}")
    if not found:
        raise ValueError(f"no {name}")
    return found


def _size(item: Element) -> int:
    found = int(_text(item, "Size"))
    if found < 0:
        raise ValueError("a negative size")
    return found


def _etag(item: Element) -> str:
    """Return the ETag as the header has it: some stores omit the quotes here."""
    found = item.findtext("{*}ETag", "")
    return f'"{found}"' if found and not found.endswith('"') else found
