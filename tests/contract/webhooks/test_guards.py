"""Webhooks and models' URIs may lead to the same addresses: who writes a manifest gains nothing by taking the other way."""

import pytest

from sundog_operator.adapters.webhooks import AddressForbidden, AddressPolicy
from sundog_runtime.errors import SourceRefused
from sundog_runtime.sources.address_guard import AddressGuard

ADDRESSES = [
    *("93.184.216.34", "2606:2800:220:1::1", "1.1.1.1"),
    *("10.0.0.1", "172.16.5.4", "192.168.1.1", "100.64.0.1", "fc00::1", "198.18.0.1", "240.0.0.1"),
    *("127.0.0.1", "::1", "0.0.0.0", "::", "224.0.0.1", "ff02::1"),
    *("169.254.169.254", "fe80::1", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254"),
    *("::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a00:1", "64:ff9b::5db8:d822", "64:ff9b:1::1"),
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
