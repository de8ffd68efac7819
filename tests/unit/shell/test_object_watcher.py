"""The operator watches only the objects that its default permissions cover."""

import logging
from typing import Any, cast

import pytest

from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.metrics import OperatorMetrics
from sundog_operator.api.installation import Installation
from sundog_operator.errors import DependencyError, Forbidden, NotServed
from sundog_operator.ports import CONFIG_MAP, HTTP_ROUTE, RAY_CLUSTER, SECRET, Kind, Snapshot
from sundog_operator.shell.object_watcher import ObjectWatcher
from sundog_operator.shell.operator import RESYNC_S


class Client:
    """An API server without objects. With `lacks` it does not serve HTTPRoutes."""

    changes = 0

    def __init__(self, lacks: DependencyError | None = None) -> None:
        self.lacks = lacks

    async def login(self) -> Any:
        raise AssertionError("nobody runs the watches here")

    async def snapshot(self, kind: Kind, *_: Any) -> Snapshot:
        if kind == HTTP_ROUTE and self.lacks:
            raise self.lacks
        if kind == CONFIG_MAP and self.changes:
            meta = {"name": "a", "namespace": "vision", "uid": "u", "resourceVersion": str(self.changes)}
            labels = {"app.kubernetes.io/part-of": "sundog"}
            config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {**meta, "labels": labels}}
            return Snapshot([config_map], str(self.changes))
        return Snapshot([], "1")


def watching_of(client: Client, installation: Installation) -> ObjectWatcher:
    return ObjectWatcher(cast("KubernetesClient", client), installation, OperatorMetrics(1, "me"), RESYNC_S)


@pytest.mark.parametrize("watch_secrets", [False, True])
def test_secrets_are_watched_only_where_the_installation_says_so(watch_secrets: bool) -> None:
    watching = watching_of(Client(), Installation(watch_secrets=watch_secrets))
    kinds = [each.kind for each in watching.watched()]
    assert (SECRET in kinds) is watch_secrets
    assert len(kinds) == len(set(kinds)) >= 7


@pytest.mark.parametrize("lacks", [NotServed("no httproutes"), Forbidden("may not list httproutes")])
async def test_a_kind_that_the_cluster_lacks_is_not_watched_and_not_waited_for(
    lacks: DependencyError, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sundog.operator")
    client = Client(lacks)
    watching = watching_of(client, Installation())
    for _ in range(3):
        await watching.list_all()
    assert watching.kube.ready
    assert HTTP_ROUTE not in {each.kind for each in watching.watched()}
    assert [record.levelname for record in caplog.records] == ["INFO"], "logged once, and no warning"
    assert not watching.kopf._restart.is_set()

    client.lacks = None
    await watching.list_all()
    assert watching.kube.synced(HTTP_ROUTE)
    assert HTTP_ROUTE in {each.kind for each in watching.watched()}
    assert watching.kopf._restart.is_set(), "the watches begin anew, with it"


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
    assert warnings == ["API server does not serve rayclusters of ray.io/v1; is it installed? no rayclusters"]


async def test_a_kind_that_may_not_be_listed_is_waited_for() -> None:
    class Forbidding(Client):
        async def snapshot(self, kind: Kind, *_: Any) -> Snapshot:
            raise Forbidden(f"may not list {kind.plural}")

    watching = watching_of(Forbidding(), Installation())
    with pytest.raises(Forbidden):
        await watching.list_all()
    assert not watching.kube.ready


async def test_a_leader_that_may_not_list_a_kind_backs_off_and_reports_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Forbidding(Client):
        lists = 0

        async def snapshot(self, kind: Kind, *_: Any) -> Snapshot:
            self.lists += kind == RAY_CLUSTER
            if kind == RAY_CLUSTER and self.lists < 10:
                raise Forbidden("may not list rayclusters")
            return await super().snapshot(kind)

    waited: list[float] = []

    async def wait(seconds: float) -> None:
        waited.append(seconds)

    await watching_of(Forbidding(), Installation()).list_until_complete(wait)
    assert waited == [2, 4, 8, 16, 32, 64, 120, 120, 120]
    expected = (
        "leading, but reconciling nothing until every kind can be listed; retry in 120 s: may not list rayclusters"
    )
    assert caplog.messages[-1] == expected


async def test_a_deleted_namespace_is_shown_once_and_not_waited_for(
    caplog: pytest.LogCaptureFixture,
) -> None:
    closed = {"audio"}

    class Forbidding(Client):
        async def snapshot(self, kind: Kind, namespace: str | None = None, *_: Any) -> Snapshot:
            if namespace in closed:
                raise Forbidden(f"may not list {kind.plural}")
            return await super().snapshot(kind)

    watching = watching_of(Forbidding(), Installation(watch_namespaces=("audio", "vision")))
    for _ in range(3):
        await watching.list_all()
    assert watching.kube.ready
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ["no permission to read namespace audio, or it was deleted; still watching the others"]
    assert watching.kopf.namespaces() == ["vision"]
    assert watching.kopf._restart.is_set(), "the watches begin anew, without it"

    watching.kopf._restart.clear()
    closed.clear()
    await watching.list_all()
    assert watching.kopf.namespaces() == ["audio", "vision"]
    assert watching.kopf._restart.is_set()


async def test_a_watch_that_shows_nothing_of_changes_begins_anew_and_then_the_process_does() -> None:
    client = Client()
    watching = watching_of(client, Installation())
    await watching.list_all()

    async def listed_after_a_change() -> tuple[bool, str]:
        """Return whether the watches restart, and the problem in /healthz."""
        client.changes += 10
        watching.kopf._restart.clear()
        await watching.list_all()
        return watching.kopf._restart.is_set(), watching.stale_watches.problem()

    assert await listed_after_a_change() == (False, ""), "a list may be a moment ahead"
    assert await listed_after_a_change() == (True, "")
    assert await listed_after_a_change() == (False, "")
    broken = "stale watches: configmaps; lists find changes that they do not deliver"
    assert await listed_after_a_change() == (False, broken)
    assert await listed_after_a_change() == (False, broken)
    meta = {"name": "a", "namespace": "vision", "uid": "u", "resourceVersion": str(client.changes + 1)}
    watching._on_watch_event(CONFIG_MAP, "MODIFIED", {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
    assert watching.stale_watches.problem() == "", "it tells again"


async def test_a_watch_of_what_does_not_change_may_be_silent() -> None:
    client = Client()
    watching = watching_of(client, Installation())
    await watching.list_all()
    for _ in range(6):
        client.changes += 10
        await watching.list_all()
        await watching.list_all()
    assert not watching.kopf._restart.is_set()
    assert watching.stale_watches.problem() == ""


async def test_a_list_of_a_watch_that_begins_is_no_word_of_a_change() -> None:
    client = Client()
    watching = watching_of(client, Installation())
    await watching.list_all()
    for _ in range(4):
        client.changes += 10
        await watching.list_all()
        meta = {"name": "a", "namespace": "vision", "uid": "u", "resourceVersion": str(client.changes)}
        watching._on_watch_event(CONFIG_MAP, None, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
    assert watching.stale_watches.problem() != ""
