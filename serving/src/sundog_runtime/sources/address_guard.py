"""Where a model's URI may lead: to public addresses, and to what the administrator lists.

A manifest's author must not make the server ask what only the server can reach: its own ports, the cluster's, the
metadata service of its cloud. Names are resolved first, the addresses are checked, and exactly those are connected to.
"""

import ipaddress
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver

from sundog_runtime.errors import LoadFailed, SourceRefused

ALLOWED_HOSTS_VARIABLE = "SUNDOG_SOURCE_ALLOW_HOSTS"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_METADATA = frozenset(
    ipaddress.ip_address(address)
    for address in ("169.254.169.254", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254")
)
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
"""All that is given out as global unicast. What lies outside, such as translations of IPv4 that a network may route
(`::a.b.c.d`, `::ffff:0:a.b.c.d`, `64:ff9b:1::/48`), Python does not call private."""


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """The rules. A listed name may lead to private addresses, but only a listed network to a metadata service."""

    names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    def check(self, host: str, address: str) -> None:
        """Raises SourceRefused where `host` must not be reached at `address`. The message has the rule, no address."""
        found = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
        if any(found in network for network in self.networks):
            return
        if found in _METADATA or found.is_link_local or found.is_multicast or found.is_unspecified:
            raise SourceRefused(f"{host} leads to a link-local, metadata or multicast address, which is forbidden")
        is_public = found.is_global and (isinstance(found, ipaddress.IPv4Address) or found in _PUBLIC_V6)
        if not is_public and host not in self.names:
            raise SourceRefused(
                f"{host} leads to a private address; an administrator can list it in {ALLOWED_HOSTS_VARIABLE}"
            )

    def check_literal(self, host: str) -> None:
        """The same for a host that is an address itself and so is never resolved."""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            # Digits and dots that are no address are one to the system's resolver: 127.1, 2130706433.
            if host and not host.strip("0123456789."):
                raise SourceRefused(f"{host} is neither a name nor an address written in full") from None
            return
        self.check(host, host)

    def lists(self, host: str) -> bool:
        """Whether the administrator named exactly this host."""
        return host in self.names


def read_guard(environment: Mapping[str, str] = os.environ) -> AddressGuard:
    """Names and networks of SUNDOG_SOURCE_ALLOW_HOSTS, between commas. Raises LoadFailed."""
    names, networks = set(), []
    for item in filter(None, (item.strip().lower() for item in environment.get(ALLOWED_HOSTS_VARIABLE, "").split(","))):
        if "/" not in item:
            names.add(item)
            continue
        try:
            networks.append(ipaddress.ip_network(item))
        except ValueError:
            raise LoadFailed(
                f"{ALLOWED_HOSTS_VARIABLE} holds {item!r}, which is no network such as 10.0.0.0/8"
            ) from None
    return AddressGuard(frozenset(names), tuple(networks))


class GuardedResolver(AbstractResolver):
    """Resolves for a connector, which then connects to what is returned and asks nobody again."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises SourceRefused if one of the addresses is forbidden: which one is taken would be chance."""
        found = await self._resolver.resolve(host, port, family)
        check_addresses(self._guard, host, [result["host"] for result in found])
        return found

    async def close(self) -> None:
        """Nothing is kept open."""


def check_addresses(guard: AddressGuard, host: str, addresses: Sequence[str]) -> None:
    """Raises SourceRefused."""
    for address in addresses:
        guard.check(host, address)


def _unwrapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, else itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address
