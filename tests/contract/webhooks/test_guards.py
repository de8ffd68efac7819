"""Webhooks and models' URIs may lead to the same addresses: who writes a manifest gains nothing by taking the other way."""

import ipaddress

import pytest

from sundog_edge.replicas import addresses as edge_addresses
from sundog_operator.adapters.webhooks import AddressForbidden, AddressPolicy
from sundog_operator.api.installation import NetworkPolicySettings
from sundog_operator.core.edge.network_policies import make_policies
from sundog_operator.core.kubernetes import metadata_services
from sundog_runtime.errors import SourceRefused
from sundog_runtime.sources import address_guard
from sundog_runtime.sources.address_guard import AddressGuard

ADDRESSES = [
    *("93.184.216.34", "2606:2800:220:1::1", "1.1.1.1"),
    *("10.0.0.1", "172.16.5.4", "192.168.1.1", "100.64.0.1", "fc00::1", "198.18.0.1", "240.0.0.1"),
    *("127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"),
    *("169.254.169.254", "fe80::1", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"),
    *("::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1", "64:ff9b::5db8:d822", "64:ff9b:1::1"),
    *(
        "169.254.170.23",
        "169.254.0.1",
        "64:ff9b:1::a9fe:a9fe",
        "64:ff9b::a83f:8110",
        "::ffff:192.0.0.192",
        "64:ff9b::6464:64c8",
    ),
    *("2002:a00:1::", "2001:0:5db8:d822::f5ff:fffe", "::10.0.0.1", "::ffff:0:10.0.0.1", "fe80::1%eth0"),
]


def refuses(guard: AddressPolicy | AddressGuard, address: str) -> bool:
    try:
        guard.check("ci.example", address)
    except (AddressForbidden, SourceRefused):
        return True
    return False


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_one_refuses_the_other_refuses(address: str) -> None:
    assert refuses(AddressPolicy(), address) is refuses(AddressGuard(), address)


def test_some_are_refused_and_some_are_not() -> None:
    assert {refuses(AddressPolicy(), address) for address in ADDRESSES[:3]} == {False}
    assert sum(refuses(AddressPolicy(), address) for address in ADDRESSES) > 20


@pytest.mark.parametrize("address", [each for each in ADDRESSES if each not in ("127.0.0.1", "::1")])
def test_what_is_listed_leads_as_far_but_for_the_operators_own_pod(address: str) -> None:
    listed = frozenset({"ci.example"})
    assert refuses(AddressPolicy(listed), address) is refuses(AddressGuard(listed), address)
    assert refuses(AddressPolicy(listed), "127.0.0.1")


METADATA = [
    *("169.254.169.254", "169.254.169.252", "169.254.170.23", "168.63.129.16", "100.100.100.200", "192.0.0.192"),
    "fd00:ec2::254",
]


def embed(address: str) -> list[str]:
    """Return the forms of an IPv4 address in IPv6: mapped, and behind NAT64; none of an IPv6 address."""
    if ":" in address:
        return []
    number = int(ipaddress.IPv4Address(address))
    prefixes = ("::ffff:0:0", "64:ff9b::")
    return [str(ipaddress.IPv6Address(int(ipaddress.IPv6Address(prefix)) | number)) for prefix in prefixes]


def test_operator_model_server_and_edge_have_one_list_of_metadata_services() -> None:
    networks = tuple(map(ipaddress.ip_network, metadata_services.NETWORKS))
    assert networks == address_guard.METADATA_NETWORKS == edge_addresses.METADATA_NETWORKS


@pytest.mark.parametrize("address", [each for plain in METADATA for each in (plain, *embed(plain))])
def test_no_webhook_no_source_and_no_replica_leads_to_a_metadata_service(address: str) -> None:
    listed = frozenset({"ci.example"})
    assert refuses(AddressPolicy(listed, allow_loopback=True), address)
    assert refuses(AddressGuard(listed), address)
    assert edge_addresses.is_forbidden(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", [each for plain in METADATA for each in (plain, *embed(plain)[1:])])
def test_no_policy_lets_a_pod_reach_a_metadata_service(address: str) -> None:
    """IPv4-mapped addresses are left out: a node sends such packets over IPv4."""
    found = ipaddress.ip_address(address)
    for policy in make_policies("vision", NetworkPolicySettings()):
        blocks = [
            peer["ipBlock"]
            for rule in policy["spec"].get("egress", ())
            for peer in rule.get("to", ())
            if "ipBlock" in peer
        ]
        of_version = [each for each in blocks if ipaddress.ip_network(each["cidr"]).version == found.version]
        assert all(any(found in ipaddress.ip_network(net) for net in each["except"]) for each in of_version)
        assert all(
            ipaddress.ip_network(net).subnet_of(ipaddress.ip_network(each["cidr"]))
            for each in blocks
            for net in each["except"]
        )
