"""The configuration and the maps, as text."""

from pathlib import Path

import pytest

from sundog_edge.document import Document
from sundog_edge.haproxy.config import render
from sundog_edge.haproxy.maps import maps_of
from sundog_edge.layout import Layout, Server, fit
from sundog_edge.state_dir import Settings, StateDir

STATE = StateDir(Path("/tmp/x"))


def document(*applications: str, header: str = "", services: int = 1, **changes) -> Document:
    arms = [
        {
            "name": f"a{n}",
            "application": application,
            "routePrefix": f"/{application}.app",
            "revision": n,
            "weight": 0 if n else 100,
            "ranges": [] if n else [[0, 10_000]],
        }
        for n, application in enumerate(applications)
    ]
    made = [
        {
            "name": "digits" if not number else f"empty{number}",
            "hosts": [] if number else ["digits.vision.svc"],
            "cluster": "c",
            "attempt": "att",
            "salt": "salt",
            "unit": {"kind": "header", "name": header} if header else {"kind": "request"},
            "epoch": 3,
            "arms": [] if number else arms,
            "requestTimeoutSeconds": 2.5,
            "maxRequestBytes": 99,
            "maxOngoingRequests": 4,
            **changes,
        }
        for number in range(services)
    ]
    return Document.model_validate(
        {
            "version": 1,
            "namespace": "n",
            "generation": 1,
            "clusters": {"c": {"dashboard": "http://h:1"}},
            "services": made,
        }
    )


def test_one_value_says_which_table_assigns_and_the_table_has_the_arms():
    wanted = document("digits-r7", "digits-r8", header="X-User", services=2)
    maps = maps_of(wanted, fit(Layout(), wanted))
    table = maps["splits"]["digits"].split("|")[5]
    assert maps["splits"] == {
        "digits": f"salt|header:x-user|2500|3.5|99|{table}|r",
        "empty1": "salt|header:x-user|2500|3.5|99|-|r",
    }
    assert maps["ranges"] == {f"{table}/1": "slot0!digits/att/3/a0/assigned!/digits-r7.app!0!a0!-"}
    assert maps["hosts"] == {"digits.vision.svc": "digits"}
    assert maps["prefixes"] == {"slot0": "/digits-r7.app", "slot1": "/digits-r8.app"}


@pytest.mark.parametrize("changes", [{"epoch": 4}, {"attempt": "other"}, {"name": "x"}], ids=str)
def test_another_content_is_another_table_and_the_same_content_the_same(changes):
    def tables(**own) -> set[str]:
        wanted = document("digits-r7", **own)
        return {key.split("/")[0] for key in maps_of(wanted, fit(Layout(), wanted))["ranges"]}

    assert tables() == tables()
    assert tables() == tables(requestTimeoutSeconds=9.0)
    assert not tables() & tables(**changes)


def with_thresholds(*us: int | None) -> Document:
    """Two arms that share the buckets, each with its own threshold, and a way to choose the second."""
    service = document("digits-r7", "digits-r8").model_dump(mode="json")["services"][0]
    for arm, ranges, own in zip(service["arms"], ([[0, 4000]], [[4000, 10_000]]), us, strict=True):
        arm |= {"ranges": ranges, "slowMicroseconds": own}
    callers = {"keys": [], "networks": ["10.0.0.0/8"]}
    return document(arms=service["arms"], overrides=[{"header": "x-a", "value": "b", "arm": "a1", "callers": callers}])


def test_an_arms_value_says_what_counts_as_slow_and_another_threshold_is_another_table():
    def thresholds(*us: int | None) -> tuple[str, dict[str, str], dict[str, str]]:
        wanted = with_thresholds(*us)
        maps = maps_of(wanted, fit(Layout(), wanted))
        values = [value.split("!") for value in maps["ranges"].values()]
        (override,) = (value.split("!") for value in maps["overrides"].values())
        table = maps["splits"]["digits"].split("|")[5]
        return table, {name: slow for *_, name, slow in values}, {override[4]: override[5]}

    first, *found = thresholds(100_000, 120_000)
    assert found == [{"a0": "100000", "a1": "120000"}, {"a1": "120000"}]
    second, *found = thresholds(100_000, None)
    assert found == [{"a0": "100000", "a1": "-"}, {"a1": "-"}]
    assert first != second


def test_an_override_holds_for_every_network_inside_an_allowed_one():
    callers = {"keys": ["ops"], "networks": ["10.0.0.0/8"]}
    wanted = document(
        "digits-r7",
        overrides=[
            {"header": "X-Canary", "value": "yes", "arm": "a0", "callers": callers},
            {"header": "x-canary", "value": "no", "arm": "a0", "callers": {"networks": ["10.1.0.0/16", "fd00::/8"]}},
        ],
    )
    maps = maps_of(wanted, fit(Layout(), wanted))
    *_, table, flags = maps["splits"]["digits"].split("|")
    assert flags == "ro"
    value = "slot0!digits/att/3/a0/override!/digits-r7.app!0!a0!-"
    yes = ("kops", "n10.0.0.0/8", "n10.1.0.0/16")
    no = ("n10.1.0.0/16", "nfd00::/8")
    assert maps["overrides"] == {
        **{f"{table}|x-canary|yes|{caller}": value for caller in yes},
        **{f"{table}|x-canary|no|{caller}": value for caller in no},
    }
    assert set(maps["networks"]) == {"10.0.0.0/8", "10.1.0.0/16", "fd00::/8"}


def test_applications_keep_their_slots_and_give_them_back():
    first = fit(Layout(), document("a-r1", "a-r2"))
    assert first.slot_of == {"a-r1": "slot0", "a-r2": "slot1"}
    second = fit(first, document("a-r2", "a-r3"))
    # slot0 may still have requests of a-r1.
    assert second.slot_of == {"a-r2": "slot1", "a-r3": "slot2"}
    assert [holding.application for holding in second.leaving] == ["a-r1"]
    back = fit(second, document("a-r1", "a-r3"))
    assert back.slot_of == {"a-r1": "slot0", "a-r3": "slot2"}
    assert not first.needs_reload(back)


def test_slots_double_when_they_run_out_and_names_stay_until_the_next_reload():
    layout = Layout()
    for number in range(3):
        layout = fit(layout, document(*(f"b{number}-{n}" for n in range(8))))
    assert layout.slots == 32
    assert len({holding.slot for holding in (*layout.held, *layout.leaving)}) == 24
    with_header = fit(layout, document("c", header="X-A"))
    assert layout.needs_reload(with_header)
    assert fit(with_header, document("c")).units == ("header:x-a",)
    assert fit(with_header, document("c", header="x-b")).units == ("header:x-b",)
    assert not with_header.needs_reload(fit(with_header, document("c", header="x-A")))


def test_a_layout_survives_its_json():
    layout = fit(Layout(servers=(Server("slot0", "s", "1.2.3.4:5", 6),)), document("a", "b", header="x-u"))
    assert Layout.from_json(layout.as_json()) == layout


def test_the_configuration_has_every_slot_its_servers_and_every_header():
    layout = Layout(
        slots=17,
        units=("header:x-a", "cookie:sid", "jsonPath:$.a[0]"),
        overrides=("x-b",),
        servers=(Server("slot3", "10.0.0.1:1", "10.0.0.1:1", 6),),
    )
    text = render(Settings(http_bind="0.0.0.0:80"), layout, STATE)
    assert "backend slot16 from arm" in text
    assert "backend slot17" not in text
    assert (
        "backend slot3 from arm\n    timeout queue 5000ms\n    server 10.0.0.1:1 10.0.0.1:1 check inter 500 "
        "fastinter 100 downinter 500 observe layer4 error-limit 1 on-error mark-down fall 2 rise 1 maxconn 6\n" in text
    )
    assert "    bind 0.0.0.0:80\n" in text
    assert "req.fhdr(x-a,1)" in text
    assert "req.fhdr(x-b,1)" in text
    assert text == render(Settings(http_bind="0.0.0.0:80"), layout, STATE)


def waits(timeout: float, *applications: str) -> Document:
    return document(*applications, queue={"maxRequests": 7, "timeoutSeconds": timeout})


def test_a_wait_of_its_own_needs_one_reload_and_the_next_revision_none():
    layout = fit(Layout(), document("a-r1"))
    first = fit(layout, waits(2, "a-r1", "a-r2"))
    assert layout.needs_reload(first)
    assert {first.slot_of["a-r1"], first.slot_of["a-r2"]} < {slot for slot, ms in first.waits if ms == 2000}
    second = fit(first, waits(2, "a-r2", "a-r3"))
    assert not first.needs_reload(second)
    assert dict(second.waits)[second.slot_of["a-r3"]] == 2000
    assert first.needs_reload(fit(first, waits(3, "a-r1", "a-r2")))
    assert Layout.from_json(second.as_json()) == second
    assert "timeout queue 2000ms" in render(Settings(), second, STATE)


def test_only_services_that_ask_for_something_have_a_policy():
    asked = document(
        "digits-r7",
        auth={"apiKeys": "clients", "jwt": {"jwks": "issuer", "issuer": "https://i/a b", "audience": "d"}},
        rateLimit={"perClient": {"requests": 7, "seconds": 60}, "total": {"requests": 2, "seconds": 3600}},
        queue={"maxRequests": 0, "timeoutSeconds": 1},
    )
    maps = maps_of(asked, fit(Layout(), asked))
    assert maps["policies"] == {"digits": "clients|issuer|https://i/a b|d|7|60|9|2|3600|1800|0"}
    plain = waits(5, "digits-r7")
    maps = maps_of(plain, fit(Layout(), plain))
    assert maps["policies"] == {}
    assert maps["queues"] == {"slot0": "7"}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rateLimit": {"total": {"requests": 1, "seconds": 2}}}, "seconds"),
        ({"rateLimit": {"total": {"requests": 0, "seconds": 1}}}, "requests"),
        ({"auth": {"apiKeys": "../etc"}}, "apiKeys"),
        ({"auth": {"jwt": {"jwks": "issuer", "audience": "a|b"}}}, "audience"),
        ({"auth": {"jwt": {"jwks": "issuer", "issuer": "a\nb"}}}, "issuer"),
        ({"auth": {"jwt": {"jwks": ""}}}, "jwks"),
        ({"tls": "a b"}, "tls"),
        ({"queue": {"maxRequests": -1, "timeoutSeconds": 1}}, "maxRequests"),
    ],
)
def test_a_policy_that_no_map_can_hold_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        document("digits-r7", **changes)


def test_new_public_keys_and_grpc_need_a_reload_and_keys_that_go_do_not():
    layout = Layout(public_keys=("a.pem",))
    assert layout.needs_reload(Layout(public_keys=("a.pem", "b.pem")))
    assert not layout.needs_reload(Layout())
    assert layout.needs_reload(Layout(public_keys=("a.pem",), grpc=True))
    text = render(Settings(https_bind="0.0.0.0:443"), Layout(public_keys=("a.pem",), grpc=True), STATE)
    assert "backend slot15-grpc from call\n" in text
    assert 'jwt_verify("RS256","/tmp/x/public_keys/a.pem")' in text
    assert "    bind 0.0.0.0:443 ssl crt-list /tmp/x/certificates/list.txt alpn h2,http/1.1\n" in text
    assert "ssl crt-list" not in render(Settings(), Layout(), STATE)
