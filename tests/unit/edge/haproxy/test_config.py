"""The configuration and the maps, as text."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import pytest

from sundog_edge.haproxy.config import render_config
from sundog_edge.haproxy.maps import build_maps
from sundog_edge.memory_limit import memory_limit_bytes
from sundog_edge.security.credentials import CallerCredentials
from sundog_edge.split.document import SplitDocument
from sundog_edge.split.layout import Layout, SlotServer, fit_layout
from sundog_edge.state_dir import HaproxyProcessSettings, StateDir

STATE = StateDir(Path("/tmp/x"))


def document(*applications: str, header: str = "", services: int = 1, **changes) -> SplitDocument:
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
    return SplitDocument.model_validate(
        {
            "version": 1,
            "namespace": "n",
            "generation": 1,
            "clusters": {"c": {"dashboard": "http://h:1"}},
            "services": made,
        }
    )


def test_one_value_selects_the_table_and_the_table_has_the_arms():
    wanted = document("digits-r7", "digits-r8", header="X-User", services=2)
    maps = build_maps(wanted, fit_layout(Layout(), wanted))
    table = maps["splits"]["digits"].split("|")[5]
    assert maps["splits"] == {
        "digits": f"salt|header:x-user|2500|3.5|99|{table}|r",
        "empty1": "salt|header:x-user|2500|3.5|99|-|r",
    }
    assert maps["ranges"] == {f"{table}/1": "slot0!digits/att/3/a0/assigned!/digits-r7.app!0!a0!-"}
    assert maps["hosts"] == {"digits.vision.svc": "digits"}
    assert maps["prefixes"] == {"slot0": "/digits-r7.app", "slot1": "/digits-r8.app"}


@pytest.mark.parametrize("changes", [{"epoch": 4}, {"attempt": "other"}, {"name": "x"}], ids=str)
def test_the_name_of_a_table_depends_on_its_content_only(changes):
    def tables(**own) -> set[str]:
        wanted = document("digits-r7", **own)
        return {key.split("/")[0] for key in build_maps(wanted, fit_layout(Layout(), wanted))["ranges"]}

    assert tables() == tables()
    assert tables() == tables(requestTimeoutSeconds=9.0)
    assert not tables() & tables(**changes)


def test_feedback_changes_the_arms_of_its_service_only():
    def maps(**own):
        override = {"header": "x-pick", "value": "v", "arm": "a0", "callers": {"networks": ["10.0.0.0/8"]}}
        wanted = document("digits-r7", header="X-User", overrides=[override], **own)
        return build_maps(wanted, fit_layout(Layout(), wanted), CallerCredentials(signing_key=b"\1\2"))

    plain, taking = maps(), maps(feedback={"metrics": ["m"]})
    (value,), (with_feedback,) = plain["ranges"].values(), taking["ranges"].values()
    assert with_feedback == f"{value}!att~3~a0"
    assert [*maps(feedback={"metrics": ["m"]}, reveal=False)["ranges"].values()] == [f"{value}!att~3~"]
    assert [*taking["overrides"].values()] == [*plain["overrides"].values()], "who chose is not exposed"
    assert [each["splits"]["digits"].split("|")[6] for each in (plain, taking)] == ["ro", "rof"]
    assert (plain["signing"], taking["signing"]) == ({}, {"newest": "AQI="})


def test_every_refusal_is_a_problem_document_or_a_grpc_status():
    """A rule that denies without a body gets HAProxy's own page."""
    wanted = document("digits-r7", "digits-r8", header="x-user")
    text = render_config(HaproxyProcessSettings(http_bind="0.0.0.0:80"), fit_layout(Layout(), wanted), STATE)
    rules = [line.strip() for line in text.splitlines()]
    assert not [
        rule for rule in rules if re.match(r"http-(request|response) (deny|tarpit|reject|silent-drop)|errorfile", rule)
    ]
    refusals = [rule for rule in rules if re.search(r"(return|http-error) status [45]", rule)]
    assert len(refusals) > 40
    # OpenFeature's clients read a document of their own.
    documents = ("application/problem+json", "application/json", "grpc-status")
    assert [rule for rule in refusals if not any(each in rule for each in documents)] == []


HOSTILE = 'a b|c"%[src]\\'


def matching(*headers: str, arm: str = "a1", **changes) -> SplitDocument:
    match = {"arm": arm, "headers": dict.fromkeys(headers, HOSTILE)} if headers else None
    return document("digits-r7", "digits-r8", match=match, **changes)


def test_matches_look_up_hashes_of_headers():
    wanted = matching("x-b", "x-a")
    maps = build_maps(wanted, fit_layout(Layout(), wanted))
    table = maps["splits"]["digits"].split("|")[5]
    digest = hashlib.sha256(HOSTILE.encode()).hexdigest()
    assert maps["splits"]["digits"].split("|")[6] == "rh"
    assert maps["matches"] == {
        f"{table}|x-a|{digest}": "+",
        f"{table}|x-b|{digest}": "+",
        f"{table}|2": "slot1!digits/att/3/a1/override!/digits-r8.app!1!a1!-",
    }
    assert {*maps["ranges"]} == {f"{table}/1"}
    assert maps["ranges"][f"{table}/1"].startswith("slot0!digits/att/3/a0/assigned!")


def test_other_headers_give_another_table_and_no_headers_the_earlier_one():
    def table(wanted: SplitDocument) -> str:
        return build_maps(wanted, fit_layout(Layout(), wanted))["splits"]["digits"].split("|")[5]

    tables = {table(matching(*headers, arm=arm)) for headers in (["x-a"], ["x-b"]) for arm in ("a0", "a1")}
    assert len(tables) == 4
    assert table(matching()) not in tables
    assert table(matching()) == table(document("digits-r7", "digits-r8")) == "c5deece6a84e6eee"


def test_a_new_header_name_needs_a_reload_and_its_rules_apply_where_needed():
    plain = fit_layout(Layout(), document("a-r1"))
    assert "matched" not in render_config(HaproxyProcessSettings(http_bind="0.0.0.0:80"), plain, STATE)
    wanted = matching("x-b", "x-a")
    asked = fit_layout(plain, wanted)
    assert plain.needs_reload(asked)
    assert asked.matches == ("x-a", "x-b")
    assert not asked.needs_reload(fit_layout(asked, matching("x-a")))
    assert Layout.from_json(asked.as_json()) == asked
    assert Layout.from_json({name: value for name, value in asked.as_json().items() if name != "matches"}).matches == ()
    text = render_config(HaproxyProcessSettings(http_bind="0.0.0.0:80"), asked, STATE)
    assert HOSTILE not in text
    assert text.index("txn.matched),map_str") < text.index("map_beg"), "before buckets decide"


def with_thresholds(*us: int | None, **further: int) -> SplitDocument:
    """Two arms that share the buckets, with thresholds of their own and common further ones, and an override for the second."""
    service = document("digits-r7", "digits-r8").model_dump(mode="json")["services"][0]
    for arm, ranges, own in zip(service["arms"], ([[0, 4000]], [[4000, 10_000]]), us, strict=True):
        arm |= {"ranges": ranges, "slowMicroseconds": own, **further}
    callers = {"keys": [], "networks": ["10.0.0.0/8"]}
    return document(arms=service["arms"], overrides=[{"header": "x-a", "value": "b", "arm": "a1", "callers": callers}])


def test_an_arms_value_has_its_slow_thresholds_and_another_threshold_gives_another_table():
    def thresholds(*us: int | None, **further: int) -> tuple[str, dict[str, str], dict[str, str]]:
        wanted = with_thresholds(*us, **further)
        maps = build_maps(wanted, fit_layout(Layout(), wanted))
        values = [value.split("!") for value in maps["ranges"].values()]
        (override,) = (value.split("!") for value in maps["overrides"].values())
        table = maps["splits"]["digits"].split("|")[5]
        return table, {name: slow for *_, name, slow in values}, {override[4]: override[5]}

    first, *found = thresholds(100_000, 120_000)
    assert found == [{"a0": "100000", "a1": "120000"}, {"a1": "120000"}]
    second, *found = thresholds(100_000, None)
    assert found == [{"a0": "100000", "a1": "-"}, {"a1": "-"}]
    third, *found = thresholds(100_000, 120_000, slowMicroseconds2=900, slowMicroseconds3=7)
    assert found == [{"a0": "100000,900,7", "a1": "120000,900,7"}, {"a1": "120000,900,7"}]
    assert len({first, second, third}) == 3


def test_an_override_applies_to_every_network_inside_an_allowed_one():
    callers = {"keys": ["ops"], "networks": ["10.0.0.0/8"]}
    wanted = document(
        "digits-r7",
        overrides=[
            {"header": "X-Canary", "value": "yes", "arm": "a0", "callers": callers},
            {"header": "x-canary", "value": "no", "arm": "a0", "callers": {"networks": ["10.1.0.0/16", "fd00::/8"]}},
        ],
    )
    maps = build_maps(wanted, fit_layout(Layout(), wanted))
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
    first = fit_layout(Layout(), document("a-r1", "a-r2"))
    assert first.slot_of == {"a-r1": "slot0", "a-r2": "slot1"}
    second = fit_layout(first, document("a-r2", "a-r3"))
    # slot0 may still have requests of a-r1.
    assert second.slot_of == {"a-r2": "slot1", "a-r3": "slot2"}
    assert [holding.application for holding in second.leaving] == ["a-r1"]
    back = fit_layout(second, document("a-r1", "a-r3"))
    assert back.slot_of == {"a-r1": "slot0", "a-r3": "slot2"}
    assert not first.needs_reload(back)


def test_slots_double_when_they_run_out_and_names_stay_until_the_next_reload():
    layout = Layout()
    for number in range(3):
        layout = fit_layout(layout, document(*(f"b{number}-{n}" for n in range(8))))
    assert layout.slots == 32
    assert len({holding.slot for holding in (*layout.held, *layout.leaving)}) == 24
    with_header = fit_layout(layout, document("c", header="X-A"))
    assert layout.needs_reload(with_header)
    assert fit_layout(with_header, document("c")).units == ("header:x-a",)
    assert fit_layout(with_header, document("c", header="x-b")).units == ("header:x-b",)
    assert not with_header.needs_reload(fit_layout(with_header, document("c", header="x-A")))


def test_a_layout_survives_its_json():
    layout = fit_layout(Layout(servers=(SlotServer("slot0", "s", "1.2.3.4:5", 6),)), document("a", "b", header="x-u"))
    assert Layout.from_json(layout.as_json()) == layout


def test_the_configuration_has_every_slot_its_servers_and_every_header():
    layout = Layout(
        slots=17,
        units=("header:x-a", "cookie:sid", "jsonPath:$.a[0]", "jwtClaim:cognito:username"),
        overrides=("x-b",),
        servers=(
            SlotServer("slot3", "10.0.0.1:1", "10.0.0.1:1", 6),
            SlotServer("slot4", "proxy", "10.0.0.2:1", 0, backup=True),
        ),
    )
    text = render_config(HaproxyProcessSettings(http_bind="0.0.0.0:80"), layout, STATE)
    assert "backend slot16 from arm" in text
    assert "backend slot17" not in text
    assert (
        "backend slot3 from arm\n    timeout queue 5000ms\n    server 10.0.0.1:1 10.0.0.1:1 check inter 500 "
        "fastinter 100 downinter 500 observe layer4 error-limit 1 on-error mark-down fall 2 rise 1 maxconn 6\n" in text
    )
    # One late check of the proxy of Serve does not answer what waits at zero.
    assert "    server proxy 10.0.0.2:1 check inter 500 fastinter 100 fall 2 rise 1 backup\n" in text
    assert "    bind 0.0.0.0:80\n" in text
    assert "req.fhdr(x-a,1)" in text
    (claim,) = (line for line in text.splitlines() if "$.cognito:username" in line)
    assert claim == (
        "    http-request set-var(txn.unit) var(txn.token),jwt_payload_query('$.cognito:username','int'),concat(,) "
        "if { var(txn.source) -m str jwtClaim:cognito:username } { var(txn.signed) -m int 1 }"
    )
    assert text.index("set-var(txn.signed) var(txn.token)") < text.index(claim)
    assert "req.fhdr(x-b,1)" in text
    assert text == render_config(HaproxyProcessSettings(http_bind="0.0.0.0:80"), layout, STATE)


@pytest.mark.parametrize(
    ("memory", "buffer", "wanted"), [(1 << 30, 16_384, 21_845), (1 << 30, 1 << 20, 508), (1 << 20, 1 << 20, 64)]
)
def test_buffers_take_half_of_the_memory(memory, buffer, wanted):
    text = render_config(HaproxyProcessSettings(memory_bytes=memory, buffer_bytes=buffer), Layout(), STATE)
    assert f"    tune.buffers.limit {wanted}\n" in text


def test_requests_of_an_address_are_limited_like_its_connections():
    assert "sc_conn_cur(7) gt 5 " in render_config(HaproxyProcessSettings(source_connections=5), Layout(), STATE)
    assert "sc_conn_cur" not in render_config(HaproxyProcessSettings(source_connections=0), Layout(), STATE)


def test_the_memory_limit_is_the_lower_one_of_container_and_machine(tmp_path):
    machine = memory_limit_bytes(())
    newer, older = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    assert memory_limit_bytes((newer, older)) == machine
    newer.write_text("max\n")
    assert memory_limit_bytes((newer, older)) == machine
    older.write_text(f"{1 << 62}\n")
    assert memory_limit_bytes((newer, older)) == machine
    newer.write_text("1048576\n")
    assert memory_limit_bytes((newer, older)) == 1 << 20


def waits(timeout: float, *applications: str) -> SplitDocument:
    return document(*applications, queue={"maxRequests": 7, "timeoutSeconds": timeout})


def test_a_new_wait_needs_one_reload_and_the_next_revision_none():
    layout = fit_layout(Layout(), document("a-r1"))
    first = fit_layout(layout, waits(2, "a-r1", "a-r2"))
    assert layout.needs_reload(first)
    assert {first.slot_of["a-r1"], first.slot_of["a-r2"]} < {slot for slot, ms in first.waits if ms == 2000}
    second = fit_layout(first, waits(2, "a-r2", "a-r3"))
    assert not first.needs_reload(second)
    assert dict(second.waits)[second.slot_of["a-r3"]] == 2000
    assert first.needs_reload(fit_layout(first, waits(3, "a-r1", "a-r2")))
    assert Layout.from_json(second.as_json()) == second
    assert "timeout queue 2000ms" in render_config(HaproxyProcessSettings(), second, STATE)


def test_only_services_with_a_policy_have_an_entry():
    asked = document(
        "digits-r7",
        auth={"apiKeys": "clients", "jwt": {"jwks": "issuer", "issuer": "https://i/a b", "audience": "d"}},
        rateLimit={"perClient": {"requests": 7, "seconds": 60}, "total": {"requests": 2, "seconds": 3600}},
        queue={"maxRequests": 0, "timeoutSeconds": 1},
    )
    maps = build_maps(asked, fit_layout(Layout(), asked))
    assert maps["policies"] == {"digits": "clients|issuer|https://i/a b|d|7|60|9|2|3600|1800|0"}
    plain = waits(5, "digits-r7")
    maps = build_maps(plain, fit_layout(Layout(), plain))
    assert maps["policies"] == {}
    assert maps["queues"] == {"slot0": "7"}


def test_arms_that_share_an_application_share_its_queue():
    asked = waits(5, "digits-r7")
    halves = [
        asked.services[0].arms[0].model_copy(update={"name": name, "weight": 45, "ranges": ((start, start + 5000),)})
        for name, start in (("stable", 0), ("control", 5000))
    ]
    service = asked.services[0].model_copy(update={"arms": tuple(halves)})
    shared = asked.model_copy(update={"services": (service,)})
    whole = asked.services[0].queue.share(90)
    assert build_maps(shared, fit_layout(Layout(), shared))["queues"] == {"slot0": str(whole)}


def test_answers_are_compressed_if_the_service_offers_it():
    plain, asked = document("digits-r7"), document("digits-r7", compression="gzip")
    assert "compression algo" not in render_config(HaproxyProcessSettings(), fit_layout(Layout(), plain), STATE)
    layout = fit_layout(fit_layout(Layout(), plain), asked)
    assert fit_layout(Layout(), plain).needs_reload(layout)
    assert Layout.from_json(layout.as_json()).compression
    text = render_config(HaproxyProcessSettings(), layout, STATE)
    # Only for arms: gRPC calls, feedback and the edge's own answers stay the same.
    assert text.count("compression algo gzip") == 1
    assert "compression algo gzip" in text[text.index("defaults arm from base") :]
    assert build_maps(asked, layout)["splits"]["digits"].split("|")[6] == "rz"


def test_cors_rules_come_with_the_first_service_and_allow_the_header_of_its_unit():
    plain = document("digits-r7")
    assert "access-control" not in render_config(HaproxyProcessSettings(), fit_layout(Layout(), plain), STATE)
    asked = document("digits-r7", header="X-User-Id", cors={"allowedOrigins": ["https://a.example", "http://b:3000"]})
    layout = fit_layout(fit_layout(Layout(), plain), asked)
    assert fit_layout(Layout(), plain).needs_reload(layout)
    assert Layout.from_json(layout.as_json()).cors
    assert "access-control" in render_config(HaproxyProcessSettings(), layout, STATE)
    maps = build_maps(asked, layout)
    assert maps["origins"] == {"digits|https://a.example": "https://a.example", "digits|http://b:3000": "http://b:3000"}
    origin, request, response, seconds, credentials = maps["cors"]["digits"].split("|")
    assert (origin, seconds, credentials) == ("", "600", "")
    assert {"authorization", "x-api-key", "x-user-id"} <= {*request.split(",")}
    assert {"retry-after", "x-request-id"} <= {*response.split(",")}
    # The rules stay after the last such service: their removal is no reason for a reload.
    assert fit_layout(layout, plain).cors
    assert build_maps(plain, fit_layout(layout, plain))["cors"] == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cors": {"allowedOrigins": []}}, "allowedOrigins"),
        ({"cors": {"allowedOrigins": ["https://a b"]}}, "allowedOrigins"),
        ({"cors": {"allowedOrigins": ["*"], "allowCredentials": True}}, "expected named origins with allowCredentials"),
        ({"cors": {"allowedOrigins": ["*"], "exposedHeaders": ["a,b"]}}, "exposedHeaders"),
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
def test_an_invalid_policy_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        document("digits-r7", **changes)


def test_new_public_keys_and_grpc_need_a_reload_and_removed_keys_do_not():
    layout = Layout(public_keys=("a.pem",))
    assert layout.needs_reload(Layout(public_keys=("a.pem", "b.pem")))
    assert not layout.needs_reload(Layout())
    assert layout.needs_reload(Layout(public_keys=("a.pem",), grpc=True))
    text = render_config(
        HaproxyProcessSettings(https_bind="0.0.0.0:443"), Layout(public_keys=("a.pem",), grpc=True), STATE
    )
    assert "backend slot15-grpc from call\n" in text
    assert 'jwt_verify("RS256","/tmp/x/public_keys/a.pem")' in text
    assert "    bind 0.0.0.0:443 ssl crt-list /tmp/x/certificates/list.txt alpn h2,http/1.1\n" in text
    assert "ssl crt-list" not in render_config(HaproxyProcessSettings(), Layout(), STATE)


SHADOW = {"arm": "a1", "percent": 20, "comparator": {"kind": "tolerance", "atol": 1, "path": "$.outputs[0]"}}


def test_a_shadow_needs_one_reload_and_adds_two_fields():
    plain, shadowed = document("digits-r7", "digits-r8"), document("digits-r7", "digits-r8", shadow=SHADOW)
    before, after = fit_layout(Layout(), plain), fit_layout(fit_layout(Layout(), plain), shadowed)
    assert before.needs_reload(after)
    assert not after.needs_reload(fit_layout(after, plain)), "its rules stay"
    assert Layout.from_json(after.as_json()) == after
    assert build_maps(shadowed, after)["splits"]["digits"].split("|")[7:] == ["2000", "a1"]
    assert build_maps(plain, after)["splits"]["digits"].split("|")[7:] == []
    assert "mirror" not in render_config(HaproxyProcessSettings(), before, STATE)
    text = render_config(HaproxyProcessSettings(), after, STATE)
    assert f"log {STATE.mirror_socket} len 65535 format rfc5424 local0 notice" in text
    assert text.count("http-response wait-for-body") == 1


@pytest.mark.parametrize(
    ("shadow", "message"),
    [
        ({"arm": "a9", "percent": 20}, "names arm 'a9'; expected an arm"),
        ({"arm": "a1", "percent": 0}, "greater than or equal to 1"),
        ({"arm": "a1", "percent": 20, "comparator": {"kind": "code"}}, "'exact', 'tolerance', 'argmax' or 'custom'"),
        ({"arm": "a1", "percent": 20, "comparator": {"kind": "custom"}}, "expected parts with kind custom"),
        ({"arm": "a1", "percent": 20, "comparator": {"path": "outputs"}}, "match pattern"),
        ({"arm": "a1", "percent": 20, "comparator": {"rtol": -1}}, "greater than or equal to 0"),
    ],
    ids=str,
)
def test_an_invalid_shadow_is_refused(shadow, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        document("digits-r7", "digits-r8", shadow=shadow)


@pytest.mark.parametrize(
    ("seconds", "wait", "hard_stop"), [(30, 5, 120), (95, 5, 120), (96, 5, 240), (95, 60, 240), (600, 5, 960)]
)
def test_a_replaced_worker_outlives_the_longest_request(seconds, wait, hard_stop):
    wanted = document("digits-r7", requestTimeoutSeconds=seconds, queue={"timeoutSeconds": wait})
    layout = fit_layout(Layout(), wanted)
    assert f"    hard-stop-after {hard_stop}s\n" in render_config(HaproxyProcessSettings(), layout, STATE)
    assert Layout().needs_reload(layout) is (hard_stop > 120)
    # Requests under the longer limit may still run. A shorter limit does not need a reload.
    assert fit_layout(layout, document("digits-r7")).drain_s == layout.drain_s
    assert Layout.from_json(layout.as_json()) == layout
    assert "    hard-stop-after 3000s\n" in render_config(HaproxyProcessSettings(drain_seconds=3000), layout, STATE)


def test_a_service_that_may_scale_to_zero_waits_longer_and_has_an_entry_while_it_is_there():
    sleepy = document("digits-r7", coldStartSeconds=90, queue={"maxRequests": 9, "timeoutSeconds": 1})
    layout = fit_layout(Layout(), sleepy)
    slot = layout.slot_of["digits-r7"]
    assert dict(layout.waits)[slot] == 90_000
    assert build_maps(sleepy, layout)["cold"] == {}
    cold = replace(layout, cold=(slot,))
    assert build_maps(sleepy, cold)["cold"] == {slot: "92500", "service:digits": "1"}
    assert build_maps(sleepy, replace(cold, grpc=True))["cold"] == {
        slot: "92500",
        f"{slot}-grpc": "92500",
        "service:digits": "1",
    }
    assert not layout.needs_reload(cold)
    assert Layout.from_json(cold.as_json()) == cold
    assert fit_layout(cold, sleepy).cold == (slot,)
    assert cold.cold_applications == {"digits-r7"}
    # A slot that another application gets is not cold.
    assert fit_layout(cold, document("letters-r1")).cold == ()
    assert build_maps(document("digits-r7"), cold)["cold"] == {}
