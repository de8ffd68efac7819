"""Certificates from Secrets."""

import base64
import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from sundog_edge.errors import SecretError
from sundog_edge.security.certificates import MAX_PEM_BYTES, build_pem, make_self_signed


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
