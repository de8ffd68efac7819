"""What callers prove who they are with, as HAProxy looks it up. Pure: the files of Secrets in, map entries and key files out.

API keys are kept as SHA-256 only. HAProxy compares digests by a look-up, so how long it takes says nothing about a key.
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

JWKS_FILE = "jwks.json"
MIN_KEY_CHARACTERS = 16
MIN_HMAC_BYTES = 32
MIN_RSA_BITS = 2048
MAX_KEYS_PER_SET = 100

Files = Mapping[str, bytes]
"""File name → content, of one Secret."""


@dataclass(frozen=True, slots=True)
class CallerCredentials:
    """What `keys` and `tokens` hold, the files of public keys by name (PEM), what is wrong, by Secret, and what exposures are signed with.

    `keys`: `<secret>/<SHA-256 of the API key>` → client. `tokens`: `<secret>/<SHA-256 of the id>` → `<algorithm>|<key>`, where a key is
    the path of a public one, or base64url of a shared one.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)
    public_keys: Mapping[str, bytes] = field(default_factory=dict)
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    signing_key: bytes = b""


_CLIENT = re.compile(r"[A-Za-z0-9._-]{1,63}")

NO_CREDENTIALS = CallerCredentials()


def load_credentials(
    document: SplitDocument, secrets: Mapping[str, Files], path_of: Callable[[str], str]
) -> CallerCredentials:
    """Everything that services of `document` accept; `path_of` tells where a public key's file will be.

    A Secret that is missing lets nobody in; of one that is broken in part the rest counts.
    """
    keys: dict[str, str] = {}
    tokens: dict[str, str] = {}
    public_keys: dict[str, bytes] = {}
    problems: dict[str, tuple[str, ...]] = {}
    for secret in sorted({service.auth.apiKeys for service in document.services} - {""}):
        clients, problems[secret] = parse_api_keys(secrets.get(secret, {}))
        keys |= {f"{secret}/{digest}": client for digest, client in clients.items()}
    for secret in sorted({service.auth.jwt.jwks for service in document.services if service.auth.jwt}):
        found, wrong = parse_jwks(secrets.get(secret, {}))
        problems[secret] = (*problems.get(secret, ()), *wrong)
        for key_id, (algorithm, key) in found.items():
            shown = key if isinstance(key, str) else path_of(key_file_name(key))
            tokens[f"{secret}/{key_id}"] = f"{algorithm}|{shown}"
            if isinstance(key, bytes):
                public_keys[key_file_name(key)] = key
    return CallerCredentials(keys, tokens, public_keys, {secret: wrong for secret, wrong in problems.items() if wrong})


def parse_api_keys(files: Files) -> tuple[dict[str, str], tuple[str, ...]]:
    """SHA-256 of each key → client, and what is wrong with the others."""
    found: dict[str, str] = {}
    wrong: list[str] = [] if files else ["is missing or empty"]
    for client, content in sorted(files.items()):
        key = content.strip()
        if not _CLIENT.fullmatch(client):
            wrong.append(f"file {client[:60]!r} has no name of a client")
        elif len(key) < MIN_KEY_CHARACTERS or not all(0x20 < byte < 0x7F for byte in key):
            wrong.append(
                f"{client} is no API key: at least {MIN_KEY_CHARACTERS} printable ASCII characters are expected"
            )
        else:
            other = found.setdefault(hashlib.sha256(key).hexdigest(), client)
            if other != client:
                wrong.append(f"{client} has the API key of {other}")
    return found, tuple(wrong)


def parse_jwks(files: Files) -> tuple[dict[str, tuple[str, str | bytes]], tuple[str, ...]]:
    """SHA-256 of each key's id → its algorithm and the key (PEM of a public one, base64url of a shared one), and what is wrong.

    A set with one key also serves tokens that name none (id "").
    """
    content = files.get(JWKS_FILE)
    if content is None:
        return {}, (f"has no file {JWKS_FILE}" if files else "is missing or empty",)
    try:
        members = orjson.loads(content)["keys"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return {}, (f"{JWKS_FILE} is no JSON Web Key Set",)
    if not isinstance(members, list) or not 0 < len(members) <= MAX_KEYS_PER_SET:
        return {}, (f"{JWKS_FILE} needs 1 to {MAX_KEYS_PER_SET} keys",)
    found: dict[str, tuple[str, str | bytes]] = {}
    wrong: list[str] = []
    for number, member in enumerate(_signing(members)):
        try:
            key_id, key = _token_key(member)
        except SecretError as error:
            wrong.append(f"key {number} of {JWKS_FILE} {error}")
            continue
        if key_id in found:
            wrong.append(f"key {number} of {JWKS_FILE} has the kid of another")
        found.setdefault(key_id, key)
    if len(found) == 1:
        found.setdefault("", next(iter(found.values())))
    return found, tuple(wrong)


def key_file_name(pem: bytes) -> str:
    """The name of a public key's file: another key has another name, so that what HAProxy has loaded never changes under it."""
    return f"{hashlib.sha256(pem).hexdigest()[:32]}.pem"


def _signing(members: Iterable[Any]) -> list[Any]:
    return [member for member in members if not isinstance(member, dict) or member.get("use", "sig") == "sig"]


def _token_key(member: Any) -> tuple[str, tuple[str, str | bytes]]:
    try:
        parsed = jwt.PyJWK(member)
    except (jwt.PyJWTError, AttributeError, TypeError, ValueError):
        raise SecretError("cannot be read, or is for an algorithm that is not supported") from None
    key_id = parsed.key_id
    if key_id is not None and not isinstance(key_id, str):
        raise SecretError("has a kid that is no string")
    name = "" if key_id is None else hashlib.sha256(key_id.encode()).hexdigest()
    return name, (parsed.algorithm_name, _key(parsed))


def _key(parsed: jwt.PyJWK) -> str | bytes:
    algorithm = parsed.algorithm_name
    key = parsed.key
    if algorithm in {"HS256", "HS384", "HS512"} and isinstance(key, bytes):
        if len(key) < MIN_HMAC_BYTES or 0 in key:
            raise SecretError(f"is shared and needs at least {MIN_HMAC_BYTES} bytes, none of them zero")
        return base64.urlsafe_b64encode(key).decode().rstrip("=")
    public = key.public_key() if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) else key
    if isinstance(public, rsa.RSAPublicKey) and algorithm in {"RS256", "RS384", "RS512"}:
        if public.key_size < MIN_RSA_BITS:
            raise SecretError(f"is RSA of {public.key_size} bits, at least {MIN_RSA_BITS} are needed")
        return _pem(public)
    if isinstance(public, ec.EllipticCurvePublicKey) and algorithm in {"ES256", "ES384", "ES512"}:
        return _pem(public)
    raise SecretError(f"is for {algorithm[:20]!r}; RS, ES and HS 256, 384 and 512 are supported")


def _pem(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
