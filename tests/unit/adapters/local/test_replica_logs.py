"""Logs of replicas: their owner, new lines, and the last exception of a model."""

import os
from pathlib import Path

import orjson
import pytest

from sundog_operator.adapters.local.object_directories import ObjectDirectories
from sundog_operator.adapters.local.replica_logs import ReplicaLogReader, find_last_exception, find_logs
from sundog_operator.ports import RAY_CLUSTER, Ref

DIGITS = {"metadata": {"name": "digits", "namespace": "vision", "creationTimestamp": "1970-01-01T00:00:00Z"}}


def log(state: Path, name: str, *lines: str, at: int = 0, namespace: str = "vision") -> Path:
    base = state / "ray"
    base.mkdir(exist_ok=True)
    directory = ObjectDirectories(base, RAY_CLUSTER).get_or_create(Ref(RAY_CLUSTER, namespace, "ray")).directory
    path = directory / "session_latest" / "logs" / "serve" / f"replica_{name}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    os.utime(path, (at, at))
    return path


def raised(time: str, exception: str) -> str:
    return orjson.dumps({"time": time, "message": "the model raised", "exception": exception}).decode()


def test_logs_are_found_by_service_and_revision_in_the_order_of_their_last_lines(tmp_path: Path) -> None:
    log(tmp_path, "digits-r1_Model_aaa", at=2)
    log(tmp_path, "digits-r2_Model_bbb", at=1)
    log(tmp_path, "digits-r12_Model_ccc", at=3)
    log(tmp_path, "digits-r1-r1_Model_ddd")
    log(tmp_path, "other-r1_Model_eee")
    assert [file.label for file in find_logs(tmp_path, DIGITS)] == ["r2 bbb", "r1 aaa", "r12 ccc"]
    assert [file.label for file in find_logs(tmp_path, DIGITS, 1)] == ["r1 aaa"]
    assert find_logs(tmp_path / "nowhere", DIGITS) == []


def test_logs_of_another_namespace_or_a_deleted_namesake_are_left_out(tmp_path: Path) -> None:
    log(tmp_path, "digits-r1_Model_aaa", at=99)
    log(tmp_path, "digits-r1_Model_bbb", at=100)
    log(tmp_path, "digits-r1_Model_ccc", at=100, namespace="text")
    again = {"metadata": {**DIGITS["metadata"], "creationTimestamp": "1970-01-01T00:01:40Z"}}
    assert [file.replica for file in find_logs(tmp_path, again)] == ["bbb"]


@pytest.mark.parametrize(("lines", "expected"), [(2, ["two", "three"]), (9, ["one", "two", "three"]), (0, [])])
def test_a_reader_begins_with_the_last_lines_and_goes_on(tmp_path: Path, lines: int, expected: list[str]) -> None:
    path = log(tmp_path, "digits-r1_Model_aaa", "one", "two", "three")
    reader = ReplicaLogReader(path)
    assert reader.last(lines) == expected
    assert reader.more() == []
    with path.open("a") as file:
        file.write("four\nfi")
    assert reader.more() == ["four"]
    with path.open("a") as file:
        file.write("ve\n")
    assert reader.more() == ["five"]
    path.write_text("anew\n")
    assert reader.more() == ["anew"]
    path.unlink()
    assert reader.more() == []


def test_incomplete_lines_of_a_large_file_are_skipped(tmp_path: Path) -> None:
    path = log(tmp_path, "digits-r1_Model_aaa", *(f"{number} {'x' * 1000}" for number in range(2000)))
    tail = ReplicaLogReader(path).last(5000)
    assert tail[-1].startswith("1999 ")
    assert len(tail) < 2000
    assert all(len(line.partition(" ")[2]) == 1000 for line in tail)


def test_an_exception_that_the_model_caught_and_logged_is_none_that_it_raised(tmp_path: Path) -> None:
    caught = {"time": "2026-11-29T05:00:02", "logger": "mymodel", "exception": "ValueError: caught"}
    log(
        tmp_path,
        "digits-r2_Model_aaa",
        raised("2026-11-29T05:00:01", "ValueError: raised"),
        orjson.dumps(caught).decode(),
    )
    assert find_last_exception(tmp_path, DIGITS, 2) == "2026-11-29T05:00:01 ValueError: raised"


def test_the_newest_exception_of_a_revision_is_its_last_line(tmp_path: Path) -> None:
    trace = "Traceback (most recent call last):\n  File\nValueError: "
    log(tmp_path, "digits-r2_Model_aaa", "INFO plain", raised("2026-11-29T05:00:02", trace + "second"), at=1)
    log(tmp_path, "digits-r2_Model_bbb", raised("2026-11-29T05:00:01", trace + "first"), '{"exception": 1', at=2)
    log(tmp_path, "digits-r1_Model_ccc", raised("2026-11-29T05:00:03", trace + "of another"))
    assert find_last_exception(tmp_path, DIGITS, 2) == "2026-11-29T05:00:02 ValueError: second"
    assert find_last_exception(tmp_path, DIGITS, 3) == ""
