"""The configuration as text."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from split_documents import HOSTILE_VALUE, arms_document, matching_document
from sundog_edge.haproxy.config import render_config
from sundog_edge.haproxy.maps import build_maps
from sundog_edge.split.document import SplitDocument
from sundog_edge.split.layout import Layout, SlotServer, fit_layout
from sundog_edge.state_dir import HaproxyProcessSettings, StateDir

STATE = StateDir(Path("/tmp/x"))


def test_every_refusal_is_a_problem_document_or_a_grpc_status():
    """A rule that denies without a body gets HAProxy's own page."""
    wanted = arms_document("digits-r7", "digits-r8", header="x-user")
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


def test_a_new_header_name_needs_a_reload_and_its_rules_apply_where_needed():
    plain = fit_layout(Layout(), arms_document("a-r1"))
    assert "matched" not in render_config(HaproxyProcessSettings(http_bind="0.0.0.0:80"), plain, STATE)
    wanted = matching_document("x-b", "x-a")
    asked = fit_layout(plain, wanted)
    assert plain.needs_reload(asked)
    assert asked.matches == ("x-a", "x-b")
    assert not asked.needs_reload(fit_layout(asked, matching_document("x-a")))
    assert Layout.from_json(asked.as_json()) == asked
    assert Layout.from_json({name: value for name, value in asked.as_json().items() if name != "matches"}).matches == ()
    text = render_config(HaproxyProcessSettings(http_bind="0.0.0.0:80"), asked, STATE)
    assert HOSTILE_VALUE not in text
    assert text.index("txn.matched),map_str") < text.index("map_beg"), "before buckets decide"


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


def waits(timeout: float, *applications: str) -> SplitDocument:
    return arms_document(*applications, queue={"maxRequests": 7, "timeoutSeconds": timeout})


def test_a_new_wait_needs_one_reload_and_the_next_revision_none():
    layout = fit_layout(Layout(), arms_document("a-r1"))
    first = fit_layout(layout, waits(2, "a-r1", "a-r2"))
    assert layout.needs_reload(first)
    assert {first.slot_of["a-r1"], first.slot_of["a-r2"]} < {slot for slot, ms in first.waits if ms == 2000}
    second = fit_layout(first, waits(2, "a-r2", "a-r3"))
    assert not first.needs_reload(second)
    assert dict(second.waits)[second.slot_of["a-r3"]] == 2000
    assert first.needs_reload(fit_layout(first, waits(3, "a-r1", "a-r2")))
    assert Layout.from_json(second.as_json()) == second
    assert "timeout queue 2000ms" in render_config(HaproxyProcessSettings(), second, STATE)


def test_answers_are_compressed_if_the_service_offers_it():
    plain, asked = arms_document("digits-r7"), arms_document("digits-r7", compression="gzip")
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
    plain = arms_document("digits-r7")
    assert "access-control" not in render_config(HaproxyProcessSettings(), fit_layout(Layout(), plain), STATE)
    asked = arms_document(
        "digits-r7", header="X-User-Id", cors={"allowedOrigins": ["https://a.example", "http://b:3000"]}
    )
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


def test_a_shadow_needs_one_reload_and_adds_two_fields():
    shadow = {"arm": "a1", "percent": 20, "comparator": {"kind": "tolerance", "atol": 1, "path": "$.outputs[0]"}}
    plain, shadowed = arms_document("digits-r7", "digits-r8"), arms_document("digits-r7", "digits-r8", shadow=shadow)
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
    ("seconds", "wait", "hard_stop"), [(30, 5, 120), (95, 5, 120), (96, 5, 240), (95, 60, 240), (600, 5, 960)]
)
def test_a_replaced_worker_outlives_the_longest_request(seconds, wait, hard_stop):
    wanted = arms_document("digits-r7", requestTimeoutSeconds=seconds, queue={"timeoutSeconds": wait})
    layout = fit_layout(Layout(), wanted)
    assert f"    hard-stop-after {hard_stop}s\n" in render_config(HaproxyProcessSettings(), layout, STATE)
    assert Layout().needs_reload(layout) is (hard_stop > 120)
    # Requests under the longer limit may still run. A shorter limit does not need a reload.
    assert fit_layout(layout, arms_document("digits-r7")).drain_s == layout.drain_s
    assert Layout.from_json(layout.as_json()) == layout
    assert "    hard-stop-after 3000s\n" in render_config(HaproxyProcessSettings(drain_seconds=3000), layout, STATE)


def test_a_service_that_may_scale_to_zero_waits_longer_and_has_an_entry_while_it_is_there():
    sleepy = arms_document("digits-r7", coldStartSeconds=90, queue={"maxRequests": 9, "timeoutSeconds": 1})
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
    assert fit_layout(cold, arms_document("letters-r1")).cold == ()
    assert build_maps(arms_document("digits-r7"), cold)["cold"] == {}
