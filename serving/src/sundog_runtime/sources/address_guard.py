"""The addresses that a model's URI may lead to: public ones, and those that the administrator lists.

The author of a manifest must not make the server call addresses that only the server can reach: its own ports, the
cluster's, or the metadata service of its cloud. Names are resolved first, the addresses are checked, and the server
connects to exactly these addresses.
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

METADATA_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in ("169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32", "fd00:ec2::254/128")
)
"""Addresses of metadata services. Operator and edge have the same list."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
"""The range of global unicast. Python does not call all addresses outside of it private, such as translations of IPv4
(`::a.b.c.d`, `::ffff:0:a.b.c.d`, `64:ff9b:1::/48`), which a network may route."""


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """The rules. A listed name may lead to private addresses; only a listed network may contain a metadata service."""

    host_names: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    def check(self, host: str, address: str) -> None:
        """Check an address. Raises SourceRefused if `host` must not be reached at it. The message has the rule, not the address."""
        found = _unwrapped(ipaddress.ip_address(address.partition("%")[0]))
        if any(found in network for network in self.networks):
            return
        is_metadata = any(found in network for network in METADATA_NETWORKS)
        if is_metadata or found.is_link_local or found.is_multicast or found.is_unspecified:
            raise SourceRefused(f"{host} leads to a link-local, metadata or multicast address, which is forbidden")
        is_public = found.is_global and (isinstance(found, ipaddress.IPv4Address) or found in _PUBLIC_V6)
        if not is_public and host not in self.host_names:
            raise SourceRefused(
                f"{host} leads to a private address; an administrator can list it in {ALLOWED_HOSTS_VARIABLE}"
            )

    def check_literal(self, host: str) -> None:
        """Check a host that is an address itself, and so is never resolved. Raises SourceRefused."""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            # The system's resolver also takes other digits and dots for addresses: 127.1, 2130706433.
            if host and not host.strip("0123456789."):
                raise SourceRefused(f"{host} is neither a name nor an address written in full") from None
            return
        self.check(host, host)

    def is_listed(self, host: str) -> bool:
        """Whether the administrator listed exactly this host."""
        return host in self.host_names


def read_guard(environment: Mapping[str, str] = os.environ) -> AddressGuard:
    """Read the names and networks of SUNDOG_SOURCE_ALLOW_HOSTS, separated by commas. Raises LoadFailed."""
    names, networks = set(), []
    for item in filter(None, (item.strip().lower() for item in environment.get(ALLOWED_HOSTS_VARIABLE, "").split(","))):
        if "/" not in item:
            names.add(item)
            continue
        try:
            networks.append(ipaddress.ip_network(item))
        except ValueError:
            raise LoadFailed(
                f"{ALLOWED_HOSTS_VARIABLE} holds {item!r}; expected a host name, or a network such as 10.0.0.0/8"
            ) from None
    return AddressGuard(frozenset(names), tuple(networks))


class GuardedResolver(AbstractResolver):
    """A resolver for a connector, which then connects to the returned addresses without another resolution."""

    def __init__(self, guard: AddressGuard) -> None:
        self._guard = guard
        self._resolver = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Resolve a host. Raises SourceRefused if any of its addresses is forbidden, because any of them may be used."""
        found = await self._resolver.resolve(host, port, family)
        check_addresses(self._guard, host, [result["host"] for result in found])
        return found

    async def close(self) -> None:
        """Do nothing: nothing is open."""


def check_addresses(guard: AddressGuard, host: str, addresses: Sequence[str]) -> None:
    """Check all addresses of a host. Raises SourceRefused."""
    for address in addresses:
        guard.check(host, address)


def _unwrapped(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address embeds, otherwise the address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address
