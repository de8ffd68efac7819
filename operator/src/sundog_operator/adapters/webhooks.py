"""Posts JSON to the addresses that manifests name, over aiohttp, and to no other address."""

import ipaddress
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson
from yarl import URL

from sundog_operator.core.kubernetes import metadata_services
from sundog_operator.core.observed import WebhookResult

_HEADERS: Final = {"Content-Type": "application/json", "User-Agent": "sundog-operator"}
_PUBLIC_V6: Final = ipaddress.IPv6Network("2000::/3")

AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]


class AddressForbidden(OSError):
    """A webhook may not connect to this address."""


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """The addresses that webhooks may connect to: public ones, and private ones of listed hosts. Never metadata of a cloud.

    The author of a manifest must not make the operator send requests that only the operator can send.

    Attributes:
        hosts: names in lower case that may resolve to private addresses.
        allow_loopback: any name may resolve to private addresses and to loopback. For local mode, whose users have this machine anyway.
    """

    hosts: frozenset[str] = frozenset()
    allow_loopback: bool = False

    def check(self, host: str, address: str) -> None:
        """Raise AddressForbidden where webhooks must not reach `host` at `address`."""
        found = metadata_services.unwrap(ipaddress.ip_address(address.partition("%")[0]))
        if metadata_services.is_metadata(found) or found.is_link_local or found.is_multicast or found.is_unspecified:
            raise AddressForbidden("leads to a link-local, metadata or multicast address, which is forbidden")
        is_public = found.is_global and (isinstance(found, ipaddress.IPv4Address) or found in _PUBLIC_V6)
        if is_public or self.allow_loopback:
            return
        if found.is_loopback:
            raise AddressForbidden("leads to the operator's own pod, which is forbidden")
        if host.lower().rstrip(".") not in self.hosts:
            raise AddressForbidden(
                "leads to a private address; an administrator can list its host in installation.webhooks.hosts"
            )


class HttpWebhooks:
    """`ports.Webhooks`. Each post opens its own connection, and the address is checked when the socket is created."""

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy

    async def post(self, url: str, document: Mapping[str, Any], timeout_s: float) -> WebhookResult:
        """See the port."""
        try:
            target = URL(url)
            connector = aiohttp.TCPConnector(
                force_close=True, use_dns_cache=False, socket_factory=self._socket_factory(target.host or "")
            )
            async with (
                aiohttp.ClientSession(
                    connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(timeout_s)
                ) as session,
                session.post(target, data=orjson.dumps(document), headers=_HEADERS, allow_redirects=False) as response,
            ):
                return WebhookResult(response.status)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as err:
            return WebhookResult(problem=describe_error(err, timeout_s))

    def _socket_factory(self, host: str) -> Callable[[AddressInfo], socket.socket]:
        def make(info: AddressInfo) -> socket.socket:
            family, kind, protocol, _, place = info
            self._policy.check(host, str(place[0]))
            return socket.socket(family=family, type=kind, proto=protocol)

        return make


def describe_error(err: Exception, timeout_s: float) -> str:
    """Return why there is no answer. The errors' own texts hold the address, which may contain secrets."""
    match err:
        case TimeoutError():
            return f"did not answer within {timeout_s:g} s"
        case aiohttp.ClientConnectorError(os_error=AddressForbidden() as forbidden):
            return str(forbidden)
        case aiohttp.ClientConnectorCertificateError():
            return "shows a certificate that is not trusted"
        case aiohttp.ClientSSLError():
            return "does not speak TLS"
        case aiohttp.ClientConnectorDNSError():
            return "has a host name that DNS does not resolve"
        case aiohttp.ClientConnectorError():
            return "cannot be connected to"
        case ValueError() | aiohttp.InvalidURL():
            return "is not a valid URL"
        case _:
            return f"broke off: {type(err).__name__}"
