"""The operator's API and the model server read URIs alike: what is refused in one way or another is in one table."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from sundog_operator.api.model_deployment import ModelSource
from sundog_operator.api.scalars import MODEL_SCHEMES
from sundog_operator.api.validation import check
from sundog_runtime.errors import LoadFailed
from sundog_runtime.sources.uri import SCHEMES, parse_uri


def _table() -> ModuleType:
    spec = importlib.util.spec_from_file_location("uris", Path(__file__).with_name("uris.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _accepted(uri: str, digest: str) -> bool:
    _, violations = check(ModelSource, {"uri": uri, "digest": digest})
    return not violations


TABLE = _table()


def test_both_know_the_same_schemes() -> None:
    assert set(SCHEMES) == set(MODEL_SCHEMES)


@pytest.mark.parametrize(("uri", "digest"), TABLE.GOOD)
def test_what_the_model_server_opens_the_operator_accepts(uri: str, digest: str) -> None:
    parse_uri(uri, digest)
    assert _accepted(uri, digest)


@pytest.mark.parametrize(("uri", "digest", "says"), TABLE.REFUSED_BY_BOTH)
def test_what_both_refuse(uri: str, digest: str, says: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        parse_uri(uri, digest)
    assert says in caught.value.message
    assert not _accepted(uri, digest)


@pytest.mark.parametrize(("uri", "digest", "says"), TABLE.REFUSED_BY_THE_MODEL_SERVER)
def test_what_the_model_server_refuses_says_why_and_shows_no_secret(uri: str, digest: str, says: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        parse_uri(uri, digest)
    assert says in caught.value.message
    assert "secret" not in caught.value.message
    assert _accepted(uri, digest)
