"""The doctor's results for its findings."""

import os
import socket
from pathlib import Path

import pytest

from sundog_operator.adapters.local import doctor
from sundog_operator.adapters.local.state_directory import StateDirectory

GIB = 2**30


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10, 9), "fail"), ((3, 11, 0), "ok"), ((3, 13, 5), "ok"), ((3, 14, 0), "fail")]
)
def test_python(version: tuple[int, ...], status: str) -> None:
    assert doctor.check_python(version).status == status


def test_a_package_that_is_missing_old_or_right() -> None:
    missing = doctor.check_package("sundog-no-such-package", ((1,), (2,)))
    assert (missing.status, missing.found) == ("fail", "not installed")
    assert "pip install" in missing.fix
    assert doctor.check_package("psutil", ((7,), (8,))).status == "ok"
    old = doctor.check_package("psutil", ((100, 1), (101,)))
    assert old.status == "fail"
    assert "at least 100.1 and below 101" in old.fix


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ("HAProxy version 2.8.25-5cf5d0683 2026/06/26 - https://haproxy.org/", "ok"),
        ("HAProxy version 3.0.11-1+deb13u1 2025/10/03", "ok"),
        ("HA-Proxy version 2.2.9-2+deb11u6 2023/12/04", "fail"),
        ("", "fail"),
    ],
)
def test_haproxy(text: str, status: str) -> None:
    assert doctor.check_haproxy(text).status == status


@pytest.mark.parametrize(
    ("features", "status"),
    [("+LUA +OPENSSL -OPENSSL_WOLFSSL", "ok"), ("-OPENSSL +OPENSSL_WOLFSSL", "warn"), ("", "warn")],
)
def test_haproxy_without_openssl_is_a_warning(features: str, status: str) -> None:
    check = doctor.check_tls_support(f"HAProxy version 2.8.25\nFeature list : {features}\nBuilt with …")
    assert check.status == status
    assert bool(check.fix) == (status == "warn")


def test_memory_needs_three_gibibytes() -> None:
    assert doctor.check_memory(3 * GIB).status == "ok"
    scarce = doctor.check_memory(3 * GIB - 2**28)
    assert (scarce.status, scarce.found) == ("fail", "2.8 GiB free")
    assert scarce.fix


def test_little_shared_memory_is_a_warning_with_the_option_of_docker() -> None:
    assert doctor.check_shared_memory(GIB).status == "ok"
    small = doctor.check_shared_memory(64 * 2**20)
    assert (small.status, small.found) == ("warn", "64 MiB free in /dev/shm")
    assert "--shm-size" in small.fix


def test_a_too_long_state_directory_names_the_limit() -> None:
    check = doctor.check_state_directory(StateDirectory.at(Path("/", "a" * 90)))
    assert check.status == "fail"
    assert "91 bytes long" in check.found
    assert "choose a shorter path" in check.fix


def test_a_state_directory_is_named_in_full() -> None:
    check = doctor.check_state_directory(StateDirectory.at(Path("/state: mine")))
    assert check.found.startswith("state directory /state: mine contains a blank, quote, ")
    assert check.fix == "choose another path"


def test_another_instance_is_named_by_its_pid(state: StateDirectory) -> None:
    assert doctor.check_running_instance(state).status == "ok"
    with state.hold():
        check = doctor.check_running_instance(state)
        assert check.status == "warn"
        assert str(state.holder()) in check.found


def test_a_taken_port_is_reported_with_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert doctor.check_edge_port(port).status == "warn"
        assert "pid" in doctor.check_edge_port(port).found
        assert doctor.check_edge_port(port, {os.getpid()}) == doctor.Check(
            f"port {port}", "ok", "held by this instance's edge"
        )
    assert doctor.check_edge_port(port).status == "ok"


def test_all_checks_run_on_this_machine_and_every_complaint_has_a_fix(state: StateDirectory) -> None:
    checks = doctor.run_checks(state.path)
    assert len({check.name for check in checks}) == len(checks) >= 10
    assert all(check.fix for check in checks if check.status != "ok")
    assert not any(check.fix for check in checks if check.status == "ok")
    by_name = {check.name: check for check in checks}
    assert by_name["leftover processes"].status == "ok"
    assert by_name["HAProxy"].status == by_name["HAProxy with OpenSSL"].status == "ok"
