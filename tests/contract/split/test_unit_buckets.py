"""The bucket of a unit is the same in Python and in HAProxy, and stays what it is: another one would move users between arms."""

import hashlib
import http.client
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from measuring.processes import running
from ports import free_port
from sundog_edge.haproxy import program
from sundog_edge.haproxy.rules.assignment import BUCKET_OF_UNIT
from sundog_edge.split.assignment import BUCKET_COUNT, unit_bucket
from waiting import PATIENCE_S, eventually

SALT = "digits-salt"
PER_REQUEST = 100
UNITS = tuple(
    (f"user-{number}", f"{number}", f"{number}@example.com", f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}")[number % 4]
    for number in range(100_000)
)
TABLE = "1054f83e8759c80dc6d445b11a27c8b68692b7de9b9d230720d102b368e9839b"
"""SHA-256 of the buckets of these units, joined by commas."""

_CONFIG = """
global
    tune.http.maxhdr 200
    tune.bufsize 65536
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 1s
frontend buckets
    bind 127.0.0.1:{port}
    http-request set-var(txn.salt) str({salt})
    http-request set-var(txn.found) str()
{rules}
    http-request return status 200 content-type text/plain lf-string %[var(txn.found)]
"""


def buckets_in_python(_: Path) -> list[int]:
    return [unit_bucket(SALT, unit.encode()) for unit in UNITS]


def buckets_in_haproxy(folder: Path) -> list[int]:
    """Return what HAProxy computes by the rule of the edge, of many units a request."""
    port, config = free_port(), folder / "haproxy.cfg"
    rules = "\n".join(
        f"    http-request set-var(txn.unit) req.fhdr(u{place},1)\n"
        f"    http-request set-var(txn.bucket) {BUCKET_OF_UNIT}\n"
        "    http-request set-var(txn.found) var(txn.found),concat(|,txn.bucket)"
        for place in range(PER_REQUEST)
    )
    config.write_text(_CONFIG.format(port=port, salt=SALT, rules=rules))
    with running([program.find_haproxy(), "-f", str(config)], folder / "log"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        eventually(lambda: _connects(connection), "HAProxy listens")
        found: list[int] = []
        for first in range(0, len(UNITS), PER_REQUEST):
            found += _ask(connection, UNITS[first : first + PER_REQUEST])
        connection.close()
    return found


def _connects(connection: http.client.HTTPConnection) -> bool:
    try:
        connection.connect()
    except ConnectionRefusedError:
        return False
    return True


def _ask(connection: http.client.HTTPConnection, units: Sequence[str]) -> list[int]:
    connection.request("GET", "/", headers={f"u{place}": unit for place, unit in enumerate(units)})
    return [int(each) for each in connection.getresponse().read().decode().strip("|").split("|")]


@pytest.mark.parametrize("compute", [buckets_in_python, pytest.param(buckets_in_haproxy, marks=pytest.mark.haproxy)])
def test_a_hundred_thousand_units_have_the_buckets_of_the_table(
    compute: Callable[[Path], list[int]], tmp_path: Path
) -> None:
    found = compute(tmp_path)
    assert len(found) == len(UNITS)
    assert set(found) == set(range(BUCKET_COUNT))
    assert hashlib.sha256(",".join(map(str, found)).encode()).hexdigest() == TABLE
