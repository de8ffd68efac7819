"""Look-ups from Secrets: API keys, token keys, certificates. A broken part does not affect the others."""

import base64
import datetime as dt
import hashlib
import json
import os
from pathlib import Path
from unittest.mock import Mock

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from sundog_edge.errors import SecretError
from sundog_edge.security import secrets as security_secrets
from sundog_edge.security.certificates import MAX_PEM_BYTES, build_pem, make_self_signed
from sundog_edge.security.credentials import (
    MAX_KEYS_PER_SET,
    key_file_name,
    load_credentials,
    parse_api_keys,
    parse_jwks,
)
from sundog_edge.security.secrets import MAX_FILE_BYTES, SecretsDir
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


def test_a_self_signed_certificate_is_accepted_and_a_chain_above_a_buffer_is_not():
    pem = make_self_signed(dt.datetime.now(dt.UTC))
    certificate, _, key = pem.partition(b"-----BEGIN PRIVATE KEY-----")
    files = {"tls.crt": certificate, "tls.key": b"-----BEGIN PRIVATE KEY-----" + key}
    assert build_pem(files) == pem
    assert b"\n\n" not in build_pem({**files, "tls.crt": b"\n# note\n\n" + certificate})
    with pytest.raises(SecretError, match=rf"expected at most {MAX_PEM_BYTES}"):
        build_pem({**files, "tls.crt": certificate * 40})


def test_a_certificate_with_an_unsupported_key_is_a_problem():
    """One such Secret must not prevent the reading of others."""
    certificate, _, key = make_self_signed(dt.datetime.now(dt.UTC)).partition(b"-----BEGIN PRIVATE KEY-----")
    # The OID of elliptic curves, replaced by another of the same length.
    known, unknown = bytes.fromhex("06072a8648ce3d0201"), bytes.fromhex("06072a8648ce3d0209")
    der = x509.load_pem_x509_certificate(certificate).public_bytes(Encoding.DER).replace(known, unknown)
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
    with pytest.raises(SecretError, match=r"tls\.crt has a key of a type that is not supported"):
        build_pem({"tls.crt": pem, "tls.key": b"-----BEGIN PRIVATE KEY-----" + key})


def test_a_key_that_openssl_fails_on_is_a_problem():
    """An X448 key of the length of an X25519 key."""
    certificate, _, _ = make_self_signed(dt.datetime.now(dt.UTC)).partition(b"-----BEGIN PRIVATE KEY-----")
    der = bytes.fromhex("302e020100300506032b656f04220420") + bytes(32)
    pem = b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(der) + b"-----END PRIVATE KEY-----\n"
    with pytest.raises(SecretError, match=r"tls\.key is not a PEM private key"):
        build_pem({"tls.crt": certificate, "tls.key": pem})


def test_secrets_are_read_from_the_kubelets_layout(tmp_path: Path):
    for version, content in (("1", b"one"), ("2", b"two")):
        folder = tmp_path / "clients" / f"..v{version}"
        folder.mkdir(parents=True)
        (folder / "ada").write_bytes(content)
    (tmp_path / "clients" / "..data").symlink_to("..v1")
    (tmp_path / "clients" / "ada").symlink_to("..data/ada")
    secrets = SecretsDir(tmp_path)
    assert secrets.read(["clients", "gone"]) == {"clients": {"ada": b"one"}, "gone": {}}
    (tmp_path / "clients" / "new").symlink_to("..v2")
    (tmp_path / "clients" / "new").replace(tmp_path / "clients" / "..data")
    assert secrets.read(["clients"]) == {"clients": {"ada": b"two"}}
    (tmp_path / "clients" / "..v2" / "ada").unlink()
    assert secrets.read(["clients"]) == {"clients": {}}
    assert SecretsDir(None).read(["clients"]) == {"clients": {}}


def test_a_too_large_file_or_a_directory_counts_as_missing(tmp_path: Path):
    folder = tmp_path / "clients"
    (folder / "directory").mkdir(parents=True)
    with (folder / "large").open("wb") as file:
        os.truncate(file.fileno(), MAX_FILE_BYTES + 1)
    (folder / "ada").write_bytes(b"x")
    assert SecretsDir(tmp_path).read(["clients"]) == {"clients": {"ada": b"x"}}


def test_a_secret_that_changes_during_a_read_is_read_again(tmp_path, monkeypatch):
    folder = tmp_path / "clients"
    folder.mkdir()
    for name in ("a", "b"):
        (folder / name).write_bytes(b"old")
    read = security_secrets._content

    def swapped_in_between(file):
        content = read(file)
        if content == b"old":
            for name in ("a", "b"):
                (folder / f".{name}").write_bytes(b"new!")
                (folder / f".{name}").replace(folder / name)
        return content

    monkeypatch.setattr(security_secrets, "_content", swapped_in_between)
    assert SecretsDir(tmp_path).read(["clients"]) == {"clients": {"a": b"new!", "b": b"new!"}}
