"""Authenticate callers by API key, compared by its SHA-256, or by signed token. Only for services whose policy requires it.

The cost does not depend on the number of keys: HAProxy looks up a digest, or the id of a token's key, in a map.
"""

from sundog_edge import headers
from sundog_edge.haproxy.names import CLIENT_ADDRESS, HAS_POLICY
from sundog_edge.haproxy.problems import render_refusal
from sundog_edge.split.layout import Layout
from sundog_edge.state_dir import StateDir

SKEW_S = 60
MAX_AUDIENCES = 8
AUTH_REQUIRED = "{ var(txn.guarded) -m bool }"
_KEYS = "{ var(txn.keys) -m len gt 0 }"
_JWKS = "{ var(txn.jwks) -m len gt 0 }"
HAS_VALID_TOKEN = "{ var(txn.signed) -m int 1 }"  # noqa: S105
"""Whether the request's token, `txn.token`, is valid for this service."""

# HAProxy's arithmetic reads text as 0, a time in the past.
_SECONDS = "^[0-9]{1,15}$"


def _name_pattern(claim: str) -> str:
    """Return a regular expression for a member of a token's payload, with the escapes that other parsers read as the same name."""
    letters = "".join(
        rf"({letter}|\\u00{ord(letter) >> 4:x}[{ord(letter) & 15:x}{ord(letter) & 15:X}])" for letter in claim
    )
    return f'"{letters}"[[:space:]]*:'


def _time_rules(claim: str, *, required: bool) -> str:
    """Return rules that refuse a token whose time claim is no plain number, or stands more than once, nested or not.

    HAProxy reads the first of two members with one name, and a number inside a text. Most other parsers read the last, or refuse them.
    """
    name = _name_pattern(claim)
    number = rf'"{claim}"[[:space:]]*:[[:space:]]*[0-9]{{1,15}}(\.[0-9]+)?[[:space:]]*[,}}]'
    # In the argument of a converter, quotes and backslashes are escaped once more.
    argument = name.replace("\\", "\\\\").replace('"', '\\"')
    refuse = f"    http-request set-var(txn.signed) int(0) if {HAS_VALID_TOKEN}"
    condition = "" if required else f" {{ var(txn.claims) -m reg '{name}' }}"
    return f"""{refuse}{condition} !{{ var(txn.claims) -m reg '{number}' }}
    http-request set-var(txn.others) 'var(txn.claims),regsub("{argument}","")' if {HAS_VALID_TOKEN}
{refuse} {{ var(txn.others) -m reg '{name}' }}
"""


def backend(layout: Layout, state: StateDir) -> str:
    """Return a backend that gets no request. HAProxy loads only public keys that its rules name."""
    lines = "".join(
        f'    http-request set-var(txn.signed) str(),jwt_verify("RS256","{state.public_key(file)}")\n'
        for file in layout.public_keys
    )
    return f"backend public-keys from base\n{lines}"


def rules(state: StateDir) -> str:
    """Return rules that set `txn.caller` (for rates) and `txn.client` (an API key's name), or answer 401 or 403."""
    unknown = render_refusal(
        401,
        "Unauthorized",
        "a valid API key or token of this service is needed",
        f"{AUTH_REQUIRED} !{{ var(txn.caller) -m found }}",
        f" hdr {headers.WWW_AUTHENTICATE} Bearer",
    )
    return f"""    http-request set-var(txn.keys) var(txn.policy),field(1,|) if {HAS_POLICY}
    http-request set-var(txn.jwks) var(txn.policy),field(2,|) if {HAS_POLICY}
    http-request set-var(txn.guarded) bool(true) if {_KEYS} || {_JWKS}
{_api_key_rules(state)}\
{_token_rules(state)}\
{unknown}"""


def _api_key_rules(state: StateDir) -> str:
    return f"""    http-request set-var(txn.credential) http_auth_bearer if {_KEYS}
    http-request set-var(txn.credential) req.fhdr({headers.API_KEY}) if {_KEYS} {{ req.fhdr({headers.API_KEY}) -m found }}
    http-request set-var(txn.digest) var(txn.credential),sha2(256),hex,lower if {_KEYS}
    http-request set-var(txn.client) var(txn.keys),concat(/,txn.digest),map_str({state.map("keys")}) if {_KEYS}
    http-request set-var(txn.caller) str(k),concat(/,txn.client) if {{ var(txn.client) -m found }}
"""


def _token_rules(state: StateDir) -> str:
    """Return rules for tokens. The `kid` selects the key. The key, never the token, determines the algorithm."""
    is_required = f"{_JWKS} !{{ var(txn.client) -m found }}"
    has_audience = "{ var(txn.audience) -m len gt 0 }"
    # A subject that HAProxy cannot read identifies no caller: as a key, it would be shared by all such tokens.
    has_subject = f"{HAS_VALID_TOKEN} {{ var(txn.subject) -m len gt 0 }}"
    audiences = "".join(
        f"    http-request set-var(txn.intended) bool(true) if {HAS_VALID_TOKEN} {has_audience} "
        f"{{ var(txn.token),jwt_payload_query('{path}'),strcmp(txn.audience) eq 0 }}\n"
        for path in ("$.aud", *(f"$.aud[{index}]" for index in range(MAX_AUDIENCES)))
    )
    wrong_audience = render_refusal(
        403,
        "Forbidden",
        "the token is not for this service",
        f"{HAS_VALID_TOKEN} {has_audience} !{{ var(txn.intended) -m bool }}",
    )
    return f"""    http-request set-var(txn.token) http_auth_bearer if {is_required}
    http-request set-var(txn.kid) var(txn.token),jwt_header_query('$.kid'),sha2(256),hex,lower if {is_required}
    http-request set-var(txn.jwk) var(txn.jwks),concat(/,txn.kid),map_str({state.map("tokens")}) if {is_required}
    http-request set-var(txn.alg) var(txn.jwk),field(1,|) if {is_required}
    http-request set-var(txn.key) var(txn.jwk),field(2,|) if {is_required}
    http-request set-var(txn.key) var(txn.key),ub64dec if {is_required} {{ var(txn.alg) -m beg HS }}
    http-request set-var(txn.signed) var(txn.token),jwt_verify(txn.alg,txn.key) \
if {is_required} {{ var(txn.token),jwt_header_query('$.alg'),strcmp(txn.alg) eq 0 }}
    http-request set-var(txn.now) date if {HAS_VALID_TOKEN}
    http-request set-var(txn.claims) var(txn.token),field(2,.),ub64dec if {HAS_VALID_TOKEN}
{_time_rules("exp", required=True)}\
{_time_rules("nbf", required=False)}\
    http-request set-var(txn.exp) var(txn.token),jwt_payload_query('$.exp','int') if {HAS_VALID_TOKEN}
    http-request set-var(txn.nbf) var(txn.token),jwt_payload_query('$.nbf','int') if {HAS_VALID_TOKEN}
    http-request set-var(txn.issuer) var(txn.policy),field(3,|) if {HAS_VALID_TOKEN}
    http-request set-var(txn.audience) var(txn.policy),field(4,|) if {HAS_VALID_TOKEN}
    http-request set-var(txn.signed) int(0) if {HAS_VALID_TOKEN} !{{ var(txn.exp) -m reg {_SECONDS} }}
    http-request set-var(txn.signed) int(0) if {HAS_VALID_TOKEN} !{{ var(txn.exp),sub(txn.now),add({SKEW_S}) ge 0 }}
    http-request set-var(txn.signed) int(0) if {HAS_VALID_TOKEN} {{ var(txn.nbf) -m found }} !{{ var(txn.nbf) -m reg {_SECONDS} }}
    http-request set-var(txn.signed) int(0) if {HAS_VALID_TOKEN} {{ var(txn.nbf) -m found }} !{{ var(txn.nbf),sub(txn.now) le {SKEW_S} }}
    http-request set-var(txn.signed) int(0) if {HAS_VALID_TOKEN} {{ var(txn.issuer) -m len gt 0 }} \
!{{ var(txn.token),jwt_payload_query('$.iss'),strcmp(txn.issuer) eq 0 }}
{audiences}\
{wrong_audience}\
    http-request set-var(txn.subject) var(txn.token),jwt_payload_query('$.sub') if {HAS_VALID_TOKEN}
    http-request set-var(txn.subject) var(txn.subject),xxh64 if {has_subject}
    http-request set-var(txn.caller) str(j),concat(/,txn.subject) if {has_subject}
    http-request set-var(txn.caller) {CLIENT_ADDRESS},concat() if {HAS_VALID_TOKEN} !{{ var(txn.caller) -m found }}
"""
