"""The command and environment of Ray."""

import re
from pathlib import Path

from sundog_operator.adapters.local.ports_allocation import RayPorts
from sundog_operator.adapters.local.ray_command import make_argv, make_environment

PORTS = RayPorts(14_000)
ENVIRONMENT = make_environment(
    {"PATH": "/bin", "RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_TOKEN": "leaked", "RAY_AUTH_MODE": "disabled"},
    PORTS,
    Path("/s/ray-token"),
    Path("/s/ray/0/tmp"),
    Path("/s/cache"),
)


def test_every_port_is_of_the_block() -> None:
    text = " ".join((*make_argv(PORTS, Path("/s/ray/0")), *(f"{k}={v}" for k, v in ENVIRONMENT.items())))
    ports = {int(number) for number in re.findall(r"PORT=(\d+)|port=(\d+)", text) for number in number if number}
    assert len(ports) == 15
    assert all(14_000 < port <= 15_000 for port in ports)
    assert not {PORTS.serve, PORTS.serve_grpc} & ports


def test_grpc_is_for_this_machine_alone_and_messages_have_a_limit() -> None:
    assert ENVIRONMENT["SUNDOG_GRPC_PEERS"] == "loopback"
    assert ENVIRONMENT["RAY_SERVE_GRPC_MAX_MESSAGE_SIZE"] == str(2**30)


def test_the_token_is_read_from_a_file_and_is_in_no_argument() -> None:
    assert ENVIRONMENT["RAY_AUTH_MODE"] == "token"
    assert ENVIRONMENT["RAY_AUTH_TOKEN_PATH"] == "/s/ray-token"
    assert "RAY_AUTH_TOKEN" not in ENVIRONMENT


def test_replicas_get_as_much_cpu_as_other_work_of_the_machine() -> None:
    assert ENVIRONMENT["RAY_worker_niceness"] == "0"


def test_a_shells_ray_settings_decide_nothing_but_the_rest_is_inherited() -> None:
    assert "RAY_ADDRESS" not in ENVIRONMENT
    assert ENVIRONMENT["PATH"] == "/bin"


def test_downloaded_models_are_in_the_state_directory_unless_the_shell_sets_another() -> None:
    assert ENVIRONMENT["SUNDOG_CACHE_DIR"] == "/s/cache"
    own = make_environment({"SUNDOG_CACHE_DIR": "/big"}, PORTS, Path("/s/t"), Path("/s/tmp"), Path("/s/cache"))
    assert own["SUNDOG_CACHE_DIR"] == "/big"


def test_the_dashboard_is_on_loopback_and_the_head_has_no_gpu() -> None:
    argv = make_argv(PORTS, Path("/s/ray/0"))
    assert {"--dashboard-host=127.0.0.1", "--num-gpus=0", "--num-cpus=64", "--block", "--head"} <= {*argv}
