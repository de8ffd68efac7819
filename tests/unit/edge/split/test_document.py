"""The split document is accepted or refused as a whole, with one line."""

import copy
import json

import pytest

from sundog_edge.errors import DocumentError
from sundog_edge.split.document import parse_document

GOOD = {
    "version": 1,
    "namespace": "vision",
    "generation": 17,
    "clusters": {"sundog": {"dashboard": "http://127.0.0.1:8265", "fallback": "127.0.0.1:8000"}},
    "services": [
        {
            "name": "digits",
            "hosts": ["digits.vision.svc", "digits.vision"],
            "cluster": "sundog",
            "attempt": "3b9f6d6e",
            "salt": "3b9f6d6e",
            "unit": {"kind": "request"},
            "epoch": 2,
            "arms": [
                {
                    "name": "stable",
                    "application": "digits-r7",
                    "routePrefix": "/digits-r7.app",
                    "revision": 7,
                    "weight": 75,
                    "ranges": [[2500, 10000]],
                },
                {
                    "name": "canary",
                    "application": "digits-r8",
                    "routePrefix": "/digits-r8.app",
                    "revision": 8,
                    "weight": 25,
                    "ranges": [[0, 2500]],
                },
            ],
            "requestTimeoutSeconds": 30.0,
            "maxRequestBytes": 10485760,
            "maxOngoingRequests": 64,
        }
    ],
}


def changed(path, value):
    document = copy.deepcopy(GOOD)
    place = document
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return document


def override(header="x-canary", value="yes", arm="stable", **callers):
    return {"header": header, "value": value, "arm": arm, "callers": callers}


def refusal(document, namespace="vision") -> str:
    with pytest.raises(DocumentError) as caught:
        parse_document(document if isinstance(document, bytes) else json.dumps(document).encode(), namespace)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


SERVICE = ("services", 0)
CANARY = (*SERVICE, "arms", 1)


def test_the_contracts_example_is_read():
    document = parse_document(json.dumps(GOOD).encode(), "vision")
    service = document.services[0]
    assert [(segment.end, service.arms[segment.arm].name) for segment in service.table] == [
        (2500, "canary"),
        (10_000, "stable"),
    ]


def test_slow_thresholds_are_per_arm_and_optional():
    document = parse_document(json.dumps(changed((*CANARY, "slowMicroseconds"), 275_000)).encode(), "vision")
    assert [arm.slow_us for arm in document.services[0].arms] == [(), (275_000,)]
    several = changed((*CANARY, "slowMicroseconds"), 275_000)
    several["services"][0]["arms"][1] |= {"slowMicroseconds2": 9000, "slowMicroseconds3": 500_000}
    assert parse_document(json.dumps(several).encode(), "vision").services[0].arms[1].slow_us == (
        275_000,
        9000,
        500_000,
    )


def test_feedback_is_optional_and_names_its_metrics():
    def feedback(value):
        return (
            parse_document(json.dumps(changed((*SERVICE, "feedback"), value)).encode(), "vision").services[0].feedback
        )

    assert parse_document(json.dumps(GOOD).encode(), "vision").services[0].feedback is None
    assert feedback(None) is None
    assert (feedback({"metrics": ["a"]}).metrics, feedback({"metrics": ["a"]}).maxUnits) == (("a",), 2_000_000)
    windowed = feedback({"metrics": ["a"], "windows": {"a": [60, 3600]}, "caps": {"a": [5]}})
    assert (windowed.windows, windowed.caps) == ({"a": (60, 3600)}, {"a": (5,)})
    assert feedback({"metrics": ["a"]}).windows == feedback({"metrics": ["a"]}).delayedWindows == {}
    delayed = feedback({"metrics": ["a"], "delayedWindows": {"a": [[60, 61], [86_400, 2_592_000]]}})
    assert delayed.delayedWindows == {"a": ((60, 61), (86_400, 2_592_000))}
    many = [f"A-{n}.b_" for n in range(25)]
    assert feedback({"metrics": ["a", "b"], "products": [["a", "b"]]}).products == (("a", "b"),)
    assert feedback({"metrics": ["a"], "covariates": [["a", "a"]]}).covariates == (("a", "a"),)
    assert feedback({"metrics": many, "maxUnits": 1, "later": 1}).metrics == (*many,)


def test_a_match_is_optional_and_names_headers_and_an_arm():
    def match(value):
        return parse_document(json.dumps(changed((*SERVICE, "match"), value)).encode(), "vision").services[0].match

    assert parse_document(json.dumps(GOOD).encode(), "vision").services[0].match is None
    headers = {"x-canary": "true", "x-b": 'any "text" | of \\ {ASCII}'}
    found = match({"arm": "canary", "headers": headers, "later": 1})
    assert (found.arm, found.headers) == ("canary", headers)


@pytest.mark.parametrize(
    ("arm", "headers"),
    [
        ("canary", {}),
        ("canary", {f"x-{number}": "1" for number in range(9)}),
        ("canary", {"X-Canary": "true"}),
        ("canary", {"x y": "true"}),
        ("canary", {"x,1)": "true"}),
        ("canary", {"x-canary\n    http-request deny": "true"}),
        ("canary", {"x" * 64: "true"}),
        ("canary", {"x": ""}),
        ("canary", {"x": " true"}),
        ("canary", {"x": "true\n"}),
        ("canary", {"x": "a\nb"}),
        ("canary", {"x": "\u00e9"}),
        ("canary", {"x": "v" * 257}),
        ("canary", {"x": 1}),
        ("other", {"x": "true"}),
    ],
    ids=str,
)
def test_an_invalid_match_is_refused(arm, headers):
    assert "match" in refusal(changed((*SERVICE, "match"), {"arm": arm, "headers": headers}))


def test_unknown_fields_are_ignored():
    assert parse_document(json.dumps(changed(("later",), 1)).encode(), "vision").generation == 17


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("version",), 2, ["version", "2"]),
        (("generation",), "17", ["generation", "'17'"]),
        (
            ("clusters", "sundog", "dashboard"),
            "file:///etc/passwd",
            ["clusters.sundog.dashboard", "file:///etc/passwd"],
        ),
        (
            ("clusters", "sundog", "dashboard"),
            "http://u:secret@h:1",
            ["clusters.sundog.dashboard", "without credentials", "'http://…@h:1'"],
        ),
        (("clusters", "sundog", "fallback"), "nowhere", ["clusters.sundog.fallback", "nowhere"]),
        ((*SERVICE, "name"), "Digits", ["services[0].name", "Digits"]),
        ((*SERVICE, "cluster"), "other", ["digits", "'other'"]),
        ((*SERVICE, "attempt"), "a b", ["services[0].attempt"]),
        ((*SERVICE, "salt"), "a|b", ["services[0].salt"]),
        ((*SERVICE, "unit"), {"kind": "header"}, ["unit.name"]),
        ((*SERVICE, "unit"), {"kind": "jwt", "name": "x"}, ["services[0].unit.kind", "jwt"]),
        ((*SERVICE, "unit"), {"kind": "cookie"}, ["unit.name"]),
        ((*SERVICE, "unit"), {"kind": "header", "name": "x y"}, ["services[0].unit", "'x y'"]),
        ((*SERVICE, "unit"), {"kind": "cookie", "name": "x'y"}, ["services[0].unit", "cookie"]),
        ((*SERVICE, "unit"), {"kind": "jsonPath", "name": "$.a')"}, ["services[0].unit", "jsonPath"]),
        ((*SERVICE, "unit"), {"kind": "jsonPath", "name": "a.b"}, ["services[0].unit", "jsonPath"]),
        ((*SERVICE, "unit"), {"kind": "jwtClaim"}, ["unit.name"]),
        ((*SERVICE, "unit"), {"kind": "jwtClaim", "name": "a.b"}, ["services[0].unit", "jwtClaim"]),
        ((*SERVICE, "unit"), {"kind": "jwtClaim", "name": "a','int') x"}, ["services[0].unit", "jwtClaim"]),
        ((*SERVICE, "unit"), {"kind": "jwtClaim", "name": "s" * 64}, ["services[0].unit", "jwtClaim"]),
        ((*SERVICE, "overrides"), [override(arm="other")], ["digits", "'other'"]),
        ((*SERVICE, "overrides"), [override(), override(header="X-CANARY")], ["x-canary: yes", "twice"]),
        ((*SERVICE, "overrides"), [override(value="a b")], ["overrides[0].value", "a b"]),
        ((*SERVICE, "overrides"), [override(networks=["10.0.0.1/8"])], ["10.0.0.1/8", "host bits"]),
        ((*SERVICE, "overrides"), [override(keys=["a"] * 65)], ["65 callers", "64"]),
        ((*SERVICE, "overrides"), [override(value=f"v{n}") for n in range(17)], ["17 overrides", "16"]),
        ((*CANARY, "slowMicroseconds"), 0, ["arms[1].slowMicroseconds", "0"]),
        ((*CANARY, "slowMicroseconds"), 86_400_000_001, ["arms[1].slowMicroseconds", "86400000001"]),
        ((*CANARY, "slowMicroseconds"), 0.25, ["arms[1].slowMicroseconds", "0.25"]),
        ((*CANARY, "slowMicroseconds2"), 0, ["arms[1].slowMicroseconds2", "0"]),
        ((*CANARY, "slowMicroseconds2"), 9000, ["arms[1]", "without the one before it"]),
        ((*SERVICE, "requestTimeoutSeconds"), 0, ["services[0].requestTimeoutSeconds", "0"]),
        # An ignored requirement would let every caller in.
        ((*SERVICE, "auth"), {"oidc": {}}, ["services[0].auth.oidc"]),
        ((*SERVICE, "auth"), {"jwt": {"jwks": "j", "issuers": []}}, ["services[0].auth.jwt.issuers"]),
        ((*SERVICE, "auth"), {"jwt": {"jwks": "j", "issuer": "a|b"}}, ["services[0].auth.jwt.issuer", "a|b"]),
        ((*SERVICE, "auth"), {"jwt": {"jwks": "j", "audience": "a\n"}}, ["services[0].auth.jwt.audience"]),
        ((*SERVICE, "auth"), {"apiKeys": "../etc"}, ["services[0].auth.apiKeys", "../etc"]),
        ((*SERVICE, "feedback"), {}, ["services[0].feedback.metrics"]),
        ((*SERVICE, "feedback"), {"metrics": []}, ["services[0].feedback.metrics"]),
        ((*SERVICE, "feedback"), {"metrics": ["a", "b"], "products": [["a", "c"]]}, ["a*c", "two different ones of"]),
        ((*SERVICE, "feedback"), {"metrics": ["a", "b"], "products": [["a", "a"]]}, ["a*a", "two different ones of"]),
        ((*SERVICE, "feedback"), {"metrics": ["a", "b"], "products": [["a", "b"]] * 2}, ["a*b"]),
        (
            (*SERVICE, "feedback"),
            {"metrics": ["a", "b"], "covariates": [["a", "c"]]},
            ["covariate c of a", "two of metrics"],
        ),
        ((*SERVICE, "feedback"), {"metrics": [f"m{n}" for n in range(71)]}, ["services[0].feedback.metrics", "70"]),
        ((*SERVICE, "feedback"), {"metrics": ["a/b"]}, ["services[0].feedback.metrics[0]", "a/b"]),
        ((*SERVICE, "feedback"), {"metrics": ["a\n"]}, ["services[0].feedback.metrics[0]"]),
        ((*SERVICE, "feedback"), {"metrics": ["m" * 64]}, ["services[0].feedback.metrics[0]"]),
        ((*SERVICE, "feedback"), {"metrics": ["a", "a"]}, ["services[0].feedback.metrics", "'a'", "twice"]),
        ((*SERVICE, "feedback"), {"metrics": ["a"], "maxUnits": 0}, ["services[0].feedback.maxUnits", "0"]),
        (
            (*SERVICE, "feedback"),
            {"metrics": ["a"], "windows": {"a": [59]}},
            ["services[0].feedback.windows.a[0]", "59"],
        ),
        *(
            (
                (*SERVICE, "feedback"),
                {"metrics": ["a"], "delayedWindows": {"a": [window]}},
                ["services[0].feedback.delayedWindows.a[0]", *words],
            )
            for window, words in (
                ([60, 60], ["[60, 60]", "expected a window that begins before its end"]),
                ([59, 60], ["59"]),
                ([60, 2_592_001], ["2592001"]),
                ([60], []),
            )
        ),
        ((*SERVICE, "maxRequestBytes"), 1 << 63, ["services[0].maxRequestBytes"]),
        ((*SERVICE, "epoch"), 1 << 63, ["services[0].epoch"]),
        ((*SERVICE, "hosts"), ["a\nb"], ["services[0].hosts[0]"]),
        ((*CANARY, "routePrefix"), "/a b", ["arms[1].routePrefix"]),
        ((*CANARY, "routePrefix"), "/a!b", ["arms[1].routePrefix"]),
        ((*CANARY, "application"), "digits-r7", ["digits-r7", "/digits-r8.app"]),
        ((*CANARY, "name"), "stable", ["'stable'", "twice"]),
        ((*CANARY, "ranges"), [[0, 2499]], ["digits", "bucket 2499 is not covered"]),
        ((*CANARY, "ranges"), [[0, 2501]], ["digits", "bucket 2500 is covered twice"]),
        ((*CANARY, "ranges"), [[5, 5], [0, 2500]], ["[5, 5]", "empty"]),
        ((*CANARY, "ranges"), [[0, 10_001]], ["ranges[0]", "10001"]),
        ((*CANARY, "ranges"), [[0, 2500, 3]], ["ranges[0]"]),
    ],
)
def test_a_violation_names_the_field_and_the_value(path, value, words):
    message = refusal(changed(path, value))
    for word in words:
        assert word in message


def test_more_arms_or_segments_than_fit_are_refused():
    arms = [
        {**GOOD["services"][0]["arms"][0], "name": f"a{n}", "application": f"x-{n}", "ranges": []} for n in range(12)
    ]
    assert "12 arms; expected at most 11" in refusal(changed((*SERVICE, "arms"), arms))
    many = copy.deepcopy(GOOD)
    for number, arm in enumerate(many["services"][0]["arms"]):
        arm["ranges"] = [[start, start + 20] for start in range(number * 20, 10_000, 40)]
    assert "500 segments; expected at most 256" in refusal(many)


def test_names_hosts_and_applications_belong_to_one_service():
    twin = copy.deepcopy(GOOD["services"][0])
    assert "service name 'digits'" in refusal(changed(("services",), [twin, twin]))
    other = {**twin, "name": "other"}
    assert "host 'digits.vision.svc'" in refusal(changed(("services",), [twin, other]))
    assert "application digits-r7" in refusal(changed(("services",), [twin, {**other, "hosts": []}]))


def test_invalid_documents_are_refused():
    assert "JSON" in refusal(b"{")
    assert "JSON" in refusal(b"\xff")
    assert "bytes" in refusal(b" " * (5 << 20))
    assert "'vision'" in refusal(GOOD, namespace="other")
    assert "'other'" in refusal(GOOD, namespace="other")
