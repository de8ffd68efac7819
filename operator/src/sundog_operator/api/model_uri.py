"""Rules for model URIs: a URI that no model server would open is refused in the manifest.

The model server parses URIs itself and decides finally. A contract test compares both with one table.
"""

from typing import Final

from sundog_operator.api.schema.rules import Rule

# RE2, which the API server uses, and Python interpret these patterns alike.
_LABEL: Final = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_PORT: Final = "([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_AUTHORITY: Final = f"({_LABEL}([.]{_LABEL})*|\\[[0-9a-f:.]+\\])(:{_PORT})?"
BUCKET_PATTERN: Final = "[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]"
CLAIM_PATTERN: Final = f"{_LABEL}([.]{_LABEL})*"
_HUB_NAME: Final = "[A-Za-z0-9][A-Za-z0-9_.-]{0,95}"
_OCI_NAME: Final = "[a-z0-9]+([._-]+[a-z0-9]+)*"
_SHA256: Final = "sha256:[0-9a-f]{64}"

_ESCAPES: Final = "[%?#]"
_USER: Final = "[^/]*@"
_USER_OF: Final = {"hf": "[^/]*:[^/]*@"}
"""In an hf URI the commit follows an @."""

_FORMS: Final = {
    "file": ("file:///path", "/[^/].*"),
    "pvc": ("pvc://claim/path", f"{CLAIM_PATTERN}(/.*)?"),
    "https": (
        "https://host/path/file, of letters, digits and . _ ~ + = , : @ - /",
        f"{_AUTHORITY}/[A-Za-z0-9._~+=,:@/-]*[A-Za-z0-9._~+=,:@-]",
    ),
    "s3": ("s3://bucket/key", f"{BUCKET_PATTERN}/[^/].*"),
    "gs": ("gs://bucket/key", f"{BUCKET_PATTERN}/[^/].*"),
    "hf": ("hf://owner/name@commit/path", f"{_HUB_NAME}(/{_HUB_NAME})?(@[A-Za-z0-9_.-]{{1,100}}(/.+)?)?/?"),
    "oci": (
        f"oci://registry/repository@{_SHA256[:7]}<64 hex digits>",
        f"{_AUTHORITY}/{_OCI_NAME}(/{_OCI_NAME})*(:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(@{_SHA256})?",
    ),
}


def _make_form_rule(scheme: str, form: str, rest: str) -> Rule:
    # URIs that may contain a secret pass here, because this message shows the value. Other rules refuse them.
    start, whole = f"{scheme}://", f"^{scheme}://($|{rest}$|{_USER_OF.get(scheme, _USER)}|.*{_ESCAPES})"
    return Rule(
        cel=f"!self.startsWith('{start}') || self.matches(r'{whole}')",
        message="{}; expected the form " + form,
    )


_WITH_USER: Final = f"^[a-z0-9]+://{_USER}"
_COMMIT_BEHIND_NAME: Final = "^hf://[^/:]*@"
_SEGMENTS: Final = "^[a-z0-9]+://[^/]*(/[^/]+)*/?$"
_DOTS: Final = "/[.]{1,2}(/|$)"

NO_USER_RULE: Final = Rule(
    cel=f"!self.matches('{_WITH_USER}') || self.matches('{_COMMIT_BEHIND_NAME}')",
    # Without the value, which may contain a secret.
    message="contains user information before @; expected a URI without credentials",
)
NO_ESCAPES_RULE: Final = Rule(
    cel=f"!self.matches('{_ESCAPES}') && !self.contains('\\\\')",
    message="contains %, ?, # or a backslash; expected a URI without escapes, query or fragment",
)
PLAIN_SEGMENTS_RULE: Final = Rule(
    cel=f"!self.contains('://') || (self.matches('{_SEGMENTS}') && !self.matches('{_DOTS}'))",
    message="has an empty, . or .. segment in its path; expected only names",
)
URI_RULES: Final = (
    NO_USER_RULE,
    NO_ESCAPES_RULE,
    PLAIN_SEGMENTS_RULE,
    *(_make_form_rule(scheme, form, rest) for scheme, (form, rest) in _FORMS.items()),
)
"""Rules for the text of a URI; empty text passes."""

_COMMIT: Final = "@[0-9a-f]{40}(/|$)"
_PINNED: Final = f"@{_SHA256}$"
PIN_RULES: Final = (
    Rule(
        cel=f"!self.uri.startsWith('hf://') || self.digest != '' || self.uri.matches('{_COMMIT}')",
        message="{uri} can change; expected @ and a commit of 40 hex digits, or model.digest",
        field="uri",
    ),
    Rule(
        cel=f"!self.uri.startsWith('oci://') || self.digest != '' || self.uri.matches('{_PINNED}')",
        message="{uri} can change; expected @sha256: and 64 hex digits, or model.digest",
        field="uri",
    ),
    Rule(
        cel=(
            f"!self.uri.startsWith('oci://') || self.digest == '' || !self.uri.matches('{_PINNED}')"
            " || self.uri.endsWith('@' + self.digest)"
        ),
        message="{uri} has another digest than {digest}; expected the same",
        field="uri",
    ),
)
"""Rules for a URI together with the digest."""
