"""Signed tokens: which are believed, and how keys change."""

import base64
import json
import time
from typing import Any

import aiohttp
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sundog_edge.split.assignment import json_unit, unit_bucket

pytestmark = pytest.mark.haproxy

ISSUER, AUDIENCE = "https://issuer.example/realms/a b", "digits"
SHARED = b"0123456789abcdef" * 4


def member(key: Any, kid: str | None, algorithm: str) -> dict[str, Any]:
    """A key as a member of a JSON Web Key Set."""
    makers = {"R": jwt.algorithms.RSAAlgorithm, "E": jwt.algorithms.ECAlgorithm, "H": jwt.algorithms.HMACAlgorithm}
    public = key if isinstance(key, bytes) else key.public_key()
    found = makers[algorithm[0]].to_jwk(public, as_dict=True)
    return {**found, "alg": algorithm, "use": "sig"} | ({} if kid is None else {"kid": kid})


def key_set(*members: dict[str, Any]) -> str:
    return json.dumps({"keys": list(members)})


class Keys:
    """Three keys, one of each kind, and what they sign."""

    def __init__(self) -> None:
        self.rsa = rsa.generate_private_key(65537, 2048)
        self.ec = ec.generate_private_key(ec.SECP256R1())
        self.other = ec.generate_private_key(ec.SECP256R1())

    def set(self) -> str:
        encryption = {**member(self.other, "enc", "ES256"), "use": "enc"}
        return key_set(
            member(self.rsa, "r/1", "RS256"), member(self.ec, "e", "ES256"), member(SHARED, "h", "HS256"), encryption
        )

    def sign(self, claims: str) -> str:
        """A token with exactly this payload."""
        return jwt.PyJWS().encode(claims.encode(), self.ec, "ES256", headers={"kid": "e"})

    def token(self, kid: str | None = "e", key: Any = None, algorithm: str = "ES256", **claims: Any) -> str:
        now = int(time.time())
        payload = {"iss": ISSUER, "aud": AUDIENCE, "exp": now + 600, "sub": "ada"} | claims
        payload = {name: value for name, value in payload.items() if value is not None}
        headers = {} if kid is None else {"kid": kid}
        return jwt.encode(payload, key or self.ec, algorithm, headers=headers)


def segment(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


def forged(keys: Keys, header: dict[str, Any], signature: str | None = None) -> str:
    """A good token's payload and signature below another header."""
    _, payload, own = keys.token().split(".")
    return f"{segment(header)}.{payload}.{own if signature is None else signature}"


LATER = 4_000_000_000
TIMES = [
    (f'"exp": {LATER}', 200),
    (f'"exp": {LATER}.5, "nbf": 1', 200),
    (f'"exp"\n:\n{LATER} , "expires": 1', 200),
    (f'"exp": {LATER}, "note": "\\"exp\\": 1, "', 200),
    (f'"exp": "{LATER}"', 401),
    (f'"exp": {LATER}e-5', 401),
    (f'"exp": [{LATER}]', 401),
    (f'"exp": {LATER}, "exp": 1', 401),
    (f'"exp": 1, "exp": {LATER}', 401),
    (f'"exp": {LATER}, "\\u0065xp": 1', 401),
    (f'"\\u0065xp": {LATER}', 401),
    (f'"claims": {{"exp": {LATER}}}', 401),
    (f'"exp": {LATER}, "claims": {{"exp": 1}}', 401),
    (f'"exp": {LATER}, "nbf": "1"', 401),
    (f'"exp": {LATER}, "nbf": 1, "nbf": {LATER}', 401),
    (f'"exp": {LATER}, "\\u006ebf": {LATER}', 401),
    (f'"exp": {LATER}, "nbf": 1, "\\u006Ebf": 9', 401),
]
"""Claims of time, as text, and what a token with them gets. Parsers differ in which of two members with one name they read."""


def cases(keys: Keys) -> list[tuple[str, str, int]]:
    now = int(time.time())
    pem = keys.rsa.public_key()
    confused = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256)
    header, payload = segment({"alg": "HS256", "kid": "r/1"}), keys.token().split(".")[1]
    public = jwt.algorithms.RSAAlgorithm.to_jwk(pem).encode()
    signature = base64.urlsafe_b64encode(confused.sign(f"{header}.{payload}".encode(), public)).decode().rstrip("=")
    return [
        ("ES256", keys.token(), 200),
        ("RS256", keys.token("r/1", keys.rsa, "RS256"), 200),
        ("HS256", keys.token("h", SHARED, "HS256"), 200),
        ("one of many audiences", keys.token(aud=["a", "b", AUDIENCE]), 200),
        ("expired within the skew", keys.token(exp=now - 20), 200),
        ("not before within the skew", keys.token(nbf=now + 20), 200),
        ("expired", keys.token(exp=now - 120), 401),
        ("without an expiry", keys.token(exp=None), 401),
        ("an expiry that is no number", keys.token(exp="never"), 401),
        ("not yet valid", keys.token(nbf=now + 600), 401),
        ("a start that is no number", keys.token(nbf="soon"), 401),
        ("another issuer", keys.token(iss="https://elsewhere.example"), 401),
        ("no issuer", keys.token(iss=None), 401),
        ("another audience", keys.token(aud="letters"), 403),
        ("other audiences", keys.token(aud=["letters", "words"]), 403),
        ("no audience", keys.token(aud=None), 403),
        ("a key that is not in the set", keys.token("e", keys.other), 401),
        ("a key for encryption", keys.token("enc", keys.other), 401),
        ("an unknown kid", keys.token("nobody"), 401),
        ("no kid, of several keys", keys.token(None), 401),
        ("another key's kid", keys.token("r/1"), 401),
        ("alg none", forged(keys, {"alg": "none", "kid": "e"}, ""), 401),
        ("alg none with a signature", forged(keys, {"alg": "none", "kid": "e"}), 401),
        ("the public key as a shared one", f"{header}.{payload}.{signature}", 401),
        ("a longer hash than the key is for", keys.token("h", SHARED, "HS512"), 401),
        ("a cut signature", keys.token()[:-8], 401),
        ("no signature", keys.token().rpartition(".")[0], 401),
        ("another payload", f"{segment({'alg': 'ES256', 'kid': 'e'})}.{segment({'exp': now + 9})}.AAAA", 401),
        *(
            (f"times {times}", keys.sign(f'{{"iss": "{ISSUER}", "aud": "{AUDIENCE}", {times}}}'), wanted)
            for times, wanted in TIMES
        ),
        ("no token", "nonsense", 401),
        ("dots", "..", 401),
    ]


def guarded(edge, **auth: Any) -> dict[str, Any]:
    arms = [edge.arm("stable", "digits-r7", [[0, 10_000]]), edge.arm("canary", "digits-r8", [], revision=8)]
    wanted = {"jwks": "issuer", "issuer": ISSUER, "audience": AUDIENCE, **auth}
    return edge.service("digits", arms, auth={"jwt": wanted})


async def status(edge, token: str) -> int:
    return (await edge.get("/digits/", headers={"authorization": f"Bearer {token}"})).status


async def becomes(edge, token: str, wanted: int) -> None:
    async def same() -> bool:
        return await status(edge, token) == wanted

    await edge.comes_true(same, f"{wanted}")


async def test_only_tokens_of_the_issuer_for_this_service_are_believed(edge, digits):
    keys = Keys()
    edge.secret("issuer", jwks__json=keys.set())
    await edge.apply(guarded(edge))
    assert (await edge.evidence())["services"]["digits"]["problems"] == []
    for name, token, wanted in cases(keys):
        response = await edge.get("/digits/", headers={"authorization": f"Bearer {token}"})
        assert response.status == wanted, name
        if wanted != 200:
            assert response.headers["content-type"] == "application/problem+json", name
            assert (await response.json(content_type=None))["status"] == wanted, name
    assert (await edge.get("/digits/")).status == 401
    assert all("authorization" not in {name.lower() for name in seen["headers"]} for seen in digits["stable"].seen)


async def test_issuer_and_audience_are_checked_where_they_are_given(edge, digits):
    keys = Keys()
    edge.secret("issuer", jwks__json=keys.set())
    await edge.apply(guarded(edge, issuer="", audience=""))
    assert await status(edge, keys.token(iss=None, aud=None)) == 200
    assert await status(edge, keys.token(exp=1)) == 401


async def test_keys_are_rotated_and_one_that_is_gone_is_believed_no_more(edge, digits):
    keys = Keys()
    edge.secret("issuer", jwks__json=key_set(member(keys.ec, None, "ES256")))
    await edge.apply(guarded(edge))
    # A set with one key also serves tokens that name none.
    assert await status(edge, keys.token(None)) == 200
    assert await status(edge, keys.token("anything")) == 401
    edge.secret("issuer", jwks__json=key_set(member(keys.ec, "old", "ES256"), member(keys.other, "new", "ES256")))
    await becomes(edge, keys.token("new", keys.other), 200)
    assert await status(edge, keys.token("old")) == 200
    edge.secret("issuer", jwks__json=key_set(member(keys.other, "new", "ES256")))
    await becomes(edge, keys.token("old"), 401)
    assert await status(edge, keys.token("new", keys.other)) == 200
    edge.secret("issuer", jwks__json="{}")
    await becomes(edge, keys.token("new", keys.other), 401)
    problems = (await edge.evidence())["services"]["digits"]["problems"]
    assert problems == ["Secret issuer jwks.json is not a JSON Web Key Set"]


async def test_the_subject_of_a_token_is_the_client_that_is_slowed(edge, digits):
    keys = Keys()
    edge.secret("issuer", jwks__json=keys.set())
    limit = {"perClient": {"requests": 2, "seconds": 3600}}
    await edge.apply({**guarded(edge), "rateLimit": limit})
    assert [await status(edge, keys.token(sub="ada")) for _ in range(3)] == [200, 200, 429]
    assert await status(edge, keys.token(sub="bob")) == 200


UNREADABLE = [None, {"id": "ada"}, "\u4e00\u4e01", ""]
"""Subjects that HAProxy does not read; PyJWT writes what is beyond ASCII as escapes."""


async def test_a_token_without_a_subject_that_can_be_read_is_slowed_by_its_address(edge, digits):
    keys = Keys()
    edge.secret("issuer", jwks__json=keys.set())
    limit = {"perClient": {"requests": len(UNREADABLE), "seconds": 3600}}
    await edge.apply({**guarded(edge), "rateLimit": limit})

    def signed(subject: Any) -> str:
        # The library refuses to write some of these as a subject.
        payload = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 600, "sub": subject}
        return jwt.PyJWS().encode(json.dumps(payload).encode(), keys.ec, "ES256", headers={"kid": "e"})

    async def status_from(address: str, token: str) -> int:
        headers = {"authorization": f"Bearer {token}"}
        connector = aiohttp.TCPConnector(local_addr=(address, 0))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.get(f"{edge.url}/digits/", headers=headers) as response,
        ):
            return response.status

    for subject in UNREADABLE:
        assert await status_from("127.0.0.1", signed(subject)) == 200, subject
    for subject in UNREADABLE:
        assert await status_from("127.0.0.1", signed(subject)) == 429, subject
        assert await status_from("127.0.0.2", signed(subject)) == 200, subject
    assert await status_from("127.0.0.1", keys.token(sub="ada")) == 200


@pytest.mark.parametrize("issuer", ["https://b.example/a b", "b; clear map #0", "b\\\\\"'#<<"])
async def test_a_policy_that_changes_in_place_is_taken_whole(edge, digits, issuer):
    # HAProxy's command line ends a value at a blank and a command at a semicolon; what comes after it must still hold.
    keys = Keys()
    edge.secret("issuer", jwks__json=keys.set())
    await edge.apply(guarded(edge))
    await edge.apply(guarded(edge, issuer=issuer))
    assert await status(edge, keys.token(iss=issuer)) == 200
    assert await status(edge, keys.token(iss=issuer, aud="letters")) == 403
    assert await status(edge, keys.token()) == 401


CLAIMS = ["ada", "7", 7, 7.9, True, "x y", 'quote"d', "back\\slash/", "%00|!;$HOME", 1 << 40]
WIDE = "\u00e9\u20ac \u96ea"
NOBODY = [None, "", [1], {"c": 1}, 1 << 53, WIDE]
"""PyJWT writes what is beyond ASCII as escapes, which HAProxy does not read."""


@pytest.mark.parametrize("claim", ["sub", "cognito:username"])
async def test_a_claim_of_a_believed_token_is_the_unit(edge, serve, claim):
    serve.targets = {"digits-r0": []}
    keys = Keys()
    edge.secret("issuer", jwks__json=keys.set())
    edge.secret("keys", ops="k" * 32)
    halves = [edge.arm("a0", "digits-r0", [[0, 5000]]), edge.arm("a1", "digits-r0", [[5000, 10_000]])]
    auth = {"jwt": {"jwks": "issuer", "issuer": ISSUER, "audience": AUDIENCE}, "apiKeys": "keys"}
    await edge.apply(edge.service("digits", halves, auth=auth, unit={"kind": "jwtClaim", "name": claim}))
    for value in [*CLAIMS, *(f"user-{number}" for number in range(30))]:
        token = keys.token(**{claim: value})
        response = await edge.get("/digits/", headers={"authorization": f"Bearer {token}"})
        wanted = f"a{int(unit_bucket('digits-salt', json_unit(value)) >= 5000)}"
        assert response.headers["x-sundog-arm"] == wanted, value
    payload = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 600, claim: WIDE}
    body = json.dumps(payload, ensure_ascii=False).encode()
    token = jwt.PyJWS().encode(body, keys.ec, "ES256", headers={"kid": "e"})
    response = await edge.get("/digits/", headers={"authorization": f"Bearer {token}"})
    assert response.headers["x-sundog-arm"] == f"a{int(unit_bucket('digits-salt', WIDE.encode()) >= 5000)}"
    sticky = len(CLAIMS) + 30 + 1
    for value in NOBODY:
        token = keys.token(**{claim: value})
        await edge.get("/digits/", headers={"authorization": f"Bearer {token}"})
    # Who comes with a key is nobody, whatever else it brings.
    await edge.get("/digits/", headers={"x-api-key": "k" * 32, "authorization": f"Bearer {keys.token()}"})
    forged_token = keys.token("e", keys.other, **{claim: "ada"})
    assert (await edge.get("/digits/", headers={"authorization": f"Bearer {forged_token}"})).status == 401
    counts: dict[str, int] = {}
    for row in (await edge.settled(sticky + len(NOBODY) + 1))["counters"]:
        counts[row["unit"]] = counts.get(row["unit"], 0) + row["assigned"]
    assert counts == {"sticky": sticky, "anonymous": len(NOBODY) + 1}


async def test_a_service_that_verifies_no_token_has_no_unit_of_a_claim(edge, serve):
    serve.targets = {"digits-r0": []}
    arms = [edge.arm("a0", "digits-r0", [[0, 10_000]])]
    await edge.apply(edge.service("digits", arms, unit={"kind": "jwtClaim", "name": "sub"}))
    await edge.get("/digits/", headers={"authorization": f"Bearer {Keys().token()}"})
    (row,) = (await edge.settled(1))["counters"]
    assert row["unit"] == "anonymous"
