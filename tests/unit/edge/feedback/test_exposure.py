"""Ids of exposures: only signed ones are read."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_reference import sign_exposure
from sundog_edge.feedback.exposure import MAX_CHARACTERS, SignedExposure, _signature, verify_exposure

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
ONE = SignedExposure("digits-12-1", 3, "canary", 0x0123456789ABCDEF, 1_769_000_000)

tokens = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=63)
names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
exposures = st.builds(
    SignedExposure,
    tokens,
    st.integers(0, (1 << 63) - 1),
    names,
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 10**12 - 1),
)


@given(names, exposures)
def test_an_id_signed_with_either_key_is_read(service: str, exposure: SignedExposure) -> None:
    text = sign_exposure(KEY, service, exposure)
    assert len(text) <= MAX_CHARACTERS
    assert set(text) <= {*string.ascii_letters, *string.digits, *"-._~"}
    assert verify_exposure([KEY], service, text) == exposure
    assert verify_exposure([KEY], service, text, ["other"]) == exposure
    hidden = sign_exposure(KEY, service, exposure, reveal=False)
    assert len(hidden) <= MAX_CHARACTERS
    assert hidden.split("~")[3] == ""
    assert verify_exposure([OTHER, KEY], service, hidden, ["-other", exposure.arm, "-another"]) == exposure
    assert verify_exposure([KEY], service, hidden, ["-other"]) is None
    assert verify_exposure([KEY], service, hidden) is None
    assert verify_exposure([OTHER, KEY], service, text) == exposure
    assert verify_exposure([OTHER], service, text) is None
    assert verify_exposure([], service, text) is None
    assert verify_exposure([KEY], f"{service}x", text) is None


@given(st.data())
def test_no_id_with_another_byte_is_read(data: st.DataObject) -> None:
    text = sign_exposure(KEY, "digits", ONE)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.characters().filter(lambda character: character != text[place]))
    for changed in (
        text[:place] + other + text[place + 1 :],
        text[:place] + text[place + 1 :],
        text[:place] + other + text[place:],
    ):
        assert verify_exposure([KEY], "digits", changed) is None, changed


def test_every_other_character_at_every_place_is_refused() -> None:
    text = sign_exposure(KEY, "digits", ONE)
    for place, own in enumerate(text):
        for other in {*string.printable, "é", "\0"} - {own}:
            assert verify_exposure([KEY], "digits", text[:place] + other + text[place + 1 :]) is None


@given(st.text(max_size=300))
def test_arbitrary_text_is_not_an_id(text: str) -> None:
    assert verify_exposure([KEY], "digits", text) is None


@pytest.mark.parametrize(
    "text", ["2~a~0~b~0123456789abcdef~1", "1~a~0~b~0123456789ABCDEF~1", "1~a~-1~b~0123456789abcdef~1"]
)
def test_a_signed_text_of_another_shape_is_not_an_id(text: str) -> None:
    assert verify_exposure([KEY], "digits", f"{text}~{_signature(KEY, 'digits', 'b', text)}") is None
