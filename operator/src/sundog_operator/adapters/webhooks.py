"""Posts JSON to the addresses that manifests name, over aiohttp, and to no other."""

import ipaddress
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import orjson
from yarl import URL

from sundog_operator.core.observed import WebhookResult

_HEADERS: Final = {"Content-Type": "application/json", "User-Agent": "sundog-operator"}
_METADATA: Final = frozenset(
    map(ipaddress.ip_address, ("168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"))
)
"""Where clouds hand out a node's credentials, beside 169.254.169.254, which is link-local."""
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_PUBLIC_V6: Final = ipaddress.IPv6Network("2000::/3")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
AddressInfo = tuple[Any, Any, int, str, tuple[Any, ...]]


class AddressForbidden(OSError):
    """An address that is not connected to."""


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Where webhooks may lead: to public addresses, and with a listed name to private ones. Nothing may lead to metadata of a cloud.

    Who writes a manifest must not make the operator ask what only the operator can reach.

    Attributes:
        hosts: names in lower case that may lead to private addresses.
        own_machine: any name may, and to loopback as well: local mode, where whoever writes a manifest is on this machine anyway.
    """

    hosts: frozenset[str] = frozenset()
    allow_loopback: bool = False

    def check(self, host: str, address: str) -> None:
        """Raises Forbidden where `host` must not be reached at `address`."""
        found = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
        if found in _METADATA or found.is_link_local or found.is_multicast or found.is_unspecified:
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
    """`ports.Webhooks`. Each post has a connection of its own, to an address that was looked at when it was connected to."""

    def __init__(self, reach: AddressPolicy) -> None:
        self._reach = reach

    async def post(self, url: str, document: Mapping[str, Any], timeout_s: float) -> WebhookResult:
        """See the port."""
        try:
            target = URL(url)
            connector = aiohttp.TCPConnector(
                force_close=True, use_dns_cache=False, socket_factory=self._sockets(target.host or "")
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

    def _sockets(self, host: str) -> Callable[[AddressInfo], socket.socket]:
        def make(info: AddressInfo) -> socket.socket:
            family, kind, protocol, _, place = info
            self._reach.check(host, str(place[0]))
            return socket.socket(family=family, type=kind, proto=protocol)

        return make


def describe_error(err: Exception, timeout_s: float) -> str:
    """Why there is no answer. The errors' own words have the address, with what is secret in it."""
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
            return "has a name that nobody knows"
        case aiohttp.ClientConnectorError():
            return "cannot be connected to"
        case ValueError() | aiohttp.InvalidURL():
            return "is no address that can be asked"
        case _:
            return f"broke off: {type(err).__name__}"


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, else itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address
