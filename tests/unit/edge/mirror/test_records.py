"""Datagrams of HAProxy: their parsing, and requests that cannot be repeated."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror_datagrams import datagram
from sundog_edge.mirror.records import MirroredAnswer, MirrorRecord, parse_record


def test_a_record_is_parsed() -> None:
    record = parse_record(datagram())
    assert record == MirrorRecord(
        "b1-7",
        "digits/att/3",
        "",
        1700000000002500,
        2500,
        record.request,
        MirroredAnswer("application/json", None, b"[1]"),
    )
    assert record.request == ("r-1", "/v2/infer?a=%22", "application/json", "", 'x "y]', b"{}")


@given(body=st.binary(max_size=12_000), answer=st.binary(max_size=12_000))
def test_bodies_are_decoded_unchanged(body: bytes, answer: bytes) -> None:
    record = parse_record(datagram(body=body, size=str(len(body)), answer=answer, answer_size=str(len(answer))))
    assert (record.skip, record.request.body, record.answer.body) == ("", body, answer)


@pytest.mark.parametrize(
    ("changes", "skip"),
    [
        ({"skip": "grpc"}, "grpc"),
        ({"status": "404"}, "failed"),
        ({"termination": "SD"}, "failed"),
        ({"outcome": "invalid"}, "failed"),
        ({"size": "3"}, "size"),
        ({"answer_size": "9"}, "size"),
    ],
    ids=str,
)
def test_a_record_that_cannot_be_repeated_has_the_reason(changes: dict[str, str], skip: str) -> None:
    assert parse_record(datagram(**changes)).skip == skip


@pytest.mark.parametrize(
    "damaged",
    [b"", b"<133>1 - -", datagram()[:80], datagram(key=" a b"), datagram(received="-"), datagram(body="***")],
    ids=lambda each: str(each[:30]),
)
def test_invalid_records_are_refused(damaged: bytes) -> None:
    with pytest.raises(ValueError, match=r"record|literal|base64"):
        parse_record(damaged)
