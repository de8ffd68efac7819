"""What a file is by its content."""

from pathlib import Path

import pytest

from sundog_runtime.formats.detect import Content, detect_content


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", Content.EMPTY),
        (b"\x80\x04abc", Content.PICKLE),
        (b"PK\x03\x04 broken", Content.ZIP),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{}", Content.SAFETENSORS),
        (b"\x02\x00\x00\x00\x00\x00\x00\x00{]", Content.OTHER),
        (b"\xff\xff\xff\xff\xff\xff\xff\x7f{}", Content.OTHER),
        (b"hello, this is text", Content.OTHER),
    ],
)
def test_content(tmp_path: Path, content: bytes, found: Content) -> None:
    (tmp_path / "x").write_bytes(content)
    assert detect_content(tmp_path / "x") is found
