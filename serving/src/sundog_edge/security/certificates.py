"""Certificates of services: from the files of a Secret to the PEM that HAProxy loads. Pure, except `make_self_signed`."""

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from sundog_edge.errors import SecretError
from sundog_edge.split.document import SplitDocument

CERTIFICATE_FILE = "tls.crt"
KEY_FILE = "tls.key"
# A running HAProxy gets a certificate in one buffer of 16 kB.
MAX_PEM_BYTES = 14_000
_DEFAULT_YEARS = 10


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM and host names by Secret, for usable certificates; and the problems of the others."""

    pems: Mapping[str, bytes] = field(default_factory=dict)
    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def load_certificates(document: SplitDocument, secrets: Mapping[str, Mapping[str, bytes]]) -> Certificates:
    """Return the certificates that the services of a document name, with the hosts of each."""
    pems: dict[str, bytes] = {}
    hosts: dict[str, tuple[str, ...]] = {}
    problems: dict[str, tuple[str, ...]] = {}
    for service in document.services:
        if service.tls:
            hosts[service.tls] = tuple(sorted({*hosts.get(service.tls, ()), *service.hosts}))
    for secret in sorted(hosts):
        try:
            pems[secret] = build_pem(secrets.get(secret, {}))
        except SecretError as error:
            problems[secret] = (str(error),)
    return Certificates(pems, hosts, problems)


def keep_last_good(found: Certificates, before: Certificates, present: Iterable[str]) -> Certificates:
    """Return `found`, and for each broken Secret of `present` its certificate from `before`. The problem stays listed."""
    kept = {secret: before.pems[secret] for secret in present if secret in found.problems and secret in before.pems}
    return replace(found, pems={**found.pems, **kept})


def build_pem(files: Mapping[str, bytes]) -> bytes:
    """Return chain and key of a kubernetes.io/tls Secret as one PEM without blank lines. Raises SecretError, which states the problem."""
    for name in (CERTIFICATE_FILE, KEY_FILE):
        if name not in files:
            raise SecretError(f"has no file {name}" if files else "is missing or empty")
    try:
        chain = x509.load_pem_x509_certificates(files[CERTIFICATE_FILE])
    except (ValueError, InternalError):
        raise SecretError(f"{CERTIFICATE_FILE} is not a PEM certificate") from None
    try:
        key = serialization.load_pem_private_key(files[KEY_FILE], password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
        # The last one stands for errors of OpenSSL that the library does not know, such as that of an X448 key of another length.
        raise SecretError(f"{KEY_FILE} is not a PEM private key without a password") from None
    try:
        certified = chain[0].public_key()
    except (ValueError, UnsupportedAlgorithm, InternalError):
        raise SecretError(f"{CERTIFICATE_FILE} has a key of a type that is not supported") from None
    if key.public_key() != certified:
        raise SecretError(f"{KEY_FILE} does not belong to {CERTIFICATE_FILE}")
    pem = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    if len(pem) > MAX_PEM_BYTES:
        raise SecretError(f"has {len(pem)} bytes of certificates and key; expected at most {MAX_PEM_BYTES}")
    return pem


def make_self_signed(now: dt.datetime) -> bytes:
    """Return a self-signed certificate for hosts without one: HAProxy needs a certificate to start. No client trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sundog-edge.invalid")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=365 * _DEFAULT_YEARS))
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
