"""Keys that sign exposures."""

import os

import pytest

from sundog_edge.errors import SecretError
from sundog_edge.feedback.signing_keys import KEY_SETTLE_S, NO_KEYS, SigningKeyFile, SigningKeys, parse_keys

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))


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
