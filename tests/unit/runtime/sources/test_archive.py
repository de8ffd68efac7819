"""Untrusted archives: which members are unpacked, and which are refused."""

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sundog_runtime.errors import LoadFailed, ModelTooLarge, SourceRefused, StartError
from sundog_runtime.sources import archive
from sundog_runtime.sources.archive import check_member_name, is_archive, unpack

GIB = 1024**3
FILES = {"a.safetensors": b"weights", "code/net.py": b"class Net: ...", "empty": b""}


def tar_with(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for member, body in members:
            member.size = len(body) if member.isreg() else member.size
            tar.addfile(member, io.BytesIO(body))
    return buffer.getvalue()


def named(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def zip_with(*members: tuple[str | zipfile.ZipInfo, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as packed:
        for name, body in members:
            packed.writestr(name, body)
    return buffer.getvalue()


def zip_mode(name: str, mode: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.external_attr = mode << 16
    return member


def long_names(count: int) -> bytes:
    """Return headers that each give a name to the next one, without a file at the end."""
    header = named("././@LongLink", tarfile.GNUTYPE_LONGNAME)
    header.size = 1
    return (header.tobuf(tarfile.GNU_FORMAT) + b"a".ljust(512, b"\0")) * count


def plain_tar() -> bytes:
    return tar_with(
        (named("code", tarfile.DIRTYPE), b""), *((named(f"./{name}"), body) for name, body in FILES.items())
    )


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "around" / "model").mkdir(parents=True)
    return tmp_path / "around" / "model"


def unpacked(body: bytes, name: str, into: Path, most: int = GIB) -> dict[str, bytes]:
    path = into.parent / name
    path.write_bytes(body)
    written = unpack(path, into, most)
    found = {p.relative_to(into).as_posix(): p.read_bytes() for p in into.rglob("*") if p.is_file()}
    assert written == sum(map(len, found.values()))
    return found


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("m.tar", plain_tar),
        ("m.tar.gz", lambda: gzip.compress(plain_tar())),
        ("m.tgz", lambda: gzip.compress(plain_tar())),
        ("compressed-after-all.tar", lambda: gzip.compress(plain_tar())),
        ("m.zip", lambda: zip_with(*FILES.items())),
        ("stored.zip", lambda: zip_with(*FILES.items(), compression=zipfile.ZIP_STORED)),
    ],
)
def test_plain_files_are_unpacked(name: str, make: Callable[[], bytes], into: Path) -> None:
    assert unpacked(make(), name, into) == FILES
    assert sorted(path.name for path in into.parent.iterdir()) == sorted([name, "model"])


LONG = "x" * 200
REFUSED = {
    "parent": tar_with((named("../evil"), b"x")),
    "parent inside": tar_with((named("a/../../evil"), b"x")),
    "absolute": tar_with((named("/evil"), b"x")),
    "symbolic link": tar_with((named("x", tarfile.SYMTYPE, "/etc/passwd"), b"")),
    "link, then through it": tar_with((named("x", tarfile.SYMTYPE, ".."), b""), (named("x/evil"), b"x")),
    "hard link": tar_with((named("a"), b"x"), (named("x", tarfile.LNKTYPE, "a"), b"")),
    "device": tar_with((named("x", tarfile.CHRTYPE), b"")),
    "pipe": tar_with((named("x", tarfile.FIFOTYPE), b"")),
    "twice": tar_with((named("a"), b"1"), (named("./a"), b"2")),
    "file and directory": tar_with((named("a"), b"1"), (named("a/b"), b"2")),
    "directory and file": tar_with((named("a/b"), b"1"), (named("a"), b"2")),
    "no name": tar_with((named("."), b"x")),
    "backslash": tar_with((named("..\\evil"), b"x")),
    "newline": tar_with((named("a\nb"), b"x")),
    "white-out": tar_with((named(".wh.a"), b"")),
    "not UTF-8": tar_with((named("a\udcff"), b"x"), form=tarfile.GNU_FORMAT),
}
REFUSED_ZIP = {
    "parent": zip_with(("../evil", b"x")),
    "absolute": zip_with(("/evil", b"x")),
    "symbolic link": zip_with((zip_mode("x", stat.S_IFLNK | 0o777), b"/etc/passwd")),
    "device": zip_with((zip_mode("x", stat.S_IFCHR | 0o777), b"")),
    "file and directory": zip_with(("a", b"1"), ("a/b", b"2")),
    "bzip2": zip_with(("a", b"1"), compression=zipfile.ZIP_BZIP2),
}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        *((f"{key}.tar", body) for key, body in REFUSED.items()),
        *((f"{key}.zip", body) for key, body in REFUSED_ZIP.items()),
    ],
)
def test_only_plain_files_at_safe_paths_are_unpacked(name: str, body: bytes, into: Path) -> None:
    with pytest.raises(SourceRefused) as caught:
        unpacked(body, name, into)
    assert name in caught.value.message
    outside = [path for path in into.parent.parent.rglob("*") if into not in path.parents and path.name == "evil"]
    assert not outside
    assert not [path for path in into.rglob("*") if path.is_symlink()]


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("m.tar", b"no archive at all" * 100),
        ("m.tar.gz", b"\x1f\x8b" + b"rubbish" * 100),
        ("m.tar.gz", gzip.compress(plain_tar())[:-20]),
        ("m.tar", tar_with((named("a"), b"x" * 5000))[:2000]),
        ("m.tar", long_names(2000)),
        ("m.zip", b"PK\x03\x04 rubbish"),
        ("m.zip", zip_with(*FILES.items())[:-30]),
        ("m.zip", b""),
    ],
)
def test_an_invalid_archive_is_reported(name: str, body: bytes, into: Path) -> None:
    with pytest.raises(LoadFailed, match="is not a usable archive"):
        unpacked(body, name, into)


# A directory, and three files, one of them empty: headers at 0, 512, 1536 and 2560, the end at 3072.
TAR_MEMBERS, TAR_END = (0, 512, 1536, 2560), 3072


def damaged(body: bytes, at: int) -> bytes:
    return body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :]


@pytest.mark.parametrize("compress", [False, True], ids=["tar", "tar.gz"])
@pytest.mark.parametrize(
    "body",
    [
        *(pytest.param(plain_tar()[:at], id=f"cut before {at}") for at in (*TAR_MEMBERS, TAR_END)),
        *(pytest.param(plain_tar()[: at + 200], id=f"cut within {at}") for at in (*TAR_MEMBERS, TAR_END)),
        *(pytest.param(damaged(plain_tar(), at + 150), id=f"damaged at {at}") for at in TAR_MEMBERS),
        pytest.param(damaged(plain_tar(), TAR_END), id="damaged at its end"),
        pytest.param(plain_tar()[:1536] + bytes(512) + plain_tar()[2048:], id="a hole"),
        pytest.param(plain_tar()[:TAR_END] + b"U" * 5120, id="rubbish for its end"),
        pytest.param(plain_tar() + plain_tar(), id="two, one behind the other"),
    ],
)
def test_a_truncated_tar_is_reported(body: bytes, compress: bool, into: Path) -> None:
    with pytest.raises(LoadFailed, match="is not a usable archive"):
        unpacked(gzip.compress(body) if compress else body, "m.tar", into)


def test_one_block_of_zeros_ends_a_tar(into: Path) -> None:
    assert unpacked(plain_tar()[: TAR_END + 512], "m.tar", into) == FILES


def test_a_member_of_a_zip_without_a_name_is_refused(into: Path) -> None:
    # A name ends at a zero byte.
    body = zip_with(("name", b"x")).replace(b"name", b"\0ame")
    with pytest.raises(SourceRefused, match="holds a file without a name"):
        unpacked(body, "m.zip", into)


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
def test_the_size_limit_counts_what_is_written(form: str, into: Path) -> None:
    body = b"\0" * 300_000
    made = zip_with(("a", body)) if form == "zip" else tar_with((named("a"), body))
    with pytest.raises(ModelTooLarge, match="more than the size limit"):
        unpacked(gzip.compress(made) if form == "tar.gz" else made, f"m.{form}", into, 200_000)


@pytest.mark.parametrize("form", ["tar.gz", "zip"])
def test_a_bomb_is_stopped_by_its_ratio(form: str, into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "UNLIMITED_RATIO_BYTES", 1000)
    monkeypatch.setattr(archive, "MAX_FILES", 100)
    body = b"\0" * 3_000_000
    made = zip_with(("a", body)) if form == "zip" else gzip.compress(tar_with((named("a"), body)))
    with pytest.raises(ModelTooLarge, match="200 times its size"):
        unpacked(made, f"m.{form}", into)
    assert sum(path.stat().st_size for path in into.parent.rglob("*") if path.is_file()) < 2_000_000


def test_members_and_depth_are_bounded(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILES", 3)
    with pytest.raises(ModelTooLarge, match="more than 3 members"):
        unpacked(tar_with(*((named(f"d{number}", tarfile.DIRTYPE), b"") for number in range(4))), "m.tar", into)
    with pytest.raises(ModelTooLarge, match="deeper than"):
        unpacked(tar_with((named("a/" * 40 + "x"), b"")), "deep.tar", into)


def test_a_huge_header_is_not_read_into_memory(into: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "_MAX_READ_BYTES", 2 * 1024 * 1024)
    with pytest.raises(SourceRefused, match="has a header of more than"):
        unpacked(tar_with((named("x" * 3_000_000), b""), form=tarfile.GNU_FORMAT), "m.tar", into)


def test_a_lying_size_in_a_zip_is_noticed(into: Path) -> None:
    body = zip_with(("a", b"x" * 1000), compression=zipfile.ZIP_STORED)
    lying = body.replace((1000).to_bytes(4, "little") * 2, (10).to_bytes(4, "little") * 2)
    assert lying != body
    with pytest.raises(LoadFailed, match="is not a usable archive"):
        unpacked(lying, "m.zip", into)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("m.tar", True),
        ("m.tar.gz", True),
        ("m.tgz", True),
        ("m.zip", True),
        ("m.pt2", False),
        ("m.pt", False),
        ("tar", False),
    ],
)
def test_an_archive_is_recognised_by_its_name(name: str, expected: bool) -> None:
    assert is_archive(name) is expected


@given(st.text(st.characters(codec="utf-8"), max_size=30).map(lambda text: text.replace("x", "../").replace("y", "/")))
def test_no_name_leads_out(name: str) -> None:
    try:
        plain = check_member_name(name, "a.tar")
    except StartError:
        return
    assert not plain.startswith("/")
    assert not {"", ".", ".."} & ({*plain.split("/")} if plain else set())
