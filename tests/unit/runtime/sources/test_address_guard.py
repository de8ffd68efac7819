"""The addresses that URIs may lead to."""

import pytest

from sundog_runtime.errors import LoadFailed, SourceRefused
from sundog_runtime.sources.address_guard import AddressGuard, read_guard


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "64:ff9b::808:808", "2002:808:808::1"])
def test_public_addresses_are_open(address: str) -> None:
    AddressGuard().check("host", address)


@pytest.mark.parametrize(
    "address",
    ["10.1.2.3", "172.16.0.1", "192.168.1.1", "127.0.0.1", "127.8.8.8", "100.64.0.1", "::1", "fc00::1", "fd12::1", "198.18.0.1",
     "0.1.2.3", "240.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::1", "::ffff:127.0.0.1", "::169.254.169.254",
     "::ffff:0:127.0.0.1", "64:ff9b:1::a9fe:a9fe", "fec0::1"],
)  # fmt: skip
def test_private_addresses_are_open_to_listed_hosts_only(address: str) -> None:
    with pytest.raises(SourceRefused, match="host leads to a private address"):
        AddressGuard(frozenset({"other"})).check("host", address)
    AddressGuard(frozenset({"host"})).check("host", address)


@pytest.mark.parametrize(
    "address",
    ["169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "fe80::1%eth0", "224.0.0.1", "ff02::1",
     "0.0.0.0", "::", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1"],
)  # fmt: skip
def test_metadata_services_are_open_to_no_name(address: str) -> None:
    with pytest.raises(SourceRefused, match="forbidden") as caught:
        AddressGuard(frozenset({"host"})).check("host", address)
    assert address not in caught.value.message


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0", "127.000.000.001", "127.0.0.1."])
def test_ambiguous_addresses_are_refused(host: str) -> None:
    with pytest.raises(SourceRefused, match="written in full"):
        AddressGuard().check_literal(host)


def test_names_and_networks_are_listed_between_commas() -> None:
    guard = read_guard({"SUNDOG_SOURCE_ALLOW_HOSTS": " Minio.models.svc, 10.0.0.0/8 ,,fd00::/8"})
    guard.check("minio.models.svc", "192.168.0.1")
    guard.check("any", "10.2.3.4")
    guard.check("any", "fd00::1")
    assert guard.is_listed("minio.models.svc")
    with pytest.raises(LoadFailed, match=r"'10\.0\.0\.1/8'; expected a host name, or a network"):
        read_guard({"SUNDOG_SOURCE_ALLOW_HOSTS": "10.0.0.1/8"})
