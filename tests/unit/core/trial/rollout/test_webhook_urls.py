"""URLs for display contain no secrets."""

import pytest

from sundog_operator.core.trial.rollout import webhook_urls


@pytest.mark.parametrize(
    ("url", "place", "origin"),
    [
        ("https://ci.example/confirm", "https://ci.example/confirm", "https://ci.example"),
        ("https://ann:pw@ci.example:8443/a/b?token=t#frag", "https://ci.example:8443/a/b", "https://ci.example:8443"),
        ("http://ann@pw@ci/?x", "http://ci/", "http://ci"),
        ("http://[::1]:80", "http://[::1]:80", "http://[::1]:80"),
        ("https://ci/a\nb?token", "https://ci/ab", "https://ci"),
        ("http://[secret", webhook_urls.UNREADABLE_URL, webhook_urls.UNREADABLE_URL),
    ],
)
def test_a_shown_url_has_no_secrets(url: str, place: str, origin: str) -> None:
    assert (webhook_urls.redact_url(url), webhook_urls.url_origin(url)) == (place, origin)
