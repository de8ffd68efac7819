"""The listing of a bucket, page by page, as S3 has it and Google's storage too: what is asked, and the XML that is answered."""

from dataclasses import dataclass
from typing import NoReturn
from urllib.parse import quote, urlencode
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser

from sundog_runtime.errors import LoadFailed

_ROOT = "ListBucketResult"


@dataclass(frozen=True, slots=True)
class BucketObject:
    """An object: its whole key, its bytes, and its ETag as it is sent with it, in quotes."""

    key: str
    size: int
    etag: str


@dataclass(frozen=True, slots=True)
class ListingPage:
    """Some of the objects. `following` is what the next page is asked by, empty after the last one."""

    objects: tuple[BucketObject, ...]
    following: str


def page_query(prefix: str, following: str = "") -> str:
    """The query of a page of all keys that begin with `prefix`, percent-encoded as signatures want it."""
    asked = {"list-type": "2", "prefix": prefix, **({"continuation-token": following} if following else {})}
    return urlencode(asked, quote_via=quote, safe="")


def parse_page(body: bytes, shown: str) -> ListingPage:
    """Raises LoadFailed for what is no page of a listing, and shows nothing of it. `shown` names what was listed."""
    parser = XMLParser(target=_WithoutDoctype())  # noqa: S314 - what makes XML dangerous is declared in document types
    try:
        parser.feed(body)
        return _page(parser.close())
    except (ParseError, ValueError, LookupError):
        raise LoadFailed(f"{shown}: what the store sent is no listing") from None


class _WithoutDoctype(TreeBuilder):
    """A listing has none, and by one a few bytes could become gigabytes."""

    def doctype(self, name: str, *_: str | None) -> NoReturn:
        """Raises ValueError."""
        raise ValueError(f"a document type {name!r}")


def _page(root: Element) -> ListingPage:
    # Some stores answer in Amazon's namespace, some in none.
    if root.tag.rpartition("}")[2] != _ROOT:
        raise ValueError("another document")
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
    """As the header has it: not all stores give it quotes here."""
    found = item.findtext("{*}ETag", "")
    return f'"{found}"' if found and not found.endswith('"') else found
