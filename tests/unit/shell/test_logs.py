"""`sundog logs` in local mode and in a cluster, and the exceptions that `describe` shows."""

import asyncio
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from doubles.cluster import NAMESPACE
from doubles.kuberay import create_with_status
from sundog_operator.adapters.kubernetes_client import KubernetesClient
from sundog_operator.adapters.local.object_directories import ObjectDirectories
from sundog_operator.core.kubernetes import names
from sundog_operator.core.ray import groups
from sundog_operator.errors import DependencyError, Forbidden
from sundog_operator.ports import MODEL_DEPLOYMENT, POD, RAY_CLUSTER, Object, Ref, ref_of
from sundog_operator.shell.exit_codes import ExitCode
from sundog_operator.shell.verbs import logs as logs_module
from waiting import PATIENCE_S

AFTER_THE_START_OF_THE_CLOCK = datetime(2026, 11, 26, tzinfo=UTC).timestamp()


@pytest.fixture
def replicas(local_state: Path) -> Path:
    """Write logs of two revisions."""
    base = local_state / "ray"
    base.mkdir(exist_ok=True)
    entry = ObjectDirectories(base, RAY_CLUSTER).get_or_create(Ref(RAY_CLUSTER, NAMESPACE, "ray"))
    folder = entry.directory / "session_latest" / "logs" / "serve"
    folder.mkdir(parents=True)
    raised = {"time": "2026-11-29T05:00:00", "exception": "Called from …\nValueError: wrong"}
    (folder / "replica_digits-r1_Model_aaa.log").write_text("one\ntwo\n")
    (folder / "replica_digits-r2_Model_bbb.log").write_bytes(b"three\n" + orjson.dumps(raised) + b"\n")
    for path in folder.iterdir():
        os.utime(path, (AFTER_THE_START_OF_THE_CLOCK, AFTER_THE_START_OF_THE_CLOCK))
    return folder


def test_lines_show_their_source(local: Any, manifest: Any, replicas: Path) -> None:
    local("apply", "-f", str(manifest()))
    assert local("logs", "digits", "--tail", "1", "--revision", "1").out == "r1 aaa | two\n"
    assert {line.partition(" | ")[0] for line in local("logs", "digits").out.splitlines()} == {"r1 aaa", "r2 bbb"}
    done = local("logs", "digits", "--revision", "3")
    assert (done.code, done.out) == (ExitCode.NOT_FOUND, "")
    assert done.err.startswith("error: no replica of revision 3 of digits has written a log. `sundog describe digits`")
    assert local("logs", "nothing").code == ExitCode.NOT_FOUND


def test_a_traceback_is_printed_line_by_line(local: Any, manifest: Any, replicas: Path) -> None:
    local("apply", "-f", str(manifest()))
    assert local("logs", "mdep/digits", "--revision", "2").out.splitlines() == [
        "r2 bbb | three",
        'r2 bbb | {"time":"2026-11-29T05:00:00"}',
        "r2 bbb | Called from …",
        "r2 bbb | ValueError: wrong",
    ]


def test_describe_shows_what_the_candidate_raised(local: Any, server: Any, manifest: Any, replicas: Path) -> None:
    local("apply", "-f", str(manifest()))
    server.serve_revision(1)
    local("apply", "-f", str(manifest("file:///models/v2")))
    server.until(lambda cluster: cluster.at_weight(2, 25), "25 %")
    output = local("describe", "digits").out
    assert "revision 2: 2026-11-29T05:00:00 ValueError: wrong" in output
    assert "sundog logs digits --revision 2" in output


def test_in_a_cluster_each_running_pod_is_asked(
    on_server: Any, server: Any, manifest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_server("apply", "-f", str(manifest()))

    async def pods(cluster: Any) -> None:
        for name, phase in (("w1", "Running"), ("w2", "Pending")):
            labels = {names.LABEL_MODEL_DEPLOYMENT: "digits", names.LABEL_REVISION: "1"}
            meta = {"name": name, "namespace": NAMESPACE, "labels": labels}
            made: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": []}}
            stored = await cluster.kube.create(made)
            version = stored["metadata"]["resourceVersion"]
            await cluster.kube.patch_status(ref_of(made), {"phase": phase}, resource_version=version)

    server.do(pods)
    asked: list[tuple[str, str, str]] = []

    async def output_of(_self: Any, pod: Ref, container: str, command: Any) -> Any:
        asked.append((pod.name, container, command[-1]))
        for chunk in (b"on", b"e\ntwo\nthr", b"ee"):
            yield chunk

    monkeypatch.setattr(KubernetesClient, "output_of", output_of)
    assert on_server("logs", "digits", "--tail", "7").out == "r1 w1 | one\nr1 w1 | two\nr1 w1 | three\n"
    files = "/tmp/ray/session_latest/logs/serve/replica_digits-r1_*.log"
    command = f'set -- {files}; [ ! -e "$1" ] || tail -q -n 7 "$@" 2>/dev/null'
    assert asked == [("w1", "ray-worker", command)]
    assert on_server("logs", "digits", "--revision", "2").code == ExitCode.NOT_FOUND


def _create_pod(server: Any, name: str) -> None:
    labels = {names.LABEL_MODEL_DEPLOYMENT: "digits", names.LABEL_REVISION: "1"}
    meta = {"name": name, "namespace": NAMESPACE, "labels": labels}
    made: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": []}}
    server.do(lambda cluster: create_with_status(cluster.kube, POD, made, {"phase": "Running"}))


def test_a_pod_that_ends_keeps_no_lines_of_others_back(
    on_server: Any, server: Any, manifest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_server("apply", "-f", str(manifest()))
    ended = {"w1"}
    for name in ("w1", "w2"):
        _create_pod(server, name)

    async def output_of(_self: Any, pod: Ref, *_: Any) -> Any:
        if pod.name in ended:
            raise DependencyError(f"{pod.name}: it ended")
        yield b"one"

    monkeypatch.setattr(KubernetesClient, "output_of", output_of)
    done = on_server("logs", "digits")
    assert (done.code, done.out, done.err) == (0, "r1 w2 | one\n", "error: w1: it ended\n")
    ended.add("w2")
    assert on_server("logs", "digits").code == ExitCode.UNREACHABLE


def test_new_replicas_are_followed_and_broken_streams_resumed(
    on_server: Any, server: Any, manifest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_server("apply", "-f", str(manifest()))
    _create_pod(server, "w1")
    tails: list[str] = []

    async def output_of(_self: Any, pod: Ref, _container: str, command: Any) -> Any:
        tails.append(f"{pod.name} {command[-1].partition('tail -q ')[2].partition(' -F')[0]}")
        yield b"a line\n"
        if pod.name == "w2":
            raise Forbidden("enough")
        if len(tails) == 2:
            _create_pod(server, "w2")
            server.do(lambda cluster: cluster.kube.delete(Ref(POD, NAMESPACE, "w1")))
        raise DependencyError("w1: the stream broke")

    monkeypatch.setattr(KubernetesClient, "output_of", output_of)
    monkeypatch.setattr(logs_module, "_LIST_S", 0.0)
    done = on_server("logs", "digits", "-f", "--tail", "7")
    assert (done.code, tails) == (ExitCode.REFUSED, ["w1 -n 7", "w1 -n 0", "w2 -n 7"])
    assert done.out == "r1 w1 | a line\nr1 w1 | a line\nr1 w2 | a line\n"
    assert done.err == "error: w1: the stream broke\n" * 2 + "error: enough\n"


def test_streams_go_on_while_the_api_server_does_not_answer_and_end_with_the_model(
    on_server: Any, server: Any, manifest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_server("apply", "-f", str(manifest()))
    _create_pod(server, "w1")
    asked = threading.Event()

    def be_away(called: str, _: Ref) -> Exception | None:
        asked.set()
        return DependencyError("away") if called == "get" else None

    async def output_of(*_: Any) -> Any:
        yield b"one\n"
        server.cluster.kube.faults = be_away
        await asyncio.to_thread(asked.wait, PATIENCE_S)
        yield b"two\n"
        server.cluster.kube.faults = lambda *_: None
        server.do(lambda cluster: cluster.kube.delete(Ref(MODEL_DEPLOYMENT, NAMESPACE, "digits")))
        await asyncio.Event().wait()

    monkeypatch.setattr(KubernetesClient, "output_of", output_of)
    monkeypatch.setattr(logs_module, "_LIST_S", 0.0)
    done = on_server("logs", "digits", "-f")
    assert (done.code, done.out) == (ExitCode.NOT_FOUND, "r1 w1 | one\nr1 w1 | two\n")
    assert "away" in done.err
    assert done.err.endswith("error: ModelDeployment vision/digits was deleted\n")


def test_a_shared_model_has_logs_and_waiting_pods_in_those_of_its_raycluster_alone(
    on_server: Any, server: Any, manifest: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_server("apply", "-f", str(manifest(runtime={"placement": "shared"})))
    server.serve_revision(1)
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}

    async def pods(cluster: Any) -> None:
        own = (await cluster.status())["cluster"]
        for name, ray in (("own", own), ("foreign", "another")):
            for suffix, status in (("", {"phase": "Running"}), ("-waits", {"conditions": [unplaced]})):
                meta = {"name": name + suffix, "namespace": NAMESPACE, "labels": groups.shared_pod_labels(ray)}
                made: Object = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": {"containers": []}}
                await create_with_status(cluster.kube, POD, made, status)

    server.do(pods)
    asked: list[str] = []

    async def output_of(_self: Any, pod: Ref, *_: Any) -> Any:
        asked.append(pod.name)
        yield b"one"

    monkeypatch.setattr(KubernetesClient, "output_of", output_of)
    assert on_server("logs", "digits").out == "r1 own | one\n"
    assert asked == ["own"]
    (waiting,) = on_server("describe", "digits", "-o", "json").json["waitingPods"]
    assert "1 pod without a node" in waiting
