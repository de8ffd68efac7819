"""Addresses of replicas that an edge may send requests to. They come from a process that runs models."""

import ipaddress

METADATA_NETWORKS = tuple(
    ipaddress.ip_network(network)
    for network in ("169.254.0.0/16", "168.63.129.16/32", "100.100.100.200/32", "192.0.0.192/32", "fd00:ec2::254/128")
)
"""Addresses of metadata services, which hand out a node's credentials. Operator and model server have the same list."""

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def is_loopback(host: str) -> bool:
    """Whether a host is a loopback address, not a name."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_forbidden(address: Address) -> bool:
    """Whether no replica of a cluster has this address: the edge's own pod, link-local and metadata addresses, multicast."""
    found = _unwrap(address)
    is_local = found.is_loopback or found.is_link_local or found.is_unspecified or found.is_multicast
    return is_local or any(found in network for network in METADATA_NETWORKS)


def _unwrap(address: Address) -> Address:
    """Return the IPv4 address that an IPv6 address embeds, otherwise the address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    teredo = address.teredo
    return address.ipv4_mapped or address.sixtofour or (teredo[1] if teredo else None) or address
