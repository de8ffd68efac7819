"""`https://`: one file of a web server."""

from yarl import URL

from sundog_runtime.sources.archive import is_archive
from sundog_runtime.sources.download_limits import DownloadLimits
from sundog_runtime.sources.http_session import WebSession
from sundog_runtime.sources.listing import ModelListing, RemoteObject, retry
from sundog_runtime.sources.uri import WebUri


async def list_file(uri: WebUri, web: WebSession, limits: DownloadLimits) -> ModelListing:
    """List the one file. Raises a StartError."""
    url = URL(f"https://{uri.authority}/{uri.path}", encoded=True)
    what, name = f"https://{uri.authority}/{uri.path}", uri.path.rpartition("/")[2]
    size, etag, supports_ranges = await retry(limits, lambda: web.probe(url, what))
    remote = RemoteObject(
        name,
        size,
        etag,
        lambda start, end: web.read(url, what, start, end, etag=etag, size=size),
        supports_ranges=supports_ranges,
        unpack=is_archive(name),
    )
    return ModelListing((remote,), name)
