"""The operator's arguments are parsed as a whole, or refused by field."""

from pathlib import Path
from typing import Any

import pytest

from sundog_runtime.arguments import ReplicaSettings, parse_arguments, parse_settings
from sundog_runtime.errors import LoadFailed


def test_the_contract_s_example(args: Any) -> None:
    parsed = parse_arguments(args(Path("/models/digits/v2"), config={"hidden": 4}) | {"somethingNew": 1})
    assert parsed.model.uri == "file:///models/digits/v2"
    assert parsed.model.config == {"hidden": 4}
    assert parsed.warmup.timeout_seconds == 60.0
    assert parsed.revision_hash == "5f0c"


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_another_version_is_named(args: Any, version: Any) -> None:
    with pytest.raises(LoadFailed, match="version"):
        parse_arguments(args(Path("/m")) | {"version": version})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {}}, "args.model.uri: field required"),
        ({"model": {"uri": "file:///m", "digest": "md5:1"}}, "args.model.digest"),
        ({"model": {"uri": "file:///m", "format": "onnx"}}, "args.model.format"),
        ({"cpu": 0}, "args.cpu"),
        ({"cpu": float("nan")}, "args.cpu"),
        ({"revision": "8"}, "args.revision"),
        ({"batching": {"maxSize": 4097}}, "args.batching.maxSize"),
        ({"warmup": {"timeoutSeconds": 0}}, "args.warmup.timeoutSeconds"),
        ({"service": ""}, "args.service"),
    ],
)
def test_a_wrong_field_is_named(args: Any, change: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadFailed) as caught:
        parse_arguments(args(Path("/m")) | change)
    assert message in caught.value.message


@pytest.mark.parametrize("value", [None, [], "x", 1])
def test_no_object_at_all(value: Any) -> None:
    with pytest.raises(LoadFailed, match="args"):
        parse_arguments(value)


def test_values_are_not_repeated(args: Any) -> None:
    with pytest.raises(LoadFailed) as caught:
        parse_arguments(args(Path("/m"), config="hunter2"))
    assert "hunter2" not in str(caught.value)


def test_settings() -> None:
    assert parse_settings(None) == ReplicaSettings()
    assert parse_settings({"userConfig": {"a": 1}, "maxRequestBytes": 5}).max_request_bytes == 5
    for wrong in ({"maxRequestBytes": 0}, {"maxRequestBytes": "1"}, {"userConfig": []}, []):
        with pytest.raises(LoadFailed, match="user_config"):
            parse_settings(wrong)
