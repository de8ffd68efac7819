"""Policies of a service that the split document may not have."""

import pytest

from split_documents import arms_document


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cors": {"allowedOrigins": []}}, "allowedOrigins"),
        ({"cors": {"allowedOrigins": ["https://a b"]}}, "allowedOrigins"),
        ({"cors": {"allowedOrigins": ["*"], "allowCredentials": True}}, "expected named origins with allowCredentials"),
        ({"cors": {"allowedOrigins": ["*"], "exposedHeaders": ["a,b"]}}, "exposedHeaders"),
        ({"rateLimit": {"total": {"requests": 1, "seconds": 2}}}, "seconds"),
        ({"rateLimit": {"total": {"requests": 0, "seconds": 1}}}, "requests"),
        ({"auth": {"apiKeys": "../etc"}}, "apiKeys"),
        ({"auth": {"jwt": {"jwks": "issuer", "audience": "a|b"}}}, "audience"),
        ({"auth": {"jwt": {"jwks": "issuer", "issuer": "a\nb"}}}, "issuer"),
        ({"auth": {"jwt": {"jwks": ""}}}, "jwks"),
        ({"tls": "a b"}, "tls"),
        ({"queue": {"maxRequests": -1, "timeoutSeconds": 1}}, "maxRequests"),
    ],
)
def test_an_invalid_policy_is_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        arms_document("digits-r7", **changes)
