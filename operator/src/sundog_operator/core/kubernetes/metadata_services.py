"""Addresses of metadata services, which hand out a node's credentials: no webhook and no pod of Sundog may reach them.

The model server and the edge share no code with the operator and have the same list. A contract test holds the three equal.
"""

import ipaddress
from typing import Final

NETWORKS: Final = ("169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32", "fd00:ec2::254/128")
"""AWS, GCE, Azure and most others use 169.254.0.0/16; Azure also 168.63.129.16, Alibaba 100.100.100.200, Oracle 192.0.0.192."""

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
"""The prefix behind which a network may translate IPv6 to IPv4 (RFC 6052)."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NETWORKS: Final = tuple(map(ipaddress.ip_network, NETWORKS))


def unwrap(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address embeds, otherwise the address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address


def is_metadata(address: Address) -> bool:
    """Whether an unwrapped address belongs to a metadata service."""
    return any(address in network for network in _NETWORKS)


def list_exceptions(version: int) -> list[str]:
    """Return the networks that a rule for all addresses of an IP version must except, NAT64's forms included.

    IPv4-mapped addresses are not among them: a node sends such packets over IPv4.
    """
    own = [str(network) for network in _NETWORKS if network.version == version]
    if version == 4:
        return own
    base = int(_NAT64.network_address)
    embedded = [
        f"{ipaddress.IPv6Address(base | int(network.network_address))}/{96 + network.prefixlen}"
        for network in _NETWORKS
        if network.version == 4
    ]
    return own + embedded
