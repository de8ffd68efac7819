"""Look-ups from Secrets: API keys and token keys. A broken part does not affect the others."""

import base64
import hashlib
import json
from unittest.mock import Mock

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from sundog_edge.errors import SecretError
from sundog_edge.security.certificates import build_pem
from sundog_edge.security.credentials import (
    MAX_KEYS_PER_SET,
    key_file_name,
    load_credentials,
    parse_api_keys,
    parse_jwks,
)
from sundog_edge.split.policies import Auth

GOOD = b"0123456789abcdef"


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ({}, "is missing or empty"),
        ({"ada": b"short"}, "file ada is not an API key; expected at least 16 printable ASCII characters"),
        ({"ada": b"0123456789 abcdef"}, "file ada is not an API key"),
        ({"ada": b"0123456789abcde\xff"}, "file ada is not an API key"),
        ({"ada": b"0123456789\nabcdef"}, "file ada is not an API key"),
        ({"a b": GOOD}, "file 'a b' does not have a valid client name"),
        ({"ada\n": GOOD}, r"file 'ada\n' does not have a valid client name"),
        ({"ada": GOOD, "bob": GOOD}, "file bob has the API key of ada"),
    ],
)
def test_a_broken_api_key_is_a_problem_and_the_others_count(files, wrong):
    found, problems = parse_api_keys({**files, **({"zoe": b"zoe-key-0123456789"} if files else {})})
    assert problems[0].startswith(wrong)
    assert len(problems) == 1
    assert (found.get(digest(b"zoe-key-0123456789")) == "zoe") is bool(files)


def test_an_api_key_is_stored_as_its_digest_without_outer_blanks():
    assert parse_api_keys({"ada": GOOD + b"\r\n"}) == ({digest(GOOD): "ada"}, ())


def member(key, **more):
    makers = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }
    maker = next(maker for kind, maker in makers.items() if isinstance(key, kind))
    return {**maker.to_jwk(key.public_key(), as_dict=True), **more}


def shared(content: bytes, **more):
    return {"kty": "oct", "k": base64.urlsafe_b64encode(content).decode().rstrip("="), **more}


def jwks(*members) -> dict[str, bytes]:
    return {"jwks.json": json.dumps({"keys": list(members)}).encode()}


CURVE = ec.generate_private_key(ec.SECP256R1())


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ({}, "is missing or empty"),
        ({"other": b"{}"}, "has no file jwks.json"),
        ({"jwks.json": b"{"}, "jwks.json is not a JSON Web Key Set"),
        ({"jwks.json": b"[]"}, "jwks.json is not a JSON Web Key Set"),
        (jwks(), f"jwks.json does not have 1 to {MAX_KEYS_PER_SET} keys"),
        (jwks(*[{}] * (MAX_KEYS_PER_SET + 1)), f"jwks.json does not have 1 to {MAX_KEYS_PER_SET} keys"),
        (jwks("x"), "key 0 of jwks.json is not readable"),
        (jwks({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}), "key 0 of jwks.json is not readable"),
        (jwks({"kty": "oct", "alg": "HS256"}), "key 0 of jwks.json is not readable"),
        (jwks(member(ed25519.Ed25519PrivateKey.generate())), "key 0 of jwks.json is for 'EdDSA'"),
        (jwks(member(CURVE, kid=7)), "key 0 of jwks.json has a kid that is not a string"),
        (jwks(shared(b"k" * 31, alg="HS256")), "key 0 of jwks.json is shared; expected at least 32 bytes"),
        (jwks(shared(b"k" * 31 + b"\0", alg="HS256")), "key 0 of jwks.json is shared; expected at least 32 bytes"),
    ],
)
def test_a_broken_key_set_is_a_problem(files, wrong):
    found, problems = parse_jwks(files)
    assert found == {}
    assert problems[0].startswith(wrong)


@pytest.mark.parametrize(
    ("auth", "admits"),
    [
        ({}, None),
        ({"apiKeys": "keys"}, True),
        ({"apiKeys": "short"}, False),
        ({"apiKeys": "absent"}, False),
        ({"jwt": {"jwks": "jwks"}}, True),
        ({"jwt": {"jwks": "encrypting"}}, False),
        # API keys are no keys of tokens.
        ({"jwt": {"jwks": "keys"}}, False),
        ({"apiKeys": "short", "jwt": {"jwks": "jwks"}}, True),
    ],
)
def test_a_service_lets_callers_in_by_any_usable_key(auth, admits):
    secrets = {
        "keys": {"ada": GOOD},
        "short": {"ada": b"short"},
        "jwks": jwks(member(CURVE)),
        "encrypting": jwks(member(CURVE, use="enc")),
    }
    service = Mock(auth=Auth.model_validate(auth))
    service.name = "digits"
    loaded = load_credentials(Mock(services=[service]), secrets, str)
    assert loaded.admitting.get("digits") is admits
    assert bool(loaded.problems) >= (admits is False), "where no caller is let in, a problem says why"


def test_valid_keys_of_a_set_count_and_determine_their_algorithms():
    found, problems = parse_jwks(
        jwks(
            member(CURVE, kid="e"),
            member(ed25519.Ed25519PrivateKey.generate(), kid="ed"),
            shared(b"k" * 32, kid="h", alg="HS256"),
            member(CURVE, kid="e"),
            member(CURVE, kid="for encryption", use="enc"),
        )
    )
    assert {key: algorithm for key, (algorithm, _) in found.items()} == {
        digest(b"e"): "ES256",
        digest(b"h"): "HS256",
    }
    assert len(problems) == 2
    pem = found[digest(b"e")][1]
    assert isinstance(pem, bytes)
    assert pem.startswith(b"-----BEGIN PUBLIC KEY-----")
    assert key_file_name(pem) != key_file_name(pem + b"\n")


def test_a_private_key_in_a_set_is_used_as_public_only():
    private = jwt.algorithms.ECAlgorithm.to_jwk(CURVE, as_dict=True)
    found, problems = parse_jwks(jwks({**private, "kid": "e"}))
    assert problems == ()
    # The only key also serves tokens without a key id.
    assert found[""] == found[digest(b"e")]
    assert b"PRIVATE" not in found[""][1]


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_no_content_of_a_secret_raises_anything_but_a_secret_error(first, second, third):
    parse_api_keys({"ada": first})
    parse_jwks({"jwks.json": second})
    with pytest.raises(SecretError):
        build_pem({"tls.crt": first, "tls.key": third})
