"""Loopback addresses of fake workloads, one per Service name. Imports no large package."""

import hashlib
import socket

import aiohttp.abc
import aiohttp.connector


def address_of(host: str) -> str:
    """Return the loopback address for a host name."""
    digest = hashlib.sha256(host.encode()).digest()
    return f"127.{64 + digest[0] % 64}.{digest[1]}.{1 + digest[2] % 254}"


def head_of(namespace: str, cluster: str) -> str:
    """Return the name of the Service of a RayCluster's head."""
    return f"{cluster}-head-svc.{namespace}.svc"


class Resolver(aiohttp.abc.AbstractResolver):
    """A resolver that knows only Services."""

    def __init__(self, loop: object = None) -> None:
        del loop

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET):  # type: ignore[no-untyped-def]
        del family
        name = host.removesuffix(".cluster.local")
        found = {"hostname": host, "host": address_of(name), "port": port, "family": socket.AF_INET}
        return [found | {"proto": 0, "flags": socket.AI_NUMERICHOST}]

    async def close(self) -> None:
        return


def install() -> None:
    """Make every aiohttp client of this process use this resolver."""
    aiohttp.connector.DefaultResolver = Resolver  # type: ignore[misc]
