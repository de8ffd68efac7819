"""Experiments of users on the ModelDeployment `digits`, in a cluster in memory."""

import functools
from typing import Any

from doubles.cluster import NAME, NAMESPACE, Cluster
from doubles.traffic import Answers, Users
from sundog_operator.ports import Object

FINE = Answers(errors=0.01)
WIDE = "wide-or-narrow"
Json = dict[str, Any]


def named_arms(*names: str) -> list[Json]:
    """Return arms with these names, each with a model of that name."""
    return [{"name": name, "model": {"uri": f"file:///models/{name}"}} for name in names]


def user_experiment(name: str = WIDE, arms: list[Json] | None = None, **spec: Any) -> Object:
    """Return an Experiment; without `arms` it has one arm `wide`, and without `exposure` its arms get 40 %."""
    return {
        "apiVersion": "serving.sundog.dev/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "modelDeployment": NAME,
            "arms": arms or [{"name": "wide", "model": {"uri": "file:///models/v2"}}],
            "exposure": "40%",
            **spec,
        },
    }


async def serving(rps: float = 50, users: Users | None = None, **spec: Any) -> Cluster:
    """Revision 1 has served for some minutes."""
    cluster = Cluster()
    cluster.set_traffic(rps, *[FINE] * 11, users=users)
    await cluster.deploy(**spec)
    await cluster.settle(12, seconds=10)
    return cluster


async def running(manifest: Object | None = None, rps: float = 50, **spec: Any) -> Cluster:
    """An Experiment runs; `spec` is that of the ModelDeployment."""
    cluster = await serving(rps, **spec)
    await cluster.kube.apply(manifest or user_experiment())
    await until_phase(cluster, "Running", (manifest or user_experiment())["metadata"]["name"])
    return cluster


async def status(cluster: Cluster, name: str = WIDE) -> Json:
    found: Json = (await cluster.experiment(name)).get("status") or {}
    return found


async def in_phase(cluster: Cluster, wanted: str, name: str = WIDE) -> bool:
    return (await status(cluster, name)).get("phase") == wanted


async def until_phase(cluster: Cluster, wanted: str, name: str = WIDE) -> None:
    await cluster.until(functools.partial(in_phase, cluster, wanted, name))


async def counts(cluster: Cluster, name: str = WIDE) -> bool:
    """Return whether the edges count evidence."""
    return bool((await status(cluster, name)).get("evidenceEpochs"))


def condition(status: Json, type_: str) -> tuple[str, str]:
    """Return status and reason of an Experiment's condition."""
    found = [(each["status"], each["reason"]) for each in status["conditions"] if each["type"] == type_]
    return found[0] if found else ("Absent", "")


def message(status: Json, type_: str) -> str:
    return next(str(each["message"]) for each in status["conditions"] if each["type"] == type_)


def verdict(status: Json) -> tuple[str, str, str]:
    """Return phase, decision and winner."""
    return status["phase"], status["verdict"]["decision"], status["verdict"]["winner"]
