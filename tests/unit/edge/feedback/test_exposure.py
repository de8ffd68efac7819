"""Ids of exposures: only signed ones are read."""

import os
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_reference import sign_exposure
from sundog_edge.errors import SecretError
from sundog_edge.feedback.exposure import MAX_CHARACTERS, SignedExposure, _signature, verify_exposure
from sundog_edge.feedback.signing_keys import KEY_SETTLE_S, NO_KEYS, SigningKeyFile, SigningKeys, parse_keys

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


def test_a_file_has_one_key_or_two(tmp_path) -> None:
    assert parse_keys(KEY.hex().encode()) == (KEY,)
    assert parse_keys(f"\n {OTHER.hex()}\r\n{KEY.hex().upper()}\n".encode()) == (OTHER, KEY)
    for content, message in (
        ("", "has 0 keys"),
        (f"{'ab' * 16}\n" * 3, "has 3 keys"),
        ("ab" * 15, "line 1 is not a key; expected at least 32 hexadecimal digits"),
        (f"{'ab' * 16}\n{'zz' * 16}", "line 2 is not a key"),
        ("ab" * 16 + "a", "line 1 is not a key"),
    ):
        with pytest.raises(SecretError, match=message) as raised:
            parse_keys(content.encode())
        assert "abab" not in str(raised.value)


def test_a_new_key_signs_after_every_edge_can_have_it(tmp_path) -> None:
    file, clock = tmp_path / "key", [1000.0]
    reader = SigningKeyFile(file, lambda: clock[0])

    def write(*keys: bytes) -> None:
        file.write_text("\n".join(key.hex() for key in keys))
        os.utime(file, (clock[0], clock[0]))

    assert reader.read() == SigningKeys(problem=f"--signing-key {file} cannot be read: No such file or directory")
    write(KEY)
    assert reader.read() == SigningKeys(KEY, (KEY,))
    clock[0] += 500
    write(OTHER, KEY)
    assert reader.read() == SigningKeys(KEY, (OTHER, KEY))
    clock[0] += KEY_SETTLE_S - 1
    assert reader.read().signing == KEY
    clock[0] += 1
    assert reader.read() == SigningKeys(OTHER, (OTHER, KEY))
    file.write_text("nothing\n")
    broken = reader.read()
    assert (broken.signing, broken.accepted) == (b"", ())
    assert broken.problem.startswith(f"--signing-key {file} line 1 is not a key")
    write(KEY)
    assert reader.read().accepted == (KEY,)


def test_without_a_file_there_is_no_key() -> None:
    assert SigningKeyFile(None).read() == NO_KEYS
