from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from doubles.clock import FakeClock
from sundog_operator.ports import CONFIG_MAP, MODEL_DEPLOYMENT, Kind, Object


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(datetime(2026, 3, 1, 12, tzinfo=UTC))


def _thing(kind: Kind, name: str, **rest: Any) -> Object:
    metadata = {"name": name, "namespace": "vision"} | rest.pop("metadata", {})
    return {"apiVersion": kind.api_version, "kind": kind.kind, "metadata": metadata} | rest


@pytest.fixture
def thing() -> Callable[..., Object]:
    return _thing


@pytest.fixture
def mdep() -> Callable[..., Object]:
    def make(name: str = "digits", metadata: Object | None = None, **spec: Any) -> Object:
        return _thing(MODEL_DEPLOYMENT, name, metadata=metadata or {}, spec={"model": {"uri": "s3://m"}} | spec)

    return make


@pytest.fixture
def config_map() -> Callable[..., Object]:
    def make(name: str, *owners: Object, **data: str) -> Object:
        references = [
            {"apiVersion": owner["apiVersion"], "kind": owner["kind"]}
            | {key: owner["metadata"][key] for key in ("name", "uid")}
            for owner in owners
        ]
        return _thing(CONFIG_MAP, name, metadata={"ownerReferences": references}, data=data)

    return make
