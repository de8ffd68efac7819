"""Commands from Serve's answer and HAProxy's state."""

import re
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sundog_edge.errors import ServeUnavailable
from sundog_edge.haproxy.backends import render_server_options
from sundog_edge.haproxy.client import ServerState
from sundog_edge.replicas.plan import (
    DesiredSlot,
    ServeClient,
    desired_servers,
    drain_limit_s,
    find_proven,
    parse_grpc_port,
    parse_grpc_targets,
    parse_http_targets,
    parse_scaled_to_zero,
    plan_commands,
    plan_slow_replicas,
)
from sundog_edge.split.document import Cluster

LOCAL = Cluster(dashboard="http://127.0.0.1:8265", fallback="127.0.0.1:8000")
REMOTE = Cluster(dashboard="http://head.vision.svc:8265", fallback="head.vision.svc:8000")


def group(name, *targets, protocol="HTTP"):
    return {
        "app_name": name,
        "route_prefix": f"/{name}.app",
        "protocol": protocol,
        "targets": [{"ip": ip, "port": port, "name": "r"} for ip, port in targets],
    }


def server(address, *, running=True, draining=False, maintenance=False, since_s=100, slot="slot0", **checks):
    return ServerState(slot, address, address, running, draining, maintenance, since_s, **checks)


def wish(*listed, known=True, fallback=""):
    return DesiredSlot("slot0", listed if known else None, fallback, 8)


@pytest.mark.parametrize(
    "ip",
    [
        *(
            "127.0.0.1",
            "127.9.9.9",
            "::1",
            "0.0.0.0",
            "::",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "::ffff:127.0.0.1",
        ),
        *("64:ff9b::a9fe:a9fe", "168.63.129.16", "100.100.100.200", "fd00:ec2::254"),
    ],
)
def test_no_replica_of_a_cluster_is_at_an_address_of_the_edge_itself_or_of_its_node(ip):
    answer = {"target_groups": [group("a", (ip, 30000))]}
    for parse in (parse_http_targets, parse_grpc_targets):
        with pytest.raises(ServeUnavailable, match="expected the address of a pod"):
            parse(answer, REMOTE)
    assert parse_http_targets(answer, LOCAL) == {"a": ("127.0.0.1:30000",)}
    assert parse_http_targets({"target_groups": [group("a", ("10.0.0.7", 30000))]}, REMOTE) == {
        "a": ("10.0.0.7:30000",)
    }


@pytest.mark.parametrize(
    ("applications", "at_zero"),
    [
        ({"a": {"deployments": {"m": {"target_num_replicas": 0}}}}, {"a"}),
        ({"a": {"deployments": {"m": {"target_num_replicas": 1}}}}, set()),
        ({"a": {"deployments": {"m": {"target_num_replicas": 0}, "n": {"target_num_replicas": 1}}}}, set()),
        (
            {"a": {"deployments": {}}, "b": {"deployments": {"m": {}}}, "c": {"deployments": {"m": None}}, "d": None},
            set(),
        ),
        (None, set()),
        ([], set()),
    ],
)
def test_an_application_is_at_zero_if_serve_wants_none_of_its_replicas(applications, at_zero):
    assert parse_scaled_to_zero({"applications": applications}) == at_zero


def test_at_zero_no_replica_stays_and_serves_own_proxy_gets_one_request_at_a_time():
    desired = DesiredSlot("slot0", (), "10.0.0.1:8000", 8, may_be_cold=True, at_zero=True)
    (only,) = desired_servers(desired, [server("10.0.0.7:30003")]).values()
    assert (only.address, only.maxconn, only.backup) == ("10.0.0.1:8000", 1, True)
    # While Serve only rebuilds the application, the healthy replica stays.
    rebuilt = replace(desired, at_zero=False)
    assert {each.address for each in desired_servers(rebuilt, [server("10.0.0.7:30003")]).values()} == {
        "10.0.0.7:30003",
        "10.0.0.1:8000",
    }
    (proxy,) = desired_servers(DesiredSlot("slot0", (), "10.0.0.1:8000", 8), []).values()
    assert proxy.maxconn == 0


@pytest.mark.parametrize(
    ("options", "port"),
    [
        ({"port": 9000, "grpc_servicer_functions": ["a.b"]}, 9000),
        ({"port": 9000, "grpc_servicer_functions": []}, 0),
        ({"port": "9000", "grpc_servicer_functions": ["a.b"]}, 0),
        ({"port": 1 << 16, "grpc_servicer_functions": ["a.b"]}, 0),
        (None, 0),
    ],
)
def test_serves_own_proxy_takes_calls_where_serve_was_given_functions_for_them(options, port):
    assert parse_grpc_port({"grpc_options": options}) == port


def test_serves_own_proxy_for_grpc_is_checked_at_its_http_port():
    desired = DesiredSlot("slot0-grpc", (), "10.0.0.1:9000", 8, check_ports={"10.0.0.1:9000": 8000}, may_be_cold=True)
    (proxy,) = desired_servers(desired, []).values()
    assert render_server_options(proxy).endswith(" port 8000 check-proto h1 proto h2 maxconn 1 backup")


def test_a_replica_of_a_cold_slot_is_up_before_its_first_check_and_one_of_another_slot_is_not():
    servers = desired_servers(wish("10.0.0.7:30003", fallback="10.0.0.1:8000"), [])
    warm, cold = (plan_commands("slot0", servers, [], {}, {}, cold=cold) for cold in (False, True))
    assert [command for command in cold if command not in warm] == ["set server slot0/10.0.0.7:30003 health up"]
    assert cold.index("set server slot0/10.0.0.7:30003 health up") > cold.index("set weight slot0/10.0.0.7:30003 1")


def test_targets_are_parsed_without_serves_own_proxy():
    answer = {
        "target_groups": [
            group("a", ("10.0.0.7", 30003), ("10.0.0.8", 30003)),
            group("b", ("10.0.0.7", 8000)),
            group("a", ("10.0.0.7", 40003), protocol="gRPC"),
            group("", ("10.0.0.7", 8000)),
        ]
    }
    assert parse_http_targets(answer, REMOTE) == {"a": ("10.0.0.7:30003", "10.0.0.8:30003"), "b": ()}
    # With a dashboard on loopback, replicas listen on loopback only.
    assert parse_http_targets(answer, LOCAL)["a"] == ("127.0.0.1:30003", "127.0.0.1:30003")


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        None,
        {"target_groups": [{}]},
        {"target_groups": [group("a", ("x", "port"))]},
        {"target_groups": 3},
        {"target_groups": [group(["a"], ("10.0.0.7", 1))]},
    ],
)
def test_an_answer_of_another_shape_means_unknown_and_not_empty(answer):
    with pytest.raises(ServeUnavailable):
        parse_http_targets(answer, REMOTE)


@pytest.mark.parametrize(
    ("ip", "port"),
    [
        ("10.0.0.1:1; disable frontend edge", 30003),
        ("10.0.0.1:1\ndisable frontend edge", 30003),
        ("10.0.0.1:1 weight 256", 30003),
        ("fe80::1%eth0", 30003),
        ("fe80::1%; disable frontend edge;", 30003),
        ("head.vision.svc", 30003),
        ("10.0.0.7\n", 30003),
        ("", 30003),
        (167772167, 30003),
        (None, 30003),
        ("10.0.0.7", "30003"),
        ("10.0.0.7", "30003; disable frontend edge"),
        ("10.0.0.7", 0),
        ("10.0.0.7", -1),
        ("10.0.0.7", 65536),
        ("10.0.0.7", 30003.5),
        ("10.0.0.7", True),
    ],
)
@pytest.mark.parametrize("protocol", ["HTTP", "gRPC"])
def test_an_invalid_address_makes_the_answer_unusable(ip, port, protocol):
    answer = {"target_groups": [group("a", (ip, port), protocol=protocol)]}
    with pytest.raises(ServeUnavailable, match=r"(ip|port) of 'a': found .*; expected "):
        parse_http_targets(answer, REMOTE)
    with pytest.raises(ServeUnavailable, match=r"(ip|port) of 'a': found .*; expected "):
        parse_grpc_targets(answer, REMOTE)


def test_an_ipv6_address_is_valid():
    answer = {"target_groups": [group("a", ("FD00::0007", 30003))]}
    assert parse_http_targets(answer, REMOTE) == {"a": ("fd00::7:30003",)}


@given(st.text() | st.from_regex(r"10\.0\.0\.1[;\n %:]+.*"), st.integers() | st.text())
def test_an_add_command_is_always_a_single_command(ip, port):
    try:
        targets = parse_http_targets({"target_groups": [group("a", (ip, port))]}, REMOTE)
    except ServeUnavailable:
        return
    for address in targets["a"]:
        assert re.fullmatch(r"[0-9a-f.:]+:[0-9]{1,5}", address)


@pytest.mark.parametrize(
    ("request_", "present", "names"),
    [
        (wish("a:1"), [], {"a:1"}),
        (wish("a:1"), [server("a:1"), server("b:1")], {"a:1"}),
        (wish("a:1"), [server("a:1", running=False, since_s=1), server("b:1")], {"a:1", "b:1"}),
        (wish("a:1"), [server("a:1", running=False, since_s=99), server("b:1")], {"a:1", "b:1"}),
        (wish("a:1"), [server("b:1", running=False)], {"a:1"}),
        (wish("a:1", "c:1"), [server("a:1"), server("c:1", running=False, since_s=99), server("b:1")], {"a:1", "c:1"}),
        (wish(), [server("b:1")], {"b:1"}),
        (wish(), [server("b:1", running=False, since_s=5)], {"b:1"}),
        (wish(), [server("b:1", running=False, since_s=31)], set()),
        (wish(known=False), [server("b:1", running=False, since_s=9999)], {"b:1"}),
        (wish(), [server("b:1", draining=True)], set()),
        (wish("a:1"), [server("a:1"), server("b:1", draining=True)], {"a:1"}),
        (wish(fallback="p:8"), [server("fallback-p:8")], {"fallback-p:8"}),
    ],
    ids=[
        "new",
        "replaced, new one up",
        "replaced, new one not checked yet",
        "replaced, new one never up: the old one is all there is",
        "replaced and dead",
        "one listed is up, the other has had its time",
        "rebuild: Serve names only its proxy",
        "rebuild, down a moment",
        "rebuild, down for good",
        "Serve silent: keep all",
        "already leaving",
        "already replaced",
        "only the fallback",
    ],
)
def test_which_servers_a_slot_should_have(request_, present, names):
    assert {*desired_servers(request_, present)} == names


def test_replicas_of_a_large_edge_are_checked_less_often_but_at_once_when_they_refuse():
    server = desired_servers(replace(wish("a:1"), check_ms=4000), [])["a:1"]
    assert render_server_options(server).startswith(
        "a:1 check inter 4000 fastinter 100 downinter 500 observe layer4 error-limit 1 "
    )


def test_the_fallback_is_a_backup_without_a_limit():
    servers = desired_servers(wish("a:1", fallback="p:8"), [])
    assert servers["fallback-p:8"].backup
    assert servers["fallback-p:8"].maxconn == 0
    assert not servers["a:1"].backup


def test_a_new_server_gets_no_request_before_its_check_has_passed():
    commands = plan_commands("slot0", desired_servers(wish("a:1"), []), [], {}, {})
    assert commands == [
        "add server slot0/a:1 a:1 check inter 500 fastinter 100 downinter 500 observe layer4 error-limit 1 "
        "on-error mark-down fall 2 rise 1 maxconn 8 weight 0",
        "enable health slot0/a:1",
        "enable server slot0/a:1",
        "set server slot0/a:1 health down",
        "set weight slot0/a:1 1",
    ]


@pytest.mark.parametrize(
    ("state", "running", "drained_s", "commands"),
    [
        (server("b:1"), 3, 0, ["set server slot0/b:1 state drain"]),
        (server("b:1", draining=True), 3, 5, []),
        (server("b:1", draining=True), 0, 5, ["set server slot0/b:1 state maint"]),
        (
            server("b:1", draining=True),
            3,
            61,
            ["shutdown sessions server slot0/b:1", "set server slot0/b:1 state maint"],
        ),
        (server("b:1", draining=True, maintenance=True), 0, 5, ["del server slot0/b:1"]),
    ],
    ids=["drain", "wait", "idle", "deadline", "delete"],
)
def test_a_server_leaves_in_steps(state, running, drained_s, commands):
    key = ("slot0", "b:1")
    assert plan_commands("slot0", {}, [state], {key: running}, {key: drained_s}) == commands


@pytest.mark.parametrize(
    ("state", "load", "seconds", "commands"),
    [
        (server("b:1"), 3, 59, []),
        (server("b:1", draining=True), 3, 59, []),
        (server("b:1"), 0, 0, ["set server slot0/b:1 state maint"]),
        (server("b:1"), 3, 61, ["shutdown sessions server slot0/b:1", "set server slot0/b:1 state maint"]),
        (server("b:1", maintenance=True), 3, 5, ["del server slot0/b:1"]),
    ],
    ids=["wait", "drained before", "idle", "deadline", "delete"],
)
def test_a_server_of_a_slot_that_is_leaving_takes_the_queue_until_the_slot_is_idle(state, load, seconds, commands):
    """The server itself has no request: a draining one would leave the queue to nobody."""
    assert plan_commands("slot0", {}, [state], {}, {("slot0", "b:1"): seconds}, leaving_load=load) == commands


SLOW = {"slow": True, "failing": True}


@pytest.mark.parametrize(
    ("present", "kept"),
    [
        ([server("a:1", **SLOW)], ["a:1"]),
        ([server("a:1", running=False, **SLOW)], ["a:1"]),
        ([server("a:1", **SLOW), server("b:1", running=False, **SLOW)], ["a:1", "b:1"]),
        # Restored a moment ago, and not checked since.
        ([server("a:1", slow=True), server("b:1", **SLOW)], ["b:1"]),
        ([server("a:1", slow=True)], []),
        ([server("a:1", **SLOW), server("b:1")], []),
        ([server("a:1", **SLOW), server("b:1", failing=True)], []),
        ([server("a:1", **SLOW), server("b:1", running=False, failing=True)], ["a:1"]),
        ([server("a:1", running=False, failing=True)], []),
        ([server("a:1", draining=True, **SLOW)], []),
        ([server("a:1", maintenance=True, **SLOW)], []),
        ([server("fallback-p:8", **SLOW)], []),
        ([server("a:1", **SLOW), server("fallback-p:8")], ["a:1"]),
        ([server("new:1", **SLOW)], []),
        ([server("gone:1", **SLOW)], []),
    ],
    ids=[
        *("about to go", "gone", "all are slow", "the last look kept one", "kept already", "another answers"),
        *("another answered before", "another refuses", "refuses", "leaving", "left", "Serve's own proxy"),
        *("beside Serve's own proxy", "never passed", "Serve names it no more"),
    ],
)
def test_slow_replicas_stay_if_no_other_answers_in_time(present, kept):
    wished = wish("a:1", "b:1", "new:1")
    commands = plan_slow_replicas(wished, present, {"a:1", "b:1", "gone:1"})
    assert commands == [f"set server slot0/{name} health up" for name in kept]


def test_while_serve_is_silent_present_servers_count_as_listed():
    assert plan_slow_replicas(wish(known=False), [server("gone:1", **SLOW)], {"gone:1"}) == [
        "set server slot0/gone:1 health up"
    ]


def test_a_server_is_proven_until_a_check_fails_for_a_reason_other_than_slowness():
    new, slow = server("a:1", running=False, failing=True), server("a:1", running=False, **SLOW)
    assert find_proven((), [new]) == find_proven((), [slow]) == frozenset()
    assert find_proven((), [server("a:1")]) == {"a:1"}
    assert find_proven({"a:1"}, [slow]) == {"a:1"}
    # Another application has its address, or none.
    assert find_proven({"a:1"}, [new]) == find_proven({"a:1"}, []) == frozenset()


def test_a_server_is_removed_after_the_time_of_the_longest_request():
    key, state = ("slot0", "b:1"), server("b:1", draining=True)
    assert [drain_limit_s(seconds) for seconds in (0.5, 30, 90, 86_400)] == [60, 60, 100, 86_410]
    assert plan_commands("slot0", {}, [state], {key: 1}, {key: 99.0}, drain_limit_s(90)) == []
    assert plan_commands("slot0", {}, [state], {key: 1}, {key: 101.0}, drain_limit_s(90)) != []


def test_a_server_that_comes_back_while_it_drains_is_ready_again_but_never_from_maintenance():
    want = desired_servers(wish("a:1"), [])
    assert plan_commands("slot0", want, [server("a:1", draining=True)], {}, {}) == ["set server slot0/a:1 state ready"]
    assert plan_commands("slot0", want, [server("a:1", maintenance=True)], {}, {}) == ["del server slot0/a:1"]


@settings(deadline=None)
@given(
    st.lists(st.sampled_from("abcd"), unique=True),
    st.lists(st.sampled_from("abcd"), unique=True),
    st.data(),
)
def test_steps_end_at_the_listed_servers_and_never_empty_a_slot(before, after, data):
    """HAProxy's health: added servers are down, and pass their check at a later step."""
    states = {name: server(name) for name in before}
    for _ in range(20):
        had_running = any(state.up for state in states.values())
        present = list(states.values())
        for command in plan_commands("slot0", desired_servers(wish(*after), present), present, {}, {}):
            states = _run(states, command.split())
        if had_running:
            assert any(state.up for state in states.values())
        for name, state in states.items():
            if not state.running and data.draw(st.booleans()):
                states[name] = server(name, draining=state.draining, maintenance=state.maintenance)
    states = {name: server(name, draining=s.draining, maintenance=s.maintenance) for name, s in states.items()}
    for _ in range(4):
        present = list(states.values())
        for command in plan_commands("slot0", desired_servers(wish(*after), present), present, {}, {}):
            states = _run(states, command.split())
        states = {name: server(name, draining=s.draining, maintenance=s.maintenance) for name, s in states.items()}
    assert {*states} == ({*after} or {*before})


def _run(states, words):
    match words:
        case ["add", "server", where, *_]:
            name = where.partition("/")[2]
            return {**states, name: server(name, running=False, since_s=0)}
        case ["set", "server", where, "state", state]:
            name = where.partition("/")[2]
            old = states[name]
            flags = {"draining": state == "drain", "maintenance": state == "maint"}
            return {**states, name: server(name, running=old.running, since_s=old.since_s, **flags)}
        case ["del", "server", where]:
            return {name: state for name, state in states.items() if name != where.partition("/")[2]}
    return states


def test_grpc_ports_are_those_of_replicas_that_have_an_http_port_and_are_checked_there():
    def calls(protocol: str, *targets: tuple[str, int]) -> dict:
        named = [{"ip": "10.0.0.7", "port": port, "name": name} for name, port in targets]
        return {"app_name": "a", "route_prefix": "/a.app", "protocol": protocol, "targets": named}

    answer = {
        "target_groups": [
            calls("gRPC", ("r1", 40001), ("r2", 40002), ("", 9000)),
            calls("HTTP", ("r1", 30001), ("", 8000)),
        ]
    }
    assert parse_grpc_targets(answer, REMOTE) == {"a": {"10.0.0.7:40001": 30001}}
    assert parse_grpc_targets(answer, LOCAL) == {"a": {"127.0.0.1:40001": 30001}}
    with pytest.raises(ServeUnavailable):
        parse_grpc_targets({"target_groups": [{"app_name": "a"}]}, REMOTE)
    wished = DesiredSlot("slot0-grpc", ("10.0.0.7:40001",), "", 4, check_ports={"10.0.0.7:40001": 30001})
    assert render_server_options(desired_servers(wished, [])["10.0.0.7:40001"]).endswith(
        " port 30001 check-proto h1 proto h2 maxconn 4"
    )


async def test_parsing_of_answers_is_measured_even_if_they_are_unusable():
    client = ServeClient(None, None)
    client._parse(b'{"target_groups": []}', REMOTE)
    before = client.parse_s
    with pytest.raises(ServeUnavailable):
        client._parse(b"{}", REMOTE)
    assert client.parse_s > before > 0
