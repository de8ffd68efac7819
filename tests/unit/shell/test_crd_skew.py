"""Comparison of the cluster's CRDs with the operator's at its start."""

import copy
import logging
from collections.abc import Mapping
from typing import Any

import pytest

from sundog_operator.api.resource import API_VERSION
from sundog_operator.api.schema.crds import CRD_DEFINITIONS, root_schema
from sundog_operator.errors import NotServed
from sundog_operator.shell.crd_skew import log_crd_skew

Schemas = dict[str, dict[str, Any]]


class Server:
    """An API server that publishes schemas; none while `schemas_by_name` is None."""

    def __init__(self, schemas_by_name: Schemas | None) -> None:
        self._schemas = schemas_by_name

    async def schemas(self, api_version: str) -> Mapping[str, Any]:
        assert api_version == API_VERSION
        if self._schemas is None:
            raise NotServed("/openapi/v3: the API server answered 404 Not Found")
        return self._schemas


@pytest.fixture
def published() -> Schemas:
    """Return the schemas of this release."""
    group, version = API_VERSION.split("/")
    made: Schemas = {"io.k8s.Status": {"type": "object"}}
    for definition in CRD_DEFINITIONS:
        named = {"group": group, "version": version, "kind": definition.kind}
        made[definition.kind] = {**root_schema(definition.resource), "x-kubernetes-group-version-kind": [named]}
    return copy.deepcopy(made)


async def logged_skew(published: Schemas | None, caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, str]]:
    with caplog.at_level(logging.INFO, logger="sundog.operator"):
        await log_crd_skew(Server(published), API_VERSION)
    return [(each.levelname, getattr(each, "reason", ""), each.getMessage()) for each in caplog.records]


async def test_the_crds_of_this_release_cause_no_message(published: Schemas, caplog: pytest.LogCaptureFixture) -> None:
    assert await logged_skew(published, caplog) == []


async def test_nothing_is_shown_where_nothing_is_published(caplog: pytest.LogCaptureFixture) -> None:
    assert await logged_skew(None, caplog) == []


async def test_fields_that_would_be_dropped_are_an_error(published: Schemas, caplog: pytest.LogCaptureFixture) -> None:
    status = published["ModelDeployment"]["properties"]["status"]["properties"]
    del status["startup"], status["retiring"]["items"]["properties"]["since"]
    assert await logged_skew(published, caplog) == [
        (
            "ERROR",
            "CRDOlder",
            "CRD modeldeployments: has no status.retiring[].since, status.startup; expected the CRD of this release. "
            "The API server drops these fields. Apply the CRD of this release",
        )
    ]


async def test_fields_of_a_newer_release_are_a_warning(published: Schemas, caplog: pytest.LogCaptureFixture) -> None:
    properties = published["Experiment"]["properties"]
    properties["status"]["properties"]["forecast"] = {"type": "object", "properties": {"at": {"type": "string"}}}
    properties["spec"]["properties"] |= {f"later{number}": {"type": "string"} for number in range(6)}
    assert await logged_skew(published, caplog) == [
        (
            "WARNING",
            "CRDNewer",
            "CRD experiments: has spec.later0, spec.later1, spec.later2, spec.later3, spec.later4 and 2 more, which this "
            "release does not know; the operator ignores these fields and keeps their values",
        )
    ]
