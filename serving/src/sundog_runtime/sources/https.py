"""`https://`: one file of a web server."""

from yarl import URL

from sundog_runtime.sources.archive import is_archive
from sundog_runtime.sources.limits import Limits
from sundog_runtime.sources.remote import Listing, Remote, retrying
from sundog_runtime.sources.uri import WebUri
from sundog_runtime.sources.web import Web


async def list_file(uri: WebUri, web: Web, limits: Limits) -> Listing:
    """Raises a StartError."""
    url = URL(f"https://{uri.authority}/{uri.path}", encoded=True)
    what, name = f"https://{uri.authority}/{uri.path}", uri.path.rpartition("/")[2]
    async for attempt in retrying(limits):
        with attempt:
            size, etag, ranged = await web.probe(url, what)
    remote = Remote(
        name,
        size,
        etag,
        lambda start, end: web.read(url, what, start, end, etag=etag, size=size),
        ranged=ranged,
        unpack=is_archive(name),
    )
    return Listing((remote,), name)
