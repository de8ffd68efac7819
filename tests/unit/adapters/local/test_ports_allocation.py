"""Blocks of ports: disjoint, free, and claimed."""

import os
import socket
from itertools import pairwise

import pytest

from sundog_operator.adapters.local.ports_allocation import (
    BLOCK_BASES,
    BLOCK_SIZE,
    SINGLE_PORTS,
    RayPorts,
    allocate_block,
    allocate_port,
    claim_block,
    describe_holder,
    is_port_free,
)
from sundog_operator.errors import DependencyError


def test_every_port_of_a_block_has_one_use() -> None:
    ports = RayPorts(12_000)
    used = [ports.base, *ports.singles, *ports.workers, *ports.replicas_http, *ports.replicas_grpc]
    assert len(used) == len(set(used))
    assert min(used) == 12_000
    assert max(used) == 12_999


def test_blocks_do_not_touch_and_stay_below_the_ephemeral_ports() -> None:
    assert all(after - before == BLOCK_SIZE for before, after in pairwise(BLOCK_BASES))
    assert BLOCK_BASES[-1] + BLOCK_SIZE <= 32_768


def test_a_block_goes_to_one_caller() -> None:
    first, one = allocate_block("same seed")
    second, two = allocate_block("same seed")
    with one, two:
        assert first != second
        assert claim_block(first) is None
    one.close()
    claim = claim_block(first)
    assert claim is not None
    claim.close()


def test_a_block_with_a_server_on_a_port_that_ray_needs_is_passed_over() -> None:
    ports, claim = allocate_block("server")
    claim.close()
    with socket.create_server(("127.0.0.1", ports.dashboard)):
        assert claim_block(ports) is None
        other, claim = allocate_block("server")
        claim.close()
    assert other != ports


def test_one_server_among_the_worker_ports_does_no_harm() -> None:
    ports, claim = allocate_block("worker")
    claim.close()
    with socket.create_server(("127.0.0.1", ports.workers.start)):
        claim_again = claim_block(ports)
        assert claim_again is not None
        claim_again.close()


def test_no_free_block_is_an_error_with_the_range() -> None:
    ports, claim = allocate_block("only")
    with claim, pytest.raises(DependencyError, match=f"ports {ports.base} to {ports.base + 999}: no 1000 in a row"):
        allocate_block("only", [ports.base])


def test_the_holder_of_a_port_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_port_free(port)
        assert f"(pid {os.getpid()})" in describe_holder(port)
    assert is_port_free(port)
    assert describe_holder(port) == "another process"


def test_a_single_port_is_free_and_no_outgoing_connection_takes_it() -> None:
    port = allocate_port()
    assert is_port_free(port)
    assert BLOCK_BASES[-1] + BLOCK_SIZE <= port < 32_768
    assert set(SINGLE_PORTS).isdisjoint(range(BLOCK_BASES[0], BLOCK_BASES[-1] + BLOCK_SIZE))


def test_single_ports_that_are_taken_or_held_are_passed_over() -> None:
    first, second, third = SINGLE_PORTS[-3:]
    with socket.create_server(("127.0.0.1", second)):
        assert allocate_port({first}, (first, second, third)) == third
        with pytest.raises(DependencyError, match=f"ports {first} to {third}: none is free"):
            allocate_port({first, third}, (first, second, third))
