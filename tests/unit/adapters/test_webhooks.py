"""The addresses that webhooks may connect to."""

import pytest

from sundog_operator.adapters.webhooks import AddressForbidden, AddressPolicy

LISTED = AddressPolicy(frozenset({"gate.ci"}))
METADATA = ("169.254.169.254", "fd00:ec2::254", "168.63.129.16", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe")
PRIVATE = ("10.96.0.1", "192.168.1.1", "fd12::1", "::ffff:10.0.0.1", "2002:0a00:0001::", "100.64.0.1", "::10.0.0.1")


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
@pytest.mark.parametrize("reach", [AddressPolicy(), LISTED, AddressPolicy(allow_loopback=True)])
def test_public_addresses_may_be_reached_by_any_name(reach: AddressPolicy, address: str) -> None:
    reach.check("hooks.example", address)


@pytest.mark.parametrize("address", [*METADATA, "fe80::1%eth0", "0.0.0.0", "::", "224.0.0.1", "ff02::1"])
@pytest.mark.parametrize("reach", [LISTED, AddressPolicy(allow_loopback=True)])
def test_nothing_leads_to_metadata_of_a_cloud(reach: AddressPolicy, address: str) -> None:
    with pytest.raises(AddressForbidden, match="link-local, metadata or multicast"):
        reach.check("gate.ci", address)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_takes_a_listed_name(address: str) -> None:
    with pytest.raises(AddressForbidden, match=r"list its host in installation\.webhooks\.hosts"):
        LISTED.check("gate.ci.svc", address)
    for name in ("gate.ci", "Gate.CI", "gate.ci."):
        LISTED.check(name, address)
    AddressPolicy(allow_loopback=True).check("gate.ci.svc", address)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.0.1", "::1", "::ffff:127.0.0.1"])
def test_loopback_is_for_local_mode(address: str) -> None:
    with pytest.raises(AddressForbidden, match="operator's own pod"):
        LISTED.check("gate.ci", address)
    AddressPolicy(allow_loopback=True).check("gate.ci", address)
