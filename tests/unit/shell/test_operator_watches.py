"""What the operator asks the API server to be told of: no more than it has rights to by default."""

import logging
from pathlib import Path
from typing import Any, cast

import pytest

from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.metrics import Metrics
from sundog_operator.api.installation import Installation
from sundog_operator.errors import NotServed
from sundog_operator.ports import HTTP_ROUTE, RAY_CLUSTER, SECRET, Kind, Snapshot
from sundog_operator.shell.operator import Options, Watching


class Client:
    """An API server without objects, and without HTTPRoutes while `lacks`."""

    lacks = True

    async def login(self) -> Any:
        raise AssertionError("nobody runs the watches here")

    async def snapshot(self, kind: Kind, *_: Any) -> Snapshot:
        if kind == HTTP_ROUTE and self.lacks:
            raise NotServed("no httproutes")
        return Snapshot([], "1")


def watching_of(client: Client, installation: Installation) -> Watching:
    options = Options(installation, kubeconfig=Path("unused"), namespace="sundog", identity="me", host="", port=0)
    return Watching(cast("KubernetesClient", client), options, Metrics(1, "me"))


@pytest.mark.parametrize("watch_secrets", [False, True])
def test_secrets_are_watched_only_where_the_installation_says_so(watch_secrets: bool) -> None:
    watching = watching_of(Client(), Installation(watch_secrets=watch_secrets))
    kinds = [each.kind for each in watching.watched()]
    assert (SECRET in kinds) is watch_secrets
    assert len(kinds) == len(set(kinds)) >= 7


async def test_a_kind_that_the_cluster_lacks_is_not_watched_and_not_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "sundog.operator")
    client = Client()
    watching = watching_of(client, Installation())
    for _ in range(3):
        await watching.list_all()
    assert watching.kube.ready
    assert HTTP_ROUTE not in {each.kind for each in watching.watched()}
    assert [record.levelname for record in caplog.records] == ["INFO"], "told once, and no warning"
    assert not watching.kopf._round.is_set()

    client.lacks = False
    await watching.list_all()
    assert watching.kube.synced(HTTP_ROUTE)
    assert HTTP_ROUTE in {each.kind for each in watching.watched()}
    assert watching.kopf._round.is_set(), "the watches begin anew, with it"


async def test_any_other_kind_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    class WithoutRay(Client):
        async def snapshot(self, kind: Kind, *_: Any) -> Snapshot:
            if kind == RAY_CLUSTER:
                raise NotServed("no rayclusters")
            return await super().snapshot(kind)

    watching = watching_of(WithoutRay(), Installation())
    for _ in range(3):
        await watching.list_all()
    assert not watching.kube.ready
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["the API server serves no rayclusters of ray.io/v1: is it installed?"]
