"""Credentials of callers, as HAProxy looks them up. Pure: files of Secrets in, map entries and key files out.

Only the SHA-256 of API keys is stored. HAProxy looks digests up in a map, so the duration reveals nothing about a key.
"""

import base64
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt
import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sundog_edge.errors import SecretError
from sundog_edge.split.document import SplitDocument
from sundog_edge.split.policies import Auth

JWKS_FILE = "jwks.json"
MIN_KEY_CHARACTERS = 16
MIN_HMAC_BYTES = 32
MIN_RSA_BITS = 2048
MAX_KEYS_PER_SET = 100

Files = Mapping[str, bytes]
"""File name → content, of one Secret."""


@dataclass(frozen=True, slots=True)
class CallerCredentials:
    """Entries of the maps `keys` and `tokens`, and other key material.

    Attributes:
        keys: `<secret>/<SHA-256 of the API key>` → client.
        tokens: `<secret>/<SHA-256 of the key id>` → `<algorithm>|<key>`: the path of a public key, or base64url of a shared one.
        public_keys: PEM by file name.
        problems: problems by Secret.
        admitting: whether a caller can have a credential, by service; only services with `auth`.
        signing_key: the key that signs exposures.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    public_keys: Mapping[str, bytes] = field(default_factory=dict)
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    admitting: Mapping[str, bool] = field(default_factory=dict)
    signing_key: bytes = b""


_CLIENT = re.compile(r"[A-Za-z0-9._-]{1,63}")

NO_CREDENTIALS = CallerCredentials()


def load_credentials(
    document: SplitDocument, secrets: Mapping[str, Files], path_of: Callable[[str], str]
) -> CallerCredentials:
    """Return the credentials that the services of `document` accept. `path_of` returns the path of a public key's file.

    A missing Secret lets no caller in. The valid parts of a broken Secret count.
    """
    keys: dict[str, str] = {}
    tokens: dict[str, str] = {}
    public_keys: dict[str, bytes] = {}
    problems: dict[str, tuple[str, ...]] = {}
    with_keys: set[str] = set()
    with_tokens: set[str] = set()
    for secret in sorted({service.auth.apiKeys for service in document.services} - {""}):
        clients, problems[secret] = parse_api_keys(secrets.get(secret, {}))
        keys |= {f"{secret}/{digest}": client for digest, client in clients.items()}
        with_keys |= {secret} if clients else set()
    for secret in sorted({service.auth.jwt.jwks for service in document.services if service.auth.jwt}):
        found, of_secret = parse_jwks(secrets.get(secret, {}))
        problems[secret] = (*problems.get(secret, ()), *of_secret)
        with_tokens |= {secret} if found else set()
        for key_id, (algorithm, key) in found.items():
            rendered = key if isinstance(key, str) else path_of(key_file_name(key))
            tokens[f"{secret}/{key_id}"] = f"{algorithm}|{rendered}"
            if isinstance(key, bytes):
                public_keys[key_file_name(key)] = key
    admitting = {
        service.name: service.auth.apiKeys in with_keys
        or (service.auth.jwt is not None and service.auth.jwt.jwks in with_tokens)
        for service in document.services
        if service.auth != Auth()
    }
    broken = {secret: found for secret, found in problems.items() if found}
    return CallerCredentials(keys, tokens, public_keys, broken, admitting)


def parse_api_keys(files: Files) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return SHA-256 of each key → client, and the problems of the other files."""
    found: dict[str, str] = {}
    problems: list[str] = [] if files else ["is missing or empty"]
    for client, content in sorted(files.items()):
        key = content.strip()
        if not _CLIENT.fullmatch(client):
            problems.append(f"file {client[:60]!r} does not have a valid client name")
        elif len(key) < MIN_KEY_CHARACTERS or not all(0x20 < byte < 0x7F for byte in key):
            problems.append(
                f"file {client} is not an API key; expected at least {MIN_KEY_CHARACTERS} printable ASCII characters"
            )
        else:
            other = found.setdefault(hashlib.sha256(key).hexdigest(), client)
            if other != client:
                problems.append(f"file {client} has the API key of {other}")
    return found, tuple(problems)


def parse_jwks(files: Files) -> tuple[dict[str, tuple[str, str | bytes]], tuple[str, ...]]:
    """Return SHA-256 of each key id → algorithm and key (PEM of a public key, base64url of a shared one), and the problems.

    A set with one key also serves tokens without a key id (id "").
    """
    content = files.get(JWKS_FILE)
    if content is None:
        return {}, (f"has no file {JWKS_FILE}" if files else "is missing or empty",)
    try:
        members = orjson.loads(content)["keys"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return {}, (f"{JWKS_FILE} is not a JSON Web Key Set",)
    if not isinstance(members, list) or not 0 < len(members) <= MAX_KEYS_PER_SET:
        return {}, (f"{JWKS_FILE} does not have 1 to {MAX_KEYS_PER_SET} keys",)
    found: dict[str, tuple[str, str | bytes]] = {}
    problems: list[str] = []
    for number, member in enumerate(_signing_members(members)):
        try:
            key_id, key = _token_key(member)
        except SecretError as error:
            problems.append(f"key {number} of {JWKS_FILE} {error}")
            continue
        if key_id in found:
            problems.append(f"key {number} of {JWKS_FILE} has the kid of another key")
        found.setdefault(key_id, key)
    if not found and not problems:
        problems.append(f"{JWKS_FILE} has no key for signatures")
    if len(found) == 1:
        found.setdefault("", next(iter(found.values())))
    return found, tuple(problems)


def key_file_name(pem: bytes) -> str:
    """Return the file name of a public key. Each key has its own name, so a file that HAProxy has loaded never changes."""
    return f"{hashlib.sha256(pem).hexdigest()[:32]}.pem"


def _signing_members(members: Iterable[Any]) -> list[Any]:
    return [member for member in members if not isinstance(member, dict) or member.get("use", "sig") == "sig"]


def _token_key(member: Any) -> tuple[str, tuple[str, str | bytes]]:
    try:
        parsed = jwt.PyJWK(member)
    except Exception:  # noqa: BLE001 the library raises more than it documents, such as KeyError for a key without `k`
        raise SecretError("is not readable, or its algorithm is not supported") from None
    key_id = parsed.key_id
    if key_id is not None and not isinstance(key_id, str):
        raise SecretError("has a kid that is not a string")
    name = "" if key_id is None else hashlib.sha256(key_id.encode()).hexdigest()
    return name, (parsed.algorithm_name, _key(parsed))


def _key(parsed: jwt.PyJWK) -> str | bytes:
    algorithm = parsed.algorithm_name
    key = parsed.key
    if algorithm in {"HS256", "HS384", "HS512"} and isinstance(key, bytes):
        if len(key) < MIN_HMAC_BYTES or 0 in key:
            raise SecretError(f"is shared; expected at least {MIN_HMAC_BYTES} bytes, none of them zero")
        return base64.urlsafe_b64encode(key).decode().rstrip("=")
    public = key.public_key() if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) else key
    if isinstance(public, rsa.RSAPublicKey) and algorithm in {"RS256", "RS384", "RS512"}:
        if public.key_size < MIN_RSA_BITS:
            raise SecretError(f"is RSA with {public.key_size} bits; expected at least {MIN_RSA_BITS}")
        return _pem(public)
    if isinstance(public, ec.EllipticCurvePublicKey) and algorithm in {"ES256", "ES384", "ES512"}:
        return _pem(public)
    raise SecretError(f"is for {algorithm[:20]!r}; expected RS, ES or HS with 256, 384 or 512")


def _pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
