"""The operator's API and the model server read URIs alike: what is refused in one way or another is in one table."""

import pytest

import model_uris
from sundog_operator.api.model_deployment.model import ModelSource
from sundog_operator.api.scalars import MODEL_SCHEMES
from sundog_operator.api.schema.validation import validate
from sundog_runtime.errors import LoadFailed
from sundog_runtime.sources.uri import SCHEMES, parse_uri


def _violations(uri: str, digest: str) -> list[str]:
    _, violations = validate(ModelSource, {"uri": uri, "digest": digest})
    return [str(violation) for violation in violations]


def test_both_know_the_same_schemes() -> None:
    assert set(SCHEMES) == set(MODEL_SCHEMES)


@pytest.mark.parametrize(("uri", "digest"), model_uris.GOOD)
def test_what_the_model_server_opens_the_operator_accepts(uri: str, digest: str) -> None:
    parse_uri(uri, digest)
    assert not _violations(uri, digest)


@pytest.mark.parametrize(("uri", "digest", "message"), model_uris.REFUSED)
def test_what_both_refuse_and_neither_shows_a_secret(uri: str, digest: str, message: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        parse_uri(uri, digest)
    assert message in caught.value.message
    told = _violations(uri, digest)
    assert told
    assert "secret" not in " ".join((caught.value.message, *told))
