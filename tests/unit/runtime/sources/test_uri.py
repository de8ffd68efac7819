"""Which URIs lead to a model."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_runtime.errors import StartError
from sundog_runtime.sources.uri import FileUri, parse_uri


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///models/digits/v2", "/models/digits/v2"),
        ("file:///models/digits/v2/", "/models/digits/v2"),
        ("file:///models/a b@c/ü.pt", "/models/a b@c/ü.pt"),
    ],
)
def test_plain_uris_are_taken_literally(uri: str, path: str) -> None:
    found = parse_uri(uri)
    assert isinstance(found, FileUri)
    assert str(found.path) == path


@given(st.text(max_size=40))
def test_no_uri_leads_out_of_where_it_points(tail: str) -> None:
    try:
        found = parse_uri(f"file:///models/{tail}")
    except StartError:
        return
    assert isinstance(found, FileUri)
    path = found.path
    assert os.path.normpath(path) == str(path)
    assert path.is_relative_to("/models")
